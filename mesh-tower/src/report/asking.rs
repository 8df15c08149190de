//! Asking: the probes of one call, under way at once.
//!
//! ```text
//!            answered with a report ──► the endpoint's load
//! probe ──┤  anything else         ──► not asked again for 5 min
//!            the wait is over       ──► goes on beside the call, for at most 1 s
//! ```
//!
//! Before its first attempt a call asks the endpoints that the picker names
//! ([`Picker::probes`](mesh_core::pick::Picker::probes)). With `ExpectedWait` these are up to three, and
//! it waits for the answers, at most an eighth of the average latency; with `Prequal` it does not wait.
//! Whatever comes of it, the call goes on: no probe fails it, and none makes it wait longer.
//!
//! A probe takes a connection that is open and free, never a new one, and goes only to endpoints that
//! have said that they run our inbound stack, by reporting what they have in flight. An endpoint is
//! asked by one call at a time: the answer is for all.
//!
//! Probes are no calls: limits, breakers, outlier detection, spans and the metrics of calls know
//! nothing of them. Dropping a call that waits for them drops them.
//!
//! Metrics: `mesh.probes`.

use super::probe;
use crate::body::Body;
use crate::call::Call;
use crate::clock;
use crate::connect::Exchange;
use crate::destination::{Destination, Endpoint};
use crate::draws::Decision;
use crate::report;
use crate::telemetry::{DestinationMetrics, Probed};
use crate::workers::Worker;
use http::{Request, StatusCode};
use mesh_core::Timestamp;
use mesh_core::pick::MAX_PROBES;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// How long an endpoint that does not know what a probe is, is not asked.
const UNASKED: Duration = Duration::from_secs(300);
/// How long a probe that nobody waits for any more may go on.
const LATE: Duration = Duration::from_secs(1);

/// Waits for the answers to the probes of one call.
pub(crate) struct Asking {
    asked: [Option<Asked>; MAX_PROBES],
    patience: Duration,
}

impl Asking {
    /// Asks what the picker wants to know before `call` is sent; none if there is nothing, or nobody
    /// to wait for.
    pub(crate) fn begin(
        destination: &Arc<Destination>,
        call: &Call,
        request: &Request<Body>,
        worker: Worker,
        now: Timestamp,
    ) -> Option<Self> {
        let picker = destination.picker();
        let mut draw = call.draws.of(Decision::Probes);
        let probes = picker.probes(&call.pick_args(now), &mut draw);
        let (wait, patience) = (probes.wait, probes.patience);
        let mut asked = [const { None }; MAX_PROBES];
        let mut free = asked.iter_mut();
        for member in probes {
            let endpoint = &member.endpoint;
            if endpoint.load().reports(now)
                && let Some(one) = Asked::begin(destination, endpoint, call, request, worker, now)
                && let Some(slot) = free.next()
            {
                *slot = Some(one);
            }
        }
        if asked.iter().all(Option::is_none) {
            return None;
        }
        let asking = Self { asked, patience };
        if wait {
            return Some(asking);
        }
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(asking.over());
        }
        None
    }

    /// Waits for the answers, as long as that is worth it.
    pub(crate) async fn over(self) {
        let Self { mut asked, patience } = self;
        if timeout(patience, poll_fn(|cx| poll_all(&mut asked, cx))).await.is_err() {
            asked.iter_mut().flatten().for_each(Asked::give_up);
            go_on(asked);
        }
    }
}

/// Ready when all are answered.
fn poll_all(asked: &mut [Option<Asked>], cx: &mut Context<'_>) -> Poll<()> {
    let mut pending = false;
    for slot in asked {
        let Some(one) = slot else { continue };
        if one.poll(cx).is_pending() {
            pending = true;
        } else {
            *slot = None;
        }
    }
    if pending { Poll::Pending } else { Poll::Ready(()) }
}

/// Lets probes end beside the call: over HTTP/1 dropping one would close its connection, and what a
/// slow endpoint says is worth knowing too.
fn go_on(mut asked: [Option<Asked>; MAX_PROBES]) {
    // Without a runtime nobody can wait: they are dropped.
    let Ok(runtime) = Handle::try_current() else { return };
    runtime.spawn(timeout(LATE, poll_fn(move |cx| poll_all(&mut asked, cx))));
}

/// One endpoint that is being asked.
struct Asked {
    exchange: Exchange,
    endpoint: Arc<Endpoint>,
    metrics: Arc<DestinationMetrics>,
    sent: Timestamp,
    /// Nobody waits for it any more.
    late: bool,
}

impl Asked {
    fn begin(
        destination: &Destination,
        endpoint: &Arc<Endpoint>,
        call: &Call,
        request: &Request<Body>,
        worker: Worker,
        now: Timestamp,
    ) -> Option<Self> {
        if !endpoint.connections.begin_probe(now) {
            return None;
        }
        let connections = endpoint.connections.of(worker);
        let probe = || probe::like(request);
        let Some(exchange) = connections.send_if_free(probe, call.policy.protocol, call.grpc)
        else {
            endpoint.connections.end_probe();
            return None;
        };
        let metrics = destination.shared().metrics.clone();
        Some(Self { exchange, endpoint: endpoint.clone(), metrics, sent: now, late: false })
    }

    /// Ready when it is answered, and what was said is known.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let answer = ready!(self.exchange.as_mut().poll(cx));
        let load = self.endpoint.load();
        let how = match answer {
            Ok(mut response) => {
                let now = clock::now();
                let known = response.status() == StatusCode::NO_CONTENT;
                let report = known.then(|| report::take(response.headers_mut())).flatten();
                match report.filter(|report| report.in_flight.is_some()) {
                    Some(report) => {
                        load.probed(now, &report, now.since(self.sent));
                        Probed::Answered
                    }
                    None => {
                        self.endpoint.connections.refuses_probes(now + UNASKED);
                        Probed::Refused
                    }
                }
            }
            // An idle connection that was closed says nothing about who closed it.
            Err(lost) => {
                if lost.request.is_none() {
                    load.unanswered();
                }
                Probed::Unanswered
            }
        };
        if !self.late {
            self.metrics.probed(how);
        }
        Poll::Ready(())
    }

    /// The call does not wait for it any longer.
    fn give_up(&mut self) {
        self.late = true;
        self.endpoint.load().unanswered();
        self.metrics.probed(Probed::Unanswered);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.endpoint.connections.end_probe();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::SendError;
    use crate::destination;
    use mesh_core::{ErrorKind, Policy};
    use std::future::pending;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use tokio::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_hangs_keeps_no_late_answer_of_another_from_being_heard() {
        let (known, endpoint) = destination::tests::destination(Policy::default()).await;
        let heard = Arc::new(AtomicBool::new(false));
        let hears = heard.clone();
        let hangs: Exchange = Box::pin(pending());
        let is_late: Exchange = Box::pin(async move {
            sleep(LATE / 2).await;
            hears.store(true, SeqCst);
            Err(SendError { error: ErrorKind::ConnectionClosed.into(), request: None })
        });
        let asked = |exchange| {
            let (endpoint, metrics) = (endpoint.clone(), known.shared().metrics.clone());
            Some(Asked { exchange, endpoint, metrics, sent: clock::now(), late: false })
        };
        let mut asking =
            Asking { asked: [const { None }; MAX_PROBES], patience: Duration::from_millis(5) };
        for (slot, exchange) in asking.asked.iter_mut().zip([hangs, is_late]) {
            *slot = asked(exchange);
        }

        asking.over().await;
        assert!(!heard.load(SeqCst), "the call goes on");
        sleep(LATE).await;
        assert!(heard.load(SeqCst));
    }
}
