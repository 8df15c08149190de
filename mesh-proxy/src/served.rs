//! Served: one request, from its head to the end of its answer, told once when that is over.
//!
//! What is told, and to whom:
//!
//! | end | `http.server.request.duration` | access log |
//! |---|---|---|
//! | the endpoint's answer went out whole | its status | its status |
//! | an answer of our own | its status, and our flag as `error.type` | the same |
//! | the endpoint broke the answer off | the error's flag | its status and that flag |
//! | the client went away first | `downstream_connection_termination` | the same |
//!
//! A gRPC call also counts in `rpc.server.call.duration`, by the status in its trailers.
//!
//! Cost: the clock is read at the head, for the stack below as well, and at the end. The access log
//! has a box of its own where it is on; nothing else here is allocated.
//!
//! What the HTTP engine cannot read as a request is none: that counts in `mesh_proxy_rejected` only.

use crate::access_log::{self, Ended};
use crate::http::Common;
use ::http::{HeaderMap, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body::Frame;
use mesh_core::{Error, ErrorKind, GrpcCode};
use mesh_tower::call::Begun;
use mesh_tower::rate_limit;
use mesh_tower::report::{self, Serving};
use mesh_tower::server::Place;
use mesh_tower::telemetry::{End, MethodLabel};
use mesh_tower::{BoxError, clock};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// One request being served. Dropping it tells of it.
pub(crate) struct Served {
    common: Arc<Common>,
    begun: Begun,
    method: MethodLabel,
    /// Whether its answer has no body, whatever the head says.
    bodiless: bool,
    /// Of the answer; `None` while there is none.
    status: Option<StatusCode>,
    code: Option<GrpcCode>,
    error: Option<ErrorKind>,
    /// Whether the answer is ours.
    own: bool,
    /// All of the answer has been handed over; if not, the client went away.
    complete: bool,
    line: Option<Box<access_log::Line>>,
    /// The call's, among those being served; `None` while calls are not counted.
    place: Option<Place>,
    /// Whether its caller does not get the endpoint's load reports.
    withholds_reports: bool,
    /// Whether its caller is not to learn what is behind us.
    stranger: bool,
    /// Counts it for our own, where there are such.
    serving: Option<Box<Serving>>,
    /// For its answer.
    fields: Option<Box<HeaderMap>>,
}

impl Served {
    /// A request whose head is here.
    pub(crate) fn begin<B>(common: &Arc<Common>, request: &Request<B>, client: SocketAddr) -> Self {
        Self {
            common: Arc::clone(common),
            begun: Begun::now(request),
            method: request.method().into(),
            bodiless: request.method() == Method::HEAD,
            status: None,
            code: None,
            error: None,
            own: false,
            complete: false,
            line: common.log.as_ref().map(|log| log.line(request, client)),
            place: None,
            withholds_reports: false,
            stranger: false,
            serving: None,
            fields: None,
        }
    }

    /// The endpoint's load reports are none of its caller's business.
    pub(crate) const fn withhold_reports(&mut self) {
        self.withholds_reports = true;
    }

    /// Its caller is not believed, and has not proved who it is.
    pub(crate) const fn for_stranger(&mut self) {
        self.stranger = true;
    }

    pub(crate) const fn is_for_stranger(&self) -> bool {
        self.stranger
    }

    /// It counts for the load reports of its service.
    pub(crate) fn reported(&mut self, serving: Option<Serving>) {
        self.serving = serving.map(Box::new);
    }

    /// It waited, and has a place where calls are counted.
    pub(crate) fn waited(&mut self, place: Option<Place>) {
        if let Some(serving) = &mut self.serving {
            serving.waited();
        }
        self.place = place;
    }

    /// Fields that the endpoint's answer is to carry.
    pub(crate) fn tell(&mut self, fields: Option<Box<HeaderMap>>) {
        self.fields = fields;
    }

    /// It has a place, to be given back when it is over.
    pub(crate) fn admitted(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// The place, for what goes on when the answer is over.
    pub(crate) const fn take_place(&mut self) -> Option<Place> {
        self.place.take()
    }

    /// What its head said when it was here.
    pub(crate) const fn begun(&self) -> Begun {
        self.begun
    }

    pub(crate) const fn is_grpc(&self) -> bool {
        self.begun.grpc
    }

    pub(crate) fn common(&self) -> &Common {
        &self.common
    }

    /// The endpoint answered; `whole` if its answer ends with the head.
    pub(crate) fn head<B>(&mut self, response: &mut Response<B>, whole: bool) {
        if self.withholds_reports {
            report::strip(response.headers_mut());
        }
        if let Some(serving) = &mut self.serving {
            serving.head(response);
        }
        if let Some(fields) = &self.fields {
            rate_limit::tell(fields, response.headers_mut());
        }
        let status = response.status();
        self.status = Some(status);
        self.complete = whole || self.bodiless;
        if self.begun.grpc {
            self.code = GrpcCode::of_head(status, response.headers());
        }
    }

    /// We answer, because of an error.
    pub(crate) fn answer<B>(&mut self, error: &Error, response: &mut Response<B>) {
        if let Some(serving) = &mut self.serving {
            serving.refuse(error.kind(), response);
        }
        self.status = Some(response.status());
        self.code = Some(error.grpc_code());
        self.error = Some(error.kind());
        self.own = true;
    }

    /// A part of the endpoint's answer as its caller gets it.
    pub(crate) fn pass(&mut self, frame: &mut Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_mut() {
            if self.withholds_reports {
                report::strip(trailers);
            }
            if let Some(serving) = &mut self.serving {
                serving.trailers(trailers);
            }
        }
    }

    /// A part of the answer's body, or why there will be no more of it; `last` if it is the end.
    pub(crate) fn frame(&mut self, frame: &Result<Frame<Bytes>, BoxError>, last: bool) {
        match frame {
            Ok(frame) => {
                if let (Some(line), Some(data)) = (&mut self.line, frame.data_ref()) {
                    line.sent(data.len());
                }
                if let (true, Some(trailers)) = (self.begun.grpc, frame.trailers_ref()) {
                    self.code = GrpcCode::from_headers(trailers).or(self.code);
                }
                self.complete |= last;
            }
            Err(error) => {
                let error = error.downcast_ref::<Error>();
                self.error = Some(error.map_or(ErrorKind::ConnectionClosed, Error::kind));
                self.code = Some(error.map_or(GrpcCode::UNAVAILABLE, Error::grpc_code));
            }
        }
    }

    /// The answer's body is over.
    pub(crate) const fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let now = clock::now();
        let took = now.since(self.begun.started);
        let gone = !self.complete && self.error.is_none();
        let error = if gone { Some(ErrorKind::CallerGone) } else { self.error };
        if let (Some(place), None) = (&self.place, error) {
            place.answered(now);
        }
        let end = match (error, self.status) {
            (Some(kind), Some(status)) if self.own => End::Answered(kind, status),
            (Some(kind), _) => End::Error(kind),
            (None, Some(status)) => End::Status(status),
            (None, None) => End::Other,
        };
        self.common.metrics.request_ended(self.method, end, took);
        let unsaid = if gone { GrpcCode::CANCELLED } else { GrpcCode::UNKNOWN };
        let code = self.begun.grpc.then_some(self.code.unwrap_or(unsaid));
        if let Some(code) = code {
            self.common.metrics.rpc_ended(code, took);
        }
        if let Some(line) = self.line.take() {
            line.write(&Ended { status: self.status, code, error, took });
        }
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("status", &self.status).finish_non_exhaustive()
    }
}
