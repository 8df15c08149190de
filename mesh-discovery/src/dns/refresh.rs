//! Refresh: asks, tells, waits, over and over.
//!
//! ```text
//!         answer: tell what differs; wait for the TTL or a nudge
//!       ┌────────────────────────────────────────────────────────┐
//!       ▼                                                        │
//!      ask ──────────────────────────────────────────────────────┤
//!       ▲                                                        │
//!       └────────────────────────────────────────────────────────┘
//!         failure: tell why, keep the set; back off, nudges wait
//! ```

use super::schedule::{SPACING, Schedule};
use crate::Failure;
use crate::watch::{Nudged, Publisher};
use hickory_resolver::proto::rr::Name;
use mesh_core::{EndpointSpec, ErrorKind};
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// One question to DNS, to be repeated.
pub(super) trait Ask: Send + 'static {
    fn ask(&mut self) -> impl Future<Output = Result<Answer, Trouble>> + Send;
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) specs: Vec<EndpointSpec>,
    pub(super) ttl: Duration,
    /// What of the answer was left out, and why.
    pub(super) note: Option<String>,
}

/// Why there is no answer: a sentence.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The name does not exist.
    NoSuchName(String),
    /// It exists, without what was asked for.
    NoRecord(String),
    /// Everything else.
    Failed(String),
}

impl Trouble {
    pub(super) fn no_such_name(name: &Name, server: SocketAddr) -> Self {
        Self::NoSuchName(format!("{name} does not exist (NXDOMAIN from {server})"))
    }

    pub(super) fn sentence(&self) -> &str {
        match self {
            Self::NoSuchName(why) | Self::NoRecord(why) | Self::Failed(why) => why,
        }
    }
}

pub(super) fn dns_failure(message: String) -> Failure {
    Failure::new(ErrorKind::Dns, message)
}

