//! Opening a connection: refused, unanswered, with several addresses.

use super::*;
use mesh_tower::ErrorKind;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let failed = send(&connections(address), get("/")).await.expect_err("refused");
    assert_eq!(failed.error.kind(), ErrorKind::Connect);
    assert!(failed.to_string().contains(&format!("{address} refused")), "{failed}");
    assert!(failed.error.is_retryable());
    assert_eq!(failed.request.expect("given back").uri().path(), "/");
}

/// A listener whose backlog is full: further connection attempts stay unanswered.
async fn black_hole() -> (tokio::net::TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("valid")).expect("loopback");
    let listener = socket.listen(1).expect("listening");
    let address = listener.local_addr().expect("bound");
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) =
        timeout(Duration::from_millis(100), TcpStream::connect(address)).await
    {
        waiting.push(stream);
    }
    (listener, waiting)
}

#[tokio::test]
async fn a_black_hole_costs_one_connect_timeout() {
    let (listener, _waiting) = black_hole().await;
    let address = listener.local_addr().expect("bound");
    let mut settings = Settings::default();
    settings.connect_timeout = Duration::from_millis(200);
    let connections = Arc::new(Connections::new(vec![address], None, Arc::new(settings)));
    let start = tokio::time::Instant::now();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let failed = soon(connections.send(get("/"), protocol)).await.expect_err("unanswered");
        assert_eq!(failed.error.kind(), ErrorKind::Connect);
        assert!(failed.to_string().contains(&format!("{address} within 200ms")), "{failed}");
        assert!(failed.request.is_some());
    }
    // Those who wait for one opening share its failure instead of trying one after another.
    let many: Vec<_> = (0..8)
        .map(|_| {
            let connections = Arc::clone(&connections);
            tokio::spawn(async move { connections.send(get("/"), Protocol::Http2).await.is_err() })
        })
        .collect();
    for call in many {
        assert!(soon(call).await.expect("no panic"));
    }
    assert!(start.elapsed() < Duration::from_millis(1200), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_dead_first_address_delays_the_second_by_a_moment_only() {
    let (listener, _waiting) = black_hole().await;
    let dead = listener.local_addr().expect("bound");
    let (alive, _) = scripted(|mut socket, _| async move {
        head(&mut socket).await?;
        socket.write_all(OK).await
    })
    .await;
    let refused = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        listener.local_addr().expect("bound")
    };
    for addresses in [vec![dead, alive], vec![refused, alive], vec![refused, dead, alive]] {
        let start = tokio::time::Instant::now();
        let silent = addresses.contains(&dead);
        let connections = Arc::new(Connections::new(addresses, None, Arc::default()));
        assert_eq!(text(send(&connections, get("/")).await.expect("a response")).await, "ok");
        let delay = start.elapsed();
        assert_eq!(delay >= Duration::from_millis(250), silent, "{delay:?}");
        assert!(delay < Duration::from_millis(900), "{delay:?}");
    }
}
