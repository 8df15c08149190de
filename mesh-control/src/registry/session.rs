//! Sessions: who holds locks, and until when.
//!
//! A session ends when it is destroyed, when its TTL passes without a renewal, and when its node or
//! one of its checks goes or turns critical. Then every lock that it holds is released, or its keys
//! deleted, and nobody gets those for the lock-delay.
//!
//! That happens in the batch in which the session goes. A lock that was taken between reading and
//! committing it is given back in another (`release_orphans`); no lock can be taken after it.
//!
//! Source: Consul's HTTP API, "Session"; its documentation, "Sessions".

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::kv::KvEntry;
use super::lock_delay::LockDelays;
use super::{Plan, Topic, View};
use crate::store::{Batch, Key, Record, StoreError, Table};
use crate::types::{CheckStatus, GoDuration};

/// Shortest and longest TTL.
const TTL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(86_400));
/// Keys after which a batch takes no further session's.
const AT_ONCE: usize = 4_096;

/// What becomes of the keys whose lock a session held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Behavior {
    /// They stay, and their locks are free.
    #[default]
    Release,
    /// They go.
    Delete,
}

/// A session as it is kept and told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct Session {
    /// A UUID.
    #[serde(rename = "ID")]
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The node that it lives and dies with.
    pub node: String,
    /// For how long the keys cannot be locked after it is cut off from them.
    #[serde(with = "nanos")]
    pub lock_delay: Duration,
    /// What becomes of its keys.
    pub behavior: Behavior,
    /// Its life without a renewal, as it was written; empty for ever.
    #[serde(rename = "TTL")]
    pub ttl: String,
    /// IDs of checks of the node that it dies with.
    pub node_checks: Vec<String>,
    /// Checks of services that it dies with.
    pub service_checks: Option<Vec<ServiceCheck>>,
    /// The revision that made it.
    pub create_index: u64,
    /// The revision that changed it last.
    pub modify_index: u64,
}

/// A check of a service that a session depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct ServiceCheck {
    /// Its key on the session's node.
    #[serde(rename = "ID")]
    pub id: String,
    /// Consul Enterprise's; kept as it came.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

mod nanos {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_nanos)
    }
}

/// Why a session is not made.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// What it lives with is not there.
    #[error("Missing node registration")]
    MissingNode,
    /// As above.
    #[error("Missing check '{0}' registration")]
    MissingCheck(String),
    /// It would die at once.
    #[error("Check '{0}' is in critical state")]
    CriticalCheck(String),
    /// The TTL is none.
    #[error("Session TTL '{0}' invalid: time: invalid duration \"{0}\"")]
    NoTtl(String),
    /// The TTL is too short or too long.
    #[error("Invalid Session TTL '{0}', must be between [10s=24h0m0s]")]
    TtlOutOfRange(u128),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Session {
    /// Its life without a renewal. `None` lasts for ever.
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        let span = self.ttl.parse::<GoDuration>().ok()?.0;
        (!span.is_zero()).then_some(span)
    }

    /// The checks that it dies with.
    pub fn checks(&self) -> impl Iterator<Item = &str> {
        let of_services = self.service_checks.iter().flatten().map(|check| check.id.as_str());
        self.node_checks.iter().map(String::as_str).chain(of_services)
    }

    /// What keeps it from living, if something does. `home` is the node of this server, which need
    /// not be in the catalog.
    pub(super) fn obstacle(&self, view: &View, home: &str) -> Option<SessionError> {
        let catalog = view.catalog();
        if catalog.node(&self.node).is_none() && !self.node.eq_ignore_ascii_case(home) {
            return Some(SessionError::MissingNode);
        }
        let known = catalog.node_checks(&self.node).value;
        self.checks().find_map(|id| {
            match known.iter().find(|check| check.id.eq_ignore_ascii_case(id)) {
                None => Some(SessionError::MissingCheck(id.to_owned())),
                Some(check) if check.status == CheckStatus::Critical => {
                    Some(SessionError::CriticalCheck(id.to_owned()))
                }
                Some(_) => None,
            }
        })
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    by_id: BTreeMap<String, Session>,
    /// The revision of the newest change, ends included.
    index: u64,
}

