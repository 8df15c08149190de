//! Load reports on the wire: what a server says of its load with each answer, in ORCA's words
//! ([`mesh_core::load::report`]).
//!
//! | call | asked for by the field of the request | answered in |
//! |---|---|---|
//! | gRPC | `endpoint-load-metrics-format`, whatever form | trailer `endpoint-load-metrics-bin` |
//! | HTTP | `endpoint-load-metrics-format: BIN` | field `endpoint-load-metrics-bin` |
//! | HTTP | `endpoint-load-metrics-format: TEXT` or `JSON` | field `endpoint-load-metrics` |
//!
//! Who asks for a form that is none of these is not answered. The stack asks with `BIN`, where a
//! policy compares endpoints by what they report, and there is more than one.
//!
//! A report tells how busy a server is, which is nobody's business outside of the mesh. So the
//! server's policy says who gets one ([`LoadReports`]): by default a caller that asks, and is either
//! believed (`trustCallers`) or has proved an identity. An edge has `trustCallers: false`.
//!
//! What the application itself attaches goes out with ours as one report
//! ([`Report::complete`](mesh_core::load::Report::complete)); where both say something, it knows better.
//!
//! A caller to whom what it knows is too old asks by a *probe*, which is `OPTIONS *` with the field above,
//! and is answered with a report and nothing else. It goes to servers that have reported before
//! (`report/probe.rs` and `asking.rs`).
//!
//! A caller may also ask for a report every now and then, on a *stream* that is no call
//! (`report/stream.rs`, `listening.rs`).
//!
//! At the caller, a report that is used is taken out of the answer; where the policy does not use
//! reports, or there is one endpoint only, nothing is asked for and nothing taken out.
//!
//! Cost: while nobody has asked, a look for the field; nothing is counted before the first that
//! asks.
//!
//! Source: gRFC A51 (trailer); Envoy `orca_parser` (fields, forms); vLLM and NVIDIA Triton (the
//! field that asks).

mod asking;
mod listening;
mod probe;
mod serving;
pub(crate) mod stream;

pub(crate) use asking::Asking;
pub(crate) use listening::Listening;
pub use mesh_core::config::LoadReports;
pub use serving::{Reports, Serving};

use crate::fields;
use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_core::load::Report;
use mesh_core::load::report::{HEADER, HEADER_BIN};

/// Field by which a caller asks for reports; its value names the form.
pub const ASK: HeaderName = HeaderName::from_static("endpoint-load-metrics-format");

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// Protobuf in base64.
    Binary,
    /// `TEXT ` and `name=value` pairs.
    Text,
    /// `JSON ` and the message's JSON form.
    Json,
}

impl Form {
    /// What the head of a request asks for; none if it does not ask, or for no form that there is.
    #[must_use]
    pub fn asked(headers: &HeaderMap) -> Option<Self> {
        let asked = fields::get(headers, &ASK)?.as_bytes();
        [(&b"BIN"[..], Self::Binary), (b"TEXT", Self::Text), (b"JSON", Self::Json)]
            .into_iter()
            .find_map(|(word, form)| asked.eq_ignore_ascii_case(word).then_some(form))
    }

    /// What its caller gets by the server's policy. `trusted`: it is believed, or has proved who it
    /// is.
    #[must_use]
    pub fn granted(policy: LoadReports, trusted: bool, headers: &HeaderMap) -> Option<Self> {
        match policy {
            LoadReports::Never => None,
            LoadReports::Asked if !trusted => None,
            LoadReports::Asked => Self::asked(headers),
            LoadReports::Always => Some(Self::asked(headers).unwrap_or(Self::Text)),
            // `LoadReports` may grow.
            _ => None,
        }
    }

    fn write(self, report: &Report, headers: &mut HeaderMap) {
        match self {
            Self::Binary => headers.insert(HEADER_BIN, report.to_header()),
            Self::Text => headers.insert(HEADER, report.to_text_header()),
            Self::Json => headers.insert(HEADER, report.to_json_header()),
        };
    }
}

/// Asks for a report, unless the request already does, in whatever form.
pub(crate) fn ask(headers: &mut HeaderMap) {
    if !fields::has(headers, &ASK) {
        headers.insert(ASK, HeaderValue::from_static("BIN"));
    }
}

/// Takes the report out of a head or trailers. One that cannot be read is as good as none.
pub(crate) fn take(headers: &mut HeaderMap) -> Option<Report> {
    if !is_in(headers) {
        return None;
    }
    let report = Report::of(headers, &[]);
    strip(headers);
    report?.ok()
}

/// Whether a head or trailers carry a report.
#[must_use]
pub fn is_in(headers: &HeaderMap) -> bool {
    fields::has(headers, &HEADER_BIN) || fields::has(headers, &HEADER)
}

/// Takes reports out, so that they do not leave the mesh.
pub fn strip(headers: &mut HeaderMap) {
    for name in [HEADER_BIN, HEADER] {
        if fields::has(headers, &name) {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(form: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ASK, HeaderValue::from_static(form))])
    }

    #[test]
    fn a_caller_gets_what_it_asks_for_if_the_policy_lets_it() {
        use Form::{Binary, Json, Text};
        use LoadReports::{Always, Asked, Never};
        for (policy, trusted, asked, granted) in [
            (Asked, true, Some("BIN"), Some(Binary)),
            (Asked, true, Some("text"), Some(Text)),
            (Asked, true, Some("JSON"), Some(Json)),
            (Asked, true, Some("XML"), None),
            (Asked, true, Some(""), None),
            (Asked, true, None, None),
            (Asked, false, Some("BIN"), None),
            (Always, false, None, Some(Text)),
            (Always, false, Some("BIN"), Some(Binary)),
            (Never, true, Some("BIN"), None),
        ] {
            let headers = asked.map(asking).unwrap_or_default();
            let got = Form::granted(policy, trusted, &headers);
            assert_eq!(got, granted, "{policy:?} {trusted} {asked:?}");
        }
    }

    #[test]
    fn what_is_stripped_is_gone_and_nothing_else() {
        let mut headers = asking("BIN");
        headers.append(HEADER, HeaderValue::from_static("TEXT eps=1"));
        headers.append(HEADER_BIN, HeaderValue::from_static("AA"));
        headers.append(HEADER_BIN, HeaderValue::from_static("AA"));
        assert!(is_in(&headers));
        strip(&mut headers);
        assert!(!is_in(&headers));
        assert_eq!(headers, asking("BIN"));
    }
}
