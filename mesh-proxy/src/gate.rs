//! Gate: what stands between a client's socket and the HTTP engine.
//!
//! It looks at the bytes the engine has just been given, in place, by [`Framing`], and when they
//! are not what they must be:
//!
//! | where | what the engine sees | what the client sees |
//! |---|---|---|
//! | syntax of a head | the good part, then a NUL, which no head may hold | 400 by the engine, after all earlier answers |
//! | a complete head that must be refused | that head, then the end | the answer of the service, told by [`Watch::refusal`] |
//! | a body | the good part, then an error | 400 by the service if no head was sent, and the end |
//!
//! After `Upgrade` nothing is read until the switch is decided ([`Watch::decide`]): bytes of the
//! new protocol stay in the socket, or here, and never reach an endpoint that has not agreed.
//!
//! It also marks activity and the moment a head must be complete, for the timer of the
//! connection, and lets a client that was refused read its answer before the socket closes.
//! Nothing is copied or allocated for well-formed requests, and no clock is read.

use crate::framing::{Framing, Scanned, Violation};
use bytes::{Buf, Bytes};
use mesh_core::Timestamp;
use mesh_tower::clock;
use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

/// What no HTTP/1 parser lets pass, in any place of a head; the empty line makes a parser look
/// that waits for the end of the head.
const POISON: &[u8] = b"\0\r\n\r\n";

/// Bytes of a refused request that are read and thrown away, so that the client gets to read
/// the answer instead of a reset.
const LINGER_BYTES: usize = 256 * 1024;

/// Longest wait for them.
const LINGER: Duration = Duration::from_secs(1);

/// How often a timer looks within one idle timeout.
pub(crate) const LOOKS: u32 = 5;

/// Requests that a client may reset before they are answered, whatever their share.
const RESETS: u64 = 100;

/// The decision about a requested switch of protocols.
const OPEN: u8 = 0;
const STAY: u8 = 1;
const SWITCH: u8 = 2;

/// What the gate tells the service and the timer of one connection. Times in nanoseconds of
/// [`Timestamp`]; 0 is none.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// How long nothing may move.
    idle: Duration,
    /// Number of the head that must be refused, counted from 1; 0 while there is none.
    refused: AtomicU64,
    why: Mutex<Option<Violation>>,
    /// Something was read or written since the timer last looked.
    active: AtomicBool,
    /// When the connection ends unless more is read first.
    deadline: AtomicU64,
    /// Number of the head that asked for another protocol, until that is decided; 0 for none.
    asked: AtomicU64,
    switch: AtomicU8,
    waiting: Mutex<Option<Waker>>,
    /// Requests that the client reset before they were answered.
    given_up: AtomicU64,
}

impl Watch {
    /// Of a connection that may be idle so long.
    pub(crate) fn new(idle: Duration) -> Self {
        Self { idle, ..Self::default() }
    }

    /// Resolves when nothing has moved for about as long as may be.
    pub(crate) async fn until_idle(&self) {
        let mut quiet = 0;
        while quiet < LOOKS {
            sleep(self.idle / LOOKS).await;
            quiet = if self.take_activity() { 0 } else { quiet + 1 };
        }
    }

    /// Why the head of the given number, counted from 1, must be refused.
    pub(crate) fn refusal(&self, head: u64) -> Option<Violation> {
        if self.refused.load(Relaxed) == head { *self.why.lock() } else { None }
    }

    /// What the client did wrong, if it did.
    pub(crate) fn violation(&self) -> Option<Violation> {
        *self.why.lock()
    }

    /// Says whether the connection switches to the protocol that a head asked for; of a head that
    /// did not ask, it means nothing.
    pub(crate) fn decide(&self, head: u64, switch: bool) {
        if self.asked.load(Relaxed) != head {
            return;
        }
        self.asked.store(0, Relaxed);
        self.switch.store(if switch { SWITCH } else { STAY }, Relaxed);
        if let Some(waker) = self.waiting.lock().take() {
            waker.wake();
        }
    }

