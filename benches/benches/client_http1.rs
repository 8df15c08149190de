//! CPU per HTTP/1 call: the default stack, and `Connections::send` alone, beside bare hyper
//! connections with a task each; and the stack where calls bring options, without and with
//! `CallOptions::explain`.
//!
//! `cargo bench -p benches --bench client_http1` compares CPU time. For instructions per call run
//! the built program as `valgrind --tool=callgrind … stack 2000` and `… stack 12000`, and divide
//! the difference by 10,000; the same with `send` and `bare`.

mod support;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use mesh_tower::connect::{Connections, Protocol, Settings};
use mesh_tower::{Body, CallOptions, Mesh};
use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use support::{BODY, Mode, Server, block_on, compare, mode, run};
use tokio::net::{TcpListener, TcpStream};
use tower_service::Service;

fn main() {
    match mode() {
        Mode::Serve => block_on(serve()),
        Mode::Only(variant, calls) => {
            let server = Server::start();
            round(server.address, &variant, calls);
        }
        Mode::Compare => {
            let server = Server::start();
            let variants = ["bare", "send", "stack", "options", "explain"];
            compare(&variants, |variant, calls| round(server.address, variant, calls));
        }
    }
}

fn round(address: SocketAddr, variant: &str, calls: usize) {
    block_on(async {
        match variant {
            "stack" => stack(address, calls, None).await,
            "options" => stack(address, calls, Some(CallOptions::new())).await,
            "explain" => stack(address, calls, Some(CallOptions::new().explain())).await,
            "send" => send(address, calls).await,
            _ => bare(address, calls).await,
        }
    });
}

fn request<B>(body: B) -> Request<B> {
    let request = Request::get("/items/7").header(header::HOST, "inventory");
    request.body(body).expect("valid")
}

async fn send(address: SocketAddr, calls: usize) {
    let connections =
        Arc::new(Connections::new(vec![address], None, Arc::new(Settings::default())));
    run(calls, || {
        let connections = Arc::clone(&connections);
        move || {
            let connections = Arc::clone(&connections);
            async move {
                let response = connections.send(request(Body::empty()), Protocol::Http1).await;
                let body = response.expect("a response").into_body().collect().await;
                assert_eq!(body.expect("whole").to_bytes().len(), BODY.len());
            }
        }
    })
    .await;
}

/// Route, deadline, limit, retry, balance with outlier detection, metrics.
async fn stack(address: SocketAddr, calls: usize, options: Option<CallOptions>) {
    let config = format!(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: inventory }}\n\
         spec: {{ endpoints: {{ static: [{{ address: '{address}' }}] }} }}\n"
    );
    let mesh = Mesh::builder().config_text("bench", config).build().expect("a mesh");
    run(calls, || {
        let (channel, options) = (mesh.channel("inventory"), options.clone());
        move || {
            let mut channel = channel.clone();
            let mut request = request(Body::empty());
            if let Some(options) = &options {
                request.extensions_mut().insert(options.clone());
            }
            async move {
                let response = channel.call(request).await;
                let body = response.expect("a response").into_body().collect().await;
                assert_eq!(body.expect("whole").to_bytes().len(), BODY.len());
            }
        }
    })
    .await;
}

async fn bare(address: SocketAddr, calls: usize) {
    let mut senders = Vec::new();
    for _ in 0..support::IN_FLIGHT {
        let socket = TcpStream::connect(address).await.expect("the server");
        socket.set_nodelay(true).expect("open");
        let (sender, connection) =
            hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(socket))
                .await
                .expect("HTTP/1");
        tokio::spawn(connection);
        senders.push(sender);
    }
    run(calls, || {
        let sender = Rc::new(RefCell::new(senders.pop().expect("one each")));
        move || {
            let sender = Rc::clone(&sender);
            async move {
                std::future::poll_fn(|cx| sender.borrow_mut().poll_ready(cx)).await.expect("open");
                let response = sender.borrow_mut().send_request(request(Empty::new()));
                let body = response.await.expect("a response").into_body().collect().await;
                assert_eq!(body.expect("whole").to_bytes().len(), BODY.len());
            }
        }
    })
    .await;
}

async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    println!("{}", listener.local_addr().expect("bound"));
    loop {
        let (socket, _) = listener.accept().await.expect("a connection");
        socket.set_nodelay(true).expect("open");
        let service = hyper::service::service_fn(|_| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(BODY))))
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service),
        );
    }
}
