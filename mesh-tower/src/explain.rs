//! Explain: what is decided about a call, noted where it is decided, for who asks.
//!
//! [`CallOptions::explain`] asks. The answer then carries an [`Explanation`]: in the extensions of
//! the response as `Arc<Explanation>`, or in the error ([`Error::explanation`]). It tells the call as
//! far as the head of its response; nothing of it goes to anybody else, on no wire and in no log.
//!
//! ```text
//! route ─ rule, split, hash, faults ─► limit ─► retry ─ condition, refusal ─► balance ─ candidates, pick, end
//!   ▲                                                                                        │
//!   └───────── response or error, with all that was noted in one Recording ◄─────────────────┘
//! ```
//!
//! [`Mesh::explain`] tells what would become of a request now, and sends nothing.
//!
//! Cost: an `Option` that is `None` where nobody asks: no allocation, no clock read. Asked for, each
//! attempt looks at every endpoint of its destination. Source: ours; the words are those of
//! [`mesh_core::explain`].

use crate::affinity::Affinity;
use crate::call::Call;
use crate::call_options::CallOptions;
use crate::clock;
use crate::destination::{Destination, Endpoint, Unpicked};
use crate::mesh::Mesh;
use http::{Request, Response};
use mesh_core::explain::{
    Asked, AttemptExplained, Candidate, Ended, Explanation, Followed, HashExplained,
    SplitExplained, explain,
};
use mesh_core::fault::Injected;
use mesh_core::hash::Input;
use mesh_core::pick::{Looked, PickArgs, Reason};
use mesh_core::retry::Verdict;
use mesh_core::retry::pushback::Pushback;
use mesh_core::snapshot::Snapshot;
use mesh_core::{DestinationName, Draw, Error, GrpcCode, Timestamp};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What is noted of one call.
#[derive(Debug)]
pub(crate) struct Recording {
    started: Timestamp,
    told: Mutex<Explanation>,
}

impl Recording {
    /// A recording, if the caller of a request asks for one.
    #[inline]
    pub(crate) fn asked<B>(request: &Request<B>, started: Timestamp) -> Option<Arc<Self>> {
        let options = request.extensions().get::<CallOptions>()?;
        options.explain.then(|| Arc::new(Self { started, told: Mutex::default() }))
    }

    /// Notes the rule, by the configuration that decided.
    pub(crate) fn routed(
        &self,
        snapshot: &Snapshot,
        asked: &Asked<'_>,
        split: Option<SplitExplained>,
    ) {
        // Endpoints are told with each attempt.
        let mut told = explain(snapshot, asked, |_, _| Some(Vec::new()));
        told.split = split;
        *self.told.lock() = told;
    }

    /// Notes that another destination takes the call than the one that was drawn.
    pub(crate) fn stands_in(&self, drawn: &str, taking: &str) {
        let note = format!("no endpoint of {drawn} can take the call: {taking} stands in");
        self.told.lock().notes.push(note);
    }

    /// Notes the hash that a call is sent by, if it is.
    pub(crate) fn hashed<B>(&self, call: &Call, request: &Request<B>, source: Option<IpAddr>) {
        let Some(hash) = call.affinity.as_ref().and_then(|affinity| affinity.hash()) else {
            return;
        };
        let by_hash = call.policy.pick.policy.is_by_hash()
            || call.rule.as_ref().is_some_and(|rule| rule.hashes().is_some());
        if by_hash {
            let own = call.options.as_ref().is_some_and(|options| options.hash.is_some());
            let input = Input::new(request.headers())
                .with_query(request.uri().query())
                .with_source(source.or_else(Affinity::caller));
            self.told.lock().hash = Some(match own {
                true => HashExplained::of_caller(hash),
                false => HashExplained::new(hash, &call.policy.hash, &input),
            });
        }
    }

    /// Notes what is done to the call on purpose.
    pub(crate) fn fault(&self, injected: &Injected) {
        let faults = &mut self.told.lock().faults;
        faults.extend(injected.delay.map(|delay| format!("delayed by {delay:?} on purpose")));
        faults.extend(injected.abort.map(|status| format!("aborted with {status} on purpose")));
    }

    /// Notes that a filter answers the call.
    pub(crate) fn answered(&self, what: &str) {
        self.told.lock().answered.push(what.to_owned());
    }

