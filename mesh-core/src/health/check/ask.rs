//! What a check asks, and which answers are good.

use super::super::Invalid;
use super::Cause;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Most headers that a check may add.
const MAX_HEADERS: usize = 100;
/// Longest payload that a check may send or expect, in bytes.
const MAX_PAYLOAD: usize = 64 << 10;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ask<'a> {
    /// By an HTTP request.
    Http(&'a Http),
    /// By a connection.
    Tcp(&'a Tcp),
    /// Of `grpc.health.v1.Health`.
    Grpc(&'a Grpc),
}

/// A check by HTTP. Redirects are not followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Http {
    /// Path, with a query if there is one. `/`.
    pub path: String,
    /// The authority that is asked for. None: the endpoint's host name, else the destination's
    /// name.
    pub host: Option<String>,
    /// GET, or any other but CONNECT.
    pub method: String,
    /// Further headers of the request.
    pub headers: Vec<Header>,
    /// Statuses of an endpoint that is well, as `200` or `200-299`. `[200]`.
    pub expected_statuses: Vec<StatusRange>,
    /// Statuses that count to `unhealthyThreshold`; any other takes the endpoint out at once.
    /// None.
    pub retriable_statuses: Vec<StatusRange>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            path: "/".to_owned(),
            host: None,
            method: "GET".to_owned(),
            headers: Vec::new(),
            expected_statuses: vec![StatusRange { from: 200, to: 200 }],
            retriable_statuses: Vec::new(),
        }
    }
}

impl Http {
    /// Asks for this path.
    #[must_use]
    pub fn path(path: impl Into<String>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// What a status says. A status in both lists is expected.
    ///
    /// # Errors
    /// Why it is not good.
    pub fn verdict(&self, status: StatusCode) -> Result<(), Cause> {
        let status = status.as_u16();
        let within = |ranges: &[StatusRange]| ranges.iter().any(|range| range.contains(status));
        if within(&self.expected_statuses) {
            Ok(())
        } else if within(&self.retriable_statuses) {
            Err(Cause::RetriableStatus(status))
        } else {
            Err(Cause::Status(status))
        }
    }

    pub(super) fn problems(&self, problems: &mut Vec<Invalid>) {
        if !self.path.starts_with('/') || PathAndQuery::from_str(&self.path).is_err() {
            let message = format!("`{}` is not a path like `/healthz`", self.path.escape_debug());
            problems.push(Invalid::new("http.path", message));
        }
        authority("http.host", self.host.as_deref(), problems);
        let method = Method::from_bytes(self.method.as_bytes());
        if method.is_err() || method.is_ok_and(|method| method == Method::CONNECT) {
            let message = format!("`{}` is no method of a check", self.method.escape_debug());
            problems.push(Invalid::new("http.method", message));
        }
        if self.expected_statuses.is_empty() {
            let message = "without an expected status no check succeeds";
            problems.push(Invalid::new("http.expectedStatuses", message));
        }
        if self.headers.len() > MAX_HEADERS {
            let message = format!("more than {MAX_HEADERS} headers");
            problems.push(Invalid::new("http.headers", message));
        }
        for (index, header) in self.headers.iter().enumerate() {
            header.problems(index, problems);
        }
    }
}

fn authority(path: &'static str, host: Option<&str>, problems: &mut Vec<Invalid>) {
    if let Some(host) = host
        && (host.contains('@') || Authority::from_str(host).is_err())
    {
        let message = format!("`{}` is not a host like `inventory:8080`", host.escape_debug());
        problems.push(Invalid::new(path, message));
    }
}

/// A header of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl Header {
    /// A header.
    #[must_use]
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }

    fn problems(&self, index: usize, problems: &mut Vec<Invalid>) {
        let name = HeaderName::from_bytes(self.name.as_bytes());
        let shown = self.name.escape_debug();
        // What frames a message is not for configuration to say.
        const FRAMING: [&str; 7] = [
            "connection",
            "content-length",
            "host",
            "keep-alive",
            "te",
            "transfer-encoding",
            "upgrade",
        ];
        match &name {
            Err(_) => {
                let message = format!("`{shown}` is not the name of a header");
                problems.push(Invalid::new(format!("http.headers.{index}.name"), message));
            }
            Ok(name) if FRAMING.contains(&name.as_str()) => {
                let message = format!("a check cannot set `{shown}`");
                problems.push(Invalid::new(format!("http.headers.{index}.name"), message));
            }
            Ok(_) => {}
        }
        if HeaderValue::from_str(&self.value).is_err() {
            let message = "a header's value is visible ASCII, spaces and tabs";
            problems.push(Invalid::new(format!("http.headers.{index}.value"), message));
        }
    }
}