impl Sessions {
    /// One session.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Session> {
        self.by_id.get(id)
    }

    /// All of them, by ID.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.by_id.values()
    }

    /// The revision of the newest change of any session.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// Takes the revision of a store that was just read for that of what ended before.
    pub(super) fn settle(&mut self, revision: u64) {
        self.index = revision;
    }

    pub(super) fn put(&mut self, record: &Record) -> Result<Vec<Topic>, StoreError> {
        let mut session: Session = serde_json::from_slice(&record.value).map_err(|error| {
            let what = format!("the session {:?}", record.key.name);
            StoreError::Unreadable { what, why: error.to_string() }
        })?;
        session.create_index = record.create_index;
        session.modify_index = record.modify_index;
        self.index = self.index.max(record.modify_index);
        self.by_id.insert(record.key.name.clone(), session);
        Ok(vec![Topic::Sessions])
    }

    pub(super) fn delete(&mut self, id: &str, revision: u64) -> Vec<Topic> {
        self.index = revision;
        self.by_id.remove(id);
        vec![Topic::Sessions]
    }
}

/// Makes a session of this ID.
///
/// # Errors
/// When its TTL is none, or what it lives with is not there.
pub fn create(view: &View, session: &Session, home: &str) -> Result<Plan<String>, SessionError> {
    if !session.ttl.is_empty() {
        let ttl = session.ttl.parse::<GoDuration>();
        let ttl = ttl.map_err(|_| SessionError::NoTtl(session.ttl.clone()))?.0;
        if !ttl.is_zero() && !(TTL.0..=TTL.1).contains(&ttl) {
            return Err(SessionError::TtlOutOfRange(ttl.as_nanos()));
        }
    }
    if let Some(obstacle) = session.obstacle(view, home) {
        return Err(obstacle);
    }
    let key = Key::new(Table::Session, &session.id);
    let mut batch = Batch::default();
    batch.expect(key.clone(), None);
    batch.put(key, serde_json::to_vec(session).expect("texts and numbers are always JSON"));
    Ok(Plan::new(batch, session.id.clone()))
}

/// Ends a session, and lets go of its keys. Fine where there is none.
pub(super) fn destroy(view: &View, id: &str, delays: &LockDelays) -> Plan<()> {
    let Some(session) = view.sessions().get(id) else { return Plan::nothing(()) };
    let mut batch = Batch::default();
    let key = Key::new(Table::Session, id);
    batch.expect(key.clone(), Some(session.modify_index));
    batch.delete(key);
    delays.start(view.kv().held_by(id), session.lock_delay);
    let_go(view, id, session.behavior, &mut batch);
    Plan::new(batch, ())
}

/// Gives back locks whose session is no more.
pub(super) fn release_orphans(view: &View) -> Plan<()> {
    let mut batch = Batch::default();
    for id in view.kv().holders().filter(|id| view.sessions().get(id).is_none()) {
        let_go(view, id, Behavior::Release, &mut batch);
        if batch.changes.len() >= AT_ONCE {
            break;
        }
    }
    Plan::new(batch, ())
}

fn let_go(view: &View, id: &str, behavior: Behavior, batch: &mut Batch) {
    for name in view.kv().held_by(id) {
        let Some(entry) = view.kv().get(name).value else { continue };
        let key = Key::new(Table::Kv, name);
        batch.expect(key.clone(), Some(entry.modify_index));
        match behavior {
            Behavior::Release => {
                let free = KvEntry { session: None, ..entry.clone() };
                batch.put(key, free.encode());
            }
            Behavior::Delete => batch.delete(key),
        }
    }
}