    /// Hands over what was noted, with the answer of the call.
    pub(crate) fn finish<R>(
        &self,
        answer: Result<Response<R>, Error>,
    ) -> Result<Response<R>, Error> {
        let mut told = std::mem::take(&mut *self.told.lock());
        let (outcome, flag) = match &answer {
            Ok(response) => (status(response), None),
            Err(error) => (error.to_string(), Some(error.flag().to_owned())),
        };
        let took = clock::now().since(self.started).as_secs_f64();
        let mut ended = Ended::default();
        (ended.outcome, ended.took, ended.flag) = (outcome, took, flag);
        told.ended = Some(ended);
        if answer.as_ref().is_ok_and(went_well)
            && let Some(last) = told.attempts.last_mut()
        {
            // It went well: whether another could have followed was not asked.
            last.followed = last.followed.take().filter(|followed| followed.again);
        }
        let told = Arc::new(told);
        match answer {
            Ok(mut response) => {
                response.extensions_mut().insert(told);
                Ok(response)
            }
            Err(error) => Err(error.with_explanation(told)),
        }
    }
}

/// Whether a response is no failure, as far as its head tells: a call of gRPC fails with HTTP status
/// 200.
fn went_well<R>(response: &Response<R>) -> bool {
    let code = GrpcCode::from_headers(response.headers());
    response.status().is_success() && code.is_none_or(|code| code == GrpcCode::OK)
}

/// The status of a response, in words.
fn status<R>(response: &Response<R>) -> String {
    match GrpcCode::from_headers(response.headers()) {
        Some(code) => format!("{}, gRPC status {code}", response.status()),
        None => response.status().to_string(),
    }
}

/// Where one attempt is noted.
#[derive(Clone, Debug)]
pub(crate) struct Noting {
    recording: Arc<Recording>,
    /// The place of the attempt among all, in the order in which they began.
    attempt: usize,
}

impl Noting {
    /// That of the first attempt.
    pub(crate) const fn first(recording: Arc<Recording>) -> Self {
        Self { recording, attempt: 0 }
    }

    /// That of the next attempt.
    pub(crate) fn next(&self) -> Self {
        let attempt = {
            let attempts = &mut self.recording.told.lock().attempts;
            attempts.push(AttemptExplained::default());
            attempts.len() - 1
        };
        Self { recording: self.recording.clone(), attempt }
    }

    /// The recording of the call.
    pub(crate) fn recording(&self) -> &Recording {
        &self.recording
    }

    fn edit(&self, edit: impl FnOnce(&mut AttemptExplained)) {
        let mut told = self.recording.told.lock();
        while told.attempts.len() <= self.attempt {
            told.attempts.push(AttemptExplained::default());
        }
        if let Some(attempt) = told.attempts.get_mut(self.attempt) {
            attempt.number = u32::try_from(self.attempt).unwrap_or(u32::MAX).saturating_add(1);
            edit(attempt);
        }
    }

    /// Picks an endpoint, and notes which there were.
    #[cold]
    pub(crate) fn pick(
        &self,
        destination: &Destination,
        args: &PickArgs<'_>,
        draw: &mut impl Draw,
    ) -> Result<(Arc<Endpoint>, Reason), Unpicked> {
        let mut candidates = destination.candidates(args);
        let looked = Looked::default();
        let picked = destination.pick(&args.with_looked(&looked), draw);
        let looked: HashSet<String> = looked.endpoints().iter().map(ToString::to_string).collect();
        for candidate in &mut candidates {
            candidate.looked_at = looked.contains(&candidate.endpoint);
        }
        self.edit(|attempt| {
            attempt.after = args.now.since(self.recording.started).as_secs_f64();
            attempt.destination = destination.label().to_string();
            attempt.candidates = candidates;
            match &picked {
                Ok((_, reason)) => attempt.reason = Some(reason.as_str().to_owned()),
                Err(Unpicked::Final(error)) => attempt.outcome = Some(error.to_string()),
                Err(Unpicked::Unresolved) => {}
            }
        });
        picked
    }

    /// Notes where the attempt goes.
    pub(crate) fn chosen(&self, endpoint: &Endpoint) {
        self.edit(|attempt| attempt.endpoint = Some(endpoint.id().to_string()));
    }

    /// Notes the response of the attempt that began at `started`.
    pub(crate) fn answered<R>(&self, response: &Response<R>, started: Timestamp) {
        self.ended(status(response), clock::now().since(started));
    }

