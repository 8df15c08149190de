//! Round robin: the next of a fixed rotation, from a random start.
//!
//! With unequal weights the rotation is a schedule by earliest deadline first (`schedule.rs`).

use super::choices::REDRAWS;
use super::group::{Candidates, Found};
use super::members::Members;
use super::schedule::Schedule;
use crate::Draw;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[derive(Debug)]
pub(super) struct RoundRobin {
    /// `None` if all weights are equal.
    schedule: Option<Schedule>,
    /// 0 until the first pick.
    turn: AtomicUsize,
}

impl RoundRobin {
    pub(super) fn new<C>(members: Members<'_, C>) -> Self {
        Self { schedule: Schedule::of_members(members), turn: AtomicUsize::new(0) }
    }

    pub(super) fn pick<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
    ) -> Option<Found<'a, C>> {
        // One that is in slow start and not to be taken this time.
        let mut spare = None;
        for _ in 0..=REDRAWS {
            let mut turn = self.turn.fetch_add(1, Relaxed);
            if turn == 0 {
                // Clients that start together must not walk in step.
                turn = draw.bits() as usize >> 8;
                self.turn.store(turn.wrapping_add(1), Relaxed);
            }
            let place = match &self.schedule {
                Some(schedule) => schedule.at(turn),
                None => turn.checked_rem(candidates.len())?,
            };
            if let Some(found) = candidates.usable(place) {
                if candidates.is_warm(found.member, draw) {
                    return Some(found);
                }
                spare = Some(found);
            }
        }
        spare
    }
}
