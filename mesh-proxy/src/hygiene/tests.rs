use super::*;
use mesh_tower::tls::SpiffeId;

fn edge() -> Edge {
    Edge::new(&Peer::new(([192, 0, 2, 1], 4711).into()), false)
}

fn trusted() -> Edge {
    let peer = Peer::new(([192, 0, 2, 1], 4711).into());
    let id: SpiffeId = "spiffe://mesh.test/ns/a/sa/b".parse().expect("an ID");
    Edge::new(&peer.with_identity(id.into()), true)
}

/// A GET with one `Host`, and more fields.
fn get(target: &str, fields: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::get(target).body(()).unwrap();
    request.headers_mut().insert(HOST, HeaderValue::from_static("a"));
    for (name, value) in fields {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().append(HeaderName::from_static(name), value);
    }
    request
}

fn names(request: &Request<()>) -> Vec<&str> {
    let mut names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

const USUAL: [&str; 3] = ["host", "x-forwarded-for", "x-forwarded-proto"];

#[test]
fn a_usual_request_only_learns_where_it_comes_from() {
    let mut usual = get("/a?b=../c", &[("accept", "*/*")]);
    assert_eq!(request(&mut usual, &edge()), Ok(Asks::Answer));
    assert_eq!(usual.uri(), "/a?b=../c");
    assert_eq!(usual.headers()["x-forwarded-for"], "192.0.2.1");
    assert_eq!(usual.headers()["x-forwarded-proto"], "http");
    assert_eq!(names(&usual), ["accept", "host", "x-forwarded-for", "x-forwarded-proto"]);
}

#[test]
fn hosts_must_be_one_and_valid() {
    for host in ["a", "a.b:80", "A-1_2~.x", "127.0.0.1:65535", "[::1]", "[::ffff:1.2.3.4]:8"] {
        let mut ok = get("/", &[]);
        ok.headers_mut().insert(HOST, HeaderValue::from_str(host).unwrap());
        assert!(request(&mut ok, &edge()).is_ok(), "{host}");
    }
    for host in [
        "", "a/b", "u@a", "a b", "a:", "a:x", "a:65536", "a:1:2", "[]", "[a", "[::1]x", "a,b",
        "a%2eb", ":80",
    ] {
        let mut wrong = get("/", &[]);
        wrong.headers_mut().insert(HOST, HeaderValue::from_str(host).unwrap());
        assert!(request(&mut wrong, &edge()).is_err(), "{host}");
    }
    let mut none = get("/", &[]);
    none.headers_mut().remove(HOST);
    assert_eq!(request(&mut none, &edge()).unwrap_err().message, "no Host");
    let two = request(&mut get("/", &[("host", "a")]), &edge());
    assert_eq!(two.unwrap_err().message, "more than one Host");
}

#[test]
fn the_authority_of_the_target_wins() {
    let mut absolute = get("http://b:81/x/../y?q", &[]);
    assert!(request(&mut absolute, &edge()).is_ok());
    assert_eq!(
        (absolute.uri().to_string().as_str(), &absolute.headers()[HOST]),
        ("/y?q", &HeaderValue::from_static("b:81"))
    );
    for target in ["http://u@b/", "http://u:p@b/", "ftp://b/", "b:80", "x"] {
        assert!(request(&mut get(target, &[]), &edge()).is_err(), "{target}");
    }
    assert!(request(&mut get("*", &[]), &edge()).is_err());
    let mut options = get("*", &[]);
    *options.method_mut() = Method::OPTIONS;
    assert!(request(&mut options, &edge()).is_ok());
    assert_eq!(options.uri(), "*");
}

#[test]
fn http2_keeps_its_authority_and_loses_host() {
    let mut request2 = get("http://b/x//y", &[("cookie", "a=1"), ("cookie", "b=2")]);
    *request2.version_mut() = Version::HTTP_2;
    assert!(request(&mut request2, &edge()).is_ok());
    assert_eq!(request2.uri(), "http://b/x/y");
    assert!(!request2.headers().contains_key(HOST));
    assert_eq!(request2.headers()[COOKIE], "a=1; b=2");
    assert_eq!(request2.headers().get_all(COOKIE).iter().count(), 1);
    let mut encrypted = get("https://b/x", &[]);
    *encrypted.version_mut() = Version::HTTP_2;
    assert!(request(&mut encrypted, &edge()).is_ok());
    assert_eq!(encrypted.uri(), "http://b/x", "the scheme was that of the caller's connection");
    let mut userinfo = get("http://u@b/", &[]);
    *userinfo.version_mut() = Version::HTTP_2;
    assert!(request(&mut userinfo, &edge()).is_err());
}

#[test]
fn long_targets_and_connect_have_their_own_status() {
    let long = request(&mut get(&format!("/{}", "a".repeat(17_000)), &[]), &edge());
    assert_eq!(long.unwrap_err().status, 414);
    let mut connect = get("/", &[]);
    *connect.method_mut() = Method::CONNECT;
    *connect.uri_mut() = Uri::from_static("a:80");
    assert_eq!(request(&mut connect, &edge()).unwrap_err().status, 405);
    let expect = request(&mut get("/", &[("expect", "200-ok")]), &edge());
    assert_eq!(expect.unwrap_err().status, 417);
}

#[test]
fn hop_by_hop_fields_end_here() {
    let mut hop = get(
        "/",
        &[
            ("connection", "close, X-Private"),
            ("connection", "Host, X-Forwarded-For, x-forwarded-proto"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic eA=="),
            ("te", "gzip"),
            ("upgrade", "websocket"),
            ("content-length", "0"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
        ],
    );
    assert_eq!(request(&mut hop, &edge()), Ok(Asks::Answer));
    assert_eq!(names(&hop), USUAL);
    let mut grpc = get("/", &[("te", "trailers")]);
    assert!(request(&mut grpc, &edge()).is_ok());
    assert_eq!(grpc.headers()[TE], "trailers");
}

#[test]
fn only_a_proper_upgrade_goes_on() {
    let mut websocket =
        get("/", &[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
    assert_eq!(request(&mut websocket, &edge()), Ok(Asks::Upgrade));
    assert_eq!(websocket.headers()[CONNECTION], "upgrade");
    assert_eq!(websocket.headers()[UPGRADE], "websocket");
    let mut h2c = get(
        "/",
        &[
            ("connection", "Upgrade, HTTP2-Settings"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMA"),
        ],
    );
    assert_eq!(request(&mut h2c, &edge()), Ok(Asks::Answer));
    assert_eq!(names(&h2c), USUAL);
    for several in [
        &[("upgrade", "websocket"), ("upgrade", "h2c")][..],
        &[("upgrade", "websocket, h2c")],
        &[("upgrade", "h2c,websocket")],
    ] {
        let mut several = get("/", &[&[("connection", "upgrade")], several].concat());
        assert_eq!(request(&mut several, &edge()), Ok(Asks::Answer));
        assert_eq!(names(&several), USUAL, "the endpoint is not to choose");
    }
}

#[test]
fn strangers_cannot_say_who_they_are() {
    let said: &[(&'static str, &str)] = &[
        ("x-forwarded-client-cert", "URI=spiffe://forged"),
        ("x_forwarded_client_cert", "URI=spiffe://forged"),
        ("x_forwarded-client-cert", "URI=spiffe://forged"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "internal"),
        ("forwarded", "for=10.0.0.1"),
        ("x-real-ip", "10.0.0.1"),
        ("x-envoy-original-path", "/admin"),
        ("x-envoy-expected-rq-timeout-ms", "1"),
        ("x-original-url", "/admin"),
        ("x-rewrite-url", "/admin"),
    ];
    let mut stranger = get("/", said);
    assert!(request(&mut stranger, &edge()).is_ok());
    assert_eq!(names(&stranger), USUAL);
    assert_eq!(stranger.headers()["x-forwarded-for"], "192.0.2.1");
    assert_eq!(stranger.headers()["x-forwarded-proto"], "http");

    let mut known = get("/", said);
    assert!(request(&mut known, &trusted()).is_ok());
    assert_eq!(known.headers()["x-forwarded-for"], "10.0.0.1, 192.0.2.1");
    assert_eq!(known.headers()["x-envoy-expected-rq-timeout-ms"], "1");
    assert_eq!(known.headers()["x-forwarded-client-cert"], "URI=\"spiffe://mesh.test/ns/a/sa/b\"");
    assert!(!known.headers().keys().any(|name| name.as_str().contains('_')));
}

#[test]
fn trailers_cannot_change_the_head() {
    let mut fields: HeaderMap = [
        "content-length",
        "transfer-encoding",
        "host",
        "x-forwarded-client-cert",
        "x_forwarded_client_cert",
        "authorization",
        "connection",
        "x-envoy-retry-on",
        "te",
        "grpc-status",
        "x-checksum",
    ]
    .into_iter()
    .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")))
    .collect();
    trailers(&mut fields);
    let mut left: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["grpc-status", "x-checksum"]);
}

#[test]
fn responses_lose_what_was_between_us_and_the_endpoint() {
    let build = |status: u16| {
        Response::builder()
            .status(status)
            .header("connection", "upgrade, x-hop")
            .header("x-hop", "1")
            .header("keep-alive", "timeout=5")
            .header("transfer-encoding", "chunked")
            .header("upgrade", "websocket")
            .header("content-length", "3")
            .body(())
            .unwrap()
    };
    let mut usual = build(200);
    response(&mut usual);
    let left: Vec<_> = usual.headers().keys().map(HeaderName::as_str).collect();
    assert_eq!(left, ["content-length"]);
    let mut switching = build(101);
    response(&mut switching);
    assert_eq!(switching.headers()[UPGRADE], "websocket");
    assert_eq!(switching.headers()[CONNECTION], "upgrade");
}
