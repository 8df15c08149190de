//! Explain: why a request goes where it goes, as a value and as text.
//!
//! One vocabulary for three questions:
//!
//! | question | answered by | has |
//! |---|---|---|
//! | what would become of it, by these files? | [`explain`], `mesh explain --config` | rule, shares, endpoints, policy |
//! | what would become of it now? | [`explain`] with `live`, `mesh explain --proxy` | also the split, loads, and why endpoints are out |
//! | what has become of this call? | `CallOptions::explain` in process | also faults, attempts, retries, the end |
//!
//! The same decisions as those of a call: the rule that matches and those tried before it, every
//! destination with its share, every value of the policy with its origin, and every endpoint with
//! the reason why it is in or out. What only a call has is in `explain/attempt.rs`.

mod attempt;
mod text;

pub use attempt::{AttemptExplained, Ended, Followed, HashExplained, SplitBy, SplitExplained};

use crate::config::{Origin, Origins};
use crate::endpoint::{EndpointSet, EndpointSpec};
use crate::pick::{PickArgs, Picker};
use crate::policy::Policy;
use crate::route::{self, Backend, RouteRequest, Rule, path};
use crate::snapshot::{DestinationConfig, DestinationId, EndpointSource, Snapshot, Unrouted};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Why a request goes where it goes.
///
/// Displays as text, which has those values of a policy that are written somewhere; with `{:#}` all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Explanation {
    /// The request in one line.
    pub request: String,
    /// The rule that matches.
    pub route: Option<RouteExplained>,
    /// What the rule does to it instead of sending it anywhere, in words.
    pub answered: Vec<String>,
    /// Why no rule takes it, if none does.
    pub unrouted: Option<String>,
    /// Why it is refused, if it is, whatever the rules say.
    pub refused: Option<String>,
    /// What depends on who receives it.
    pub notes: Vec<String>,
    /// The matches that were tried before, in order: the condition of each, which is not met.
    pub passed_over: Vec<RouteExplained>,
    /// Where it can go.
    pub destinations: Vec<DestinationExplained>,
    /// The hash that it is sent by, if it is.
    pub hash: Option<HashExplained>,
    /// How one of several destinations is chosen; of a live request only.
    pub split: Option<SplitExplained>,
    /// What was done to the call on purpose, in words and in order.
    pub faults: Vec<String>,
    /// The attempts that were made, in order; of a call that was made only.
    pub attempts: Vec<AttemptExplained>,
    /// How the call ended; of a call that was made only.
    pub ended: Option<Ended>,
}

/// A match and its rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RouteExplained {
    /// Name of the rule.
    pub rule: String,
    /// The condition.
    pub condition: String,
    /// Where the rule is written.
    pub origin: Origin,
}

/// A destination of the rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct DestinationExplained {
    /// Its name.
    pub name: String,
    /// The share of requests that go there, in percent.
    pub percent: f64,
    /// Where its endpoints come from.
    pub endpoints: String,
    /// Whether its endpoints are spoken to by TLS.
    pub tls: bool,
    /// Where it is written.
    pub origin: Origin,
    /// What is done to requests that go there and to their responses, in words and in order.
    pub filters: Vec<String>,
    /// Its endpoints; empty if none is known, as from files where discovery finds them.
    pub candidates: Vec<Candidate>,
    /// Who takes its share while no endpoint of it can take a call, the preferred first: names with
    /// the labels of a subset behind them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<Self>,
    /// The policy of calls that go this way.
    pub policy: Vec<PolicyValue>,
}

/// An endpoint, and why it is in or out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Candidate {
    /// Its id.
    pub endpoint: String,
    /// Whether a call can be sent to it now.
    pub included: bool,
    /// Why.
    pub reason: String,
    /// Its tier; 0 is used first.
    pub priority: u32,
    /// Its configured share.
    pub weight: u32,
    /// What the picker compares, or would; none from configuration alone.
    pub load: Option<f64>,
    /// In what `load` is counted.
    pub unit: LoadUnit,
    /// Attempts in flight at it; none from configuration alone.
    pub in_flight: Option<u32>,
    /// Whether the pick asked if it can take the attempt: it was drawn, or it is where a table or
    /// rotation led to. The others were not looked at.
    pub looked_at: bool,
}

/// In what a load is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum LoadUnit {
    /// Seconds: the expected wait, or the estimate of peak EWMA.
    #[default]
    Seconds,
    /// Attempts in flight by weight, as `LeastRequest` counts them.
    InFlight,
}

impl Candidate {
    /// What configuration alone says of an endpoint.
    #[must_use]
    pub fn configured(spec: &EndpointSpec) -> Self {
        let usable = spec.declared.is_usable();
        Self {
            endpoint: spec.id.to_string(),
            included: usable,
            reason: match usable {
                true if spec.weight == 1 => "ready".to_owned(),
                true => format!("ready, weight {}", spec.weight),
                false => format!("declared {:?}", spec.declared).to_lowercase(),
            },
            priority: spec.priority,
            weight: spec.weight,
            load: None,
            unit: LoadUnit::Seconds,
            in_flight: None,
            looked_at: false,
        }
    }
}

