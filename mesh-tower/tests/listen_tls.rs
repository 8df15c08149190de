//! The listener with TLS: who is let in, and what strangers cannot delay.
#![cfg(feature = "axum")]

use axum::{Router, extract::ConnectInfo, routing::get};
use mesh_tower::Listener;
use mesh_tower::listen::{Config, Connection, Peer};
use mesh_tower::server::{Context, ServerLayer};
use mesh_tower::telemetry::Metrics;
use mesh_tower::tls;
use rustls::{CipherSuite, HandshakeKind, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use testkit::net::{Authority, Certificate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

const LIMIT: Duration = Duration::from_secs(10);
const CLIENT: &str = "spiffe://shop.example/ns/default/sa/dashboard";

/// A mutual TLS setup in files, removed at the end.
struct Setup {
    folder: PathBuf,
    authority: Authority,
    tls: Arc<tls::Server>,
}

impl Setup {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("mesh-listen-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let authority = Authority::new("root");
        let leaf = authority.issue(&["localhost"]);
        let put = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let cert = put("tls.crt", &leaf.cert_pem);
        let key = put("tls.key", &leaf.key_pem);
        let client_ca = put("clients.crt", authority.pem());
        let tls = tls::Server::from_files(cert, key, Some(client_ca)).expect("good files");
        Self { folder, authority, tls: Arc::new(tls) }
    }

    async fn listener(&self, change: impl FnOnce(&mut Config)) -> Listener {
        let mut config = Config::default();
        change(&mut config);
        let tls = Some(self.tls.clone());
        Listener::bind_with("127.0.0.1:0", tls, &config).await.expect("a free port")
    }

    fn client(&self) -> Certificate {
        self.authority.issue(&[CLIENT])
    }

    /// Connects and waits for the first byte: in TLS 1.3 the server judges the client only
    /// after the client has finished.
    async fn connect(
        &self,
        address: SocketAddr,
        leaf: Option<&Certificate>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let config = Arc::new(self.authority.client(leaf, &["http/1.1"]));
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(config).connect(name, stream).await
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn accept(listener: &mut Listener) -> Connection {
    timeout(LIMIT, listener.accept()).await.expect("a connection")
}

#[tokio::test]
async fn the_identity_of_the_client_is_what_its_certificate_proves() {
    let setup = Setup::new();
    let mut listener = setup.listener(|_| {}).await;
    let leaf = setup.client();
    let (client, mut accepted) =
        tokio::join!(setup.connect(listener.local_addr(), Some(&leaf)), accept(&mut listener));
    let mut client = client.expect("trusted");
    let identity = accepted.peer().identity().expect("mutual");
    assert_eq!(identity.spiffe().expect("an ID").as_str(), CLIENT);
    assert_eq!(accepted.alpn(), Some(&b"http/1.1"[..]));

    client.write_all(b"ping").await.expect("open");
    let mut four = [0; 4];
    accepted.read_exact(&mut four).await.expect("open");
    accepted.write_all(&four).await.expect("open");
    accepted.flush().await.expect("open");
    client.read_exact(&mut four).await.expect("open");
    assert_eq!(&four, b"ping");
}

#[tokio::test]
async fn the_cheaper_suite_is_taken_unless_the_client_does_not_offer_it() {
    let setup = Setup::new();
    let mut listener = setup.listener(|_| {}).await;
    let address = listener.local_addr();
    let leaf = setup.client();
    let all = setup.authority.client(Some(&leaf), &[]);
    let strong_only = {
        let mut provider = (**all.crypto_provider()).clone();
        provider
            .cipher_suites
            .retain(|suite| suite.suite() == CipherSuite::TLS13_AES_256_GCM_SHA384);
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(setup.authority.pem().as_bytes());
        roots.add(root.expect("a certificate")).expect("a root");
        let mut config = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("a suite of TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.client_auth_cert_resolver = Arc::clone(&all.client_auth_cert_resolver);
        config
    };
    let first = all.crypto_provider().cipher_suites.first().map(|suite| suite.suite());
    assert_eq!(first, Some(CipherSuite::TLS13_AES_256_GCM_SHA384), "what the client prefers");
    for (config, expected) in [
        (all, CipherSuite::TLS13_AES_128_GCM_SHA256),
        (strong_only, CipherSuite::TLS13_AES_256_GCM_SHA384),
    ] {
        let stream = TcpStream::connect(address).await.expect("listening");
        let name = ServerName::try_from("localhost").expect("a name");
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let (client, _accepted) = tokio::join!(handshake, accept(&mut listener));
        let client = client.expect("trusted");
        let suite = client.get_ref().1.negotiated_cipher_suite().expect("agreed");
        assert_eq!(suite.suite(), expected);
    }
}

#[tokio::test]
async fn a_client_that_comes_again_resumes_each_time_and_is_still_known() {
    let setup = Setup::new();
    let mut listener = setup.listener(|_| {}).await;
    let leaf = setup.client();
    let config = Arc::new(setup.authority.client(Some(&leaf), &["http/1.1"]));
    let mut kinds = Vec::new();
    for _ in 0..4 {
        let stream = TcpStream::connect(listener.local_addr()).await.expect("listening");
        let name = ServerName::try_from("localhost").expect("a name");
        let handshake = TlsConnector::from(Arc::clone(&config)).connect(name, stream);
        let (client, mut accepted) = tokio::join!(handshake, accept(&mut listener));
        let mut client = client.expect("trusted");
        assert_eq!(accepted.peer().identity().and_then(tls::Identity::name), Some(CLIENT));
        kinds.push(client.get_ref().1.handshake_kind().expect("complete"));
        // The ticket comes before the first byte.
        accepted.write_all(b"x").await.expect("open");
        accepted.flush().await.expect("open");
        client.read_u8().await.expect("open");
    }
    let resumed = HandshakeKind::Resumed;
    assert_eq!(kinds, [HandshakeKind::Full, resumed, resumed, resumed]);
}

#[tokio::test]
async fn strangers_are_refused_and_nobody_else_notices() {
    let setup = Setup::new();
    let mut listener = setup.listener(|_| {}).await;
    let address = listener.local_addr();
    let stranger = Authority::new("another root").issue(&[CLIENT]);
    let friend = setup.client();

    let clients = async {
        for leaf in [None, Some(&stranger)] {
            let refused = async {
                let mut stream = setup.connect(address, leaf).await?;
                stream.read_u8().await
            };
            assert!(timeout(LIMIT, refused).await.expect("refused in time").is_err());
        }
        let mut garbage = TcpStream::connect(address).await.expect("listening");
        garbage.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("open");
        setup.connect(address, Some(&friend)).await.expect("trusted")
    };
    let (_client, accepted) = tokio::join!(clients, accept(&mut listener));
    let identity = accepted.peer().identity().expect("mutual");
    assert_eq!(identity.name(), Some(CLIENT), "the first to come through is the friend");
}

#[tokio::test]
async fn a_client_that_never_speaks_delays_nobody_and_is_cut_off() {
    let setup = Setup::new();
    let limit = Duration::from_millis(300);
    let mut listener = setup.listener(|config| config.handshake_timeout = limit).await;
    let address = listener.local_addr();
    let mut silent = TcpStream::connect(address).await.expect("listening");
    let leaf = setup.client();
    let (client, _accepted) =
        tokio::join!(setup.connect(address, Some(&leaf)), accept(&mut listener));
    client.expect("served beside the silent one");

    let server = tokio::spawn(async move { listener.accept().await });
    let end = timeout(LIMIT, silent.read(&mut [0; 1])).await.expect("cut off");
    assert!(matches!(end, Ok(0) | Err(_)), "closed: {end:?}");
    server.abort();
}

#[tokio::test]
async fn handshakes_beyond_the_limit_wait_their_turn() {
    let setup = Setup::new();
    let limit = Duration::from_millis(300);
    let mut listener = setup
        .listener(|config| (config.max_handshakes, config.handshake_timeout) = (1, limit))
        .await;
    let address = listener.local_addr();
    let _silent = TcpStream::connect(address).await.expect("listening");
    let leaf = setup.client();
    let start = tokio::time::Instant::now();
    let (client, _accepted) =
        tokio::join!(setup.connect(address, Some(&leaf)), accept(&mut listener));
    client.expect("served once the silent one is cut off");
    assert!(start.elapsed() >= limit, "it had the only place: {:?}", start.elapsed());
}

#[tokio::test]
async fn draining_lets_a_running_handshake_finish() {
    let setup = Setup::new();
    let mut listener = setup.listener(|_| {}).await;
    let address = listener.local_addr();
    let drain = listener.drain();
    let stream = TcpStream::connect(address).await.expect("listening");
    assert!(
        timeout(Duration::from_millis(500), listener.accept()).await.is_err(),
        "not a word yet"
    );
    drain.start();

    let leaf = setup.client();
    let config = Arc::new(setup.authority.client(Some(&leaf), &["http/1.1"]));
    let name = ServerName::try_from("localhost").expect("a name");
    let handshake = TlsConnector::from(config).connect(name, stream);
    let (client, accepted) = tokio::join!(handshake, accept(&mut listener));
    client.expect("finished");
    assert_eq!(accepted.peer().identity().and_then(tls::Identity::name), Some(CLIENT));
    assert!(std::future::poll_fn(|cx| listener.poll_accept(cx)).await.is_none());
}

#[tokio::test]
async fn an_axum_handler_knows_who_calls() {
    let setup = Setup::new();
    let listener = setup.listener(|_| {}).await;
    let address = listener.local_addr();
    let app = Router::new()
        .route(
            "/",
            get(|ConnectInfo(peer): ConnectInfo<Peer>| async move {
                let context = Context::current().expect("inside the server layer");
                assert_eq!(context.peer.as_ref(), Some(&peer));
                peer.identity().and_then(|identity| identity.name()).unwrap_or("?").to_owned()
            }),
        )
        .layer(ServerLayer::default());
    let service = app.into_make_service_with_connect_info::<Peer>();
    tokio::spawn(async move { axum::serve(listener, service).await });

    let leaf = setup.client();
    let mut client = setup.connect(address, Some(&leaf)).await.expect("trusted");
    let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    client.write_all(request).await.expect("open");
    let mut answer = String::new();
    timeout(LIMIT, client.read_to_string(&mut answer)).await.expect("in time").expect("complete");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(CLIENT), "{answer}");
}

#[tokio::test]
async fn handshakes_are_counted_by_result() {
    let setup = Setup::new();
    let metrics = Metrics::new();
    let listener = setup.listener(|config| config.handshake_timeout = Duration::from_millis(200));
    let mut listener = listener.await.counted(metrics.server().clone());
    let address = listener.local_addr();
    let stranger = Authority::new("another root").issue(&[CLIENT]);
    let friend = setup.client();
    let count = || {
        let all: Vec<_> = metrics.server().handshakes().collect();
        all.into_iter().map(|(how, count)| (how.as_str(), count)).collect::<Vec<_>>()
    };

    let clients = async {
        for leaf in [None, Some(&stranger)] {
            let refused = async { setup.connect(address, leaf).await?.read_u8().await };
            assert!(timeout(LIMIT, refused).await.expect("judged").is_err());
        }
        let mut plain = TcpStream::connect(address).await.expect("open");
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("open");
        // Answered with an alert, then closed.
        let mut rest = Vec::new();
        let _ = timeout(LIMIT, plain.read_to_end(&mut rest)).await.expect("closed");
        let mut silent = TcpStream::connect(address).await.expect("open");
        let _ = timeout(LIMIT, silent.read_to_end(&mut rest)).await.expect("closed");
        setup.connect(address, Some(&friend)).await.expect("trusted")
    };
    let (_client, _accepted) = tokio::join!(clients, accept(&mut listener));
    let expected = [("success", 1), ("client_certificate", 2), ("timeout", 1), ("failure", 1)];
    assert_eq!(count(), expected);
}
