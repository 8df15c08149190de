//! What the calls of a handler inherit from the request it serves.
//!
//! [`ServerLayer`](super::ServerLayer) keeps a [`Context`] as a task-local while it polls the
//! handler and its response body. A [`Channel`](crate) reads it, so the remaining deadline, the
//! criticality and the trace reach the next hop without the user passing anything. A task that the handler
//! spawns has none; hand it over with [`Context::scope`].

use crate::listen::Peer;
use http::HeaderValue;
use mesh_core::criticality::Criticality;
use mesh_core::deadline::Expiry;
use mesh_core::trace_context::TraceContext;
use std::future::Future;

tokio::task_local! {
    static CURRENT: Context;
}

/// The request being served, as far as further calls depend on it. Cheap to clone.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use mesh_tower::server::Context;
///
/// assert!(Context::current().is_none());
/// let inherited = Context::default();
/// inherited.scope(async { assert!(Context::current().is_some()) }).await;
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Context {
    /// When the caller stops waiting.
    pub expiry: Option<Expiry>,
    /// How critical the request is, if it or the server's policy says so.
    pub criticality: Option<Criticality>,
    /// The span that further calls are children of: the server's own if it is recorded, else
    /// the caller's.
    pub trace: Option<TraceContext>,
    /// `tracestate` of the caller, passed on as it came.
    pub trace_state: Option<HeaderValue>,
    /// `baggage` of the caller, passed on as it came.
    pub baggage: Option<HeaderValue>,
    /// Who sent the request, when the connection came through [`Listener`](crate::Listener).
    pub peer: Option<Peer>,
}

impl Context {
    /// The context of the request that this task serves; `None` outside of a server layer.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// Reads the context of the request that this task serves, without a copy.
    pub fn with<T>(read: impl FnOnce(&Self) -> T) -> Option<T> {
        CURRENT.try_with(read).ok()
    }

    /// Runs a future in this context: for work that a handler spawns.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }

    /// Runs a function in this context.
    pub fn enter<T>(&self, run: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), run)
    }
}
