//! Probes: endpoints that are asked for a report before a pick.

use super::group::{Candidates, Scope};
use super::{PickArgs, Picker, Policy};
use crate::Draw;
use crate::endpoint::Member;
use crate::health::Standing;
use std::time::Duration;

/// Most endpoints that are asked for one call.
pub const MAX_PROBES: usize = 5;

/// Endpoints to ask for a report.
#[derive(Debug)]
#[non_exhaustive]
pub struct Probes<'a, C = ()> {
    members: [Option<&'a Member<C>>; MAX_PROBES],
    /// Whether to wait for the answers before the pick, or to let them come for later ones.
    pub wait: bool,
    /// Longest that the wait may take: an eighth of the average latency, at most 50 ms.
    pub patience: Duration,
}

// By hand: a derived one would ask for `C: Default`.
impl<C> Default for Probes<'_, C> {
    fn default() -> Self {
        Self { members: [None; MAX_PROBES], wait: false, patience: Duration::ZERO }
    }
}

impl<'a, C> Probes<'a, C> {
    /// Adds one that is not there yet, while there is room.
    pub(super) fn push(&mut self, member: &'a Member<C>) {
        let known = |slot: &Option<&Member<C>>| slot.is_some_and(|one| std::ptr::eq(one, member));
        if !self.members.iter().any(known)
            && let Some(slot) = self.members.iter_mut().find(|slot| slot.is_none())
        {
            *slot = Some(member);
        }
    }
}

impl<'a, C> IntoIterator for Probes<'a, C> {
    type Item = &'a Member<C>;
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<Self::Item>, MAX_PROBES>>;

    fn into_iter(self) -> Self::IntoIter {
        self.members.into_iter().flatten()
    }
}

impl<C> Picker<C> {
    /// Endpoints to ask for a report before [`Picker::pick`], at most five; usually none. The
    /// caller asks them all at once, and hands what comes to
    /// [`Load::probed`](crate::load::Load::probed). If [`Probes::wait`] says so, which it does with
    /// `ExpectedWait`, it waits for the answers before it picks, no longer than
    /// [`Probes::patience`]; with `Prequal` it picks at once, and answers count for later calls. Those
    /// that have not answered within the patience are to be told so:
    /// [`Load::unanswered`](crate::load::Load::unanswered).
    ///
    /// Cost when nobody reports: two loads; with a policy that never asks ([`Config::may_probe`](super::Config::may_probe)),
    /// none.
    pub fn probes(&self, args: &PickArgs<'_>, draw: &mut impl Draw) -> Probes<'_, C> {
        self.asked(args, draw).unwrap_or_default()
    }

    fn asked(&self, args: &PickArgs<'_>, draw: &mut impl Draw) -> Option<Probes<'_, C>> {
        let may = match self.config.policy {
            Policy::ExpectedWait => {
                self.config.probes && self.set.recent().is_worth_asking(args.now)
            }
            _ => self.config.may_probe(),
        };
        if !may {
            return None;
        }
        let levels = self.levels_for(args).ok()?;
        let threshold = self.config.panic_threshold;
        let (level, standing) = match args.priority {
            0 => levels.draw(&self.set, threshold, draw),
            priority => (levels.from(priority).first(), Standing::Healthy),
        };
        let level = level?;
        let group = levels.draw_group(level, standing, &self.set, threshold, draw)?;
        let scope = Scope { levels, level, standing, allow_avoided: false };
        let members = group.members(self.set.members());
        let mut probes = group.probes(&Candidates { picker: self, scope, members, args }, draw);
        probes.patience = self.set.recent().patience();
        Some(probes)
    }
}
