//! Access log: one line per request when its response is over. Off by default.
//!
//! *Text*: `2026-11-21T12:00:00.123Z 192.0.2.1:4711 "GET /a HTTP/1.1" 200 128 1.234ms -`, the last
//! word being the flag of our own answers. *JSON*: one object per line with the OpenTelemetry
//! attribute names.
//!
//! What a client wrote is escaped: no control byte, quote or byte above 0x7E reaches the log as it
//! is, so a path cannot forge a line or speak to a terminal.
//!
//! Lines are put together by the worker and written by one thread; when that cannot keep up,
//! lines are dropped and counted, never waited for.

use crate::body::grpc_status;
use ::http::{HeaderMap, Method, Version};
use mesh_core::Timestamp;
use mesh_tower::clock;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Lines that wait for the writing thread.
const QUEUE: usize = 4096;

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
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// Starts the thread that writes to `output`; it ends when the last clone is dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(format: Format, output: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, waiting) = sync_channel::<String>(QUEUE);
        std::thread::Builder::new().name("access-log".into()).spawn(move || {
            let mut output = io::BufWriter::new(output);
            while let Ok(line) = waiting.recv() {
                let mut line = Some(line);
                // What has gathered meanwhile goes out in one write.
                while let Some(text) = line.take().or_else(|| waiting.try_recv().ok()) {
                    if output.write_all(text.as_bytes()).is_err() {
                        return;
                    }
                }
                if output.flush().is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { format, lines, dropped: Arc::default() })
    }

    /// Lines that could not be written in time.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Begins the record of a request.
    pub(crate) fn begin<B>(&self, request: &http::Request<B>, client: SocketAddr) -> Box<Record> {
        Box::new(Record {
            log: self.clone(),
            started: clock::now(),
            client,
            method: request.method().clone(),
            target: request.uri().path_and_query().map_or_else(String::new, |t| t.as_str().into()),
            authority: request
                .uri()
                .authority()
                .map(|authority| authority.as_str().to_owned())
                .or_else(|| {
                    let host = request.headers().get(http::header::HOST)?;
                    host.to_str().ok().map(str::to_owned)
                })
                .unwrap_or_default(),
            version: request.version(),
            status: 0,
            grpc: None,
            bytes: 0,
            flag: None,
            complete: false,
        })
    }
}

/// One request's line, written when dropped.
#[derive(Debug)]
pub(crate) struct Record {
    log: AccessLog,
    started: Timestamp,
    client: SocketAddr,
    method: Method,
    target: String,
    authority: String,
    version: Version,
    /// 0 while there is no response.
    status: u16,
    grpc: Option<u8>,
    bytes: u64,
    flag: Option<&'static str>,
    /// The whole response went out; if not, the client went away.
    complete: bool,
}

impl Record {
    /// The head of the response.
    pub(crate) fn head(&mut self, status: u16, headers: &HeaderMap) {
        self.status = status;
        self.grpc_status(headers);
    }

    /// The answer was our own.
    pub(crate) const fn flag(&mut self, flag: &'static str) {
        self.flag = Some(flag);
    }

    pub(crate) const fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    pub(crate) fn grpc_status(&mut self, fields: &HeaderMap) {
        self.grpc = grpc_status(fields).or(self.grpc);
    }

    /// All of the response has been handed over.
    pub(crate) const fn complete(&mut self) {
        self.complete = true;
    }

    /// The endpoint ended the response before its end.
    pub(crate) const fn truncated(&mut self) {
        self.flag = Some("upstream_connection_termination");
    }

    fn line(&self, now: SystemTime, took: Duration) -> String {
        let mut line = String::with_capacity(256);
        let flag = match self.flag {
            None if self.status == 0 || !self.complete => Some("downstream_connection_termination"),
            flag => flag,
        };
        // Writing to a string cannot fail.
        let _ = match self.log.format {
            Format::Text => self.text(&mut line, now, took, flag),
            Format::Json => self.json(&mut line, now, took, flag),
        };
        line.push('\n');
        line
    }

    fn text(
        &self,
        line: &mut String,
        now: SystemTime,
        took: Duration,
        flag: Option<&str>,
    ) -> fmt::Result {
        write!(
            line,
            "{} {} \"{} {} {:?}\" {} {} {:.3}ms {}",
            Utc(now),
            self.client,
            Escaped(self.method.as_str()),
            Escaped(&self.target),
            self.version,
            self.status,
            self.bytes,
            took.as_secs_f64() * 1e3,
            flag.unwrap_or("-"),
        )?;
        match self.grpc {
            Some(code) => write!(line, " grpc={code}"),
            None => Ok(()),
        }
    }

    fn json(
        &self,
        line: &mut String,
        now: SystemTime,
        took: Duration,
        flag: Option<&str>,
    ) -> fmt::Result {
        write!(
            line,
            r#"{{"time":"{}","client.address":"{}","client.port":{},"http.request.method":"{}","server.address":"{}","url.path":"{}","network.protocol.version":"{}","http.response.status_code":{},"http.response.body.size":{},"duration":{:.6}"#,
            Utc(now),
            self.client.ip(),
            self.client.port(),
            Escaped(self.method.as_str()),
            Escaped(&self.authority),
            Escaped(&self.target),
            match self.version {
                Version::HTTP_2 => "2",
                Version::HTTP_10 => "1.0",
                _ => "1.1",
            },
            self.status,
            self.bytes,
            took.as_secs_f64(),
        )?;
        if let Some(code) = self.grpc {
            write!(line, r#","rpc.response.status_code":{code}"#)?;
        }
        if let Some(flag) = flag {
            write!(line, r#","error.type":"{flag}""#)?;
        }
        line.push('}');
        Ok(())
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = clock::now().since(self.started);
        let line = self.line(wall_clock(), took);
        if let Err(TrySendError::Full(_)) = self.log.lines.try_send(line) {
            self.log.dropped.fetch_add(1, Ordering::Relaxed);
        }
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

    fn record(log: &AccessLog, target: &str) -> Box<Record> {
        let request = Request::get(target).header("host", "shop").body(()).unwrap();
        log.begin(&request, ([192, 0, 2, 1], 4711).into())
    }

    fn at() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_795_262_400_123)
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_says_who_asked_for_what_and_how_it_ended() {
        let text = AccessLog::start(Format::Text, Sink::default()).unwrap();
        let mut ended = record(&text, "/a?b");
        ended.head(200, &HeaderMap::new());
        ended.sent(128);
        ended.complete();
        assert_eq!(
            ended.line(at(), Duration::from_micros(1234)),
            "2026-11-21T12:00:00.123Z 192.0.2.1:4711 \"GET /a?b HTTP/1.1\" 200 128 1.234ms -\n"
        );
        let json = AccessLog::start(Format::Json, Sink::default()).unwrap();
        let mut gone = record(&json, "/a");
        assert!(gone.line(at(), Duration::ZERO).contains("downstream_connection_termination"));
        gone.head(503, &HeaderMap::new());
        gone.flag("no_healthy_upstream");
        let line = gone.line(at(), Duration::from_millis(5));
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["error.type"], "no_healthy_upstream");
        assert_eq!(parsed["server.address"], "shop");
        assert_eq!(parsed["duration"], 0.005);
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
        drop(record(&log, "/over"));
        let deadline = clock::now() + Duration::from_secs(5);
        while sink.0.lock().is_empty() {
            assert!(clock::now() < deadline, "nothing was written");
            tokio::task::yield_now().await;
        }
        assert!(String::from_utf8(sink.0.lock().clone()).unwrap().contains("GET /over HTTP/1.1"));
        assert_eq!(log.dropped(), 0);
    }
}
