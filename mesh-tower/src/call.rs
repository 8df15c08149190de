//! Call: what is decided about a call once, and read by every layer below.
//!
//! Route looks at the configuration once and pins a [`Call`] to the request. Policy pinned there
//! wins over a layer's own settings, so the same layers serve hand-made stacks and pushed
//! configuration; a layer that finds no `Call` uses its own.
//!
//! In the default stack the call travels within the request's [`Body`], because a map of
//! extensions costs three allocations and a hash per look. A request with any other body carries it in its
//! extensions. [`pin`], [`pinned`] and [`pinned_mut`] hide the difference, which the compiler
//! resolves.

use crate::affinity::{Affinity, Asked, Hashed};
use crate::body::Body;
use crate::call_options::CallOptions;
use crate::clock;
use crate::deadline::Sent;
use crate::destination::Destination;
use crate::draws::CallDraws;
use crate::explain::Noting;
use crate::guard::Guard;
use crate::rate_limit::Limit;
use crate::telemetry::DestinationMetrics;
use http::Request;
use mesh_core::deadline::Expiry;
use mesh_core::hedge::Latencies;
use mesh_core::limit::Limits;
use mesh_core::pick::{Labels, PickArgs};
use mesh_core::retry::RequestFields;
use mesh_core::retry::budget::Budget;
use mesh_core::retry::throttling::Throttling;
use mesh_core::route::Rule;
use mesh_core::route::filter::Filters;
use mesh_core::{EndpointId, ErrorKind, Policy, Timestamp, hedge, retry};
use std::any::Any;
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The decisions of one call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call {
    /// When it began: the one clock read that all layers share.
    pub started: Timestamp,
    /// When its first attempt leaves: later than `started` if a fault delays it.
    pub leaves: Timestamp,
    /// The merged policy of destination and route.
    pub policy: Arc<Policy>,
    /// When the answer's head must be there. It only shrinks on its way down.
    pub expiry: Option<Expiry>,
    /// When this attempt is given up, if it is before the call.
    pub(crate) cut: Option<Timestamp>,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Endpoints of the attempts before this one.
    pub tried: Vec<EndpointId>,
    /// What the caller asks for in place of the policy.
    pub options: Option<Arc<CallOptions>>,
    /// Whether it is a gRPC call.
    pub grpc: bool,
    /// Whether the mesh makes it for itself: it is held against no rate limit, and is not hedged.
    own: bool,
    /// The rate limit of its route, where that has one of its own.
    pub(crate) rate_limit: Option<Arc<Limit>>,
    /// What it shares with the other calls of its destination.
    pub shared: Option<Arc<Shared>>,
    /// The rule that matched.
    pub rule: Option<Arc<Rule>>,
    /// Labels of the endpoints that it may go to, unless the options name others.
    pub subset: Option<Arc<[Labels]>>,
    /// Where it belongs, if it brings something that says so.
    pub(crate) affinity: Option<Arc<Affinity>>,
    /// What the fields of its request ask for, where the policy trusts them.
    fields: Option<Box<RequestFields>>,
    /// The policy's settings of retries as fields and options change them, if they do.
    retry: Option<Arc<retry::Config>>,
    /// What its rule does to it.
    pub(crate) filters: Option<Arc<Filters>>,
    /// Whom it is for, once routed.
    pub(crate) destination: Option<Arc<Destination>>,
    /// Where what is decided about it is noted, if its caller asks.
    pub(crate) noting: Option<Noting>,
    /// Where its random decisions come from.
    pub(crate) draws: CallDraws,
    /// When its request is sent in full, if `expiry` counts from then.
    pub(crate) sent: Option<Arc<Sent>>,
    /// Whether other attempts of the call may be under way beside this one.
    pub(crate) hedged: bool,
    /// The endpoint of this attempt, as far as somebody above asks: told at the pick if the call is
    /// hedged, else when the attempt runs out of time.
    pub(crate) at: OnceLock<EndpointId>,
}

/// What is known of a call once its head is there, for whoever looks before the stack does.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Begun {
    /// When it began: what its timeouts and durations count from.
    pub started: Timestamp,
    /// Whether it is a gRPC call.
    pub grpc: bool,
}

impl Begun {
    /// A call that begins now.
    #[must_use]
    pub fn now<B>(request: &Request<B>) -> Self {
        Self { started: clock::now(), grpc: mesh_core::is_grpc(request.headers()) }
    }
}

