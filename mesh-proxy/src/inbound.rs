//! Inbound: the `ServerPolicy` that holds for the calls of inbound listeners.
//!
//! There is one [`Inbound`] for each service that is listened for, and one for all inbound listeners
//! without a service, which go by the policy of the mesh. Workers and listeners share it, so
//! `maxRequests` is one count, and there is one queue.
//!
//! | of the policy | here |
//! |---|---|
//! | `maxRequests`, `adaptiveConcurrency` | a call above the limit is refused with [`ErrorKind::Shed`](mesh_core::ErrorKind::Shed); a place is kept until the response body, or the upgraded connection, is over |
//! | `rateLimit` | a call over it is refused with [`ErrorKind::RateLimited`](mesh_core::ErrorKind::RateLimited), before it takes a place; where a service is to be asked, it waits for the answer first |
//! | `shedding` | such a call waits for a short time; the least critical is refused first |
//! | `criticality` | told to the endpoint with calls that do not say, or are not believed |
//! | `timeout` | the call's [`Expiry`]: up to the end of the response body, and told to the endpoint |
//! | `trustCallers: false` | deadline, criticality and trace of the caller end here |
//! | `loadReports` | who gets reports of what the proxy sees of the endpoint, completed by what that says of itself; of others the asking ends here, and so do its reports |
//! | `drainTimeout` | bounds the drain, where no flag does; the longest counts |
//!
//! Connections that are not HTTP carry no calls: only `drainTimeout` means anything to them.
//!
//! Cost: a policy that asks nothing of calls costs a look at a flag. A place is two counts; one
//! that was waited for a box and a lock besides.
//! Order: after hygiene, so that only requests which could be served take a place; above the
//! channel, whose deadline layer keeps the expiry.

use crate::config::Wanted;
use ::http::{HeaderMap, HeaderName, Request, Response};
use mesh_core::config::{LoadReports, ServerPolicy};
use mesh_core::criticality::{CRITICALITY, Criticality};
use mesh_core::deadline::{
    EXPECTED_TIMEOUT, Expiry, GRPC_TIMEOUT, parse_expected_timeout, parse_grpc_timeout,
};
use mesh_core::snapshot::Snapshot;
use mesh_core::trace_context::TRACEPARENT;
use mesh_core::{DestinationName, Error, Swap, Timestamp};
use mesh_tower::call::Begun;
use mesh_tower::listen::Peer;
use mesh_tower::rate_limit::{Arrival, Asker, Asking, Checked, Limit};
use mesh_tower::report::{ASK, Form, Reports, Serving};
use mesh_tower::server::{Admission, Admitted};
use mesh_tower::telemetry::ServerMetrics;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// What a caller says of deadline, criticality and trace. Many servers read `_` as `-`; hygiene has removed
/// the other names that this could concern.
const CALLERS: [HeaderName; 8] = [
    GRPC_TIMEOUT,
    HeaderName::from_static("grpc_timeout"),
    EXPECTED_TIMEOUT,
    CRITICALITY,
    HeaderName::from_static("x_mesh_criticality"),
    TRACEPARENT,
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
];

/// The policy of one service, and the calls that it is busy with.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// Whether the policy asks anything of calls: spares the look at it.
    asks: AtomicBool,
    /// Whether the policy keeps load reports from some callers: spares the look at it.
    withholds: AtomicBool,
    /// The name of the service.
    service: Option<Box<str>>,
    policy: Swap<ServerPolicy>,
    rate_limit: Swap<Option<Limit>>,
    admission: Arc<Admission>,
    /// What callers that may have load reports are told.
    reports: Arc<Reports>,
    /// Whether even those are told that do not ask.
    tells_all: AtomicBool,
    /// Whether callers are believed that have not proved who they are.
    trusts_all: AtomicBool,
    metrics: Arc<ServerMetrics>,
}

/// A call that is not refused.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// Its place, to be kept until it is over, or what waits for one; `None`: calls are not counted.
    pub(crate) admitted: Option<Admitted>,
    /// What a rate limit service says of it: to be waited for before [`Inbound::admit`] gives it a
    /// place.
    pub(crate) asking: Option<Asking>,
    /// For its answer.
    pub(crate) fields: Option<Box<HeaderMap>>,
}

impl Inbound {
    fn new(
        service: Option<&DestinationName>,
        policy: &Arc<ServerPolicy>,
        metrics: &Arc<ServerMetrics>,
    ) -> Self {
        Self {
            service: service.map(|name| name.to_string().into()),
            asks: asks(policy).into(),
            withholds: withholds(policy).into(),
            policy: Arc::clone(policy).into(),
            rate_limit: Swap::new(policy.rate_limit.as_ref().map(Limit::new)),
            admission: Arc::new(Admission::new(policy)),
            reports: Arc::default(),
            tells_all: (policy.load_reports == LoadReports::Always).into(),
            trusts_all: policy.trust_callers.into(),
            metrics: Arc::clone(metrics),
        }
    }

