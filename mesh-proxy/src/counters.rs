//! Counters: what the proxy itself refused, by reason. The reasons are a fixed set, so no client
//! can make a series.

use crate::framing::Violation;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why something was refused before it reached the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reject {
    /// The framing of a request.
    Framing(Violation),
    /// Target, `Host`, path, or a field.
    Hygiene,
    /// The body of a request ended before its end, or was framed wrongly.
    Body,
    /// What came was not HTTP, or its head was too large.
    Syntax,
    /// A PROXY protocol header that nobody asked for.
    ProxyHeader,
    /// The client was too slow: no first byte, no complete head, or nothing at all for long.
    Slow,
    /// The client reset most of its requests before they were answered.
    Resets,
}

/// Counters of the whole process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    framing: [AtomicU64; Violation::ALL.len()],
    hygiene: AtomicU64,
    body: AtomicU64,
    syntax: AtomicU64,
    proxy_header: AtomicU64,
    slow: AtomicU64,
    resets: AtomicU64,
    /// Connections accepted.
    pub(crate) accepted: AtomicU64,
    /// Connections open now.
    open: AtomicU64,
}

/// A connection that is counted as open until this is dropped.
#[derive(Debug)]
pub(crate) struct Open(Arc<Counters>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

impl Counters {
    pub(crate) fn reject(&self, why: Reject) {
        let counter = match why {
            Reject::Framing(why) => self.framing.get(why as usize),
            Reject::Hygiene => Some(&self.hygiene),
            Reject::Body => Some(&self.body),
            Reject::Syntax => Some(&self.syntax),
            Reject::ProxyHeader => Some(&self.proxy_header),
            Reject::Slow => Some(&self.slow),
            Reject::Resets => Some(&self.resets),
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Counts a connection as open.
    pub(crate) fn enter(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Relaxed);
        Open(Arc::clone(self))
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// Every reason with its count.
    pub(crate) fn rejected(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let framing =
            Violation::ALL.iter().zip(&self.framing).map(|(why, count)| (why.name(), count));
        let others = [
            ("target_or_field", &self.hygiene),
            ("request_body", &self.body),
            ("not_http", &self.syntax),
            ("proxy_protocol", &self.proxy_header),
            ("slow_client", &self.slow),
            ("reset_flood", &self.resets),
        ];
        framing.chain(others).map(|(name, count)| (name, count.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter() {
        let counters = Counters::default();
        for &why in Violation::ALL {
            counters.reject(Reject::Framing(why));
        }
        for why in [
            Reject::Hygiene,
            Reject::Body,
            Reject::Syntax,
            Reject::ProxyHeader,
            Reject::Slow,
            Reject::Resets,
        ] {
            counters.reject(why);
        }
        let mut names: Vec<_> = counters.rejected().map(|(name, _)| name).collect();
        assert!(counters.rejected().all(|(_, count)| count == 1));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Violation::ALL.len() + 6);
    }
}