pub(super) async fn run(
    mut ask: impl Ask,
    mut schedule: Schedule,
    mut rng: fastrand::Rng,
    mut publisher: Publisher,
    nudged: Nudged,
) {
    let mut draw = move || rng.u64(..);
    let mut noted = None;
    loop {
        let asked = Instant::now();
        let wait = match ask.ask().await {
            Ok(Answer { mut specs, ttl, note }) => {
                // Servers answer in an order that changes from time to time and says nothing.
                specs.sort_by(|a, b| {
                    let key = |of: &EndpointSpec| (of.priority, of.addresses.first().copied());
                    key(a).cmp(&key(b)).then_with(|| a.id.as_str().cmp(b.id.as_str()))
                });
                if note != noted {
                    if let Some(note) = &note {
                        tracing::warn!("{note}");
                    }
                    noted = note;
                }
                publisher.endpoints(specs);
                schedule.answered(ttl, &mut draw)
            }
            Err(Trouble::NoSuchName(why)) => {
                let (wait, believed) = schedule.no_such_name(&mut draw);
                if believed {
                    publisher.none(dns_failure(why));
                } else {
                    publisher.failed(dns_failure(why));
                }
                wait
            }
            Err(Trouble::NoRecord(why) | Trouble::Failed(why)) => {
                publisher.failed(dns_failure(why));
                schedule.failed(&mut draw)
            }
        };
        let due = tokio::time::sleep_until(Instant::now() + wait);
        if schedule.is_backing_off() {
            due.await;
        } else {
            tokio::select! {
                () = due => {}
                () = nudged.wait() => tokio::time::sleep_until(asked + SPACING).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Config;
    use crate::{Update, Watch};
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    /// Gives these answers, the last one for ever, and notes when it was asked.
    struct Script {
        replies: VecDeque<Reply>,
        asked: Arc<Mutex<Vec<Instant>>>,
    }

    #[derive(Clone, Copy)]
    enum Reply {
        Hosts(&'static [u8], Duration),
        NoSuchName,
        ServFail,
    }
    use Reply::{Hosts, NoSuchName, ServFail};

    impl Ask for Script {
        async fn ask(&mut self) -> Result<Answer, Trouble> {
            self.asked.lock().expect("lock").push(Instant::now());
            let reply = match self.replies.len() {
                1 => self.replies.front().copied(),
                _ => self.replies.pop_front(),
            };
            match reply.expect("a script of one reply or more") {
                Hosts(hosts, ttl) => Ok(Answer { specs: specs(hosts), ttl, note: None }),
                NoSuchName => Err(Trouble::NoSuchName("web.test. does not exist".to_owned())),
                ServFail => Err(Trouble::Failed("10.0.0.53:53 answered SERVFAIL".to_owned())),
            }
        }
    }

    fn specs(hosts: &[u8]) -> Vec<EndpointSpec> {
        hosts.iter().map(|&host| EndpointSpec::new(([10, 0, 0, host], 80).into())).collect()
    }

    fn watch(replies: &[Reply]) -> (Watch, Arc<Mutex<Vec<Instant>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let script = Script { replies: replies.iter().copied().collect(), asked: asked.clone() };
        let schedule = Schedule::new(&Config { min_refresh: SPACING, ..Config::default() });
        let rng = fastrand::Rng::with_seed(7);
        (Watch::spawn(|publisher, nudged| run(script, schedule, rng, publisher, nudged)), asked)
    }

    fn failed(update: Option<Update>) -> String {
        match update {
            Some(Update::Failed(failure)) => failure.to_string(),
            other => panic!("a failure was due, not {other:?}"),
        }
    }

    /// Nothing more comes, however long one waits.
    async fn assert_silent(watch: &mut Watch) {
        let silent = tokio::time::timeout(Duration::from_secs(3 * 3600), watch.changed()).await;
        assert!(silent.is_err(), "{silent:?}");
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn only_a_set_that_differs_is_told() {
        let (mut watch, asked) =
            watch(&[Hosts(&[1, 2], MINUTE), Hosts(&[2, 1], MINUTE), Hosts(&[2], MINUTE)]);
        assert_eq!(watch.changed().await, Some(Update::Endpoints(specs(&[1, 2]))));
        assert_eq!(watch.changed().await, Some(Update::Endpoints(specs(&[2]))));
        let asked_by_then = asked.lock().expect("lock").len();
        assert_eq!(asked_by_then, 3, "the same set in another order was not told");
        assert_silent(&mut watch).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_ttl_decides_when_to_ask_again() {
        let (mut watch, asked) = watch(&[Hosts(&[1], MINUTE)]);
        watch.changed().await;
        assert_silent(&mut watch).await;
        let asked = asked.lock().expect("lock");
        for pair in asked.windows(2) {
            let gap = pair[1] - pair[0];
            assert!((MINUTE * 9 / 10..=MINUTE * 11 / 10).contains(&gap), "{gap:?}");
        }
        assert!(asked.len() > 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_keeps_the_set_and_its_end_is_told() {
        let (mut watch, _) =
            watch(&[Hosts(&[1], MINUTE), ServFail, ServFail, ServFail, Hosts(&[1], MINUTE)]);
        assert_eq!(watch.changed().await, Some(Update::Endpoints(specs(&[1]))));
        assert_eq!(failed(watch.changed().await), "10.0.0.53:53 answered SERVFAIL");
        assert_eq!(watch.changed().await, Some(Update::Endpoints(specs(&[1]))), "told once, over");
        assert_silent(&mut watch).await;
    }

    #[tokio::test(start_paused = true)]
    async fn nxdomain_that_flaps_takes_nothing_away() {
        let (mut watch, _) = watch(&[
            Hosts(&[1], MINUTE),
            NoSuchName,
            NoSuchName,
            ServFail,
            NoSuchName,
            NoSuchName,
            Hosts(&[1, 2], MINUTE),
        ]);
        let mut sets = Vec::new();
        while sets.len() < 2 {
            if let Some(Update::Endpoints(set)) = watch.changed().await {
                sets.push(set);
            }
        }
        assert_eq!(sets, [specs(&[1]), specs(&[1, 2])]);
    }

    #[tokio::test(start_paused = true)]
    async fn nxdomain_is_believed_at_the_third_in_a_row_and_undone_by_an_answer() {
        let (mut watch, _) = watch(&[
            Hosts(&[1], MINUTE),
            NoSuchName,
            NoSuchName,
            NoSuchName,
            NoSuchName,
            Hosts(&[1], MINUTE),
        ]);
        assert_eq!(watch.changed().await, Some(Update::Endpoints(specs(&[1]))));
        failed(watch.changed().await);
        assert_eq!(watch.changed().await, Some(Update::Endpoints(Vec::new())));
        assert_eq!(failed(watch.changed().await), "web.test. does not exist");
        assert_eq!(watch.changed().await, Some(Update::Endpoints(specs(&[1]))));
    }

    #[tokio::test(start_paused = true)]
    async fn nudges_ask_again_at_most_once_per_second() {
        let (mut watch, asked) = watch(&[Hosts(&[1], MINUTE * 60)]);
        watch.changed().await;
        let nudger = watch.nudger();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            nudger.nudge();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let asked = asked.lock().expect("lock");
        assert!((10..=11).contains(&asked.len()), "{} questions in 10 s", asked.len());
        assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= SPACING));
    }

    #[tokio::test(start_paused = true)]
    async fn nudges_do_not_shorten_a_back_off() {
        let asked_within_a_minute = |nudging: bool| async move {
            let (mut watch, asked) = watch(&[ServFail]);
            failed(watch.changed().await);
            let start = Instant::now();
            while start.elapsed() < MINUTE {
                if nudging {
                    watch.nudge();
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            asked.lock().expect("lock").len()
        };
        assert_eq!(asked_within_a_minute(true).await, asked_within_a_minute(false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_watch_ends_the_task() {
        let (mut watch, asked) = watch(&[Hosts(&[1], MINUTE)]);
        watch.changed().await;
        drop(watch);
        tokio::time::sleep(MINUTE * 10).await;
        assert_eq!(asked.lock().expect("lock").len(), 1);
        assert_eq!(Arc::strong_count(&asked), 1, "the task and what it held are gone");
    }
}
