//! Ask: the one question that a call has for a rate limit service, and what follows from the answer.
//!
//! The question is a call of the mesh's own: to a destination of the configuration, with its
//! balancing, connections, TLS and outlier detection, but sent once, and held against no rate limit.
//! Nor is a call to the service's method by anybody else, so that a limit of all services does not
//! make questions about questions. It ends with the call that it is about: dropping that one resets
//! its stream.
//!
//! Bounded: one question per call, within `timeout` and the call's own deadline; 64 KiB of an answer
//! are read.

use super::Counts;
use crate::CallOptions;
use crate::body::Body;
use crate::call::{self, Call};
use crate::destination::Destination;
use crate::stack;
use crate::telemetry::GlobalLimit;
use crate::workers::Worker;
use bytes::{Buf, BytesMut};
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use mesh_core::deadline::Expiry;
use mesh_core::rate_limit::Told;
use mesh_core::rate_limit::global::{self, Answer, Code, Global, MAX_ANSWER, Question};
use mesh_core::{DestinationName, Draw, Error, ErrorKind, GrpcCode, Swap};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tower_service::Service;

/// The destinations of a mesh that may be asked. They are held weakly: their own limits may ask.
#[derive(Default)]
pub(crate) struct Services {
    known: Swap<HashMap<DestinationName, Weak<Destination>>>,
    /// Our own name among services.
    own: Option<Box<str>>,
}

impl Services {
    /// None yet; `own` is our own name.
    pub(crate) fn new(own: Option<&DestinationName>) -> Self {
        Self { own: own.map(|name| name.to_string().into()), ..Self::default() }
    }

    /// These from now on.
    pub(crate) fn replace<'a>(
        &self,
        known: impl Iterator<Item = (&'a DestinationName, &'a Arc<Destination>)>,
    ) {
        let known = known.map(|(name, known)| (name.clone(), Arc::downgrade(known)));
        self.known.store(known.collect());
    }

    fn find(&self, name: &DestinationName) -> Option<Arc<Destination>> {
        self.known.load().get(name)?.upgrade()
    }
}

/// Who asks rate limit services: one worker of a [`Mesh`](crate::Mesh). Cheap to clone.
#[derive(Clone)]
pub struct Asker {
    pub(crate) worker: Worker,
    pub(crate) services: Arc<Services>,
}

impl Asker {
    /// Our own name among services, if we have one.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        self.services.own.as_deref()
    }
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker").field("service", &self.service()).finish_non_exhaustive()
    }
}

/// How a limit asks, and what it does with answers.
#[derive(Debug)]
pub(super) struct Asks {
    pub(super) global: Global,
    pub(super) service: DestinationName,
    pub(super) timeout: Duration,
    /// Whether to refuse what could not be asked about.
    pub(super) deny: bool,
    pub(super) enforced: u8,
    pub(super) exhausted: bool,
}

/// A call that the rate limit service is asked about; resolves to what its answer adds. Dropping it
/// cancels the question.
///
/// # Errors
/// [`ErrorKind::RateLimited`] if the service says so, [`ErrorKind::RateLimitService`] if it cannot be
/// asked and the policy wants no call to pass unasked. They are counted here.
#[must_use = "futures do nothing unless polled"]
pub struct Asking(Pin<Box<dyn Future<Output = Result<Granted, Error>> + Send>>);

impl Asking {
    /// Asks about a call; `local` is how its local limits stand.
    pub(super) fn begin(
        asks: Arc<Asks>,
        asker: Option<&Asker>,
        question: Question,
        local: Option<Told>,
        expiry: Option<Expiry>,
        counts: Counts,
        mut draw: impl Draw + Send + 'static,
    ) -> Self {
        let asker = asker.cloned();
        Self(Box::pin(async move {
            let answer = match asker {
                Some(asker) => asks.ask(asker, question, expiry).await,
                None => Err("this stack belongs to no mesh that could ask".into()),
            };
            asks.decide(answer, local, &counts, &mut draw)
                .inspect_err(|refusal| counts.shed(refusal.kind()))
        }))
    }
}

impl Future for Asking {
    type Output = Result<Granted, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").finish_non_exhaustive()
    }
}

/// A call that may go on.
#[derive(Debug, Default)]
pub struct Granted {
    request: HeaderMap,
    fields: Option<Box<HeaderMap>>,
}

impl Granted {
    /// Gives the request the fields that the service wants it to have, in place of what its caller
    /// wrote under their names.
    pub fn edit(&self, headers: &mut HeaderMap) {
        for name in self.request.keys() {
            headers.remove(name);
        }
        for (name, value) in &self.request {
            // What does not fit any more is left out.
            let _ = headers.try_append(name.clone(), value.clone());
        }
    }

