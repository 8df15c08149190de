//! What a request asks for by Envoy's fields, where the policy trusts them.
//!
//! | field | effect |
//! |---|---|
//! | `x-envoy-upstream-rq-timeout-ms` | the call's timeout |
//! | `x-envoy-upstream-rq-per-try-timeout-ms` | [`Config::per_try_timeout`] |
//! | `x-envoy-max-retries` | [`Config::attempts`], if there is any condition |
//! | `x-envoy-retry-on`, `x-envoy-retry-grpc-on` | conditions beside those of the policy; one attempt more where the policy has none |
//! | `x-envoy-retriable-status-codes` | the codes that `retriable-status-codes` in `x-envoy-retry-on` means |
//! | `x-envoy-retriable-header-names` | the response fields that `retriable-headers` means |
//! | `x-envoy-hedge-on-per-try-timeout` | `true` or `false`: `hedge.onPerTryTimeout` |
//!
//! Words and numbers that are not understood have no effect, as in Envoy; neither has a timeout
//! of 0, which Envoy takes for "none". Of each list 32 entries are read. The fields are for the
//! first proxy that trusts them, and are removed.
//!
//! Source: Envoy "Router", HTTP headers consumed from downstreams, and its code.

use super::{Condition, Config, RetriableHeader};
use crate::GrpcCode;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

const TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const PER_TRY_TIMEOUT: HeaderName =
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const MAX_RETRIES: HeaderName = HeaderName::from_static("x-envoy-max-retries");
const RETRY_ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
const RETRY_GRPC_ON: HeaderName = HeaderName::from_static("x-envoy-retry-grpc-on");
const STATUS_CODES: HeaderName = HeaderName::from_static("x-envoy-retriable-status-codes");
const HEADER_NAMES: HeaderName = HeaderName::from_static("x-envoy-retriable-header-names");
const HEDGE: HeaderName = HeaderName::from_static("x-envoy-hedge-on-per-try-timeout");

const ALL: [HeaderName; 8] = [
    TIMEOUT,
    PER_TRY_TIMEOUT,
    MAX_RETRIES,
    RETRY_ON,
    RETRY_GRPC_ON,
    STATUS_CODES,
    HEADER_NAMES,
    HEDGE,
];

/// Entries of one list that are read.
const MOST: usize = 32;

/// What the fields of a request ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestFields {
    /// Longest that the call may take.
    pub timeout: Option<Duration>,
    /// Longest that one attempt may take.
    pub per_try_timeout: Option<Duration>,
    /// Attempts after the first.
    pub retries: Option<u32>,
    /// Conditions besides.
    pub on: Vec<Condition>,
    /// Response fields besides.
    pub retriable_headers: Vec<RetriableHeader>,
    /// Whether an attempt that exceeds its timeout goes on beside the next.
    pub hedge_on_per_try_timeout: Option<bool>,
}

impl RequestFields {
    /// Takes the fields off a request; `None` if it has none of them.
    #[must_use]
    pub fn take(headers: &mut HeaderMap) -> Option<Self> {
        if !ALL.iter().any(|name| headers.contains_key(name)) {
            return None;
        }
        let asked = Self::read(headers);
        for name in ALL {
            headers.remove(name);
        }
        Some(asked)
    }

    fn read(headers: &HeaderMap) -> Self {
        let number =
            |name: HeaderName| headers.get(name).map(HeaderValue::as_bytes).and_then(number);
        let millis =
            |name: HeaderName| number(name).filter(|millis| *millis > 0).map(Duration::from_millis);
        let (mut on, mut by_status, mut by_header) = (Vec::new(), false, false);
        for word in list(headers, RETRY_ON) {
            match word {
                "retriable-status-codes" => by_status = true,
                "retriable-headers" => by_header = true,
                // Numbers and names of gRPC are words of ours, not of this field.
                word => on.extend(word.parse().ok().filter(|condition| {
                    !matches!(condition, Condition::Status { .. } | Condition::Grpc(_))
                })),
            }
        }
        if by_status {
            let codes = list(headers, STATUS_CODES).filter_map(|code| code.parse::<u16>().ok());
            let codes = codes.filter(|code| (100..=599).contains(code));
            on.extend(codes.map(|code| Condition::Status { from: code, to: code }));
        }
        let codes = list(headers, RETRY_GRPC_ON).filter_map(GrpcCode::from_name);
        on.extend(codes.filter(|code| *code != GrpcCode::OK).map(Condition::Grpc));
        let mut retriable_headers = Vec::new();
        if by_header {
            let names = list(headers, HEADER_NAMES);
            let names = names.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
            retriable_headers.extend(names.map(RetriableHeader::named));
        }
        Self {
            timeout: millis(TIMEOUT),
            per_try_timeout: millis(PER_TRY_TIMEOUT),
            retries: number(MAX_RETRIES).map(|retries| u32::try_from(retries).unwrap_or(u32::MAX)),
            on,
            retriable_headers,
            hedge_on_per_try_timeout: match headers.get(HEDGE).map(HeaderValue::as_bytes) {
                Some(b"true") => Some(true),
                Some(b"false") => Some(false),
                _ => None,
            },
        }
    }

