//! Listening: reports of endpoints on streams of their own, where the policy has `outOfBand`.
//!
//! One task per endpoint that discovery does not call draining:
//!
//! ```text
//!        ┌── no call for 60 s ──────────────────────────────┐
//!        ▼                                                   │
//! wait for a call ─► stream ── report ──► the endpoint's load ┤
//!                      ▲ │ ended, or silent for 90 s or three intervals
//!                      │ └─► back-off, 1 s doubling to 120 s with full jitter; from 1 s after a report
//!                      └──────┘
//!                        UNIMPLEMENTED: never asked again
//! ```
//!
//! It ends when the endpoint leaves its set or the destination ends. Streams go over connections of
//! their own, as health checks do: they neither wait for calls nor count against limits.
//!
//! Source: gRFC A51 (back-off, UNIMPLEMENTED), A58 (interval).

use super::stream::METHOD;
use crate::body::Body;
use crate::connect::{Connections, Protocol, ResponseBody};
use crate::destination::{Destination, Endpoint};
use crate::workers::{Worker, Workers};
use crate::{clock, grpc};
use bytes::BytesMut;
use http::uri::Authority;
use http_body_util::BodyExt;
use mesh_core::load::Report;
use mesh_core::load::report::{MAX_LEN, StreamRequest};
use mesh_core::retry::backoff;
use mesh_core::{Declared, EndpointSet, GrpcCode, Member, Policy};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// Waits between streams.
const BACKOFF: backoff::Config =
    backoff::Config::new(Duration::from_secs(1), Duration::from_secs(120));
/// How long a stream goes on while nobody calls the destination.
const IDLE: Duration = Duration::from_secs(60);
/// How often it is looked whether somebody does.
const LOOK: Duration = Duration::from_secs(1);
/// Shortest silence after which a stream is given up: servers may grant less than is asked for, gRPC's
/// one report in 30 s.
const SILENCE: Duration = Duration::from_secs(90);
/// Shortest interval that is asked for.
const SHORTEST: Duration = Duration::from_secs(1);

/// The streams of a destination's endpoints.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    /// By the place of the endpoint, which is kept with its task.
    running: Mutex<HashMap<usize, (Arc<Endpoint>, AbortHandle)>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.running.get_mut().values().for_each(|(_, task)| task.abort());
    }
}

impl Listening {
    /// Listens from now on to the endpoints of `set`, and to no others, as `policy` says. With
    /// `afresh` all streams are begun anew.
    pub(crate) fn follow(
        &self,
        destination: &Arc<Destination>,
        set: &EndpointSet<Workers>,
        policy: &Policy,
        afresh: bool,
    ) {
        let mut running = self.running.lock();
        let mut old = std::mem::take(&mut *running);
        if afresh {
            old.drain().for_each(|(_, (_, task))| task.abort());
        }
        let several = set.members().len() > 1;
        if several && policy.pick.listens() {
            let listened = |member: &&Member<Workers>| member.spec.declared != Declared::Draining;
            for member in set.members().iter().filter(listened) {
                let place = Arc::as_ptr(&member.endpoint) as usize;
                let kept = old.remove(&place).unwrap_or_else(|| {
                    let listener = Listener::new(destination, member, policy);
                    let task = destination.runtime().spawn(listener.run()).abort_handle();
                    (member.endpoint.clone(), task)
                });
                running.insert(place, kept);
            }
        }
        old.into_values().for_each(|(_, task)| task.abort());
    }
}

/// The stream of one endpoint: a task.
struct Listener {
    destination: Weak<Destination>,
    endpoint: Arc<Endpoint>,
    connections: Arc<Connections>,
    host: String,
    interval: Duration,
    /// Calls of the destination when they were last counted, and when a new one was found.
    calls: u64,
    called: Option<Instant>,
}

/// How a stream ended.
enum Ended {
    /// The endpoint has no such method.
    Unimplemented,
    /// Nobody calls the destination any more.
    Idle,
    /// It broke, or was ended by the endpoint; `heard` says whether there was a report.
    Lost { heard: bool },
    /// The destination is gone.
    Gone,
}

