//! Admission: how many requests a server works on at once, and who waits for a place.
//!
//! ```text
//!            a place is free                        the response is over
//! request ──────────────────────► served (Place) ─────────────────────────► next one waiting
//!    │ all taken                     ▲
//!    ├────────────► waits (Waiting) ─┘ when a place is free
//!    │ shedding on      │ too long, too many, past its deadline, its caller gone
//!    └──────────────────┴────────────────────────────────────────────────► refused
//! ```
//!
//! `limit = min(maxRequests, adaptive limit)`. Without [`shedding`](ServerPolicy::shedding) what
//! exceeds it is refused at once with [`ErrorKind::Shed`]. Who waits how long, and who is shed
//! first, is decided by [`mesh_core::shed`]; the adaptive limit by [`mesh_core::concurrency`].
//!
//! A place is kept until the response body ends. Settings may change while requests are served.
//!
//! Cost: two counts per request while nobody waits and the limit does not adapt. A lock for each
//! request that waits, and for each that ends while any waits or the limit adapts.

use crate::clock;
use mesh_core::concurrency::Controller;
use mesh_core::config::ServerPolicy;
use mesh_core::criticality::Criticality;
use mesh_core::deadline::Expiry;
use mesh_core::limit::UNLIMITED;
use mesh_core::shed::{Key, Queue, Reason};
use mesh_core::{Error, ErrorKind, Timestamp};
use parking_lot::Mutex;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep_until};

/// Counts the requests being served, and holds those that wait.
///
/// ```
/// use mesh_tower::server::{Admission, Admitted, Config};
/// use mesh_tower::{ErrorKind, clock};
/// use std::sync::Arc;
///
/// let mut config = Config::default();
/// config.max_requests = Some(1);
/// let admission = Arc::new(Admission::new(&config));
/// let admit = || admission.admit(clock::now(), Default::default(), None);
/// let Ok(Admitted::Served(place)) = admit() else { panic!("nobody else is here") };
/// assert_eq!(admit().map_err(|error| error.kind()).err(), Some(ErrorKind::Shed));
/// drop(place);
/// assert!(admit().is_ok());
/// ```
pub struct Admission {
    serving: AtomicU32,
    limit: AtomicU32,
    /// How many wait. While it is not 0, whoever gives back a place looks at the queue.
    waiting: AtomicUsize,
    /// Whether what exceeds the limit may wait.
    queues: AtomicBool,
    /// Whether the limit learns from latencies.
    adapts: AtomicBool,
    state: Mutex<State>,
}

struct State {
    most: u32,
    queue: Queue<Sender>,
    controller: Option<Controller>,
}

type Sender = oneshot::Sender<Result<Place, Error>>;

/// Whom to tell what, once the lock is released: who hears it may give back a place at once.
type Decisions = Vec<(Sender, Result<Place, Error>)>;

/// What is decided about a request that arrives and is not refused.
#[derive(Debug)]
#[allow(clippy::exhaustive_enums, reason = "there is no third")]
pub enum Admitted {
    /// It has a place.
    Served(Place),
    /// It has to wait for one.
    Waits(Waiting),
}

impl Admission {
    /// Nothing is being served yet.
    #[must_use]
    pub fn new(policy: &ServerPolicy) -> Self {
        let admission = Self {
            serving: AtomicU32::new(0),
            limit: AtomicU32::new(UNLIMITED),
            waiting: AtomicUsize::new(0),
            queues: AtomicBool::new(false),
            adapts: AtomicBool::new(false),
            state: Mutex::new(State {
                most: UNLIMITED,
                queue: Queue::new(mesh_core::shed::Config::default()),
                controller: None,
            }),
        };
        admission.adopt(&mut admission.state.lock(), policy);
        admission
    }

    /// Changes the settings. What is being served is left to finish; what waits keeps waiting.
    pub fn reconfigure(self: &Arc<Self>, policy: &ServerPolicy) {
        self.decide(clock::now(), |state| {
            self.adopt(state, policy);
            None
        });
    }

    fn adopt(&self, state: &mut State, policy: &ServerPolicy) {
        state.most = policy.max_requests.unwrap_or(UNLIMITED);
        if let Some(shedding) = &policy.shedding {
            state.queue.reconfigure(shedding.clone());
        }
        let adaptive = policy.adaptive_concurrency.as_ref();
        if state.controller.as_ref().map(Controller::config) != adaptive {
            state.controller = adaptive.map(|config| Controller::new(config.clone(), clock::now()));
        }
        self.queues.store(policy.shedding.is_some(), Ordering::Relaxed);
        self.adapts.store(adaptive.is_some(), Ordering::Relaxed);
        self.limit.store(state.limit(), Ordering::Relaxed);
    }

    /// Takes a place, to be kept until the response is over, or a place in the queue.
    ///
    /// # Errors
    /// [`ErrorKind::Shed`] if all places are taken and the request may not wait, or if the queue is
    /// full of more critical ones.
    pub fn admit(
        self: &Arc<Self>,
        now: Timestamp,
        criticality: Criticality,
        expiry: Option<Expiry>,
    ) -> Result<Admitted, Error> {
        let nobody_waits = self.waiting.load(Ordering::Relaxed) == 0;
        if nobody_waits && let Some(place) = self.take(now) {
            return Ok(Admitted::Served(place));
        }
        if !self.queues.load(Ordering::Relaxed) {
            let limit = self.limit.load(Ordering::Relaxed);
            let why = format!("{limit} requests are being served, which is the limit");
            return Err(Error::new(ErrorKind::Shed, why));
        }
        self.wait(now, criticality, expiry)
    }

