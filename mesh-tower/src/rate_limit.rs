//! Rate limit: refuses calls over a limit before anything is done for them.
//!
//! Inbound by the `rateLimit` of a `ServerPolicy` (answered 429, gRPC `RESOURCE_EXHAUSTED`, with
//! `x-envoy-ratelimited`), outbound by that of a `TrafficPolicy`
//! ([`ErrorKind::RateLimited`], before an endpoint is picked). A `TrafficPolicy` of a route has
//! buckets of its own, which the calls of all its rules share. What counts against which bucket:
//! [`mesh_core::rate_limit`].
//!
//! Where the policy names a service for it, what the local limits let pass is asked about there
//! ([`Asking`]; what is asked and what answers mean: [`mesh_core::rate_limit::global`]).
//!
//! Metrics: `mesh.ratelimit.denied`, `mesh.server.ratelimit.denied` with `mesh.enforced`; the
//! refused ones in `mesh.shed`, `mesh_server_shed` too. What came of questions:
//! `mesh.ratelimit.global`, `mesh.server.ratelimit.global`.
//! Order: inbound before a place is taken, so that what is refused never waits for one; outbound
//! above retry, so that a call counts once, whatever its attempts.
//! Cost: a call that the service is asked about takes a box, and the time of the answer.

mod ask;

pub use ask::{Asker, Asking, Granted, tell};
pub use mesh_core::rate_limit::global;
pub use mesh_core::rate_limit::{By, Config, Descriptor, Entry, TokenBucket, XRatelimitHeaders};

pub(crate) use ask::Services;

use crate::call::Call;
use crate::clock;
use crate::draws::Decision;
use crate::listen::Peer;
use crate::telemetry::{DestinationMetrics, GlobalLimit, ServerMetrics};
use ask::Asks;
use global::Global;
use http::uri::Authority;
use http::{HeaderMap, Request, header};
use mesh_core::deadline::Expiry;
use mesh_core::rate_limit::{Asked, RateLimit, Told, Verdict};
use mesh_core::{Draw, Error, ErrorKind, GrpcCode, Timestamp};
use std::sync::Arc;

/// The limits of one policy, and what is left of them.
#[derive(Debug)]
pub struct Limit {
    local: RateLimit,
    asks: Option<Arc<Asks>>,
    enabled: u8,
    exhausted: bool,
}

/// A call that the local limits let pass.
#[derive(Debug)]
#[allow(clippy::exhaustive_enums, reason = "there is no third")]
pub enum Checked {
    /// It may go on; its answer is to carry these fields.
    Passed(Option<Box<HeaderMap>>),
    /// The rate limit service has to say.
    Asks(Asking),
}

/// A request that has come.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Arrival<'a> {
    /// Who sent it.
    pub peer: Option<&'a Peer>,
    /// The service that it came to.
    pub service: Option<&'a str>,
    /// Who may ask about it.
    pub asker: Option<&'a Asker>,
    /// When its caller gives it up.
    pub expiry: Option<Expiry>,
}

impl<'a> Arrival<'a> {
    /// One of a peer.
    #[must_use]
    pub fn of(peer: Option<&'a Peer>) -> Self {
        Self { peer, ..Self::default() }
    }

    /// The same, to a service.
    #[must_use]
    pub const fn to(mut self, service: Option<&'a str>) -> Self {
        self.service = service;
        self
    }

    /// The same; whoever may ask about it, and until when.
    #[must_use]
    pub const fn asked_by(mut self, asker: Option<&'a Asker>, expiry: Option<Expiry>) -> Self {
        self.asker = asker;
        self.expiry = expiry;
        self
    }
}

