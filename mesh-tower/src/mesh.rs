//! Mesh: the configuration in force, and the destinations that calls have found.
//!
//! One value per process, cheap to clone. It owns the background tasks (discovery and the outlier
//! sweep, one task per destination), which end when the last clone is dropped.

use crate::affinity::{Asked as AskedHash, Hashed};
use crate::balance::Balance;
use crate::builder::{BuildError, MeshBuilder};
use crate::call::{Begun, Call};
use crate::caller;
use crate::channel::Channel;
use crate::clock;
use crate::connect;
use crate::descriptors;
use crate::destination::{Destination, DestinationState, Environment};
use crate::draws::{CallDraws, Decision};
use crate::explain::{Noting, Recording};
use crate::listen::{Drains, Listener};
use crate::mirror;
use crate::plain::Plain;
use crate::rate_limit::{Asker, Limit, Services};
use crate::server::{self, ServerLayer};
use crate::telemetry::Metrics;
use crate::tls;
use crate::workers::Worker;
use http::Request;
use mesh_core::config::{self, Diagnostic, Source};
use mesh_core::explain::{Asked, Candidate, Explanation, HashExplained, SplitExplained, explain};
use mesh_core::fault::Active;
use mesh_core::hash::{self, Input};
use mesh_core::pick::Labels;
use mesh_core::route::filter::Filters;
use mesh_core::route::{Backend, RouteRequest, path};
use mesh_core::snapshot::{DestinationConfig, DestinationId, Routed, Snapshot, Unrouted};
use mesh_core::{DestinationName, Error, ErrorKind, Policy, Swap, Timestamp};
use mesh_discovery::config_files;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::ToSocketAddrs;
use tokio::sync::Semaphore;

/// See the [module docs](self).
#[derive(Clone)]
pub struct Mesh {
    shared: Arc<Shared>,
    worker: Worker,
}

struct Shared {
    live: Swap<Live>,
    plain: Arc<Plain>,
    /// Held from the reading of a configuration until it is in force.
    configuring: Mutex<()>,
    version: AtomicU64,
    environment: Environment,
    metrics: Metrics,
    /// Calls that are delayed on purpose now.
    faults: Active,
    /// Whom rate limits may ask.
    services: Arc<Services>,
    /// Places for copies of requests.
    copies: Arc<Semaphore>,
    /// The handles of its listeners.
    drains: Arc<Drains>,
    server_tls: Option<Arc<tls::Server>>,
    /// Our own name among services.
    service: Option<DestinationName>,
}

/// A snapshot with the destinations it names, in the same order.
struct Live {
    snapshot: Arc<Snapshot>,
    destinations: Vec<Arc<Destination>>,
    /// Those of routes, in the order of the snapshot.
    limits: Vec<Arc<Limit>>,
}

impl Live {
    /// The rate limits of a snapshot: those that are the same as before keep what they counted.
    fn limits_of(&self, snapshot: &Snapshot) -> Vec<Arc<Limit>> {
        let mut known: HashMap<&str, Vec<_>> = HashMap::new();
        for (written, limit) in self.snapshot.route_limits().iter().zip(&self.limits) {
            known.entry(&written.route).or_default().push((&written.config, limit));
        }
        let made = snapshot.route_limits().iter().map(|written| {
            let known = known.get(&*written.route).into_iter().flatten();
            match known.into_iter().find(|(config, _)| **config == written.config) {
                Some((_, limit)) => Arc::clone(limit),
                None => Arc::new(Limit::new(&written.config)),
            }
        });
        made.collect()
    }

    fn at(&self, id: DestinationId) -> Option<&Arc<Destination>> {
        self.destinations.get(id.index())
    }

