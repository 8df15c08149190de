//! A rolling restart: endpoints end and come back, one after another.

use super::ScriptedEndpoint;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Longer than a part of the load takes, however many calls it is raised to.
const PATIENCE: Duration = Duration::from_secs(300);

/// Restarts every endpoint once while `total` calls are made, of which `over` says how many are.
///
/// The calls set the pace: in the time of each endpoint's share of them it ends after a tenth, is
/// back after four tenths on the same address, and is left alone for the rest. The first of each two
/// is asked to end ([`ScriptedEndpoint::stop`]), the other one killed, unless `kills` is false. What
/// arrived is [forgotten](ScriptedEndpoint::forget) from time to time.
///
/// # Panics
///
/// If the calls do not go on for 300 s, or are all over before the last endpoint is back.
pub async fn rolling_restart(
    endpoints: &mut [ScriptedEndpoint],
    kills: bool,
    total: u64,
    over: impl Fn() -> u64,
) {
    let share = total / endpoints.len() as u64;
    for (number, endpoint) in endpoints.iter_mut().enumerate() {
        let begin = number as u64 * share;
        reach(&over, begin + share / 10).await;
        endpoint.forget();
        if kills && number % 2 == 1 {
            endpoint.kill().await;
        } else {
            timeout(PATIENCE, endpoint.stop()).await.expect("what runs at an endpoint ends");
        }
        reach(&over, begin + share * 4 / 10).await;
        endpoint.restart();
        assert!(over() < total, "the last restarts were without load");
    }
}

async fn reach(over: &impl Fn() -> u64, count: u64) {
    let reached = async {
        while over() < count {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, reached).await.expect("the load goes on");
}
