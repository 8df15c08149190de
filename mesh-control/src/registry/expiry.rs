//! Expiry: ends sessions whose time is over, or whose node or checks went.
//!
//! A session with a TTL ends no earlier than its TTL after it was made, renewed, or found at the
//! start of this server, and at the latest after twice the TTL: a client that renews late because
//! we were slow keeps its locks. The clock is monotonic: a jump of the wall clock ends nothing.
//!
//! Changes of sessions, nodes and checks wake the task, at most twenty times per second, each time
//! for a look at every session.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use super::session::Session;
use super::{Registry, Topic, View, session};
use crate::store::StoreError;

/// How many TTLs without a renewal end a session.
const TTLS: u32 = 2;
/// Shortest time between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest time between two looks, and the wait after the store could not be written.
const AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(1));

/// When sessions end.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    by_id: Mutex<HashMap<String, Instant>>,
}

impl Deadlines {
    fn renew(&self, session: &Session) {
        if let Some(ttl) = session.ttl() {
            self.by_id.lock().insert(session.id.clone(), Instant::now() + ttl * TTLS);
        }
    }

    /// Which sessions are over, and when the next one is.
    fn look(&self, view: &View, home: &str) -> (Vec<String>, Instant) {
        let now = Instant::now();
        let mut next = now + AGAIN.0;
        let mut over = Vec::new();
        let mut by_id = self.by_id.lock();
        by_id.retain(|id, _| view.sessions().get(id).is_some());
        for session in view.sessions().iter() {
            if let Some(obstacle) = session.obstacle(view, home) {
                tracing::info!(session = session.id, %obstacle, "a session ends");
                over.push(session.id.clone());
                continue;
            }
            let Some(ttl) = session.ttl() else { continue };
            let expiry = *by_id.entry(session.id.clone()).or_insert(now + ttl * TTLS);
            if expiry <= now {
                tracing::info!(session = session.id, "a session ends: it was not renewed");
                over.push(session.id.clone());
            } else {
                next = next.min(expiry);
            }
        }
        (over, next)
    }
}

impl Registry {
    /// Ends a session, and lets go of its locks. Fine where there is none.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn destroy_session(&self, id: &str) -> Result<(), StoreError> {
        self.write(|view| Ok::<_, StoreError>(session::destroy(view, id, &self.shared.delays)))
            .await?;
        self.release_orphans().await
    }

    /// Lengthens a session's life by its TTL, and tells it.
    #[must_use]
    pub fn renew_session(&self, id: &str) -> Option<Session> {
        let session = self.read(|view| view.sessions().get(id).cloned())?;
        self.shared.deadlines.renew(&session);
        Some(session)
    }

    async fn release_orphans(&self) -> Result<(), StoreError> {
        while self.read(|view| !session::release_orphans(view).batch.is_empty()) {
            self.write(|view| Ok::<_, StoreError>(session::release_orphans(view))).await?;
        }
        Ok(())
    }

    /// Ends sessions from now on, for as long as the future is polled. `home` is the node of this
    /// server, which need not be in the catalog.
    pub async fn expire_sessions(self, home: String) {
        let topics = [Topic::Sessions, Topic::Nodes, Topic::Checks];
        let changed = self.shared.topics.subscribe(&topics);
        loop {
            let (over, next) = self.read(|view| self.shared.deadlines.look(view, &home));
            let next = match self.end_all(&over).await {
                Ok(()) => next,
                Err(error) => {
                    tracing::warn!(%error, "sessions that are over cannot be ended");
                    Instant::now() + AGAIN.1
                }
            };
            sleep(PAUSE).await;
            tokio::select! {
                () = changed.woken() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    async fn end_all(&self, over: &[String]) -> Result<(), StoreError> {
        for id in over {
            self.destroy_session(id).await?;
        }
        self.release_orphans().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Embedded;

    #[tokio::test(start_paused = true)]
    async fn a_session_lives_for_its_ttl_after_each_renewal_and_not_for_ever() {
        let registry = Registry::start(Embedded::in_memory().unwrap()).unwrap();
        tokio::spawn(registry.clone().expire_sessions("here".to_owned()));
        let [id, node, ttl] = ["a", "here", "10s"].map(str::to_owned);
        let wanted = Session { id, node, ttl, ..Session::default() };
        registry.write(|view| session::create(view, &wanted, "here")).await.unwrap();
        let lives = || registry.read(|view| view.sessions().get("a").is_some());
        for _ in 0..10 {
            assert!(registry.renew_session("a").is_some());
            let renewed = Instant::now();
            tokio::time::advance(Duration::from_secs(9)).await;
            assert!(lives(), "{:?} after its renewal", renewed.elapsed());
        }
        let renewed = Instant::now();
        while lives() {
            sleep(Duration::from_millis(100)).await;
        }
        assert!(renewed.elapsed() >= Duration::from_secs(10), "{:?}", renewed.elapsed());
        assert!(registry.renew_session("a").is_none());
    }
}
