//! Anti-entropy: brings what the agent has to the catalog, and keeps it there.
//!
//! ```text
//! start, every minute     read what the catalog has of this node, mark what differs, bring it
//! at once on a change     bring what is marked
//! catalog away            wait: random below 1 s, 2 s, 4 s, … 60 s; local truth stays as it is
//! ```
//!
//! Removals go first, one after the other; registrations follow, a few at once. What the catalog
//! refuses (no permission) is reported and tried again with the next full round.
//!
//! The minute is drawn between one and one and a fifth, and the wait from zero, so that agents that
//! lost their servers together do not come back together.
//!
//! Source: Consul "Anti-Entropy".

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use mesh_core::retry::backoff;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::catalog::CatalogError;
use super::local::Job;

/// Registrations that are under way at once.
const AT_ONCE: usize = 8;
/// First and longest wait after the catalog was away.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Part of the interval that is drawn on top.
const JITTER: f64 = 0.2;

/// Runs for as long as the agent does.
pub(super) async fn keep_in_sync(shared: Arc<Shared>) {
    let backoff = backoff::Config::new(WAIT.0, WAIT.1);
    let mut full_at = Instant::now();
    let mut failures = 0_u32;
    let mut not_before = full_at;
    loop {
        let deferred = shared.local.lock().next_deferred();
        let next = deferred.map_or(full_at, |deferred| deferred.min(full_at)).max(not_before);
        tokio::select! {
            () = sleep_until(next) => {}
            () = shared.dirty.notified() => sleep_until(not_before).await,
        }
        let full = Instant::now() >= full_at;
        match round(&shared, full).await {
            Ok(()) => {
                failures = 0;
                if full {
                    let jitter = shared.config.sync_interval.mul_f64(JITTER * fastrand::f64());
                    full_at = Instant::now() + shared.config.sync_interval + jitter;
                }
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                let wait = backoff.delay(failures, &mut || fastrand::u64(..));
                tracing::warn!(%error, wait_ms = wait.as_millis(), "catalog is away: what this agent knows stays as it is");
                not_before = Instant::now() + wait;
                // It may have lost what it had.
                full_at = full_at.min(not_before);
            }
        }
    }
}

/// One round; an error only if the catalog is away.
async fn round(shared: &Shared, full: bool) -> Result<(), CatalogError> {
    if full {
        let name = shared.local.lock().node().name.clone();
        let (_, there) = shared.catalog.node(&name, 0).await?;
        shared.local.lock().compare(there);
    }
    let jobs = shared.local.lock().jobs(Instant::now());
    let (removals, registrations): (Vec<_>, Vec<_>) =
        jobs.into_iter().partition(|job| matches!(job, Job::Deregister(..)));
    for removal in removals {
        bring(shared, removal).await?;
    }
    let mut registrations = registrations.into_iter();
    // The node itself goes ahead of what is on it.
    if let Some(first) = registrations.next() {
        bring(shared, first).await?;
    }
    let mut under_way =
        stream::iter(registrations.map(|job| bring(shared, job))).buffer_unordered(AT_ONCE);
    let mut away = None;
    while let Some(brought) = under_way.next().await {
        if let Err(error) = brought {
            away = Some(error);
            break;
        }
    }
    away.map_or(Ok(()), Err)
}

async fn bring(shared: &Shared, job: Job) -> Result<(), CatalogError> {
    let outcome = match &job {
        Job::Register(what, _) => shared.catalog.register((**what).clone()).await,
        Job::Deregister(what, _) => shared.catalog.deregister(what.clone()).await,
    };
    match outcome {
        Ok(()) => {}
        Err(CatalogError::Refused(reason)) => {
            tracing::warn!(
                what = job.names(),
                reason,
                "catalog refuses; the next full round tries again"
            );
        }
        Err(away) => return Err(away),
    }
    let mut local = shared.local.lock();
    match job {
        Job::Register(_, marks) => local.synced(&marks),
        Job::Deregister(what, mark) => local.removed(&what.what, mark),
    }
    Ok(())
}
