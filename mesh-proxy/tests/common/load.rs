//! Many calls of a proxy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Longer than a part of the load takes, however many calls it is raised to.
const LONG: Duration = Duration::from_secs(300);

/// Calls of the test; `MESH_TEST_CALLS` raises it.
pub(crate) fn wanted_calls() -> u64 {
    std::env::var("MESH_TEST_CALLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

/// Clients at once.
const CLIENTS: usize = 16;

/// How many calls were begun and are over.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    begun: AtomicU64,
    over: AtomicU64,
}

impl Calls {
    /// How many are over.
    pub(crate) fn over(&self) -> u64 {
        self.over.load(SeqCst)
    }

    /// Waits until so many are over.
    pub(crate) async fn reach(&self, count: u64) {
        let reached = async {
            while self.over() < count {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LONG, reached).await.expect("the load goes on");
    }

    /// `total` calls by clients at once; each returns what it got for those that failed.
    pub(crate) fn each<C>(
        self: &Arc<Self>,
        total: u64,
        call: impl Fn() -> C + Clone + Send + 'static,
    ) -> JoinSet<Vec<String>>
    where
        C: Future<Output = Result<(), String>> + Send,
    {
        let client = |_| {
            let (calls, call) = (Arc::clone(self), call.clone());
            async move {
                let mut failed = Vec::new();
                while calls.begun.fetch_add(1, SeqCst) < total {
                    failed.extend(call().await.err());
                    calls.over.fetch_add(1, SeqCst);
                }
                failed
            }
        };
        (0..CLIENTS).map(client).collect()
    }
}

/// GETs by clients at once, as [`client`] makes them.
pub(crate) fn gets(proxy: SocketAddr, calls: &Arc<Calls>, total: u64) -> JoinSet<Vec<String>> {
    (0..CLIENTS).map(|_| client(proxy, Arc::clone(calls), total)).collect()
}

/// Makes GETs one after the other until all clients together have begun `total`. It repeats none,
/// and keeps its connection until one fails; returns what it got for those that did.
async fn client(proxy: SocketAddr, calls: Arc<Calls>, total: u64) -> Vec<String> {
    let mut failed = Vec::new();
    let mut open = None;
    while calls.begun.fetch_add(1, SeqCst) < total {
        let mut stream = match open.take() {
            Some(stream) => stream,
            None => TcpStream::connect(proxy).await.unwrap(),
        };
        match get(&mut stream).await {
            Ok(()) => open = Some(stream),
            Err(answer) => failed.push(answer),
        }
        calls.over.fetch_add(1, SeqCst);
    }
    failed
}

/// One GET; all that came back where that is not what the endpoints answer.
async fn get(stream: &mut TcpStream) -> Result<(), String> {
    let mut answer = Vec::new();
    let sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    while sent.is_ok() && !answer.ends_with(b"\r\n\r\nhello") {
        let ended = !matches!(stream.read_buf(&mut answer).await, Ok(1..));
        if ended || (answer.len() > 12 && !answer.starts_with(b"HTTP/1.1 200 ")) {
            return Err(answer.escape_ascii().to_string());
        }
    }
    sent.map_err(|error| error.to_string())
}
