//! Pool: what endpoints answered to probes, as Prequal chooses by it.
//!
//! ```text
//! an answer comes     replaces the one of the same endpoint, else the oldest if the pool is full
//! hot                 requests in flight (RIF) above the `rifQuantile` of the last 64 answers
//! choice              the cold one of least latency; if all are hot, the one of least RIF
//! after a use         RIF + 1; gone after `b` uses
//! after each choice   the oldest, then the next time the worst, and so on, is taken away
//! worst               the hot one of most RIF; if none is hot, the one of most latency
//! ```
//!
//! Cold and hot in this order (*hot-cold lexicographic rule*): latency tells the fast from the slow
//! before they are full, the quantile keeps from those that are about to be.
//!
//! A set has one pool, of which each group of its picker sees its own endpoints. Two words for each
//! answer, without lock or order: threads that meet may use one answer both, or read the numbers
//! of the one that has just taken its place.
//!
//! Source: Wydrowski, Kleinberg, Rumble, Archer, "Load is not what you should balance: Introducing
//! Prequal" (NSDI 2024), §4.

use super::Seat;
use super::tick::{TICKS, age, tick};
use crate::Timestamp;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Most answers that are kept, whatever is configured.
pub(crate) const MOST: usize = 32;
/// Answers whose requests in flight the quantile is of.
const COUNTED: usize = 64;

/// Answers to probes. Off, and empty, until [`Pool::configure`].
#[derive(Debug)]
pub(crate) struct Pool {
    slots: [Slot; MOST],
    /// How many slots are used; 0: off.
    size: AtomicU32,
    /// Bits of `f32`.
    quantile: AtomicU32,
    /// Requests in flight of the last answers.
    counted: [AtomicU16; COUNTED],
    /// How many answers were counted.
    answers: AtomicU32,
    /// Beyond this, an endpoint is hot.
    threshold: AtomicU32,
    /// Whether the next to be taken away is the worst, in its lowest bit.
    turn: AtomicU32,
}

/// One answer; a seat of 0 is none.
#[derive(Debug, Default)]
struct Slot {
    /// Seat (40 bits) and tick (24 bits).
    key: AtomicU64,
    /// A [`Said`].
    said: AtomicU64,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            slots: [const { Slot { key: AtomicU64::new(0), said: AtomicU64::new(0) } }; MOST],
            size: AtomicU32::new(0),
            quantile: AtomicU32::new(0),
            counted: [const { AtomicU16::new(0) }; COUNTED],
            answers: AtomicU32::new(0),
            threshold: AtomicU32::new(0),
            turn: AtomicU32::new(0),
        }
    }
}

/// What one endpoint answered, with its uses since.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Said {
    /// Requests in flight, one more for each use.
    pub(crate) in_flight: u16,
    /// Seconds.
    pub(crate) latency: f32,
    uses: u16,
}

impl Said {
    fn pack(self) -> u64 {
        (u64::from(self.latency.to_bits()) << 32)
            | (u64::from(self.in_flight) << 16)
            | u64::from(self.uses)
    }

    fn unpack(word: u64) -> Self {
        Self {
            latency: f32::from_bits((word >> 32) as u32),
            in_flight: (word >> 16) as u16,
            uses: word as u16,
        }
    }
}

/// An answer in the pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    slot: usize,
    key: u64,
    /// The place of the endpoint in its group.
    pub(crate) place: usize,
    pub(crate) said: Said,
    /// In ticks.
    age: u64,
}

impl Pool {
    /// Keeps so many answers, and calls those hot that have more in flight than this share of the
    /// last ones.
    pub(crate) fn configure(&self, size: u32, quantile: f64) {
        self.size.store(size.min(MOST as u32), Relaxed);
        self.quantile.store((quantile as f32).to_bits(), Relaxed);
    }

    fn slots(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.slots.iter().enumerate().take(self.size.load(Relaxed) as usize)
    }

