//! Filters: what a rule does to requests and responses on their way.
//!
//! What rule and `backendRef` state together is one [`Filters`], made when the configuration is
//! compiled. Filters act in this order, whatever the order in which they are written:
//!
//! 1. the answer to a CORS preflight;
//! 2. an answer of the rule's own, [`Answer`]: the request goes nowhere;
//! 3. request headers, those of the rule before those of the `backendRef`; then the rewrite;
//! 4. mirrors, of the request as it is sent;
//! 5. response headers, those of the `backendRef` before those of the rule; then CORS.
//!
//! Source: Gateway API `HTTPRouteFilter`, `GRPCRouteFilter`.

mod cors;
mod headers;
mod rewrite;

pub use cors::{Allowed, Cors, Origin};
pub use headers::HeaderEdits;
pub use rewrite::{PathEdit, Redirect, Rewrite};

use crate::draw::Draw;
use crate::name::DestinationName;
use crate::pick::Labels;
use crate::policy::Policy;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use std::fmt;
use std::sync::Arc;

/// Longest body of a direct response, in bytes (Envoy's default).
pub const MAX_BODY: usize = 4096;

/// See the [module docs](self).
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Filters {
    /// The answer, if the rule sends requests nowhere.
    pub answer: Option<Answer>,
    /// Which web pages may call.
    pub cors: Option<Cors>,
    /// What is done to the fields of requests, in this order.
    pub request_headers: Vec<HeaderEdits>,
    /// Another host or path.
    pub rewrite: Option<Rewrite>,
    /// Who gets copies.
    pub mirrors: Vec<Mirror>,
    /// What is done to the fields of responses, in this order.
    pub response_headers: Vec<HeaderEdits>,
}

impl Filters {
    /// Whether nothing is done.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.answer.is_none()
            && self.cors.is_none()
            && self.request_headers.is_empty()
            && self.rewrite.is_none()
            && self.mirrors.is_empty()
            && self.response_headers.is_empty()
    }

    /// Whether responses are looked at.
    #[must_use]
    pub const fn touches_responses(&self) -> bool {
        self.cors.is_some() || !self.response_headers.is_empty()
    }

    /// These filters of a rule, and those of one of its `backendRefs`.
    pub(crate) fn with(mut self, backend: Self) -> Self {
        self.request_headers.extend(backend.request_headers);
        self.mirrors.extend(backend.mirrors);
        self.response_headers.splice(0..0, backend.response_headers);
        self.rewrite = backend.rewrite.or(self.rewrite);
        self.cors = backend.cors.or(self.cors);
        self
    }

    /// One sentence for each, in the order in which they act.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let mut told = Vec::new();
        told.extend(self.answer.iter().map(ToString::to_string));
        told.extend(self.cors.iter().map(|cors| format!("CORS: {cors}")));
        told.extend(self.request_headers.iter().map(|edits| format!("request headers: {edits}")));
        told.extend(self.rewrite.iter().map(|rewrite| format!("rewrite: {rewrite}")));
        told.extend(self.mirrors.iter().map(|mirror| format!("mirror: {mirror}")));
        told.extend(self.response_headers.iter().map(|edits| format!("response headers: {edits}")));
        told
    }
}

/// The answer of a rule that sends requests nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// Sends the caller elsewhere.
    Redirect(Redirect),
    /// Is always the same.
    Direct(Direct),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redirect(redirect) => write!(f, "redirect: {redirect}"),
            Self::Direct(direct) => write!(f, "direct response: {direct}"),
        }
    }
}

/// A response that the rule itself states.
///
/// Source: Envoy `DirectResponseAction`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Direct {
    /// 200 to 599.
    pub status: StatusCode,
    /// Of the body. `text/plain; charset=utf-8`.
    pub content_type: HeaderValue,
    /// At most [`MAX_BODY`].
    pub body: Bytes,
}

impl Direct {
    /// An answer in plain text.
    #[must_use]
    pub const fn new(status: StatusCode, body: Bytes) -> Self {
        let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
        Self { status, content_type, body }
    }
}

impl fmt::Display for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} bytes", self.status.as_u16(), self.body.len())
    }
}

/// Who gets a copy of requests.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Mirror {
    /// Its name.
    pub destination: DestinationName,
    /// Labels of the endpoints that take copies, the preferred first; `None`: any endpoint.
    pub subset: Option<Arc<[Labels]>>,
    /// Which requests.
    pub fraction: Fraction,
    /// The policy of copies: the destination's, without retries, hedges and faults; its timeout bounds the
    /// whole answer.
    pub policy: Arc<Policy>,
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of requests to {}", self.fraction, self.destination)
    }
}

/// A share of requests: `numerator / denominator`, at most all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    numerator: u32,
    denominator: u32,
}

impl Fraction {
    /// Every request.
    pub const ALL: Self = Self { numerator: 1, denominator: 1 };

    /// A share; `None` if the denominator is 0 or the numerator larger than it.
    #[must_use]
    pub const fn new(numerator: u32, denominator: u32) -> Option<Self> {
        if denominator == 0 || numerator > denominator {
            return None;
        }
        Some(Self { numerator, denominator })
    }

    /// Whether a request is one of them. What is never or always so draws nothing.
    pub fn takes(self, draw: &mut impl Draw) -> bool {
        self.numerator == self.denominator
            || (self.numerator > 0
                && draw.below(self.denominator as usize) < self.numerator as usize)
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.numerator) * 100.0 / f64::from(self.denominator))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    #[test]
    fn a_fraction_takes_its_share() {
        assert_eq!(Fraction::new(1, 0), None);
        assert_eq!(Fraction::new(2, 1), None);
        for (numerator, denominator, expected) in
            [(0, 7, 0), (7, 7, 1000), (1, 4, 250), (3, 1000, 3)]
        {
            let fraction = Fraction::new(numerator, denominator).expect("a share");
            // Draws that cover the range evenly need no tolerance.
            let taken = (0..1000u64)
                .filter(|step| fraction.takes(&mut || (u64::MAX / 1000) * step + u64::MAX / 2000));
            assert_eq!(taken.count(), expected, "{fraction}");
        }
        assert_eq!(Fraction::new(1, 8).expect("a share").to_string(), "12.5 %");
        let never: fn() -> u64 = || panic!("it is known without a draw");
        assert!(Fraction::ALL.takes(&mut { never }));
    }

    #[test]
    fn a_request_passes_the_rule_before_the_backend_and_its_answer_the_other_way() {
        let edits = |name: &'static str| HeaderEdits {
            remove: vec![HeaderName::from_static(name)],
            ..HeaderEdits::default()
        };
        let filters = |name| Filters {
            request_headers: vec![edits(name)],
            response_headers: vec![edits(name)],
            ..Filters::default()
        };
        let both = filters("rule").with(filters("backend"));
        assert_eq!(both.request_headers, [edits("rule"), edits("backend")]);
        assert_eq!(both.response_headers, [edits("backend"), edits("rule")]);
    }
}
