//! HTTP: one request of a client, from its head to the head of its answer.
//!
//! ```text
//! hyper ─► refused by the gate? ─► hygiene ─► server policy ─► stack ─► hygiene ─► hyper
//!               │ 400                │ 4xx      │ waits, 429    │ error: the answer that tells of it
//!               └────────────────────┴──────────┴───────────────┴─► close, where the framing is in doubt
//! ```
//!
//! The stack is any tower service that takes a [`Body`](mesh_tower::Body): the mesh's channel, with the
//! connections of this worker. It is called in place, once per request: no clone, no box, no task,
//! but for a request that has to wait for a place.
//!
//! A panic below ends that request with 500, and nothing else.

use crate::access_log::AccessLog;
use crate::body::{RequestBody, ResponseBody, Upload};
use crate::counters::{Counters, Reject};
use crate::drain::Draining;
use crate::framing::Violation;
use crate::gate::Watch;
use crate::hygiene::{self, Asks, Edge, Refusal};
use crate::inbound::{self, Inbound, Received};
use crate::served::Served;
use crate::tunnel;
use ::http::header::CONNECTION;
use ::http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use mesh_core::{Error, ErrorKind};
use mesh_tower::call::Begun;
use mesh_tower::listen::Peer;
use mesh_tower::rate_limit::{Asker, Asking};
use mesh_tower::server::{Admitted, Place, Waiting};
use mesh_tower::telemetry::ServerMetrics;
use mesh_tower::{Body, Channel, answer, clock};
use pin_project_lite::pin_project;
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tower_service::Service;

/// What requests are handed to.
pub(crate) trait Stack: Service<Request<Body>> + Clone {
    /// As `call`, where the head was looked at when the request came.
    fn call_begun(&mut self, request: Request<Body>, begun: Begun) -> Self::Future;

    /// The same, for the requests of one client.
    fn of(self, client: SocketAddr) -> Self;

    /// Who asks rate limit services about its requests.
    fn asker(&self) -> Option<Asker> {
        None
    }
}

impl Stack for Channel {
    fn call_begun(&mut self, request: Request<Body>, begun: Begun) -> Self::Future {
        Self::call_begun(self, request, begun)
    }

    fn of(self, client: SocketAddr) -> Self {
        self.with_source(client.ip())
    }

    fn asker(&self) -> Option<Asker> {
        Some(Self::asker(self))
    }
}

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
    /// Who asks about what is received.
    asker: Option<Asker>,
    client: Peer,
}

/// What all connections of a worker share.
#[derive(Debug, Default)]
pub(crate) struct Common {
    pub(crate) log: Option<AccessLog>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) metrics: Arc<ServerMetrics>,
    /// Once it has started, answers ask clients to go elsewhere.
    pub(crate) draining: Draining,
}

