//! A name server with a script, over UDP and TCP on one port of loopback.

use hickory_resolver::proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// One question as the server saw it.
pub(crate) struct Asked {
    pub(crate) request: Message,
    pub(crate) query: Query,
    pub(crate) transport: Transport,
}

impl Asked {
    pub(crate) fn name(&self) -> String {
        self.query.name().to_ascii()
    }

    pub(crate) fn kind(&self) -> RecordType {
        self.query.query_type()
    }

    /// An empty answer to this question.
    pub(crate) fn reply(&self, code: ResponseCode) -> Message {
        let mut reply = Message::response(self.request.id, OpCode::Query);
        reply.add_query(self.query.clone());
        reply.metadata.response_code = code;
        reply.metadata.recursion_available = true;
        reply
    }

    /// These records, as far as they are of the type asked for, in the answer.
    pub(crate) fn answer(&self, records: &[Record]) -> Vec<Vec<u8>> {
        let mut reply = self.reply(ResponseCode::NoError);
        let wanted = |record: &&Record| {
            record.record_type() == self.kind() || record.record_type() == RecordType::CNAME
        };
        reply.add_answers(records.iter().filter(wanted).cloned());
        send(&reply)
    }

    pub(crate) fn nothing(&self, code: ResponseCode) -> Vec<Vec<u8>> {
        send(&self.reply(code))
    }
}

/// One message, encoded.
pub(crate) fn send(reply: &Message) -> Vec<Vec<u8>> {
    vec![reply.to_vec().expect("the message can be encoded")]
}

pub(crate) fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("name")
}

pub(crate) fn address(owner: &str, ttl: u32, ip: &str) -> Record {
    let data = match ip.parse().expect("address") {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    Record::from_rdata(name(owner), ttl, data)
}

pub(crate) fn alias(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 60, RData::CNAME(CNAME(name(target))))
}

pub(crate) fn service(owner: &str, priority: u16, weight: u16, port: u16, target: &str) -> Record {
    Record::from_rdata(name(owner), 60, RData::SRV(SRV::new(priority, weight, port, name(target))))
}

type Script = Box<dyn FnMut(&Asked) -> Vec<Vec<u8>> + Send>;

/// The server; it ends when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<(String, RecordType, Transport)>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Sends what the script makes of each question: datagrams over UDP; over TCP each with its
    /// length in front. Nothing at all is a server that does not answer.
    pub(crate) async fn start(script: impl FnMut(&Asked) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let (udp, tcp) = bind().await;
        let address = udp.local_addr().expect("bound");
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(script)));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, script.clone(), asked.clone()));
        tasks.spawn(serve_tcp(tcp, script.clone(), asked.clone()));
        Self { address, script, asked, _tasks: tasks }
    }

    /// Answers by another script from now on.
    pub(crate) fn change(&self, script: impl FnMut(&Asked) -> Vec<Vec<u8>> + Send + 'static) {
        *self.script.lock().expect("lock") = Box::new(script);
    }

    /// How often this was asked.
    pub(crate) fn count(&self, kind: RecordType, transport: Transport) -> usize {
        let asked = self.asked.lock().expect("lock");
        asked.iter().filter(|(_, of, over)| *of == kind && *over == transport).count()
    }

    /// Every name asked for so far, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.asked.lock().expect("lock").iter().map(|(name, ..)| name.clone()).collect()
    }
}

/// UDP and TCP on one port: of a free UDP port the TCP one may be taken.
async fn bind() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a UDP port");
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("bound")).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both UDP and TCP");
}

type Log = Arc<Mutex<Vec<(String, RecordType, Transport)>>>;

fn react(bytes: &[u8], transport: Transport, script: &Mutex<Script>, log: &Log) -> Vec<Vec<u8>> {
    let request = Message::from_vec(bytes).expect("we send proper questions");
    let query = request.queries.first().expect("one question").clone();
    let asked = Asked { request, query, transport };
    log.lock().expect("lock").push((asked.name(), asked.kind(), transport));
    let mut script = script.lock().expect("lock");
    script(&asked)
}

async fn serve_udp(socket: UdpSocket, script: Arc<Mutex<Script>>, log: Log) {
    let mut buffer = vec![0; 65_535];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
        for reply in react(&buffer[..length], Transport::Udp, &script, &log) {
            socket.send_to(&reply, peer).await.expect("send");
        }
    }
}

async fn serve_tcp(listener: TcpListener, script: Arc<Mutex<Script>>, log: Log) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve_stream(stream, script.clone(), log.clone()));
    }
}

async fn serve_stream(mut stream: TcpStream, script: Arc<Mutex<Script>>, log: Log) {
    while let Ok(length) = stream.read_u16().await {
        let mut request = vec![0; length.into()];
        if stream.read_exact(&mut request).await.is_err() {
            return;
        }
        for reply in react(&request, Transport::Tcp, &script, &log) {
            let length = u16::try_from(reply.len()).expect("a message that TCP can carry");
            if stream.write_u16(length).await.is_err() || stream.write_all(&reply).await.is_err() {
                return;
            }
        }
    }
}
