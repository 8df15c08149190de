//! Request smuggling: cases S1 to S19, against an endpoint that reads strictly.
//!
//! Every case is followed by a marked request in the same bytes. If the endpoint ever sees the
//! mark, the proxy and the endpoint disagreed on where a message ends.

mod common;

use common::recorder::Recorder;
use common::{exchange, in_both_modes, proxy, read, statuses};
use std::fmt::Write as _;
use testkit::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

in_both_modes! {
    what_is_framed_ambiguously_is_refused_and_nothing_is_smuggled,
    an_earlier_request_is_answered_before_the_refusal,
    equal_lengths_become_one,
    trailers_are_dropped_where_they_could_change_the_head,
    a_body_that_is_a_request_stays_a_body,
    what_is_cut_off_is_never_completed,
    what_a_framing_error_touched_is_not_used_again,
    bytes_after_an_upgrade_wait_for_the_switch,
    pipelined_requests_are_answered_in_order,
    heads_have_limits,
}

/// What is appended to a message to see whether it is taken for a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

fn head(fields: &str) -> String {
    format!("POST /case HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn chunked(body: &str) -> String {
    head("Transfer-Encoding: chunked\r\n") + body
}

/// Messages that must be refused, by the number of their case.
fn refused() -> Vec<(&'static str, Vec<u8>)> {
    let mut cases: Vec<(&'static str, String)> = vec![
        ("S1", head("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n"),
        ("S1", head("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n") + "0\r\n\r\n"),
        (
            "S3",
            "POST /case HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        ("S6", "GET /case HTTP/1.1\r\nHost : a\r\n\r\n".into()),
        ("S6", "GET /case HTTP/1.1\r\n Host: a\r\n\r\n".into()),
        ("S6", head("X: a\r\n b\r\n")),
        ("S6", head("X: a\r\n\tContent-Length: 5\r\n")),
        ("S6", head("Content-Length : 5\r\n")),
        ("S6", head("Transfer-Encoding : chunked\r\n")),
        ("S7", "GET /case HTTP/1.1\nHost: a\n\n".into()),
        ("S7", "GET /case HTTP/1.1\r\nHost: a\nX: y\r\n\r\n".into()),
        ("S7", "GET /case HTTP/1.1\r\nHost: a\r\n\n".into()),
        ("S7", head("X: a\rb\r\n")),
        ("S7", head("X: a\r\r\n")),
        ("S7", "GET /case HTTP/1.1\r\r\nHost: a\r\n\r\n".into()),
        ("S7", head("X: a\0b\r\n")),
        ("S7", head("X\0: a\r\n")),
        ("S8", chunked("0x5\r\nabcde\r\n0\r\n\r\n")),
        ("S8", chunked("+5\r\nabcde\r\n0\r\n\r\n")),
        ("S8", chunked("-1\r\nabcde\r\n0\r\n\r\n")),
        ("S8", chunked("5_0\r\nabcde\r\n0\r\n\r\n")),
        ("S8", chunked("\r\nabcde\r\n0\r\n\r\n")),
        ("S8", chunked("00000000000000005\r\nabcde\r\n0\r\n\r\n")),
        ("S8", chunked("fffffffffffffffff\r\nabcde\r\n0\r\n\r\n")),
        ("S8", chunked(" 5\r\nabcde\r\n0\r\n\r\n")),
        ("S8", chunked("5\0\r\nabcde\r\n0\r\n\r\n")),
        ("S9", chunked("5\r\nabcdefgh\r\n0\r\n\r\n")),
        ("S9", chunked("5\r\nabcde\n0\r\n\r\n")),
        ("S9", chunked("5\r\nabcdeXX0\r\n\r\n")),
        ("S10", chunked("5;a\nb\r\nabcde\r\n0\r\n\r\n")),
        ("S10", chunked("5;a\rb\r\nabcde\r\n0\r\n\r\n")),
        ("S10", chunked("5;a\0b\r\nabcde\r\n0\r\n\r\n")),
        ("S10", chunked("5\nabcde\r\n0\r\n\r\n")),
        ("S11", chunked(&format!("1;{}\r\na\r\n", "e".repeat(4096)).repeat(2000))),
        ("S14", head("Expect: 200-ok\r\nContent-Length: 5\r\n") + "abcde"),
        ("S14", head("Expect: 100-continue, x\r\nContent-Length: 5\r\n") + "abcde"),
        ("S19", "GET /case\r\n".into()),
        ("S19", "GET /case HTTP/3.7\r\nHost: a\r\n\r\n".into()),
        ("S19", "GET /case http/1.1\r\nHost: a\r\n\r\n".into()),
        ("S19", "GET  /case HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("S19", "\u{1}\u{2}\u{3}\u{4}random\r\n\r\n".into()),
    ];
    for value in [
        "x, chunked",
        "chunked, x",
        "chunked, chunked",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked\r\nTransfer-Encoding: identity",
        "identity",
        "\"chunked\"",
        "chunked;a=b",
        "\u{b}chunked",
        "",
    ] {
        cases.push(("S2", head(&format!("Transfer-Encoding: {value}\r\n")) + "0\r\n\r\n"));
    }
    for value in [
        "5\r\nContent-Length: 6",
        "5, 6",
        "+5",
        "-5",
        "0x5",
        "5.0",
        "5a",
        "1_0",
        "",
        "9223372036854775808",
    ] {
        cases.push(("S4", head(&format!("Content-Length: {value}\r\n")) + "abcde"));
    }
    let mut cases: Vec<_> =
        cases.into_iter().map(|(case, text)| (case, text.into_bytes())).collect();
    let mut latin = head("").trim_end().as_bytes().to_vec();
    latin.extend_from_slice(b"\r\nTransfer-Encoding: \xa0chunked\r\n\r\n0\r\n\r\n");
    cases.push(("S2", latin));
    cases.push(("S19", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefgh\r\n\r\n".to_vec()));
    cases
}

async fn what_is_framed_ambiguously_is_refused_and_nothing_is_smuggled(mode: &[&str]) {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), mode).await;
    let cases = refused();
    let mut failed = String::new();
    for (case, message) in &cases {
        let bytes = [message, SMUGGLED.as_bytes()].concat();
        let answer = exchange(address, &bytes).await;
        let found = statuses(&answer);
        if found.len() != 1 || !matches!(found[0], 400 | 405 | 417 | 431 | 505) {
            let shown: String = message.escape_ascii().take(200).map(char::from).collect();
            let _ = writeln!(failed, "{case} {shown}: {found:?}");
        }
    }
    assert!(failed.is_empty(), "of {} cases these were not refused:\n{failed}", cases.len());
    assert_eq!(endpoint.ambiguous(), Vec::<String>::new());
    let seen: Vec<_> = endpoint.requests().into_iter().map(|request| request.line).collect();
    assert!(seen.is_empty(), "complete requests reached the endpoint: {seen:?}");
}

async fn an_earlier_request_is_answered_before_the_refusal(mode: &[&str]) {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), mode).await;
    for (case, message) in refused() {
        // The answer to so long a message may be lost with what was not read of it.
        if case == "S11" {
            continue;
        }
        let bytes = [b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n", &message[..], SMUGGLED.as_bytes()];
        let found = statuses(&exchange(address, &bytes.concat()).await);
        let shown = message.escape_ascii();
        assert!(
            matches!(found[..], [200, 400 | 405 | 417 | 431 | 505]),
            "{case} {shown}: {found:?}"
        );
    }
    assert!(endpoint.requests().iter().all(|request| request.line == "GET /first HTTP/1.1"));
    assert_eq!(endpoint.ambiguous(), Vec::<String>::new());
}

async fn equal_lengths_become_one(mode: &[&str]) {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), mode).await;
    for fields in ["Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: 005\r\n"] {
        let bytes = head(&format!("{fields}Connection: close\r\n")) + "abcde";
        assert_eq!(statuses(&exchange(address, bytes.as_bytes()).await), [200], "S5 {fields}");
    }
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(request.all("content-length"), ["5"]);
        assert_eq!(request.body, b"abcde");
    }
}

