//! What routes do to requests on their way through the proxy: the same as in a linked mesh.

mod common;

use common::{exchange, listener, proxy_of, route, service, statuses};
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::net::Authority;
use testkit::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

fn request(head: &str) -> Vec<u8> {
    format!("{head}\r\nHost: app\r\nConnection: close\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn filters_act_on_what_clients_send_and_get() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200).header("x-secret", "1")).await;
    let yaml = service("app", endpoint.address(), "")
        + &listener("main", "http", "app")
        + &route(
            "HTTPRoute",
            "edits",
            "app",
            "matches: [{ path: { value: /api } }]
    filters:
    - type: URLRewrite
      urlRewrite: { hostname: app.example, path: { type: ReplacePrefixMatch, replacePrefixMatch: /v1 } }
    - { type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-by, value: mesh }] } }
    - { type: ResponseHeaderModifier, responseHeaderModifier: { remove: [x-secret] } }
    - { type: CORS, cors: { allowOrigins: ['https://a.example'] } }
    backendRefs: [{ name: app }]
  - matches: [{ path: { value: /old } }]
    filters: [{ type: RequestRedirect, requestRedirect: { scheme: https, port: 8443 } }]
  - matches: [{ path: { value: /teapot } }]
    filters: [{ type: ExtensionRef, extensionRef: { group: mesh, kind: HTTPRouteFilter, name: teapot } }]
---
apiVersion: mesh/v1
kind: HTTPRouteFilter
metadata: { name: teapot }
spec: { directResponse: { statusCode: 418, body: short and stout } }",
        );
    let (_proxy, addresses) = proxy_of(&yaml).await;

    let answer =
        exchange(addresses[0], &request("GET /api/x?q=1 HTTP/1.1\r\nOrigin: https://a.example"))
            .await;
    let text = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(text.starts_with("http/1.1 200") && !text.contains("x-secret"), "{text}");
    assert!(text.contains("access-control-allow-origin: https://a.example\r\n"), "{text}");
    let arrival = endpoint.arrivals().pop().unwrap();
    assert_eq!(arrival.uri.to_string(), "/v1/x?q=1");
    assert_eq!(
        (&arrival.headers["host"], &arrival.headers["x-by"]),
        (&"app.example".parse().unwrap(), &"mesh".parse().unwrap())
    );
    assert_eq!(arrival.headers["x-envoy-original-path"], "/api/x?q=1");

    let answer = exchange(addresses[0], &request("GET /old/x HTTP/1.1")).await;
    let text = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(text.contains("location: https://app:8443/old/x\r\n"), "{text}");
    assert_eq!(statuses(text.to_uppercase().as_bytes()), [302]);

    let answer =
        String::from_utf8(exchange(addresses[0], &request("GET /teapot HTTP/1.1")).await).unwrap();
    assert_eq!(statuses(answer.as_bytes()), [418]);
    assert!(
        answer.ends_with("\r\n\r\nshort and stout") && answer.contains("content-length: 15"),
        "{answer}"
    );
    assert_eq!(endpoint.calls(), 1);
}

