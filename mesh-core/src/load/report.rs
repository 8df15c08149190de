//! Report: what an endpoint says of itself, in the words of ORCA.
//!
//! The message is `xds.data.orca.v3.OrcaLoadReport`. It comes with a response, in head or trailers:
//!
//! | field | value |
//! |---|---|
//! | `endpoint-load-metrics-bin` | the message in base64, padded or not (gRFC A51) |
//! | `endpoint-load-metrics` | `BIN ` and the same; `JSON ` and its JSON form; `TEXT ` and `name=value` pairs with commas (Envoy) |
//!
//! An endpoint that runs our inbound stack adds *named metrics*, which feed the expected wait
//! ([`super`]):
//!
//! | named metric | unit | meaning |
//! |---|---|---|
//! | `mesh.in_flight` | calls | calls that it has accepted and not answered |
//! | `mesh.service_time` | seconds | median of its last 31 service times |
//! | `mesh.error_share` | 0 to 1 | failed calls among those of the last 2 s |
//! | `mesh.latency` | seconds | median of what calls took that met about as many in flight as there are now; only in answers to probes |
//!
//! What a report says is not trusted further than this: a number that is negative, infinite or NaN
//! counts as not said; one above its bound counts as the bound ([`MAX_IN_FLIGHT`],
//! [`MAX_SERVICE_TIME`], [`MAX_UTILIZATION`], [`MAX_RATE`]). Fields and metrics that are unknown are
//! skipped, of two values for one the later counts. A value longer than [`MAX_LEN`] is not read.
//!
//! Source: cncf/xds `orca_load_report.proto`; gRFC A51, A58, A114; Envoy `orca_parser`.

mod binary;
mod complete;
mod stream_request;
mod text;

pub use stream_request::StreamRequest;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;
use std::time::Duration;

/// Field that carries a report as base64 of its binary form.
pub const HEADER_BIN: HeaderName = HeaderName::from_static("endpoint-load-metrics-bin");
/// Field that carries a report in a form that its first word names.
pub const HEADER: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// Longest field value that is read.
pub const MAX_LEN: usize = 8 * 1024;
/// Most calls in flight that are believed.
pub const MAX_IN_FLIGHT: u32 = 1 << 20;
/// Longest service time that is believed.
pub const MAX_SERVICE_TIME: Duration = Duration::from_secs(300);
/// Highest utilization that is believed; 1 is all there is.
pub const MAX_UTILIZATION: f64 = 100.0;
/// Most calls or errors per second that are believed.
pub const MAX_RATE: f64 = 1e9;

const IN_FLIGHT: &str = "mesh.in_flight";
const SERVICE_TIME: &str = "mesh.service_time";
const ERROR_SHARE: &str = "mesh.error_share";
const LATENCY: &str = "mesh.latency";

/// Sends without padding, as gRPC does for binary metadata, and reads both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What an endpoint says of itself; see the [module docs](self). Zero means "not said" where ORCA
/// cannot tell the two apart.
///
/// ```
/// use mesh_core::load::report::{HEADER_BIN, Report};
/// use std::time::Duration;
///
/// let mut report = Report::default();
/// report.in_flight = Some(3);
/// report.service_time = Some(Duration::from_millis(40));
/// let mut headers = http::HeaderMap::new();
/// headers.insert(HEADER_BIN, report.to_header());
///
/// let read = Report::of(&headers, &[]).expect("there").expect("valid");
/// assert_eq!(read.in_flight, Some(3));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// Calls that the endpoint has accepted and not answered.
    pub in_flight: Option<u32>,
    /// Median of its recent service times.
    pub service_time: Option<Duration>,
    /// Failed calls among the recent ones, in `0..=1`.
    pub error_share: Option<f64>,
    /// Median of what recent calls took, with their wait for a place, that met about as many in
    /// flight as there are now.
    pub latency: Option<Duration>,
    /// Used share of the processors; above 1 when beyond what is meant to be used.
    pub cpu_utilization: f64,
    /// Utilization as the application defines it.
    pub application_utilization: f64,
    /// The greatest of the metrics that the reader asked for by name (gRFC A114).
    pub named_utilization: f64,
    /// Calls per second.
    pub qps: f64,
    /// Failed calls per second.
    pub eps: f64,
}

