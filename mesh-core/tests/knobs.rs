//! Bad values in every knob: each is refused where it stands, or means what its documentation says.
//!
//! The knobs are those of the schema: one that is added without a sample here fails the test.

use mesh_core::config::{self, Diagnostic, Source};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const MARK: &str = "@@";

/// Valid policies that together state every knob.
fn samples() -> Vec<(&'static str, Value)> {
    let bucket = json!({ "maxTokens": 10, "tokensPerFill": 10, "fillInterval": "1s" });
    let rate_limit = json!({
        "tokenBucket": bucket,
        "descriptors": [{
            "entries": [{ "by": "Header", "name": "x-tenant", "value": "a" }],
            "tokenBucket": bucket,
        }],
        "global": {
            "service": "limiter.default",
            "domain": "shop",
            "timeout": "20ms",
            "failureModeDeny": true,
            "rateLimits": [
                {
                    "hitsAddend": 1,
                    "actions": [
                        { "sourceCluster": {} },
                        { "destinationCluster": {} },
                        { "requestHeaders": {
                            "headerName": "x-user", "descriptorKey": "user", "skipIfAbsent": true } },
                        { "queryParameters": {
                            "queryParameterName": "q", "descriptorKey": "q", "skipIfAbsent": true } },
                        { "genericKey": { "descriptorValue": "v", "descriptorKey": "k" } },
                    ],
                },
                {
                    "actions": [
                        { "headerValueMatch": {
                            "descriptorValue": "v", "descriptorKey": "h", "expectMatch": true,
                            "headers": [{
                                "name": "x-tier", "type": "Exact", "value": "gold",
                                "invertMatch": false }] } },
                        { "queryParameterValueMatch": {
                            "descriptorValue": "v", "descriptorKey": "p", "expectMatch": true,
                            "queryParameters": [{
                                "name": "tier", "type": "RegularExpression", "value": "g.*",
                                "invertMatch": false }] } },
                    ],
                },
            ],
        },
        "maxKeys": 1000,
        "enabled": 100,
        "enforced": 100,
        "enableXRatelimitHeaders": "Off",
        "rateLimitedAsResourceExhausted": true,
    });
    let mut served = rate_limit.clone();
    served["global"]["rateLimits"][0]["actions"] = json!([
        { "sourceIdentity": {} },
        { "remoteAddress": {} },
        { "maskedRemoteAddress": { "v4PrefixMaskLen": 24, "v6PrefixMaskLen": 64 } },
    ]);
    let limits = json!({
        "maxConnections": 10, "maxPendingRequests": 10, "maxRequests": 10, "maxRetries": 10 });
    let cookie =
        json!({ "name": "c", "ttl": "1h", "path": "/", "secure": true, "sameSite": "Lax" });
    let check = |asked: Value| {
        let mut check = json!({
            "port": 8080, "interval": "1s", "timeout": "1s", "unhealthyThreshold": 3,
            "healthyThreshold": 2, "intervalJitter": "1s", "intervalJitterPercent": 10,
            "initialJitter": "1s", "unhealthyInterval": "1s", "unhealthyEdgeInterval": "1s",
            "healthyEdgeInterval": "1s", "noTrafficInterval": "1m",
            "noTrafficHealthyInterval": "1m", "reuseConnection": true });
        check
            .as_object_mut()
            .expect("a map")
            .append(asked.as_object().cloned().as_mut().expect("a map"));
        check
    };
    let traffic = |rest: Value| {
        let mut spec = json!({ "targetRef": { "kind": "Mesh" } });
        spec.as_object_mut()
            .expect("a map")
            .append(rest.as_object().cloned().as_mut().expect("a map"));
        ("TrafficPolicy", spec)
    };
    vec![
        traffic(json!({
            "pick": {
                "policy": "LeastRequest", "choiceCount": 3, "activeRequestBias": 1.5,
                "panicThreshold": 40, "probes": false, "outOfBand": true,
                "oobReportingPeriod": "10s", "emptySetGrace": "1m",
                "ewma": { "decay": "1s", "initial": "10ms", "failurePenalty": "1s" },
                "weightedRoundRobin": {
                    "errorUtilizationPenalty": 1.5, "blackoutPeriod": "1s",
                    "weightExpirationPeriod": "1m", "weightUpdatePeriod": "1s" },
                "prequal": {
                    "poolSize": 16, "maxAge": "1s", "probesPerCall": 3.5, "removalsPerCall": 1.5,
                    "rifQuantile": 0.5, "reuseDelta": 1.5 },
                "pickFirst": { "shuffle": true },
                "locality": { "weights": { "eu": 1, "us": 2 }, "failoverPriority": ["zone"] },
                "subsets": {
                    "selectors": [
                        { "keys": ["version"] },
                        { "keys": ["version", "stage"], "fallback": "KeysSubset",
                          "fallbackKeys": ["version"] },
                    ],
                    "fallback": "DefaultSubset", "defaultSubset": { "stage": "prod" } },
                "subsetting": { "size": 10, "mode": "Random" },
                "slowStart": { "window": "30s", "minWeightPercent": 10, "aggression": 1.5 },
                "ringHash": {
                    "minimumRingSize": 1024, "maximumRingSize": 2048, "useHostname": true,
                    "hashBalanceFactor": 150 },
                "maglev": { "tableSize": 65537, "useHostname": true, "hashBalanceFactor": 150 },
            },
            "hash": [
                { "header": "x-user", "terminal": true },
                { "cookie": cookie },
                { "queryParameter": "user" },
                { "sourceAddress": true },
            ],
            "affinity": { "cookie": cookie, "strict": true, "overrideStatuses": ["Healthy"] },
            "outlier": {
                "consecutive5xx": 5, "enforcingConsecutive5xx": 100,
                "consecutiveGatewayFailure": 5, "enforcingConsecutiveGatewayFailure": 100,
                "consecutiveLocalOriginFailure": 5, "enforcingConsecutiveLocalOriginFailure": 100,
                "splitExternalLocalOriginErrors": true, "interval": "10s",
                "baseEjectionTime": "30s", "maxEjectionTime": "300s", "maxEjectionTimeJitter": "1s",
                "maxEjectionPercent": 50, "alwaysEjectOne": true,
                "successfulActiveHealthCheckUnejectHost": true, "probation": true,
                "enforcingSuccessRate": 100, "successRateMinimumHosts": 5,
                "successRateRequestVolume": 100, "successRateStdevFactor": 1900,
                "failurePercentageThreshold": 85, "enforcingFailurePercentage": 100,
                "failurePercentageMinimumHosts": 5, "failurePercentageRequestVolume": 50,
                "enforcingLocalOriginSuccessRate": 100,
                "enforcingFailurePercentageLocalOrigin": 100, "enforcingLatency": 100,
                "latencyQuantile": 50, "latencyThreshold": 300, "latencyMinimumExcess": "10ms",
                "latencyMinimumHosts": 3, "latencyRequestVolume": 10 },
            "healthCheck": check(json!({ "http": {
                "path": "/ok", "host": "a", "method": "GET",
                "headers": [{ "name": "x-check", "value": "1" }],
                "expectedStatuses": [200, "201-204"], "retriableStatuses": [503] } })),
            "breaker": { "consecutiveFailures": 5, "open": "1s", "maxOpen": "60s", "jitter": 50 },
            "limits": limits,
            "endpointLimits": limits,
            "retry": {
                "attempts": 2, "on": ["reset"],
                "retriableHeaders": [{ "name": "x-retry", "value": "now" }], "idempotent": true,
                "backoff": { "base": "25ms", "max": "250ms" }, "perTryTimeout": "1s",
                "perTryIdleTimeout": "1s", "bodyLimit": "64KiB" },
            "hedge": { "maxAttempts": 2, "delay": "10ms" },
            "budget": {
                "percent": 20, "interval": "10s", "minRetriesPerSecond": 10, "activePercent": 20,
                "minRetryConcurrency": 3 },
            "retryThrottling": { "maxTokens": 10, "tokenRatio": 0.5 },
            "timeouts": {
                "request": "15s", "connect": "1s", "streamIdle": "5m", "maxStreamDuration": "1h",
                "grpcTimeoutHeaderMax": "10s", "grpcTimeoutHeaderOffset": "10ms", "idle": "60s",
                "http2Idle": "1h" },
            "trustRequestHeaders": true,
            "rateLimit": rate_limit,
            "throttle": { "multiplier": 2.5, "window": "2m" },
            "criticality": "Critical",
            "fault": {
                "delay": { "fixedDelay": "1s", "header": false, "percentage": 1.5 },
                "abort": { "httpStatus": 503, "header": false, "percentage": 1.5 },
                "maxActiveFaults": 10 },
            "protocol": "Http2",
            "connections": {
                "http2KeepaliveInterval": "10s", "keepaliveTimeout": "10s", "tcpKeepalive": "60s",
                "maxIdlePerEndpoint": 10 },
        })),
        traffic(json!({
            "pick": { "locality": { "zoneAware": {
                "minClusterSize": 6, "callers": { "a": 1, "b": 2 } } } },
            "healthCheck": check(json!({ "tcp": {
                "send": { "text": "ping" }, "receive": [{ "text": "pong" }, { "hex": "00ff" }] } })),
            "hedge": { "percentile": 95.5 },
            "fault": { "abort": { "grpcStatus": "UNAVAILABLE", "percentage": 1.5 } },
        })),
        traffic(json!({
            "healthCheck": check(json!({ "tcp": { "send": { "hex": "00ff" } } })),
            "retry": { "perTryTimeout": "1s" },
            "hedge": { "onPerTryTimeout": true },
        })),
        traffic(json!({
            "healthCheck": check(json!({ "grpc": {
                "serviceName": "shop", "authority": "a", "watch": true } })),
        })),
        (
            "ServerPolicy",
            json!({
                "targetRef": { "kind": "Mesh" },
                "maxRequests": 100,
                "adaptiveConcurrency": {
                    "sampleAggregatePercentile": 50, "maxConcurrencyLimit": 90,
                    "concurrencyUpdateInterval": "100ms",
                    "minRtt": {
                        "interval": "60s", "requestCount": 50, "jitter": 15, "minConcurrency": 3,
                        "buffer": 25 } },
                "shedding": { "maxQueue": 10, "target": "5ms", "interval": "100ms" },
                "rateLimit": served,
                "criticality": "Critical",
                "timeout": "10s",
                "trustCallers": true,
                "loadReports": "Asked",
                "drainTimeout": "30s",
            }),
        ),
    ]
}

