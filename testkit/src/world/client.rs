//! One client: its decisions, all by `mesh-core`, and the checks that they were right.

use http::Method;
use mesh_core::health::outlier::Detector;
use mesh_core::health::{StateKind, breaker};
use mesh_core::pick::{PickArgs, Picker, Reason};
use mesh_core::retry::budget::{self, Budget};
use mesh_core::retry::{self, Attempted, End, Verdict};
use mesh_core::{
    Draw, EndpointId, EndpointSet, EndpointSpec, Error, ErrorKind, Failure, Outcome, Policy,
    Timestamp, load,
};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// First and longest wait between tries to connect to a lost endpoint.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Endpoints know their number in the world.
type Index = usize;

pub(super) struct Client {
    policy: Policy,
    picker: Picker<Index>,
    detector: Detector,
    budget: Budget,
    retries: Retries,
    failures_look_fast: bool,
}

/// An attempt that may go out.
pub(super) struct Picked {
    pub(super) endpoint: Index,
    pub(super) id: EndpointId,
    pub(super) ticket: Ticket,
    /// The rule this pick broke.
    pub(super) broken: Option<String>,
}

/// What an attempt gives back when it ends.
#[derive(Clone, Copy)]
pub(super) struct Ticket(Option<breaker::Admission>);

/// No attempt may go out.
pub(super) struct Refused;

/// After a failed attempt.
pub(super) enum Next {
    RetryAfter(Duration),
    GiveUp,
}

impl Client {
    pub(super) fn new(endpoints: usize, policy: &Policy, failures_look_fast: bool) -> Self {
        let specs = (0..endpoints).map(|index| {
            let address = Ipv4Addr::from(0x0a00_0000 + index as u32);
            EndpointSpec::new(SocketAddr::from((address, 80)))
        });
        let mut indices = 0..;
        let (set, _) =
            EndpointSet::empty().update(specs.collect(), |_| indices.next().unwrap_or_default());
        Self {
            picker: Picker::new(set, policy.pick.clone()),
            detector: Detector::new(policy.outlier.clone()),
            budget: Budget::new(&policy.budget),
            retries: Retries::default(),
            failures_look_fast,
            policy: policy.clone(),
        }
    }

    pub(super) fn call_begins(&mut self, now: Timestamp) {
        self.budget.deposit(now);
        self.retries.call(now, &self.policy.budget);
    }

    pub(super) fn pick(
        &mut self,
        now: Timestamp,
        tried: &[EndpointId],
        draw: &mut impl Draw,
    ) -> Result<Picked, Refused> {
        let picked =
            self.picker.pick(&PickArgs::new(now).with_avoid(tried), draw).map_err(|_| Refused)?;
        let endpoint = &picked.member.endpoint;
        let admission = match &self.policy.breaker {
            None => None,
            Some(config) => Some(endpoint.breaker().try_acquire(now, config).map_err(|_| Refused)?),
        };
        endpoint.load().begin();
        Ok(Picked {
            endpoint: endpoint.connections,
            id: endpoint.id().clone(),
            ticket: Ticket(admission),
            broken: self.wrong_pick(now, picked.reason, endpoint.connections),
        })
    }

    /// Whom to ask before a pick, and whether to wait for the answers.
    pub(super) fn probes(
        &mut self,
        now: Timestamp,
        tried: &[EndpointId],
        draw: &mut impl Draw,
    ) -> (Vec<Index>, bool) {
        let probes = self.picker.probes(&PickArgs::new(now).with_avoid(tried), draw);
        let wait = probes.wait;
        (probes.into_iter().map(|member| member.endpoint.connections).collect(), wait)
    }

    /// A probe was answered.
    pub(super) fn probed(
        &mut self,
        now: Timestamp,
        endpoint: Index,
        report: &load::Report,
        round_trip: Duration,
    ) {
        self.load(endpoint).probed(now, report, round_trip);
    }

    /// A probe was not answered in time.
    pub(super) fn unanswered(&mut self, endpoint: Index) {
        self.load(endpoint).unanswered();
    }