impl Call {
    /// A first attempt that begins at `started`.
    #[must_use]
    pub const fn new(started: Timestamp, policy: Arc<Policy>, grpc: bool) -> Self {
        Self {
            started,
            leaves: started,
            policy,
            expiry: None,
            cut: None,
            attempt: 1,
            tried: Vec::new(),
            options: None,
            grpc,
            own: false,
            rate_limit: None,
            shared: None,
            rule: None,
            subset: None,
            affinity: None,
            fields: None,
            retry: None,
            filters: None,
            destination: None,
            noting: None,
            draws: CallDraws::OF_THREAD,
            sent: None,
            hedged: false,
            at: OnceLock::new(),
        }
    }

    /// The same, as its caller wants it.
    #[must_use]
    pub fn with_options(mut self, options: CallOptions) -> Self {
        self.retry = options.retry(self.retry()).or(self.retry);
        self.options = Some(Arc::new(options));
        self
    }

    /// The same, as the fields of its request ask for.
    #[must_use]
    pub fn with_fields(mut self, fields: RequestFields) -> Self {
        let mut config = fields.retry(&self.policy.retry);
        // What the caller asks for in code wins.
        if let Some(retries) = self.options.as_ref().and_then(|options| options.retries) {
            config.attempts = retries;
        }
        self.retry = Some(Arc::new(config));
        self.fields = Some(Box::new(fields));
        self
    }

    /// Finds out where its request belongs; `source` is its caller, if that is not to be asked of
    /// the request being served, and `hashed` what its route has hashed already.
    pub(crate) fn belong<B>(
        mut self,
        request: &Request<B>,
        source: Option<IpAddr>,
        hashed: Option<Hashed>,
    ) -> Self {
        let options = self.options.as_deref();
        let asked = Asked { options, source, draws: self.draws };
        self.affinity = Affinity::of(request, &self.policy, &asked, hashed);
        self
    }

    /// That of a request to a destination, as its caller wants it.
    pub(crate) fn of<B>(
        request: &Request<B>,
        begun: Begun,
        policy: Arc<Policy>,
        destination: Arc<Destination>,
    ) -> Self {
        let call = Self::new(begun.started, policy, begun.grpc).to(destination);
        match request.extensions().get::<CallOptions>() {
            Some(options) => call.with_options(options.clone()),
            None => call,
        }
    }

    /// A gRPC call that the mesh makes for itself.
    pub(crate) fn own(destination: Arc<Destination>) -> Self {
        let call = Self::new(clock::now(), destination.policy(), true).to(destination);
        Self { own: true, ..call }
    }

    /// Whether the mesh makes it for itself.
    pub(crate) const fn is_own(&self) -> bool {
        self.own
    }

    /// The same, to a destination.
    pub(crate) fn to(mut self, destination: Arc<Destination>) -> Self {
        self.shared = Some(destination.shared().clone());
        self.destination = Some(destination);
        self
    }
}

impl Call {
    /// Whether the head of the answer should have been there by `now`.
    pub(crate) fn is_late(&self, now: Timestamp) -> bool {
        if self.cut.is_some_and(|cut| now >= cut) {
            return true;
        }
        let Some(Expiry(expiry)) = self.expiry else { return false };
        let span = self.timeout();
        let later = self.sent.as_ref().and_then(|sent| sent.extend(expiry, span));
        now >= later.unwrap_or(expiry)
    }