    /// In place of the backend that was drawn, while it has no endpoint that is up, the first of
    /// those that stand in for it which has one.
    fn stand_in<'a>(&self, routed: &mut Routed<'a>, now: Timestamp) {
        let drawn: &'a Backend = routed.backend;
        let Some(failover) = &drawn.failover else { return };
        let can_take = |backend: &&'a Backend| {
            let destination = self.at(backend.destination);
            destination.is_some_and(|known| known.can_take(backend.subset.as_deref(), now))
        };
        routed.backend =
            std::iter::once(drawn).chain(failover.iter()).find(can_take).unwrap_or(drawn);
    }

    fn destination_of(&self, routed: &Routed<'_>) -> Result<Arc<Destination>, Error> {
        self.at(routed.backend.destination).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NoDestination, "the route names a destination that is gone")
        })
    }

    /// A connection, as a rule has decided.
    fn connection(&self, mut routed: Routed<'_>) -> Result<RoutedConnection, Error> {
        self.stand_in(&mut routed, clock::now());
        let routed = &routed;
        Ok(RoutedConnection {
            destination: self.destination_of(routed)?,
            policy: routed.backend.policy.clone(),
            subset: routed.backend.subset.clone(),
        })
    }

    /// A call, as a rule has decided.
    fn call<B>(
        &self,
        request: &Request<B>,
        begun: Begun,
        draws: CallDraws,
        routed: &Routed<'_>,
    ) -> Result<Call, Error> {
        let policy = routed.backend.policy.clone();
        let mut call = Call::of(request, begun, policy, self.destination_of(routed)?);
        call.draws = draws;
        call.rule = Some(routed.rule.clone());
        call.filters = routed.backend.filters.clone();
        call.subset = routed.backend.subset.clone();
        if let Some(id) = routed.backend.rate_limit {
            call.rate_limit = self.limits.get(id.index()).cloned();
        }
        Ok(call)
    }
}

