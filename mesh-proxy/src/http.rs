//! HTTP: one request of a client, from its head to the head of its answer.
//!
//! ```text
//! hyper ─► refused by the gate? ─► hygiene ─► server policy ─► stack ─► hygiene ─► hyper
//!               │ 400                │ 4xx      │ 503           │ error: the answer that tells of it
//!               └────────────────────┴──────────┴───────────────┴─► close, where the framing is in doubt
//! ```
//!
//! The stack is any tower service that takes a [`Body`](mesh_tower::Body): the mesh's channel, with the
//! connections of this worker. It is called in place, once per request: no clone, no box, no task.
//!
//! A panic below ends that request with 500, and nothing else.

use crate::access_log::{AccessLog, Record};
use crate::body::{RequestBody, ResponseBody, Upload};
use crate::counters::{Counters, Reject};
use crate::drain::Draining;
use crate::framing::Violation;
use crate::gate::Watch;
use crate::hygiene::{self, Asks, Edge, Refusal};
use crate::inbound::Inbound;
use crate::tunnel;
use ::http::header::CONNECTION;
use ::http::{HeaderValue, Request, Response, StatusCode, Version};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use mesh_core::{Error, ErrorKind};
use mesh_tower::server::Place;
use mesh_tower::{Body, answer};
use pin_project_lite::pin_project;
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_service::Service;

/// What serves the requests of one connection.
pub(crate) struct Handler<S> {
    stack: RefCell<S>,
    edge: Edge,
    watch: Arc<Watch>,
    /// Requests so far.
    count: Cell<u64>,
    common: Arc<Common>,
    /// How calls are received; `None` on an outbound listener.
    inbound: Option<Arc<Inbound>>,
    client: SocketAddr,
}

/// What all connections of a worker share.
#[derive(Debug, Default)]
pub(crate) struct Common {
    pub(crate) log: Option<AccessLog>,
    pub(crate) counters: Arc<Counters>,
    /// Once it has started, answers ask clients to go elsewhere.
    pub(crate) draining: Draining,
}

impl<S> Handler<S> {
    pub(crate) const fn new(
        stack: S,
        edge: Edge,
        client: SocketAddr,
        watch: Arc<Watch>,
        common: Arc<Common>,
        inbound: Option<Arc<Inbound>>,
    ) -> Self {
        Self {
            stack: RefCell::new(stack),
            edge,
            watch,
            count: Cell::new(0),
            common,
            inbound,
            client,
        }
    }
}

impl<S, B> Handler<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Error>,
{
    fn start(&self, mut request: Request<Incoming>) -> Answer<S::Future, B> {
        let number = self.count.get() + 1;
        self.count.set(number);
        let http1 = request.version() != Version::HTTP_2;
        let mut record = self.common.log.as_ref().map(|log| log.begin(&request, self.client));
        let close = self.common.draining.has_started();
        let checked = match self.watch.refusal(number).filter(|_| http1) {
            // Counted when the connection ends, as all that the gate finds.
            Some(why) => Err(Refusal { status: why.status(), message: why.message().into() }),
            None => hygiene::request(&mut request, &self.edge)
                .and_then(|asks| without_body(asks, &request))
                .inspect_err(|_| self.common.counters.reject(Reject::Hygiene)),
        };
        let grpc = mesh_core::is_grpc(request.headers());
        let asks = match checked {
            Ok(asks) => asks,
            Err(refusal) => return self.refuse(&refusal, grpc, record, http1),
        };
        let received = self.inbound.as_ref().map_or(Ok(None), |own| own.receive(&mut request));
        let place = match received {
            Ok(place) => place,
            Err(error) => return self.answer(&error, grpc, record, close && http1),
        };
        let switch = (asks == Asks::Upgrade).then(|| hyper::upgrade::on(&mut request));
        if switch.is_none() && http1 {
            self.watch.decide(number, false);
        }
        let mut upload = None;
        let request = request.map(|incoming| {
            if http_body::Body::is_end_stream(&incoming) {
                return Body::empty();
            }
            let (body, handle) = RequestBody::new(incoming);
            upload = Some(handle);
            Body::new(body)
        });
        match catch_unwind(AssertUnwindSafe(|| self.stack.borrow_mut().call(request))) {
            Ok(calling) => Answer::Calling {
                calling,
                rest: Rest {
                    upload,
                    grpc,
                    number,
                    switch,
                    place,
                    watch: Arc::clone(&self.watch),
                    common: Arc::clone(&self.common),
                    record: record.take(),
                    close: close && http1,
                    http1,
                },
            },
            Err(_) => Answer::Ready { response: Some(panicked(grpc, http1, record)) },
        }
    }

    /// The answer to a request that must not go further, after which the connection ends.
    fn refuse(
        &self,
        refusal: &Refusal,
        grpc: bool,
        record: Option<Box<Record>>,
        http1: bool,
    ) -> Answer<S::Future, B> {
        let error = Error::new(ErrorKind::CallerProtocol, refusal.message.clone());
        let mut answer = self.answer(&error, grpc, record, http1);
        if !grpc && let Answer::Ready { response: Some(response) } = &mut answer {
            *response.status_mut() = refusal.status;
        }
        answer
    }

