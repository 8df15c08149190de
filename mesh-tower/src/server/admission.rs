//! Admission: how many requests a server works on at once.
//!
//! One counter. A request is admitted if fewer than `limit` are being served, counted until
//! its response body ends; otherwise it is refused at once with
//! [`ErrorKind::Shed`](mesh_core::ErrorKind::Shed), because a queue would only add waiting to
//! work that is already too much.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts the requests being served, up to a limit.
#[derive(Debug)]
pub(super) struct Admission {
    limit: Option<usize>,
    serving: AtomicUsize,
}

impl Admission {
    pub(super) fn new(limit: Option<usize>) -> Arc<Self> {
        Arc::new(Self { limit, serving: AtomicUsize::new(0) })
    }

    /// Takes a place; `None` if all are taken.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Place> {
        // Counted first, so that two requests cannot both take the last place.
        let before = self.serving.fetch_add(1, Relaxed);
        let place = Place(self.clone());
        self.limit.is_none_or(|limit| before < limit).then_some(place)
    }

    /// Requests being served now.
    pub(super) fn serving(&self) -> usize {
        self.serving.load(Relaxed)
    }

    pub(super) fn limit(&self) -> Option<usize> {
        self.limit
    }
}

/// A request's place among those being served; given back on drop.
#[derive(Debug)]
pub(super) struct Place(Arc<Admission>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_places_come_back() {
        let admission = Admission::new(Some(2));
        let first = admission.admit();
        let second = admission.admit();
        assert!(first.is_some() && second.is_some());
        assert!(admission.admit().is_none());
        assert_eq!(admission.serving(), 2, "a refused request holds no place");
        drop(first);
        assert!(admission.admit().is_some());
    }

    #[test]
    fn without_a_limit_all_are_admitted() {
        let admission = Admission::new(None);
        let places: Vec<_> = (0..1000).map(|_| admission.admit()).collect();
        assert!(places.iter().all(Option::is_some));
        assert_eq!(admission.serving(), 1000);
    }
}
