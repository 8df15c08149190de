//! CPU per unary gRPC call through a tonic client: over `mesh.channel`, tonic's own `Channel` to
//! one endpoint, and tonic's `balance_list`; the first and the last also to four endpoints.
//!
//! `cargo bench -p benches --bench grpc_unary` compares CPU time. For instructions per call run the
//! built program as `valgrind --tool=callgrind … stack 2000` and `… stack 12000`, and divide the
//! difference by 10,000; the same with `channel`, `balance`, `balance4` and `stack4`.

mod support;

#[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_docs)]
#[path = "../../examples/src/greeter_proto.rs"]
mod greeter_proto;

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::{HelloReply, HelloRequest};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_tower::Mesh;
use prost::Message;
use std::convert::Infallible;
use std::net::SocketAddr;
use support::{BODY, Mode, Server, block_on, compare, mode, run};
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};

fn main() {
    match mode() {
        Mode::Serve => block_on(serve()),
        Mode::Only(variant, calls) => {
            let servers: [Server; ENDPOINTS] = std::array::from_fn(|_| Server::start());
            round(&addresses(&servers), &variant, calls);
        }
        Mode::Compare => {
            let servers: [Server; ENDPOINTS] = std::array::from_fn(|_| Server::start());
            let addresses = addresses(&servers);
            compare(&["channel", "balance", "stack", "balance4", "stack4"], |variant, calls| {
                round(&addresses, variant, calls);
            });
        }
    }
}

/// How many endpoints the variants named with a 4 have; the others have the first alone.
const ENDPOINTS: usize = 4;

fn addresses(servers: &[Server]) -> Vec<SocketAddr> {
    servers.iter().map(|server| server.address).collect()
}

fn round(addresses: &[SocketAddr], variant: &str, calls: usize) {
    let endpoint = |address| Endpoint::from_shared(format!("http://{address}")).expect("a URI");
    let (kind, count) = variant.strip_suffix('4').map_or((variant, 1), |kind| (kind, ENDPOINTS));
    let addresses = &addresses[..count];
    block_on(async {
        match kind {
            "stack" => {
                let endpoints: String = addresses
                    .iter()
                    .map(|address| format!("{{ address: '{address}' }},"))
                    .collect();
                let config = format!(
                    "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: greeter }}\n\
                     spec: {{ endpoints: {{ static: [{endpoints}] }} }}\n"
                );
                let mesh = Mesh::builder().config_text("bench", config).build().expect("a mesh");
                drive(GreeterClient::new(mesh.channel("greeter")), calls).await;
            }
            "balance" => {
                let list = Channel::balance_list(addresses.iter().map(endpoint));
                drive(GreeterClient::new(list), calls).await;
            }
            _ => {
                let channel = endpoint(&addresses[0]).connect().await.expect("the server");
                drive(GreeterClient::new(channel), calls).await;
            }
        }
    });
}

async fn drive<T>(client: GreeterClient<T>, calls: usize)
where
    T: tonic::client::GrpcService<tonic::body::Body> + Clone + 'static,
    T::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    T::ResponseBody: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as hyper::body::Body>::Error:
        Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    run(calls, || {
        let client = client.clone();
        move || {
            let mut client = client.clone();
            async move {
                let request = HelloRequest { name: "x".repeat(BODY.len()) };
                let reply = client.say_hello(request).await.expect("a reply").into_inner();
                assert_eq!(reply.message.len(), BODY.len());
            }
        }
    })
    .await;
}

/// A gRPC server cheap enough not to matter: one prepared reply.
async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    println!("{}", listener.local_addr().expect("bound"));
    let reply = HelloReply { message: "y".repeat(BODY.len()), served_by: String::new() };
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(reply.encoded_len()).expect("short").to_be_bytes());
    frame.extend_from_slice(&reply.encode_to_vec());
    let frame = bytes::Bytes::from(frame);
    loop {
        let (socket, _) = listener.accept().await.expect("a connection");
        socket.set_nodelay(true).expect("open");
        let frame = frame.clone();
        let service = hyper::service::service_fn(move |request: hyper::Request<_>| {
            let frame = frame.clone();
            async move {
                let body: hyper::body::Incoming = request.into_body();
                let _ = body.collect().await;
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                let frames = [Frame::data(frame), Frame::trailers(trailers)];
                let frames = frames.map(Ok::<_, Infallible>);
                let body = StreamBody::new(tokio_stream::iter(frames));
                let response =
                    hyper::Response::builder().header("content-type", "application/grpc");
                response.body(body)
            }
        });
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(socket), service),
        );
    }
}
