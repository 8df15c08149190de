//! Policy: how calls to a destination are made, all settings in one value.
//!
//! The defaults are those of a call without any configuration; the reasons stand with each setting.

use crate::config::span;
use crate::criticality::Criticality;
use crate::health::{breaker, check, outlier};
use crate::retry::{budget, throttling};
use crate::{affinity, fault, hash, hedge, limit, pick, rate_limit, retry, throttle};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How calls to a destination are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Policy {
    /// Which endpoint an attempt goes to.
    pub pick: pick::Config,
    /// What the hash of a call is made from, for `RingHash`, `Maglev` and splits that keep to it.
    /// None.
    pub hash: Vec<hash::Config>,
    /// Whether the calls of a session go to one endpoint. Off.
    pub affinity: Option<affinity::Config>,
    /// Which endpoints are taken out for failing. On.
    pub outlier: outlier::Config,
    /// Asks endpoints whether they are well. Off.
    pub health_check: Option<check::Config>,
    /// Breaker of each endpoint. Off: outlier detection does the same, with a view of the set.
    pub breaker: Option<breaker::Config>,
    /// Caps on the work at the destination at once.
    pub limits: limit::Config,
    /// Caps on the work at each endpoint at once. None.
    pub endpoint_limits: limit::Config,
    /// What is sent again.
    pub retry: retry::Config,
    /// Whether a second attempt is sent beside one that takes long. Off.
    pub hedge: Option<hedge::Config>,
    /// How many retries there may be.
    pub budget: budget::Config,
    /// Whether retries stop while more calls fail than succeed. Off: the budget bounds them.
    pub retry_throttling: Option<throttling::Config>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Whether `x-envoy-*` fields of a request may change its timeout, retries and hedging. No: they
    /// are passed on.
    pub trust_request_headers: bool,
    /// How many calls may be made in a span of time; what exceeds it fails with `rate_limited`. Not
    /// limited.
    pub rate_limit: Option<rate_limit::Config>,
    /// Refuses calls here while the destination refuses many. Off.
    pub throttle: Option<throttle::Config>,
    /// How critical calls are that do not say so, nor inherit it. None: they do not say.
    pub criticality: Option<Criticality>,
    /// What is delayed or failed on purpose. Nothing.
    pub fault: Option<fault::Config>,
    /// What is spoken to endpoints.
    pub protocol: Protocol,
    /// Connections to endpoints.
    pub connections: ConnectionConfig,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            pick: pick::Config::default(),
            hash: Vec::new(),
            affinity: None,
            outlier: outlier::Config::default(),
            health_check: None,
            breaker: None,
            limits: limit::Config::default(),
            endpoint_limits: limit::Config::unlimited(),
            retry: retry::Config::default(),
            hedge: None,
            budget: budget::Config::default(),
            retry_throttling: None,
            timeouts: Timeouts::default(),
            trust_request_headers: false,
            rate_limit: None,
            throttle: None,
            criticality: None,
            fault: None,
            protocol: Protocol::default(),
            connections: ConnectionConfig::default(),
        }
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Timeouts {
    /// A call, with all its attempts and waits. 15 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub request: Duration,
    /// Whether somebody chose `request`: then it bounds the response body too. As a default it
    /// bounds the time to the response head only, so that it never cuts a stream.
    #[serde(skip)]
    pub explicit: bool,
    /// A connection to become usable, TLS included. 1 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub connect: Duration,
    /// A stream on which nothing moves. 5 min.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub stream_idle: Duration,
    /// A stream as a whole, from its begin to the end of its response body, however it moves; none:
    /// only `request` bounds it. It is told to the endpoint as a deadline is. Not for connections
    /// that are upgraded.
    #[serde(with = "span::optional")]
    #[schemars(with = "Option<span::Text>")]
    pub max_stream_duration: Option<Duration>,
    /// The most of what callers allow by `grpc-timeout` or `x-envoy-expected-rq-timeout-ms` that is
    /// believed; none: all of it.
    #[serde(with = "span::optional")]
    #[schemars(with = "Option<span::Text>")]
    pub grpc_timeout_header_max: Option<Duration>,
    /// What is taken off before that, so that we give up before the caller does. What leaves
    /// nothing fails the call at once. None.
    #[serde(with = "span::optional")]
    #[schemars(with = "Option<span::Text>")]
    pub grpc_timeout_header_offset: Option<Duration>,
    /// An HTTP/1 connection that carries no call. 60 s: below the usual idle timeout of servers,
    /// so that we close first.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub idle: Duration,
    /// An HTTP/2 connection that carries no call. 1 h.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub http2_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(15),
            explicit: false,
            connect: Duration::from_secs(1),
            stream_idle: Duration::from_secs(300),
            max_stream_duration: None,
            grpc_timeout_header_max: None,
            grpc_timeout_header_offset: None,
            idle: Duration::from_secs(60),
            http2_idle: Duration::from_secs(3600),
        }
    }
}

impl Timeouts {
    /// What is believed of the time that a caller allows:
    /// `min(told − grpcTimeoutHeaderOffset, grpcTimeoutHeaderMax)`. Source: Envoy
    /// `max_stream_duration`.
    ///
    /// ```
    /// use mesh_core::policy::Timeouts;
    /// use std::time::Duration;
    ///
    /// let mut timeouts = Timeouts::default();
    /// timeouts.grpc_timeout_header_max = Some(Duration::from_secs(2));
    /// timeouts.grpc_timeout_header_offset = Some(Duration::from_millis(100));
    /// assert_eq!(timeouts.believed(Duration::from_secs(1)), Duration::from_millis(900));
    /// assert_eq!(timeouts.believed(Duration::from_secs(9)), Duration::from_secs(2));
    /// assert_eq!(timeouts.believed(Duration::from_millis(50)), Duration::ZERO);
    /// ```
    #[must_use]
    pub fn believed(&self, told: Duration) -> Duration {
        let left = told.saturating_sub(self.grpc_timeout_header_offset.unwrap_or_default());
        self.grpc_timeout_header_max.map_or(left, |most| left.min(most))
    }
}

/// What is spoken to endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/2 for gRPC calls and where TLS agrees on it, HTTP/1 otherwise.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, with prior knowledge where there is no TLS.
    Http2,
}

/// Connections to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct ConnectionConfig {
    /// Time without a frame after which an HTTP/2 PING is sent, at least 1 ms; none: no PING.
    #[serde(with = "span::optional")]
    #[schemars(with = "Option<span::Text>")]
    pub http2_keepalive_interval: Option<Duration>,
    /// Time in which the answer to a PING must come, at least 1 ms. 20 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub keepalive_timeout: Duration,
    /// Time without traffic after which the kernel probes the peer, 1 s to 32,767 s; none: it does
    /// not.
    #[serde(with = "span::optional")]
    #[schemars(with = "Option<span::Text>")]
    pub tcp_keepalive: Option<Duration>,
    /// Idle HTTP/1 connections that are kept per endpoint. 1,024.
    pub max_idle_per_endpoint: u32,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            http2_keepalive_interval: None,
            keepalive_timeout: Duration::from_secs(20),
            tcp_keepalive: None,
            max_idle_per_endpoint: 1024,
        }
    }
}

#[cfg(test)]
mod tests;
