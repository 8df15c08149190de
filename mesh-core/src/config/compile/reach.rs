//! Reach: matches that no request comes to, and redirects that lead back to themselves.

use super::super::source::Location;
use super::routes::Candidate;
use super::{Compiler, Problem};
use crate::route::filter::{Answer, PathEdit};
use crate::route::{Match, PathMatch};
use std::sync::Arc;

/// Matches of one host up to which each is compared with each for those that are never reached.
const COMPARED: usize = 1_000;

impl Compiler<'_> {
    /// Tells of redirects whose callers come back to the same rule, for ever.
    pub(super) fn loops(&mut self, candidates: &[Candidate]) {
        for candidate in candidates {
            let Some(then) = followed(candidate) else { continue };
            let first = candidates.iter().find(|next| next.entry.matched.covers(&then));
            if first.is_some_and(|next| Arc::ptr_eq(&next.entry.rule, &candidate.entry.rule))
                && self.warned.insert(candidate.at)
            {
                self.problems.push(
                    Problem::error(
                        "this redirect is a loop: who follows it comes back to this match",
                    )
                    .at(candidate.at),
                );
            }
        }
    }

    /// Warns of matches that an earlier one always takes.
    pub(super) fn unreachable(&mut self, candidates: &[Candidate]) {
        if candidates.len() > COMPARED {
            return;
        }
        for (index, late) in candidates.iter().enumerate() {
            let earlier = candidates[..index].iter().find(|early| {
                early.entry.matched.covers(&late.entry.matched) && early.at != late.at
            });
            if let Some(early) = earlier
                && late.at != Location::default()
                && self.warned.insert(late.at)
            {
                let problem = Problem::warning(format!(
                    "this match is never reached: rule `{}` takes every such request first",
                    early.entry.rule.name
                ));
                let problem = problem.at(late.at);
                self.problems.push(if early.at == Location::default() {
                    problem
                } else {
                    problem.other(early.at, "taken here")
                });
            }
        }
    }
}

/// The match that holds for a caller who followed a redirect, if it comes back to the same host.
fn followed(candidate: &Candidate) -> Option<Match> {
    let filters = candidate.entry.rule.answer.as_deref()?;
    let Some(Answer::Redirect(redirect)) = &filters.answer else { return None };
    if redirect.scheme.is_some() || redirect.host.is_some() || redirect.port.is_some() {
        return None;
    }
    let matched = candidate.entry.matched.clone();
    let path = match &redirect.path {
        None => return Some(matched),
        Some(PathEdit::Full(path)) => PathMatch::Exact(path.clone()),
        Some(PathEdit::Prefix { replacement, .. }) => PathMatch::Prefix(replacement.clone()),
        // Redirects replace whole segments.
        Some(PathEdit::Start { .. }) => return None,
    };
    Some(Match { path, ..matched })
}
