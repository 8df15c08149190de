//! Who is woken by what: blocking queries wait for topics.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Included, Unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// What a query may wait for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Topic {
    /// The keys that begin with this; a change of `a/b` wakes who waits for `a/b`, `a/`, and the
    /// empty prefix.
    Kv(String),
    /// Any session.
    Sessions,
    /// Any node.
    Nodes,
    /// A node with its services and checks. Names are in small letters, here and below.
    Node(String),
    /// Any instance of any service.
    Services,
    /// A service by name: its instances, their checks, and the nodes that they are on.
    Service(String),
    /// The instances that speak mutual TLS for a service, by its name, with their checks and nodes.
    Connect(String),
    /// Any check.
    Checks,
    /// Any config entry.
    ConfigEntries,
    /// Any event.
    Events,
    /// Any prepared query.
    PreparedQueries,
}

impl Topic {
    /// The node of this name.
    #[must_use]
    pub fn node(name: &str) -> Self {
        Self::Node(name.to_lowercase())
    }

    /// The service of this name.
    #[must_use]
    pub fn service(name: &str) -> Self {
        Self::Service(name.to_lowercase())
    }

    /// What speaks for the service of this name.
    #[must_use]
    pub fn connect(name: &str) -> Self {
        Self::Connect(name.to_lowercase())
    }
}

/// Waiters by topic.
#[derive(Debug, Default)]
pub(super) struct Topics {
    waiting: Mutex<Waiting>,
    /// Nobody is to wait any more.
    over: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The next waiter's number.
    next: u64,
    /// How many there are.
    count: usize,
    topics: HashMap<Topic, Waiters>,
    /// Waiters for keys, by prefix.
    prefixes: BTreeMap<String, Waiters>,
}

/// By their number.
type Waiters = HashMap<u64, Arc<Notify>>;

impl Topics {
    /// From now on, until it is dropped, the waiter is woken by each of `topics`.
    pub(super) fn subscribe(&self, topics: &[Topic]) -> Waiter<'_> {
        let notify = Arc::new(Notify::new());
        let mut waiting = self.waiting.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.count += 1;
        for topic in topics {
            let waiters = match topic {
                Topic::Kv(prefix) => waiting.prefixes.entry(prefix.clone()).or_default(),
                topic => waiting.topics.entry(topic.clone()).or_default(),
            };
            waiters.insert(number, Arc::clone(&notify));
        }
        Waiter { all: self, number, topics: topics.to_vec(), notify }
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.lock().count
    }

    /// Wakes everyone, now and whenever they ask again.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
        // Whoever subscribes after this lock sees the flag; the others are in here.
        let waiting = self.waiting.lock();
        let all = waiting.topics.values().chain(waiting.prefixes.values());
        all.flat_map(HashMap::values).for_each(|waiter| waiter.notify_one());
    }

    /// Wakes who waits for this: for a key, everyone who waits for a beginning of it.
    pub(super) fn wake(&self, topic: &Topic) {
        let waiting = self.waiting.lock();
        let wake = |waiters: &Waiters| waiters.values().for_each(|waiter| waiter.notify_one());
        match topic {
            Topic::Kv(key) => {
                // From the longest beginning to the shortest. The greatest prefix that is not above
                // `end` begins it, or shares with it as much as any other that could.
                let mut end = key.as_str();
                while let Some((prefix, waiters)) =
                    waiting.prefixes.range::<str, _>((Unbounded, Included(end))).next_back()
                {
                    let same = common(prefix, end);
                    end = &end[..same];
                    if same == prefix.len() {
                        wake(waiters);
                        let Some((last, _)) = end.char_indices().next_back() else { break };
                        end = &end[..last];
                    }
                }
            }
            topic => waiting.topics.get(topic).into_iter().for_each(wake),
        }
    }
}

/// One query that waits.
#[derive(Debug)]
pub(super) struct Waiter<'a> {
    all: &'a Topics,
    number: u64,
    topics: Vec<Topic>,
    notify: Arc<Notify>,
}

