//! A node: where an agent runs, or what somebody else registered as one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A node as the catalog keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct Node {
    /// A UUID, or empty for nodes that were registered without one.
    #[serde(rename = "ID")]
    pub id: String,
    /// The node's name, which is its key.
    #[serde(rename = "Node")]
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// The datacenter that it belongs to.
    pub datacenter: String,
    /// Further addresses by name, such as `lan` and `wan`.
    #[serde(with = "super::null")]
    pub tagged_addresses: BTreeMap<String, String>,
    /// Whatever its owner wants to say of it.
    #[serde(with = "super::null")]
    pub meta: BTreeMap<String, String>,
    /// The revision that made it.
    pub create_index: u64,
    /// The revision that changed it last.
    pub modify_index: u64,
}