/// One value of a policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PolicyValue {
    /// Its path: `retry.attempts`.
    pub path: String,
    /// The value, as it would be written.
    pub value: serde_json::Value,
    /// Where it is written.
    pub origin: Origin,
}

/// What is asked: a request, and how it comes.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Asked<'a> {
    /// The request.
    pub request: RouteRequest<'a>,
    /// Whether its URL says `https`.
    pub https: bool,
    /// The destination whose routes alone are asked, whatever the authority, as for a listener of
    /// that destination; `None`: those of the authority.
    pub to: Option<DestinationId>,
    /// Whether its path is matched as it is written, as in a linked mesh; else as the proxy spells
    /// it ([`path::normalize`]).
    pub as_written: bool,
    /// The rule that has taken it, where that was drawn.
    pub taken: Option<&'a Rule>,
}

impl<'a> Asked<'a> {
    /// A plain request, by its authority, with its path as the proxy spells it.
    #[must_use]
    pub const fn new(request: RouteRequest<'a>) -> Self {
        Self { request, https: false, to: None, as_written: false, taken: None }
    }

    /// Whether its URL says `https`.
    #[must_use]
    pub const fn https(mut self, https: bool) -> Self {
        self.https = https;
        self
    }

    /// The destination whose routes alone are asked.
    #[must_use]
    pub const fn to(mut self, destination: Option<DestinationId>) -> Self {
        self.to = destination;
        self
    }

    /// With its path as it is written.
    #[must_use]
    pub const fn as_written(mut self) -> Self {
        self.as_written = true;
        self
    }

    /// The rule that has taken it.
    #[must_use]
    pub const fn taken(mut self, rule: Option<&'a Rule>) -> Self {
        self.taken = rule;
        self
    }
}

/// Explains a request. `live` tells the endpoints of a destination that is in use, as the share of a
/// rule sees them if it is one; where it has none, those of the configuration are told.
///
/// A host that nobody configured is told as what a linked mesh and an `Outbound` listener take it
/// for: a DNS name.
#[must_use]
pub fn explain(
    snapshot: &Snapshot,
    asked: &Asked<'_>,
    live: impl Fn(&DestinationConfig, Option<&Backend>) -> Option<Vec<Candidate>>,
) -> Explanation {
    let request = &asked.request;
    let query = request.query.map(|query| format!("?{query}")).unwrap_or_default();
    let mut told = Explanation {
        request: format!("{} {}{}{query}", request.method, request.authority, request.path),
        ..Explanation::default()
    };
    let normal = match path::normalize(request.path) {
        _ if asked.as_written => None,
        Ok(normal) => normal,
        Err(why) => {
            told.refused = Some(format!("a proxy answers 400: {why}"));
            return told;
        }
    };
    if let Some(normal) = &normal {
        told.notes.push(format!(
            "a proxy reads the path as {normal}, and so do we here; a linked mesh takes it as written"
        ));
    }
    let request = RouteRequest { path: normal.as_deref().unwrap_or(request.path), ..*request };
    let entries = match asked.to {
        Some(destination) => snapshot.own_entries(destination),
        None => snapshot.entries(request.authority),
    };
    let Some(entries) = entries else {
        told.unrouted = Some(Unrouted::UnknownHost.to_string());
        told.unconfigured(snapshot, request.authority, asked.https, &live);
        return told;
    };
    let (passed, found) = match asked.taken.and_then(|rule| route::taken(entries, &request, rule)) {
        Some((passed, found)) => (passed, Some(found)),
        None => route::tried(entries, &request),
    };
    told.passed_over = passed.iter().map(RouteExplained::of).collect();
    told.notes.extend(passed.iter().filter(|entry| entry.matched.is_match(&request)).filter_map(
        |entry| {
            let share = entry.matched.fraction?;
            Some(format!("rule {} takes {share} of such requests first", entry.rule.name))
        },
    ));
    match found {
        None => {
            let host = route::canonical(request.authority).into();
            told.unrouted = Some(Unrouted::NoMatch { host }.to_string());
        }
        Some(entry) => {
            told.route = Some(RouteExplained::of(entry));
            told.answered = entry.rule.answer.as_ref().map_or_else(Vec::new, |f| f.describe());
            told.destinations = destinations(snapshot, &entry.rule, &live);
            if asked.https {
                told.refused = in_plain_text(&told.destinations);
            }
        }
    }
    told
}

/// Whether `https` is asked of a destination without TLS, which is refused.
fn in_plain_text(destinations: &[DestinationExplained]) -> Option<String> {
    let bare = destinations.iter().find(|known| !known.tls && known.percent > 0.0)?;
    Some(format!(
        "the request says https, but Service {} has no `tls` section; add one, or call it with http",
        bare.name
    ))
}

