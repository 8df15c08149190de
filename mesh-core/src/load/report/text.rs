//! The forms that people can read: `TEXT` pairs and `JSON`.

use super::{
    ERROR_SHARE, Field, IN_FLIGHT, InvalidReport, LATENCY, Map, Reading, Report, SERVICE_TIME,
};
use serde_json::Value;
use std::fmt::Write;

const NOT_UTF8: InvalidReport = InvalidReport("the text is not UTF-8");

/// Pairs `name=value`, or as older senders write them `name:value`, with commas between.
pub(super) fn pairs(text: &[u8], reading: &mut Reading<'_>) -> Result<(), InvalidReport> {
    let text = std::str::from_utf8(text).map_err(|_| NOT_UTF8)?;
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair
            .split_once(['=', ':'])
            .ok_or(InvalidReport("a pair of the text has neither = nor :"))?;
        let value = value
            .trim()
            .parse()
            .map_err(|_| InvalidReport("a value of the text is not a number"))?;
        named(name.trim(), value, reading);
    }
    Ok(())
}

/// `cpu_utilization`, or `named_metrics.queue`.
fn named(name: &str, value: f64, reading: &mut Reading<'_>) {
    if let Some(field) = Field::of_name(name) {
        reading.field(field, value);
    } else if let Some((map, key)) = name.split_once('.')
        && let Some(map) = Map::of_name(map)
    {
        reading.entry(map, key, value);
    }
}

/// Protobuf's JSON: names in either case, numbers also as text.
pub(super) fn json(text: &[u8], reading: &mut Reading<'_>) -> Result<(), InvalidReport> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(text) else {
        return Err(InvalidReport("not a JSON object"));
    };
    for (name, value) in &fields {
        if let Some(field) = Field::of_name(name) {
            reading.field(field, number(value)?);
        } else if let (Some(map), Value::Object(entries)) = (Map::of_name(name), value) {
            for (key, value) in entries {
                reading.entry(map, key, number(value)?);
            }
        }
    }
    Ok(())
}

fn number(value: &Value) -> Result<f64, InvalidReport> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
    .ok_or(InvalidReport("a value of the JSON is not a number"))
}

/// The fields, and the named metrics, that the report has something to say of.
fn said(report: &Report) -> (impl Iterator<Item = (&'static str, f64)>, Named) {
    let fields = [
        ("cpu_utilization", report.cpu_utilization),
        ("application_utilization", report.application_utilization),
        ("rps_fractional", report.qps),
        ("eps", report.eps),
    ];
    let named = [
        (IN_FLIGHT, report.in_flight.map(f64::from)),
        (SERVICE_TIME, report.service_time.map(|span| span.as_secs_f64())),
        (ERROR_SHARE, report.error_share),
        (LATENCY, report.latency.map(|span| span.as_secs_f64())),
    ];
    (fields.into_iter().filter(|(_, value)| value.is_finite() && *value != 0.0), named)
}

type Named = [(&'static str, Option<f64>); 4];

pub(super) fn format(report: &Report) -> String {
    let mut text = String::from("TEXT ");
    let mut comma = "";
    let (fields, named) = said(report);
    // Writing into a `String` does not fail.
    for (name, value) in fields {
        let _ = write!(text, "{comma}{name}={value}");
        comma = ",";
    }
    for (name, value) in named {
        let Some(value) = value else { continue };
        let _ = write!(text, "{comma}named_metrics.{name}={value}");
        comma = ",";
    }
    text
}

/// Names need no escapes.
pub(super) fn format_json(report: &Report) -> String {
    let mut text = String::from("JSON {");
    let (fields, named) = said(report);
    for (name, value) in fields {
        let _ = write!(text, "\"{name}\":{value},");
    }
    text.push_str("\"named_metrics\":{");
    let mut comma = "";
    for (name, value) in named {
        let Some(value) = value else { continue };
        let _ = write!(text, "{comma}\"{name}\":{value}");
        comma = ",";
    }
    text.push_str("}}");
    text
}