    /// The client reset a request before it was answered, after it had begun so many. Each costs an
    /// endpoint an attempt, so one that does so with most of them is sent away.
    pub(crate) fn given_up(&self, begun: u64) {
        let resets = self.given_up.fetch_add(1, Relaxed) + 1;
        if is_flood(resets, begun) {
            self.set_deadline(Some(clock::now()));
        }
    }

    /// Whether the client was sent away for what it reset.
    pub(crate) fn is_flooded(&self) -> bool {
        self.given_up.load(Relaxed) > RESETS
    }

    /// Whether anything moved since the last look.
    pub(crate) fn take_activity(&self) -> bool {
        self.active.swap(false, Relaxed)
    }

    /// When the connection must end unless more is read first.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        match self.deadline.load(Relaxed) {
            0 => None,
            nanos => Some(Timestamp::ZERO + Duration::from_nanos(nanos)),
        }
    }

    fn set_deadline(&self, deadline: Option<Timestamp>) {
        self.deadline.store(deadline.map_or(0, Timestamp::as_nanos), Relaxed);
    }
}

/// Whether so many resets of so many requests are more than a client has reason for. Source: Envoy,
/// premature resets (`overload.premature_reset_total_stream_count`, 500 there): half of the requests.
const fn is_flood(resets: u64, begun: u64) -> bool {
    resets > RESETS && resets.saturating_mul(2) > begun
}

/// What happens to the bytes of the client.
#[derive(Debug)]
enum Mode {
    /// Scanned as HTTP/1.
    Http,
    /// Waiting for the decision about a switch.
    Asked,
    /// Not HTTP/1: passed as they are.
    Open,
    /// The next read fails: the body is broken.
    Broken,
    /// The next read is the end: nothing after the refused head counts.
    Ended,
    /// The connection is over; what still arrives is thrown away.
    Lingering { left: usize },
}

/// See the [module docs](self).
#[derive(Debug)]
pub(crate) struct Gate<IO> {
    io: IO,
    mode: Mode,
    framing: Framing,
    watch: Arc<Watch>,
    head_timeout: Duration,
    /// The deadline for the end of the head is running.
    timed: bool,
    /// Read already, but not yet handed on.
    ahead: Bytes,
}

impl<IO> Gate<IO> {
    /// A gate for HTTP/1. `ahead` was read to find out what the client speaks. A head must be
    /// complete within `head_timeout` after the first read that did not complete it.
    pub(crate) fn http1(io: IO, ahead: Bytes, watch: Arc<Watch>, head_timeout: Duration) -> Self {
        Self::new(io, ahead, watch, head_timeout, Mode::Http)
    }

    /// A gate that only marks activity.
    pub(crate) fn open(io: IO, ahead: Bytes, watch: Arc<Watch>) -> Self {
        Self::new(io, ahead, watch, Duration::ZERO, Mode::Open)
    }

    fn new(io: IO, ahead: Bytes, watch: Arc<Watch>, head_timeout: Duration, mode: Mode) -> Self {
        Self { io, mode, framing: Framing::new(), watch, head_timeout, timed: false, ahead }
    }

    /// Scans what was just put into `buffer` after `before`, and cuts it where it must end.
    fn inspect(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        if fresh.is_empty() {
            return;
        }
        match self.framing.scan(fresh) {
            Scanned::Fine => {}
            Scanned::Ask { at } => {
                self.hold_back(buffer, before + at);
                self.watch.switch.store(OPEN, Relaxed);
                self.watch.asked.store(self.framing.heads(), Relaxed);
                self.mode = Mode::Asked;
            }
            Scanned::BadHead { at, why } => {
                buffer.set_filled(before + at);
                *self.watch.why.lock() = Some(why);
                self.watch.refused.store(self.framing.heads(), Relaxed);
                self.mode = Mode::Ended;
            }
            Scanned::BadSyntax { at, why } => {
                buffer.set_filled(before + at);
                self.refuse(why);
                // Room is only short if the read was tiny; the rest follows in the next one.
                let (now, later) = POISON.split_at(POISON.len().min(buffer.remaining()));
                buffer.put_slice(now);
                self.ahead = Bytes::from_static(later);
                self.mode = Mode::Ended;
            }
            Scanned::BadBody { at, why } => {
                buffer.set_filled(before + at);
                self.refuse(why);
                self.mode = Mode::Broken;
            }
        }
        if self.framing.in_head() != self.timed {
            self.timed = !self.timed;
            self.watch.set_deadline(self.timed.then(|| clock::now() + self.head_timeout));
        }
    }

