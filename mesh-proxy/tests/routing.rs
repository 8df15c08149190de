//! What routes do to requests on their way through the proxy: the same as in a linked mesh.

mod common;

use common::{exchange, listener, proxy_of, route, service, statuses};
use testkit::endpoint::{Reply, ScriptedEndpoint};

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