impl Waiter<'_> {
    /// Done when a topic was woken since the last time.
    pub(super) async fn woken(&self) {
        self.notify.notified().await;
    }

    /// Whether waiting is over for everyone.
    pub(super) fn is_over(&self) -> bool {
        self.all.over.load(Ordering::Acquire)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut waiting = self.all.waiting.lock();
        waiting.count -= 1;
        for topic in &self.topics {
            match topic {
                Topic::Kv(prefix) => {
                    if leave(waiting.prefixes.get_mut(prefix), self.number) {
                        waiting.prefixes.remove(prefix);
                    }
                }
                topic => {
                    if leave(waiting.topics.get_mut(topic), self.number) {
                        waiting.topics.remove(topic);
                    }
                }
            }
        }
    }
}

/// Whether nobody waits here any more.
fn leave(waiters: Option<&mut Waiters>, number: u64) -> bool {
    waiters.is_some_and(|waiters| {
        waiters.remove(&number);
        waiters.is_empty()
    })
}

/// Bytes that both begin with, in whole characters.
fn common(one: &str, other: &str) -> usize {
    let mut pairs = one.char_indices().zip(other.chars());
    let differs = pairs.find(|((_, one), other)| one != other);
    differs.map_or_else(|| one.len().min(other.len()), |((at, _), _)| at)
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[test]
    fn a_key_wakes_whoever_waits_for_a_beginning_of_it() {
        let topics = Topics::default();
        for (prefix, woken) in [("", true), ("a/", true), ("a/ü", true), ("b", false)] {
            let waiter = topics.subscribe(&[Topic::Kv(prefix.to_owned())]);
            let mut waits = task::spawn(waiter.woken());
            assert_pending!(waits.poll());
            topics.wake(&Topic::Kv("a/ü".to_owned()));
            assert_eq!(waits.poll().is_ready(), woken, "{prefix:?}");
        }
        assert!(topics.waiting.lock().prefixes.is_empty(), "whoever is dropped is forgotten");
    }

    #[test]
    fn a_key_finds_its_beginnings_among_all_others_however_long_it_is() {
        let topics = Topics::default();
        let waits = ["", "a", "aa", "aab", "ab", "a/", "a/b", "a/bü", "a/ü", "aü", "b", "ü"];
        for key in ["", "a", "aa", "aaa", "aabb", "a/bübü", "a/bu", "a/v", "c", "üa", "ý"] {
            let waiters = waits.map(|prefix| topics.subscribe(&[Topic::Kv(prefix.to_owned())]));
            topics.wake(&Topic::Kv(key.to_owned()));
            for (waiter, prefix) in waiters.iter().zip(waits) {
                let woken = task::spawn(waiter.woken()).poll().is_ready();
                assert_eq!(woken, key.starts_with(prefix), "{prefix:?} of {key:?}");
            }
        }
        // One lookup per character of this would take minutes.
        let _waits = topics.subscribe(&[Topic::Kv("b".to_owned())]);
        topics.wake(&Topic::Kv("a".repeat(512 * 1024)));
    }

    #[test]
    fn at_the_end_everyone_is_woken_and_nobody_waits_again() {
        let topics = Topics::default();
        let (first, second) =
            (topics.subscribe(&[Topic::Nodes]), topics.subscribe(&[Topic::Kv("a".to_owned())]));
        let (mut one, mut two) = (task::spawn(first.woken()), task::spawn(second.woken()));
        assert_pending!(one.poll());
        assert_pending!(two.poll());
        topics.end();
        assert_ready!(one.poll());
        assert_ready!(two.poll());
        assert!(topics.subscribe(&[Topic::Checks]).is_over());
    }

    #[test]
    fn what_happened_between_reading_and_waiting_is_not_lost() {
        let topics = Topics::default();
        let waiter = topics.subscribe(&[Topic::Nodes, Topic::Service("web".to_owned())]);
        topics.wake(&Topic::Service("web".to_owned()));
        assert_ready!(task::spawn(waiter.woken()).poll());
        topics.wake(&Topic::Service("api".to_owned()));
        assert_pending!(task::spawn(waiter.woken()).poll());
    }
}