    /// The endpoint in this seat answered a probe.
    pub(crate) fn heard(&self, seat: Seat, now: Timestamp, in_flight: u32, latency: Duration) {
        if seat.bits() == 0 || self.size.load(Relaxed) == 0 {
            return;
        }
        let in_flight = in_flight.min(u32::from(u16::MAX)) as u16;
        self.count(in_flight);
        let tick = tick(now);
        let mut chosen = (0, 0);
        for (index, slot) in self.slots() {
            let key = slot.key.load(Relaxed);
            let age = match key {
                key if key >> 24 == seat.bits() => u64::MAX,
                0 => TICKS + 1,
                key => age(key, tick),
            };
            if age >= chosen.0 {
                chosen = (age, index);
            }
        }
        if let Some(slot) = self.slots.get(chosen.1) {
            let said = Said { in_flight, latency: latency.as_secs_f32(), uses: 0 };
            slot.said.store(said.pack(), Relaxed);
            slot.key.store((seat.bits() << 24) | tick, Relaxed);
        }
    }

    /// The endpoint in this seat left a probe unanswered.
    pub(crate) fn unanswered(&self, seat: Seat) {
        for (_, slot) in self.slots() {
            let key = slot.key.load(Relaxed);
            if key != 0 && key >> 24 == seat.bits() {
                take(slot, key);
            }
        }
    }

    fn count(&self, in_flight: u16) {
        let answers = self.answers.fetch_add(1, Relaxed) as usize;
        if let Some(slot) = self.counted.get(answers % COUNTED) {
            slot.store(in_flight, Relaxed);
        }
        let mut sorted = [0; COUNTED];
        for (copy, slot) in sorted.iter_mut().zip(&self.counted) {
            *copy = slot.load(Relaxed);
        }
        let known = (answers + 1).min(COUNTED);
        let quantile = f32::from_bits(self.quantile.load(Relaxed));
        let rank = ((quantile * known as f32).ceil() as usize).clamp(1, known);
        if let Some(known) = sorted.get_mut(..known) {
            let (_, threshold, _) = known.select_nth_unstable(rank - 1);
            // At 1 nothing is hot, however often it is used.
            let threshold = if quantile >= 1.0 { u16::MAX } else { *threshold };
            self.threshold.store(threshold.into(), Relaxed);
        }
    }

    /// Whether it has more in flight than most.
    pub(crate) fn is_hot(&self, said: Said) -> bool {
        u32::from(said.in_flight) > self.threshold.load(Relaxed)
    }

    /// The answers of a group's endpoints of at most this age; what is older is forgotten.
    pub(crate) fn answers(
        &self,
        group: u16,
        now: Timestamp,
        longest: Duration,
    ) -> impl Iterator<Item = Answer> {
        let now = tick(now);
        let longest = (longest.as_nanos() >> 20).min(u128::from(TICKS / 2)) as u64;
        self.slots().filter_map(move |(index, slot)| {
            let key = slot.key.load(Relaxed);
            let seat = Seat::from_bits(key >> 24);
            let age = age(key, now);
            if key == 0 || seat.group() != group {
                return None;
            }
            if age > longest {
                take(slot, key);
                return None;
            }
            let said = Said::unpack(slot.said.load(Relaxed));
            Some(Answer { slot: index, key, place: seat.place(), said, age })
        })
    }

    /// An answer was used: gone if it was by more than `most`, which is rounded by chance so that
    /// its mean stays; `chance` is in `[0, 1)`.
    pub(crate) fn used(&self, answer: Answer, most: f64, chance: f64) {
        let Some(slot) = self.slots.get(answer.slot) else { return };
        let said = Said {
            in_flight: answer.said.in_flight.saturating_add(1),
            uses: answer.said.uses.saturating_add(1),
            ..answer.said
        };
        let left = most - f64::from(said.uses);
        if left <= 0.0 || (left < 1.0 && chance >= left) {
            take(slot, answer.key);
        } else {
            // Another answer may stand there by now, whose numbers must not be overwritten.
            let _ = slot.said.compare_exchange(answer.said.pack(), said.pack(), Relaxed, Relaxed);
        }
    }

