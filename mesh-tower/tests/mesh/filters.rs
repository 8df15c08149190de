//! Filters of routes on real sockets: what endpoints see, and what callers get.

use super::{mesh, service};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use mesh_tower::{Body, Mesh};
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tower::ServiceExt;

/// A route on service `inventory` with these rules.
fn route(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r }}\n\
         spec:\n  parentRefs: [{{ kind: Service, name: inventory }}]\n  rules:\n{rules}---\n"
    )
}

async fn both(reply: Reply, rules: &str) -> (ScriptedEndpoint, Mesh) {
    let endpoint = ScriptedEndpoint::http1(reply).await;
    let mesh = mesh(&(service("inventory", &[endpoint.address()]) + &route(rules)));
    (endpoint, mesh)
}

async fn send(mesh: &Mesh, request: http::request::Builder) -> (Response<()>, String) {
    let request = request.body(Body::empty()).expect("a request");
    let response = mesh.http().oneshot(request).await.expect("an answer");
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.expect("a whole body").to_bytes();
    (Response::from_parts(head, ()), String::from_utf8_lossy(&bytes).into_owned())
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a [u8]> {
    headers.get_all(name).iter().map(|value| value.as_bytes()).collect()
}

#[tokio::test]
async fn fields_are_edited_on_the_way_there_and_back_by_rule_and_backend() {
    let reply = Reply::status(200).header("x-version", "7").header("x-secret", "1");
    let (endpoint, mesh) = both(
        reply,
        "  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{ name: x-set, value: rule }]
        add: [{ name: x-add, value: rule }]
        remove: [x-gone]
    - type: ResponseHeaderModifier
      responseHeaderModifier: { set: [{ name: x-by, value: rule }], remove: [x-secret] }
    backendRefs:
    - name: inventory
      filters:
      - type: RequestHeaderModifier
        requestHeaderModifier: { set: [{ name: x-set, value: backend }], add: [{ name: x-add, value: backend }] }
      - type: ResponseHeaderModifier
        responseHeaderModifier: { set: [{ name: x-by, value: backend }], add: [{ name: x-version, value: '8' }] }
",
    )
    .await;
    let request = Request::get("http://inventory/")
        .header("x-set", "caller")
        .header("x-add", "caller")
        .header("x-gone", "caller");
    let (response, _) = send(&mesh, request).await;

    let arrived = &endpoint.arrivals()[0].headers;
    assert_eq!(values(arrived, "x-set"), [b"backend"], "the backend's edits come after the rule's");
    assert_eq!(values(arrived, "x-add"), [&b"caller"[..], b"rule", b"backend"]);
    assert!(!arrived.contains_key("x-gone"));
    let headers = response.headers();
    assert_eq!(values(headers, "x-by"), [b"rule"], "and on the way back before them");
    assert_eq!(values(headers, "x-version"), [b"7", b"8"]);
    assert!(!headers.contains_key("x-secret"));
}

#[tokio::test]
async fn a_rewrite_changes_host_and_path_keeps_the_query_and_names_the_path_before() {
    let (endpoint, mesh) = both(
        Reply::status(200),
        "  - matches: [{ path: { value: /api } }]
    filters:
    - type: URLRewrite
      urlRewrite: { hostname: one.example, path: { type: ReplacePrefixMatch, replacePrefixMatch: / } }
    backendRefs: [{ name: inventory }]
  - matches: [{ path: { value: /all } }]
    filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplaceFullPath, replaceFullPath: /one } } }]
    backendRefs: [{ name: inventory }]
  - matches: [{ path: { value: /host } }]
    filters: [{ type: URLRewrite, urlRewrite: { hostname: two.example } }]
    backendRefs: [{ name: inventory }]
