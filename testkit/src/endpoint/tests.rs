use super::*;
use bytes::Bytes;
use http_body_util::Empty;
use std::time::Duration;
use tokio::time::timeout;

async fn send1(address: SocketAddr, path: &str) -> Result<(u16, u64), String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.kind().to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("handshake");
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "x").header("x-request-id", "7");
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).expect("valid")).await;
    let response = response.map_err(|error| format!("{error:?}"))?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|error| format!("{error:?}"))?;
    Ok((status, body.to_bytes().len() as u64))
}

async fn send2(address: SocketAddr) -> Result<http::HeaderMap, hyper::Error> {
    let stream = TcpStream::connect(address).await.expect("connects");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("handshake");
    tokio::spawn(connection);
    let request = Request::post("http://x/").body(Empty::<Bytes>::new()).expect("valid");
    let response = sender.send_request(request).await?;
    Ok(response.into_body().collect().await?.trailers().cloned().unwrap_or_default())
}

#[tokio::test]
async fn it_answers_by_its_script_and_records_what_came() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200).body(100_000)).await;
    assert_eq!(send1(endpoint.address(), "/a").await, Ok((200, 100_000)));
    endpoint.plan(|number, _| Reply::status(if number == 2 { 503 } else { 204 }));
    assert_eq!(send1(endpoint.address(), "/b").await, Ok((503, 0)));
    assert_eq!(send1(endpoint.address(), "/c").await, Ok((204, 0)));

    let arrivals = endpoint.arrivals();
    let paths: Vec<_> = arrivals.iter().map(|arrival| arrival.uri.path()).collect();
    assert_eq!(paths, ["/a", "/b", "/c"]);
    assert_eq!(arrivals[0].id.as_deref(), Some("7"));
    assert_eq!((endpoint.calls(), endpoint.connections()), (3, 3));
}

#[tokio::test]
async fn a_cut_body_is_an_error_at_the_caller() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200).body(1000).cut_after(10)).await;
    let error = send1(endpoint.address(), "/").await.expect_err("cut");
    assert!(error.contains("IncompleteMessage"), "{error}");
}

#[tokio::test]
async fn a_reset_is_a_reset() {
    let endpoint = ScriptedEndpoint::http1(Reply::reset()).await;
    let error = send1(endpoint.address(), "/").await.expect_err("reset");
    assert!(error.contains("ConnectionReset"), "{error}");
}

#[tokio::test]
async fn a_cancelled_call_is_noticed() {
    let endpoint = ScriptedEndpoint::http1(Reply::hang()).await;
    let call = tokio::spawn({
        let address = endpoint.address();
        async move { send1(address, "/").await }
    });
    crate::until("the call arrives", || endpoint.in_flight() == 1).await;
    call.abort();
    // Aborting the call drops its sender, which ends the spawned connection.
    crate::until("the endpoint sees the cancellation", || endpoint.in_flight() == 0).await;
}

#[tokio::test]
async fn killed_it_refuses_and_restarted_it_answers_on_the_same_port() {
    let mut endpoint = ScriptedEndpoint::http1(Reply::hang()).await;
    let call = tokio::spawn({
        let address = endpoint.address();
        async move { send1(address, "/").await }
    });
    crate::until("the call arrives", || endpoint.in_flight() == 1).await;

    endpoint.kill().await;
    assert_eq!(endpoint.open_connections(), 0);
    let error = call.await.expect("no panic").expect_err("killed");
    assert!(error.contains("ConnectionReset"), "{error}");
    assert_eq!(send1(endpoint.address(), "/").await, Err("connection refused".to_owned()));

    endpoint.set(Reply::status(200));
    endpoint.restart();
    assert_eq!(send1(endpoint.address(), "/").await, Ok((200, 0)));
}

#[tokio::test]
async fn asked_to_end_it_finishes_what_runs_and_then_refuses() {
    let mut endpoint = ScriptedEndpoint::http1(Reply::hang()).await;
    let address = endpoint.address();
    endpoint.set(Reply::status(200).after(Duration::from_millis(50)).body(3));
    let call = tokio::spawn(async move { send1(address, "/").await });
    crate::until("the call arrives", || endpoint.in_flight() == 1).await;

    endpoint.stop().await;
    assert_eq!(call.await.expect("no panic"), Ok((200, 3)), "answered all the same");
    assert_eq!(send1(address, "/").await, Err("connection refused".to_owned()));
    endpoint.restart();
    assert_eq!(send1(address, "/").await, Ok((200, 3)));
    assert_eq!(endpoint.arrivals().len(), 2);
    endpoint.forget();
    assert!(endpoint.arrivals().is_empty() && endpoint.calls() == 2);
}

#[tokio::test]
async fn grpc_status_comes_in_trailers() {
    let endpoint = ScriptedEndpoint::http2(Reply::grpc(14)).await;
    let trailers = send2(endpoint.address()).await.expect("answers");
    assert_eq!(trailers["grpc-status"], "14");
}

#[tokio::test]
async fn a_refused_stream_says_so() {
    let endpoint = ScriptedEndpoint::http2(Reply::refuse_stream()).await;
    let error = send2(endpoint.address()).await.expect_err("refused");
    assert!(format!("{error:?}").contains("REFUSED_STREAM"), "{error:?}");
}

#[tokio::test]
async fn a_black_hole_neither_answers_nor_refuses() {
    let hole = BlackHole::open().expect("the backlog fills");
    let connecting = timeout(Duration::from_millis(300), TcpStream::connect(hole.address()));
    assert!(connecting.await.is_err(), "somebody answered");
}
