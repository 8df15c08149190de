//! The forms that people can read: `TEXT` pairs and `JSON`.

use super::{ERROR_SHARE, Field, IN_FLIGHT, InvalidReport, Map, Reading, Report, SERVICE_TIME};
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

pub(super) fn format(report: &Report) -> String {
    let mut text = String::from("TEXT ");
    let mut pair = |name: &str, value: Option<f64>| {
        if let Some(value) = value {
            let comma = if text.len() > "TEXT ".len() { "," } else { "" };
            // Writing into a `String` does not fail.
            let _ = write!(text, "{comma}{name}={value}");
        }
    };
    let said = |value: f64| Some(value).filter(|value| *value != 0.0);
    pair("cpu_utilization", said(report.cpu_utilization));
    pair("application_utilization", said(report.application_utilization));
    pair("rps_fractional", said(report.qps));
    pair("eps", said(report.eps));
    for (name, value) in [
        (IN_FLIGHT, report.in_flight.map(f64::from)),
        (SERVICE_TIME, report.service_time.map(|span| span.as_secs_f64())),
        (ERROR_SHARE, report.error_share),
    ] {
        pair(&["named_metrics.", name].concat(), value);
    }
    text
}
