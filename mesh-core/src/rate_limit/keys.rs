//! Buckets for keys that strangers choose, in a room of fixed size.
//!
//! A table of rows of eight. A key has its bucket in one row; where that is full the bucket that
//! is nearest to full gives way, which is the one that loses least by being forgotten: a bucket
//! that is full is the same as none. So neither room nor work grows with the number of keys, and
//! whoever floods the table pushes out, before anybody over a limit, its own. Rows are allocated
//! when they are first used: a table that nobody asks takes 2 bytes a bucket.

use std::sync::{Mutex, PoisonError};

const WAYS: usize = 8;

/// When a bucket will be full, by the hash of its key.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    key: u64,
    full_at: u64,
}

/// The buckets of the keys that strangers choose, in a table of fixed size.
#[derive(Debug)]
pub struct Keys(Box<[Mutex<Option<Box<Row>>>]>);

type Row = [Bucket; WAYS];

impl Keys {
    /// Room for at least so many buckets.
    #[must_use]
    pub(super) fn new(most: u32) -> Self {
        let rows = usize::try_from(most).unwrap_or(usize::MAX).div_ceil(WAYS).max(1);
        Self((0..rows).map(|_| Mutex::default()).collect())
    }

    /// When the bucket of a key is full; 0 if it is not there.
    pub(super) fn get(&self, key: u64) -> u64 {
        let mut at = 0;
        self.update(key, |full_at| {
            at = full_at;
            None
        });
        at
    }

    /// Changes the bucket of a key, from 0 if it is not there; whether `change` agreed.
    pub(super) fn update(&self, key: u64, change: impl FnOnce(u64) -> Option<u64>) -> bool {
        // Multiply and shift, so that rows are equally likely.
        let row = ((u128::from(key) * self.0.len() as u128) >> 64) as usize;
        let Some(row) = self.0.get(row) else { return false };
        let mut row = row.lock().unwrap_or_else(PoisonError::into_inner);
        let row = row.get_or_insert_default();
        let known = row.iter().position(|bucket| bucket.key == key && bucket.full_at > 0);
        let full_at = known.and_then(|place| row.get(place)).map_or(0, |bucket| bucket.full_at);
        let Some(full_at) = change(full_at) else { return false };
        let bucket = match known {
            Some(place) => row.get_mut(place),
            None => row.iter_mut().min_by_key(|bucket| bucket.full_at),
        };
        if let Some(bucket) = bucket {
            *bucket = Bucket { key, full_at };
        }
        true
    }
}
