//! An immutable value that is replaced whole.

use arc_swap::{ArcSwap, Guard};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Holds the current version of an immutable value.
///
/// Readers never wait; the one writer builds the new value outside and swaps it in. A reader
/// that holds a guard keeps the version it saw.
///
/// ```
/// use mesh_core::Swap;
///
/// let weights = Swap::new(vec![1, 1]);
/// let seen = weights.load();
/// weights.store(vec![1, 3]);
/// assert_eq!(*seen, [1, 1]);
/// assert_eq!(*weights.load(), [1, 3]);
/// ```
pub struct Swap<T>(ArcSwap<T>);

impl<T> Swap<T> {
    /// Starts with `value`.
    pub fn new(value: T) -> Self {
        Self(ArcSwap::from_pointee(value))
    }

    /// The current version, for a short look: cheaper than [`Swap::get`], but do not hold it
    /// across an await.
    pub fn load(&self) -> Loaded<T> {
        Loaded(self.0.load())
    }

    /// The current version, to keep.
    pub fn get(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Replaces the value.
    pub fn store(&self, value: T) {
        self.0.store(Arc::new(value));
    }

    /// Replaces the value by one that is already shared.
    pub fn store_shared(&self, value: Arc<T>) {
        self.0.store(value);
    }
}

impl<T> From<Arc<T>> for Swap<T> {
    fn from(value: Arc<T>) -> Self {
        Self(ArcSwap::new(value))
    }
}

impl<T: fmt::Debug> fmt::Debug for Swap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Swap").field(&*self.load()).finish()
    }
}

impl<T: Default> Default for Swap<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// A look at the value of a [`Swap`].
pub struct Loaded<T>(Guard<Arc<T>>);

impl<T> Deref for Loaded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Loaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
