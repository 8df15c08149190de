//! TLS to endpoints: whom we trust, whom we want, who we are, and files that change.

use http::Request;
use http_body_util::BodyExt;
use mesh_core::config::{self, Source};
use mesh_tower::connect::{Connections, Protocol, Settings};
use mesh_tower::tls::{Client, ClientConfig, Server};
use mesh_tower::{Body, Error, ErrorKind};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// Longest any single step of a test may take.
const STEP: Duration = Duration::from_secs(10);

async fn soon<T>(step: impl Future<Output = T>) -> T {
    timeout(STEP, step).await.expect("the step takes too long")
}

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mesh-tls-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Replaces a file the way careful programs do.
    fn put(&self, name: &str, text: &str) {
        let fresh = self.path(&format!(".{name}.new"));
        std::fs::write(&fresh, text).expect("written");
        std::fs::rename(fresh, self.path(name)).expect("renamed");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signed");
        Self { pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    /// A certificate and its key, as PEM.
    fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("a name"))
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("a URI"))
}

/// Answers each request with the identity of its client.
async fn serve(server: Arc<Server>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(server.config());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(socket).await?;
                let peer = Server::peer(stream.get_ref().1);
                let name = peer.as_ref().and_then(|peer| peer.name()).unwrap_or("nobody");
                let answer =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                let mut buffer = vec![0; 4096];
                while stream.read(&mut buffer).await? > 0 {
                    stream.write_all(answer.as_bytes()).await?;
                }
                stream.shutdown().await
            });
        }
    });
    address
}

struct World {
    folder: Folder,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        let (folder, authority) = (Folder::new(), Authority::new());
        folder.put("ca.pem", &authority.pem);
        Self { folder, authority }
    }

    /// Writes the server's pair: the key first, so that the pair is wrong for a moment.
    fn put_pair(&self, name: &str, (cert, key): &(String, String)) {
        self.folder.put(&format!("{name}.key"), key);
        self.folder.put(&format!("{name}.pem"), cert);
    }

    async fn server(&self, client_ca: bool) -> (SocketAddr, Arc<Server>) {
        let path = |name: &str| self.folder.path(name);
        let client_ca = client_ca.then(|| path("ca.pem"));
        let server = Server::from_files(path("server.pem"), path("server.key"), client_ca);
        let server = Arc::new(server.expect("the files load"));
        (serve(Arc::clone(&server)).await, server)
    }

    fn client(&self, change: impl FnOnce(&mut ClientConfig)) -> Client {
        let mut config = ClientConfig::default();
        config.ca = Some(self.folder.path("ca.pem"));
        config.server_name = Some("inventory.shop".to_owned());
        change(&mut config);
        Client::new(config).expect("the files load")
    }
}