/// Knobs of which 0 has a meaning, and which.
const ZEROS: &[(&str, &str)] = &[
    ("adaptiveConcurrency.minRtt.buffer", "no latency above the measured one is forgiven"),
    ("adaptiveConcurrency.minRtt.jitter", "all measure at the same interval"),
    ("affinity.cookie.ttl", "a session cookie"),
    ("breaker.jitter", "none"),
    ("budget.activePercent", "only minRetryConcurrency"),
    ("budget.minRetriesPerSecond", "only percent"),
    ("budget.minRetryConcurrency", "only activePercent"),
    ("budget.percent", "only minRetriesPerSecond"),
    ("connections.maxIdlePerEndpoint", "no connection is kept"),
    ("drainTimeout", "calls in flight are cut"),
    ("endpointLimits.maxRetries", "no retries"),
    ("fault.abort.percentage", "of no calls"),
    ("fault.delay.percentage", "of no calls"),
    ("hash.[].cookie.ttl", "a session cookie"),
    ("healthCheck.initialJitter", "none"),
    ("healthCheck.intervalJitter", "none"),
    ("healthCheck.intervalJitterPercent", "none"),
    ("hedge.delay", "all attempts at once"),
    ("limits.maxRetries", "no retries"),
    ("outlier.consecutive5xx", "off"),
    ("outlier.consecutiveGatewayFailure", "off"),
    ("outlier.consecutiveLocalOriginFailure", "off"),
    ("outlier.enforcingConsecutive5xx", "off"),
    ("outlier.enforcingConsecutiveGatewayFailure", "off"),
    ("outlier.enforcingConsecutiveLocalOriginFailure", "off"),
    ("outlier.enforcingFailurePercentage", "off"),
    ("outlier.enforcingFailurePercentageLocalOrigin", "off"),
    ("outlier.enforcingLatency", "off"),
    ("outlier.enforcingLocalOriginSuccessRate", "off"),
    ("outlier.enforcingSuccessRate", "off"),
    ("outlier.failurePercentageMinimumHosts", "one does"),
    ("outlier.failurePercentageRequestVolume", "one call does"),
    ("outlier.latencyMinimumExcess", "any"),
    ("outlier.latencyMinimumHosts", "one does"),
    ("outlier.latencyRequestVolume", "one call does"),
    ("outlier.maxEjectionPercent", "one at most, by alwaysEjectOne"),
    ("outlier.maxEjectionTimeJitter", "none"),
    ("outlier.successRateMinimumHosts", "one does"),
    ("outlier.successRateRequestVolume", "one call does"),
    ("outlier.successRateStdevFactor", "all below the mean"),
    ("pick.activeRequestBias", "round robin"),
    ("pick.emptySetGrace", "none"),
    ("pick.ewma.failurePenalty", "a failure counts as an answer at once"),
    ("pick.ewma.initial", "new endpoints are taken first"),
    ("pick.locality.weights.{}", "calls only when nothing else can take them"),
    ("pick.locality.zoneAware.callers.{}", "no callers there"),
    ("pick.locality.zoneAware.minClusterSize", "whatever the size"),
    ("pick.panicThreshold", "off"),
    ("pick.prequal.removalsPerCall", "only age removes"),
    ("pick.prequal.reuseDelta", "an answer is used about once"),
    ("pick.prequal.rifQuantile", "by requests in flight alone"),
    ("pick.slowStart.minWeightPercent", "grows from nothing"),
    ("pick.weightedRoundRobin.blackoutPeriod", "reports count at once"),
    ("pick.weightedRoundRobin.errorUtilizationPenalty", "errors cost nothing"),
    ("rateLimit.enabled", "of no calls"),
    ("rateLimit.enforced", "only counted"),
    (
        "rateLimit.global.rateLimits.[].actions.[].maskedRemoteAddress.v4PrefixMaskLen",
        "all are one",
    ),
    (
        "rateLimit.global.rateLimits.[].actions.[].maskedRemoteAddress.v6PrefixMaskLen",
        "all are one",
    ),
    ("retry.attempts", "off"),
    ("retry.backoff.base", "retries at once"),
    ("retry.backoff.max", "never above base"),
];