    /// Puts a policy in force, from the next call on.
    fn set(&self, policy: &Arc<ServerPolicy>) {
        let old = self.policy.get();
        if **policy != *old {
            // What buckets hold stays, unless the limit changes.
            if policy.rate_limit != old.rate_limit {
                self.rate_limit.store(policy.rate_limit.as_ref().map(Limit::new));
            }
            self.policy.store_shared(Arc::clone(policy));
            self.admission.reconfigure(policy);
        }
        self.asks.store(asks(policy), Relaxed);
        self.withholds.store(withholds(policy), Relaxed);
        self.tells_all.store(policy.load_reports == LoadReports::Always, Relaxed);
        self.trusts_all.store(policy.trust_callers, Relaxed);
    }

    /// Answers a request that is a probe, if its caller may have what it asks for.
    pub(crate) fn answer<B>(&self, request: &Request<B>, peer: &Peer) -> Option<Response<()>> {
        let policy = self.policy.load();
        self.reports.answer(policy.load_reports, || trusts(&policy, peer), request)
    }

    /// Counts a call for the load reports; `None` while nobody has wanted one.
    pub(crate) fn begin<B>(
        &self,
        request: &Request<B>,
        peer: &Peer,
        begun: Begun,
    ) -> Option<Serving> {
        let form = if self.tells_all.load(Relaxed) || Form::asked(request.headers()).is_some() {
            let policy = self.policy.load();
            Form::granted(policy.load_reports, trusts(&policy, peer), request.headers())
        } else {
            None
        };
        self.reports.begin(form, begun.grpc, begun.started)
    }

    /// Whether a caller is neither believed nor proved who it is.
    pub(crate) fn is_stranger(&self, peer: &Peer) -> bool {
        !self.trusts_all.load(Relaxed) && peer.identity().is_none()
    }

    /// Whether a caller does not get the load reports of the endpoint.
    pub(crate) fn withholds_reports(&self, peer: &Peer) -> bool {
        self.withholds.load(Relaxed)
            && (peer.identity().is_none() || self.policy.load().load_reports == LoadReports::Never)
    }

    /// Applies the policy to a call that began at `started`.
    ///
    /// # Errors
    /// When as many calls are being served as may be. Calls that began while there was no limit
    /// do not count.
    pub(crate) fn receive<B>(
        &self,
        request: &mut Request<B>,
        peer: &Peer,
        asker: Option<&Asker>,
        started: Timestamp,
    ) -> Result<Received, Error> {
        if self.asks.load(Relaxed) {
            self.apply(request, peer, asker, started)
        } else {
            Ok(Received::default())
        }
    }

    fn apply<B>(
        &self,
        request: &mut Request<B>,
        peer: &Peer,
        asker: Option<&Asker>,
        started: Timestamp,
    ) -> Result<Received, Error> {
        let policy = self.policy.load();
        let mut received = Received::default();
        if policy.rate_limit.is_some()
            && let Some(limit) = &*self.rate_limit.load()
        {
            let expiry = limit.asks().then(|| {
                let told = expiry(request, started).filter(|_| policy.trust_callers);
                Expiry::child(told, started, policy.timeout)
            });
            let arrival = Arrival::of(Some(peer))
                .to(self.service.as_deref())
                .asked_by(asker, expiry.flatten());
            match limit.inbound(request, &arrival, &self.metrics, started) {
                Ok(Checked::Passed(fields)) => received.fields = fields,
                Ok(Checked::Asks(asking)) => received.asking = Some(asking),
                Err(over) => {
                    self.metrics.shed(over.kind());
                    return Err(over);
                }
            }
        }
        if self.withholds_reports(peer) {
            request.headers_mut().remove(ASK);
        }
        let headers = request.headers_mut();
        if !policy.trust_callers {
            for name in CALLERS {
                headers.remove(name);
            }
        }
        if let Some(criticality) = policy.criticality {
            headers.entry(CRITICALITY).or_insert_with(|| criticality.to_value());
        }
        if let Some(own) = policy.timeout {
            let told = headers.get(EXPECTED_TIMEOUT);
            let told = told.and_then(|told| parse_expected_timeout(told.as_bytes()).ok()?);
            let timeout = told.map_or(own, |told| told.min(own));
            request.extensions_mut().insert(Expiry(started + timeout));
        }
        if received.asking.is_none() {
            received.admitted = self.admit(request, started)?;
        }
        Ok(received)
    }