/// A report that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidReport(&'static str);

impl fmt::Display for InvalidReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "load report: {}", self.0)
    }
}

impl std::error::Error for InvalidReport {}

impl Report {
    /// Reads the report of a head or of trailers; `None` if there is none. Of `names`, such as
    /// `named_metrics.queue` or `utilization.disk`, the greatest becomes
    /// [`Report::named_utilization`].
    ///
    /// # Errors
    /// When there is one that cannot be read; as good as none.
    #[must_use]
    pub fn of(headers: &HeaderMap, names: &[String]) -> Option<Result<Self, InvalidReport>> {
        if let Some(value) = headers.get(HEADER_BIN) {
            return Some(Self::from_base64(value.as_bytes(), names));
        }
        headers.get(HEADER).map(|value| Self::from_header(value.as_bytes(), names))
    }

    /// Reads the value of `endpoint-load-metrics`.
    fn from_header(value: &[u8], names: &[String]) -> Result<Self, InvalidReport> {
        if value.len() > MAX_LEN {
            return Err(TOO_LONG);
        }
        let mut reading = Reading::new(names);
        if let Some(value) = value.strip_prefix(b"BIN ") {
            return Self::from_base64(value, names);
        } else if let Some(value) = value.strip_prefix(b"JSON ") {
            text::json(value, &mut reading)?;
        } else if let Some(value) = value.strip_prefix(b"TEXT ") {
            text::pairs(value, &mut reading)?;
        } else {
            return Err(InvalidReport("it begins with none of BIN, JSON and TEXT"));
        }
        Ok(reading.report)
    }

    fn from_base64(value: &[u8], names: &[String]) -> Result<Self, InvalidReport> {
        if value.len() > MAX_LEN {
            return Err(TOO_LONG);
        }
        let (value, invalid) = (value.trim_ascii(), InvalidReport("not base64"));
        // A report of ours needs no allocation.
        let mut bytes = [0; binary::LONGEST];
        if value.len() <= binary::LONGEST {
            let read = BASE64.decode_slice(value, &mut bytes).map_err(|_| invalid)?;
            return Self::from_binary(bytes.get(..read).unwrap_or_default(), names);
        }
        Self::from_binary(&BASE64.decode(value).map_err(|_| invalid)?, names)
    }

    /// Reads the binary form, as it is sent by the out-of-band service; `names` as in
    /// [`Report::of`].
    ///
    /// # Errors
    /// When it is longer than [`MAX_LEN`] or no protobuf message.
    pub fn from_binary(bytes: &[u8], names: &[String]) -> Result<Self, InvalidReport> {
        if bytes.len() > MAX_LEN {
            return Err(TOO_LONG);
        }
        let mut reading = Reading::new(names);
        binary::decode(bytes, &mut reading)?;
        Ok(reading.report)
    }

    /// The binary form; what is zero or unknown is left out.
    #[must_use]
    pub fn to_binary(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(binary::LONGEST);
        binary::encode(self, &mut out);
        out
    }

