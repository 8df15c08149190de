//! What a server counts for its reports, and the report that an answer takes along.
//!
//! | moment | counted as |
//! |---|---|
//! | arrival | in flight |
//! | head of an HTTP answer | the end: service time, and failed with a status of 5xx |
//! | head of a gRPC answer | the service time; the end, if it has a status |
//! | trailers of a gRPC answer | the end: failed by `grpc-status`, as callers judge it |
//! | refused for overload | an error, lest a server that refuses looks fast |
//! | dropped before that | gone: nothing but the end |
//!
//! The report says what is in flight besides the call that takes it along.
//!
//! Units: the service time counts from arrival, or from the end of the wait for a place.

use super::{Form, LoadReports, probe};
use crate::clock;
use http::{HeaderMap, Request, Response, StatusCode};
use mesh_core::load::Reporter;
use mesh_core::{ErrorKind, GrpcCode, Outcome, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// What a server counts for its reports. Counting begins with the first caller that gets one.
///
/// ```
/// use mesh_tower::server::{Config, ServerLayer};
///
/// let server = ServerLayer::new(Config::default());
/// let reports = server.reports().clone();
/// // Wherever the application knows how busy it is, 1 being all that there is:
/// reports.reporter().set_application_utilization(0.7);
/// ```
#[derive(Debug, Default)]
pub struct Reports {
    reporter: Reporter,
    wanted: AtomicBool,
    /// Callers that are told at intervals.
    pub(super) streams: AtomicUsize,
}

impl Reports {
    /// The counts; the application enters its utilization here.
    #[must_use]
    pub const fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    /// A call that arrived at `started` and is answered with a report in `form`, if any. `None`
    /// while nobody has wanted a report: then there is nothing to count.
    #[must_use]
    pub fn begin(
        self: &Arc<Self>,
        form: Option<Form>,
        grpc: bool,
        started: Timestamp,
    ) -> Option<Serving> {
        if !self.is_wanted() {
            form?;
            self.wanted.store(true, Relaxed);
        }
        let found = self.reporter.begin();
        let reports = self.clone();
        Some(Serving {
            reports,
            form,
            grpc,
            arrived: started,
            found,
            started,
            took: None,
            over: false,
        })
    }

    /// The answer to a request, if that is a probe whose caller may have what it asks for.
    /// `trusted`: it is believed, or has proved who it is.
    #[must_use]
    pub fn answer<B>(
        &self,
        policy: LoadReports,
        trusted: impl FnOnce() -> bool,
        request: &Request<B>,
    ) -> Option<Response<()>> {
        probe::asked(request)?;
        let form = Form::granted(policy, trusted(), request.headers())?;
        self.want();
        let mut answer = Response::new(());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        form.write(&self.reporter.answer(clock::now()), answer.headers_mut());
        Some(answer)
    }

    /// Somebody gets reports: counting begins.
    pub(super) fn want(&self) {
        self.wanted.store(true, Relaxed);
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Relaxed)
    }
}

/// A call being served, as its server's reports count it.
#[derive(Debug)]
#[must_use = "the call counts as gone when this is dropped"]
pub struct Serving {
    reports: Arc<Reports>,
    form: Option<Form>,
    grpc: bool,
    arrived: Timestamp,
    /// Calls in flight at its arrival.
    found: u32,
    /// When it got a place.
    started: Timestamp,
    /// What its head took.
    took: Option<Duration>,
    over: bool,
}

impl Serving {
    /// Whether its caller gets a report.
    #[must_use]
    pub const fn is_reported(&self) -> bool {
        self.form.is_some()
    }

    /// The wait for a place is over: it is no part of the service time.
    pub fn waited(&mut self) {
        self.started = clock::now();
    }

    /// The head of the answer is ready: for HTTP, and for gRPC without messages, it takes the
    /// report along.
    pub fn head<B>(&mut self, response: &mut Response<B>) {
        let now = clock::now();
        let took = now.since(self.started);
        let status = response.status();
        let outcome = if self.grpc {
            match GrpcCode::of_head(status, response.headers()) {
                Some(code) => Outcome::of_grpc(code),
                None => {
                    self.took = Some(took);
                    return;
                }
            }
        } else {
            Outcome::of_http(status)
        };
        self.end(now, took, outcome);
        self.attach(now, response.headers_mut());
    }

    /// The mesh refused the call, or ended it, because of `kind`; the head of its answer.
    pub fn refuse<B>(&mut self, kind: ErrorKind, response: &mut Response<B>) {
        let now = clock::now();
        if !self.over {
            self.over = true;
            let reporter = &self.reports.reporter;
            match kind {
                ErrorKind::Shed | ErrorKind::Overflow => reporter.refused(now),
                ErrorKind::CallerProtocol | ErrorKind::CallerGone => reporter.cancelled(),
                _ => reporter.end(now, now.since(self.started), true),
            }
        }
        self.attach(now, response.headers_mut());
    }

    /// The trailers of a gRPC answer are ready.
    pub fn trailers(&mut self, trailers: &mut HeaderMap) {
        if !self.grpc {
            return;
        }
        let now = clock::now();
        let code = GrpcCode::from_headers(trailers).unwrap_or(GrpcCode::UNKNOWN);
        let took = self.took.unwrap_or_else(|| now.since(self.started));
        self.end(now, took, Outcome::of_grpc(code));
        self.attach(now, trailers);
    }