/// A check by TCP, and TLS where the destination has it. Without `send` and `receive`, that a
/// connection opens is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Tcp {
    /// What is sent. Nothing.
    pub send: Option<Payload>,
    /// What must come back: each of these, in this order; other bytes may lie between. Nothing.
    pub receive: Vec<Payload>,
}

impl Tcp {
    pub(super) fn problems(&self, problems: &mut Vec<Invalid>) {
        let sent = self.send.iter().map(|payload| ("tcp.send".to_owned(), payload));
        let received = self.receive.iter().enumerate();
        let received = received.map(|(index, block)| (format!("tcp.receive.{index}"), block));
        for (path, payload) in sent.chain(received) {
            let message = match payload.bytes() {
                None => "`hex` is pairs of hexadecimal digits, like `00ff`".to_owned(),
                Some(bytes) if bytes.is_empty() => "an empty payload says nothing".to_owned(),
                Some(bytes) if bytes.len() > MAX_PAYLOAD => {
                    format!("a payload is at most {MAX_PAYLOAD} bytes long")
                }
                Some(_) => continue,
            };
            problems.push(Invalid::new(path, message));
        }
    }
}

/// Bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Payload {
    /// As text in UTF-8.
    Text(String),
    /// As pairs of hexadecimal digits.
    Hex(String),
}

impl Payload {
    /// The bytes; none where `hex` is not hexadecimal.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.clone().into_bytes()),
            Self::Hex(digits) => {
                let nibble = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
                let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
                if !rest.is_empty() {
                    return None;
                }
                pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect()
            }
        }
    }
}

/// Looks for blocks of bytes, one after the other, in bytes that come piece by piece.
///
/// It keeps no more than one byte less than the longest block, however much comes.
#[derive(Clone, Debug)]
pub struct Expect {
    /// What is still to come, the next last.
    blocks: Vec<Vec<u8>>,
    /// The end of what came, in which the next block may begin.
    tail: Vec<u8>,
}

impl Expect {
    /// Looks for these, in this order.
    #[must_use]
    pub fn new(blocks: &[Payload]) -> Self {
        let blocks = blocks.iter().rev().filter_map(Payload::bytes);
        Self { blocks: blocks.filter(|block| !block.is_empty()).collect(), tail: Vec::new() }
    }

    /// Whether all came.
    #[must_use]
    pub const fn is_met(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Takes in what came next; says whether all came.
    pub fn take(&mut self, bytes: &[u8]) -> bool {
        self.tail.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(block) = self.blocks.last() {
            let rest = self.tail.get(from..).unwrap_or_default();
            let Some(at) = memchr::memmem::find(rest, block) else {
                let keep = rest.len().min(block.len() - 1);
                self.tail.drain(..self.tail.len() - keep);
                return false;
            };
            from += at + block.len();
            self.blocks.pop();
        }
        self.tail.clear();
        true
    }
}

/// A check by gRPC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Grpc {
    /// The service that is asked about. None: the server as a whole.
    pub service_name: String,
    /// The authority that is asked for. None: the endpoint's host name, else the destination's
    /// name.
    pub authority: Option<String>,
    /// Whether the endpoint is to say by itself when its health changes (`Health.Watch`): intervals
    /// and thresholds have no effect then, and `timeout` bounds the time to its first message.
    /// false: it is asked by `Health.Check`.
    pub watch: bool,
}

impl Grpc {
    pub(super) fn problems(&self, problems: &mut Vec<Invalid>) {
        if self.service_name.len() > 1024 {
            let message = "the name of a service is at most 1,024 bytes long";
            problems.push(Invalid::new("grpc.serviceName", message));
        }
        authority("grpc.authority", self.authority.as_deref(), problems);
    }
}

/// A status, or a range with both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    from: u16,
    to: u16,
}

impl StatusRange {
    /// A range from 100 to 599 at most.
    ///
    /// # Errors
    /// When it is empty or reaches beyond.
    pub fn new(from: u16, to: u16) -> Result<Self, InvalidStatus> {
        let valid = 100 <= from && from <= to && to <= 599;
        valid.then_some(Self { from, to }).ok_or_else(|| InvalidStatus(format!("{from}-{to}")))
    }

    const fn contains(self, status: u16) -> bool {
        self.from <= status && status <= self.to
    }
}

impl FromStr for StatusRange {
    type Err = InvalidStatus;

    fn from_str(text: &str) -> Result<Self, InvalidStatus> {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        match (from.parse(), to.parse()) {
            (Ok(from), Ok(to)) => Self::new(from, to).ok(),
            _ => None,
        }
        .ok_or_else(|| InvalidStatus(text.chars().take(40).collect()))
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.from)?;
        if self.to > self.from { write!(f, "-{}", self.to) } else { Ok(()) }
    }
}

