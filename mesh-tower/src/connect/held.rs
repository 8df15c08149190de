//! Held: what lives as long as a connection that has stopped to be HTTP.
//!
//! After `101` the stream belongs to whoever took it over, and its response ends at once. What
//! counts the attempt and the connection has to end with the stream instead, so the stream keeps
//! it: every transport of HTTP/1 has a place for it, which is filled only by an upgrade.

use parking_lot::Mutex;
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// See the [module docs](self). Clones are the same place.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<Mutex<Vec<Box<dyn Any + Send>>>>);

impl Held {
    /// Keeps a guard until the stream is dropped.
    pub(crate) fn keep(&self, guard: impl Send + 'static) {
        self.0.lock().push(Box::new(guard));
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.0.lock().len()).finish()
    }
}
