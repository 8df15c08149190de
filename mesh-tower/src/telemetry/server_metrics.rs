//! The counters of what this process serves.

use super::by_label::ByLabel;
use super::histogram::{Codes, End, Grid, MethodLabel};
use super::labels::{ByKind, GlobalLimit, Handshake};
use mesh_core::{ErrorKind, GrpcCode};
use std::time::Duration;

/// The counters of what this process serves.
#[derive(Debug, Default)]
pub struct ServerMetrics {
    pub(super) http: Grid,
    pub(super) rpc: Codes,
    shed: ByKind,
    rate_limited: ByLabel<bool, 2>,
    global_limited: ByLabel<GlobalLimit, 4>,
    handshakes: ByLabel<Handshake, 4>,
}

impl ServerMetrics {
    /// One request was served, or ended in an error.
    pub fn request_ended(&self, method: impl Into<MethodLabel>, end: End, took: Duration) {
        self.http.record(method, end, took);
    }

    /// One gRPC call was served.
    pub fn rpc_ended(&self, code: GrpcCode, took: Duration) {
        self.rpc.record(code, took);
    }

    /// A request was refused before the handler saw it.
    pub fn shed(&self, kind: ErrorKind) {
        self.shed.add(kind);
    }

    /// A request was over a rate limit, which was enforced or not.
    pub fn rate_limited(&self, enforced: bool) {
        self.rate_limited.add(enforced);
    }

    /// How many requests were over a rate limit: those that passed, and those that were refused.
    pub fn rate_limits(&self) -> impl Iterator<Item = (bool, u64)> + '_ {
        self.rate_limited.each()
    }

    /// The rate limit service was asked about a request.
    pub fn global_limited(&self, result: GlobalLimit) {
        self.global_limited.add(result);
    }

    /// How often the rate limit service was asked, by what came of it.
    pub fn global_limits(&self) -> impl Iterator<Item = (GlobalLimit, u64)> + '_ {
        self.global_limited.each()
    }

    /// A TLS handshake ended.
    pub fn handshake_ended(&self, how: Handshake) {
        self.handshakes.add(how);
    }

    /// How often TLS handshakes ended, by result.
    pub fn handshakes(&self) -> impl Iterator<Item = (Handshake, u64)> + '_ {
        self.handshakes.each()
    }

    /// How often requests were refused, by kind; kinds that never occurred are left out.
    pub fn sheds(&self) -> impl Iterator<Item = (ErrorKind, u64)> + '_ {
        self.shed.counted()
    }
}