impl Listener {
    fn new(destination: &Arc<Destination>, member: &Member<Workers>, policy: &Policy) -> Self {
        let named = member.spec.hostname.as_ref().unwrap_or_else(|| destination.label());
        let host = match named.parse::<Authority>() {
            Ok(_) => named.to_string(),
            Err(_) => member.spec.addresses.first().map_or_else(String::new, ToString::to_string),
        };
        let interval = policy.pick.oob_reporting_period.max(SHORTEST);
        Self {
            destination: Arc::downgrade(destination),
            endpoint: member.endpoint.clone(),
            connections: Arc::new(
                member.endpoint.connections.of(Worker::default()).apart(interval),
            ),
            host,
            interval,
            calls: 0,
            called: None,
        }
    }

    async fn run(mut self) {
        let mut failures = 0;
        loop {
            while !self.is_called() {
                if self.destination.strong_count() == 0 {
                    return;
                }
                sleep(LOOK).await;
            }
            match Box::pin(self.stream()).await {
                Ended::Unimplemented | Ended::Gone => return,
                Ended::Idle => {}
                Ended::Lost { heard } => {
                    failures = if heard { 1 } else { failures + 1 };
                    sleep(BACKOFF.delay(failures, &mut || fastrand::u64(..))).await;
                }
            }
        }
    }

    /// Whether there was a call within [`IDLE`].
    fn is_called(&mut self) -> bool {
        let Some(destination) = self.destination.upgrade() else { return false };
        let calls = destination.shared().metrics.counts().picks;
        if calls != self.calls {
            self.calls = calls;
            self.called = Some(Instant::now());
        }
        self.called.is_some_and(|called| called.elapsed() < IDLE)
    }

    /// One stream, to its end.
    async fn stream(&mut self) -> Ended {
        let mut heard = false;
        let silence = SILENCE.max(self.interval * 3);
        let Ok(begun) = timeout(silence, self.begin()).await else { return Ended::Lost { heard } };
        let mut answer = match begun {
            Ok(answer) => answer,
            Err(ended) => return ended,
        };
        loop {
            match timeout(silence, answer.next()).await {
                Ok(Ok(report)) => {
                    heard = true;
                    if self.destination.strong_count() == 0 {
                        return Ended::Gone;
                    }
                    self.endpoint.load().reported(clock::now(), &report);
                    if !self.is_called() {
                        return Ended::Idle;
                    }
                }
                Ok(Err(GrpcCode::UNIMPLEMENTED)) => return Ended::Unimplemented,
                Ok(Err(_)) | Err(_) => return Ended::Lost { heard },
            }
        }
    }

    async fn begin(&self) -> Result<Answer, Ended> {
        const LOST: Ended = Ended::Lost { heard: false };
        let mut message = StreamRequest::default();
        message.interval = Some(self.interval);
        let body = Body::from(grpc::frame(&message.to_binary()));
        let request = grpc::request(&self.host, METHOD, body).map_err(|_| LOST)?;
        let response = self.connections.send(request, Protocol::Http2).await.map_err(|_| LOST)?;
        match GrpcCode::of_head(response.status(), response.headers()) {
            None => Ok(Answer { body: response.into_body(), buffer: BytesMut::new() }),
            Some(GrpcCode::UNIMPLEMENTED) => Err(Ended::Unimplemented),
            Some(_) => Err(LOST),
        }
    }
}

/// The reports that come on a stream.
struct Answer {
    body: ResponseBody,
    buffer: BytesMut,
}

impl Answer {
    /// The next report that can be read.
    ///
    /// # Errors
    /// With the status, when the stream is over.
    async fn next(&mut self) -> Result<Report, GrpcCode> {
        loop {
            match grpc::split(&mut self.buffer, MAX_LEN) {
                Ok(Some(message)) => match Report::from_binary(&message, &[]) {
                    Ok(report) => return Ok(report),
                    Err(_) => continue,
                },
                Ok(None) => {}
                Err(_) => return Err(GrpcCode::INTERNAL),
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => return Err(grpc::code(frame.trailers_ref())),
                },
                Some(Err(_)) => return Err(GrpcCode::UNAVAILABLE),
                None => return Err(grpc::code(None)),
            }
        }
    }
}
