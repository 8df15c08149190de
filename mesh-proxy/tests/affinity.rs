//! Through the proxy, calls that belong to one endpoint go there: by the address of the client, by
//! a cookie that the proxy made up, and by that of a session.

mod common;

use common::{SOON, proxy_of, read, statuses};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::time::timeout;

/// Four endpoints, and a proxy in front of them with this policy.
async fn four(policy: &str) -> (Vec<ScriptedEndpoint>, mesh_proxy::Proxy, SocketAddr) {
    let mut endpoints = Vec::new();
    for number in ["0", "1", "2", "3"] {
        endpoints
            .push(ScriptedEndpoint::http1(Reply::status(200).header("x-endpoint", number)).await);
    }
    let list: Vec<String> =
        endpoints.iter().map(|endpoint| format!("'{}'", endpoint.address())).collect();
    let yaml = format!(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: app }}\n\
         spec: {{ endpoints: {{ static: [{}] }} }}\n\
         ---\napiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: app }}\n\
         spec: {{ targetRef: {{ kind: Service, name: app }}, {policy} }}\n\
         ---\napiVersion: mesh/v1\nkind: Listener\nmetadata: {{ name: main }}\n\
         spec: {{ direction: Outbound, address: '127.0.0.1:0', service: app }}\n",
        list.join(", ")
    );
    let (proxy, addresses) = proxy_of(&yaml).await;
    (endpoints, proxy, addresses[0])
}

/// The answer to a GET of a client at `from`, in lower case.
async fn get_from(proxy: SocketAddr, from: IpAddr, fields: &str) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    let mut stream = timeout(SOON, socket.connect(proxy)).await.unwrap().unwrap();
    let mut head = "GET /items HTTP/1.1\r\nHost: app\r\nConnection: close\r\n".to_owned();
    write!(head, "{fields}\r\n").unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    String::from_utf8(read(&mut stream).await).unwrap()
}

async fn get(proxy: SocketAddr, fields: &str) -> String {
    get_from(proxy, [127, 0, 0, 1].into(), fields).await
}

fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn endpoint(answer: &str) -> usize {
    field(answer, "x-endpoint").unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
}

fn cookie(answer: &str) -> Option<(&str, &str)> {
    field(answer, "set-cookie")?.split_once("; ")
}

#[tokio::test]
async fn clients_are_shared_out_by_their_address_whatever_they_say_of_it() {
    let policy = "pick: { policy: Maglev }, hash: [{ sourceAddress: true }]";
    let (endpoints, _proxy, address) = four(policy).await;
    for client in 1..=40 {
        let client = [127, 0, 0, client].into();
        let first = endpoint(&get_from(address, client, "").await);
        for forged in ["", "X-Forwarded-For: 10.1.2.3\r\n", "Forwarded: for=10.1.2.4\r\n"] {
            assert_eq!(endpoint(&get_from(address, client, forged).await), first, "{client}");
        }
    }
    assert!(endpoints.iter().all(|endpoint| endpoint.calls() > 0));
}

#[tokio::test]
async fn a_cookie_that_the_proxy_made_leads_back() {
    let policy = "pick: { policy: RingHash }, hash: [{ cookie: { name: sid, ttl: 60s } }]";
    let (_endpoints, _proxy, address) = four(policy).await;
    for _ in 0..10 {
        let answer = get(address, "").await;
        let (value, attributes) = cookie(&answer).expect("made");
        assert_eq!(attributes, "Max-Age=60; HttpOnly");
        let next = get(address, &format!("Cookie: {value}\r\n")).await;
        assert_eq!((endpoint(&next), cookie(&next)), (endpoint(&answer), None));
    }
}

#[tokio::test]
async fn a_session_fails_over_or_if_strict_is_refused() {
    for strict in [false, true] {
        let policy = format!("affinity: {{ cookie: {{ name: s, path: / }}, strict: {strict} }}");
        let (mut endpoints, _proxy, address) = four(&policy).await;
        let answer = get(address, "").await;
        let (value, attributes) = cookie(&answer).expect("a session");
        assert_eq!(attributes, "Path=/; HttpOnly");
        let home = endpoint(&answer);
        let fields = format!("Cookie: other=1; {value}\r\n");
        for _ in 0..10 {
            let next = get(address, &fields).await;
            assert_eq!((endpoint(&next), cookie(&next)), (home, None));
        }

        endpoints[home].kill().await;
        let next = get(address, &fields).await;
        if strict {
            assert_eq!(statuses(next.as_bytes()), [503]);
            assert!(
                field(&next, "proxy-status").is_some_and(|why| why.contains("no_healthy_upstream")),
                "{next}"
            );
        } else {
            assert_ne!(endpoint(&next), home);
            assert!(cookie(&next).is_some(), "the session has moved: {next}");
        }
    }
}