/// Why a call is sent nowhere.
pub(crate) enum Stop {
    /// It is refused.
    Refused(Error),
    /// Its rule answers by itself.
    Answered(Arc<Filters>),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl Mesh {
    /// A mesh from the environment: the configuration files that `MESH_CONFIG` names, else the one
    /// that stands in a usual place, else none ([`mesh_discovery::config_files`] tells the rule,
    /// which is that of the proxy). With none, authorities are plain DNS names and the default
    /// policy applies. `MESH_LOCALITY`, `MESH_LABELS` and `MESH_CALLER_NUMBER` say who calls
    /// ([`MeshBuilder::caller`]).
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), mesh_tower::BuildError> {
    /// let mesh = mesh_tower::Mesh::from_env()?;
    /// let channel = mesh.channel("greeter");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`MeshBuilder::build`].
    pub fn from_env() -> Result<Self, BuildError> {
        let files = config_files::find(&[]);
        let builder = Self::builder().caller(caller::from_env()?);
        files.into_iter().fold(builder, MeshBuilder::config_file).build()
    }

    /// A mesh made by hand.
    #[must_use]
    pub fn builder() -> MeshBuilder {
        MeshBuilder::default()
    }

    /// A channel to a destination: the transport of a tonic client, or an HTTP client for requests
    /// without an authority.
    #[must_use]
    pub fn channel(&self, name: &str) -> Channel {
        Channel::named(self, name)
    }

    /// A channel whose destination is each request's own authority.
    #[must_use]
    pub fn http(&self) -> Channel {
        Channel::by_request(self)
    }

    /// As [`Mesh::http`], but to configured hosts only: for requests that strangers wrote, such as
    /// those of an inbound proxy. Another host is refused as `no_route_found`.
    #[must_use]
    pub fn http_configured(&self) -> Channel {
        Channel::by_configured_request(self)
    }

    /// A channel to a configured destination by the routes attached to it, whatever authority a
    /// request has: for a listener of that destination. What no rule takes fails with
    /// [`ErrorKind::NoRoute`]; routes of other hosts, wildcards too, have no say.
    #[must_use]
    pub fn channel_to(&self, destination: &DestinationName) -> Channel {
        Channel::to(self, destination)
    }

    /// The lowest part of the stack alone, for a stack made by hand: picks an endpoint of the
    /// destination and sends.
    ///
    /// ```no_run
    /// # fn example(mesh: mesh_tower::Mesh) {
    /// use mesh_tower::deadline::DeadlineLayer;
    /// use mesh_tower::retry::RetryLayer;
    /// use std::time::Duration;
    /// use tower::ServiceBuilder;
    ///
    /// let channel = ServiceBuilder::new()
    ///     .layer(DeadlineLayer::new(Duration::from_secs(2)))
    ///     .layer(RetryLayer::new())
    ///     .service(mesh.balance("inventory"));
    /// # let _ = channel;
    /// # }
    /// ```
    #[must_use]
    pub fn balance(&self, name: &str) -> Balance {
        match self.destination(name) {
            Ok(destination) => Balance::fixed(destination, self.worker),
            Err(error) => Balance::invalid(error, self.worker),
        }
    }

    /// The inbound layer, for an axum router or a tonic server, with the `ServerPolicy` in force for
    /// the service that [`MeshBuilder::service`] named, else the mesh's own. The policy is read
    /// here, once: a later configuration does not change a layer that is already made.
    #[must_use]
    pub fn server(&self) -> ServerLayer {
        let snapshot = self.snapshot();
        let policy = match &self.shared.service {
            Some(name) => snapshot.server_policy(name),
            None => snapshot.default_server_policy(),
        };
        let shared = &self.shared;
        let config = server::Config::clone(policy);
        ServerLayer::of(config, &shared.metrics, shared.drains.clone()).asked_by(self.asker())
    }

    /// Listens for callers, with TLS where the builder was given certificates.
    ///
    /// # Errors
    /// When the address cannot be bound; the message names it.
    pub async fn listen(&self, address: impl ToSocketAddrs + fmt::Debug) -> io::Result<Listener> {
        let listener = Listener::bind(address, self.shared.server_tls.clone()).await?;
        self.shared.drains.add(listener.drain());
        Ok(listener.counted(Arc::clone(self.metrics().server())))
    }

    /// Puts a configuration in force, whole or not at all.
    ///
    /// Destinations that stay keep their endpoints, connections and what is known of them.
    ///
    /// # Errors
    /// When a document is wrong or a certificate cannot be read; the configuration in force stays.
    pub fn configure(&self, sources: &[Source]) -> Result<u64, BuildError> {
        let documents = config::parse(sources).map_err(BuildError::Config)?;
        let shared = &self.shared;
        let _configuring = shared.configuring.lock();
        let version = shared.version.load(Ordering::Relaxed) + 1;
        let snapshot = config::compile(&documents, version).map_err(BuildError::Config)?;
        shared.apply(snapshot, sources)?;
        shared.version.store(version, Ordering::Relaxed);
        Ok(version)
    }

    /// The configuration in force.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.live.load().snapshot.clone()
    }

    /// Every destination with its endpoints and their states.
    #[must_use]
    pub fn destinations(&self) -> Vec<DestinationState> {
        let now = clock::now();
        let live = self.shared.live.load();
        let plain = self.shared.plain.all();
        live.destinations.iter().chain(&plain).map(|destination| destination.state(now)).collect()
    }

    /// What the mesh has counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// The same mesh as another worker sees it: its channels use that worker's connections.
    /// `index` counts from 0 to one less than [`MeshBuilder::workers`].
    #[must_use]
    pub fn worker(&self, index: usize) -> Self {
        Self { shared: self.shared.clone(), worker: Worker(index) }
    }

    /// Who asks rate limit services, as this worker.
    #[must_use]
    pub fn asker(&self) -> Asker {
        Asker { worker: self.worker, services: self.shared.services.clone() }
    }

    pub(crate) const fn own_worker(&self) -> Worker {
        self.worker
    }

    /// The calls that are delayed on purpose now.
    pub(crate) fn faults(&self) -> &Active {
        &self.shared.faults
    }