async fn trailers_are_dropped_where_they_could_change_the_head(mode: &[&str]) {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), mode).await;
    let bytes = head("Transfer-Encoding: chunked\r\nConnection: close\r\n")
        + "3\r\nabc\r\n0\r\nContent-Length: 9\r\nHost: b\r\nX-Forwarded-Client-Cert: x\r\n\r\n";
    assert_eq!(statuses(&exchange(address, bytes.as_bytes()).await), [200]);
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 1, "S12");
    assert_eq!(requests[0].all("host"), ["a"]);
    assert!(requests[0].all("x-forwarded-client-cert").is_empty());
    assert_eq!(requests[0].body, b"abc");
    assert_eq!(endpoint.ambiguous(), Vec::<String>::new());
}

async fn a_body_that_is_a_request_stays_a_body(mode: &[&str]) {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), mode).await;
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let bytes = format!(
            "{method} /case HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
            SMUGGLED.len()
        );
        assert_eq!(statuses(&exchange(address, bytes.as_bytes()).await), [200], "S13 {method}");
    }
    let bytes = head(&format!(
        "Expect: 100-continue\r\nConnection: close\r\nContent-Length: {}\r\n",
        SMUGGLED.len()
    )) + SMUGGLED;
    let found = statuses(&exchange(address, bytes.as_bytes()).await);
    assert!(matches!(found[..], [200] | [100, 200]), "S14 {found:?}");
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 5);
    assert!(requests.iter().all(|request| request.body == SMUGGLED.as_bytes()));
    assert_eq!(endpoint.ambiguous(), Vec::<String>::new());
}

