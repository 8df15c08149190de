//! Key-value pairs below a prefix, one consistent version at a time.
//!
//! One question reads all of them, so what it answers was true at one instant of Consul's log; a
//! [`KvPairs`] is such an answer, whole. A reader that is slower than the writers misses versions in
//! between, and never sees a mixture of two.
//!
//! The last version stays while Consul cannot be read. No key below the prefix is a version too:
//! an empty one. Versions that hold the same as the one before are not told.
//!
//! Source: Consul, API "KV store", read with `recurse`.

use super::client::{Reply, segment};
use super::follow::{Hear, Query, follow};
use super::{Consul, failure};
use crate::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// The pairs below a prefix, as they were at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvPairs {
    /// Consul's index of this version; it grows with each, unless Consul lost its state.
    pub index: u64,
    /// The pairs by their whole key, prefix included.
    pub pairs: BTreeMap<String, KvPair>,
}

impl KvPairs {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Bytes> {
        self.pairs.get(key).map(|pair| &pair.value)
    }
}

/// The value of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvPair {
    /// Its bytes.
    pub value: Bytes,
    /// A number that whoever wrote it gave it.
    pub flags: u64,
    /// Consul's index when it was written last, for a check-and-set.
    pub modify_index: u64,
    /// The session that holds its lock.
    pub session: Option<String>,
}

/// News of a [`KvWatch`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum KvUpdate {
    /// Another version.
    Pairs(Arc<KvPairs>),
    /// Consul cannot be read; the last version stays.
    Failed(Failure),
}

/// Follows the pairs below a prefix. Dropping it ends its task.
///
/// ```no_run
/// use mesh_discovery::Consul;
/// use mesh_discovery::consul::KvUpdate;
///
/// # async fn example() {
/// let mut watch = Consul::default().watch_kv("redis/config/");
/// while let Some(update) = watch.changed().await {
///     if let KvUpdate::Pairs(version) = update {
///         println!("{:?}", version.get("redis/config/devops"));
///     }
/// }
/// # }
/// ```
pub struct KvWatch {
    told: watch::Receiver<Told>,
    task: AbortHandle,
}

#[derive(Default)]
struct Told {
    pairs: Option<Arc<KvPairs>>,
    /// Newer than `pairs`.
    failure: Option<Failure>,
}

impl KvWatch {
    /// The next news; the first comes as soon as Consul was read once. `None`: the runtime is
    /// shutting down. Dropping the future loses nothing.
    pub async fn changed(&mut self) -> Option<KvUpdate> {
        self.told.changed().await.ok()?;
        let told = self.told.borrow_and_update();
        match (&told.failure, &told.pairs) {
            (Some(failure), _) => Some(KvUpdate::Failed(failure.clone())),
            (None, Some(pairs)) => Some(KvUpdate::Pairs(pairs.clone())),
            (None, None) => None,
        }
    }

    /// The last version; `None` before the first.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<KvPairs>> {
        self.told.borrow().pairs.clone()
    }
}

impl Drop for KvWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for KvWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvWatch").finish_non_exhaustive()
    }
}

impl Consul {
    /// Starts to follow the keys that begin with `prefix`; all keys, if it is empty. To be called
    /// inside a tokio runtime.
    #[must_use]
    pub fn watch_kv(&self, prefix: &str) -> KvWatch {
        let prefix = prefix.trim_start_matches('/');
        let escaped: Vec<String> = prefix.split('/').map(segment).collect();
        let mut parameters = vec![("recurse", "1".to_owned())];
        let datacenter = self.inner.config.datacenter.as_ref();
        parameters.extend(datacenter.map(|datacenter| ("dc", datacenter.clone())));
        let query = Query { path: format!("/v1/kv/{}", escaped.join("/")), parameters };
        let (teller, told) = watch::channel(Told::default());
        let task = tokio::spawn(follow(self.inner.clone(), query, Pairs { teller }));
        KvWatch { told, task: task.abort_handle() }
    }
}

struct Pairs {
    teller: watch::Sender<Told>,
}

impl Hear for Pairs {
    fn heard(&mut self, reply: &Reply) -> Result<(), String> {
        let pairs = if reply.found { read(&reply.body)? } else { BTreeMap::new() };
        self.teller.send_if_modified(|told| {
            let over = told.failure.take().is_some();
            if told.pairs.as_ref().is_some_and(|known| known.pairs == pairs) {
                return over;
            }
            told.pairs = Some(Arc::new(KvPairs { index: reply.index, pairs }));
            true
        });
        Ok(())
    }

    fn failed(&mut self, why: String) {
        let failure = failure(why);
        self.teller.send_if_modified(|told| {
            if told.failure.as_ref() == Some(&failure) {
                return false;
            }
            tracing::warn!("{failure}");
            told.failure = Some(failure);
            true
        });
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Written {
    key: String,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    flags: u64,
    #[serde(default)]
    modify_index: u64,
    #[serde(default)]
    session: Option<String>,
}

fn read(body: &[u8]) -> Result<BTreeMap<String, KvPair>, String> {
    let written: Option<Vec<Written>> = serde_json::from_slice(body)
        .map_err(|error| format!("its answer is no list of pairs: {error}"))?;
    let mut pairs = BTreeMap::new();
    for Written { key, value, flags, modify_index, session } in written.unwrap_or_default() {
        let value = STANDARD.decode(value.unwrap_or_default()).map_err(|error| {
            format!("the value of {} is no base64: {error}", super::shown(&key))
        })?;
        pairs.insert(key, KvPair { value: value.into(), flags, modify_index, session });
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_with_their_bytes() {
        let pairs = read(
            br#"[{"Key":"a/b","Value":"AAH/","Flags":42,"ModifyIndex":7,"Session":"s"},
                {"Key":"a/c","Value":null,"LockIndex":0}]"#,
        );
        let pairs = pairs.expect("it can be read");
        let first = KvPair {
            value: Bytes::from_static(&[0, 1, 255]),
            flags: 42,
            modify_index: 7,
            session: Some("s".to_owned()),
        };
        assert_eq!(pairs.get("a/b"), Some(&first));
        assert_eq!(pairs.get("a/c"), Some(&KvPair::default()));
        assert_eq!(read(b"null"), Ok(BTreeMap::new()));
    }

    #[test]
    fn what_is_no_list_of_pairs_is_refused_whole() {
        for (body, why) in [
            (&b""[..], "no list of pairs"),
            (b"{}", "no list of pairs"),
            (br#"[{"Value":"AA=="}]"#, "missing field `Key`"),
            (
                br#"[{"Key":"a","Value":"AA=="},{"Key":"b\u001b","Value":"%"}]"#,
                "b\\u{1b} is no base64",
            ),
            (br#"[{"Key":"a","Flags":-1}]"#, "no list of pairs"),
        ] {
            let told = read(body).expect_err(why);
            assert!(told.contains(why), "{told}");
        }
    }
}
