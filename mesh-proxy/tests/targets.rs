//! Target, Host, paths and identity: cases P1 to P15, on the wire.
//!
//! What the endpoint sees is what rules saw: one Host, one spelling of the path, no field that a
//! stranger may not set.

mod common;

use common::recorder::{Recorded, Recorder};
use common::{exchange, in_both_modes, listener, proxy, proxy_of, route, service, statuses};

in_both_modes! {
    a_request_names_one_host,
    rules_on_fields_hold_for_repeated_fields_and_odd_bytes,
    paths_reach_the_endpoint_in_one_spelling,
    what_belongs_to_one_hop_ends_here,
    strangers_cannot_claim_an_identity,
    empty_lines_before_a_request_lead_past_nothing,
    the_proxy_protocol_is_not_believed_unasked,
}

/// Sends a GET and returns the status, and what the endpoint saw of it.
async fn get(
    endpoint: &Recorder,
    address: std::net::SocketAddr,
    target: &str,
    fields: &str,
) -> (Vec<u16>, Option<Recorded>) {
    let before = endpoint.requests().len();
    let bytes = format!("GET {target} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n");
    let found = statuses(&exchange(address, bytes.as_bytes()).await);
    (found, endpoint.requests().into_iter().nth(before))
}

async fn a_request_names_one_host(mode: &[&str]) {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), mode).await;
    for fields in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: a/b\r\n",
        "Host: u@a\r\n",
        "Host: a b\r\n",
        "Host:\r\n",
        "Host: a,b\r\n",
        "Host: a:99999\r\n",
    ] {
        let (status, seen) = get(&endpoint, address, "/", fields).await;
        assert!(status == [400] && seen.is_none(), "P1 {fields:?}: {status:?}");
    }
    for target in
        ["http://u:p@a/", "http://u@a/", "a:80", "x", "*", "ftp://a/", "//", "http://", "?q", "#f"]
    {
        let (status, seen) = get(&endpoint, address, target, "Host: a\r\n").await;
        let refused = status == [400] && seen.is_none();
        // Two slashes are a path that is normalised.
        assert!(refused || (target == "//" && status == [200]), "P3 {target}: {status:?}");
    }
    let (status, seen) = get(&endpoint, address, "http://b:81/x", "Host: a\r\n").await;
    assert_eq!(status, [200], "P2");
    let seen = seen.unwrap();
    assert_eq!((seen.line.as_str(), seen.all("host")), ("GET /x HTTP/1.1", vec!["b:81"]));
    let (status, seen) = get(&endpoint, address, "/x#fragment", "Host: a\r\n").await;
    assert_eq!((status, seen.unwrap().line.as_str()), (vec![200], "GET /x HTTP/1.1"), "P4");
    assert_eq!(endpoint.ambiguous(), Vec::<String>::new());
}

async fn rules_on_fields_hold_for_repeated_fields_and_odd_bytes(mode: &[&str]) {
    let (open, denied) = (Recorder::start().await, Recorder::start().await);
    let rule = |name: &str, value: &str, to: &str| {
        let headers =
            format!("headers: [{{ name: {name}, type: RegularExpression, value: '{value}' }}]");
        format!("{{ matches: [{{ {headers} }}], backendRefs: [{{ name: {to} }}] }}")
    };
    let exact = "{ matches: [{ headers: [{ name: x-exact, value: evil }] }], \
        backendRefs: [{ name: denied }] }";
    let all = "{ backendRefs: [{ name: app }] }";
    let yaml = service("app", open.address(), "")
        + &service("denied", denied.address(), "")
        + &route("HTTPRoute", "a", "app", &rule("x-any", ".*", "denied"))
        + &route("HTTPRoute", "b", "app", &rule("x-evil", ".*evil.*", "denied"))
        + &route("HTTPRoute", "c", "app", exact)
        + &route("HTTPRoute", "d", "app", all)
        + &listener("main", mode[1], "app");
    let (_proxy, addresses) = proxy_of(&yaml).await;
    let mut sent = 0;
    for fields in [
        &b"X-Any: 1\r\n"[..],
        b"X-Any: \xff\r\n",
        b"X-Any: \x80\xfe\r\n",
        b"X-Any: \xc3\xa9\r\n",
        b"X-Any:\r\n",
        b"x-ANY: \xff\r\nX-Any: 1\r\n",
        b"X-Evil: evil\r\n",
        b"X-Evil: \xffevil\r\n",
        b"X-Evil: evil\xff\r\n",
        b"X-Evil: 1\r\nX-Evil: evil\r\n",
        b"X-Evil: evil\r\nX-Evil: 1\r\n",
        b"X-Evil: evil\r\nX-Evil: \xff\r\n",
        b"X-Exact: evil\r\n",
        b"X-Exact: evil\r\nX-Exact: evil\r\n",
        b"X-Exact: 1\r\nX-Exact: evil\r\n",
        b"X-Exact: evil\r\nX-Exact: \xff\r\n",
    ] {
        let head: [&[u8]; 3] =
            [b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n", fields, b"\r\n"];
        let found = statuses(&exchange(addresses[0], &head.concat()).await);
        let shown = fields.escape_ascii();
        assert_eq!(found, [200], "P8 {shown}");
        sent += 1;
        assert!(open.requests().is_empty(), "P8 {shown}");
    }
    assert_eq!(denied.requests().len(), sent);
    assert_eq!(denied.ambiguous(), Vec::<String>::new());
    let (status, seen) = get(&open, addresses[0], "/", "Host: a\r\nX-Exact: 1\r\n").await;
    assert!(status == [200] && seen.is_some(), "others pass");
}

async fn paths_reach_the_endpoint_in_one_spelling(mode: &[&str]) {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), mode).await;
    for (target, expected) in [
        ("/a/%2e%2e/admin?x=..", "/admin?x=.."),
        ("/a/.%2E/admin", "/admin"),
        ("/./admin", "/admin"),
        ("//admin", "/admin"),
        ("///admin", "/admin"),
        ("/x/../admin", "/admin"),
        ("/../../admin", "/admin"),
        ("/%61dmin", "/admin"),
        ("/%252e%252e/admin", "/%252e%252e/admin"),
        ("http://a/x/%2e%2e/admin", "/admin"),
    ] {
        let (status, seen) = get(&endpoint, address, target, "Host: a\r\n").await;
        assert_eq!(status, [200], "{target}");
        assert_eq!(seen.unwrap().line, format!("GET {expected} HTTP/1.1"), "P5 P7 {target}");
    }
    let before = endpoint.requests().len();
    for target in [
        "/x/..%2fadmin",
        "/x%2f..%2fadmin",
        "/%2Fadmin",
        "/x/..%5cadmin",
        "/x\\..\\admin",
        "/admin;x=1",
        "/x/..;/admin",
        "/admin%00",
        "/admin%0a",
        "/%c0%ae%c0%ae/admin",
        "/x/%e0%80%ae%2e/admin",
        "/admin%",
        "/admin%2",
        "/admin%zz",
        "/%ff",
    ] {
        let (status, _) = get(&endpoint, address, target, "Host: a\r\n").await;
        assert_eq!(status, [400], "P6 P9 {target}");
    }
    assert_eq!(endpoint.requests().len(), before);
}

