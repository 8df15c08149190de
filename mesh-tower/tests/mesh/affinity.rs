//! Calls that belong to one endpoint: by hash, and by the cookie of their session.

use super::{addresses, attempts, mesh, policy, service, state};
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body_util::BodyExt;
use mesh_tower::{Body, CallOptions, Error, ErrorKind, Mesh};
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::until;
use tower::ServiceExt;

const URL: &str = "http://inventory/items?user=ada";

/// Endpoints whose answers say which they are, and a mesh with this policy for them.
async fn four(spec: &str) -> (Vec<ScriptedEndpoint>, Mesh) {
    let mut endpoints = Vec::new();
    for number in ["0", "1", "2", "3"] {
        endpoints
            .push(ScriptedEndpoint::http1(Reply::status(200).header("x-endpoint", number)).await);
    }
    let mesh = mesh(&format!("{}{}", policy(spec), service("inventory", &addresses(&endpoints))));
    (endpoints, mesh)
}

/// The head of the answer to a GET.
async fn get(mesh: &Mesh, fields: &[(HeaderName, &str)]) -> Result<HeaderMap, Error> {
    let mut request = Request::get(URL).body(Body::empty()).expect("valid");
    for (name, value) in fields {
        request.headers_mut().append(name, value.parse().expect("a value"));
    }
    send(mesh, request).await
}

async fn send(mesh: &Mesh, request: Request<Body>) -> Result<HeaderMap, Error> {
    let response = mesh.http().oneshot(request).await?;
    assert_eq!(response.status(), StatusCode::OK);
    let (head, body) = Response::into_parts(response);
    body.collect().await.expect("a whole body");
    Ok(head.headers)
}

fn endpoint(head: &HeaderMap) -> usize {
    head["x-endpoint"].to_str().unwrap().parse().unwrap()
}

/// The fields of `Set-Cookie`, and what a client then sends.
fn cookies(head: &HeaderMap) -> Vec<(&str, &str)> {
    let set = head.get_all(SET_COOKIE).iter().map(|field| field.to_str().unwrap());
    set.map(|field| (field, field.split(';').next().unwrap())).collect()
}

#[tokio::test]
async fn calls_of_one_key_go_to_one_endpoint_and_keys_are_shared_out() {
    const USER: HeaderName = HeaderName::from_static("x-user");
    for by in ["RingHash", "Maglev"] {
        let spec = format!("pick: {{ policy: {by} }}, hash: [{{ header: x-user }}]");
        let (endpoints, mesh) = four(&spec).await;
        for user in 0..40 {
            let user = user.to_string();
            let first = endpoint(&get(&mesh, &[(USER, &user)]).await.unwrap());
            for _ in 0..3 {
                let next = get(&mesh, &[(USER, &user)]).await.unwrap();
                assert_eq!(endpoint(&next), first, "{by} {user}");
            }
        }
        assert!(endpoints.iter().all(|endpoint| endpoint.calls() > 0), "{by}");
    }
}

#[tokio::test]
async fn the_callers_own_key_decides_alone() {
    let spec = "pick: { policy: Maglev }, hash: [{ queryParameter: user }]";
    let (_endpoints, mesh) = four(spec).await;
    let mut seen = [false; 4];
    for key in 0..40 {
        let with_key = async || {
            let options = CallOptions::new().hash_key(format!("key {key}"));
            let request = Request::get(URL).extension(options).body(Body::empty()).expect("valid");
            endpoint(&send(&mesh, request).await.unwrap())
        };
        let first = with_key().await;
        assert_eq!(with_key().await, first);
        seen[first] = true;
    }
    assert_eq!(seen, [true; 4], "the query was the same each time");
}

#[tokio::test]
async fn a_cookie_is_made_for_a_call_without_one_and_leads_back() {
    let spec = "pick: { policy: RingHash }, \
                hash: [{ cookie: { name: sid, ttl: 1h, path: /, sameSite: Lax } }]";
    let (_endpoints, mesh) = four(spec).await;
    let mut seen = [false; 4];
    for _ in 0..40 {
        let head = get(&mesh, &[]).await.unwrap();
        let [(field, cookie)] = cookies(&head)[..] else { panic!("{head:?}") };
        let (value, attributes) = field.split_once("; ").unwrap();
        assert_eq!(value.len(), "sid=".len() + 16, "{field}");
        assert_eq!(attributes, "Max-Age=3600; Path=/; SameSite=Lax; HttpOnly");
        for _ in 0..3 {
            let next = get(&mesh, &[(COOKIE, cookie)]).await.unwrap();
            assert_eq!(endpoint(&next), endpoint(&head));
            assert!(cookies(&next).is_empty(), "it has one");
        }
        seen[endpoint(&head)] = true;
    }
    assert_eq!(seen, [true; 4]);
}

const SESSION: &str = "affinity: { cookie: { name: session, path: /items, ttl: 2m } }";