/// Maps whose keys are the user's.
const MAPS: [&str; 3] =
    ["pick.locality.weights", "pick.locality.zoneAware.callers", "pick.subsets.defaultSubset"];

/// Where a value stands: keys and indices.
type Path = Vec<String>;

/// The knob at a place: `hash.[].header`.
fn knob(path: &[String]) -> String {
    let mut knob = String::new();
    for step in path {
        let step = if MAPS.contains(&&*knob) { "{}" } else { step };
        let step = if step.parse::<usize>().is_ok() { "[]" } else { step };
        if !knob.is_empty() {
            knob.push('.');
        }
        knob.push_str(step);
    }
    knob
}

fn leaves(value: &Value, path: &mut Path, found: &mut Vec<(Path, Value)>) {
    let mut below = |step: String, value: &Value| {
        path.push(step);
        leaves(value, path, found);
        path.pop();
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(key, value)| below(key.clone(), value));
        }
        Value::Array(list) if !list.is_empty() => {
            list.iter().enumerate().for_each(|(index, value)| below(index.to_string(), value));
        }
        _ => found.push((path.clone(), value.clone())),
    }
}

/// The knobs of a part of the schema.
fn knobs(schema: &Value, all: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")) {
        return knobs(&all["$defs"][name], all, path, found);
    }
    let step =
        |step: &str| if path.is_empty() { step.to_owned() } else { format!("{path}.{step}") };
    let branches = ["anyOf", "oneOf", "allOf"].iter().filter_map(|key| schema[key].as_array());
    let branches: Vec<_> = branches.flatten().filter(|branch| branch["type"] != "null").collect();
    if !branches.is_empty() {
        branches.iter().for_each(|branch| knobs(branch, all, path, found));
    } else if let Some(properties) = schema["properties"].as_object() {
        for (key, below) in properties {
            knobs(below, all, &step(key), found);
        }
    } else if schema["items"].is_object() {
        knobs(&schema["items"], all, &step("[]"), found);
    } else if schema["additionalProperties"].is_object() {
        knobs(&schema["additionalProperties"], all, &step("{}"), found);
    } else {
        found.insert(path.to_owned());
    }
}

