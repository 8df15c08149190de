//! A connection and the work that goes over it, as one future: what drops it drops both.

use std::future::Future;
use std::pin::pin;

/// The work's outcome, while the connection is driven for as long as it lasts.
pub(super) async fn drive<T>(connection: impl Future, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        outcome = &mut work => outcome,
        // What has arrived is still there to be read; the rest fails.
        _ = connection => work.await,
    }
}
