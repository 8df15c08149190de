//! Recent: the endpoints of a set that answered last.
//!
//! An endpoint that has just answered has a free place again, and its latency is the newest that
//! there is. Comparing the last eight with a few drawn ones finds a good endpoint more often than
//! drawing sixteen, at half of the cost (`docs/balancing.md`).
//!
//! Eight slots; a slot names a *seat*, which is a group of the picker and a place in it, and when
//! it answered. Of the slots, the one heard of longest ago makes room. Writers that meet may lose
//! one of two entries, or write one twice: no harm, since entries are only looked at.

use super::pool::Pool;
use super::tick::{age, tick};
use crate::Timestamp;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How many are remembered.
const REMEMBERED: usize = 8;
/// How much of the logarithm of the average the newest answer is.
const NEWEST: f32 = 0.02;
/// A change of the average below this is not worth a write to a word that all threads read.
const WORTH: f32 = 0.002;
/// The same of the spread.
const WORTH_OF_SPREAD: f32 = 0.001;
/// How long reports count as coming, after the last.
const REPORTING: Duration = Duration::from_secs(10);
/// How often the service time must contain the round trip of a probe.
const ROUND_TRIPS: f32 = 8.0;
/// Seconds that calls must last, lest a probe costs as much as a call.
const SHORTEST_CALL: f32 = 0.002;
/// How much of the round trip the newest is: a shorter one says more, for any pause makes one
/// longer.
const SHORTER: f32 = 0.5;
const LONGER: f32 = 0.1;
/// How often a round trip that was too long is measured again.
const MEASURE_AGAIN: Duration = Duration::from_secs(10);
/// Longest that a call waits for the answers to its probes.
const PATIENCE: Duration = Duration::from_millis(50);

/// What the endpoints of a set share.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// Seat (40 bits: 16 of the group, 24 of the place) and tick (24 bits); 0 when empty.
    slots: [AtomicU64; REMEMBERED],
    groups: AtomicU32,
    /// Average latency of successes in seconds, of logarithms; bits of `f32`.
    average: AtomicU32,
    /// Mean distance of the logarithm of a latency from what was expected of its endpoint; bits of
    /// `f32`.
    spread: AtomicU32,
    /// Round trip of probes in seconds; bits of `f32`, 0 until the first.
    round_trip: AtomicU32,
    /// When one was too long for the last time; nanoseconds.
    too_long_at: AtomicU64,
    /// When a report came last; nanoseconds, 0 if never.
    reported_at: AtomicU64,
    /// Of `Prequal`.
    pool: Pool,
}

/// Where a group's policy finds an endpoint: the group and the place in it. 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat(u64);

const PLACES: u64 = 1 << 24;

impl Seat {
    /// None for a place beyond the first 16 million: it is then only found by drawing.
    pub(crate) fn new(group: u16, place: usize) -> Self {
        let place = place as u64;
        Self(if place < PLACES { (u64::from(group) << 24) | place } else { 0 })
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) const fn group(self) -> u16 {
        (self.0 >> 24) as u16
    }

    pub(super) const fn place(self) -> usize {
        (self.0 & (PLACES - 1)) as usize
    }
}

impl Recent {
    /// A number for a group; never 0. It comes round after 65,535 groups, when nobody remembers.
    pub(crate) fn group(&self) -> u16 {
        (self.groups.fetch_add(1, Relaxed) % u32::from(u16::MAX)) as u16 + 1
    }

    /// The endpoint in this seat has answered.
    pub(crate) fn heard(&self, seat: Seat, now: Timestamp) {
        if seat.0 == 0 {
            return;
        }
        let tick = tick(now);
        let entry = (seat.0 << 24) | tick;
        let mut oldest = (0, 0);
        for (index, slot) in self.slots.iter().enumerate() {
            let word = slot.load(Relaxed);
            if word >> 24 == seat.0 {
                if word != entry {
                    slot.store(entry, Relaxed);
                }
                return;
            }
            let age = if word == 0 { u64::MAX } else { age(word, tick) };
            if age >= oldest.0 {
                oldest = (age, index);
            }
        }
        if let Some(slot) = self.slots.get(oldest.1) {
            slot.store(entry, Relaxed);
        }
    }

