//! What a caller asks for one call, in place of what the policy says.
//!
//! ```text
//! mesh < namespace < service < route < call
//! ```
//!
//! Options are the last level of that order: a value that is set here replaces the policy's, a
//! value that is not leaves it as it is. They travel in the extensions of a request, so they need
//! no client of ours: hyper, tonic, reqwest and axum all hand extensions on.
//!
//! Limits of the destination hold all the same: the retry budget, the caps on work at once, and the
//! deadline of the call that is being served while this one is made.
//!
//! ```
//! use http::Request;
//! use mesh_tower::{Body, CallOptions};
//! use std::time::Duration;
//!
//! let options = CallOptions::new().timeout(Duration::from_millis(300)).no_retry();
//! let request = Request::get("http://inventory/items/7").extension(options).body(Body::empty());
//! # assert!(request.is_ok());
//! ```

use mesh_core::criticality::Criticality;
use mesh_core::pick::Labels;
use mesh_core::retry;
use std::sync::Arc;
use std::time::Duration;

/// What a caller asks for one call, in place of what the policy says: put it into the extensions of
/// the request. Limits and retry budget of the destination hold all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallOptions {
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: Option<u32>,
    pub(crate) idempotent: Option<bool>,
    pub(crate) criticality: Option<Criticality>,
    pub(crate) subset: Option<Arc<[Labels]>>,
    pub(crate) priority: u32,
    pub(crate) hash: Option<u64>,
    pub(crate) explain: bool,
}

impl CallOptions {
    /// Nothing asked for: the policy decides.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            timeout: None,
            retries: None,
            idempotent: None,
            criticality: None,
            subset: None,
            priority: 0,
            hash: None,
            explain: false,
        }
    }

    /// Longest that the call may take, with all its attempts and waits, to the end of its response
    /// body. It may be longer than the policy's. Zero fails the call before it is sent.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Attempts after the first, each within the destination's budget. On what they follow is the
    /// policy's to say.
    #[must_use]
    pub const fn retries(mut self, retries: u32) -> Self {
        self.retries = Some(retries);
        self
    }

    /// One attempt, whatever comes of it.
    #[must_use]
    pub const fn no_retry(self) -> Self {
        self.retries(0)
    }

    /// Whether a repeated call does no harm. Decides, before policy and method, whether the call may
    /// be sent again once its bytes may have reached the application.
    #[must_use]
    pub const fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = Some(idempotent);
        self
    }

    /// How critical the call is: what an overloaded server gives up first. Told to the server, and
    /// handed on by it.
    #[must_use]
    pub const fn criticality(mut self, criticality: Criticality) -> Self {
        self.criticality = Some(criticality);
        self
    }

    /// Labels of the endpoints that it may go to, in place of those of the route; the destination's
    /// `pick.subsets` must have a selector with their keys.
    ///
    /// ```
    /// use mesh_core::pick::Labels;
    /// use mesh_tower::CallOptions;
    ///
    /// let options = CallOptions::new().subset([Labels::from_iter([("version", "2")])]);
    /// ```
    ///
    /// Of several, the first for which there are endpoints counts.
    #[must_use]
    pub fn subset(mut self, preferred_first: impl IntoIterator<Item = Labels>) -> Self {
        self.subset = Some(preferred_first.into_iter().collect());
        self
    }

    /// The priority of endpoints at which it starts; those before it are used only when no other
    /// can be. Beyond the last, it starts at 0.
    #[must_use]
    pub const fn priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }

    /// The key of the call: calls of one key go to one endpoint where the policy picks by hash
    /// (`RingHash`, `Maglev`). It decides in place of all that the policy would hash.
    #[must_use]
    pub fn hash_key(self, key: impl AsRef<[u8]>) -> Self {
        self.hash(mesh_core::hash::xxh64(key.as_ref()))
    }

    /// As [`CallOptions::hash_key`], by a hash that is spread over all 64 bits: small numbers are
    /// neighbours on a ring.
    #[must_use]
    pub const fn hash(mut self, hash: u64) -> Self {
        self.hash = Some(hash);
        self
    }

    /// Asks why the call goes where it goes: the response then carries an
    /// `Arc<`[`Explanation`](mesh_core::explain::Explanation)`>` in its extensions, an error has it as
    /// [`Error::explanation`](mesh_core::Error::explanation). It costs a look at every endpoint per
    /// attempt; calls that do not ask pay a branch.
    ///
    /// ```no_run
    /// # async fn example(mesh: mesh_tower::Mesh) -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use mesh_tower::{Body, CallOptions, Explanation};
    /// use std::sync::Arc;
    /// use tower::ServiceExt;
    ///
    /// let request = Request::get("http://inventory/items/7").extension(CallOptions::new().explain());
    /// match mesh.http().oneshot(request.body(Body::empty())?).await {
    ///     Ok(response) => println!("{}", response.extensions().get::<Arc<Explanation>>().ok_or("asked")?),
    ///     Err(error) => println!("{}", error.explanation().ok_or("asked")?),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Calls through a [`Channel`](crate::Channel) are told; a stack made by hand has no route to
    /// begin with.
    #[must_use]
    pub const fn explain(mut self) -> Self {
        self.explain = true;
        self
    }

    /// The policy's settings of retries with what is asked for here; `None` if that is nothing.
    pub(crate) fn retry(&self, policy: &retry::Config) -> Option<Arc<retry::Config>> {
        let attempts = self.retries.filter(|retries| *retries != policy.attempts)?;
        let mut config = policy.clone();
        config.attempts = attempts;
        Some(Arc::new(config))
    }
}