    /// Fields for the answer.
    #[must_use]
    pub fn into_fields(self) -> Option<Box<HeaderMap>> {
        self.fields
    }
}

impl Asks {
    async fn ask(
        &self,
        asker: Asker,
        question: Question,
        expiry: Option<Expiry>,
    ) -> Result<Answer, Cow<'static, str>> {
        let Some(destination) = asker.services.find(&self.service) else {
            return Err("it is not configured any more".into());
        };
        let request = Request::post(format!("http://{}{}", destination.label(), global::METHOD))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .body(Body::from(question.message));
        let mut request = request.map_err(|error| error.to_string())?;
        let mut call = Call::own(destination)
            .with_options(CallOptions::new().timeout(self.timeout).no_retry());
        call.expiry = expiry;
        call::pin(&mut request, call);
        let response =
            stack::below(&asker).call(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let mut code = GrpcCode::from_headers(response.headers())
            .or_else(|| (status != StatusCode::OK).then(|| GrpcCode::from_http(status)));
        let mut body = std::pin::pin!(response.into_body());
        let mut read = BytesMut::new();
        while let (None, Some(frame)) = (code, body.frame().await) {
            match frame.map_err(|error| error.to_string())?.into_data() {
                Ok(data) if read.len() + data.len() > MAX_ANSWER => {
                    return Err("its answer is longer than 64 KiB".into());
                }
                Ok(data) => read.extend_from_slice(&data),
                Err(frame) => code = frame.trailers_ref().and_then(GrpcCode::from_headers),
            }
        }
        match code {
            Some(GrpcCode::OK) => {}
            Some(other) => return Err(format!("it answered with {other}").into()),
            None => return Err("its answer has no status".into()),
        }
        message(&mut read)
            .and_then(|message| self.global.answer(message, question.descriptors))
            .ok_or(Cow::Borrowed("its answer is none"))
    }

    fn decide(
        &self,
        answer: Result<Answer, Cow<'static, str>>,
        local: Option<Told>,
        counts: &Counts,
        draw: &mut impl Draw,
    ) -> Result<Granted, Error> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(why) => {
                counts.global(GlobalLimit::Error);
                if self.deny {
                    let why = format!("rate limit service {} failed: {why}", self.service);
                    return Err(Error::new(ErrorKind::RateLimitService, why));
                }
                counts.global(GlobalLimit::FailureModeAllowed);
                tracing::debug!("mesh.destination" = %self.service, "rate limit not asked: {why}");
                let fields = local.map(|told| super::told(&told, ""));
                return Ok(Granted { fields, ..Granted::default() });
            }
        };
        let mut fields = answer.response;
        tighter(local, answer.told, &mut fields);
        if answer.code == Code::OverLimit {
            counts.global(GlobalLimit::OverLimit);
            let enforced = global::takes(self.enforced, draw);
            counts.limited(enforced);
            if enforced {
                let why = "more calls came than the rate limit service allows";
                return Err(super::refusal(why, self.exhausted).with_fields(fields));
            }
        } else {
            counts.global(GlobalLimit::Ok);
        }
        let fields = (!fields.is_empty()).then(|| Box::new(fields));
        Ok(Granted { request: answer.request, fields })
    }
}

/// Tells of the tighter of two limits.
fn tighter(local: Option<Told>, asked: Option<(Told, String)>, fields: &mut HeaderMap) {
    match (local, asked) {
        (Some(local), Some((global, windows))) => {
            if global.clone().tighter(local.clone()) == global {
                global.write(&windows, fields);
            } else {
                local.write("", fields);
            }
        }
        (Some(local), None) => local.write("", fields),
        (None, Some((global, windows))) => global.write(&windows, fields),
        (None, None) => {}
    }
}

/// The one message of an answer, if it is whole and not compressed.
fn message(read: &mut BytesMut) -> Option<&[u8]> {
    let ([compressed, length @ ..], _) = read.split_first_chunk::<5>()?;
    let (compressed, length) = (*compressed, u32::from_be_bytes(*length) as usize);
    read.advance(5);
    (compressed == 0 && read.len() == length).then_some(&**read)
}

/// Adds the fields of a limit to an answer: `x-ratelimit-*` in place of its own, the others beside
/// them.
pub fn tell(fields: &HeaderMap, headers: &mut HeaderMap) {
    let own = |name: &str| name.starts_with("x-ratelimit-");
    for name in fields.keys().filter(|name| own(name.as_str())) {
        headers.remove(name);
    }
    for (name, value) in fields {
        // What does not fit any more is left out.
        let _ = headers.try_append(name.clone(), value.clone());
    }
}
