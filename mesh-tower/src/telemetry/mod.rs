//! Telemetry: metrics, spans and trace context, by the names of OpenTelemetry.

pub mod histogram;
mod metrics;
#[cfg(feature = "prometheus")]
pub mod prometheus;

pub use histogram::{End, Histogram};
pub use metrics::{
    BreakerState, Counts, DestinationMetrics, MAX_DESTINATIONS, Metrics, Observe, Observed,
    ServerMetrics,
};