async fn call(address: SocketAddr, client: Client) -> Result<String, Error> {
    let mut settings = Settings::default();
    settings.connect_timeout = STEP;
    settings.tls = Some(Arc::new(client));
    let connections = Arc::new(Connections::new(vec![address], None, Arc::new(settings)));
    let request = Request::get("http://inventory.shop/").body(Body::empty()).expect("valid");
    let response = soon(connections.send(request, Protocol::Http1)).await?;
    let body = soon(response.into_body().collect()).await?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn a_server_is_refused_for_the_right_reason() {
    let world = World::new();
    let inventory = || vec![dns("inventory.shop")];
    let year = |year| rcgen::date_time_ymd(year, 1, 1);
    type Change = Box<dyn FnOnce(&mut CertificateParams)>;
    /// Which certificate, what it holds, which name is wanted instead of the server's, the kind
    /// of the error if one is due, and a part of its text, or the answer.
    type Case = (&'static str, Change, Option<&'static str>, Option<ErrorKind>, &'static str);
    let cases: Vec<Case> = vec![
        (
            "its name",
            Box::new(move |leaf| leaf.subject_alt_names = inventory()),
            None,
            None,
            "nobody",
        ),
        (
            "its SPIFFE ID",
            Box::new(|leaf| leaf.subject_alt_names = vec![uri("spiffe://shop/ns/a/sa/inventory")]),
            Some("spiffe://shop/ns/a/sa/inventory"),
            None,
            "nobody",
        ),
        (
            "another name",
            Box::new(|leaf| leaf.subject_alt_names = vec![dns("orders.shop")]),
            None,
            Some(ErrorKind::TlsIdentity),
            "wanted \"inventory.shop\", the certificate proves \"orders.shop\"",
        ),
        (
            "an ID that only begins like the wanted one",
            Box::new(|leaf| {
                leaf.subject_alt_names = vec![uri("spiffe://shop/ns/a/sa/inventory-2")];
            }),
            Some("spiffe://shop/ns/a/sa/inventory"),
            Some(ErrorKind::TlsIdentity),
            "proves spiffe://shop/ns/a/sa/inventory-2",
        ),
        (
            "two URIs, one of them wanted",
            Box::new(|leaf| {
                leaf.subject_alt_names =
                    vec![uri("spiffe://shop/ns/a/sa/inventory"), uri("spiffe://shop/ns/a/sa/x")];
            }),
            Some("spiffe://shop/ns/a/sa/inventory"),
            Some(ErrorKind::TlsIdentity),
            "more than one URI",
        ),
        ("no name at all", Box::new(|_| {}), None, Some(ErrorKind::TlsIdentity), "proves no name"),
        (
            "expired",
            Box::new(move |leaf| {
                leaf.subject_alt_names = vec![dns("inventory.shop")];
                leaf.not_before = year(2000);
                leaf.not_after = year(2001);
            }),
            None,
            Some(ErrorKind::TlsExpired),
            "expired",
        ),
        (
            "not valid yet",
            Box::new(move |leaf| {
                leaf.subject_alt_names = vec![dns("inventory.shop")];
                leaf.not_before = year(4000);
                leaf.not_after = year(4001);
            }),
            None,
            Some(ErrorKind::TlsExpired),
            "valid only in",
        ),
    ];
    for (case, change, wanted, kind, text) in cases {
        world.put_pair("server", &world.authority.leaf(change));
        let (address, _server) = world.server(false).await;
        let client = world.client(|config| {
            config.subject_alt_names = wanted.into_iter().map(str::to_owned).collect();
        });
        match (call(address, client).await, kind) {
            (Ok(answer), None) => assert_eq!(answer, text, "{case}"),
            (Err(error), Some(kind)) => {
                assert_eq!(error.kind(), kind, "{case}: {error}");
                assert!(error.to_string().contains(text), "{case}: {error}");
                assert!(!error.may_have_reached(), "{case}: {error}");
            }
            (answer, _) => panic!("{case}: {answer:?}"),
        }
    }
}

#[tokio::test]
async fn a_stranger_signature_is_untrusted() {
    let world = World::new();
    let stranger = Authority::new();
    world.put_pair(
        "server",
        &stranger.leaf(|leaf| {
            leaf.subject_alt_names = vec![dns("inventory.shop")];
        }),
    );
    let (address, _server) = world.server(false).await;
    let error = call(address, world.client(|_| {})).await.expect_err("untrusted");
    assert_eq!(error.kind(), ErrorKind::TlsUntrusted, "{error}");
}

#[tokio::test]
async fn mutual_tls_asks_for_a_certificate_and_tells_who_it_is() {
    let world = World::new();
    let named = |name: &str| {
        let name = name.to_owned();
        world.authority.leaf(move |leaf| {
            leaf.subject_alt_names = if name.contains("://") {
                name.split(' ').map(uri).collect()
            } else {
                vec![dns(&name)]
            };
        })
    };
    world.put_pair("server", &named("inventory.shop"));
    world.put_pair("client", &named("spiffe://shop/ns/a/sa/cart"));
    world.put_pair("double", &named("spiffe://shop/ns/a/sa/cart spiffe://shop/ns/a/sa/x"));
    let (address, _server) = world.server(true).await;
    let with = |pair: &str| {
        world.client(|config| {
            config.cert = Some(world.folder.path(&format!("{pair}.pem")));
            config.key = Some(world.folder.path(&format!("{pair}.key")));
        })
    };

    assert_eq!(call(address, with("client")).await.expect("let in"), "spiffe://shop/ns/a/sa/cart");
    for (case, client) in [("none", world.client(|_| {})), ("two URIs", with("double"))] {
        let error = call(address, client).await.expect_err(case);
        assert_eq!(error.kind(), ErrorKind::Tls, "{case}: {error}");
        assert!(error.to_string().contains("the endpoint refused"), "{case}: {error}");
    }
}

#[tokio::test]
async fn the_handshake_chooses_http2_where_both_sides_speak_it() {
    let world = World::new();
    world.put_pair(
        "server",
        &world.authority.leaf(|leaf| {
            leaf.subject_alt_names = vec![dns("inventory.shop")];
        }),
    );
    let path = |name: &str| world.folder.path(name);
    let server = Server::from_files(path("server.pem"), path("server.key"), None);
    let server = server.expect("the files load");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(server.config());
            tokio::spawn(async move {
                let stream = acceptor.accept(socket).await.expect("TLS");
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.uri(), "https://inventory.shop/");
                    respond.send_response(http::Response::new(()), true).expect("open");
                }
            });
        }
    });
    let mut settings = Settings::default();
    settings.connect_timeout = STEP;
    settings.tls = Some(Arc::new(world.client(|_| {})));
    let connections = Arc::new(Connections::new(vec![address], None, Arc::new(settings)));
    for _ in 0..3 {
        let request = Request::get("http://inventory.shop/").body(Body::empty()).expect("valid");
        let response = soon(connections.send(request, Protocol::Auto)).await.expect("a response");
        assert_eq!(response.version(), http::Version::HTTP_2);
    }
    assert_eq!((connections.counts().http2, connections.counts().idle), (1, 0));
}

