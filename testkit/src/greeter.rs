//! A gRPC service with all four shapes of a call, for tests with real tonic parts.
//!
//! The generated code is that of the examples (`examples/proto/greeter.proto`).

use proto::greeter_server::Greeter;
use proto::{HelloManyRequest, HelloReply, HelloRequest};
use std::pin::Pin;
use std::time::Duration;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::restriction)]
#[path = "../../examples/src/greeter_proto.rs"]
pub mod proto;

/// Answers every name with `hello, NAME`; an empty name is an error.
#[derive(Clone, Debug)]
pub struct Hello {
    /// What stands in `served_by` of each reply.
    name: String,
}

impl Hello {
    /// A greeter that signs with this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    fn reply(&self, to: &str) -> Result<HelloReply, Status> {
        if to.is_empty() {
            return Err(Status::invalid_argument("a name is missing"));
        }
        Ok(HelloReply { message: format!("hello, {to}"), served_by: self.name.clone() })
    }
}

/// A stream of replies.
pub type Replies = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

#[tonic::async_trait]
impl Greeter for Hello {
    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        self.reply(&request.get_ref().name).map(Response::new)
    }

    type SayHelloManyStream = Replies;

    async fn say_hello_many(
        &self,
        request: Request<HelloManyRequest>,
    ) -> Result<Response<Replies>, Status> {
        let request = request.into_inner();
        let reply = self.reply(&request.name)?;
        let interval = Duration::from_millis(u64::from(request.interval_ms));
        let replies = tokio_stream::iter(0..request.count).then(move |_| {
            let reply = reply.clone();
            async move {
                tokio::time::sleep(interval).await;
                Ok(reply)
            }
        });
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
        self.reply(&names.join(" and ")).map(Response::new)
    }

    type ChatStream = Replies;

    async fn chat(
        &self,
        request: Request<Streaming<HelloRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let greeter = self.clone();
        let replies = request
            .into_inner()
            .map(move |request| request.and_then(|request| greeter.reply(&request.name)));
        Ok(Response::new(Box::pin(replies)))
    }
}
