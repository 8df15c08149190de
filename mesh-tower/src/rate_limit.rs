//! Rate limit: refuses calls over a limit before anything is done for them.
//!
//! Inbound by the `rateLimit` of a `ServerPolicy` (answered 429, gRPC `RESOURCE_EXHAUSTED`, with
//! `x-envoy-ratelimited`), outbound by that of a `TrafficPolicy`
//! ([`ErrorKind::RateLimited`], before an endpoint is picked). What counts against which bucket:
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
use http::Request;
use mesh_core::rate_limit::{Asked, RateLimit, Verdict};
use mesh_core::{Draw, Error, ErrorKind, Timestamp};

pub use mesh_core::rate_limit::{By, Config, Descriptor, Entry, TokenBucket};

/// Holds a request against a limit; `peer` is who sent it.
///
/// # Errors
/// [`ErrorKind::RateLimited`] if it is refused.
pub fn inbound<B>(
    limit: &RateLimit,
    request: &Request<B>,
    peer: Option<&Peer>,
    metrics: &ServerMetrics,
    now: Timestamp,
) -> Result<(), Error> {
    let identity = peer.and_then(|peer| peer.identity()?.name());
    let address = peer.map(|peer| peer.address().ip());
    let asked = asked(request).from(identity, address);
    let draw = &mut || fastrand::u64(..);
    check(limit, &asked, now, draw, |enforced| metrics.rate_limited(enforced))
}

/// Holds a call that leaves against a limit.
pub(crate) fn outbound<B>(
    limit: &RateLimit,
    request: &Request<B>,
    draws: CallDraws,
    metrics: &DestinationMetrics,
) -> Result<(), Error> {
    let draw = &mut draws.of(Decision::RateLimit);
    let count = |enforced| metrics.rate_limited(enforced);
    check(limit, &asked(request), clock::now(), draw, count)
}

fn asked<B>(request: &Request<B>) -> Asked<'_> {
    Asked::new(request.headers(), request.method(), request.uri().path())
}

fn check(
    limit: &RateLimit,
    asked: &Asked<'_>,
    now: Timestamp,
    draw: &mut impl Draw,
    count: impl FnOnce(bool),
) -> Result<(), Error> {
    match limit.check(asked, now, draw) {
        Verdict::Refuse => {
            count(true);
            Err(Error::new(ErrorKind::RateLimited, "more calls came than the rate limit allows"))
        }
        Verdict::Shadow => {
            count(false);
            Ok(())
        }
        _ => Ok(()),
    }
}