    /// The settings of a policy with what is asked for.
    #[must_use]
    pub fn retry(&self, policy: &Config) -> Config {
        let mut config = policy.clone();
        let asks = !self.on.is_empty() || !self.retriable_headers.is_empty();
        if asks {
            config.attempts = config.attempts.max(1);
        }
        self.on.iter().for_each(|condition| config.on.push(*condition));
        config.retriable_headers.extend(self.retriable_headers.iter().cloned());
        if let Some(retries) = self.retries
            && !(config.on.as_slice().is_empty() && config.retriable_headers.is_empty())
        {
            config.attempts = retries;
        }
        if self.per_try_timeout.is_some() {
            config.per_try_timeout = self.per_try_timeout;
        }
        config
    }
}

/// The entries of a list, in one field or several.
fn list(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let words = texts.flat_map(|text| text.split(',')).map(str::trim);
    words.filter(|word| !word.is_empty()).take(MOST)
}

/// A whole number of at most 15 digits.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).expect("valid"));
        }
        headers
    }

    fn conditions(fields: &[(&'static str, &str)]) -> Vec<String> {
        let asked = RequestFields::take(&mut headers(fields)).expect("there");
        asked.on.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_field_is_read_and_removed() {
        let mut headers = headers(&[
            ("x-envoy-upstream-rq-timeout-ms", "2000"),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "250"),
            ("x-envoy-max-retries", "3"),
            ("x-envoy-hedge-on-per-try-timeout", "true"),
            ("x-envoy-retriable-header-names", "x-a, x-b"),
            ("x-envoy-retry-on", "retriable-headers"),
            ("accept", "*/*"),
        ]);
        let asked = RequestFields::take(&mut headers).expect("there");
        assert_eq!(asked.timeout, Some(Duration::from_secs(2)));
        assert_eq!(asked.per_try_timeout, Some(Duration::from_millis(250)));
        assert_eq!((asked.retries, asked.hedge_on_per_try_timeout), (Some(3), Some(true)));
        assert_eq!(asked.retriable_headers.len(), 2);
        assert_eq!(headers.len(), 1, "only what others need is left");
        assert_eq!(RequestFields::take(&mut headers), None);
    }

    #[test]
    fn words_add_conditions_and_unknown_ones_do_nothing() {
        assert_eq!(
            conditions(&[("x-envoy-retry-on", "5xx, reset,maybe, 503 ,unavailable,,")]),
            ["5xx", "reset"]
        );
        assert_eq!(
            conditions(&[
                ("x-envoy-retry-on", "connect-failure"),
                ("x-envoy-retry-on", "refused-stream"),
                ("x-envoy-retry-grpc-on", "cancelled,resource-exhausted,ok,strange"),
            ]),
            ["connect-failure", "refused-stream", "cancelled", "resource-exhausted"]
        );
        let codes = ("x-envoy-retriable-status-codes", "429, 409,9999,-1,abc");
        assert_eq!(
            conditions(&[("x-envoy-retry-on", "retriable-status-codes"), codes]),
            ["429", "409"]
        );
        assert!(conditions(&[codes]).is_empty(), "only with the word");
    }

    #[test]
    fn the_policy_is_added_to_and_its_number_replaced() {
        let ask = |fields: &[(&'static str, &str)], policy: &Config| {
            RequestFields::take(&mut headers(fields)).expect("there").retry(policy)
        };
        let policy = Config::default();
        let config = ask(&[("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "4")], &policy);
        assert_eq!(config.attempts, 4);
        assert!(config.on.contains(Condition::ServerError));
        assert!(config.on.contains(Condition::GatewayError), "those of the policy stay");

        let off = Config { attempts: 0, ..Config::default() };
        assert_eq!(ask(&[("x-envoy-retry-on", "5xx")], &off).attempts, 1);
        assert_eq!(ask(&[("x-envoy-max-retries", "0")], &policy).attempts, 0);
        let none: Config = serde_json::from_str(r#"{"on":[],"attempts":0}"#).expect("valid");
        assert_eq!(ask(&[("x-envoy-max-retries", "4")], &none).attempts, 0, "on nothing");
    }

    #[test]
    fn what_is_no_number_has_no_effect() {
        for value in ["0", "-1", "1.5", "", "1000000000000000", "soon"] {
            let fields = [("x-envoy-upstream-rq-timeout-ms", value)];
            let asked = RequestFields::take(&mut headers(&fields)).expect("there");
            assert_eq!(asked, RequestFields::default(), "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_list_grows(
            values in prop::collection::vec(prop::collection::vec(0x20u8..0x7f, 0..200), 8),
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in ALL.into_iter().zip(values) {
                headers.append(name, HeaderValue::from_bytes(&value).expect("visible"));
            }
            let asked = RequestFields::take(&mut headers).expect("there");
            prop_assert!(asked.on.len() <= 3 * MOST && asked.retriable_headers.len() <= MOST);
            prop_assert!(headers.is_empty());
        }
    }
}
