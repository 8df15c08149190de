//! What may be sent twice: by descriptors of gRPC services; and that nothing else ever is.

use super::{LIMIT, addresses, call, mesh, policy, seen, service};
use http::{Method, Request};
use mesh_core::config::Source;
use mesh_tower::{Body, BuildError, CallOptions, Mesh};
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::until;
use tower::ServiceExt;

const UNAVAILABLE: u32 = 14;

/// Package `shop`; service `Items` with `Get`, which has no side effects, and `Add`, of which
/// nothing is said.
const DESCRIPTORS: &[u8] =
    b"\x0a\x26\x12\x04shop\x32\x1e\x0a\x05Items\x12\x0a\x0a\x03Get\x22\x03\x90\x02\x01\
    \x12\x09\x0a\x03Add\x22\x02\x08\x00";

/// Attempts that a gRPC call takes while the endpoint is unavailable.
async fn attempts(mesh: &Mesh, busy: &ScriptedEndpoint, path: &str, asked: Option<bool>) -> u64 {
    let before = busy.calls();
    let mut request = Request::post(format!("http://items{path}"))
        .header("content-type", "application/grpc")
        .body(Body::from("\0\0\0\0\0"))
        .expect("a request");
    if let Some(asked) = asked {
        request.extensions_mut().insert(CallOptions::new().idempotent(asked));
    }
    mesh.http().oneshot(request).await.expect("an answer");
    busy.calls() - before
}

fn built(config: &str) -> Mesh {
    let builder = Mesh::builder().config_text("test", config).descriptor_set(DESCRIPTORS);
    builder.build().unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test]
async fn the_caller_wins_over_the_route_and_the_route_over_the_descriptors() {
    let busy = ScriptedEndpoint::http2(Reply::grpc_trailers_only(UNAVAILABLE)).await;
    let items = service("items", &[busy.address()]);
    let off = "outlier: { consecutive5xx: 0 }, budget: { minRetriesPerSecond: 100 }";
    let open = built(&format!("{}{items}", policy(off)));
    for (path, asked, expected) in [
        ("/shop.Items/Get", None, 2),
        ("/shop.Items/Get", Some(false), 1),
        ("/shop.Items/Add", None, 1),
        ("/shop.Items/Add", Some(true), 2),
        ("/shop.Items/Get/x", None, 1),
        ("/Items/Get", None, 1),
    ] {
        assert_eq!(attempts(&open, &busy, path, asked).await, expected, "{path} {asked:?}");
    }
    let closed = policy(&format!("{off}, retry: {{ idempotent: false }}"));
    let closed = built(&format!("{closed}{items}"));
    assert_eq!(attempts(&closed, &busy, "/shop.Items/Get", None).await, 1, "the policy says no");
    assert_eq!(attempts(&closed, &busy, "/shop.Items/Get", Some(true)).await, 2);
}

#[tokio::test]
async fn a_service_names_the_file_of_its_descriptors() {
    let busy = ScriptedEndpoint::http2(Reply::grpc_trailers_only(UNAVAILABLE)).await;
    let file = format!("mesh-descriptors-{}-items.bin", std::process::id());
    let file = std::env::temp_dir().join(file);
    std::fs::write(&file, DESCRIPTORS).expect("written");
    let config = format!(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: items }}\nspec:\n  \
         endpoints: {{ static: ['{}'] }}\n  descriptorSet: '{}'\n",
        busy.address(),
        file.display()
    );
    let mesh = mesh(&config);
    assert_eq!(attempts(&mesh, &busy, "/shop.Items/Get", None).await, 2);
    assert_eq!(attempts(&mesh, &busy, "/shop.Items/Add", None).await, 1);

    let told = |content: Option<&[u8]>| {
        match content {
            Some(content) => std::fs::write(&file, content).expect("written"),
            None => std::fs::remove_file(&file).expect("removed"),
        }
        let source = Source::new("test.yaml", &*config);
        mesh.configure(&[source]).expect_err("it is wrong").to_string()
    };
    for (content, why) in [
        (Some(&DESCRIPTORS[..20]), "it ends too early"),
        (Some(b"kind: Service".as_slice()), "it is no FileDescriptorSet"),
        (Some(&[]), "it describes no service"),
        (Some(&[0; 17 << 20]), "it is larger than 16 MiB"),
        (None, "No such file"),
    ] {
        let told = told(content);
        assert!(told.contains(why), "{why} in\n{told}");
        assert!(told.contains("test.yaml:6:18") && told.contains("items.bin"), "{told}");
    }
    assert_eq!(attempts(&mesh, &busy, "/shop.Items/Get", None).await, 2, "the old one holds");
}

