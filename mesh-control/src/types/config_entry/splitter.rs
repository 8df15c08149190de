//! `service-splitter`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::is_default;

/// In which shares the calls of a service go where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServiceSplitter {
    /// The service.
    pub name: String,
    /// The shares; their weights sum up to 100.
    pub splits: Vec<Split>,
    /// For people and tools.
    #[serde(skip_serializing_if = "is_default")]
    pub meta: BTreeMap<String, String>,
}

/// One share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Split {
    /// In percent, in steps of 0.01.
    pub weight: f64,
    /// The service that gets it. That of the splitter.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// The subset that gets it. The default one.
    #[serde(skip_serializing_if = "is_default")]
    pub service_subset: String,
    /// The namespace of the service.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: String,
    /// Edits of the fields of requests.
    #[serde(skip_serializing_if = "is_default")]
    pub request_headers: Option<HeaderEdits>,
    /// Edits of the fields of responses.
    #[serde(skip_serializing_if = "is_default")]
    pub response_headers: Option<HeaderEdits>,
}

/// Edits of header fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HeaderEdits {
    /// Fields that get this value beside those they have.
    #[serde(skip_serializing_if = "is_default")]
    pub add: BTreeMap<String, String>,
    /// Fields that get this value and no other.
    #[serde(skip_serializing_if = "is_default")]
    pub set: BTreeMap<String, String>,
    /// Names of fields that go.
    #[serde(skip_serializing_if = "is_default")]
    pub remove: Vec<String>,
}

impl ServiceSplitter {
    /// Weights are of whole hundredths.
    pub(super) fn canonicalize(&mut self) {
        for split in &mut self.splits {
            split.weight = (split.weight * 100.0).round() / 100.0;
        }
    }
}