    /// Gives a call a place, or a place in the queue; `None`: calls are not counted.
    ///
    /// # Errors
    /// When as many calls are being served as may be, or the call's time is over.
    pub(crate) fn admit<B>(
        &self,
        request: &Request<B>,
        started: Timestamp,
    ) -> Result<Option<Admitted>, Error> {
        let policy = self.policy.load();
        if policy.max_requests.is_none() && policy.adaptive_concurrency.is_none() {
            return Ok(None);
        }
        let told = request.headers().get(CRITICALITY);
        let criticality = told.and_then(|told| Criticality::parse(told.as_bytes()));
        let expiry = expiry(request, started);
        let admitted = self.admission.admit(started, criticality.unwrap_or_default(), expiry);
        admitted.map(Some).inspect_err(|shed| self.metrics.shed(shed.kind()))
    }
}

/// When the caller, or the policy, gives up the call.
fn expiry<B>(request: &Request<B>, started: Timestamp) -> Option<Expiry> {
    let headers = request.headers();
    let expected = headers.get(EXPECTED_TIMEOUT);
    let expected = expected.and_then(|told| parse_expected_timeout(told.as_bytes()).ok()?);
    let grpc = headers.get(GRPC_TIMEOUT).filter(|_| mesh_core::is_grpc(headers));
    let grpc = grpc.and_then(|told| parse_grpc_timeout(told.as_bytes()).ok());
    let told = [expected, grpc].into_iter().flatten().min();
    Expiry::child(request.extensions().get().copied(), started, told)
}

/// Whether a caller may have load reports if it asks for them.
fn trusts(policy: &ServerPolicy, peer: &Peer) -> bool {
    policy.trust_callers || peer.identity().is_some()
}

/// Keeps what a call that waited was allowed from counting anew.
pub(crate) fn keep_expiry<B>(request: &mut Request<B>, started: Timestamp) {
    if let Some(expiry) = expiry(request, started) {
        request.extensions_mut().insert(expiry);
    }
}

fn asks(policy: &ServerPolicy) -> bool {
    policy.max_requests.is_some()
        || policy.rate_limit.is_some()
        || policy.adaptive_concurrency.is_some()
        || policy.criticality.is_some()
        || policy.timeout.is_some()
        || !policy.trust_callers
        || withholds(policy)
}

/// Whether some callers do not get load reports: strangers, unless the policy says `Always`.
fn withholds(policy: &ServerPolicy) -> bool {
    match policy.load_reports {
        LoadReports::Always => false,
        LoadReports::Asked => !policy.trust_callers,
        // `LoadReports` may grow; what is not known is not given.
        _ => true,
    }
}

/// The policies of all inbound listeners.
#[derive(Debug)]
pub(crate) struct Inbounds {
    by_service: Mutex<HashMap<Option<DestinationName>, Arc<Inbound>>>,
    metrics: Arc<ServerMetrics>,
}

impl Inbounds {
    /// None yet; what they refuse is counted in `metrics`.
    pub(crate) fn new(metrics: Arc<ServerMetrics>) -> Self {
        Self { by_service: Mutex::default(), metrics }
    }

    /// Puts the policies of a snapshot in force for its listeners, and for the connections that
    /// listeners before them have left.
    pub(crate) fn apply(&self, snapshot: &Snapshot, wanted: &[Wanted]) {
        let mut inbounds = self.by_service.lock();
        inbounds.retain(|_, inbound| Arc::strong_count(inbound) > 1);
        for wanted in wanted.iter().filter(|wanted| wanted.inbound) {
            let policy = policy(snapshot, wanted.destination.as_ref());
            inbounds.entry(wanted.destination.clone()).or_insert_with(|| {
                let service = wanted.destination.as_ref();
                Arc::new(Inbound::new(service, policy, &self.metrics))
            });
        }
        for (service, inbound) in &*inbounds {
            inbound.set(policy(snapshot, service.as_ref()));
        }
    }

    /// What holds for a listener; `None` for an outbound one.
    pub(crate) fn of(&self, wanted: &Wanted) -> Option<Arc<Inbound>> {
        self.by_service.lock().get(&wanted.destination).filter(|_| wanted.inbound).cloned()
    }

    /// The longest that one of them allows a drain to take; the default if there is none.
    pub(crate) fn drain_timeout(&self) -> Duration {
        let inbounds = self.by_service.lock();
        let allowed = inbounds.values().map(|inbound| inbound.policy.load().drain_timeout);
        allowed.max().unwrap_or_else(|| ServerPolicy::default().drain_timeout)
    }
}