impl RouteExplained {
    fn of(entry: &route::Entry) -> Self {
        Self {
            rule: entry.rule.name.to_string(),
            condition: entry.matched.to_string(),
            origin: entry.rule.origin.clone(),
        }
    }
}

impl Explanation {
    /// Whether a call can be sent somewhere, or its rule answers it.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        !self.answered.is_empty()
            || self.refused.is_none() && self.destinations.iter().any(|known| known.percent > 0.0)
    }

    /// Tells what becomes of a host that nobody configured.
    fn unconfigured(
        &mut self,
        snapshot: &Snapshot,
        authority: &str,
        https: bool,
        live: &impl Fn(&DestinationConfig, Option<&Backend>) -> Option<Vec<Candidate>>,
    ) {
        let policy = snapshot.default_policy();
        match DestinationConfig::of_authority(authority, https, policy.clone()) {
            Some(plain) => {
                let candidates = live(&plain, None).unwrap_or_default();
                self.notes.push(
                    "a linked mesh and an Outbound listener without `service` take the host for a DNS name"
                        .to_owned(),
                );
                self.destinations.push(DestinationExplained {
                    name: authority.to_owned(),
                    percent: 100.0,
                    endpoints: plain.endpoints.to_string(),
                    tls: plain.tls.is_some(),
                    origin: plain.origin,
                    filters: Vec::new(),
                    candidates,
                    failover: Vec::new(),
                    policy: policy_values(policy, snapshot.default_origins()),
                });
            }
            None => {
                self.refused =
                    Some(format!("`{}` is not host or host:port", authority.escape_debug()));
            }
        }
        self.notes.push("an Inbound listener without `service` answers 404".to_owned());
    }
}

fn destinations(
    snapshot: &Snapshot,
    rule: &Rule,
    live: &impl Fn(&DestinationConfig, Option<&Backend>) -> Option<Vec<Candidate>>,
) -> Vec<DestinationExplained> {
    let total: u64 = rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    rule.backends
        .iter()
        .filter_map(|backend| {
            let percent = f64::from(backend.weight) * 100.0 / (total.max(1) as f64);
            let mut told = destination(snapshot, backend, percent, live)?;
            for next in backend.failover.iter().flat_map(|failover| failover.iter()) {
                let Some(mut standing_in) = destination(snapshot, next, percent, live) else {
                    continue;
                };
                standing_in.name = next.label(snapshot).unwrap_or(standing_in.name);
                told.failover.push(standing_in);
            }
            Some(told)
        })
        .collect()
}

fn destination(
    snapshot: &Snapshot,
    backend: &Backend,
    percent: f64,
    live: &impl Fn(&DestinationConfig, Option<&Backend>) -> Option<Vec<Candidate>>,
) -> Option<DestinationExplained> {
    let known = snapshot.destinations().get(backend.destination.index())?;
    let candidates = live(known, Some(backend)).unwrap_or_else(|| configured(known, backend));
    Some(DestinationExplained {
        name: known.name.to_string(),
        percent,
        endpoints: known.endpoints.to_string(),
        tls: known.tls.is_some(),
        origin: known.origin.clone(),
        filters: backend.filters.as_ref().map_or_else(Vec::new, |filters| filters.describe()),
        candidates,
        failover: Vec::new(),
        policy: policy_values(&backend.policy, &backend.origins),
    })
}

/// What configuration alone says of the endpoints; who calls is not known.
fn configured(known: &DestinationConfig, backend: &Backend) -> Vec<Candidate> {
    let EndpointSource::Static(specs) = &known.endpoints else { return Vec::new() };
    let (set, _) = EndpointSet::<()>::empty().update(specs.clone(), |_| ());
    let picker = Picker::new(set, known.policy.pick.clone());
    let args =
        PickArgs::new(Timestamp::ZERO).with_subset(backend.subset.as_deref().unwrap_or_default());
    let mut told = picker.explain(&args);
    told.iter_mut().for_each(|one| (one.load, one.in_flight) = (None, None));
    told
}

/// Every value of a policy with its origin, in the order of the reference.
#[must_use]
pub fn policy_values(policy: &Policy, origins: &Origins) -> Vec<PolicyValue> {
    fn walk(
        value: serde_json::Value,
        path: &mut String,
        origins: &Origins,
        out: &mut Vec<PolicyValue>,
    ) {
        match value {
            serde_json::Value::Object(entries) if !entries.is_empty() => {
                for (key, value) in entries {
                    let outer = path.len();
                    if outer > 0 {
                        path.push('.');
                    }
                    path.push_str(&key);
                    walk(value, path, origins, out);
                    path.truncate(outer);
                }
            }
            value => {
                out.push(PolicyValue { path: path.clone(), value, origin: origins.of(path) });
            }
        }
    }
    let mut out = Vec::new();
    // A policy serializes to maps with text keys, which cannot fail.
    let value = serde_json::to_value(policy).unwrap_or_default();
    walk(value, &mut String::new(), origins, &mut out);
    out
}

#[cfg(test)]
mod tests;