    /// Places for the copies of requests that are under way.
    pub(crate) fn copies(&self) -> &Arc<Semaphore> {
        &self.shared.copies
    }

    /// A destination of the configuration in force.
    pub(crate) fn known(&self, name: &DestinationName) -> Option<Arc<Destination>> {
        let live = self.shared.live.load();
        live.at(live.snapshot.destination(name)?).cloned()
    }

    /// Finds the route of a call, and where it belongs by what `source`, its caller, has sent. With
    /// `plain`, a host that is not configured is a DNS name.
    pub(crate) fn route<B>(
        &self,
        authority: &str,
        request: &Request<B>,
        plain: bool,
        begun: Begun,
        source: Option<IpAddr>,
        recording: Option<&Arc<Recording>>,
    ) -> Result<Call, Stop> {
        let live = self.shared.live.load();
        let looked_for = RouteRequest::new(
            authority,
            request.method(),
            request.uri().path(),
            request.uri().query(),
            request.headers(),
        );
        let https = request.uri().scheme() == Some(&http::uri::Scheme::HTTPS);
        let draws = self.shared.environment.draws.next_call();
        let mut draw = draws.of(Decision::Route);
        let mut found = live.snapshot.route(&looked_for, &mut draw);
        let hashed = match &mut found {
            Ok(routed) => keep(request, routed, source, draws),
            Err(_) => None,
        };
        if let Some(recording) = recording {
            let asked = Asked::new(looked_for).https(https).as_written();
            note(recording, &live.snapshot, &asked, &found, draw.last(), hashed.as_ref());
        }
        let call = match found {
            Ok(mut routed) => {
                live.stand_in(&mut routed, begun.started);
                if https {
                    secured(&live.snapshot, routed.backend.destination)?;
                }
                live.call(request, begun, draws, &routed)?
            }
            Err(Unrouted::UnknownHost) if plain => {
                let destination = self.plain(authority, https, begun.started)?;
                let mut call = Call::of(request, begun, destination.policy(), destination);
                call.draws = draws;
                call
            }
            Err(Unrouted::Answered { filters, .. }) => return Err(Stop::Answered(filters)),
            Err(unrouted) => return Err(no_route(&unrouted, authority).into()),
        };
        Ok(belonging(call, request, source, hashed, recording))
    }

    /// As [`Mesh::route`], among the routes attached to a destination.
    pub(crate) fn route_to<B>(
        &self,
        name: &DestinationName,
        request: &Request<B>,
        begun: Begun,
        source: Option<IpAddr>,
        recording: Option<&Arc<Recording>>,
    ) -> Result<Call, Stop> {
        let live = self.shared.live.load();
        let known = live.snapshot.destination(name).and_then(|id| Some((id, live.at(id)?)));
        let Some((id, destination)) = known else {
            return Err(Error::new(ErrorKind::NoDestination, "it is not configured any more")
                .with_destination(name.to_string())
                .into());
        };
        let looked_for = RouteRequest::new(
            destination.label(),
            request.method(),
            request.uri().path(),
            request.uri().query(),
            request.headers(),
        );
        let draws = self.shared.environment.draws.next_call();
        let mut draw = draws.of(Decision::Route);
        let mut found = live.snapshot.route_to(id, &looked_for, &mut draw);
        let hashed = match &mut found {
            Ok(routed) => keep(request, routed, source, draws),
            Err(_) => None,
        };
        if let Some(recording) = recording {
            let asked = Asked::new(looked_for).to(Some(id)).as_written();
            note(recording, &live.snapshot, &asked, &found, draw.last(), hashed.as_ref());
        }
        match found {
            Ok(mut routed) => {
                live.stand_in(&mut routed, begun.started);
                let call = live.call(request, begun, draws, &routed)?;
                Ok(belonging(call, request, source, hashed, recording))
            }
            Err(Unrouted::Answered { filters, .. }) => Err(Stop::Answered(filters)),
            Err(unrouted) => Err(no_route(&unrouted, destination.label()).into()),
        }
    }