/// The configuration with this policy, and what is said of it.
fn said(kind: &str, spec: &str) -> Vec<Diagnostic> {
    let services = "{ \"apiVersion\": \"mesh/v1\", \"kind\": \"Service\", \"metadata\": { \"name\": \
                    \"limiter\" }, \"spec\": { \"endpoints\": { \"static\": [\"10.0.0.1:80\"] } } }";
    let policy = format!(
        "{{ \"apiVersion\": \"mesh/v1\", \"kind\": \"{kind}\", \"metadata\": {{ \"name\": \"p\" }}, \
         \"spec\":\n{spec}\n}}"
    );
    let sources = [Source::new("services.yaml", services), Source::new("policy.yaml", policy)];
    let compiled = config::parse(&sources).and_then(|documents| config::compile(&documents, 1));
    match compiled {
        Ok(snapshot) => snapshot.warnings().to_vec(),
        Err(errors) => errors.diagnostics().to_vec(),
    }
}

/// A policy with `bad` in the place of one of its values, and the line and column of it.
fn with(spec: &Value, path: &[String], bad: &str) -> (String, u32, u32) {
    let mut spec = spec.clone();
    // The section, and what it needs beside it.
    let beside = ["targetRef", "retry", "maxRequests", &path[0]];
    spec.as_object_mut().expect("a map").retain(|key, _| beside.contains(&&**key));
    let pointer: String = path.iter().map(|step| format!("/{step}")).collect();
    *spec.pointer_mut(&pointer).expect("a knob") = Value::String(MARK.to_owned());
    let text = serde_json::to_string_pretty(&spec).expect("text");
    let mark = format!("\"{MARK}\"");
    let at = text.find(&mark).expect("the mark");
    let before = &text[..at];
    let line = before.matches('\n').count() + 2;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    (text.replace(&mark, bad), line as u32, column as u32)
}