async fn what_is_cut_off_is_never_completed(mode: &[&str]) {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), mode).await;
    for message in [
        "GET /case HTTP/1.1\r\nHost".to_owned(),
        head("Content-Length: 10\r\n") + "abcde",
        chunked("5\r\nab"),
        chunked("5\r\nabcde\r\n"),
        chunked("5\r\nabcde\r\n0\r\n"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(message.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let found = statuses(&read(&mut stream).await);
        assert!(matches!(found[..], [] | [400]), "S15 {message:?}: {found:?}");
    }
    assert!(endpoint.requests().is_empty());
    let answer = exchange(address, b"GET /after HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(statuses(&answer.await), [200]);
    assert_eq!(endpoint.requests().len(), 1);
    assert_eq!(endpoint.ambiguous(), Vec::<String>::new());
}

async fn what_a_framing_error_touched_is_not_used_again(mode: &[&str]) {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), mode).await;
    let get = b"GET /whole HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut touched = Vec::new();
    // What reaches the endpoint, and the error that follows; empty where the client ends.
    for (start, error) in [
        (head("Content-Length: 10\r\n") + "abcde", ""),
        (chunked("5\r\nabcde\r\n"), ""),
        (chunked("5\r\nabcde\r\n"), "0x5\r\nabcde\r\n0\r\n\r\n"),
        (chunked("5\r\nabcde\r\n"), "+5\r\nabcde\r\n0\r\n\r\n"),
        (chunked("5\r\nabcde\r\n"), "5;a\nb\r\nabcde\r\n0\r\n\r\n"),
        (chunked("5\r\nabcde\r\n"), "0\r\nX\0: a\r\n\r\n"),
        (chunked("5\r\nabcde"), "XX0\r\n\r\n"),
    ] {
        // Leaves an idle connection to the endpoint, which the broken request may take.
        assert_eq!(statuses(&exchange(address, get).await), [200]);
        let before = endpoint.heads().len();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        until("the head reaches the endpoint", || endpoint.heads().len() > before).await;
        let connection = endpoint.heads()[before];
        if error.is_empty() {
            stream.shutdown().await.unwrap();
        } else {
            stream.write_all((error.to_owned() + SMUGGLED).as_bytes()).await.unwrap();
        }
        let found = statuses(&read(&mut stream).await);
        assert!(matches!(found[..], [] | [400]), "{start:?} {error:?}: {found:?}");
        until("its connection is closed", || endpoint.cut().contains(&connection)).await;
        assert!(!touched.contains(&connection), "{start:?} {error:?}: used again");
        touched.push(connection);
        assert_eq!(statuses(&exchange(address, get).await), [200]);
        let after = endpoint.requests().pop().unwrap();
        assert_eq!(after.line, "GET /whole HTTP/1.1");
        assert!(!touched.contains(&after.connection), "{start:?} {error:?}: used again");
    }
    assert_eq!(endpoint.cut(), touched, "no other connection was touched");
    assert!(endpoint.requests().iter().all(|request| request.line == "GET /whole HTTP/1.1"));
    assert_eq!(endpoint.ambiguous(), Vec::<String>::new());
}