    #[cold]
    fn wait(
        self: &Arc<Self>,
        now: Timestamp,
        criticality: Criticality,
        expiry: Option<Expiry>,
    ) -> Result<Admitted, Error> {
        let (sender, mut decision) = oneshot::channel();
        let mut key = None;
        let again = self.decide(now, |state| {
            key = Some(state.queue.push(sender, criticality, expiry, now));
            key
        });
        // It may be decided already.
        if let Ok(decided) = decision.try_recv() {
            return decided.map(Admitted::Served);
        }
        let timer = again.map(|at| Box::pin(sleep_until(clock::instant(at))));
        Ok(Admitted::Waits(Waiting { admission: self.clone(), key, decision, timer }))
    }

    /// Requests being served now.
    #[must_use]
    pub fn serving(&self) -> usize {
        self.serving.load(Ordering::Relaxed) as usize
    }

    /// Requests that wait for a place now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How many may be served at once now; `None` if there is no limit.
    #[must_use]
    pub fn limit(&self) -> Option<u32> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit != UNLIMITED)
    }

    /// A place, if one is free.
    fn take(self: &Arc<Self>, now: Timestamp) -> Option<Place> {
        let limit = self.limit.load(Ordering::Relaxed);
        let more = |serving| (serving < limit).then(|| serving + 1);
        let taken = self.serving.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        taken.is_ok().then(|| Place { admission: self.clone(), began: now })
    }

    /// Changes the state, and tells those it concerns once the lock is released. Returns when to
    /// look again for the request that `change` names.
    fn decide(
        self: &Arc<Self>,
        now: Timestamp,
        change: impl FnOnce(&mut State) -> Option<Key>,
    ) -> Option<Timestamp> {
        let mut decisions = Decisions::new();
        let again = {
            let mut state = self.state.lock();
            let key = change(&mut state);
            self.settle(&mut state, now, &mut decisions);
            key.and_then(|key| state.queue.look_again(key, now))
        };
        for (sender, decision) in decisions {
            // Whoever has gone meanwhile gives the place back by dropping it.
            let _ = sender.send(decision);
        }
        again
    }

    /// Gives free places to those who wait, and sheds whom the queue will not keep.
    fn settle(self: &Arc<Self>, state: &mut State, now: Timestamp, decisions: &mut Decisions) {
        // Told before the places are counted: whoever gives one back counts first and then looks
        // here, so that one of the two sees the other.
        self.waiting.store(state.queue.len(), Ordering::SeqCst);
        while let Some(sender) = state.queue.expired(now) {
            decisions.push((sender, Err(refused(Reason::Expired))));
        }
        while !state.queue.is_empty()
            && let Some(place) = self.take(now)
            && let Some(sender) = state.queue.next(now)
        {
            decisions.push((sender, Ok(place)));
        }
        let bound = state.queue.config().bound(self.limit.load(Ordering::Relaxed));
        while let Some((sender, reason)) = state.queue.shed(bound, now) {
            decisions.push((sender, Err(refused(reason))));
        }
        self.waiting.store(state.queue.len(), Ordering::SeqCst);
    }

    #[cold]
    fn learn(self: &Arc<Self>, began: Timestamp, now: Timestamp) {
        self.decide(now, |state| {
            if let Some(controller) = &mut state.controller {
                controller.record(began, now, &mut || fastrand::u64(..));
            }
            self.limit.store(state.limit(), Ordering::Relaxed);
            None
        });
    }
}

impl State {
    fn limit(&self) -> u32 {
        let adaptive = self.controller.as_ref().map_or(UNLIMITED, Controller::limit);
        self.most.min(adaptive)
    }
}

fn refused(reason: Reason) -> Error {
    let kind = match reason {
        Reason::Expired => ErrorKind::Deadline,
        _ => ErrorKind::Shed,
    };
    Error::new(kind, reason.to_string())
}

impl Default for Admission {
    fn default() -> Self {
        Self::new(&ServerPolicy::default())
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("serving", &self.serving())
            .field("waiting", &self.waiting())
            .field("limit", &self.limit())
            .finish_non_exhaustive()
    }
}

/// A request's place among those being served; given back on drop.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct Place {
    admission: Arc<Admission>,
    began: Timestamp,
}

impl Place {
    /// The response is over, and was not cut short: an adaptive limit learns from how long it took.
    pub fn answered(&self, now: Timestamp) {
        if self.admission.adapts.load(Ordering::Relaxed) {
            self.admission.learn(self.began, now);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.serving.fetch_sub(1, Ordering::SeqCst);
        if self.admission.waiting.load(Ordering::SeqCst) > 0 {
            self.admission.decide(clock::now(), |_| None);
        }
    }
}

/// A request that waits for a place; the future resolves to it. Dropping it leaves the queue.
///
/// # Errors
/// [`ErrorKind::Shed`], or [`ErrorKind::Deadline`] if the request's own passed.
#[must_use = "futures do nothing unless polled"]
pub struct Waiting {
    admission: Arc<Admission>,
    /// Until it is decided.
    key: Option<Key>,
    decision: oneshot::Receiver<Result<Place, Error>>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Future for Waiting {
    type Output = Result<Place, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            if let Poll::Ready(decided) = Pin::new(&mut this.decision).poll(cx) {
                this.key = None;
                // The queue never drops a sender unheard.
                return Poll::Ready(decided.unwrap_or_else(|_| Err(refused(Reason::Full))));
            }
            let Some(timer) = &mut this.timer else { return Poll::Pending };
            ready!(timer.as_mut().poll(cx));
            match this.admission.decide(clock::now(), |_| this.key) {
                Some(at) => timer.as_mut().reset(clock::instant(at)),
                None => this.timer = None,
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.decision.close();
        let Some(key) = self.key else { return };
        let now = clock::now();
        self.admission.decide(now, |state| {
            state.queue.cancel(key, now);
            None
        });
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