/// Whether it is an error in the text `bad` that begins at this line and column.
fn is_error_at(told: &Diagnostic, at: (u32, u32), bad: &str) -> bool {
    let (from, to) = (at.1, at.1 + bad.len() as u32);
    told.severity == config::Severity::Error
        && told
            .places
            .first()
            .is_some_and(|place| place.line == at.0 && (from..to).contains(&place.column))
}

fn is_span(text: &str) -> bool {
    config::span::parse(text).is_ok()
}

#[test]
fn the_samples_state_every_knob_and_are_valid() {
    let schema = config::schema();
    let mut stated: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (kind, spec) in samples() {
        let errors: Vec<String> = said(kind, &spec.to_string())
            .iter()
            .filter(|told| told.severity == config::Severity::Error)
            .map(ToString::to_string)
            .collect();
        assert!(errors.is_empty(), "{}", errors.join("\n"));
        let mut found = Vec::new();
        leaves(&spec, &mut Path::new(), &mut found);
        stated.entry(kind).or_default().extend(found.iter().map(|(path, _)| knob(path)));
    }
    let stated_elsewhere: BTreeSet<String> = stated.values().flatten().cloned().collect();
    for (kind, stated) in stated {
        let kinds = schema["oneOf"].as_array().expect("kinds");
        let own = kinds.iter().find(|one| one["title"] == kind).expect("the kind");
        let mut known = BTreeSet::new();
        knobs(&own["properties"]["spec"], &schema, "", &mut known);
        let missing: Vec<_> = known
            .difference(&stated)
            .filter(|knob| !knob.starts_with("targetRef"))
            // What a policy for callers may not say is in the sample of the other kind.
            .filter(|knob| {
                !(knob.starts_with("rateLimit.global.") && stated_elsewhere.contains(*knob))
            })
            .collect();
        assert!(missing.is_empty(), "no bad value is tried in these of {kind}: {missing:#?}");
    }
}

