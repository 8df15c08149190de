//! Admission: how many requests a server works on at once.
//!
//! One counter. A request is admitted if fewer than `limit` are being served, counted until
//! its response body ends; otherwise it is refused at once with [`ErrorKind::Shed`], because a
//! queue would only add waiting to work that is already too much.
//!
//! The limit comes with each request: it may change while requests are being served.

use mesh_core::{Error, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts the requests being served.
///
/// ```
/// use mesh_tower::ErrorKind;
/// use mesh_tower::server::Admission;
/// use std::sync::Arc;
///
/// let admission = Arc::new(Admission::default());
/// let place = admission.admit(Some(1))?;
/// assert_eq!(admission.admit(Some(1)).map_err(|error| error.kind()).err(), Some(ErrorKind::Shed));
/// drop(place);
/// assert!(admission.admit(Some(1)).is_ok());
/// # Ok::<(), mesh_tower::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Admission {
    serving: AtomicUsize,
}

impl Admission {
    /// Takes a place, to be kept until the response is over.
    ///
    /// # Errors
    /// [`ErrorKind::Shed`] while `limit` requests are being served.
    pub fn admit(self: &Arc<Self>, limit: Option<u32>) -> Result<Place, Error> {
        // Counted first, so that two requests cannot both take the last place.
        let before = self.serving.fetch_add(1, Relaxed);
        let place = Place(self.clone());
        match limit {
            Some(limit) if before >= usize::try_from(limit).unwrap_or(usize::MAX) => {
                let why = format!("{limit} requests are being served, which is the limit");
                Err(Error::new(ErrorKind::Shed, why))
            }
            _ => Ok(place),
        }
    }

    /// Requests being served now.
    #[must_use]
    pub fn serving(&self) -> usize {
        self.serving.load(Relaxed)
    }
}

/// A request's place among those being served; given back on drop.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct Place(Arc<Admission>);

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
        let admission = Arc::new(Admission::default());
        let first = admission.admit(Some(2));
        let second = admission.admit(Some(2));
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(admission.admit(Some(2)).map_err(|e| e.kind()).err(), Some(ErrorKind::Shed));
        assert_eq!(admission.serving(), 2, "a refused request holds no place");
        drop(first);
        assert!(admission.admit(Some(2)).is_ok());
    }

    #[test]
    fn a_limit_that_changes_counts_what_is_already_served() {
        let admission = Arc::new(Admission::default());
        let _served = [admission.admit(Some(2)), admission.admit(Some(2))];
        assert!(admission.admit(Some(1)).is_err());
        assert!(admission.admit(Some(3)).is_ok());
    }

    #[test]
    fn without_a_limit_all_are_admitted() {
        let admission = Arc::new(Admission::default());
        let places: Vec<_> = (0..1000).map(|_| admission.admit(None)).collect();
        assert!(places.iter().all(Result::is_ok));
        assert_eq!(admission.serving(), 1000);
    }
}
