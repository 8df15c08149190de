//! Subsets: a call names labels, and goes to the endpoints whose metadata has them.
//!
//! ```text
//! labels of the call ── selector with these very keys? ── endpoints with these values? ──► subset
//!                              │ no                          │ no
//!                              └── fallback of the whole     └── fallback of the selector
//! ```
//!
//! | fallback | goes to |
//! |---|---|
//! | `NoFallback` | nowhere: the call fails |
//! | `AnyEndpoint` | any endpoint |
//! | `DefaultSubset` | the endpoints that have the labels of `defaultSubset` |
//! | `KeysSubset` (of selectors) | the subset by `fallbackKeys` alone, with the same values |
//!
//! A call may bring several sets of labels: the first for which there is a subset counts, and only
//! after the last the fallbacks. A subset exists while discovery names an endpoint of it; whether
//! one can be picked is for the panic threshold to say, not for the fallback.
//!
//! Subsets are built with the picker: endpoints × selectors. A pick hashes one number.
//!
//! Source: Envoy "Load balancer subsets" (`fallback_list` is our list of labels). Ours: a call that
//! names no labels is not restricted, unless the fallback is `DefaultSubset`; Envoy applies the
//! fallback to it, so that `NO_FALLBACK` fails it.

use super::caller::Caller;
use super::levels::Levels;
use super::locality::Split;
use crate::endpoint::EndpointSet;
use foldhash::fast::FixedState;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// Settings of subsets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// By which keys there are subsets. None.
    pub selectors: Vec<Selector>,
    /// What becomes of labels for which there is no subset. `NoFallback`.
    pub fallback: Fallback,
    /// The labels of `DefaultSubset`. None, which is any endpoint.
    pub default_subset: BTreeMap<String, String>,
}

/// Keys by which there are subsets, one for each combination of their values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Selector {
    /// Keys of metadata; at least one.
    pub keys: BTreeSet<String>,
    /// What becomes of values for which there is no endpoint. That of all subsets.
    #[serde(default)]
    pub fallback: Option<SelectorFallback>,
    /// The keys that remain for `KeysSubset`; those of another selector, and a part of `keys`.
    #[serde(default)]
    pub fallback_keys: BTreeSet<String>,
}

/// What becomes of a call for whose labels there is no subset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum Fallback {
    /// It fails.
    #[default]
    NoFallback,
    /// It goes to any endpoint.
    AnyEndpoint,
    /// It goes to the endpoints with the labels of `defaultSubset`.
    DefaultSubset,
}

/// What becomes of a call for whose values a selector has no subset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum SelectorFallback {
    /// It fails.
    NoFallback,
    /// It goes to any endpoint.
    AnyEndpoint,
    /// It goes to the endpoints with the labels of `defaultSubset`.
    DefaultSubset,
    /// It goes by `fallbackKeys` alone.
    KeysSubset,
}

impl From<Fallback> for SelectorFallback {
    fn from(fallback: Fallback) -> Self {
        match fallback {
            Fallback::NoFallback => Self::NoFallback,
            Fallback::AnyEndpoint => Self::AnyEndpoint,
            Fallback::DefaultSubset => Self::DefaultSubset,
        }
    }
}

/// Labels that a call names, hashed once.
///
/// ```
/// use mesh_core::pick::Labels;
///
/// let labels = Labels::from_iter([("stage", "canary"), ("version", "2")]);
/// assert_eq!(labels.to_string(), "stage=canary, version=2");
/// assert_eq!("version=2,stage=canary".parse(), Ok(labels));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    hash: u64,
    entries: BTreeMap<String, String>,
}

impl Labels {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.get(key).map(String::as_str)
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether all of them are among an endpoint's.
    pub(super) fn are_in(&self, metadata: &BTreeMap<String, String>) -> bool {
        self.entries.iter().all(|(key, value)| metadata.get(key) == Some(value))
    }

    /// Those under these keys; `None` if one is not there.
    fn only(&self, keys: &BTreeSet<String>) -> Option<Self> {
        of(keys, &self.entries)
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(entries: BTreeMap<String, String>) -> Self {
        Self { hash: FixedState::default().hash_one(&entries), entries }
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        let labels = labels.into_iter().map(|(key, value)| (key.into(), value.into()));
        labels.collect::<BTreeMap<String, String>>().into()
    }
}

impl Default for Labels {
    fn default() -> Self {
        BTreeMap::new().into()
    }
}

/// A text that is no list of labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidLabels(());

impl fmt::Display for InvalidLabels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels are written `key=value`, with commas between them, each key once")
    }
}

impl std::error::Error for InvalidLabels {}

impl FromStr for Labels {
    type Err = InvalidLabels;

