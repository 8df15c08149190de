//! Rate limit: refuses calls over a limit before anything is done for them.
//!
//! Inbound by the `rateLimit` of a `ServerPolicy` (answered 429, gRPC `RESOURCE_EXHAUSTED`, with
//! `x-envoy-ratelimited`), outbound by that of a `TrafficPolicy`
//! ([`ErrorKind::RateLimited`], before an endpoint is picked). A `TrafficPolicy` of a route has
//! buckets of its own, which the calls of all its rules share. What counts against which bucket:
//! [`mesh_core::rate_limit`].
//!
//! Metrics: `mesh.ratelimit.denied`, `mesh.server.ratelimit.denied` with `mesh.enforced`; the
//! refused ones in `mesh.shed`, `mesh_server_shed` too.
//! Order: inbound before a place is taken, so that what is refused never waits for one; outbound
//! above retry, so that a call counts once, whatever its attempts.

use crate::clock;
use crate::draws::{CallDraws, Decision};
use crate::listen::Peer;
use crate::telemetry::{DestinationMetrics, ServerMetrics};
use http::{HeaderMap, Request};
use mesh_core::rate_limit::{Asked, RateLimit, Verdict};
use mesh_core::{Draw, Error, ErrorKind, GrpcCode, Timestamp};

pub use mesh_core::rate_limit::{By, Config, Descriptor, Entry, TokenBucket, XRatelimitHeaders};

/// The limits of one policy, and what is left of them.
#[derive(Debug)]
pub struct Limit {
    local: RateLimit,
    exhausted: bool,
}

impl Limit {
    /// With full buckets.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { local: RateLimit::new(config), exhausted: config.rate_limited_as_resource_exhausted }
    }

    /// Holds a request against it; `peer` is who sent it. Returns fields for its answer.
    ///
    /// # Errors
    /// [`ErrorKind::RateLimited`] if it is refused.
    pub fn inbound<B>(
        &self,
        request: &Request<B>,
        peer: Option<&Peer>,
        metrics: &ServerMetrics,
        now: Timestamp,
    ) -> Result<Option<Box<HeaderMap>>, Error> {
        let identity = peer.and_then(|peer| peer.identity()?.name());
        let address = peer.map(|peer| peer.address().ip());
        let asked = asked(request).from(identity, address);
        let draw = &mut || fastrand::u64(..);
        self.check(&asked, now, draw, |enforced| metrics.rate_limited(enforced))
    }

    /// Holds a call that leaves against it.
    pub(crate) fn outbound<B>(
        &self,
        request: &Request<B>,
        draws: CallDraws,
        metrics: &DestinationMetrics,
    ) -> Result<Option<Box<HeaderMap>>, Error> {
        let draw = &mut draws.of(Decision::RateLimit);
        let count = |enforced| metrics.rate_limited(enforced);
        self.check(&asked(request), clock::now(), draw, count)
    }

    fn check(
        &self,
        asked: &Asked<'_>,
        now: Timestamp,
        draw: &mut impl Draw,
        count: impl FnOnce(bool),
    ) -> Result<Option<Box<HeaderMap>>, Error> {
        let verdict = self.local.check(asked, now, draw);
        let fields = self.local.told(asked, now).map(|told| {
            let mut fields = Box::<HeaderMap>::default();
            told.write("", &mut fields);
            fields
        });
        match verdict {
            Verdict::Refuse => {
                count(true);
                let why = "more calls came than the rate limit allows";
                let refusal = Error::new(ErrorKind::RateLimited, why);
                let refusal = match fields {
                    Some(fields) => refusal.with_fields(*fields),
                    None => refusal,
                };
                Err(if self.exhausted {
                    refusal
                } else {
                    refusal.with_grpc_code(GrpcCode::UNAVAILABLE)
                })
            }
            Verdict::Shadow => {
                count(false);
                Ok(fields)
            }
            _ => Ok(fields),
        }
    }
}

fn asked<B>(request: &Request<B>) -> Asked<'_> {
    Asked::new(request.headers(), request.method(), request.uri().path())
}

/// Adds fields to an answer, in place of those of the same name.
pub fn tell(fields: &HeaderMap, headers: &mut HeaderMap) {
    for (name, value) in fields {
        // What does not fit any more is left out.
        let _ = headers.try_insert(name.clone(), value.clone());
    }
}
