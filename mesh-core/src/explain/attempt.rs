//! What only a live request has: a draw, a hash, attempts and an end.

use super::Candidate;
use crate::hash::{self, Input};
use crate::route::Rule;
use serde::{Deserialize, Serialize};

/// The hash that a call is sent by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct HashExplained {
    /// In 16 hexadecimal digits.
    pub hash: String,
    /// What it is made of, in order: `header x-user`.
    pub from: Vec<String>,
}

impl HashExplained {
    /// A hash by the entries of a policy.
    #[must_use]
    pub fn new(hash: u64, entries: &[hash::Config], input: &Input<'_>) -> Self {
        Self { hash: format!("{hash:016x}"), from: hash::sources(entries, input) }
    }

    /// A hash that the caller gave.
    #[must_use]
    pub fn of_caller(hash: u64) -> Self {
        Self { hash: format!("{hash:016x}"), from: vec!["the caller's own key".to_owned()] }
    }
}

/// How one of several destinations is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SplitExplained {
    /// By what.
    pub by: SplitBy,
    /// The place of the chosen one among the rule's destinations, from 0.
    pub index: usize,
}

/// By what one of several destinations is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum SplitBy {
    /// By chance: destinations own numbers by their weights, in order, and one number is drawn.
    #[non_exhaustive]
    Draw {
        /// The number, from 0.
        number: u64,
        /// How many there are: the sum of the weights.
        of: u64,
    },
    /// By the call's hash, so that calls of one hash keep together.
    Hash,
}

impl SplitExplained {
    /// The choice that 64 random bits make, as [`Rule::choose`] makes it; `None` if there is but
    /// one destination, or no weight.
    #[must_use]
    pub fn drawn(rule: &Rule, bits: u64) -> Option<Self> {
        if rule.backends.len() < 2 {
            return None;
        }
        let of: u64 = rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
        let number = ((u128::from(bits) * u128::from(of)) >> 64) as u64;
        let mut up_to = 0;
        let index = rule.backends.iter().position(|backend| {
            up_to += u64::from(backend.weight);
            number < up_to
        })?;
        Some(Self { by: SplitBy::Draw { number, of }, index })
    }

    /// The choice by a hash; `None` if the rule draws for each call.
    #[must_use]
    pub fn kept(rule: &Rule, hash: u64) -> Option<Self> {
        let kept = rule.keep(hash)?;
        let index = rule.backends.iter().position(|backend| std::ptr::eq(backend, kept))?;
        (rule.backends.len() > 1).then_some(Self { by: SplitBy::Hash, index })
    }
}

/// One attempt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AttemptExplained {
    /// Its number, from 1, in the order in which they began.
    pub number: u32,
    /// When it began, in seconds after the call.
    pub after: f64,
    /// Whether it began beside another that was under way (hedging).
    pub beside: bool,
    /// Whom it was for.
    pub destination: String,
    /// Every endpoint, as it was when one was picked.
    pub candidates: Vec<Candidate>,
    /// The endpoint that was picked; `None` if none could be.
    pub endpoint: Option<String>,
    /// Why it: `chosen`, `only`, `panic`, `retried`, `session`.
    pub reason: Option<String>,
    /// How it ended; `None` while it is under way.
    pub outcome: Option<String>,
    /// How long it took to the head of the response or to its end without one, in seconds.
    pub took: Option<f64>,
    /// What followed, if that was considered.
    pub followed: Option<Followed>,
}

/// Whether another attempt followed, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Followed {
    /// Whether another attempt was to follow.
    pub again: bool,
    /// The condition of the policy that asks for it, if one does.
    pub condition: Option<String>,
    /// In words: what allowed it, or what refused it.
    pub why: String,
    /// The wait before it, in seconds.
    pub wait: Option<f64>,
}

/// How a call ended, as far as the head of its response.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Ended {
    /// The status, or the error.
    pub outcome: String,
    /// How long it took, in seconds.
    pub took: f64,
    /// The flag of the error, if it is one.
    pub flag: Option<String>,
}
