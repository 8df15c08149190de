//! Access log: one line per request when its response is over. Off by default.
//!
//! *Text*: `2026-11-21T12:00:00.123Z 192.0.2.1:4711 "GET /a HTTP/1.1" 200 128 1.234ms -`, the last
//! word being the flag of our own answers. *JSON*: one object per line with the OpenTelemetry
//! attribute names. The query is in neither: it is where tokens and names are.
//!
//! What a client wrote is escaped: no control byte, quote or byte above 0x7E reaches the log as it
//! is, so a path cannot forge a line or speak to a terminal.
//!
//! Lines are put together by the worker and written by one thread; when that cannot keep up,
//! lines are dropped and counted, never waited for. Once nobody reads its output, all are.

use ::http::{Method, StatusCode, Version};
use mesh_core::{ErrorKind, GrpcCode};
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Lines that wait for the writing thread.
const QUEUE: usize = 4096;

/// Bytes of a path that are logged.
const PATH: usize = 2048;

/// Bytes of an authority that are logged: the longest name of DNS.
const AUTHORITY: usize = 255;

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[non_exhaustive]
pub enum Format {
    /// One line for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Where lines go. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    format: Format,
    lines: SyncSender<String>,
    lost: Arc<Lost>,
}

/// What did not become a line.
#[derive(Debug, Default)]
struct Lost {
    dropped: AtomicU64,
    /// The writing thread has ended.
    ended: AtomicBool,
}

impl AccessLog {
    /// Starts the thread that writes to `output`; it ends when the last clone is dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(format: Format, output: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, waiting) = sync_channel::<String>(QUEUE);
        let lost = Arc::<Lost>::default();
        let counted = Arc::clone(&lost);
        std::thread::Builder::new().name("access-log".into()).spawn(move || {
            if let Err(error) = write(&waiting, output) {
                counted.ended.store(true, Relaxed);
                tracing::warn!(%error, "the access log ends here: its output takes no more lines");
                let unwritten = 1 + waiting.try_iter().count() as u64;
                counted.dropped.fetch_add(unwritten, Relaxed);
            }
        })?;
        Ok(Self { format, lines, lost })
    }

    /// Lines that could not be written, or not in time.
    pub(crate) fn dropped(&self) -> u64 {
        self.lost.dropped.load(Relaxed)
    }

    /// Begins the line of a request.
    pub(crate) fn line<B>(&self, request: &http::Request<B>, client: SocketAddr) -> Box<Line> {
        Box::new(Line {
            log: self.clone(),
            client,
            method: request.method().clone(),
            path: cut(request.uri().path(), PATH),
            authority: request
                .uri()
                .authority()
                .map(|authority| cut(authority.as_str(), AUTHORITY))
                .or_else(|| {
                    let host = request.headers().get(http::header::HOST)?;
                    host.to_str().ok().map(|host| cut(host, AUTHORITY))
                })
                .unwrap_or_default(),
            version: request.version(),
            bytes: 0,
        })
    }
}

/// No more of a text than so many bytes, for what waits to be written is bounded by lines. What is cut
/// ends in `…`.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let kept = (0..=most).rev().find_map(|end| text.get(..end));
    format!("{}\u{2026}", kept.unwrap_or_default())
}

/// Writes lines until nobody can send any.
fn write(waiting: &Receiver<String>, output: impl Write) -> io::Result<()> {
    let mut output = io::BufWriter::new(output);
    while let Ok(line) = waiting.recv() {
        let mut line = Some(line);
        // What has gathered meanwhile goes out in one write.
        while let Some(text) = line.take().or_else(|| waiting.try_recv().ok()) {
            output.write_all(text.as_bytes())?;
        }
        output.flush()?;
    }
    Ok(())
}

/// How a request ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Of the answer; `None` if there was none.
    pub(crate) status: Option<StatusCode>,
    /// Of a gRPC call.
    pub(crate) code: Option<GrpcCode>,
    pub(crate) error: Option<ErrorKind>,
    pub(crate) took: Duration,
}