/// What comes back over TLS with whoever has the name.
async fn over_tls(
    authority: &Authority,
    to: SocketAddr,
    name: &'static str,
) -> std::io::Result<String> {
    let connector = TlsConnector::from(Arc::new(authority.client(None, &["http/1.1"])));
    let stream = TcpStream::connect(to).await?;
    let mut stream = connector.connect(ServerName::try_from(name).unwrap(), stream).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn tls_that_is_not_ended_here_goes_by_the_name_asked_for() {
    let authority = Authority::new("mesh.test");
    let mut endpoints = Vec::new();
    for (name, status) in [("one.example", 201), ("x.two.example", 202)] {
        let tls = authority.server(&authority.issue(&[name]), false, &["http/1.1"]);
        endpoints.push(ScriptedEndpoint::https1(tls, Reply::status(status)).await);
    }
    let tls_route = |name: &str, host: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TLSRoute\nmetadata: {{ name: {name} }}\n\
             spec:\n  parentRefs: [{{ kind: Service, name: {name} }}]\n  hostnames: ['{host}']\n  \
             rules: [{{ backendRefs: [{{ name: {name} }}] }}]\n"
        )
    };
    let listener = |name: &str, more: &str| {
        format!(
            "---\napiVersion: mesh/v1\nkind: Listener\nmetadata: {{ name: {name} }}\n\
             spec: {{ direction: Outbound, address: '127.0.0.1:0', protocol: tls{more} }}\n"
        )
    };
    let yaml = service("one", endpoints[0].address(), "")
        + &service("two", endpoints[1].address(), "")
        + &tls_route("one", "one.example")
        + &tls_route("two", "*.two.example")
        + &listener("a", "")
        + &listener("b", ", service: two");
    let (_proxy, addresses) = proxy_of(&yaml).await;

    let answer = over_tls(&authority, addresses[0], "one.example").await.unwrap();
    assert_eq!(statuses(answer.as_bytes()), [201], "{answer}");
    let answer = over_tls(&authority, addresses[0], "x.two.example").await.unwrap();
    assert_eq!(statuses(answer.as_bytes()), [202], "{answer}");
    let answer = over_tls(&authority, addresses[1], "x.two.example").await.unwrap();
    assert_eq!(statuses(answer.as_bytes()), [202], "{answer}");
    for (listener, name) in [(0, "three.example"), (0, "two.example"), (1, "one.example")] {
        let refused = over_tls(&authority, addresses[listener], name).await.unwrap_err();
        assert!(
            refused.to_string().contains("UnrecognizedName")
                || refused.to_string().contains("UnrecognisedName"),
            "{name}: {refused}"
        );
    }
    let before = endpoints[0].connections();
    assert!(exchange(addresses[0], b"GET / HTTP/1.1\r\n\r\n").await.is_empty(), "no TLS");
    assert_eq!(endpoints[0].connections(), before);
}

#[tokio::test]
async fn faults_and_copies_are_made_here_as_in_a_linked_mesh() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let shadow = ScriptedEndpoint::http1(Reply::status(500)).await;
    let yaml = service("app", endpoint.address(), "")
        + &service("next", shadow.address(), "")
        + &listener("main", "http", "app")
        + &route("HTTPRoute", "all", "app", "backendRefs: [{ name: app }]")
        + &route(
            "HTTPRoute",
            "copied",
            "app",
            "matches: [{ path: { value: /copied } }]
    filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: next } } }]
    backendRefs: [{ name: app }]",
        )
        + &route(
            "HTTPRoute",
            "failing",
            "app",
            "matches: [{ path: { value: /failing } }]
    backendRefs: [{ name: app }]",
        )
        + "---
apiVersion: mesh/v1
kind: TrafficPolicy
metadata: { name: failing }
spec:
  targetRef: { kind: HTTPRoute, name: failing }
  fault: { delay: { fixedDelay: 20ms, percentage: 100 }, abort: { httpStatus: 503, percentage: 100 } }
";
    let (_proxy, addresses) = proxy_of(&yaml).await;

    let post = |path: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nContent-Length: 5");
        [request(&head), b"hello".to_vec()].concat()
    };
    assert_eq!(statuses(&exchange(addresses[0], &post("/copied")).await), [200]);
    until("the copy is whole", || shadow.body_bytes() == 5).await;
    assert_eq!(shadow.arrivals()[0].headers["host"], "app-shadow");

    let answer = exchange(addresses[0], &post("/failing")).await;
    assert_eq!(statuses(&answer), [503]);
    let text = String::from_utf8(answer).unwrap();
    assert!(text.contains("details=\"fault_injected\""), "{text}");
    assert_eq!(endpoint.calls(), 1, "only what was not failed");
}
