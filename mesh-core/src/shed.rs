//! Shed: the bounded queue of an overloaded server, and who leaves it unserved.
//!
//! A request that finds all places taken waits here, for a short time and in a short queue:
//!
//! ```text
//! overloaded  ⇔  within the last interval there was no moment in which nothing of this level or
//!                a higher one waited
//! served next:   the highest level; of these the newest while it is overloaded, else the oldest
//! may wait:      target while its level is overloaded, else interval; never beyond its deadline
//! shed:          1. what is past its deadline, or whose caller has gone
//!                2. what has waited longer than it may
//!                3. beyond the bound, what would be served last
//! ```
//!
//! A level is overloaded or not whatever waits below it: a server that drowns in batch work treats
//! its critical requests as one with little to do. Newest first, because whoever came first is the next to give up: under a lasting overload a queue
//! in order of arrival serves only those who no longer wait.
//!
//! The second rule spares whoever is served next, so that it never leaves a free place without
//! work (CoDel's rule for the last packet). And as long as something of a lower criticality waits,
//! that goes instead, and the wait begins anew. So nothing is shed by rule 2 or 3 while something
//! less critical waits.
//!
//! Cost: O(log n) per arrival, departure and refusal. Nothing here counts places: whoever owns them
//! asks for [`Queue::next`] when one is free.
//!
//! Source: B. Maurer, "Fail at Scale", ACM Queue 13(8), 2015 (controlled delay, adaptive LIFO);
//! K. Nichols, V. Jacobson, "Controlling Queue Delay", ACM Queue 10(5), 2012, for the last packet;
//! "Site Reliability Engineering", chapter 21, for criticality. Ours: the bound of 4 × places, and
//! the order by criticality.

use crate::Timestamp;
use crate::config::span;
use crate::criticality::Criticality;
use crate::deadline::Expiry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// How many may wait per place, unless the configuration says how many in all.
pub const QUEUE_PER_PLACE: u32 = 4;

/// Settings of a [`Queue`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Most that may wait, at least 1. Four times as many as are served at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_queue: Option<u32>,
    /// Longest wait of a level that is overloaded, at least 1 ms. 5 ms.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub target: Duration,
    /// Longest wait otherwise, and how long the queue must not have been empty for an overload; not
    /// shorter than `target`. 100 ms.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_queue: None,
            target: Duration::from_millis(5),
            interval: Duration::from_millis(100),
        }
    }
}

impl Config {
    /// Most that may wait where so many are served at once.
    #[must_use]
    pub fn bound(&self, places: u32) -> usize {
        let bound = self.max_queue.unwrap_or_else(|| places.saturating_mul(QUEUE_PER_PLACE));
        usize::try_from(bound.max(1)).unwrap_or(usize::MAX)
    }
}

/// Why a request left the queue unserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Its deadline passed.
    Expired,
    /// It waited longer than it may.
    Waited,
    /// The queue was full, and it would have been served last.
    Full,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "the deadline passed while the request waited to be served",
            Self::Waited => "the server is overloaded: the request waited too long to be served",
            Self::Full => "the server is overloaded: too many requests wait to be served",
        })
    }
}

/// A place in a [`Queue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    criticality: Criticality,
    number: u64,
}

/// Requests that wait, each with what its owner is told by. See the [module docs](self).
///
/// ```
/// use mesh_core::Timestamp;
/// use mesh_core::criticality::Criticality;
/// use mesh_core::shed::{Config, Queue};
///
/// let mut queue = Queue::new(Config::default());
/// let now = Timestamp::ZERO;
/// queue.push("a report", Criticality::Sheddable, None, now);
/// queue.push("a payment", Criticality::Critical, None, now);
/// assert_eq!(queue.next(now), Some("a payment"));
/// ```
#[derive(Debug)]
pub struct Queue<T> {
    config: Config,
    levels: [BTreeMap<u64, Waiting<T>>; Criticality::ALL.len()],
    /// When each has waited as long as it may.
    stale: BTreeSet<(Timestamp, Key)>,
    /// When each is past its deadline.
    expiries: BTreeSet<(Timestamp, Key)>,
    numbers: u64,
    /// For each level the last instant at which nothing of it or a higher one waited.
    empty_at: [Timestamp; Criticality::ALL.len()],
}

#[derive(Debug)]
struct Waiting<T> {
    who: T,
    stale: Timestamp,
    expiry: Option<Timestamp>,
}