/// The line of one request, as far as it is known.
#[derive(Debug)]
pub(crate) struct Line {
    log: AccessLog,
    client: SocketAddr,
    method: Method,
    path: String,
    authority: String,
    version: Version,
    bytes: u64,
}

impl Line {
    /// Bytes of the answer's body were handed over.
    pub(crate) const fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The request is over.
    pub(crate) fn write(&self, end: &Ended) {
        let lost = &self.log.lost;
        let sent = !lost.ended.load(Relaxed)
            && self.log.lines.try_send(self.to_text(wall_clock(), end)).is_ok();
        if !sent {
            lost.dropped.fetch_add(1, Relaxed);
        }
    }

    fn to_text(&self, now: SystemTime, end: &Ended) -> String {
        let mut line = String::with_capacity(256);
        // Writing to a string cannot fail.
        let _ = match self.log.format {
            Format::Text => self.text(&mut line, now, end),
            Format::Json => self.json(&mut line, now, end),
        };
        line.push('\n');
        line
    }

    fn text(&self, line: &mut String, now: SystemTime, end: &Ended) -> fmt::Result {
        write!(
            line,
            "{} {} \"{} {} {:?}\" {} {} {:.3}ms {}",
            Utc(now),
            self.client,
            Escaped(self.method.as_str()),
            Escaped(&self.path),
            self.version,
            end.status.map_or(0, |status| status.as_u16()),
            self.bytes,
            end.took.as_secs_f64() * 1e3,
            end.error.map_or("-", ErrorKind::flag),
        )?;
        match end.code {
            Some(code) => write!(line, " grpc={}", code.number()),
            None => Ok(()),
        }
    }

