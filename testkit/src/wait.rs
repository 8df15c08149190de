//! Waiting for a condition instead of for a time.

use std::time::Duration;

/// How long [`until`] waits: longer than any machine under load should need.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until `condition` holds, looking every millisecond.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let task = tokio::spawn(async {});
/// testkit::until("the task ends", || task.is_finished()).await;
/// # }
/// ```
///
/// # Panics
///
/// After 10 s, naming `what` did not happen.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let looking = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, looking).await.is_err() {
        panic!("waited {PATIENCE:?}, and still not: {what}");
    }
}
