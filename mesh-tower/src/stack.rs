//! The default client stack, and why it stands in this order.
//!
//! | layer | must sit above | because |
//! |---|---|---|
//! | [`route`](crate::route) | all | it pins the policy that the others ask |
//! | [`telemetry`](crate::telemetry) of the call | deadline | a call that runs out of time is counted as one |
//! | [`deadline`](crate::deadline) | limit, retry | attempts and back-off share one budget of time |
//! | [`limit`](crate::limit) | retry | a call counts once, whatever its attempts |
//! | [`retry`](crate::retry) | balance | each attempt picks anew |
//! | [`telemetry`](crate::telemetry) of the attempt | balance | a span and a duration for each |
//! | [`balance`](crate::balance) | – | picks, asks the breaker, sends |
//!
//! Every layer is a plain tower layer with a named type and future, so the compiler sees the
//! stack as one type; the only box is around what waits for the response of an attempt (`connect`).

use crate::balance::Balance;
use crate::body::Body;
use crate::deadline::{Deadline, DeadlineLayer};
use crate::limit::{Limit, LimitLayer};
use crate::mesh::Mesh;
use crate::rate_limit::Asker;
use crate::retry::{Retry, RetryLayer};
use crate::route::{Route, RouteLayer};
use crate::telemetry::{Telemetry, TelemetryLayer};
use http::Request;
use tower_layer::Layer;
use tower_service::Service;

type Attempt = Telemetry<Balance>;

/// All below `route`.
pub(crate) type Below = Telemetry<Deadline<Limit<Retry<Attempt>>>>;

/// The whole, as one type.
pub(crate) type Stack = Route<Below>;

/// What it answers with.
pub(crate) type StackResponse = <Stack as Service<Request<Body>>>::Response;

/// The stack of one mesh, below `route`.
pub(crate) fn stack(mesh: &Mesh, route: &RouteLayer) -> Stack {
    route.layer(below(&mesh.asker()))
}

/// All below `route`, for calls that are routed already.
pub(crate) fn below(asker: &Asker) -> Below {
    let attempt = TelemetryLayer::attempt().layer(Balance::routed(asker.worker));
    let retry = RetryLayer::new().layer(attempt);
    let limit = LimitLayer::default().asker(asker.clone()).layer(retry);
    let deadline = DeadlineLayer::default().layer(limit);
    TelemetryLayer::call().layer(deadline)
}