#[tokio::test]
async fn what_is_built_in_must_be_a_set_of_descriptors() {
    let built = Mesh::builder().descriptor_set(b"\xff\xff").build();
    let error = built.expect_err("it is none");
    assert!(matches!(error, BuildError::DescriptorSet(_)), "{error:?}");
    assert!(error.to_string().contains("it is no FileDescriptorSet"), "{error}");
}

/// All conditions that there are, three retries, a hedge that is due at once, and a mirror: of each
/// end that a call can have once its bytes are out, the application sees one.
#[tokio::test]
async fn what_may_do_harm_twice_reaches_the_application_once() {
    let all = "pick: { policy: RoundRobin }, trustRequestHeaders: true, \
        outlier: { consecutive5xx: 0, consecutiveGatewayFailure: 0 }, \
        budget: { percent: 100, minRetriesPerSecond: 1000 }, \
        retry: { attempts: 3, perTryTimeout: 100ms, backoff: { base: 1ms, max: 1ms }, \
        retriableHeaders: [{ name: x-again }], on: [connect-failure, refused-stream, \
        reset-before-request, reset, gateway-error, 5xx, retriable-4xx, envoy-ratelimited, \
        '400-599', cancelled, unknown, deadline-exceeded, internal, resource-exhausted, \
        unavailable, aborted] }";
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: r }\n\
        spec:\n  parentRefs: [{ kind: Service, name: items }]\n  rules:\n  - backendRefs: [{ name: items }]\n    \
        filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: shadow } } }]\n---\n";
    let ends = [
        ("503", Reply::status(503), false),
        ("409", Reply::status(409), false),
        ("rate limited", Reply::status(429).header("x-envoy-ratelimited", "true"), false),
        ("a field", Reply::status(200).header("x-again", "yes"), false),
        ("reset", Reply::reset(), false),
        ("reset, unread", Reply::reset().without_reading(), false),
        ("cut", Reply::status(200).body(1000).cut_after(10), false),
        ("slow", Reply::status(200).after(Duration::from_millis(50)), false),
        ("hangs", Reply::hang(), false),
        ("grpc", Reply::grpc_trailers_only(UNAVAILABLE), true),
        ("grpc, trailers", Reply::grpc(UNAVAILABLE), true),
        ("grpc, hangs", Reply::hang(), true),
    ];
    for (end, reply, grpc) in ends {
        for hedge in ["", ", hedge: { delay: 1ms, maxAttempts: 4 }"] {
            let start = |reply: Reply| async {
                match grpc {
                    true => ScriptedEndpoint::http2(reply).await,
                    false => ScriptedEndpoint::http1(reply).await,
                }
            };
            let application = [start(reply.clone()).await, start(reply.clone()).await];
            let shadow = start(reply.clone()).await;
            let documents = service("items", &addresses(&application))
                + &service("shadow", &[shadow.address()])
                + route
                + &policy(&format!("{all}{hedge}"));
            let mesh = mesh(&documents);
            for number in 1..=2 {
                let mut request = Request::post("http://items/shop.Items/Add")
                    .header("x-envoy-retry-on", "5xx,reset,retriable-4xx")
                    .header("x-envoy-max-retries", "3")
                    .header("x-envoy-hedge-on-per-try-timeout", "true");
                if grpc {
                    request = request.header("content-type", "application/grpc");
                }
                let request = request.body(Body::from("\0\0\0\0\0")).expect("a request");
                let answer = tokio::time::timeout(LIMIT, mesh.http().oneshot(request)).await;
                if let Ok(response) = answer.expect("in time") {
                    let _ = http_body_util::BodyExt::collect(response.into_body()).await;
                }
                let counts = mesh.metrics().destination("shadow").counts();
                assert_eq!(counts.mirrored, number, "{end}{hedge}");
                let reached: u64 = application.iter().map(ScriptedEndpoint::calls).sum();
                assert_eq!(reached, number, "{end}{hedge}");
                assert_eq!(seen(&mesh, "items").retries, 0, "{end}{hedge}");
            }
            until("the copies are there", || shadow.calls() == 2).await;
            assert_eq!(seen(&mesh, "shadow").retries, 0, "{end}{hedge}");
        }
    }
}

/// The same conditions repeat what does no harm, so that the test above means something.
#[tokio::test]
async fn what_does_no_harm_twice_is_sent_again() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(503)).await;
    let mesh = mesh(&service("items", &[endpoint.address()]));
    call(&mesh, Method::GET, "http://items/", Body::empty()).await.expect("an answer");
    assert_eq!(endpoint.calls(), 2);
}