    /// The answer to a request that goes no further.
    fn answer(
        &self,
        error: &Error,
        grpc: bool,
        record: Option<Box<Record>>,
        close: bool,
    ) -> Answer<S::Future, B> {
        self.watch.decide(self.count.get(), false);
        let mut response = respond(error, grpc, record);
        if close {
            response.headers_mut().insert(CONNECTION, CLOSE);
        }
        Answer::Ready { response: Some(response) }
    }
}

/// Where the bytes of another protocol would begin must not depend on how a body is framed.
fn without_body(asks: Asks, request: &Request<Incoming>) -> Result<Asks, Refusal> {
    if asks == Asks::Upgrade && !http_body::Body::is_end_stream(request.body()) {
        let message = "Upgrade in a request with a body".into();
        return Err(Refusal { status: StatusCode::BAD_REQUEST, message });
    }
    Ok(asks)
}

const CLOSE: HeaderValue = HeaderValue::from_static("close");

fn respond<B>(
    error: &Error,
    grpc: bool,
    mut record: Option<Box<Record>>,
) -> Response<ResponseBody<B>> {
    let response = answer::response::<Bytes>(error, grpc);
    if let Some(record) = &mut record {
        record.head(response.status().as_u16(), response.headers());
        record.flag(error.flag());
    }
    response.map(|bytes| {
        let mut body = ResponseBody::from(bytes);
        body.log_own(record);
        body
    })
}

fn panicked<B>(grpc: bool, http1: bool, record: Option<Box<Record>>) -> Response<ResponseBody<B>> {
    let error = Error::new(ErrorKind::Panic, "the proxy failed on this request");
    let mut response = respond(&error, grpc, record);
    if http1 {
        response.headers_mut().insert(CONNECTION, CLOSE);
    }
    response
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Handler<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Error>,
    B: http_body::Body,
{
    type Response = Response<ResponseBody<B>>;
    type Error = Infallible;
    type Future = Answer<S::Future, B>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.start(request)
    }
}

pin_project! {
    /// The answer to one request.
    #[project = AnswerProject]
    pub(crate) enum Answer<F, B> {
        /// Made by us.
        Ready { response: Option<Response<ResponseBody<B>>> },
        /// Made by the stack.
        Calling { #[pin] calling: F, rest: Rest },
    }
}

/// What is needed when the stack has answered.
pub(crate) struct Rest {
    upload: Option<Upload>,
    grpc: bool,
    /// The request's own, for the gate.
    number: u64,
    switch: Option<OnUpgrade>,
    /// The call's, among those being served.
    place: Option<Place>,
    watch: Arc<Watch>,
    common: Arc<Common>,
    record: Option<Box<Record>>,
    close: bool,
    http1: bool,
}

impl<F, B> Future for Answer<F, B>
where
    F: Future<Output = Result<Response<B>, Error>>,
    B: http_body::Body,
{
    type Output = Result<Response<ResponseBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AnswerProject::Ready { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                None => Poll::Pending,
            },
            AnswerProject::Calling { calling, rest } => {
                let result = match catch_unwind(AssertUnwindSafe(|| calling.poll(cx))) {
                    Ok(Poll::Pending) => return Poll::Pending,
                    Ok(Poll::Ready(result)) => result,
                    Err(_) => {
                        return Poll::Ready(Ok(panicked(
                            rest.grpc,
                            rest.http1,
                            rest.record.take(),
                        )));
                    }
                };
                Poll::Ready(Ok(match result {
                    Ok(response) => rest.answered(response),
                    Err(error) => rest.failed(&error),
                }))
            }
        }
    }
}

impl Rest {
    /// The endpoint's answer, made canonical.
    fn answered<B: http_body::Body>(
        &mut self,
        mut response: Response<B>,
    ) -> Response<ResponseBody<B>> {
        hygiene::response(&mut response);
        let mut place = self.place.take();
        if let Some(client) = self.switch.take() {
            let endpoint = response.extensions_mut().remove::<OnUpgrade>();
            let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if let (Some(endpoint), true) = (endpoint, switching) {
                let open = (self.common.draining.enter(), place.take());
                tokio::spawn(async move {
                    tunnel::upgraded(client, endpoint).await;
                    drop(open);
                });
                self.watch.decide(self.number, true);
            } else {
                self.watch.decide(self.number, false);
            }
        } else if self.close {
            response.headers_mut().insert(CONNECTION, CLOSE);
        }
        if let Some(record) = &mut self.record {
            record.head(response.status().as_u16(), response.headers());
        }
        let record = self.record.take();
        response.map(|body| {
            let mut body = ResponseBody::endpoint(body, place);
            body.log(record);
            body
        })
    }

    /// The answer that tells of an error.
    fn failed<B>(&mut self, error: &Error) -> Response<ResponseBody<B>> {
        self.watch.decide(self.number, false);
        let record = self.record.take();
        let own = self.upload.as_ref().is_some_and(Upload::has_failed);
        let mut response = if own {
            let message = self.watch.violation().map_or_else(
                || {
                    self.common.counters.reject(Reject::Body);
                    "the request's body ended before its end"
                },
                Violation::message,
            );
            respond(&Error::new(ErrorKind::CallerProtocol, message), self.grpc, record)
        } else {
            respond(error, self.grpc, record)
        };
        if self.http1 && (own || self.close) {
            response.headers_mut().insert(CONNECTION, CLOSE);
        }
        response
    }
}