    /// Takes an answer away: now the oldest, now the worst.
    pub(crate) fn remove_one(&self, group: u16, now: Timestamp, longest: Duration) {
        let worst = self.turn.fetch_add(1, Relaxed) & 1 == 1;
        let order = |answer: &Answer| {
            let hot = worst && self.is_hot(answer.said);
            let said = answer.said;
            match (worst, hot) {
                (false, _) => (false, answer.age as f32),
                (true, true) => (true, f32::from(said.in_flight)),
                (true, false) => (false, said.latency),
            }
        };
        let found = self
            .answers(group, now, longest)
            .map(|answer| (order(&answer), answer))
            .max_by(|(one, _), (other, _)| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
        if let Some((_, answer)) = found
            && let Some(slot) = self.slots.get(answer.slot)
        {
            take(slot, answer.key);
        }
    }
}

/// Empties a slot, unless something else is in it by now.
fn take(slot: &Slot, key: u64) {
    // Whoever was first has done it.
    let _ = slot.key.compare_exchange(key, 0, Relaxed, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos((1 << 30) + (millis << 20))
    }

    fn pool(size: u32, quantile: f64) -> Pool {
        let pool = Pool::default();
        pool.configure(size, quantile);
        pool
    }

    fn hear(pool: &Pool, place: usize, millis: u64, in_flight: u32, latency: Duration) {
        pool.heard(Seat::new(1, place), at(millis), in_flight, latency);
    }

    fn places(pool: &Pool, millis: u64) -> Vec<usize> {
        let mut places: Vec<_> =
            pool.answers(1, at(millis), SECOND).map(|answer| answer.place).collect();
        places.sort_unstable();
        places
    }

    #[test]
    fn the_newest_answers_are_kept_one_of_each_endpoint() {
        let pool = pool(4, 0.84);
        for (n, place) in [5, 5, 1, 2, 3, 4, 1].into_iter().enumerate() {
            hear(&pool, place, n as u64, 0, MS);
        }
        assert_eq!(places(&pool, 7), [1, 2, 3, 4], "5 is the oldest, 1 came again");
    }

    #[test]
    fn an_answer_is_gone_when_it_is_old_or_the_next_probe_is_not_answered() {
        let pool = pool(16, 0.84);
        hear(&pool, 1, 0, 0, MS);
        hear(&pool, 2, 500, 0, MS);
        hear(&pool, 3, 500, 0, MS);
        pool.unanswered(Seat::new(1, 3));
        assert_eq!(places(&pool, 900), [1, 2]);
        assert_eq!(places(&pool, 1_200), [2]);
        assert_eq!(places(&pool, 2_000), [0; 0]);
        assert_eq!(pool.answers(2, at(500), SECOND).count(), 0, "of another group");
    }

    #[test]
    fn an_answer_of_hours_ago_is_old() {
        let pool = pool(16, 0.84);
        hear(&pool, 1, 0, 0, MS);
        assert_eq!(places(&pool, 3 * 3_600_000), [0; 0]);
    }

    #[test]
    fn an_answer_of_a_thread_whose_clock_is_ahead_is_the_newest() {
        let pool = pool(2, 0.84);
        hear(&pool, 1, 90, 0, MS);
        hear(&pool, 2, 101, 0, MS);
        assert_eq!(places(&pool, 100), [1, 2]);
        pool.remove_one(1, at(100), SECOND);
        assert_eq!(places(&pool, 100), [2], "the oldest goes");
        hear(&pool, 3, 95, 0, MS);
        hear(&pool, 4, 100, 0, MS);
        assert_eq!(places(&pool, 100), [2, 4], "3 was the oldest");
    }

    #[test]
    fn a_use_does_not_touch_the_answer_that_has_taken_the_place() {
        let pool = pool(1, 0.84);
        hear(&pool, 1, 0, 3, MS);
        let used = pool.answers(1, at(0), SECOND).next().expect("an answer");
        hear(&pool, 2, 1, 50, 9 * MS);
        pool.used(used, 10.0, 0.0);
        let kept = pool.answers(1, at(1), SECOND).next().expect("an answer");
        assert_eq!((kept.place, kept.said.in_flight, kept.said.uses), (2, 50, 0));
    }

    #[test]
    fn nothing_is_kept_until_somebody_wants_it() {
        let pool = Pool::default();
        hear(&pool, 1, 0, 0, MS);
        pool.configure(16, 0.84);
        assert_eq!(places(&pool, 0), [0; 0]);
        pool.heard(Seat::from_bits(0), at(0), 0, MS);
        assert_eq!(places(&pool, 0), [0; 0], "nobody looks for it");
    }

    #[test]
    fn hot_is_what_exceeds_the_quantile_of_the_last_answers() {
        let hot = |quantile, in_flight| {
            let pool = pool(16, quantile);
            (1..=100).for_each(|n| hear(&pool, n, 0, n as u32 % 10, MS));
            pool.is_hot(Said { in_flight, latency: 0.0, uses: 0 })
        };
        // Of 64 answers with 0 to 9 in flight, ceil(0.84 · 64) = 54 have at most 8.
        assert!(!hot(0.84, 8) && hot(0.84, 9));
        assert!(!hot(0.5, 4) && hot(0.5, 6));
        assert!(!hot(0.0, 0) && hot(0.0, 1), "by requests in flight alone");
        assert!(!hot(1.0, u16::MAX), "by latency alone");
    }

    #[test]
    fn a_use_counts_as_in_flight_and_uses_end() {
        let pool = pool(16, 0.84);
        hear(&pool, 1, 0, 3, MS);
        let answer = || pool.answers(1, at(0), SECOND).next();
        pool.used(answer().expect("kept"), 2.5, 0.9);
        pool.used(answer().expect("one use of two and a half"), 2.5, 0.4);
        assert_eq!(answer().expect("by chance a third").said.in_flight, 5);
        pool.used(answer().expect("kept"), 2.5, 0.0);
        assert!(answer().is_none());
        hear(&pool, 1, 0, 3, MS);
        pool.used(answer().expect("kept"), 1.5, 0.6);
        assert!(answer().is_none(), "by chance no second");
    }

    #[test]
    fn the_oldest_and_the_worst_are_taken_away_in_turn() {
        let pool = pool(16, 0.5);
        for (place, in_flight, latency) in
            [(0, 1, 10), (1, 1, 90), (2, 9, 20), (3, 7, 95), (4, 1, 30)]
        {
            hear(&pool, place, place as u64, in_flight, latency * MS);
        }
        let remove = || {
            pool.remove_one(1, at(9), SECOND);
            places(&pool, 9)
        };
        assert_eq!(remove(), [1, 2, 3, 4], "the oldest");
        assert_eq!(remove(), [1, 3, 4], "the hot one with the most in flight");
        assert_eq!(remove(), [3, 4], "the oldest");
        assert_eq!(remove(), [4], "hot before slow");
        hear(&pool, 5, 5, 1, 40 * MS);
        pool.remove_one(1, at(9), SECOND);
        hear(&pool, 6, 6, 1, 35 * MS);
        pool.remove_one(1, at(9), SECOND);
        assert_eq!(places(&pool, 9), [6], "none is hot: the slowest");
    }

    proptest! {
        /// Against a list that does the same, whatever comes.
        #[test]
        fn the_pool_holds_what_a_list_would(
            steps in prop::collection::vec((0u64..400, 0usize..8, 0u32..20, 1u64..100, 0u8..4), 1..60),
        ) {
            let pool = pool(5, 0.84);
            let mut list: Vec<(usize, u64, u32, u32)> = Vec::new();
            let mut now = 0;
            for (gap, place, in_flight, latency, what) in steps {
                // No two of one tick: which of them is older, nobody knows.
                now += gap + 1;
                list.retain(|(_, since, _, _)| now - since <= 953);
                if what == 0 {
                    let oldest = pool.answers(1, at(now), SECOND).max_by_key(|answer| answer.age);
                    if let Some(answer) = oldest {
                        pool.used(answer, 2.0, 0.0);
                        list[0].2 += 1;
                        list[0].3 += 1;
                        list.retain(|(_, _, _, uses)| *uses < 2);
                    }
                } else {
                    hear(&pool, place, now, in_flight, Duration::from_millis(latency));
                    list.retain(|(one, ..)| *one != place);
                    if list.len() == 5 {
                        list.remove(0);
                    }
                    list.push((place, now, in_flight, 0));
                }
                let mut kept: Vec<_> = pool
                    .answers(1, at(now), SECOND)
                    .map(|one| (one.place, now - one.age, u32::from(one.said.in_flight), u32::from(one.said.uses)))
                    .collect();
                kept.sort_unstable_by_key(|(_, since, ..)| *since);
                prop_assert_eq!(&kept, &list);
            }
        }
    }
}