    /// A response brought a report.
    pub(super) fn reported(&mut self, now: Timestamp, endpoint: Index, report: &load::Report) {
        self.load(endpoint).reported(now, report);
    }

    fn load(&self, endpoint: Index) -> &load::Load {
        self.picker.set().members()[endpoint].endpoint.load()
    }

    /// An endpoint that is out may be picked only when too few others are in.
    fn wrong_pick(&self, now: Timestamp, reason: Reason, endpoint: Index) -> Option<String> {
        let members = self.picker.set().members();
        let state = members[endpoint].endpoint.health().state(now);
        if !matches!(state.kind, StateKind::Ejected | StateKind::Unreachable) {
            return None;
        }
        let available = members.iter().filter(|member| member.endpoint.is_selectable()).count();
        let threshold = usize::from(self.policy.pick.panic_threshold);
        let below = available * 100 < members.len() * threshold;
        (reason != Reason::Panic || !below)
            .then(|| format!("picked {endpoint}, {state}, with {available} available: {reason:?}"))
    }

    /// Books the end of an attempt; returns the rule that an ejection broke.
    pub(super) fn ended(
        &mut self,
        now: Timestamp,
        endpoint: Index,
        Ticket(admission): Ticket,
        outcome: Outcome,
        latency: Duration,
        draw: &mut impl Draw,
    ) -> Option<String> {
        let set = self.picker.set();
        let endpoint = &set.members()[endpoint].endpoint;
        let (load, pick) = (endpoint.load(), &self.policy.pick);
        load.end();
        match outcome {
            Outcome::Success => pick.succeeded(load, now, latency),
            Outcome::Failure(_) if self.failures_look_fast => pick.succeeded(load, now, latency),
            Outcome::Failure(_) => pick.failed(load, now, None),
            _ => {}
        }
        if let (Some(admission), Some(config)) = (admission, &self.policy.breaker) {
            endpoint.breaker().record(admission, outcome, now, config, draw);
        }
        self.detector.record(endpoint, set.members().len(), outcome, now, draw)?;
        self.too_many_ejected()
    }

    pub(super) fn sweep(&mut self, now: Timestamp, draw: &mut impl Draw) -> Option<String> {
        self.detector.sweep(self.picker.set(), now, draw);
        self.too_many_ejected()
    }

    fn too_many_ejected(&self) -> Option<String> {
        let members = self.picker.set().members();
        let ejected = members.iter().filter(|member| member.endpoint.health().is_ejected()).count();
        let share = usize::from(self.policy.outlier.max_ejection_percent);
        let allowed =
            (members.len() * share / 100).max(usize::from(self.policy.outlier.always_eject_one));
        (ejected > allowed).then(|| format!("{ejected} ejected where {allowed} may be"))
    }

    /// A connection is lost, or was refused; returns when to try again if nobody does yet.
    pub(super) fn lost_connection(&mut self, now: Timestamp, endpoint: Index) -> Option<Duration> {
        let (first, _) = RECONNECT;
        let health = self.picker.set().members()[endpoint].endpoint.health();
        health.set_unreachable(now, now + first).then_some(first)
    }

    /// A try to connect, made after `waited`, has ended; returns when to make the next.
    pub(super) fn reconnected(
        &mut self,
        now: Timestamp,
        endpoint: Index,
        up: bool,
        waited: Duration,
    ) -> Option<Duration> {
        let (_, longest) = RECONNECT;
        let known = &self.picker.set().members()[endpoint].endpoint;
        let health = known.health();
        if up {
            known.load().came_back();
            health.set_reachable(now);
            return None;
        }
        let wait = longest.min(waited * 2);
        health.set_unreachable(now, now + wait);
        Some(wait)
    }