    fn refuse(&self, why: Violation) {
        *self.watch.why.lock() = Some(why);
    }

    /// Takes the bytes from `at` on out of the buffer and keeps them.
    fn hold_back(&mut self, buffer: &mut ReadBuf<'_>, at: usize) {
        let late = buffer.filled().get(at..).unwrap_or_default();
        if !late.is_empty() {
            let mut held = Vec::with_capacity(late.len() + self.ahead.len());
            held.extend_from_slice(late);
            held.extend_from_slice(&self.ahead);
            self.ahead = held.into();
            buffer.set_filled(at);
        }
    }
}

impl<IO: AsyncRead + Unpin> Gate<IO> {
    /// Fills the buffer from what was read already, else from the socket.
    fn fill(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        } else {
            let count = self.ahead.len().min(buffer.remaining());
            if let Some(bytes) = self.ahead.get(..count) {
                buffer.put_slice(bytes);
            }
            self.ahead.advance(count);
        }
        self.watch.active.store(true, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Gate<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.mode {
                Mode::Http => {
                    let before = buffer.filled().len();
                    ready!(this.fill(cx, buffer))?;
                    this.inspect(buffer, before);
                    if buffer.filled().len() > before || matches!(this.mode, Mode::Http) {
                        return Poll::Ready(Ok(()));
                    }
                }
                Mode::Open => return this.fill(cx, buffer),
                Mode::Asked => {
                    // Registered before the look, so that a decision in between is not missed.
                    *this.watch.waiting.lock() = Some(cx.waker().clone());
                    match this.watch.switch.load(Relaxed) {
                        STAY => this.mode = Mode::Http,
                        SWITCH => this.mode = Mode::Open,
                        _ => return Poll::Pending,
                    }
                }
                Mode::Broken => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the request's body is not framed as it says",
                    )));
                }
                Mode::Ended => {
                    let count = this.ahead.len().min(buffer.remaining());
                    if let Some(bytes) = this.ahead.get(..count) {
                        buffer.put_slice(bytes);
                    }
                    this.ahead.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Mode::Lingering { .. } => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gate<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.watch.active.store(true, Relaxed);
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watch.active.store(true, Relaxed);
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Ends our side; if the client was in the middle of something, reads the rest away first, so
    /// that closing does not reset the connection under the answer.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        let mut left = match this.mode {
            Mode::Lingering { left } => left,
            Mode::Open => return Poll::Ready(Ok(())),
            Mode::Http if this.framing.between_messages() => return Poll::Ready(Ok(())),
            _ => {
                this.watch.set_deadline(Some(clock::now() + LINGER));
                LINGER_BYTES
            }
        };
        let mut scrap = [0; 4096];
        while left > 0 {
            this.mode = Mode::Lingering { left };
            let mut buffer = ReadBuf::new(&mut scrap);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut buffer))?;
            match buffer.filled().len() {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// What the engine reads when the client has sent `input` and closed.
    async fn read_all(input: &[u8]) -> (Vec<u8>, io::Result<usize>, Arc<Watch>) {
        let watch = Arc::new(Watch::default());
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(input).await.unwrap();
        drop(client);
        let mut gate = Gate::http1(server, Bytes::new(), Arc::clone(&watch), TIMEOUT);
        let mut seen = Vec::new();
        let result = gate.read_to_end(&mut seen).await;
        (seen, result, watch)
    }

    #[tokio::test]
    async fn well_formed_bytes_pass_unchanged() {
        let input = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";
        let (seen, result, watch) = read_all(input).await;
        assert_eq!(seen, input);
        assert!(result.is_ok() && watch.violation().is_none() && watch.take_activity());
    }

    #[tokio::test]
    async fn bad_syntax_is_cut_off_and_poisoned() {
        let (seen, result, watch) =
            read_all(b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")
                .await;
        assert_eq!(seen, b"GET / HTTP/1.1\r\n\0\r\n\r\n");
        assert!(result.is_ok());
        assert_eq!(watch.violation(), Some(Violation::BareLf));
        assert_eq!(watch.refusal(1), None, "the engine answers, not the service");
    }

    #[tokio::test]
    async fn a_refused_head_is_the_last() {
        let good = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let bad =
            b"POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX";
        let (seen, _, watch) = read_all(&[&good[..], bad].concat()).await;
        assert!(seen.starts_with(good) && seen.ends_with(b"chunked\r\n\r\n"));
        assert_eq!(watch.refusal(1), None);
        assert_eq!(watch.refusal(2), Some(Violation::BothLengths));
    }

    #[tokio::test]
    async fn a_broken_body_ends_in_an_error() {
        let (seen, result, watch) = read_all(
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        )
        .await;
        assert!(seen.ends_with(b"3\r\nabc"));
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(watch.violation(), Some(Violation::ChunkEnd));
    }

    #[tokio::test]
    async fn after_an_upgrade_nothing_passes_until_it_is_decided() {
        let ask = b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        for (switch, after) in [(true, &b"\x01raw\n"[..]), (false, b"GET / HTTP/1.1\r\n\r\n")] {
            let watch = Arc::new(Watch::default());
            let (mut client, server) = tokio::io::duplex(1 << 16);
            client.write_all(&[ask, after].concat()).await.unwrap();
            let mut gate = Gate::http1(server, Bytes::new(), Arc::clone(&watch), TIMEOUT);
            let mut buffer = vec![0; 1024];
            let count = gate.read(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..count], ask);
            let mut next = tokio_test::task::spawn(async { gate.read(&mut buffer).await });
            assert!(next.poll().is_pending());
            watch.decide(2, !switch);
            assert!(next.poll().is_pending(), "another request's decision is not about this one");
            watch.decide(1, switch);
            assert!(next.is_woken());
            let Poll::Ready(Ok(count)) = next.poll() else { panic!("still held") };
            drop(next);
            assert_eq!(&buffer[..count], after);
            drop(client);
            assert_eq!(gate.read(&mut buffer).await.unwrap(), 0);
            assert_eq!(watch.violation(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_came_in_part_has_a_deadline() {
        let watch = Arc::new(Watch::default());
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let mut gate = Gate::http1(server, Bytes::new(), Arc::clone(&watch), TIMEOUT);
        let mut buffer = vec![0; 1024];
        client.write_all(b"GET / HT").await.unwrap();
        let _ = gate.read(&mut buffer).await.unwrap();
        assert_eq!(watch.deadline(), Some(clock::now() + TIMEOUT));
        client.write_all(b"TP/1.1\r\n\r\n").await.unwrap();
        let _ = gate.read(&mut buffer).await.unwrap();
        assert_eq!(watch.deadline(), None);
    }

    #[tokio::test]
    async fn a_refused_client_can_read_its_answer() {
        let watch = Arc::new(Watch::default());
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(b"CONNECT a:1 HTTP/1.1\r\n\r\nmore").await.unwrap();
        let mut gate = Gate::http1(server, Bytes::new(), Arc::clone(&watch), TIMEOUT);
        let mut buffer = vec![0; 1024];
        let _ = gate.read(&mut buffer).await.unwrap();
        assert_eq!(watch.refusal(1), Some(Violation::Connect));
        let mut closing = tokio_test::task::spawn(async { gate.shutdown().await });
        assert!(closing.poll().is_pending(), "waits for the client to finish");
        assert!(watch.deadline().is_some());
        drop(client);
        assert!(closing.is_woken());
        assert!(matches!(closing.poll(), Poll::Ready(Ok(()))));
    }
}