    /// What would become of a request now, where `candidates` tells the endpoints of a destination
    /// as a share of a rule, and a hash, sees them.
    pub(crate) fn ask(
        &self,
        to: Option<&DestinationName>,
        asked: &Asked<'_>,
        source: Option<IpAddr>,
        candidates: impl Fn(&Destination, Option<&Backend>, Option<u64>) -> Vec<Candidate>,
    ) -> Explanation {
        let live = self.shared.live.load();
        let snapshot = &live.snapshot;
        let id = to.and_then(|name| snapshot.destination(name));
        let asked = asked.to(id);
        // What a proxy refuses is told by `explain`.
        let normal = match path::normalize(asked.request.path) {
            Ok(normal) if !asked.as_written => normal,
            _ => None,
        };
        let path = normal.as_deref().unwrap_or(asked.request.path);
        let mut request = asked.request;
        request.path = path;
        let draws = self.shared.environment.draws.peek();
        let mut draw = draws.of(Decision::Route);
        let found = match id {
            Some(id) => snapshot.route_to(id, &request, &mut draw),
            None => snapshot.route(&request, &mut draw),
        };
        let entries = found.as_ref().map_or(&[][..], |routed| &routed.backend.policy.hash);
        let input = Input::new(request.headers).with_query(request.query).with_source(source);
        let hash = hash::hash(entries, &input, &mut draws.of(Decision::Hash)).hash;
        let rule = found.as_ref().ok().map(|routed| &**routed.rule);
        let mut told = explain(snapshot, &asked.taken(rule), |config, backend| {
            let destination = match backend {
                Some(backend) => live.at(backend.destination).cloned()?,
                None => self.shared.plain.all().into_iter().find(|known| {
                    config.origin.line().is_none() && &**known.label() == request.authority
                })?,
            };
            Some(candidates(&destination, backend, hash))
        });
        let kept = rule.zip(hash).and_then(|(rule, hash)| SplitExplained::kept(rule, hash));
        let drawn = || SplitExplained::drawn(rule?, draw.last());
        let by_hash = found.as_ref().is_ok_and(|to| to.backend.policy.pick.policy.is_by_hash());
        if let Some(hash) = hash.filter(|_| by_hash || kept.is_some()) {
            told.hash = Some(HashExplained::new(hash, entries, &input));
        }
        told.split = kept.or_else(drawn);
        told
    }

    /// Where a connection to a destination goes, by its `TCPRoute` if it has one.
    pub(crate) fn route_connection(&self, name: &str) -> Result<RoutedConnection, Error> {
        let live = self.shared.live.load();
        let parsed = name.parse::<DestinationName>().ok();
        let Some(id) = parsed.and_then(|name| live.snapshot.destination(&name)) else {
            let destination = self.plain(name, false, clock::now())?;
            let policy = destination.policy();
            return Ok(RoutedConnection { destination, policy, subset: None });
        };
        let routed = live.snapshot.route_connection(id, &mut || fastrand::u64(..));
        live.connection(routed.map_err(|unrouted| no_route(&unrouted, name))?)
    }

    /// Where a TLS connection goes whose client asks for `sni`, by the `TLSRoute`s of a destination,
    /// or by all of them.
    pub(crate) fn route_tls(
        &self,
        destination: Option<&DestinationName>,
        sni: &str,
    ) -> Result<RoutedConnection, Error> {
        let live = self.shared.live.load();
        let id = match destination {
            Some(name) => Some(live.snapshot.destination(name).ok_or_else(|| {
                Error::new(ErrorKind::NoDestination, "it is not configured any more")
                    .with_destination(name.to_string())
            })?),
            None => None,
        };
        let routed = live.snapshot.route_tls(id, sni, &mut || fastrand::u64(..));
        live.connection(routed.map_err(|unrouted| no_route(&unrouted, sni))?)
    }