",
    )
    .await;
    for (path, arrives, host, original) in [
        ("/api/items/7?a=1", "/items/7?a=1", "one.example", Some("/api/items/7?a=1")),
        ("/api", "/", "one.example", Some("/api")),
        ("/all/x?y", "/one?y", "inventory", Some("/all/x?y")),
        ("/host/x", "/host/x", "two.example", None),
    ] {
        send(&mesh, Request::get(format!("http://inventory{path}"))).await;
        let arrival = endpoint.arrivals().pop().expect("it arrived");
        assert_eq!(arrival.uri.to_string(), arrives);
        assert_eq!(arrival.headers["host"], host);
        let before = arrival.headers.get("x-envoy-original-path");
        assert_eq!(before.map(|value| value.to_str().expect("text")), original, "{path}");
    }
    // An origin-form target with a Host field, as a proxy passes it on.
    send(&mesh, Request::get("/host/y").header("host", "inventory")).await;
    let arrival = endpoint.arrivals().pop().expect("it arrived");
    assert_eq!(arrival.headers["host"], "two.example");
}

#[tokio::test]
async fn a_redirect_and_a_direct_response_go_nowhere() {
    let (endpoint, mesh) = both(
        Reply::status(200),
        "  - matches: [{ path: { value: /old } }]
    filters:
    - type: RequestRedirect
      requestRedirect: { scheme: https, statusCode: 308, path: { type: ReplacePrefixMatch, replacePrefixMatch: /new } }
    - { type: ResponseHeaderModifier, responseHeaderModifier: { set: [{ name: x-by, value: rule }] } }
  - matches: [{ path: { value: /gone } }]
    filters: [{ type: ExtensionRef, extensionRef: { group: mesh, kind: HTTPRouteFilter, name: gone } }]
---
apiVersion: mesh/v1
kind: HTTPRouteFilter
metadata: { name: gone }
spec: { directResponse: { statusCode: 410, contentType: text/html, body: <p>gone</p> } }
",
    )
    .await;
    let (response, body) = send(&mesh, Request::post("http://inventory:8080/old/x?y=1")).await;
    assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(response.headers()["location"], "https://inventory/new/x?y=1");
    assert_eq!(response.headers()["x-by"], "rule");
    assert_eq!(body, "");

    let (response, body) = send(&mesh, Request::get("http://inventory/gone")).await;
    assert_eq!((response.status(), body.as_str()), (StatusCode::GONE, "<p>gone</p>"));
    assert_eq!(response.headers()["content-type"], "text/html");

    let grpc = |path: &str| {
        Request::post(format!("http://inventory{path}")).header("content-type", "application/grpc")
    };
    let (response, body) = send(&mesh, grpc("/gone")).await;
    assert_eq!((response.status(), body.as_str()), (StatusCode::OK, ""));
    assert_eq!(response.headers()["grpc-status"], "2");
    assert_eq!(response.headers()["grpc-message"], "<p>gone</p>");
    let (response, _) = send(&mesh, grpc("/old")).await;
    assert_eq!(response.headers()["grpc-message"], "redirected to https://inventory/new");
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test]
async fn a_preflight_is_answered_here_and_the_call_after_it_is_readable() {
    let (endpoint, mesh) = both(
        Reply::status(200).header("access-control-allow-origin", "*"),
        "  - filters:
    - type: CORS
      cors: { allowOrigins: ['https://*.shop.example'], allowCredentials: true, allowMethods: [PUT], allowHeaders: [x-a], maxAge: 60 }
    backendRefs: [{ name: inventory }]
",
    )
    .await;
    let preflight = |origin: &str| {
        Request::options("http://inventory/")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
    };
    let (response, body) = send(&mesh, preflight("https://www.shop.example")).await;
    assert_eq!((response.status(), body.as_str()), (StatusCode::NO_CONTENT, ""));
    assert_eq!(response.headers()["access-control-allow-origin"], "https://www.shop.example");
    assert_eq!(response.headers()["access-control-allow-methods"], "PUT");
    assert_eq!(response.headers()["access-control-max-age"], "60");
    let (response, _) = send(&mesh, preflight("https://evil.example")).await;
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    assert_eq!(endpoint.connections(), 0, "a preflight goes nowhere");

    let call = |origin: &str| Request::put("http://inventory/").header("origin", origin);
    let (response, _) = send(&mesh, call("https://www.shop.example")).await;
    let shown = values(response.headers(), "access-control-allow-origin");
    assert_eq!(shown, [b"https://www.shop.example"], "what the endpoint said is replaced");
    assert_eq!(response.headers()["access-control-allow-credentials"], "true");
    send(&mesh, Request::options("http://inventory/")).await;
    assert_eq!(endpoint.calls(), 2, "OPTIONS alone is a call like others");
}