async fn what_belongs_to_one_hop_ends_here(mode: &[&str]) {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), mode).await;
    let fields = "Host: a\r\nConnection: X-Forwarded-For, Host, X-Private, Content-Length\r\n\
        X-Private: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\n\
        Upgrade: websocket\r\nProxy-Authorization: Basic eA==\r\nX-Kept: yes\r\n";
    let (status, seen) = get(&endpoint, address, "/", fields).await;
    assert_eq!(status, [200]);
    let seen = seen.unwrap();
    for gone in [
        "connection",
        "x-private",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
        "proxy-authorization",
    ] {
        assert!(seen.all(gone).is_empty(), "P10 P11 {gone}: {seen:?}");
    }
    assert_eq!(seen.all("host"), ["a"]);
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-kept"), ["yes"]);
}

async fn strangers_cannot_claim_an_identity(mode: &[&str]) {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), mode).await;
    let fields = "Host: a\r\nX-Forwarded-Client-Cert: URI=spiffe://forged\r\n\
        x-FORWARDED-client-CERT: URI=spiffe://forged\r\nX_Forwarded_Client_Cert: forged\r\n\
        X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\nForwarded: for=10.0.0.1\r\n\
        X-Envoy-Original-Path: /admin\r\nX-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\n\
        X-Envoy-Expected-Rq-Timeout-Ms: 1\r\nX-Forwarded-Proto: https\r\n";
    let (status, seen) = get(&endpoint, address, "/", fields).await;
    assert_eq!(status, [200]);
    let seen = seen.unwrap();
    let forged = seen.fields.iter().any(|(_, value)| {
        value.contains("forged") || value.contains("10.0.0.") || value.contains("admin")
    });
    assert!(!forged, "P12 P13 P14: {seen:?}");
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
}

async fn empty_lines_before_a_request_lead_past_nothing(mode: &[&str]) {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), mode).await;
    let request = "GET /a/../admin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
        X-Forwarded-Client-Cert: URI=\"spiffe://forged\"\r\n\r\n";
    for lines in 1..=4 {
        let answer = exchange(address, ("\r\n".repeat(lines) + request).as_bytes()).await;
        assert_eq!(statuses(&answer), [200], "{lines} lines");
        let seen = endpoint.requests().pop().unwrap();
        assert_eq!(seen.line, "GET /admin HTTP/1.1", "P5");
        assert!(seen.all("x-forwarded-client-cert").is_empty(), "P12 {seen:?}");
    }
    let before = endpoint.requests().len();
    for prefix in ["\r\n".repeat(5), "\n".into(), " ".into(), "\t".into(), "\r".into(), "\0".into()]
    {
        let answer = exchange(address, (prefix.clone() + request).as_bytes()).await;
        assert_eq!(statuses(&answer), [400], "{prefix:?}");
    }
    let tab = request.replacen(' ', "\t", 1);
    assert_eq!(statuses(&exchange(address, tab.as_bytes()).await), [400]);
    assert_eq!(endpoint.requests().len(), before);
    assert_eq!(endpoint.ambiguous(), Vec::<String>::new());
}

async fn the_proxy_protocol_is_not_believed_unasked(mode: &[&str]) {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), mode).await;
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec();
    second.resize(16 + 65_535, 0x41);
    for header in [&b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"[..], &second] {
        let answer = exchange(address, &[header, request].concat()).await;
        assert_eq!(statuses(&answer), [400], "P15");
    }
    assert!(endpoint.requests().is_empty() && endpoint.ambiguous().is_empty());
}
