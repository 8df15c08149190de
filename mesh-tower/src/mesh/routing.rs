//! Where a call or a connection goes, by the configuration in force; and where it would go.

use super::Mesh;
use crate::affinity::{Asked as AskedHash, Hashed};
use crate::call::{Begun, Call};
use crate::clock;
use crate::destination::Destination;
use crate::draws::{CallDraws, Decision};
use crate::explain::{Noting, Recording};
use http::Request;
use mesh_core::explain::{Asked, Candidate, Explanation, HashExplained, SplitExplained, explain};
use mesh_core::hash::{self, Input};
use mesh_core::pick::Labels;
use mesh_core::route::filter::Filters;
use mesh_core::route::{Backend, RouteRequest, path};
use mesh_core::snapshot::{DestinationId, Routed, Snapshot, Unrouted};
use mesh_core::{DestinationName, Error, ErrorKind, Policy, Timestamp};
use std::net::IpAddr;
use std::sync::Arc;

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

/// Where a connection goes.
pub(crate) struct RoutedConnection {
    pub(crate) destination: Arc<Destination>,
    pub(crate) policy: Arc<Policy>,
    /// Labels of the endpoints that take it; `None`: any endpoint.
    pub(crate) subset: Option<Arc<[Labels]>>,
}

impl Mesh {
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
                live.stand_in(&mut routed, begun.started, recording);
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
                live.stand_in(&mut routed, begun.started, recording);
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
            // One that another share or a stand-in would have.
            let other = backend.filter(|backend| backend.policy.hash[..] != *entries);
            let hash = match other {
                Some(other) => {
                    hash::hash(&other.policy.hash, &input, &mut draws.of(Decision::Hash)).hash
                }
                None => hash,
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
