//! User events: the newest 256, in memory.
//!
//! An event's index is drawn from its ID, as Consul's clients do: the two halves of the UUID, xor
//! each other. We make the IDs so that this is a number that only grows, over restarts, too (it
//! begins with the microseconds since 1970), and blocking queries work as all others do.
//!
//! Source: Consul's HTTP API, "Event".

use std::collections::VecDeque;
use std::time::UNIX_EPOCH;

use parking_lot::Mutex;

use super::{Registry, Topic};
use crate::clock::wall;

/// Events that are kept.
const KEPT: usize = 256;

/// An event that somebody fired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// A UUID; the index lies in it.
    pub id: String,
    /// What was fired.
    pub name: String,
    /// Whatever was sent with it.
    pub payload: Vec<u8>,
    /// For nodes whose name matches this, where not empty. Regular expressions, here and below.
    pub node_filter: String,
    /// For nodes that have a service that matches this.
    pub service_filter: String,
    /// And a tag of it that matches this.
    pub tag_filter: String,
    /// Its number since the start of this server, from 1.
    pub time: u64,
    /// What a blocking query waits for.
    pub index: u64,
}

#[derive(Debug)]
pub(super) struct Events {
    kept: Mutex<VecDeque<Event>>,
    start: u64,
}

impl Default for Events {
    fn default() -> Self {
        let since = wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = u64::try_from(since.as_micros()).unwrap_or(0);
        Self { kept: Mutex::default(), start }
    }
}

impl Events {
    fn keep(&self, mut event: Event) -> Event {
        let mut kept = self.kept.lock();
        event.time = kept.back().map_or(0, |last| last.time) + 1;
        event.index = self.start + event.time;
        event.id = id_of(event.index, fastrand::u64(..));
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        event
    }
}

/// The UUID of these random bits that stands for this index.
fn id_of(index: u64, random: u64) -> String {
    let (low, high) = (random, random ^ index);
    let (a, b, c) = (low >> 32, low >> 16 & 0xffff, low & 0xffff);
    format!("{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", high >> 48, high & 0xffff_ffff_ffff)
}

impl Registry {
    /// Fires an event; as it was kept.
    #[must_use]
    pub fn fire(&self, event: Event) -> Event {
        let event = self.shared.events.keep(event);
        self.shared.topics.wake(&Topic::Events);
        event
    }

    /// The events that are kept, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.shared.events.kept.lock().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_find_the_index_in_the_id() {
        for (index, random) in [(1, 0), (1_795_310_459_784_000, u64::MAX), (u64::MAX, 12_345)] {
            let id = id_of(index, random);
            let hex: String = id.chars().filter(|c| *c != '-').collect();
            let half = |range| u64::from_str_radix(&hex[range], 16).unwrap();
            assert_eq!((id.len(), half(0..16) ^ half(16..32)), (36, index), "{id}");
        }
    }

    #[test]
    fn only_the_newest_are_kept_and_their_index_grows() {
        let events = Events::default();
        for _ in 0..KEPT + 10 {
            events.keep(Event::default());
        }
        let kept = events.kept.lock();
        assert_eq!((kept.len(), kept[0].time, kept[KEPT - 1].time), (KEPT, 11, 266));
        assert!(kept.iter().zip(kept.iter().skip(1)).all(|(one, next)| one.index < next.index));
    }
}