    fn json(&self, line: &mut String, now: SystemTime, end: &Ended) -> fmt::Result {
        write!(
            line,
            r#"{{"time":"{}","client.address":"{}","client.port":{},"http.request.method":"{}","server.address":"{}","url.path":"{}","network.protocol.version":"{}","http.response.status_code":{},"http.response.body.size":{},"duration":{:.6}"#,
            Utc(now),
            self.client.ip(),
            self.client.port(),
            Escaped(self.method.as_str()),
            Escaped(&self.authority),
            Escaped(&self.path),
            match self.version {
                Version::HTTP_2 => "2",
                Version::HTTP_10 => "1.0",
                _ => "1.1",
            },
            end.status.map_or(0, |status| status.as_u16()),
            self.bytes,
            end.took.as_secs_f64(),
        )?;
        if let Some(code) = end.code {
            write!(line, r#","rpc.response.status_code":{}"#, code.number())?;
        }
        if let Some(error) = end.error {
            write!(line, r#","error.type":"{}""#, error.flag())?;
        }
        line.push('}');
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "a log line tells the time of day")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Text of a stranger: printable ASCII as it is, but for quotes and backslashes; the rest as
/// `\u00XX`, which is right in a JSON string too.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                ' '..='~' => f.write_char(character)?,
                _ => {
                    let mut units = [0; 2];
                    for unit in character.encode_utf16(&mut units) {
                        write!(f, "\\u{unit:04x}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A time of day as RFC 3339 writes it, in UTC with milliseconds.
pub(crate) struct Utc(pub(crate) SystemTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs();
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Civil date from days, counting years from March so that a leap day is the last
        // (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
            since.subsec_millis()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use mesh_tower::clock;
    use parking_lot::Mutex;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(log: &AccessLog, target: &str) -> Box<Line> {
        let request = Request::get(target).header("host", "shop").body(()).unwrap();
        log.line(&request, ([192, 0, 2, 1], 4711).into())
    }

    #[test]
    fn what_waits_to_be_written_has_a_bound() {
        assert_eq!(cut("/short", PATH), "/short");
        let long = format!("/{}", "\u{e9}".repeat(PATH));
        let kept = cut(&long, PATH);
        assert!(kept.len() <= PATH + '\u{2026}'.len_utf8() && kept.ends_with('\u{2026}'));
        assert!(long.starts_with(kept.trim_end_matches('\u{2026}')));
    }

    fn ended(status: u16, error: Option<ErrorKind>) -> Ended {
        let took = Duration::from_micros(1234);
        Ended { status: StatusCode::from_u16(status).ok(), code: None, error, took }
    }

    fn at() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_795_262_400_123)
    }

    #[test]
    fn a_line_says_who_asked_for_what_and_how_it_ended() {
        let text = AccessLog::start(Format::Text, Sink::default()).unwrap();
        let mut whole = line(&text, "/a?token=b");
        whole.sent(128);
        assert_eq!(
            whole.to_text(at(), &ended(200, None)),
            "2026-11-21T12:00:00.123Z 192.0.2.1:4711 \"GET /a HTTP/1.1\" 200 128 1.234ms -\n"
        );
        let gone = ended(0, Some(ErrorKind::CallerGone));
        assert!(whole.to_text(at(), &gone).contains(" 0 128 1.234ms downstream_connection_termin"));
        let json = AccessLog::start(Format::Json, Sink::default()).unwrap();
        let mut end = ended(503, Some(ErrorKind::NoHealthyEndpoint));
        end.code = Some(GrpcCode::UNAVAILABLE);
        let parsed = line(&json, "/a?token=b").to_text(at(), &end);
        let parsed: serde_json::Value = serde_json::from_str(&parsed).unwrap();
        assert_eq!(parsed["error.type"], "no_healthy_upstream");
        assert_eq!(parsed["server.address"], "shop");
        assert_eq!(parsed["url.path"], "/a");
        assert_eq!(parsed["rpc.response.status_code"], 14);
        assert_eq!(parsed["duration"], 0.001234);
        assert!(!parsed.to_string().contains("token"), "{parsed}");
    }

    #[test]
    fn a_client_cannot_forge_a_line() {
        let escaped = Escaped("/\r\n\u{1b}[2J\"\\\u{e9}\u{1f600}").to_string();
        assert_eq!(escaped, "/\\u000d\\u000a\\u001b[2J\\\"\\\\\\u00e9\\ud83d\\ude00");
        let parsed: String = serde_json::from_str(&format!("\"{escaped}\"")).unwrap();
        assert_eq!(parsed, "/\r\n\u{1b}[2J\"\\\u{e9}\u{1f600}");
    }

    #[test]
    fn days_are_named_by_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Utc(UNIX_EPOCH + Duration::from_secs(seconds)).to_string(), expected);
        }
    }

    #[tokio::test]
    async fn lines_are_written_when_the_request_is_over() {
        let sink = Sink::default();
        let log = AccessLog::start(Format::Text, sink.clone()).unwrap();
        line(&log, "/over").write(&ended(200, None));
        until(|| !sink.0.lock().is_empty()).await;
        assert!(String::from_utf8(sink.0.lock().clone()).unwrap().contains("GET /over HTTP/1.1"));
        assert_eq!(log.dropped(), 0);
    }

    /// As stdout whose reader has gone.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[tokio::test]
    async fn lines_that_nobody_takes_are_counted() {
        let log = AccessLog::start(Format::Text, Closed).unwrap();
        line(&log, "/lost").write(&ended(200, None));
        until(|| log.dropped() == 1).await;
        line(&log, "/lost").write(&ended(200, None));
        assert_eq!(log.dropped(), 2);
    }

    async fn until(mut is_so: impl FnMut() -> bool) {
        let deadline = clock::now() + Duration::from_secs(5);
        while !is_so() {
            assert!(clock::now() < deadline, "never so");
            tokio::task::yield_now().await;
        }
    }
}