    pub(crate) fn destination(&self, name: &str) -> Result<Arc<Destination>, Error> {
        if let Ok(parsed) = name.parse::<DestinationName>() {
            let live = self.shared.live.load();
            if let Some(found) =
                live.snapshot.destination(&parsed).and_then(|id| live.destinations.get(id.index()))
            {
                return Ok(found.clone());
            }
        }
        self.plain(name, false, clock::now())
    }

    /// The destination of an authority that nobody configured: its DNS name.
    fn plain(
        &self,
        authority: &str,
        https: bool,
        now: Timestamp,
    ) -> Result<Arc<Destination>, Error> {
        let policy = || self.shared.live.load().snapshot.default_policy().clone();
        self.shared.plain.destination(authority, https, now, policy)
    }
}

/// Where a connection goes.
pub(crate) struct RoutedConnection {
    pub(crate) destination: Arc<Destination>,
    pub(crate) policy: Arc<Policy>,
    /// Labels of the endpoints that take it; `None`: any endpoint.
    pub(crate) subset: Option<Arc<[Labels]>>,
}

impl Mesh {
    pub(crate) fn start(
        environment: Environment,
        metrics: Metrics,
        server_tls: Option<Arc<tls::Server>>,
        service: Option<DestinationName>,
    ) -> Self {
        let live = Live {
            snapshot: Arc::new(Snapshot::empty()),
            destinations: Vec::new(),
            limits: Vec::new(),
        };
        let shared = Shared {
            live: Swap::new(live),
            plain: Plain::new(environment.clone(), metrics.clone()),
            configuring: Mutex::new(()),
            version: AtomicU64::new(0),
            environment,
            metrics,
            faults: Active::default(),
            services: Arc::new(Services::new(service.as_ref())),
            copies: Arc::new(Semaphore::new(mirror::MOST)),
            drains: Arc::default(),
            server_tls,
            service,
        };
        Self { shared: Arc::new(shared), worker: Worker::default() }
    }
}

impl Shared {
    /// Builds the destinations of a snapshot, those of the same name from the ones in force, and
    /// swaps both in. The caller holds `configuring`.
    fn apply(&self, snapshot: Snapshot, sources: &[Source]) -> Result<(), BuildError> {
        // All that can fail comes first, so that nothing is changed by halves.
        let mut wrong = Vec::new();
        let mut connects = Vec::with_capacity(snapshot.destinations().len());
        let mut methods = Vec::with_capacity(snapshot.destinations().len());
        for config in snapshot.destinations() {
            match connect_settings(config) {
                Ok(connect) => connects.push(connect),
                Err(error) => wrong.push(located(config, &error, sources)),
            }
            match config.descriptor_set.as_deref().map(descriptors::read).transpose() {
                Ok(read) => methods.push(read.unwrap_or_default()),
                Err(why) => {
                    let origin = config.origins.of("descriptorSet");
                    let what = format!(
                        "`descriptorSet` of Service `{}` cannot be used: {why}",
                        config.name
                    );
                    wrong.push(Diagnostic::at(sources, &origin, what).with_help(descriptors::HELP));
                }
            }
        }
        if !wrong.is_empty() {
            return Err(BuildError::Config(wrong.into()));
        }
        let old = self.live.get();
        let known: HashMap<&str, &Arc<Destination>> = old
            .destinations
            .iter()
            .map(|destination| (&**destination.label(), destination))
            .collect();
        let destinations: Vec<_> = snapshot
            .destinations()
            .iter()
            .zip(connects)
            .zip(methods)
            .map(|((config, connect), methods)| {
                let name = config.name.to_string();
                let destination = match known.get(&*name) {
                    Some(destination) => {
                        destination.reconfigure(config, connect);
                        (*destination).clone()
                    }
                    None => {
                        let metrics = self.metrics.destination(&name);
                        Destination::start(name.into(), config, connect, &self.environment, metrics)
                    }
                };
                destination.declare(methods);
                destination
            })
            .collect();
        let policy = snapshot.default_policy().clone();
        let limits = old.limits_of(&snapshot);
        let named = snapshot.destinations().iter().map(|config| &config.name);
        self.services.replace(named.zip(&destinations));
        self.live.store(Live { snapshot: Arc::new(snapshot), destinations, limits });
        self.plain.reconfigure(&policy);
        Ok(())
    }
}