    /// Notes how the attempt ended.
    pub(crate) fn ended(&self, outcome: String, took: Duration) {
        self.edit(|attempt| {
            attempt.outcome = Some(outcome);
            attempt.took = Some(took.as_secs_f64());
        });
    }

    /// Notes that the attempt is made beside others.
    pub(crate) fn beside(&self) {
        self.edit(|attempt| attempt.beside = true);
    }

    fn follow(&self, edit: impl FnOnce(&mut Followed)) {
        self.edit(|attempt| edit(attempt.followed.get_or_insert_default()));
    }

    /// Notes what the policy says about another attempt.
    pub(crate) fn judged(&self, verdict: Verdict, pushback: Option<Pushback>) {
        self.follow(|followed| match (verdict, pushback) {
            (_, Some(Pushback::Stop)) => {
                (followed.again, followed.why) =
                    (false, "the server asks not to be called again".to_owned());
            }
            (Verdict::Transparent, _) => {
                let why = "the endpoint left the request out; counts nowhere";
                (followed.again, followed.why) = (true, why.to_owned());
            }
            (Verdict::Retry { condition }, _) => {
                followed.again = true;
                followed.condition = Some(condition.to_string());
                followed.why = format!("condition {condition}");
            }
            (Verdict::Stop { why }, _) => {
                (followed.again, followed.why) = (false, why.to_string());
            }
        });
    }

    /// Notes the wait before the next attempt.
    pub(crate) fn wait(&self, wait: Duration) {
        self.follow(|followed| followed.wait = Some(wait.as_secs_f64()));
    }

    /// Notes what refused another attempt.
    pub(crate) fn refused(&self, why: &str) {
        self.follow(|followed| {
            followed.again = false;
            match &mut followed.why {
                empty if empty.is_empty() => why.clone_into(empty),
                asked => *asked = format!("{asked}, but {why}"),
            }
        });
    }
}

impl Mesh {
    /// What would become of a request now: its rule, the split as the next call will draw it, and
    /// the endpoints with their loads and why they are in or out. Nothing is sent, and nothing
    /// changes. With `to`, by the routes attached to that destination alone; `source` is who calls,
    /// for policies that hash by that.
    ///
    /// ```no_run
    /// # fn example(mesh: mesh_tower::Mesh) {
    /// use http::{HeaderMap, Method};
    /// use mesh_core::explain::Asked;
    /// use mesh_core::route::RouteRequest;
    ///
    /// let (method, headers) = (Method::GET, HeaderMap::new());
    /// let request = RouteRequest::new("inventory", &method, "/items/7", None, &headers);
    /// println!("{}", mesh.explain(None, &Asked::new(request), None));
    /// # }
    /// ```
    #[must_use]
    pub fn explain(
        &self,
        to: Option<&DestinationName>,
        asked: &Asked<'_>,
        source: Option<IpAddr>,
    ) -> Explanation {
        let now = clock::now();
        self.ask(to, asked, source, |destination, backend, hash| {
            let mut args = PickArgs::new(now);
            if let Some(subset) = backend.and_then(|backend| backend.subset.as_deref()) {
                args = args.with_subset(subset);
            }
            let mut candidates = destination.candidates(&args);
            if let Some(hash) = hash
                && let Some(led) = destination.led_to(&args.with_hash(hash))
                && let Some(candidate) = candidates.iter_mut().find(|one| one.endpoint == led)
            {
                candidate.reason.push_str(", where the hash leads");
            }
            candidates
        })
    }
}

impl Destination {
    /// Every endpoint, with why such a call can go to it now or not.
    pub(crate) fn candidates(&self, args: &PickArgs<'_>) -> Vec<Candidate> {
        let picker = self.picker();
        let mut candidates = picker.explain(args);
        for (candidate, member) in candidates.iter_mut().zip(picker.set().members()) {
            if !candidate.included
                && member.endpoint.health().is_unreachable()
                && let Some(cause) = member.endpoint.connections.cause()
            {
                candidate.reason = format!("unreachable: {}", cause.message());
            }
        }
        candidates
    }

    /// The endpoint that a call goes to by its hash, where the policy goes by that.
    fn led_to(&self, args: &PickArgs<'_>) -> Option<String> {
        let picker = self.picker();
        let by_hash = picker.config().policy.is_by_hash();
        let picked = by_hash.then(|| picker.pick(args, &mut || 0).ok())??;
        Some(picked.member.endpoint.id().to_string())
    }
}