impl Limit {
    /// With full buckets.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let exhausted = config.rate_limited_as_resource_exhausted;
        let asks = config.global.as_ref().map(|global| {
            Arc::new(Asks {
                global: Global::new(global, config.enable_x_ratelimit_headers),
                service: global.service.clone(),
                timeout: global.timeout,
                deny: global.failure_mode_deny,
                enforced: config.enforced,
                exhausted,
            })
        });
        Self { local: RateLimit::new(config), asks, enabled: config.enabled, exhausted }
    }

    /// Whether calls may have to be asked about.
    #[must_use]
    pub const fn asks(&self) -> bool {
        self.asks.is_some()
    }

    /// Holds a request against it.
    ///
    /// # Errors
    /// [`ErrorKind::RateLimited`] if it is refused.
    pub fn inbound<B>(
        &self,
        request: &Request<B>,
        arrival: &Arrival<'_>,
        metrics: &Arc<ServerMetrics>,
        now: Timestamp,
    ) -> Result<Checked, Error> {
        let Arrival { peer, service, asker, expiry } = *arrival;
        let identity = peer.and_then(|peer| peer.identity()?.name());
        let address = peer.map(|peer| peer.address().ip());
        let asked = self.asked(request).from(identity, address).between(service, service);
        let draw = || fastrand::u64(..);
        let count = |enforced| metrics.rate_limited(enforced);
        let told = self.check(&asked, now, &mut { draw }, count)?;
        Ok(match self.question(&asked, &mut { draw }) {
            None => Checked::Passed(told.map(|told| self::told(&told, ""))),
            Some((asks, question)) => {
                let counts = Counts::Inbound(metrics.clone());
                Checked::Asks(Asking::begin(asks, asker, question, told, expiry, counts, draw))
            }
        })
    }

    /// Holds a call that leaves against it.
    pub(crate) fn outbound<B>(
        &self,
        request: &Request<B>,
        call: &Call,
        asker: Option<&Asker>,
        metrics: &Arc<DestinationMetrics>,
    ) -> Result<Checked, Error> {
        let mut draw = call.draws.of(Decision::RateLimit);
        let service = asker.and_then(Asker::service);
        let destination = call.destination.as_ref().map(|known| &**known.label());
        let asked = self.asked(request).between(service, destination);
        let count = |enforced| metrics.rate_limited(enforced);
        let told = self.check(&asked, clock::now(), &mut draw, count)?;
        Ok(match self.question(&asked, &mut draw) {
            None => Checked::Passed(told.map(|told| self::told(&told, ""))),
            Some((asks, question)) => {
                let counts = Counts::Outbound(metrics.clone());
                let asking = Asking::begin(asks, asker, question, told, call.expiry, counts, draw);
                Checked::Asks(asking)
            }
        })
    }

    /// What is looked at; the whole target only if there is something to ask.
    fn asked<'a, B>(&self, request: &'a Request<B>) -> Asked<'a> {
        let uri = request.uri();
        let asked = Asked::new(request.headers(), request.method(), uri.path());
        if self.asks.is_none() {
            return asked;
        }
        let host = || request.headers().get(header::HOST)?.to_str().ok();
        asked.target(uri.authority().map(Authority::as_str).or_else(host), uri.query())
    }

    /// What to ask about a call.
    fn question(
        &self,
        asked: &Asked<'_>,
        draw: &mut impl Draw,
    ) -> Option<(Arc<Asks>, global::Question)> {
        let asks = self.asks.as_ref()?;
        if asked.path == global::METHOD || !global::takes(self.enabled, draw) {
            return None;
        }
        Some((asks.clone(), asks.global.question(asked)?))
    }

    fn check(
        &self,
        asked: &Asked<'_>,
        now: Timestamp,
        draw: &mut impl Draw,
        count: impl FnOnce(bool),
    ) -> Result<Option<Told>, Error> {
        let verdict = self.local.check(asked, now, draw);
        let told = self.local.told(asked, now);
        match verdict {
            Verdict::Refuse => {
                count(true);
                let why = "more calls came than the rate limit allows";
                let refusal = refusal(why, self.exhausted);
                Err(match told {
                    Some(told) => refusal.with_fields(*self::told(&told, "")),
                    None => refusal,
                })
            }
            Verdict::Shadow => {
                count(false);
                Ok(told)
            }
            _ => Ok(told),
        }
    }
}

fn refusal(why: &'static str, exhausted: bool) -> Error {
    let refusal = Error::new(ErrorKind::RateLimited, why);
    if exhausted { refusal } else { refusal.with_grpc_code(GrpcCode::UNAVAILABLE) }
}

fn told(told: &Told, windows: &str) -> Box<HeaderMap> {
    let mut fields = Box::<HeaderMap>::default();
    told.write(windows, &mut fields);
    fields
}

/// Where it is counted what came of questions.
enum Counts {
    Inbound(Arc<ServerMetrics>),
    Outbound(Arc<DestinationMetrics>),
}

impl Counts {
    fn global(&self, result: GlobalLimit) {
        match self {
            Self::Inbound(metrics) => metrics.global_limited(result),
            Self::Outbound(metrics) => metrics.global_limited(result),
        }
    }

    fn limited(&self, enforced: bool) {
        match self {
            Self::Inbound(metrics) => metrics.rate_limited(enforced),
            Self::Outbound(metrics) => metrics.rate_limited(enforced),
        }
    }

    fn shed(&self, kind: ErrorKind) {
        match self {
            Self::Inbound(metrics) => metrics.shed(kind),
            Self::Outbound(metrics) => metrics.shed(kind),
        }
    }
}