impl<T> Queue<T> {
    /// An empty queue.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            levels: Default::default(),
            stale: BTreeSet::new(),
            expiries: BTreeSet::new(),
            numbers: 0,
            empty_at: Default::default(),
        }
    }

    /// Changes the settings, for what comes from now on.
    pub fn reconfigure(&mut self, config: Config) {
        self.config = config;
    }

    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stale.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stale.is_empty()
    }

    /// Whether there has been a queue of this level and higher ones for so long that it will not
    /// go away by itself.
    #[must_use]
    pub fn is_overloaded(&self, level: Criticality, now: Timestamp) -> bool {
        let since = self.empty_at.get(level.index()).copied().unwrap_or_default();
        let waits = self.levels.iter().skip(level.index()).any(|level| !level.is_empty());
        waits && now.since(since) >= self.config.interval
    }

    /// Notes the levels for which nothing waits.
    fn note_empty(&mut self, now: Timestamp) {
        for (level, empty_at) in self.levels.iter().zip(&mut self.empty_at).rev() {
            if !level.is_empty() {
                return;
            }
            *empty_at = now;
        }
    }

    /// Adds a request.
    pub fn push(
        &mut self,
        who: T,
        criticality: Criticality,
        expiry: Option<Expiry>,
        now: Timestamp,
    ) -> Key {
        self.note_empty(now);
        let key = Key { criticality, number: self.numbers };
        self.numbers += 1;
        let (stale, expiry) = (self.stale_at(criticality, now), expiry.map(|Expiry(at)| at));
        self.stale.insert((stale, key));
        self.expiries.extend(expiry.map(|at| (at, key)));
        if let Some(level) = self.levels.get_mut(criticality.index()) {
            level.insert(key.number, Waiting { who, stale, expiry });
        }
        key
    }

    /// Takes out whoever is served next.
    #[must_use]
    pub fn next(&mut self, now: Timestamp) -> Option<T> {
        self.first(now).and_then(|key| self.take(key, now))
    }

    /// Takes out a request whose caller has gone; `None` if it is not here any more.
    pub fn cancel(&mut self, key: Key, now: Timestamp) -> Option<T> {
        self.take(key, now)
    }

    /// Takes out one that is past its deadline. To be asked before places are given away.
    pub fn expired(&mut self, now: Timestamp) -> Option<T> {
        let (at, key) = *self.expiries.first()?;
        if at > now { None } else { self.take(key, now) }
    }

    /// Takes out one that must not wait any longer, where at most `bound` may. To be asked after
    /// places were given away.
    pub fn shed(&mut self, bound: usize, now: Timestamp) -> Option<(T, Reason)> {
        let waited = self.waited(now);
        let key = waited.or_else(|| (self.len() > bound).then(|| self.last(now))?)?;
        let reason = if waited.is_some() { Reason::Waited } else { Reason::Full };
        self.take(key, now).map(|who| (who, reason))
    }

    /// When to look again for a request: the next instant at which it may have to leave. `None` if
    /// it is not here any more, or may stay for ever.
    #[must_use]
    pub fn look_again(&self, key: Key, now: Timestamp) -> Option<Timestamp> {
        let waiting = self.levels.get(key.criticality.index())?.get(&key.number)?;
        // One that is stale and was spared leaves when another comes, or at its deadline.
        let stale = Some(waiting.stale).filter(|at| *at > now);
        [stale, waiting.expiry].into_iter().flatten().min()
    }

    /// One that has waited as long as it may and does not come next, or what goes in its stead.
    fn waited(&mut self, now: Timestamp) -> Option<Key> {
        let first = self.first(now)?;
        let mut stale = self.stale.range(..=(now, Key::LAST)).map(|(_, key)| *key);
        let key = stale.find(|key| *key != first)?;
        let last = self.last(now)?;
        if last.criticality == key.criticality {
            return Some(key);
        }
        self.spare(key, now);
        Some(last)
    }

    /// Lets one wait anew.
    fn spare(&mut self, key: Key, now: Timestamp) {
        let anew = self.stale_at(key.criticality, now);
        let level = self.levels.get_mut(key.criticality.index());
        if let Some(waiting) = level.and_then(|level| level.get_mut(&key.number)) {
            self.stale.remove(&(waiting.stale, key));
            waiting.stale = anew;
            self.stale.insert((anew, key));
        }
    }

    /// Until when one that begins to wait may do so.
    fn stale_at(&self, level: Criticality, now: Timestamp) -> Timestamp {
        let Config { target, interval, .. } = self.config;
        now + if self.is_overloaded(level, now) { target } else { interval }
    }

    fn first(&self, now: Timestamp) -> Option<Key> {
        self.edge(Criticality::ALL.into_iter().rev(), true, now)
    }

    fn last(&self, now: Timestamp) -> Option<Key> {
        self.edge(Criticality::ALL.into_iter(), false, now)
    }

    /// Who is served first, or last, in the first level in which anyone waits.
    fn edge(
        &self,
        mut levels: impl Iterator<Item = Criticality>,
        first: bool,
        now: Timestamp,
    ) -> Option<Key> {
        levels.find_map(|criticality| {
            let level = self.levels.get(criticality.index()).filter(|level| !level.is_empty())?;
            let newest = self.is_overloaded(criticality, now) == first;
            let entry = if newest { level.last_key_value() } else { level.first_key_value() };
            entry.map(|(number, _)| Key { criticality, number: *number })
        })
    }

    fn take(&mut self, key: Key, now: Timestamp) -> Option<T> {
        let waiting = self.levels.get_mut(key.criticality.index())?.remove(&key.number)?;
        self.stale.remove(&(waiting.stale, key));
        if let Some(at) = waiting.expiry {
            self.expiries.remove(&(at, key));
        }
        self.note_empty(now);
        Some(waiting.who)
    }
}

impl Key {
    /// Greater than any other.
    const LAST: Self = Self { criticality: Criticality::CriticalPlus, number: u64::MAX };
}

#[cfg(test)]
#[path = "shed_tests.rs"]
mod tests;
