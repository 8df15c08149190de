//! Which connections are kept for the next call, and for how long.

use super::*;
use mesh_tower::connect::{Dial, Dialing, Transport};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

#[tokio::test]
async fn one_connection_serves_call_after_call() {
    let (address, accepted) = scripted(|mut socket, _| async move {
        loop {
            let head = head(&mut socket).await?;
            assert!(head.starts_with("GET /item HTTP/1.1\r\n"), "{head}");
            assert_eq!(head.matches("host: inventory.shop\r\n").count(), 1, "{head}");
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await?;
        }
    })
    .await;
    let connections = connections(address);
    for _ in 0..5 {
        let response = send(&connections, get("/item")).await.expect("a response");
        assert_eq!(text(response).await, "hello");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    assert_eq!((connections.counts().idle, connections.counts().active), (1, 0));
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closed_costs_no_call() {
    let (address, accepted) = scripted(|mut socket, _| async move {
        head(&mut socket).await?;
        socket.write_all(OK).await
    })
    .await;
    let connections = connections(address);
    for _ in 0..20 {
        let response = send(&connections, get("/")).await.expect("a response");
        assert_eq!(text(response).await, "ok");
    }
    assert!(accepted.load(Ordering::SeqCst) > 1);
}

#[tokio::test]
async fn a_connection_that_says_close_is_not_kept() {
    let (address, accepted) = scripted(|mut socket, _| async move {
        head(&mut socket).await?;
        let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
        socket.write_all(answer).await?;
        rest(&mut socket).await;
        Ok(())
    })
    .await;
    let connections = connections(address);
    for call in 1..=3 {
        assert_eq!(text(send(&connections, get("/")).await.expect("a response")).await, "ok");
        assert_eq!(connections.counts().idle, 0);
        assert_eq!(accepted.load(Ordering::SeqCst), call);
    }
}

#[tokio::test]
async fn probe_parks_a_connection_and_drain_closes_it() {
    let (events, mut seen) = mpsc::channel(1);
    let (address, accepted) = scripted(move |mut socket, _| {
        let events = events.clone();
        async move {
            rest(&mut socket).await;
            events.send(()).await.expect("awaited");
            Ok(())
        }
    })
    .await;
    let connections = connections(address);
    connections.probe(Protocol::Http1).await.expect("reachable");
    assert_eq!(connections.counts().idle, 1);
    connections.drain();
    assert_eq!(connections.counts().idle, 0);
    soon(seen.recv()).await.expect("closed");
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn no_more_than_the_limit_stay_idle() {
    let (address, _) = scripted(|mut socket, _| async move {
        loop {
            head(&mut socket).await?;
            socket.write_all(OK).await?;
        }
    })
    .await;
    let mut settings = Settings::default();
    settings.max_idle = 2;
    let connections = Arc::new(Connections::new(vec![address], None, Arc::new(settings)));
    for _ in 0..5 {
        connections.probe(Protocol::Http1).await.expect("reachable");
    }
    assert_eq!(connections.counts().idle, 2);
}

/// Endpoints in memory, which answer every request.
#[derive(Debug)]
struct InMemory;

impl Dial for InMemory {
    fn dial(&self, _: SocketAddr) -> Dialing {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while theirs.read(&mut buffer).await? > 0 {
                theirs.write_all(OK).await?;
            }
            io::Result::Ok(())
        });
        Box::pin(async { Ok(Transport::new(ours)) })
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_drain_what_comes_later_is_still_closed_when_idle() {
    let mut settings = Settings::default();
    settings.dial = Arc::new(InMemory);
    let address = "192.0.2.1:80".parse().expect("valid");
    let connections = Arc::new(Connections::new(vec![address], None, Arc::new(settings)));
    connections.probe(Protocol::Http1).await.expect("reachable");
    // Seen once by the sweep, and gone before the next.
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(connections.counts().idle, 1);
    connections.drain();
    tokio::time::sleep(Duration::from_secs(31)).await;
    connections.probe(Protocol::Http1).await.expect("reachable");
    tokio::time::sleep(Duration::from_secs(91)).await;
    assert_eq!(connections.counts().idle, 0);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_uses_is_closed_within_the_idle_timeout() {
    let mut settings = Settings::default();
    settings.dial = Arc::new(InMemory);
    let address = "192.0.2.1:80".parse().expect("valid");
    let connections = Arc::new(Connections::new(vec![address], None, Arc::new(settings)));
    for _ in 0..3 {
        connections.probe(Protocol::Http1).await.expect("reachable");
    }
    // One of the three is in use all the time, and stays.
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(text(send(&connections, get("/")).await.expect("a response")).await, "ok");
    }
    assert_eq!(connections.counts().idle, 1);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(connections.counts().idle, 0);
}
