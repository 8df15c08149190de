//! A strict endpoint: raw TCP, an own little parser, and a record of all that arrived.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) line: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Which connection it came over.
    pub(crate) connection: usize,
}

impl Recorded {
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let matching = self.fields.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        matching.map(|(_, value)| value.as_str()).collect()
    }
}

#[derive(Default)]
struct Record {
    requests: Mutex<Vec<Recorded>>,
    /// What a strict reader refuses: each is a message that could be read in two ways.
    ambiguous: Mutex<Vec<String>>,
    /// The connection of each head, whether the rest came or not.
    heads: Mutex<Vec<usize>>,
    /// Connections that ended within a request.
    cut: Mutex<Vec<usize>>,
    connections: AtomicUsize,
}

/// The endpoint; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Recorder {
    address: SocketAddr,
    record: Arc<Record>,
}

impl Recorder {
    /// Answers each request with `200` and `ok`; an `Upgrade` to `echo` with 101, and then echoes.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let record = Arc::new(Record::default());
        let shared = Arc::clone(&record);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, Arc::clone(&shared), number));
            }
        });
        Self { address, record }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Complete requests so far.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.record.requests.lock().unwrap().clone()
    }

    /// The connection that each head came over, its body complete or not.
    pub(crate) fn heads(&self) -> Vec<usize> {
        self.record.heads.lock().unwrap().clone()
    }

    /// Connections that ended within a request.
    pub(crate) fn cut(&self) -> Vec<usize> {
        self.record.cut.lock().unwrap().clone()
    }

    /// Messages that were not canonical.
    pub(crate) fn ambiguous(&self) -> Vec<String> {
        self.record.ambiguous.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, record: Arc<Record>, connection: usize) {
    let mut buffer = Vec::new();
    loop {
        match request(&mut stream, &mut buffer, &record, connection).await {
            Ok(Some(request)) => {
                let upgrade = request.all("upgrade") == ["echo"];
                record.requests.lock().unwrap().push(request);
                let answer: &[u8] = if upgrade {
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
                } else {
                    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                };
                if stream.write_all(answer).await.is_err() {
                    return;
                }
                if upgrade {
                    if stream.write_all(&buffer).await.is_err() {
                        return;
                    }
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    record.ambiguous.lock().unwrap().push(error.to_string());
                } else {
                    record.cut.lock().unwrap().push(connection);
                }
                return;
            }
        }
    }
}

fn wrong(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// Reads one request; `None` at an orderly end between requests.
async fn request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    record: &Record,
    connection: usize,
) -> io::Result<Option<Recorded>> {
    let end = loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
    };
    let head: Vec<u8> = buffer.drain(..end + 4).collect();
    // Field values may hold any byte above 0x7f (RFC 9110 section 5.5).
    let head = String::from_utf8_lossy(&head[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    if head.replace("\r\n", "").contains(|c: char| c.is_control()) {
        return Err(wrong(format!("control bytes: {}", head.escape_debug())));
    }
    let words: Vec<&str> = line.split(' ').collect();
    let target =
        matches!(words[..], [_, target, "HTTP/1.1"] if target.starts_with('/') || target == "*");
    if !target || !line.is_ascii() {
        return Err(wrong(format!("request line {line:?}")));
    }
    let mut fields = Vec::new();
    for field in lines {
        let (name, value) = field.split_once(':').ok_or_else(|| wrong(field))?;
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) {
            return Err(wrong(format!("name {name:?}")));
        }
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
    record.heads.lock().unwrap().push(connection);
    let recorded = Recorded { line, fields, body: Vec::new(), connection };
    let (lengths, codings) = (recorded.all("content-length"), recorded.all("transfer-encoding"));
    if recorded.all("host").len() != 1 {
        return Err(wrong(format!("hosts {:?}", recorded.all("host"))));
    }
    let body = match (&lengths[..], &codings[..]) {
        ([], []) => Vec::new(),
        ([length], []) => {
            let length = length.parse().map_err(|_| wrong(format!("length {length:?}")))?;
            take(stream, buffer, length).await?
        }
        ([], ["chunked"]) => chunks(stream, buffer).await?,
        other => return Err(wrong(format!("framing {other:?}"))),
    };
    Ok(Some(Recorded { body, ..recorded }))
}

async fn chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = text_line(stream, buffer).await?;
        let length =
            usize::from_str_radix(&size, 16).map_err(|_| wrong(format!("size {size:?}")))?;
        if length == 0 {
            while !text_line(stream, buffer).await?.is_empty() {}
            return Ok(body);
        }
        body.extend(take(stream, buffer, length).await?);
        if take(stream, buffer, 2).await? != b"\r\n" {
            return Err(wrong("chunk end"));
        }
    }
}

async fn text_line(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<String> {
    let end = loop {
        if let Some(end) = find(buffer, b"\r\n") {
            break end;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let line: Vec<u8> = buffer.drain(..end + 2).collect();
    String::from_utf8(line[..end].to_vec()).map_err(|_| wrong("not UTF-8"))
}

async fn take(stream: &mut TcpStream, buffer: &mut Vec<u8>, count: usize) -> io::Result<Vec<u8>> {
    while buffer.len() < count {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buffer.drain(..count).collect())
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}