#[tokio::test]
async fn changed_files_count_for_the_next_handshake_and_broken_ones_do_not() {
    let world = World::new();
    let pair = |name: &'static str| {
        world.authority.leaf(move |leaf| leaf.subject_alt_names = vec![dns(name)])
    };
    let proven = |error: Error| error.to_string();
    world.put_pair("server", &pair("one.shop"));
    let (address, server) = world.server(false).await;
    let first = server.config();
    assert!(
        proven(call(address, world.client(|_| {})).await.expect_err("named one"))
            .contains("one.shop")
    );

    // A certificate without its key, then half a file: the first pair stays.
    world.folder.put("server.pem", &pair("two.shop").0);
    world.folder.put("server.pem", "-----BEGIN CERTIFICATE-----\nMIIB");
    let error = call(address, world.client(|_| {})).await.expect_err("named one");
    assert!(proven(error).contains("one.shop"));
    assert!(Arc::ptr_eq(&first, &server.config()));

    world.put_pair("server", &pair("three.shop"));
    soon(async {
        while Arc::ptr_eq(&first, &server.config()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let error = call(address, world.client(|_| {})).await.expect_err("named three");
    assert!(proven(error).contains("three.shop"));
}

#[cfg(unix)]
#[tokio::test]
async fn a_swapped_symlink_counts_as_a_change() {
    let world = World::new();
    let publish = |version: &str, name: &'static str| {
        let folder = world.folder.path(version);
        std::fs::create_dir(&folder).expect("created");
        let (cert, key) =
            world.authority.leaf(move |leaf| leaf.subject_alt_names = vec![dns(name)]);
        std::fs::write(folder.join("server.pem"), cert).expect("written");
        std::fs::write(folder.join("server.key"), key).expect("written");
        let link = world.folder.path("data.new");
        std::os::unix::fs::symlink(version, &link).expect("linked");
        std::fs::rename(link, world.folder.path("data")).expect("renamed");
    };
    publish("v1", "one.shop");
    for name in ["server.pem", "server.key"] {
        std::os::unix::fs::symlink(Path::new("data").join(name), world.folder.path(name))
            .expect("linked");
    }
    let (address, server) = world.server(false).await;
    let first = server.config();
    publish("v2", "two.shop");
    soon(async {
        while Arc::ptr_eq(&first, &server.config()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let error = call(address, world.client(|_| {})).await.expect_err("named two");
    assert!(error.to_string().contains("two.shop"), "{error}");
}

#[tokio::test]
async fn an_endpoint_known_by_address_only_is_asked_for_by_address() {
    let world = World::new();
    let pair = world.authority.leaf(|leaf| leaf.subject_alt_names = vec![dns("inventory.shop")]);
    world.put_pair("server", &pair);
    let (address, _server) = world.server(false).await;
    let client = world.client(|config| config.server_name = None);
    let error = call(address, client).await.expect_err("it bears a name, and no address");
    assert_eq!(error.kind(), ErrorKind::TlsIdentity);
    assert!(error.message().contains("wanted \"127.0.0.1\""), "{error}");
    assert!(error.message().contains("serverName or subjectAltNames"), "{error}");
}

#[test]
fn what_cannot_be_used_is_named() {
    let world = World::new();
    let (cert, key) = world.authority.leaf(|_| {});
    let other = world.authority.leaf(|_| {}).1;
    for (name, text) in [("cert", &cert), ("key", &key), ("other", &other)] {
        world.folder.put(name, text);
    }
    world.folder.put("empty", "");
    let path = |name: &str| world.folder.path(name);
    for (cert, key, culprit, reason) in [
        ("absent", "key", "absent", "No such file"),
        ("empty", "key", "empty", "no certificate"),
        ("cert", "cert", "cert", "no private key"),
        ("cert", "other", "other", "does not belong to"),
    ] {
        let error = Server::from_files(path(cert), path(key), None).expect_err(reason);
        let text = error.to_string();
        assert!(text.contains(culprit) && text.contains(reason), "{text}");
        assert!(!format!("{error:?}").contains("PRIVATE"));
    }
}

#[test]
fn a_name_that_the_configuration_passes_is_one_that_tls_takes() {
    let world = World::new();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut draws = fastrand::Rng::with_seed(seed);
    let alphabet: Vec<char> = "ab1._-:/A%".chars().collect();
    let mut drawn =
        || (0..draws.usize(1..9)).map(|_| alphabet[draws.usize(..alphabet.len())]).collect();
    let mut names: Vec<String> =
        ["::1", "::ffff:1.2.3.4", "10.0.0.300", "1.2", "spiffe://Shop/a", "spiffe://shop/a b"]
            .map(str::to_owned)
            .into();
    for _ in 0..400 {
        let random: String = drawn();
        names.push(format!("spiffe://{random}"));
        names.push(random);
    }
    let mut passed = 0;
    for name in &names {
        for key in ["serverName: ", "subjectAltNames: ["] {
            let end = if key.ends_with('[') { "]" } else { "" };
            let text = format!(
                "{{apiVersion: mesh/v1, kind: Service, metadata: {{name: a}}, spec: \
                 {{endpoints: {{static: ['127.0.0.1:1']}}, tls: {{{key}{name:?}{end}}}}}}}"
            );
            let documents = config::parse(&[Source::new("drawn", text)]).expect("well formed");
            let Ok(snapshot) = config::compile(&documents, 1) else { continue };
            let tls = snapshot.destinations()[0].tls.as_ref().expect("it is written");
            let mut settings = ClientConfig::from(tls);
            settings.ca = Some(world.folder.path("ca.pem"));
            passed += 1;
            if let Err(error) = Client::new(settings) {
                panic!("{key}{name:?} is checked as fine, and then refused: {error}");
            }
        }
    }
    assert!(passed > 50, "only {passed} names were fine");
}