async fn bytes_after_an_upgrade_wait_for_the_switch(mode: &[&str]) {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), mode).await;
    let ask = |protocol: &str| {
        format!("GET /up HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n")
    };
    // Granted: what was sent early arrives as the new protocol, after the switch.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all((ask("echo") + SMUGGLED).as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(SMUGGLED.as_bytes()) {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "S16 closed early");
    }
    assert_eq!(statuses(&answer), [101]);
    drop(stream);
    assert_eq!(endpoint.requests().len(), 1);
    // Granted to the second of two requests that came together.
    let first = "GET /before HTTP/1.1\r\nHost: a\r\n\r\n".to_owned();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all((first + &ask("echo") + "\u{1}\n" + SMUGGLED).as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(SMUGGLED.as_bytes()) {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "S16 closed early");
    }
    assert_eq!(statuses(&answer), [200, 101]);
    drop(stream);
    assert_eq!(endpoint.requests().len(), 3);
    // Refused: it is the next request after all, and read as one.
    let refused = ask("other") + "GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&exchange(address, refused.as_bytes()).await), [200, 200]);
    let lines: Vec<_> = endpoint.requests().into_iter().skip(3).map(|r| r.line).collect();
    assert_eq!(lines, ["GET /up HTTP/1.1", "GET /next HTTP/1.1"]);
    // Refused, and what follows is no request: it never reaches the endpoint.
    let garbage = ask("other") + "\u{1}\u{2}\n\n" + SMUGGLED;
    assert_eq!(statuses(&exchange(address, garbage.as_bytes()).await), [200, 400]);
    let h2c = "GET /h2c HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    assert_eq!(statuses(&exchange(address, h2c.as_bytes()).await), [200], "S17");
    let last = endpoint.requests().pop().unwrap();
    assert_eq!(last.line, "GET /h2c HTTP/1.1");
    assert!(last.all("upgrade").is_empty() && last.all("http2-settings").is_empty());
    assert_eq!(endpoint.ambiguous(), Vec::<String>::new());
}

async fn pipelined_requests_are_answered_in_order(mode: &[&str]) {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), mode).await;
    let mut bytes = String::new();
    for number in 0..100 {
        let close = if number == 99 { "Connection: close\r\n" } else { "" };
        let _ = write!(bytes, "GET /{number} HTTP/1.1\r\nHost: a\r\n{close}\r\n");
    }
    let answer = exchange(address, bytes.as_bytes()).await;
    assert_eq!(statuses(&answer), vec![200; 100], "S18");
    let lines: Vec<_> = endpoint.requests().into_iter().map(|request| request.line).collect();
    let expected: Vec<_> = (0..100).map(|number| format!("GET /{number} HTTP/1.1")).collect();
    assert_eq!(lines, expected);
}

async fn heads_have_limits(mode: &[&str]) {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), mode).await;
    let long = head(&format!("X: {}\r\n", "a".repeat(70_000)));
    assert_eq!(statuses(&exchange(address, long.as_bytes()).await), [431]);
    let many = head(&"X: a\r\n".repeat(101));
    assert_eq!(statuses(&exchange(address, many.as_bytes()).await), [431]);
    let target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(17_000));
    assert_eq!(statuses(&exchange(address, target.as_bytes()).await), [414]);
    let method = format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(65_000));
    let found = statuses(&exchange(address, method.as_bytes()).await);
    assert!(matches!(found[..], [400 | 431]), "{found:?}");
    assert!(endpoint.requests().is_empty());
    let fine = format!(
        "GET /{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {}\r\n{}\r\n",
        "a".repeat(8_000),
        "b".repeat(40_000),
        "Y: c\r\n".repeat(90)
    );
    assert_eq!(statuses(&exchange(address, fine.as_bytes()).await), [200]);
}
