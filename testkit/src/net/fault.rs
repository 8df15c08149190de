//! A faulty network in user space.
//!
//! One loopback port in front of a target. The fault holds for every connection, open ones
//! included, from the moment it is set.

use crate::endpoint::Resettable;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What the network does to connections.
///
/// | fault | new connections | open ones |
/// |---|---|---|
/// | `Pass` | forwarded | bytes flow |
/// | `Delay` | forwarded | each read waits that long first |
/// | `Cut` | forwarded | after n more answer bytes: FIN both ways |
/// | `Reset` | forwarded | after n more answer bytes: RST both ways |
/// | `Swallow` | accepted | bytes are read by nobody; back-pressure, then silence |
/// | `Refuse` | RST | RST |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing.
    #[default]
    Pass,
    /// Each read in either direction is passed on after this time.
    Delay(Duration),
    /// Closes cleanly after this many more bytes from the target.
    Cut(u64),
    /// Resets after this many more bytes from the target.
    Reset(u64),
    /// Passes nothing on, and closes nothing: a peer gone without FIN.
    Swallow,
    /// Resets at once.
    Refuse,
}

/// A port that forwards to a target through a [`Fault`]. Dropping it closes everything.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on a free loopback port, and passes everything on until told otherwise.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (fault, faults) = watch::channel(Fault::Pass);
        let connections = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(accept(listener, target, faults, Arc::clone(&connections)));
        Self { address, fault, connections, task }
    }

    /// Where callers connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// From now on, on all connections.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    faults: watch::Receiver<Fault>,
    count: Arc<AtomicU64>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((caller, _)) = accepted else { continue };
                count.fetch_add(1, Ordering::SeqCst);
                connections.spawn(forward(caller, target, faults.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The whole connection ends, not only one direction.
struct Ended;

async fn forward(caller: TcpStream, target: SocketAddr, mut faults: watch::Receiver<Fault>) {
    let reset = Arc::new(AtomicBool::new(false));
    let caller = Resettable::new(caller, Arc::clone(&reset));
    if *faults.borrow_and_update() == Fault::Refuse {
        reset.store(true, Ordering::SeqCst);
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    let far = Resettable::new(far, Arc::clone(&reset));
    let ((caller_read, caller_write), (far_read, far_write)) = (split(caller), split(far));
    // An end of one direction drops the other, and with it both streams.
    let _ = tokio::try_join!(
        pump(caller_read, far_write, faults.clone(), &reset, false),
        pump(far_read, caller_write, faults, &reset, true),
    );
}

/// Copies one direction until its half-close; `counts` says that it is the target's.
async fn pump(
    mut from: ReadHalf<Resettable>,
    mut to: WriteHalf<Resettable>,
    mut faults: watch::Receiver<Fault>,
    reset: &AtomicBool,
    counts: bool,
) -> Result<(), Ended> {
    let with_reset = || {
        reset.store(true, Ordering::SeqCst);
        Ended
    };
    let mut buffer = vec![0; 16 * 1024];
    let mut left = allowance(*faults.borrow_and_update());
    loop {
        let fault = *faults.borrow();
        let read = async {
            match fault {
                Fault::Swallow => pending::<io::Result<usize>>().await,
                _ => from.read(&mut buffer).await,
            }
        };
        let length = tokio::select! {
            changed = faults.changed() => {
                if changed.is_err() || *faults.borrow() == Fault::Refuse {
                    return Err(with_reset());
                }
                left = allowance(*faults.borrow());
                continue;
            }
            length = read => length.map_err(|_| with_reset())?,
        };
        if length == 0 {
            let _ = to.shutdown().await;
            return Ok(());
        }
        if let Fault::Delay(delay) = fault {
            tokio::time::sleep(delay).await;
        }
        let passed =
            if counts { usize::try_from(left).unwrap_or(length).min(length) } else { length };
        to.write_all(&buffer[..passed]).await.map_err(|_| with_reset())?;
        if counts {
            left -= passed as u64;
            match fault {
                Fault::Cut(_) if left == 0 => return Err(Ended),
                Fault::Reset(_) if left == 0 => return Err(with_reset()),
                _ => {}
            }
        }
    }
}

fn allowance(fault: Fault) -> u64 {
    match fault {
        Fault::Cut(bytes) | Fault::Reset(bytes) => bytes,
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, timeout};

    /// Sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        address
    }

    async fn say(stream: &mut TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn it_passes_until_told_to_reset_and_then_refuses() {
        let proxy = FaultProxy::start(echo().await).await;
        let mut stream = TcpStream::connect(proxy.address()).await.expect("connects");
        assert_eq!(say(&mut stream, b"hello").await.expect("passes"), b"hello");

        proxy.set(Fault::Refuse);
        let error = stream.read_u8().await.expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let mut stream = TcpStream::connect(proxy.address()).await.expect("accepts");
        let error = stream.read_u8().await.expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(proxy.connections(), 2);
    }

    #[tokio::test]
    async fn it_ends_after_the_given_bytes() {
        let proxy = FaultProxy::start(echo().await).await;
        for (fault, kind) in [
            (Fault::Cut(3), io::ErrorKind::UnexpectedEof),
            (Fault::Reset(3), io::ErrorKind::ConnectionReset),
        ] {
            proxy.set(fault);
            let mut stream = TcpStream::connect(proxy.address()).await.expect("connects");
            stream.write_all(b"hello").await.expect("sent");
            let mut first = [0; 3];
            // A reset may overtake the bytes before it.
            if stream.read_exact(&mut first).await.is_ok() {
                assert_eq!(&first, b"hel");
            }
            assert_eq!(stream.read_u8().await.expect_err("ended").kind(), kind, "{fault:?}");
        }
    }

    #[tokio::test]
    async fn it_delays() {
        let proxy = FaultProxy::start(echo().await).await;
        proxy.set(Fault::Delay(Duration::from_millis(30)));
        let mut stream = TcpStream::connect(proxy.address()).await.expect("connects");
        let start = Instant::now();
        say(&mut stream, b"hello").await.expect("passes");
        assert!(start.elapsed() >= Duration::from_millis(60), "30 ms each way");
    }

    #[tokio::test]
    async fn it_swallows_without_closing() {
        let proxy = FaultProxy::start(echo().await).await;
        let mut stream = TcpStream::connect(proxy.address()).await.expect("connects");
        say(&mut stream, b"hello").await.expect("passes");
        proxy.set(Fault::Swallow);
        let silence = timeout(Duration::from_millis(100), say(&mut stream, b"anyone?"));
        assert!(silence.await.is_err(), "an answer, or an end");

        proxy.set(Fault::Pass);
        let mut late = [0; 7];
        stream.read_exact(&mut late).await.expect("what was held flows on");
        assert_eq!(&late, b"anyone?");
    }
}