#[tokio::test]
async fn a_session_stays_at_its_endpoint_and_leaves_one_that_is_down() {
    let (mut endpoints, mesh) = four(SESSION).await;
    let head = get(&mesh, &[]).await.unwrap();
    let [(field, cookie)] = cookies(&head)[..] else { panic!("{head:?}") };
    assert!(field.ends_with("; Max-Age=120; Path=/items; HttpOnly"), "{field}");
    let home = endpoint(&head);
    for _ in 0..20 {
        let next = get(&mesh, &[(COOKIE, cookie)]).await.unwrap();
        assert_eq!(endpoint(&next), home);
        assert!(cookies(&next).is_empty(), "nothing has changed");
    }

    endpoints[home].kill().await;
    let moved = get(&mesh, &[(COOKIE, cookie)]).await.unwrap();
    let [(_, cookie)] = cookies(&moved)[..] else { panic!("{moved:?}") };
    let other = endpoint(&moved);
    assert_ne!(other, home);
    for _ in 0..20 {
        let next = get(&mesh, &[(COOKIE, cookie)]).await.unwrap();
        assert_eq!(endpoint(&next), other, "the session has moved");
    }
}

#[tokio::test]
async fn a_strict_session_is_refused_while_its_endpoint_is_down() {
    let strict = "affinity: { cookie: { name: session }, strict: true }";
    let (mut endpoints, mesh) = four(strict).await;
    let head = get(&mesh, &[]).await.unwrap();
    let [(field, cookie)] = cookies(&head)[..] else { panic!("{head:?}") };
    assert!(field.ends_with("; HttpOnly") && !field.contains("Max-Age"), "{field}");
    let home = endpoint(&head);
    let address = endpoints[home].address();

    endpoints[home].kill().await;
    let others = |mesh: &Mesh| -> u64 {
        let all = endpoints.iter().map(|endpoint| attempts(mesh, "inventory", endpoint.address()));
        all.sum::<u64>() - attempts(mesh, "inventory", address)
    };
    let before = others(&mesh);
    for _ in 0..3 {
        let error = get(&mesh, &[(COOKIE, cookie)]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint, "{error}");
        assert_eq!(error.kind().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(error.message().contains(&address.to_string()), "{error}");
    }
    assert_eq!(others(&mesh), before, "no other endpoint was asked");

    endpoints[home].restart();
    until("the endpoint is ready", || state(&mesh, "inventory", address) == "ready").await;
    assert_eq!(endpoint(&get(&mesh, &[(COOKIE, cookie)]).await.unwrap()), home);
}

#[tokio::test]
async fn a_cookie_that_names_no_endpoint_is_no_session() {
    let (_endpoints, mesh) = four(SESSION).await;
    let long = format!("session={}", "A".repeat(10_000));
    // The last is 192.0.2.1:80, which is an address, but nobody's here.
    for cookie in ["session=", "session=%%%", "session=AAAA", &long, "session=MTkyLjAuMi4xOjgw"] {
        let head = get(&mesh, &[(COOKIE, cookie)]).await.unwrap();
        assert_eq!(cookies(&head).len(), 1, "a new session begins");
    }
}

#[tokio::test]
async fn a_path_that_the_cookie_does_not_cover_has_no_session() {
    let (_endpoints, mesh) = four(SESSION).await;
    let request = Request::get("http://inventory/other").body(Body::empty()).expect("valid");
    assert!(cookies(&send(&mesh, request).await.unwrap()).is_empty());
}

/// Two destinations of equal weight, whose route hashes calls by this, and endpoints that say which.
async fn split(hash: &str) -> (Vec<ScriptedEndpoint>, Mesh) {
    let mut endpoints = Vec::new();
    let mut yaml = String::new();
    for (number, name) in [("0", "one"), ("1", "two")] {
        let reply = Reply::status(200).header("x-endpoint", number);
        endpoints.push(ScriptedEndpoint::http1(reply).await);
        yaml += &service(name, &addresses(&endpoints[endpoints.len() - 1..]));
    }
    yaml += &format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{ name: split }}\nspec: {{ hostnames: [inventory], rules: [{{ backendRefs: \
         [{{ name: one, weight: 1 }}, {{ name: two, weight: 1 }}] }}] }}\n\
         ---\napiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: split }}\n\
         spec: {{ targetRef: {{ kind: HTTPRoute, name: split }}, hash: [{hash}] }}\n"
    );
    (endpoints, mesh(&yaml))
}

#[tokio::test]
async fn a_split_by_hash_keeps_to_its_choice() {
    const USER: HeaderName = HeaderName::from_static("x-user");
    let (endpoints, mesh) = split("{ header: x-user }").await;
    for user in 0..40 {
        let user = user.to_string();
        let first = endpoint(&get(&mesh, &[(USER, &user)]).await.unwrap());
        for _ in 0..3 {
            assert_eq!(endpoint(&get(&mesh, &[(USER, &user)]).await.unwrap()), first, "{user}");
        }
    }
    assert!(endpoints.iter().all(|endpoint| endpoint.calls() > 0));
}

#[tokio::test]
async fn a_cookie_made_for_a_split_leads_back_to_the_first_choice() {
    let (endpoints, mesh) = split("{ cookie: { name: sid, ttl: 1h } }").await;
    for _ in 0..20 {
        let head = get(&mesh, &[]).await.unwrap();
        let [(_, cookie)] = cookies(&head)[..] else { panic!("one cookie: {head:?}") };
        for _ in 0..3 {
            let next = get(&mesh, &[(COOKIE, cookie)]).await.unwrap();
            assert_eq!(endpoint(&next), endpoint(&head));
            assert!(cookies(&next).is_empty(), "it has one");
        }
    }
    assert!(endpoints.iter().all(|endpoint| endpoint.calls() > 0));
}