fn policy<'a>(snapshot: &'a Snapshot, service: Option<&DestinationName>) -> &'a Arc<ServerPolicy> {
    match service {
        Some(name) => snapshot.server_policy(name),
        None => snapshot.default_server_policy(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::ErrorKind;
    use mesh_core::config::Source;
    use mesh_tower::clock;
    use mesh_tower::telemetry::Metrics;

    const MS: Duration = Duration::from_millis(1);

    fn policy(change: impl FnOnce(&mut ServerPolicy)) -> Arc<ServerPolicy> {
        let mut policy = ServerPolicy::default();
        change(&mut policy);
        Arc::new(policy)
    }

    fn inbound(change: impl FnOnce(&mut ServerPolicy)) -> Inbound {
        Inbound::new(None, &policy(change), Metrics::new().server())
    }

    fn peer() -> Peer {
        Peer::new(([127, 0, 0, 1], 1).into())
    }

    fn request(fields: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::new(());
        for (name, value) in fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        request
    }

    const TOLD: [(&str, &str); 9] = [
        ("grpc-timeout", "1S"),
        ("grpc_timeout", "1S"),
        ("x-envoy-expected-rq-timeout-ms", "40"),
        ("x-mesh-criticality", "SHEDDABLE"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
        ("baggage", "a=1"),
        ("x-request-id", "1"),
    ];

    #[tokio::test(start_paused = true)]
    async fn a_policy_that_asks_nothing_leaves_a_call_alone() {
        let mut request = request(&TOLD);
        let place = inbound(|policy| policy.drain_timeout = MS)
            .receive(&mut request, &peer(), None, clock::now())
            .unwrap();
        assert!(place.admitted.is_none() && request.extensions().is_empty());
        assert_eq!(request.headers().len(), TOLD.len());
    }

    #[tokio::test(start_paused = true)]
    async fn of_an_untrusted_caller_neither_deadline_nor_trace_is_left() {
        let mut request = request(&TOLD);
        inbound(|policy| policy.trust_callers = false)
            .receive(&mut request, &peer(), None, clock::now())
            .unwrap();
        let left: Vec<_> = request.headers().keys().collect();
        assert_eq!(left, ["x-request-id"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_shorter_of_ours_and_a_believed_timeout_bounds_the_call() {
        for (trusted, ours, expected) in [(true, 30, 30), (true, 50, 40), (false, 50, 50)] {
            let inbound = inbound(|policy| {
                policy.timeout = Some(ours * MS);
                policy.trust_callers = trusted;
            });
            let mut request = request(&TOLD);
            inbound.receive(&mut request, &peer(), None, clock::now()).unwrap();
            let expiry = request.extensions().get::<Expiry>().copied();
            assert_eq!(expiry, Some(Expiry(clock::now() + expected * MS)), "{trusted} {ours}");
        }
    }

    #[test]
    fn shed_calls_are_counted_and_a_new_limit_counts_those_being_served() {
        let inbound = inbound(|policy| policy.max_requests = Some(2));
        let _first = inbound.receive(&mut request(&[]), &peer(), None, clock::now()).unwrap();
        let second = inbound.receive(&mut request(&[]), &peer(), None, clock::now()).unwrap();
        inbound.set(&policy(|policy| policy.max_requests = Some(1)));
        drop(second);
        assert!(inbound.receive(&mut request(&[]), &peer(), None, clock::now()).is_err());
        inbound.set(&policy(|policy| policy.max_requests = Some(2)));
        assert!(inbound.receive(&mut request(&[]), &peer(), None, clock::now()).is_ok());
        assert_eq!(inbound.metrics.sheds().collect::<Vec<_>>(), [(ErrorKind::Shed, 1)]);
    }

    #[test]
    fn connections_of_a_listener_that_is_gone_keep_to_the_policy_of_their_service() {
        let read = |listener: &str, limit: u32| {
            let yaml = format!(
                "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: app }}\n\
                 spec: {{ endpoints: {{ static: ['127.0.0.1:9'] }} }}\n---\n\
                 apiVersion: mesh/v1\nkind: ServerPolicy\nmetadata: {{ name: app }}\n\
                 spec: {{ targetRef: {{ kind: Service, name: app }}, maxRequests: {limit} }}\n\
                 {listener}"
            );
            let snapshot = crate::config::snapshot(&[Source::new("test", yaml)]).unwrap();
            let wanted = crate::config::listeners(&snapshot);
            (snapshot, wanted)
        };
        let listener = "---\napiVersion: mesh/v1\nkind: Listener\nmetadata: { name: main }\n\
                        spec: { direction: Inbound, address: '127.0.0.1:0', service: app }";
        let inbounds = Inbounds::new(Arc::clone(Metrics::new().server()));
        let (snapshot, wanted) = read(listener, 1);
        inbounds.apply(&snapshot, &wanted);
        let connection = inbounds.of(&wanted[0]).unwrap();

        let (snapshot, none) = read("", 7);
        inbounds.apply(&snapshot, &none);
        assert_eq!(connection.policy.load().max_requests, Some(7));
        drop(connection);
        inbounds.apply(&snapshot, &none);
        assert!(inbounds.by_service.lock().is_empty(), "nobody is left");
    }
}
