//! Endpoint file: a list of endpoints that another program writes.
//!
//! YAML or JSON, one list:
//!
//! ```yaml
//! - address: 10.0.0.1:8080
//!   weight: 3
//!   locality: { region: eu, zone: eu-1 }
//! - address: 10.0.0.2:8080
//!   health: Draining
//! - 10.0.0.3:8080
//! ```
//!
//! | field | meaning | default |
//! |---|---|---|
//! | `address` | IP address and port; also the identity: of two entries with one address the first counts | required |
//! | `additionalAddresses` | further addresses of the same endpoint (dual stack), tried after the first | none |
//! | `hostname` | name that the endpoint is known by, for TLS | none |
//! | `weight` | share of the calls relative to the others, from 1 | 1 |
//! | `priority` | failover tier; 0 is preferred | 0 |
//! | `locality` | `region`, `zone`, `subZone` | unknown |
//! | `health` | `Healthy`, `Degraded`, `Draining` (nothing new), `Unhealthy` | `Healthy` |
//! | `metadata` | labels, a map of strings | none |
//!
//! Unknown fields are errors. The file is read again when it changes, when it is replaced by
//! a rename, and when a symbolic link on the way to it is (as in Kubernetes, where the link
//! `..data` of a ConfigMap moves to a new directory); also every 10 s, for file systems that
//! tell nothing. A change is read once it has been quiet for 100 ms, 1 s at most: half a list is
//! a list too.
//!
//! A file that is missing, empty, too large (8 MiB) or wrong in any place changes nothing; the
//! failure names file, line and column. An empty list, `[]`, is believed.

mod entry;
mod eyes;

use crate::watch::Publisher;
use crate::{Failure, Resolve, Watch};
use entry::Entry;
use eyes::Eyes;
use mesh_core::{EndpointSpec, ErrorKind};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// How often the file is read if nothing says that it changed.
const POLL: Duration = Duration::from_secs(10);
/// How long a changed file must have been quiet.
const QUIET: Duration = Duration::from_millis(100);
/// How long to wait for quiet.
const RESTLESS: Duration = Duration::from_secs(1);
/// Largest file that is read; room for some 50,000 endpoints.
const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// A file as a source of endpoints; see the [module docs](self).
///
/// ```no_run
/// use mesh_discovery::{EndpointFile, Resolve};
///
/// # async fn example() {
/// let mut watch = EndpointFile::new("endpoints.yaml").watch();
/// while let Some(update) = watch.changed().await {
///     println!("{update:?}");
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct EndpointFile {
    path: PathBuf,
}

impl EndpointFile {
    /// The file at this path, relative to the working directory of now.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        Self { path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()) }
    }
}

impl Resolve for EndpointFile {
    fn watch(&self) -> Watch {
        let path: Arc<Path> = self.path.as_path().into();
        Watch::spawn(|publisher, _nudged| run(path, publisher))
    }
}

async fn run(path: Arc<Path>, mut publisher: Publisher) {
    let changed = Arc::new(Notify::new());
    let mut eyes = Eyes::new(changed.clone());
    let mut before = None;
    loop {
        // Eyes first: what changes while we read is then seen.
        let path = path.clone();
        let looked = tokio::task::spawn_blocking(move || {
            eyes.look_at(&path);
            let text = read(&path);
            (eyes, path, text)
        });
        let Ok((returned, path, text)) = looked.await else { return };
        eyes = returned;
        match text {
            Ok(text) => {
                if before.as_ref() != Some(&text) {
                    match parse(&path, &text) {
                        Ok(specs) => publisher.endpoints(specs),
                        Err(failure) => publisher.failed(failure),
                    }
                    before = Some(text);
                }
            }
            Err(failure) => {
                publisher.failed(failure);
                before = None;
            }
        }
        if timeout(POLL, changed.notified()).await.is_ok() {
            let first = Instant::now();
            while first.elapsed() < RESTLESS && timeout(QUIET, changed.notified()).await.is_ok() {}
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let unread = |error: io::Error| failure(format!("cannot read {}: {error}", path.display()));
    let mut text = Vec::new();
    File::open(path).map_err(unread)?.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(unread)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(failure(format!("{} is larger than {MAX_BYTES} bytes", path.display())));
    }
    Ok(text)
}

fn parse(path: &Path, text: &[u8]) -> Result<Vec<EndpointSpec>, Failure> {
    let text = std::str::from_utf8(text).map_err(|error| {
        let good = text.get(..error.valid_up_to()).unwrap_or_default();
        let line = good.iter().filter(|&&byte| byte == b'\n').count() + 1;
        failure(format!("{}:{line}: not UTF-8", path.display()))
    })?;
    if text.trim().is_empty() {
        return Err(failure(format!("{} is empty: write [] for no endpoints", path.display())));
    }
    let options = serde_saphyr::options! { with_snippet: false };
    let entries: Vec<Entry> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let Some(at) = error.location() else {
                return failure(format!("{}: {error}", path.display()));
            };
            let (line, column) = (at.line(), at.column());
            let text = error.to_string();
            let what = text.trim_end_matches(&format!(" at line {line}, column {column}"));
            failure(format!("{}:{line}:{column}: {what}", path.display()))
        })?;
    Ok(entries.into_iter().map(EndpointSpec::from).collect())
}

fn failure(message: String) -> Failure {
    Failure::new(ErrorKind::NoHealthyEndpoint, message)
}
