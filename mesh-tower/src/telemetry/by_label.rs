//! Counters by label: an atomic for each value that a label can have.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is counted apart: a closed set of values.
pub(super) trait Label: Copy + PartialEq + 'static {
    /// Every value, in the order of the page.
    const ALL: &'static [Self];
}

/// A count for each of the `N` values of a label; another `N` does not compile.
pub(super) struct ByLabel<L, const N: usize> {
    counts: [AtomicU64; N],
    label: PhantomData<fn(L)>,
}

impl<L: Label, const N: usize> Default for ByLabel<L, N> {
    fn default() -> Self {
        const { assert!(N == L::ALL.len()) }
        Self { counts: [const { AtomicU64::new(0) }; N], label: PhantomData }
    }
}

impl<L: Label, const N: usize> ByLabel<L, N> {
    /// Counts one.
    pub(super) fn add(&self, label: L) {
        for (known, count) in L::ALL.iter().zip(&self.counts) {
            if *known == label {
                count.fetch_add(1, Relaxed);
                return;
            }
        }
    }

    /// The count of each value, never counted ones too.
    pub(super) fn each(&self) -> impl Iterator<Item = (L, u64)> + '_ {
        L::ALL.iter().zip(&self.counts).map(|(label, count)| (*label, count.load(Relaxed)))
    }

    /// The count of each value that was counted.
    pub(super) fn counted(&self) -> impl Iterator<Item = (L, u64)> + '_ {
        self.each().filter(|(_, count)| *count > 0)
    }

    /// The count of one value.
    pub(super) fn of(&self, label: L) -> u64 {
        self.each().find_map(|(known, count)| (known == label).then_some(count)).unwrap_or(0)
    }
}

impl<L: Label + fmt::Debug, const N: usize> fmt::Debug for ByLabel<L, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.counted()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_has_a_count_of_its_own() {
        let counts = ByLabel::<bool, 2>::default();
        counts.add(true);
        counts.add(true);
        assert_eq!(counts.each().collect::<Vec<_>>(), [(false, 0), (true, 2)]);
        assert_eq!(counts.counted().collect::<Vec<_>>(), [(true, 2)]);
        assert_eq!((counts.of(false), counts.of(true)), (0, 2));
        assert_eq!(format!("{counts:?}"), "{true: 2}");
    }
}
