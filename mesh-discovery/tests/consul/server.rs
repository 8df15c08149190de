//! A server that answers each request as a script says, byte by byte.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Its target.
    pub(crate) target: String,
    /// Its head, whole.
    pub(crate) head: String,
    /// Which connection it came by, from 0.
    pub(crate) connection: usize,
}

impl Asked {
    /// `index` of a blocking query.
    pub(crate) fn index(&self) -> Option<u64> {
        let (_, rest) = self.target.split_once("index=")?;
        rest.split('&').next()?.parse().ok()
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// 200 with an index.
    Json(u64, String),
    /// These bytes.
    Raw(String),
    /// These bytes, and then the end.
    Cut(String),
    /// Nothing, for as long as the client waits.
    Hang,
}

impl Reply {
    /// An instance of `web` per port.
    pub(crate) fn web(index: u64, ports: &[u16]) -> Self {
        let instances: Vec<String> = ports.iter().map(|port| instance(*port)).collect();
        Self::Json(index, format!("[{}]", instances.join(",")))
    }

    pub(crate) fn error(status: &str, body: &str) -> Self {
        let length = body.len();
        Self::Raw(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"))
    }
}

fn instance(port: u16) -> String {
    format!(
        r#"{{"Node":{{"Node":"vm","Address":"10.0.0.1"}},"Service":{{"ID":"web-{port}","Port":{port}}},
            "Checks":[{{"CheckID":"serfHealth","Status":"passing"}}]}}"#
    )
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// `script` gets each request with its number, from 0.
    pub(crate) async fn start(script: impl FnMut(usize, &Asked) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(Mutex::new(script));
        let mut tasks = JoinSet::new();
        let noted = asked.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (noted, script) = (noted.clone(), script.clone());
                connections.spawn(serve(stream, connection, move |asked: Asked| {
                    let mut noted = noted.lock().expect("lock");
                    noted.push(asked.clone());
                    (script.lock().expect("lock"))(noted.len() - 1, &asked)
                }));
            }
        });
        Self { address, asked, _tasks: tasks }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("lock").clone()
    }
}

async fn serve(mut stream: TcpStream, connection: usize, mut answer: impl FnMut(Asked) -> Reply) {
    let mut bytes = Vec::new();
    loop {
        while !bytes.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => bytes.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(std::mem::take(&mut bytes)).expect("text");
        let target = head.split(' ').nth(1).expect("a request line").to_owned();
        let (reply, ends) = match answer(Asked { target, head, connection }) {
            Reply::Json(index, body) => (
                format!(
                    "HTTP/1.1 200 OK\r\nX-Consul-Index: {index}\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ),
                false,
            ),
            Reply::Raw(bytes) => (bytes, false),
            Reply::Cut(bytes) => (bytes, true),
            Reply::Hang => {
                // Until the client goes.
                let _ = stream.read_u8().await;
                return;
            }
        };
        if stream.write_all(reply.as_bytes()).await.is_err() || ends {
            return;
        }
    }
}
