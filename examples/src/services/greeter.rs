//! greeter: says hello over gRPC; tonic with the mesh linked.

use crate::Done;
use crate::greeter_proto::greeter_server::{Greeter, GreeterServer};
use crate::greeter_proto::{HelloManyRequest, HelloReply, HelloRequest};
use mesh_tower::Mesh;
use std::net::SocketAddr;
use std::pin::Pin;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to serve.
    #[arg(long)]
    listen: SocketAddr,
}

pub(crate) async fn run(args: Args) -> Done {
    let mesh = Mesh::builder().build()?;
    let listener = mesh.listen(args.listen).await?;
    Server::builder()
        .layer(mesh.server())
        .add_service(GreeterServer::new(Hello))
        .serve_with_incoming(listener.incoming())
        .await?;
    Ok(true)
}

/// Greets every name.
struct Hello;

fn reply(name: &str) -> HelloReply {
    HelloReply { message: format!("hello, {name}"), served_by: "greeter".to_owned() }
}

type Replies = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

#[tonic::async_trait]
impl Greeter for Hello {
    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(reply(&request.get_ref().name)))
    }

    type SayHelloManyStream = Replies;

    async fn say_hello_many(
        &self,
        request: Request<HelloManyRequest>,
    ) -> Result<Response<Replies>, Status> {
        let request = request.into_inner();
        let replies = tokio_stream::iter(0..request.count).map(move |_| Ok(reply(&request.name)));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn say_hello_to_all(
        &self,
        request: Request<Streaming<HelloRequest>>,
    ) -> Result<Response<HelloReply>, Status> {
        let mut names = Vec::new();
        let mut requests = request.into_inner();
        while let Some(request) = requests.message().await? {
            names.push(request.name);
        }
        Ok(Response::new(reply(&names.join(" and "))))
    }

    type ChatStream = Replies;

    async fn chat(
        &self,
        request: Request<Streaming<HelloRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let replies =
            request.into_inner().map(|request| request.map(|request| reply(&request.name)));
        Ok(Response::new(Box::pin(replies)))
    }
}
