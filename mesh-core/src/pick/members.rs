//! Members: those of a set that belong to one group, by their place in the group.

use crate::endpoint::Member;
use std::ops::Range;

/// Which members of a set belong to a group.
#[derive(Debug)]
pub(super) enum Places {
    /// Those that stand side by side: nothing to look up.
    Range(Range<usize>),
    /// By index into the set.
    List(Box<[u32]>),
}

impl Places {
    /// Of a set.
    pub(super) fn of<'a, C>(&'a self, set: &'a [Member<C>]) -> Members<'a, C> {
        match self {
            Self::Range(range) => {
                let all = set.get(range.clone()).unwrap_or_default();
                Members { all, start: range.start, list: None }
            }
            Self::List(list) => Members { all: set, start: 0, list: Some(list) },
        }
    }
}

impl From<Vec<u32>> for Places {
    fn from(list: Vec<u32>) -> Self {
        match (list.first(), list.last()) {
            (Some(first), Some(last))
                if list.iter().zip(*first..).all(|(place, at)| *place == at) =>
            {
                Self::Range(*first as usize..*last as usize + 1)
            }
            _ => Self::List(list.into()),
        }
    }
}

/// The members of a group, in the order of the set.
#[derive(Debug)]
pub(super) struct Members<'a, C> {
    all: &'a [Member<C>],
    /// Index into the set of the first of `all`.
    start: usize,
    list: Option<&'a [u32]>,
}

// By hand: derived ones would ask the same of `C`.
impl<C> Clone for Members<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Members<'_, C> {}

impl<'a, C> Members<'a, C> {
    /// How many there are.
    pub(super) const fn len(self) -> usize {
        match self.list {
            None => self.all.len(),
            Some(list) => list.len(),
        }
    }

    /// The one at a place below [`Members::len`].
    pub(super) fn get(self, place: usize) -> Option<&'a Member<C>> {
        match self.list {
            None => self.all.get(place),
            Some(list) => self.all.get(*list.get(place)? as usize),
        }
    }

    /// The index into the set of the one at a place.
    pub(super) fn index(self, place: usize) -> Option<usize> {
        match self.list {
            None => (place < self.all.len()).then_some(self.start + place),
            Some(list) => list.get(place).map(|index| *index as usize),
        }
    }

    /// All, by place.
    pub(super) fn iter(self) -> impl Iterator<Item = &'a Member<C>> {
        (0..self.len()).filter_map(move |place| self.get(place))
    }
}