    fn end(&mut self, now: Timestamp, took: Duration, outcome: Outcome) {
        if !self.over {
            self.over = true;
            let reporter = &self.reports.reporter;
            reporter.end(now, took, outcome.is_failure());
            if !outcome.is_failure() {
                reporter.took(self.found, took + self.started.since(self.arrived));
            }
        }
    }

    /// Once: trailers after a head that took the report along do not.
    fn attach(&mut self, now: Timestamp, headers: &mut HeaderMap) {
        let Some(form) = self.form.take() else { return };
        let report = self.reports.reporter.report(now);
        if !report.complete(headers) {
            let form = if self.grpc { Form::Binary } else { form };
            form.write(&report, headers);
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !self.over {
            self.reports.reporter.cancelled();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use mesh_core::load::Report;
    use mesh_core::load::report::{HEADER, HEADER_BIN};
    use tokio::time::advance;

    const MS: Duration = Duration::from_millis(1);

    fn begin(reports: &Arc<Reports>, form: Option<Form>, grpc: bool) -> Option<Serving> {
        reports.begin(form, grpc, clock::now())
    }

    fn read(headers: &HeaderMap) -> Report {
        Report::of(headers, &[]).expect("a report").expect("that can be read")
    }

    fn status(status: u16) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = http::StatusCode::from_u16(status).expect("valid");
        response
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_counted_before_somebody_asks() {
        let reports = Arc::new(Reports::default());
        assert!(begin(&reports, None, false).is_none());
        let asked = begin(&reports, Some(Form::Binary), false);
        let silent = begin(&reports, None, false);
        assert!(asked.is_some() && silent.is_some());
        assert_eq!(reports.reporter().report(clock::now()).in_flight, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn an_http_answer_takes_along_what_is_in_flight_besides_it() {
        let reports = Arc::new(Reports::default());
        for (form, name) in [(Form::Binary, HEADER_BIN), (Form::Text, HEADER), (Form::Json, HEADER)]
        {
            let other = begin(&reports, Some(form), false);
            let mut served = begin(&reports, Some(form), false).expect("counted");
            advance(40 * MS).await;
            let mut response = status(200);
            served.head(&mut response);
            assert_eq!(response.headers().keys().collect::<Vec<_>>(), [&name]);
            let report = read(response.headers());
            assert_eq!((report.in_flight, report.error_share), (Some(1), Some(0.0)));
            assert_eq!(report.service_time, Some(40 * MS));
            drop((other, served));
            assert_eq!(reports.reporter().report(clock::now()).in_flight, Some(0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_grpc_answer_ends_with_its_trailers_and_lasts_to_its_head() {
        let reports = Arc::new(Reports::default());
        let mut served = begin(&reports, Some(Form::Text), true).expect("counted");
        advance(40 * MS).await;
        let mut head = status(200);
        served.head(&mut head);
        assert!(head.headers().is_empty());
        advance(60 * MS).await;
        let grpc_status = |code| [("grpc-status".parse().expect("valid"), HeaderValue::from(code))];
        let mut trailers = HeaderMap::from_iter(grpc_status(0));
        served.trailers(&mut trailers);
        assert_eq!(read(&trailers).service_time, Some(40 * MS));
        assert!(trailers.contains_key(HEADER_BIN), "whatever form it asked for");

        let mut served = begin(&reports, Some(Form::Binary), true).expect("counted");
        let mut head = status(200);
        head.headers_mut().extend(HeaderMap::from_iter(grpc_status(14)));
        served.head(&mut head);
        assert!(read(head.headers()).error_share > Some(0.4), "trailers only");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_and_refusals_are_errors_and_who_goes_away_is_none() {
        let errors = |mut answer: Box<dyn FnMut(Serving)>| {
            let reports = Arc::new(Reports::default());
            answer(begin(&reports, Some(Form::Binary), false).expect("counted"));
            let report = reports.reporter().report(clock::now());
            assert_eq!(report.in_flight, Some(0));
            report.eps > 0.0
        };
        assert!(errors(Box::new(|mut served| served.head(&mut status(503)))));
        assert!(!errors(Box::new(|mut served| served.head(&mut status(404)))));
        assert!(!errors(Box::new(drop)));
        for (kind, counts) in [
            (ErrorKind::Shed, true),
            (ErrorKind::Deadline, true),
            (ErrorKind::Panic, true),
            (ErrorKind::CallerProtocol, false),
        ] {
            let refused = move |mut served: Serving| served.refuse(kind, &mut status(503));
            assert_eq!(errors(Box::new(refused)), counts, "{kind:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_of_the_applications_own_goes_out_with_what_is_seen_of_it() {
        let reports = Arc::new(Reports::default());
        for own in ["TEXT application_utilization=0.7", "not a report"] {
            let mut response = status(200);
            response.headers_mut().insert(HEADER, HeaderValue::from_static(own));
            let mut served = begin(&reports, Some(Form::Binary), false).expect("counted");
            served.head(&mut response);
            assert_eq!(response.headers().len(), 1);
            let report = read(response.headers());
            assert_eq!(report.in_flight, Some(0));
            let said = if own.starts_with("TEXT") { 0.7 } else { 0.0 };
            assert_eq!(report.application_utilization, said);
        }
    }
}