    /// Longest that it may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.asked_timeout().unwrap_or(self.policy.timeouts.request)
    }

    /// What its caller asks for in place of the policy's.
    pub(crate) fn asked_timeout(&self) -> Option<Duration> {
        let own = self.options.as_ref().and_then(|options| options.timeout);
        own.or_else(|| self.fields.as_ref()?.timeout)
    }

    /// How it is hedged.
    pub(crate) fn hedge(&self) -> Option<Cow<'_, hedge::Config>> {
        let policy = self.policy.hedge.as_ref().filter(|_| !self.own);
        match self.fields.as_ref().and_then(|fields| fields.hedge_on_per_try_timeout) {
            Some(true) => Some(Cow::Owned(hedge::Config::on_per_try_timeout())),
            Some(false) => policy.filter(|hedge| !hedge.on_per_try_timeout).map(Cow::Borrowed),
            None => policy.map(Cow::Borrowed),
        }
    }

    /// How it is sent again.
    pub(crate) fn retry(&self) -> &retry::Config {
        self.retry.as_deref().unwrap_or(&self.policy.retry)
    }

    /// What an attempt at `now` brings to the pick.
    pub(crate) fn pick_args(&self, now: Timestamp) -> PickArgs<'_> {
        let mut args = PickArgs::new(now).with_avoid(&self.tried);
        let mut subset = &self.subset;
        if let Some(options) = &self.options {
            args = args.with_priority(options.priority);
            subset = if options.subset.is_some() { &options.subset } else { subset };
        }
        if let Some(subset) = subset {
            args = args.with_subset(subset);
        }
        match &self.affinity {
            Some(affinity) => affinity.pick(args, &self.policy),
            None => args,
        }
    }

    /// Whether a repeated call of this path does no harm, as its caller, the policy or else the
    /// descriptors of gRPC services declare.
    pub(crate) fn idempotent(&self, path: &str) -> Option<bool> {
        let asked = self.options.as_ref().and_then(|options| options.idempotent);
        asked.or_else(|| self.retry().idempotent).or_else(|| {
            let declares = |known: &Arc<Destination>| known.declares(path);
            (self.grpc && self.destination.as_ref().is_some_and(declares)).then_some(true)
        })
    }

    /// The destination's retry budget.
    pub(crate) fn budget(&self) -> Option<&Budget> {
        self.shared.as_deref().map(|shared| &shared.budget)
    }

    /// The destination's limits.
    pub(crate) fn limits(&self) -> Option<&Limits> {
        self.shared.as_deref().map(|shared| &shared.limits)
    }

    /// Where the destination's calls are counted.
    pub(crate) fn metrics(&self) -> Option<&Arc<DestinationMetrics>> {
        self.shared.as_deref().map(|shared| &shared.metrics)
    }
}

/// Pins a call to a request.
pub fn pin<B: 'static>(request: &mut Request<B>, call: impl Into<Arc<Call>>) {
    let call = call.into();
    match own_mut(request) {
        Some(body) => body.call = Some(call),
        None => {
            request.extensions_mut().insert(call);
        }
    }
}

/// The call that is pinned to a request.
pub fn pinned<B: 'static>(request: &Request<B>) -> Option<&Call> {
    match (request.body() as &dyn Any).downcast_ref::<Body>() {
        Some(body) => body.call.as_deref(),
        None => request.extensions().get::<Arc<Call>>().map(Arc::as_ref),
    }
}

/// The timeout that the caller of a request asks for.
pub(crate) fn asked_timeout<B: 'static>(request: &Request<B>) -> Option<Duration> {
    match pinned(request) {
        Some(call) => call.asked_timeout(),
        None => request.extensions().get::<CallOptions>()?.timeout,
    }
}

/// What the caller of a request asks for.
pub(crate) fn options<B: 'static>(request: &Request<B>) -> Option<&CallOptions> {
    match pinned(request) {
        Some(call) => call.options.as_deref(),
        None => request.extensions().get(),
    }
}

/// As [`pinned`], to be changed for the layers below.
pub fn pinned_mut<B: 'static>(request: &mut Request<B>) -> Option<&mut Call> {
    let pinned = if own_mut(request).is_some() {
        own_mut(request)?.call.as_mut()
    } else {
        request.extensions_mut().get_mut::<Arc<Call>>()
    };
    pinned.map(Arc::make_mut)
}

/// Takes the call off a request.
pub(crate) fn unpin<B: 'static>(request: &mut Request<B>) -> Option<Arc<Call>> {
    match own_mut(request) {
        Some(body) => body.call.take(),
        None => request.extensions_mut().remove(),
    }
}

fn own_mut<B: 'static>(request: &mut Request<B>) -> Option<&mut Body> {
    (request.body_mut() as &mut dyn Any).downcast_mut()
}

/// What all calls of one destination share.
#[derive(Debug)]
#[non_exhaustive]
pub struct Shared {
    /// How many retries the destination's traffic may add.
    pub budget: Budget,
    /// The tokens of retry throttling, where the policy has it.
    pub throttling: Throttling,
    /// How much may be in flight at once.
    pub limits: Limits,
    /// How long its first attempts take, once a policy hedges by that.
    pub(crate) latencies: OnceLock<Box<Latencies>>,
    /// Its rate limit and throttle.
    pub(crate) guard: Guard,
    /// Where it is counted.
    pub metrics: Arc<DestinationMetrics>,
}

/// In the extensions of a response that reports a failure: the endpoint that sent it, so that a
/// retry can avoid it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tried(pub EndpointId);

/// In the extensions of a response that reports a failure: what was used up, so that no further
/// attempt followed. [`ErrorKind::RetryLimit`], [`ErrorKind::RetryBudget`], or
/// [`ErrorKind::Overflow`] for the cap on retries at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exhausted(pub ErrorKind);
