//! SRV: names of machines with port, priority and weight, and the addresses of these machines.
//!
//! Addresses of a target come from the additional section where the server filled it, else they
//! are asked for, eight targets at a time. The SRV records alone say who is a member: a target
//! whose addresses cannot be had now keeps the ones it had.
//!
//! Source: RFC 2782.

use super::host::{Addresses, Last};
use super::records::{self, Additional};
use super::refresh::{Answer, Ask, Trouble};
use super::servers::Reply;
use super::{Inner, endpoints};
use futures_util::StreamExt;
use futures_util::stream;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RecordType};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// How many targets are asked for at a time.
const TARGETS_AT_ONCE: usize = 8;

/// Asks for SRV records and their targets.
pub(super) struct Services {
    inner: Arc<Inner>,
    candidates: Vec<Name>,
    targets: HashMap<Name, (Last, Addresses)>,
}

impl Services {
    pub(super) fn new(inner: Arc<Inner>, candidates: Vec<Name>) -> Self {
        Self { inner, candidates, targets: HashMap::new() }
    }

    async fn records(&self) -> Result<Records, Trouble> {
        let servers = self.inner.servers().map_err(Trouble::Failed)?;
        let mut trouble = Trouble::Failed("there is no name to ask for".to_owned());
        for (index, name) in self.candidates.iter().enumerate() {
            match servers.ask(name, RecordType::SRV).await {
                Reply::Answer(lookup) => match records::services(&lookup, name) {
                    Ok((services, ttl)) if !services.is_empty() => {
                        return Ok(Records {
                            name: name.clone(),
                            services: services.into_iter().cloned().collect(),
                            additional: records::additional(&lookup),
                            ttl: Duration::from_secs(ttl.into()),
                        });
                    }
                    Ok(_) => trouble = Trouble::NoRecord(format!("{name} has no SRV records")),
                    Err(why) => {
                        return Err(Trouble::Failed(format!("{name} did not resolve: {why}")));
                    }
                },
                Reply::NoData => {
                    trouble = Trouble::NoRecord(format!("{name} has no SRV records"));
                }
                Reply::NoSuchName(server) => {
                    if index == 0 || matches!(trouble, Trouble::NoSuchName(_)) {
                        trouble = Trouble::no_such_name(name, server);
                    }
                }
                Reply::Failed(why) => {
                    return Err(Trouble::Failed(format!("{name} did not resolve: {why}")));
                }
            }
        }
        Err(trouble)
    }

    /// The addresses of one target, with what was known of it before.
    async fn target(
        inner: Arc<Inner>,
        target: Name,
        additional: Option<Additional>,
        known: Option<(Last, Addresses)>,
    ) -> (Name, Result<(Last, Addresses), Trouble>) {
        let (mut last, before) =
            known.map_or_else(Default::default, |(last, addresses)| (last, Some(addresses)));
        let found = match additional {
            Some(additional) => inner.given(&target, additional, &mut last),
            None => inner.host(&target, &mut last).await,
        };
        let found = match (found, before) {
            (Ok(addresses), _) => Ok((last, addresses)),
            (Err(_), Some(before)) => Ok((last, before)),
            (Err(trouble), None) => Err(trouble),
        };
        (target, found)
    }
}

struct Records {
    name: Name,
    services: Vec<SRV>,
    additional: HashMap<Name, Additional>,
    ttl: Duration,
}

impl Ask for Services {
    async fn ask(&mut self) -> Result<Answer, Trouble> {
        let Records { name, mut services, mut additional, mut ttl } = self.records().await?;

        // The target "." says that the service is not offered here.
        services.retain(|srv| !srv.target.is_root() && srv.port != 0);
        if services.is_empty() {
            return Err(Trouble::NoRecord(format!("{name} says that the service is not offered")));
        }
        for srv in &mut services {
            srv.target = srv.target.to_lowercase();
        }
        services
            .sort_by(|a, b| (a.priority, &a.target, a.port).cmp(&(b.priority, &b.target, b.port)));
        services.truncate(self.inner.config.max_endpoints);

        let targets: HashSet<Name> = services.iter().map(|srv| srv.target.clone()).collect();
        let mut known = std::mem::take(&mut self.targets);
        let lookups: Vec<_> = targets
            .into_iter()
            .map(|target| {
                let given = additional.remove(&target);
                let known = known.remove(&target);
                Self::target(self.inner.clone(), target, given, known)
            })
            .collect();
        let resolved: Vec<_> =
            stream::iter(lookups).buffer_unordered(TARGETS_AT_ONCE).collect().await;

        let mut trouble = None;
        let mut note = None;
        for (target, found) in resolved {
            match found {
                Ok(found) => {
                    ttl = ttl.min(found.1.ttl);
                    if found.1.note.is_some() {
                        note.clone_from(&found.1.note);
                    }
                    self.targets.insert(target, found);
                }
                Err(why) => trouble = Some(why),
            }
        }
        let mut specs = Vec::new();
        for srv in &services {
            if let Some((_, addresses)) = self.targets.get(&srv.target) {
                let hostname = srv.target.to_ascii();
                let hostname = hostname.trim_end_matches('.');
                specs.extend(endpoints(&addresses.ips, srv.port, hostname).into_iter().map(
                    |(spec, share)| {
                        spec.with_priority(srv.priority.into())
                            .with_weight((u32::from(srv.weight) / share).max(1))
                    },
                ));
            }
        }
        match trouble {
            Some(trouble) if specs.is_empty() => Err(Trouble::Failed(format!(
                "no target of {name} has an address: {}",
                trouble.sentence()
            ))),
            Some(trouble) => Ok(Answer { specs, ttl, note: Some(trouble.sentence().to_owned()) }),
            None => Ok(Answer { specs, ttl, note }),
        }
    }
}