impl Serialize for StatusRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.from == self.to {
            serializer.serialize_u16(self.from)
        } else {
            serializer.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl Visitor<'_> for Written {
            type Value = StatusRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status like 200 or `200-299`")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<StatusRange, E> {
                let status = u16::try_from(number)
                    .map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))?;
                StatusRange::new(status, status)
                    .map_err(|_| E::custom(InvalidStatus(number.to_string())))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<StatusRange, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Written)
    }
}

impl JsonSchema for StatusRange {
    fn schema_name() -> Cow<'static, str> {
        "StatusRange".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 100, "maximum": 599 },
            { "type": "string", "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$" },
        ] })
    }
}

/// A text that is no range of statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidStatus(String);

impl fmt::Display for InvalidStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a status from 100 to 599, or a range of them like `200-299`",
            self.0.escape_debug()
        )
    }
}

impl std::error::Error for InvalidStatus {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn statuses_are_expected_retriable_or_final() {
        let range = |text: &str| text.parse::<StatusRange>().expect("valid");
        let http = Http {
            expected_statuses: vec![range("200-299"), range("304")],
            retriable_statuses: vec![range("299-399"), range("503")],
            ..Http::default()
        };
        let verdict = |status| http.verdict(StatusCode::from_u16(status).expect("valid"));
        for status in [200, 299, 304] {
            assert_eq!(verdict(status), Ok(()), "{status}");
        }
        for status in [300, 399, 503] {
            assert_eq!(verdict(status), Err(Cause::RetriableStatus(status)));
        }
        for status in [199, 400, 500, 504] {
            assert_eq!(verdict(status), Err(Cause::Status(status)));
        }
        let default = Http::default();
        assert_eq!(default.verdict(StatusCode::OK), Ok(()));
        assert_eq!(default.verdict(StatusCode::NO_CONTENT), Err(Cause::Status(204)));
    }

    #[test]
    fn a_range_is_read_as_it_is_written() {
        for text in ["100", "599", "200-299"] {
            let range: StatusRange = text.parse().expect("valid");
            assert_eq!(range.to_string(), text);
            let json = serde_json::to_value(range).expect("valid");
            assert_eq!(serde_json::from_value::<StatusRange>(json).expect("valid"), range);
        }
        for text in ["", "99", "600", "300-200", "200-600", "2xx", "200-", "-200", "200-299-300"] {
            assert!(text.parse::<StatusRange>().is_err(), "{text}");
        }
        for number in [0u64, 99, 600, 65536, u64::MAX] {
            assert!(serde_json::from_value::<StatusRange>(number.into()).is_err(), "{number}");
        }
    }

    #[test]
    fn payloads_are_text_or_hex() {
        let hex = |digits: &str| Payload::Hex(digits.to_owned()).bytes();
        assert_eq!(hex("00fFa0"), Some(vec![0, 255, 160]));
        assert_eq!(hex("0"), None);
        assert_eq!(hex("0g"), None);
        assert_eq!(hex("+1"), None);
        assert_eq!(Payload::Text("PING".to_owned()).bytes(), Some(b"PING".to_vec()));
    }

    fn blocks(texts: &[&str]) -> Vec<Payload> {
        texts.iter().map(|text| Payload::Text((*text).to_owned())).collect()
    }

    #[test]
    fn blocks_come_in_order_with_other_bytes_between() {
        for (wanted, came, met) in [
            (vec!["ab", "cd"], vec!["xxabyycdz"], true),
            (vec!["ab", "cd"], vec!["cdab"], false),
            (vec!["ab", "cd"], vec!["cdab", "cd"], true),
            (vec!["aab"], vec!["aa", "ab"], true),
            (vec!["ab", "bc"], vec!["abc"], false),
            (vec!["ab", "ab"], vec!["aba", "b"], true),
            (vec![], vec![""], true),
        ] {
            let mut expect = Expect::new(&blocks(&wanted));
            let mut last = expect.is_met();
            for piece in &came {
                last = expect.take(piece.as_bytes());
            }
            assert_eq!(last, met, "{wanted:?} in {came:?}");
        }
    }

    proptest! {
        #[test]
        fn how_it_is_cut_does_not_matter(
            wanted in prop::collection::vec("[ab]{1,3}", 0..4),
            came in "[ab]{0,40}",
            cuts in prop::collection::vec(1usize..6, 40),
        ) {
            let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
            let mut whole = came.as_str();
            let met = wanted.iter().all(|block| match whole.find(block) {
                Some(at) => { whole = &whole[at + block.len()..]; true }
                None => false,
            });
            let mut expect = Expect::new(&blocks(&wanted));
            let mut rest = came.as_bytes();
            for cut in cuts {
                let (piece, later) = rest.split_at(cut.min(rest.len()));
                expect.take(piece);
                prop_assert!(expect.tail.len() < 3);
                rest = later;
            }
            expect.take(rest);
            prop_assert_eq!(expect.is_met(), met);
        }
    }
}