impl<S: Stack> Handler<S> {
    pub(crate) fn new(
        stack: S,
        edge: Edge,
        client: Peer,
        watch: Arc<Watch>,
        common: Arc<Common>,
        inbound: Option<Arc<Inbound>>,
    ) -> Self {
        let asker = inbound.as_ref().and_then(|_| stack.asker());
        Self {
            asker,
            stack: RefCell::new(stack.of(client.address())),
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
    S: Stack + Service<Request<Body>, Response = Response<B>, Error = Error>,
{
    fn start(&self, mut request: Request<Incoming>) -> Answer<S, B> {
        let number = self.count.get() + 1;
        self.count.set(number);
        let http1 = request.version() != Version::HTTP_2;
        if let Some(answer) = self.probed(&request, number, http1) {
            return Answer::Ready { response: Some(answer) };
        }
        let mut served = Served::begin(&self.common, &request, self.client.address());
        let close = self.common.draining.has_started();
        let checked = match self.watch.refusal(number).filter(|_| http1) {
            // Counted when the connection ends, as all that the gate finds.
            Some(why) => Err(Refusal { status: why.status(), message: why.message().into() }),
            None => hygiene::request(&mut request, &self.edge)
                .and_then(|asks| without_body(asks, &request))
                .inspect_err(|_| self.common.counters.reject(Reject::Hygiene)),
        };
        let asks = match checked {
            Ok(asks) => asks,
            Err(refusal) => return self.refuse(&refusal, served, http1),
        };
        let received = match &self.inbound {
            Some(own) => {
                if own.withholds_reports(&self.client) {
                    served.withhold_reports();
                }
                if own.is_stranger(&self.client) {
                    served.for_stranger();
                }
                served.reported(own.begin(&request, &self.client, served.begun()));
                let (asker, started) = (self.asker.as_ref(), served.begun().started);
                own.receive(&mut request, &self.client, asker, started)
            }
            None => Ok(Received::default()),
        };
        let Received { admitted, asking, fields } = match received {
            Ok(received) => received,
            Err(error) => return self.answer(&error, None, served, close && http1),
        };
        served.tell(fields);
        let step = match (admitted, asking, &self.inbound) {
            (_, Some(asking), Some(own)) => Some(Step::Asks(asking, Arc::clone(own))),
            (Some(Admitted::Served(place)), ..) => {
                served.admitted(place);
                None
            }
            (Some(Admitted::Waits(waiting)), ..) => Some(Step::Waits(waiting)),
            (None, ..) => None,
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
        let begun = served.begun();
        let rest = Rest {
            upload,
            number,
            switch,
            watch: Arc::clone(&self.watch),
            served: Some(served),
            close: close && http1,
            http1,
            yielded: false,
        };
        match step {
            None => Answer::call(&mut *self.stack.borrow_mut(), request, begun, rest),
            Some(step) => {
                let stack = self.stack.borrow().clone();
                Answer::Waiting { queued: Some(Box::new(Queued { step, stack, request, rest })) }
            }
        }
    }

    /// The answer to a request that only asks how busy the service is: it is no call, and not told.
    fn probed(
        &self,
        request: &Request<Incoming>,
        number: u64,
        http1: bool,
    ) -> Option<Response<ResponseBody<B>>> {
        let own = self.inbound.as_ref().filter(|_| request.method() == Method::OPTIONS)?;
        if http1 && self.watch.refusal(number).is_some() {
            return None;
        }
        let mut answer = own.answer(request, &self.client)?;
        self.watch.decide(number, false);
        if http1 && self.common.draining.has_started() {
            answer.headers_mut().insert(CONNECTION, CLOSE);
        }
        Some(answer.map(|()| ResponseBody::empty()))
    }

    /// The answer to a request that must not go further, after which the connection ends.
    fn refuse(&self, refusal: &Refusal, served: Served, http1: bool) -> Answer<S, B> {
        let error = Error::new(ErrorKind::CallerProtocol, refusal.message.clone());
        self.answer(&error, Some(refusal.status), served, http1)
    }

    /// The answer to a request that goes no further.
    fn answer(
        &self,
        error: &Error,
        status: Option<StatusCode>,
        served: Served,
        close: bool,
    ) -> Answer<S, B> {
        self.watch.decide(self.count.get(), false);
        Answer::Ready { response: Some(respond(error, status, served, close)) }
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

/// The answer that tells of an error; with a status of its own unless the request was gRPC.
fn respond<B>(
    error: &Error,
    status: Option<StatusCode>,
    mut served: Served,
    close: bool,
) -> Response<ResponseBody<B>> {
    let grpc = served.is_grpc();
    // Names and addresses behind us are none of a stranger's business.
    let kept = (served.is_for_stranger() && error.destination().is_some())
        .then(|| Error::from(error.kind()));
    let mut response = answer::response::<Bytes>(kept.as_ref().unwrap_or(error), grpc);
    if let (Some(status), false) = (status, grpc) {
        *response.status_mut() = status;
    }
    if close {
        response.headers_mut().insert(CONNECTION, CLOSE);
    }
    served.answer(error, &mut response);
    response.map(|bytes| ResponseBody::own(bytes, served))
}

fn panicked<B>(served: Served, http1: bool) -> Response<ResponseBody<B>> {
    let error = Error::new(ErrorKind::Panic, "the proxy failed on this request");
    respond(&error, None, served, http1)
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Handler<S>
where
    S: Stack + Service<Request<Body>, Response = Response<B>, Error = Error>,
    B: http_body::Body,
{
    type Response = Response<ResponseBody<B>>;
    type Error = Infallible;
    type Future = Answer<S, B>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.start(request)
    }
}

pin_project! {
    /// The answer to one request.
    #[project = AnswerProject]
    pub(crate) enum Answer<S, B>
    where
        S: Service<Request<Body>>,
    {
        /// Made by us.
        Ready { response: Option<Response<ResponseBody<B>>> },
        /// To be made by the stack, once the request may go on.
        Waiting { queued: Option<Box<Queued<S>>> },
        /// Made by the stack.
        Calling { #[pin] calling: S::Future, rest: Rest },
    }
}

/// A request that waits, and what it goes to then.
pub(crate) struct Queued<S> {
    step: Step,
    stack: S,
    request: Request<Body>,
    rest: Rest,
}

/// What a request waits for.
enum Step {
    /// What a rate limit service says of it; then for a place.
    Asks(Asking, Arc<Inbound>),
    /// A place.
    Waits(Waiting),
}

impl<S> Queued<S> {
    /// Waits for what there is to wait for; `None` if places are not counted.
    fn poll_place(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Place>, Error>> {
        if let Step::Asks(asking, own) = &mut self.step {
            // Refusals are counted where they are decided.
            let granted = ready!(Pin::new(asking).poll(cx))?;
            granted.edit(self.request.headers_mut());
            let Some(served) = &mut self.rest.served else { return Poll::Pending };
            served.tell(granted.into_fields());
            // The time it has counts from its head, the time it waits from now.
            match own.admit(&self.request, served.begun().started)? {
                Some(Admitted::Waits(waiting)) => self.step = Step::Waits(waiting),
                Some(Admitted::Served(place)) => return Poll::Ready(Ok(Some(place))),
                None => return Poll::Ready(Ok(None)),
            }
        }
        let Step::Waits(waiting) = &mut self.step else { return Poll::Pending };
        let decided = ready!(Pin::new(waiting).poll(cx));
        Poll::Ready(decided.map(Some).inspect_err(|shed| {
            if let Some(served) = &self.rest.served {
                served.common().metrics.shed(shed.kind());
            }
        }))
    }
}

/// What is needed when the stack has answered.
pub(crate) struct Rest {
    upload: Option<Upload>,
    /// The request's own, for the gate.
    number: u64,
    switch: Option<OnUpgrade>,
    watch: Arc<Watch>,
    /// Gone once there is an answer.
    served: Option<Served>,
    close: bool,
    http1: bool,
    /// Others had their turn between the call and its first poll.
    yielded: bool,
}

impl Drop for Rest {
    fn drop(&mut self) {
        // A stream that is reset before there is an answer. Over HTTP/1 that costs its connection.
        if !self.http1 && self.served.is_some() {
            self.watch.given_up(self.number);
        }
    }
}

impl<S, B> Answer<S, B>
where
    S: Stack + Service<Request<Body>, Response = Response<B>, Error = Error>,
{
    /// Hands a request to the stack.
    fn call(stack: &mut S, request: Request<Body>, begun: Begun, mut rest: Rest) -> Self {
        match catch_unwind(AssertUnwindSafe(|| stack.call_begun(request, begun))) {
            Ok(calling) => Self::Calling { calling, rest },
            Err(_) => {
                let http1 = rest.http1;
                let served = rest.served.take();
                Self::Ready { response: served.map(|served| panicked(served, http1)) }
            }
        }
    }

    /// A request that waited may go on, or is refused.
    fn decided(queued: Queued<S>, decided: Result<Option<Place>, Error>) -> Self {
        let Queued { mut stack, mut request, mut rest, .. } = queued;
        let Some(mut served) = rest.served.take() else { return Self::Ready { response: None } };
        match decided {
            Ok(place) => {
                served.waited(place);
                let mut begun = served.begun();
                // The wait was not the endpoint's.
                inbound::keep_expiry(&mut request, begun.started);
                begun.started = clock::now();
                rest.served = Some(served);
                Self::call(&mut stack, request, begun, rest)
            }
            Err(refusal) => Self::Ready { response: Some(rest.failed(&refusal, served)) },
        }
    }
}

impl<S, B> Future for Answer<S, B>
where
    S: Stack + Service<Request<Body>, Response = Response<B>, Error = Error>,
    B: http_body::Body,
{
    type Output = Result<Response<ResponseBody<B>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let AnswerProject::Waiting { queued } = self.as_mut().project() {
            let Some(waiting) = queued else { return Poll::Pending };
            let decided = ready!(waiting.poll_place(cx));
            let Some(waited) = queued.take() else { return Poll::Pending };
            self.set(Self::decided(*waited, decided));
        }
        match self.project() {
            AnswerProject::Ready { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                None => Poll::Pending,
            },
            AnswerProject::Waiting { .. } => Poll::Pending,
            AnswerProject::Calling { calling, rest } => {
                // Not before every client that is ready was read: requests then leave in a row, and
                // an endpoint is woken once for many of them instead of once for each.
                if rest.http1 && !rest.yielded {
                    rest.yielded = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                // Written from within, so that a response is not moved through the catch.
                let mut polled = Poll::Pending;
                let caught = catch_unwind(AssertUnwindSafe(|| polled = calling.poll(cx)));
                if caught.is_ok() && polled.is_pending() {
                    return Poll::Pending;
                }
                let Some(served) = rest.served.take() else { return Poll::Pending };
                // A response is large: it is made canonical where it is, and then moved once.
                let served = match &mut polled {
                    Poll::Ready(Ok(response)) => rest.answered(response, served),
                    Poll::Ready(Err(error)) => return Poll::Ready(Ok(rest.failed(error, served))),
                    Poll::Pending => return Poll::Ready(Ok(panicked(served, rest.http1))),
                };
                let Poll::Ready(Ok(response)) = polled else { return Poll::Pending };
                let response = response.map(|body| ResponseBody::endpoint(body, served));
                Poll::Ready(Ok(response))
            }
        }
    }
}

impl Rest {
    /// Makes the endpoint's answer canonical, and gives back what tells of it if its body is to come.
    fn answered<B: http_body::Body>(
        &mut self,
        response: &mut Response<B>,
        mut served: Served,
    ) -> Option<Served> {
        hygiene::response(response);
        if let Some(client) = self.switch.take() {
            let endpoint = response.extensions_mut().remove::<OnUpgrade>();
            let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if let (Some(endpoint), true) = (endpoint, switching) {
                let counters = Arc::clone(&served.common().counters);
                let guards =
                    (served.common().draining.enter(), counters.enter(), served.take_place());
                let watch = Arc::clone(&self.watch);
                tokio::spawn(async move {
                    tunnel::upgraded(client, endpoint, &watch, &counters).await;
                    drop(guards);
                });
                self.watch.decide(self.number, true);
            } else {
                self.watch.decide(self.number, false);
            }
        } else if self.close {
            response.headers_mut().insert(CONNECTION, CLOSE);
        }
        let whole = response.body().is_end_stream();
        served.head(response, whole);
        // What is over is told now: the engine does not ask for the body of such an answer.
        (!whole).then_some(served)
    }

    /// The answer that tells of an error.
    fn failed<B>(&self, error: &Error, served: Served) -> Response<ResponseBody<B>> {
        self.watch.decide(self.number, false);
        let close = self.http1 && self.close;
        if !self.upload.as_ref().is_some_and(Upload::has_failed) {
            return respond(error, None, served, close);
        }
        let message = self.watch.violation().map_or_else(
            || {
                served.common().counters.reject(Reject::Body);
                "the request's body ended before its end"
            },
            Violation::message,
        );
        respond(&Error::new(ErrorKind::CallerProtocol, message), None, served, self.http1)
    }
}