    /// Reads `key=value, key=value`; no text is no labels.
    fn from_str(text: &str) -> Result<Self, InvalidLabels> {
        let mut entries = BTreeMap::new();
        for label in text.split(',').map(str::trim).filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once('=').ok_or(InvalidLabels(()))?;
            let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
            if key.is_empty() || entries.insert(key, value).is_some() {
                return Err(InvalidLabels(()));
            }
        }
        Ok(entries.into())
    }
}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (key, value)) in self.entries.iter().enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            write!(f, "{comma}{}={}", key.escape_debug(), value.escape_debug())?;
        }
        Ok(())
    }
}

/// The entries of some metadata under these keys, if all are there.
fn of(keys: &BTreeSet<String>, metadata: &BTreeMap<String, String>) -> Option<Labels> {
    let entry = |key: &String| Some((key.clone(), metadata.get(key)?.clone()));
    keys.iter().map(entry).collect::<Option<BTreeMap<_, _>>>().map(Labels::from)
}

/// The subsets of a set, built with its picker.
#[derive(Debug)]
pub(super) struct Subsets {
    config: Config,
    by_labels: HashMap<Labels, Levels, FixedState>,
    /// Those with the labels of `defaultSubset`; `None` if those are all endpoints.
    default: Option<Levels>,
}

/// Where a call goes by its labels.
#[derive(Debug)]
pub(super) enum Chosen<'a> {
    /// To any endpoint.
    Any,
    /// To those of a subset.
    Subset(&'a Levels),
    /// Nowhere.
    None,
}

impl Subsets {
    /// Of these places of a set, by default all, whose levels are split as those of the whole set.
    pub(super) fn new<C>(
        set: &EndpointSet<C>,
        places: Option<&[u32]>,
        config: &super::Config,
        caller: &Caller,
        split: &Arc<Split>,
    ) -> Option<Self> {
        let subsets = config.subsets.clone()?;
        let all: Vec<u32>;
        let places = match places {
            Some(places) => places,
            None => {
                all = (0..set.members().len() as u32).collect();
                &all
            }
        };
        let metadata = |place: &u32| Some(&*set.members().get(*place as usize)?.spec.metadata);
        let mut found: HashMap<Labels, Vec<u32>, FixedState> = HashMap::default();
        for selector in &subsets.selectors {
            for place in places {
                if let Some(labels) = metadata(place).and_then(|all| of(&selector.keys, all)) {
                    found.entry(labels).or_default().push(*place);
                }
            }
        }
        let levels = |places: &[u32]| Levels::new(set, Some(places), config, caller, split);
        let by_labels = found
            .into_iter()
            .map(|(labels, mut places)| {
                // Two selectors may have the same keys.
                places.sort_unstable();
                places.dedup();
                let levels = levels(&places);
                (labels, levels)
            })
            .collect();
        let default = (!subsets.default_subset.is_empty()).then(|| {
            let has = |place: &&u32| {
                metadata(place).is_some_and(|all| {
                    subsets.default_subset.iter().all(|(key, value)| all.get(key) == Some(value))
                })
            };
            levels(&places.iter().filter(has).copied().collect::<Vec<u32>>())
        });
        Some(Self { config: subsets, by_labels, default })
    }

    /// Where a call goes that names these labels, the preferred first.
    pub(super) fn choose(&self, wanted: &[Labels]) -> Chosen<'_> {
        if let Some(levels) = wanted.iter().find_map(|labels| self.by_labels.get(labels)) {
            return Chosen::Subset(levels);
        }
        match wanted.last() {
            None if self.config.fallback == Fallback::DefaultSubset => self.default_subset(),
            None => Chosen::Any,
            Some(labels) => self.fall_back(labels),
        }
    }

    #[cold]
    fn fall_back(&self, labels: &Labels) -> Chosen<'_> {
        let mut narrowed;
        let mut labels = labels;
        // Each turn takes keys away, which ends it; configuration that does not is refused.
        for _ in 0..=self.config.selectors.len() {
            let keys = |selector: &&Selector| labels.entries.keys().eq(selector.keys.iter());
            let selector = self.config.selectors.iter().find(keys);
            let whole = SelectorFallback::from(self.config.fallback);
            match selector.and_then(|selector| selector.fallback).unwrap_or(whole) {
                SelectorFallback::NoFallback => return Chosen::None,
                SelectorFallback::AnyEndpoint => return Chosen::Any,
                SelectorFallback::DefaultSubset => return self.default_subset(),
                SelectorFallback::KeysSubset => {}
            }
            let Some(rest) = selector.and_then(|own| labels.only(&own.fallback_keys)) else {
                return Chosen::None;
            };
            if let Some(levels) = self.by_labels.get(&rest) {
                return Chosen::Subset(levels);
            }
            narrowed = rest;
            labels = &narrowed;
        }
        Chosen::None
    }

    fn default_subset(&self) -> Chosen<'_> {
        match &self.default {
            None => Chosen::Any,
            Some(levels) if levels.members() > 0 => Chosen::Subset(levels),
            Some(_) => Chosen::None,
        }
    }
}

#[cfg(test)]
#[path = "subset_tests.rs"]
mod tests;
