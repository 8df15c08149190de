//! Ticks: instants in 24 bits, for words that hold something else too.
//!
//! A tick is about a millisecond, and ticks come round after 4.9 hours. Threads read the clock each for
//! itself, so that a word may have been written by one that was ahead: what is up to a second ahead
//! counts as of this moment.

use crate::Timestamp;

/// The last tick before the first comes again.
pub(super) const TICKS: u64 = (1 << 24) - 1;
/// About a second.
const AHEAD: u64 = 1 << 10;

/// The tick of an instant.
pub(super) const fn tick(now: Timestamp) -> u64 {
    (now.as_nanos() >> 20) & TICKS
}

/// Ticks since the one in the lowest bits of `word`.
pub(super) const fn age(word: u64, now: u64) -> u64 {
    match now.wrapping_sub(word) & TICKS {
        age if age > TICKS - AHEAD => 0,
        age => age,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_right_when_ticks_come_round_and_zero_for_what_is_a_little_ahead() {
        assert_eq!(age(TICKS - 2, 4), 7);
        assert_eq!(age(0x00ab_cd00_0010, 0x14), 4, "what else is in the word does not matter");
        assert_eq!(age(5, 4), 0);
        assert_eq!(age(0, TICKS - AHEAD), TICKS - AHEAD, "old, and not ahead");
    }
}
