//! A rate limit service by Envoy's protocol, served by tonic, that says what a test wants it to say
//! and keeps what it was asked.
//!
//! The messages are written by hand from `rls.proto`, apart from those that the mesh writes itself:
//! what either side gets wrong shows.

#![allow(clippy::exhaustive_structs, reason = "messages that tests make up")]

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tower_service::Service;

/// `envoy.service.ratelimit.v3.RateLimitRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RateLimitRequest {
    /// Whose limits.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// What is asked about.
    #[prost(message, repeated, tag = "2")]
    pub descriptors: Vec<RateLimitDescriptor>,
    /// How much it counts.
    #[prost(uint32, tag = "3")]
    pub hits_addend: u32,
}

/// `envoy.extensions.common.ratelimit.v3.RateLimitDescriptor`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RateLimitDescriptor {
    /// Keys with values.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
    /// How much it counts, in place of that of the request.
    #[prost(message, optional, tag = "3")]
    pub hits_addend: Option<UInt64Value>,
}

/// `google.protobuf.UInt64Value`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct UInt64Value {
    /// The number.
    #[prost(uint64, tag = "1")]
    pub value: u64,
}

/// A key with its value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// `envoy.service.ratelimit.v3.RateLimitResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RateLimitResponse {
    /// 1 is OK, 2 is OVER_LIMIT.
    #[prost(int32, tag = "1")]
    pub overall_code: i32,
    /// One for each descriptor.
    #[prost(message, repeated, tag = "2")]
    pub statuses: Vec<DescriptorStatus>,
    /// For the response.
    #[prost(message, repeated, tag = "3")]
    pub response_headers_to_add: Vec<HeaderValue>,
    /// For the request.
    #[prost(message, repeated, tag = "4")]
    pub request_headers_to_add: Vec<HeaderValue>,
}

/// What is said of one descriptor.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DescriptorStatus {
    /// As the overall code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// What is allowed.
    #[prost(message, optional, tag = "2")]
    pub current_limit: Option<RateLimit>,
    /// What is left.
    #[prost(uint32, tag = "3")]
    pub limit_remaining: u32,
    /// Until all is there again.
    #[prost(message, optional, tag = "4")]
    pub duration_until_reset: Option<Span>,
}

/// What is allowed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RateLimit {
    /// So many.
    #[prost(uint32, tag = "1")]
    pub requests_per_unit: u32,
    /// 1 is a second, 2 a minute.
    #[prost(int32, tag = "2")]
    pub unit: i32,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Span {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// The rest.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// A header field.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeaderValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

impl HeaderValue {
    /// A field.
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into() }
    }
}

impl RateLimitRequest {
    /// Its descriptors, each as `key=value` joined by `;`, with `*n` if it does not count once.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let one = |made: &RateLimitDescriptor| {
            let entries = made.entries.iter().map(|entry| format!("{}={}", entry.key, entry.value));
            let hits = made.hits_addend.map_or_else(String::new, |hits| format!("*{}", hits.value));
            entries.collect::<Vec<_>>().join(";") + &hits
        };
        self.descriptors.iter().map(one).collect()
    }
}

impl RateLimitResponse {
    /// Within all limits.
    #[must_use]
    pub fn ok() -> Self {
        Self { overall_code: 1, ..Self::default() }
    }

    /// Over one.
    #[must_use]
    pub fn over_limit() -> Self {
        Self { overall_code: 2, ..Self::default() }
    }

    /// The same, with what it says of one more descriptor: `requests` per minute, so many left, and
    /// seconds until all are there again.
    #[must_use]
    pub fn with_status(mut self, requests: u32, left: u32, reset: i64) -> Self {
        let limit = RateLimit { requests_per_unit: requests, unit: 2, name: "test".to_owned() };
        self.statuses.push(DescriptorStatus {
            code: self.overall_code,
            current_limit: Some(limit),
            limit_remaining: left,
            duration_until_reset: Some(Span { seconds: reset, nanos: 0 }),
        });
        self
    }
}

/// What the service does with a question.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_enums, reason = "for tests")]
pub enum Says {
    /// It answers.
    Answer(RateLimitResponse),
    /// It fails.
    Fail(Status),
    /// It never answers.
    Nothing,
}

type Plan = dyn Fn(usize, &RateLimitRequest) -> Says + Send + Sync;

/// A running service.
#[derive(Clone)]
pub struct RateLimits {
    address: SocketAddr,
    script: Script,
}

impl RateLimits {
    /// Starts one that does what `plan` says of the number of a question, from 0, and the question.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(
        plan: impl Fn(usize, &RateLimitRequest) -> Says + Send + Sync + 'static,
    ) -> Self {
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = incoming.local_addr().expect("bound");
        let script = Script { plan: Arc::new(plan), asked: Arc::default(), open: Arc::default() };
        let server = Server::builder().add_service(script.clone()).serve_with_incoming(incoming);
        tokio::spawn(server);
        Self { address, script }
    }

    /// Where it is.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked so far.
    #[must_use]
    pub fn asked(&self) -> Vec<RateLimitRequest> {
        self.script.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many questions have no answer yet, and somebody who waits for it.
    #[must_use]
    pub fn open(&self) -> usize {
        self.script.open.load(SeqCst)
    }
}

impl fmt::Debug for RateLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimits").field("address", &self.address).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Script {
    plan: Arc<Plan>,
    asked: Arc<Mutex<Vec<RateLimitRequest>>>,
    open: Arc<AtomicUsize>,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

type Answering<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl UnaryService<RateLimitRequest> for Script {
    type Response = RateLimitResponse;
    type Future = Answering<Result<Response<RateLimitResponse>, Status>>;

    fn call(&mut self, request: Request<RateLimitRequest>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            this.open.fetch_add(1, SeqCst);
            let _open = Open(this.open.clone());
            let question = request.into_inner();
            let number = {
                let mut asked = this.asked.lock().unwrap_or_else(PoisonError::into_inner);
                asked.push(question.clone());
                asked.len() - 1
            };
            match (this.plan)(number, &question) {
                Says::Answer(answer) => Ok(Response::new(answer)),
                Says::Fail(status) => Err(status),
                Says::Nothing => pending().await,
            }
        })
    }
}

impl NamedService for Script {
    const NAME: &'static str = "envoy.service.ratelimit.v3.RateLimitService";
}

impl<B> Service<http::Request<B>> for Script
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answering<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let method = self.clone();
        let known = request.uri().path().ends_with("/ShouldRateLimit");
        Box::pin(async move {
            if !known {
                return Ok(Status::unimplemented("").into_http());
            }
            let codec = tonic_prost::ProstCodec::<RateLimitResponse, RateLimitRequest>::default();
            Ok(Grpc::new(codec).unary(method, request).await)
        })
    }
}