#[test]
fn values_of_no_meaning_are_refused_where_they_stand() {
    let mut tried = 0;
    let mut wrong = Vec::new();
    let mut known = BTreeSet::new();
    for (kind, spec) in samples() {
        let mut found = Vec::new();
        leaves(&spec, &mut Path::new(), &mut found);
        for (path, value) in found {
            if path[0] == "targetRef" || !known.insert((kind, knob(&path))) {
                continue;
            }
            let bad: &[&str] = match &value {
                Value::Number(number) if number.is_f64() => {
                    &["-1", ".nan", ".inf", "-.inf", "1e999", "\"much\"", "true", "[1]"]
                }
                Value::Number(_) => &[
                    "-1",
                    "1.5",
                    "18446744073709551616",
                    "99999999999999999999999999",
                    ".nan",
                    "\"much\"",
                    "{ a: 1 }",
                ],
                Value::String(text) if is_span(text) => {
                    &["5", "-1s", "1.5s", "100000s", "1h1h1h1h1h", "\"\"", "soon", "[1s]"]
                }
                Value::Bool(_) => &["1", "\"perhaps\"", "[true]"],
                _ => &["[[7]]", "{ a: { b: 1 } }"],
            };
            for bad in bad {
                tried += 1;
                let (text, line, column) = with(&spec, &path, bad);
                let told = said(kind, &text);
                if !told.iter().any(|told| is_error_at(told, (line, column), bad)) {
                    let told: Vec<_> = told.iter().map(ToString::to_string).collect();
                    wrong.push(format!(
                        "{}: {bad} at {line}:{column} says:\n{}",
                        knob(&path),
                        told.join("\n")
                    ));
                }
            }
        }
    }
    println!("{tried} bad values");
    assert!(wrong.is_empty(), "{}: {}", wrong.len(), wrong.join("\n"));
}

#[test]
fn zero_is_refused_where_it_stands_or_means_what_is_told() {
    let mut means = BTreeSet::new();
    let mut wrong = Vec::new();
    for (kind, spec) in samples() {
        let mut found = Vec::new();
        leaves(&spec, &mut Path::new(), &mut found);
        for (path, value) in found {
            let zero = match &value {
                Value::Number(_) => "0",
                Value::String(text) if is_span(text) => "0s",
                _ => continue,
            };
            let (text, line, column) = with(&spec, &path, zero);
            let told = said(kind, &text);
            let errors: Vec<_> =
                told.iter().filter(|told| told.severity == config::Severity::Error).collect();
            if errors.is_empty() {
                means.insert(knob(&path));
            } else if !errors.iter().any(|told| is_error_at(told, (line, column), zero)) {
                wrong.push(format!("{}: {}", knob(&path), errors[0]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let told: BTreeSet<String> = ZEROS.iter().map(|(knob, _)| (*knob).to_owned()).collect();
    assert_eq!(means, told);
}