    /// The value of `endpoint-load-metrics-bin`.
    #[must_use]
    pub fn to_header(&self) -> HeaderValue {
        // Base64 is made of visible ASCII only.
        HeaderValue::try_from(BASE64.encode(self.to_binary()))
            .unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// The value of `endpoint-load-metrics`, for readers of logs and HTTP clients: `TEXT ` and
    /// pairs.
    #[must_use]
    pub fn to_text_header(&self) -> HeaderValue {
        HeaderValue::try_from(text::format(self)).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// The value of `endpoint-load-metrics` for readers of JSON: `JSON ` and an object.
    #[must_use]
    pub fn to_json_header(&self) -> HeaderValue {
        HeaderValue::try_from(text::format_json(self))
            .unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// Failed calls among the recent ones, in `0..=1`: what it says, else errors by calls per
    /// second, else none.
    #[must_use]
    pub fn errors(&self) -> f64 {
        match self.error_share {
            Some(share) => share,
            None if self.qps > 0.0 => (self.eps / self.qps).min(1.0),
            None => 0.0,
        }
    }

    /// The utilization that weights are made of: the application's, else the greatest of the
    /// metrics asked for by name, else that of the processors (gRFC A114).
    #[must_use]
    pub fn utilization(&self) -> f64 {
        [self.application_utilization, self.named_utilization, self.cpu_utilization]
            .into_iter()
            .find(|utilization| *utilization > 0.0)
            .unwrap_or_default()
    }
}

const TOO_LONG: InvalidReport = InvalidReport("longer than 8 KiB");

/// The value as far as it is believed; none if it makes no sense.
fn bounded(value: f64, bound: f64) -> Option<f64> {
    (value.is_finite() && value >= 0.0).then(|| value.min(bound))
}

/// A plain number of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Cpu,
    Memory,
    Application,
    Qps,
    Eps,
}

impl Field {
    fn of_number(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Cpu,
            2 => Self::Memory,
            6 => Self::Qps,
            7 => Self::Eps,
            9 => Self::Application,
            _ => return None,
        })
    }

    fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "cpu_utilization" | "cpuUtilization" => Self::Cpu,
            "mem_utilization" | "memUtilization" => Self::Memory,
            "application_utilization" | "applicationUtilization" => Self::Application,
            "rps_fractional" | "rpsFractional" => Self::Qps,
            "eps" => Self::Eps,
            _ => return None,
        })
    }
}

/// A map of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Map {
    Utilization,
    NamedMetrics,
}

impl Map {
    fn of_number(number: u64) -> Option<Self> {
        match number {
            5 => Some(Self::Utilization),
            8 => Some(Self::NamedMetrics),
            _ => None,
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        match name {
            "utilization" => Some(Self::Utilization),
            "named_metrics" | "namedMetrics" => Some(Self::NamedMetrics),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Utilization => "utilization",
            Self::NamedMetrics => "named_metrics",
        }
    }
}

/// A report in the making: what every form is read into.
struct Reading<'a> {
    report: Report,
    names: &'a [String],
}

impl<'a> Reading<'a> {
    fn new(names: &'a [String]) -> Self {
        Self { report: Report::default(), names }
    }

    fn field(&mut self, field: Field, value: f64) {
        let report = &mut self.report;
        let (slot, bound) = match field {
            Field::Cpu => (&mut report.cpu_utilization, MAX_UTILIZATION),
            Field::Application => (&mut report.application_utilization, MAX_UTILIZATION),
            Field::Qps => (&mut report.qps, MAX_RATE),
            Field::Eps => (&mut report.eps, MAX_RATE),
            Field::Memory => {
                if self.names.iter().any(|name| name == "mem_utilization") {
                    self.named(value);
                }
                return;
            }
        };
        *slot = bounded(value, bound).unwrap_or_default();
    }

    fn entry(&mut self, map: Map, key: &str, value: f64) {
        if map == Map::NamedMetrics {
            match key {
                IN_FLIGHT => {
                    let calls = bounded(value, f64::from(MAX_IN_FLIGHT));
                    self.report.in_flight = calls.map(|calls| calls.round() as u32);
                }
                SERVICE_TIME => {
                    let seconds = bounded(value, MAX_SERVICE_TIME.as_secs_f64());
                    self.report.service_time = seconds.map(Duration::from_secs_f64);
                }
                ERROR_SHARE => self.report.error_share = bounded(value, 1.0),
                LATENCY => {
                    let seconds = bounded(value, MAX_SERVICE_TIME.as_secs_f64());
                    self.report.latency = seconds.map(Duration::from_secs_f64);
                }
                _ => {}
            }
        }
        let asked = |name: &String| {
            let rest = name.strip_prefix(map.name()).and_then(|rest| rest.strip_prefix('.'));
            rest == Some(key)
        };
        if self.names.iter().any(asked) {
            self.named(value);
        }
    }

    fn named(&mut self, value: f64) {
        if let Some(value) = bounded(value, MAX_UTILIZATION) {
            self.report.named_utilization = self.report.named_utilization.max(value);
        }
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
