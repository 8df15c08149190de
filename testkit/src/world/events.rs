//! The queue of what will happen, and keys of what may be over by then.

use mesh_core::{Outcome, Timestamp, load};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Something that happens at an instant.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// A client begins a call.
    Arrival(usize),
    /// A request reaches its endpoint.
    AtEndpoint(Key),
    /// An endpoint is done with an attempt; stale if it died since (`epoch`).
    Served { endpoint: usize, epoch: u64, attempt: Key },
    /// An answer, or a reset, reaches the client.
    Answer { attempt: Key, outcome: Outcome, report: Option<load::Report> },
    /// The time of an attempt, or of its call, is over.
    AttemptTimeout(Key),
    /// An endpoint learns that nobody waits for an attempt any more.
    Cancelled { endpoint: usize, attempt: Key },
    /// A back-off is over.
    Retry(Key),
    /// An endpoint is asked for a report, for a call, which may wait for the answer.
    ProbeAtEndpoint { client: usize, endpoint: usize, call: Key, waits: bool },
    /// It has answered.
    ProbeAnswer { client: usize, endpoint: usize, call: Key, report: load::Report },
    /// A probe for which no call waits was not answered in time.
    ProbeLost { client: usize, endpoint: usize },
    /// A call waits no longer for the answers to its probes.
    ProbesOver(Key),
    /// An antagonist comes or goes.
    Toggle(usize),
    /// From now on so many calls per second are offered.
    Rate(f64),
    /// Outlier detection of a client looks at all endpoints.
    Sweep(usize),
    /// A client tries to connect again, having waited `wait`.
    Reconnect { client: usize, endpoint: usize, wait: Duration },
    /// A planned fault, by its index.
    FaultBegins(usize),
    /// Its end.
    FaultEnds(usize),
}

/// Events by time; those of one instant in the order they were pushed.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Entry>,
    pushed: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: Timestamp, event: Event) {
        self.pushed += 1;
        self.heap.push(Entry { at, order: self.pushed, event });
    }

    pub(super) fn pop(&mut self) -> Option<(Timestamp, Event)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}

#[derive(Debug)]
struct Entry {
    at: Timestamp,
    order: u64,
    event: Event,
}

impl Ord for Entry {
    /// Reversed: the heap's greatest is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

/// Names a value of a [`Slab`]; a value that is gone is not mistaken for its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

/// Values under keys, their room used again.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let (generation, slot) = &mut self.slots[index as usize];
        *slot = Some(value);
        Key { index, generation: *generation }
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (generation, slot) = &mut self.slots[key.index as usize];
        if *generation == key.generation { slot.as_mut() } else { None }
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        let (generation, slot) = &self.slots[key.index as usize];
        *generation == key.generation && slot.is_some()
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let (generation, slot) = &mut self.slots[key.index as usize];
        if *generation != key.generation {
            return None;
        }
        let value = slot.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(key.index);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_they_were_pushed() {
        let mut queue = Queue::default();
        for (at, client) in [(5, 0), (3, 1), (5, 2), (4, 3)] {
            queue.push(Timestamp::from_nanos(at), Event::Arrival(client));
        }
        let mut order = Vec::new();
        while let Some((_, Event::Arrival(client))) = queue.pop() {
            order.push(client);
        }
        assert_eq!(order, [1, 3, 0, 2]);
    }

    #[test]
    fn a_key_does_not_outlive_its_value() {
        let mut slab = Slab::default();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_ne!(first, second);
        assert!(!slab.contains(first) && slab.contains(second));
        assert_eq!((slab.remove(first), slab.get_mut(second)), (None, Some(&mut "second")));
    }
}