    /// The places in a group that answered last, in no order.
    pub(crate) fn places(&self, group: u16) -> impl Iterator<Item = usize> + '_ {
        self.slots.iter().filter_map(move |slot| {
            let word = slot.load(Relaxed);
            (word >> 48 == u64::from(group)).then_some(((word >> 24) & (PLACES - 1)) as usize)
        })
    }

    /// What probes brought.
    pub(crate) const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Average latency in seconds; 0 if nothing has answered.
    pub(crate) fn average(&self) -> f32 {
        f32::from_bits(self.average.load(Relaxed))
    }

    /// A success of any endpoint.
    pub(crate) fn succeeded(&self, latency: Duration) {
        let (old, latency) = (self.average(), latency.as_secs_f32().clamp(1e-6, 300.0));
        let new = if old > 0.0 { old * (latency / old).powf(NEWEST) } else { latency };
        if (new - old).abs() > old * WORTH {
            self.average.store(new.to_bits(), Relaxed);
        }
    }

    /// By how much latencies differ from what is expected of their endpoints, in logarithms; 0 if
    /// nothing is known.
    pub(crate) fn spread(&self) -> f32 {
        f32::from_bits(self.spread.load(Relaxed))
    }

    /// A latency was so far from what was expected, in logarithms.
    pub(crate) fn differed(&self, distance: f32) {
        let old = self.spread();
        let change = (distance - old) * NEWEST;
        if change.abs() > WORTH_OF_SPREAD {
            self.spread.store((old + change).to_bits(), Relaxed);
        }
    }

    /// A report came.
    pub(crate) fn reported(&self, now: Timestamp) {
        // To the tick: a write per millisecond, not per response.
        if self.reported_at.load(Relaxed) >> 20 != now.as_nanos() >> 20 {
            self.reported_at.store(now.as_nanos(), Relaxed);
        }
    }

    /// A probe was answered after this time. One answer counts as at most twice what was known:
    /// an endpoint that hangs says little about the way to the others.
    pub(crate) fn probed(&self, round_trip: Duration) {
        let (old, new) = (self.round_trip(), round_trip.as_secs_f32());
        let blended = match old {
            0.0 => new,
            _ if new < old => old + (new - old) * SHORTER,
            _ => old + (new.min(2.0 * old) - old) * LONGER,
        };
        self.round_trip.store(blended.max(1e-9).to_bits(), Relaxed);
    }

    fn round_trip(&self) -> f32 {
        f32::from_bits(self.round_trip.load(Relaxed))
    }

    /// Whether reports come.
    pub(crate) fn is_reporting(&self, now: Timestamp) -> bool {
        let at = self.reported_at.load(Relaxed);
        at != 0 && now.since(Timestamp::from_nanos(at)) <= REPORTING
    }

    /// Whether reports come, and asking for one takes little of the time of a call. Where it takes
    /// much, one call in a while finds out whether it still does.
    pub(crate) fn is_worth_asking(&self, now: Timestamp) -> bool {
        let average = self.average();
        self.is_reporting(now)
            && average >= SHORTEST_CALL
            && (self.round_trip() * ROUND_TRIPS <= average || self.measures_again(now))
    }

    #[cold]
    fn measures_again(&self, now: Timestamp) -> bool {
        let last = self.too_long_at.load(Relaxed);
        let due = last != 0 && now.since(Timestamp::from_nanos(last)) >= MEASURE_AGAIN;
        if last != 0 && !due {
            return false;
        }
        let mine = self.too_long_at.compare_exchange(last, now.as_nanos().max(1), Relaxed, Relaxed);
        due && mine.is_ok()
    }

    /// How long a call may wait for what it asks.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs_f32(self.average().clamp(0.0, 300.0) / ROUND_TRIPS).min(PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tick::TICKS;
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis << 20)
    }

    fn places(recent: &Recent, group: u16) -> Vec<usize> {
        let mut places: Vec<_> = recent.places(group).collect();
        places.sort_unstable();
        places
    }

    #[test]
    fn the_last_eight_are_remembered_each_once() {
        let recent = Recent::default();
        let group = recent.group();
        assert!(places(&recent, group).is_empty());
        for (n, place) in [9, 9, 3, 0, 1, 2, 3, 4, 5, 9, 6, 7].into_iter().enumerate() {
            recent.heard(Seat::new(group, place), at(n as u64));
        }
        assert_eq!(places(&recent, group), [1, 2, 3, 4, 5, 6, 7, 9], "0 was heard longest ago");
    }

    #[test]
    fn groups_do_not_see_each_other() {
        let recent = Recent::default();
        let (one, two) = (recent.group(), recent.group());
        assert_ne!(one, two);
        recent.heard(Seat::new(one, 5), at(1));
        recent.heard(Seat::from_bits(0), at(2));
        assert_eq!((places(&recent, one), places(&recent, two)), (vec![5], vec![]));
        (0..65_535).for_each(|_| assert_ne!(recent.group(), 0));
    }

    #[test]
    fn a_tick_that_comes_round_is_the_newest() {
        let recent = Recent::default();
        let group = recent.group();
        for n in 0..8 {
            recent.heard(Seat::new(group, n), at(TICKS - 7 + n as u64));
        }
        recent.heard(Seat::new(group, 8), at(TICKS + 1));
        assert_eq!(places(&recent, group), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn the_average_is_of_logarithms() {
        let recent = Recent::default();
        assert_eq!(recent.average(), 0.0);
        for n in 0..2_000 {
            recent.succeeded(Duration::from_millis(if n % 2 == 0 { 1 } else { 100 }));
        }
        assert!((recent.average() - 0.01).abs() < 0.001, "{}", recent.average());
    }

    #[test]
    fn asking_is_worth_it_only_where_reports_come_and_the_way_is_short() {
        let recent = Recent::default();
        recent.succeeded(Duration::from_millis(40));
        assert!(!recent.is_worth_asking(at(1_000)), "nobody reports");
        recent.reported(at(1_000));
        assert!(recent.is_worth_asking(at(1_000)), "the round trip is not known yet");
        recent.probed(Duration::from_millis(1));
        assert!(recent.is_worth_asking(at(1_000)));
        assert!(!recent.is_worth_asking(at(20_000)), "reports have stopped");
        assert_eq!(recent.patience(), Duration::from_millis(5));
        (0..100).for_each(|_| recent.probed(Duration::from_millis(20)));
        assert!(!recent.is_worth_asking(at(1_000)), "half of a call's time");
    }

    #[test]
    fn a_way_that_was_too_long_is_measured_again_after_a_while() {
        let recent = Recent::default();
        recent.succeeded(Duration::from_millis(40));
        recent.probed(Duration::from_millis(30));
        let mut asked = Vec::new();
        for second in 1..25 {
            recent.reported(at(second * 1_000));
            asked.extend(recent.is_worth_asking(at(second * 1_000)).then_some(second));
        }
        assert_eq!(asked, [11, 21]);
        (0..6).for_each(|_| recent.probed(Duration::from_millis(1)));
        assert!(recent.is_worth_asking(at(24_000)), "short answers are believed soon");
    }

    #[test]
    fn one_endpoint_that_hangs_does_not_end_the_asking() {
        let recent = Recent::default();
        recent.succeeded(Duration::from_millis(40));
        recent.reported(at(1_000));
        for n in 0..1_000 {
            recent.probed(Duration::from_millis(if n % 3 == 0 { 1_000 } else { 1 }));
        }
        assert!(recent.is_worth_asking(at(1_000)));
    }

    #[test]
    fn calls_that_are_over_at_once_are_not_worth_a_probe() {
        let recent = Recent::default();
        recent.succeeded(Duration::from_millis(1));
        recent.reported(at(1_000));
        assert!(!recent.is_worth_asking(at(1_000)), "even before any round trip is known");
    }
}
