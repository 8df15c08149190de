//! A route table checked without a server: for the tests of whoever writes the table.

use super::RouteRequest;
use crate::config::{self, Source};
use crate::snapshot::Unrouted;
use http::Request;

/// What a configuration decides on a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// The rule that matched.
    pub rule: String,
    /// Where its requests go: names with weights, those of weight 0 left out.
    pub destinations: Vec<(String, u32)>,
    /// Who stands in for each of these while no endpoint of it can take a call, in their order: names,
    /// with the labels of a subset behind them (`inventory (version=2)`).
    pub failover: Vec<Vec<String>>,
    /// What is done to requests and responses, in words; of a rule with several destinations what
    /// is done on the way to the first.
    pub filters: Vec<String>,
}

impl Checked {
    /// The destination, if all requests that match go to one.
    #[must_use]
    pub fn destination(&self) -> Option<&str> {
        match &self.destinations[..] {
            [(only, _)] => Some(only),
            _ => None,
        }
    }
}

/// Decides on a request by a configuration in YAML.
///
/// ```
/// use http::Request;
/// use mesh_core::route::check_route;
///
/// let config = "
/// apiVersion: mesh/v1
/// kind: Service
/// metadata: { name: inventory }
/// spec: { endpoints: { static: ['127.0.0.1:8080'] } }
/// ---
/// apiVersion: mesh/v1
/// kind: Service
/// metadata: { name: inventory-next }
/// spec: { endpoints: { static: ['127.0.0.1:8081'] } }
/// ---
/// apiVersion: gateway.networking.k8s.io/v1
/// kind: HTTPRoute
/// metadata: { name: try-next }
/// spec:
///   parentRefs: [{ kind: Service, name: inventory }]
///   rules:
///   - matches: [{ headers: [{ name: x-try, value: next }] }]
///     backendRefs: [{ name: inventory-next }]
///   - backendRefs: [{ name: inventory }]
/// ";
/// let request = Request::get("http://inventory/items/7").header("x-try", "next").body(())?;
/// let checked = check_route(config, &request)?;
/// assert_eq!(checked.rule, "try-next/0");
/// assert_eq!(checked.destination(), Some("inventory-next"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When the configuration is refused, the request names no host, or no rule takes it.
pub fn check_route<B>(yaml: &str, request: &Request<B>) -> Result<Checked, CheckError> {
    let documents = config::parse(&[Source::new("config", yaml)])?;
    let snapshot = config::compile(&documents, 1)?;
    let host = request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str).or(host);
    let request = RouteRequest::new(
        authority.ok_or(CheckError::NoHost)?,
        request.method(),
        request.uri().path(),
        request.uri().query(),
        request.headers(),
    );
    let routed = match snapshot.route(&request, &mut || 0u64) {
        Ok(routed) => routed,
        Err(Unrouted::Answered { rule, filters }) => {
            return Ok(Checked {
                rule: rule.to_string(),
                destinations: Vec::new(),
                failover: Vec::new(),
                filters: filters.describe(),
            });
        }
        Err(unrouted) => return Err(unrouted.into()),
    };
    let name = |backend: &super::Backend| {
        snapshot.destinations().get(backend.destination.index()).map(|known| known.name.to_string())
    };
    let taking = || routed.rule.backends.iter().filter(|backend| backend.weight > 0);
    Ok(Checked {
        rule: routed.rule.name.to_string(),
        destinations: taking()
            .filter_map(|backend| Some((name(backend)?, backend.weight)))
            .collect(),
        failover: taking()
            .map(|backend| {
                let failover = backend.failover.iter().flat_map(|next| next.iter());
                failover.filter_map(|next| next.label(&snapshot)).collect()
            })
            .collect(),
        filters: routed.backend.filters.as_ref().map_or_else(Vec::new, |f| f.describe()),
    })
}

/// Why [`check_route`] has no answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CheckError {
    /// The configuration is refused.
    Config(config::Errors),
    /// Neither the URI nor a `Host` header names a host.
    NoHost,
    /// The configuration sends the request nowhere.
    Unrouted(Unrouted),
}

impl std::fmt::Display for CheckError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config(errors) => errors.fmt(f),
            Self::NoHost => f.write_str("neither the URI nor a Host header names a host"),
            Self::Unrouted(unrouted) => unrouted.fmt(f),
        }
    }
}

impl std::error::Error for CheckError {}

impl From<config::Errors> for CheckError {
    fn from(errors: config::Errors) -> Self {
        Self::Config(errors)
    }
}

impl From<Unrouted> for CheckError {
    fn from(unrouted: Unrouted) -> Self {
        Self::Unrouted(unrouted)
    }
}