fn no_route(why: &Unrouted, wanted: &str) -> Error {
    Error::new(ErrorKind::NoRoute, why.to_string()).with_destination(wanted)
}

/// Refuses what is written `https` to a destination that is called in plain text.
fn secured(snapshot: &Snapshot, id: DestinationId) -> Result<(), Error> {
    match snapshot.destinations().get(id.index()) {
        Some(config) if config.tls.is_none() => Err(Error::new(
            ErrorKind::Tls,
            format!(
                "the request says https, but Service {} has no `tls` section; add one, or call it with http",
                config.name
            ),
        )
        .with_destination(config.name.to_string())),
        _ => Ok(()),
    }
}

/// Notes what was found for a request, for its caller.
#[cold]
fn note(
    recording: &Recording,
    snapshot: &Snapshot,
    asked: &Asked<'_>,
    found: &Result<Routed<'_>, Unrouted>,
    drawn: u64,
    hashed: Option<&Hashed>,
) {
    let rule = found.as_ref().ok().map(|routed| &**routed.rule);
    let kept = hashed.and_then(|hashed| SplitExplained::kept(rule?, hashed.hash?));
    let split = kept.or_else(|| SplitExplained::drawn(rule?, drawn));
    recording.routed(snapshot, &asked.taken(rule), split);
}

/// A call that knows where it belongs, and that is noted if its caller asks.
fn belonging<B>(
    call: Call,
    request: &Request<B>,
    source: Option<IpAddr>,
    hashed: Option<Hashed>,
    recording: Option<&Arc<Recording>>,
) -> Call {
    let mut call = call.belong(request, source, hashed);
    if let Some(recording) = recording {
        recording.hashed(&call, request, source);
        call.noting = Some(Noting::first(recording.clone()));
    }
    call
}

/// Keeps a call to the destination of its hash, where its rule says so.
fn keep<B>(
    request: &Request<B>,
    routed: &mut Routed<'_>,
    source: Option<IpAddr>,
    draws: CallDraws,
) -> Option<Hashed> {
    let entries = routed.rule.hashes()?;
    let asked = AskedHash { options: request.extensions().get(), source, draws };
    let hashed = Hashed::of(request, entries, &asked);
    if let Some(kept) = hashed.hash.and_then(|hash| routed.rule.keep(hash)) {
        routed.backend = kept;
    }
    Some(hashed)
}

/// How to connect to the endpoints of a destination.
pub(crate) fn connect_settings(
    config: &DestinationConfig,
) -> Result<Arc<connect::Settings>, tls::LoadError> {
    let tls = match &config.tls {
        Some(tls) => Some(Arc::new(tls::Client::new(tls.into())?)),
        None => None,
    };
    Ok(Arc::new(connect::Settings::new(&config.policy, tls)))
}

/// What to say of a destination whose TLS settings cannot be used, and where they are written.
fn located(config: &DestinationConfig, error: &tls::LoadError, sources: &[Source]) -> Diagnostic {
    let setting = format!("tls.{}", error.setting());
    let what =
        format!("`{setting}` of Service `{}` cannot be used: {}", config.name, error.reason());
    Diagnostic::at(sources, &config.origins.of(&setting), what).with_help(error.help())
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh")
            .field("version", &self.shared.version.load(Ordering::Relaxed))
            .field("destinations", &self.shared.live.load().destinations.len())
            .finish_non_exhaustive()
    }
}