    /// What the retry policy says of a GET whose attempt number `attempts` failed, and the rule
    /// that a retry broke.
    pub(super) fn after_failure(
        &mut self,
        now: Timestamp,
        failure: Failure,
        attempts: u32,
        draw: &mut impl Draw,
    ) -> (Next, Option<String>) {
        let error;
        let end = match failure {
            Failure::Http(status) => End::Status(status),
            Failure::Grpc(code) => End::Grpc(code),
            other => {
                error = error_of(other);
                End::Error(&error)
            }
        };
        let attempted = Attempted::new(&Method::GET, end).with_attempts(attempts);
        let config = &self.policy.retry;
        match retry::decide(config, &attempted) {
            Verdict::Retry { .. } if self.budget.withdraw(now) => {
                let wait = config.backoff.delay(attempts, draw);
                (Next::RetryAfter(wait), self.retries.book(now, &self.policy.budget))
            }
            _ => (Next::GiveUp, None),
        }
    }
}

fn error_of(failure: Failure) -> Error {
    match failure {
        Failure::Connect => Error::from(ErrorKind::Connect),
        Failure::Reset => Error::from(ErrorKind::ConnectionClosed).after_send(),
        Failure::Timeout => Error::from(ErrorKind::Deadline).after_send(),
        _ => Error::from(ErrorKind::EndpointProtocol).after_send(),
    }
}

/// The budget's promise, kept by counting instead of by the budget's own sums.
#[derive(Default)]
struct Retries {
    calls: VecDeque<Timestamp>,
    retries: VecDeque<Timestamp>,
}

impl Retries {
    fn call(&mut self, now: Timestamp, config: &budget::Config) {
        self.calls.push_back(now);
        forget(&mut self.calls, now, config.interval);
    }

    /// A retry is made. The budget's window is between nine and ten tenths of its interval:
    /// retries of nine tenths must be covered by the calls of ten.
    fn book(&mut self, now: Timestamp, config: &budget::Config) -> Option<String> {
        self.retries.push_back(now);
        forget(&mut self.calls, now, config.interval);
        forget(&mut self.retries, now, config.interval * 9 / 10);
        let share = self.calls.len() as f64 * f64::from(config.percent) / 100.0;
        let reserve = f64::from(config.min_retries_per_second) * config.interval.as_secs_f64();
        let (made, allowed) = (self.retries.len(), share + reserve);
        (made as f64 > allowed).then(|| format!("{made} retries where {allowed} are allowed"))
    }
}

fn forget(times: &mut VecDeque<Timestamp>, now: Timestamp, span: Duration) {
    while times.front().is_some_and(|at| now.since(*at) > span) {
        times.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn fail(client: &mut Client, endpoint: Index) -> Option<String> {
        let failed = Outcome::of_http(http::StatusCode::INTERNAL_SERVER_ERROR);
        let now = Timestamp::ZERO + MS;
        client.picker.set().members()[endpoint].endpoint.load().begin();
        client.ended(now, endpoint, Ticket(None), failed, MS, &mut || 0)
    }

    #[test]
    fn a_pick_of_an_ejected_endpoint_is_called_wrong() {
        let mut client = Client::new(10, &Policy::default(), false);
        let now = Timestamp::ZERO + MS;
        assert_eq!(client.wrong_pick(now, Reason::Chosen, 3), None);
        for _ in 0..5 {
            assert_eq!(fail(&mut client, 3), None);
        }
        let wrong = client.wrong_pick(now, Reason::Chosen, 3).expect("it is ejected");
        assert!(wrong.contains("5 consecutive"), "{wrong}");
        assert!(client.wrong_pick(now, Reason::Panic, 3).is_some(), "9 of 10 are available");
    }

    #[test]
    fn one_ejection_too_many_is_noticed() {
        let mut client = Client::new(10, &Policy::default(), false);
        for endpoint in 0..5 {
            (0..5).for_each(|_| assert_eq!(fail(&mut client, endpoint), None));
        }
        assert_eq!(client.too_many_ejected(), None, "half may be out");
        client.policy.outlier.max_ejection_percent = 40;
        assert!(client.too_many_ejected().is_some());
    }

    #[test]
    fn one_retry_too_many_is_noticed() {
        let config = budget::Config::default();
        let mut retries = Retries::default();
        let now = Timestamp::ZERO + MS;
        (0..100).for_each(|_| retries.call(now, &config));
        for _ in 0..120 {
            assert_eq!(retries.book(now, &config), None, "20 of 100 calls, and 10 s × 10");
        }
        assert!(retries.book(now, &config).is_some());
    }
}
