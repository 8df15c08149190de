//! The archive of a snapshot: a gzipped tar with `meta.json`, `state.bin` and `SHA256SUMS`.
//!
//! That is the form of Consul's, so that `consul snapshot save`, `inspect` and `restore` work; what
//! is in `state.bin` is ours. A digest of each file is checked before anything is believed.
//!
//! Limit: 1 GiB unpacked.
//!
//! Source: files saved by Consul 1.8.7.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::time::UNIX_EPOCH;

use aws_lc_rs::digest::{SHA256, digest};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::Serialize;

use super::SnapshotError;
use crate::clock::wall;

const META: &str = "meta.json";
const STATE: &str = "state.bin";
const SUMS: &str = "SHA256SUMS";
/// Most bytes of all files together.
const LARGEST: u64 = 1 << 30;

/// What Consul's tools show of a snapshot.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    version: u32,
    #[serde(rename = "ID")]
    id: String,
    index: u64,
    term: u64,
    peers: Option<String>,
    configuration: Configuration,
    configuration_index: u64,
    size: usize,
}

/// The servers of a Raft cluster, which we are not.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Configuration {
    servers: [(); 0],
}

/// Packs a state of this revision.
///
/// # Errors
/// What the archive's writers say.
pub fn pack(state: &[u8], revision: u64) -> io::Result<Vec<u8>> {
    let now = wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    let meta = Meta {
        version: 1,
        id: format!("1-{revision}-{}", now.as_millis()),
        index: revision,
        term: 1,
        peers: None,
        configuration: Configuration { servers: [] },
        configuration_index: 0,
        size: state.len(),
    };
    let meta = serde_json::to_vec(&meta)?;
    let sums = format!("{}  {META}\n{}  {STATE}\n", hex(&meta), hex(state));
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, content) in [(META, &meta[..]), (STATE, state), (SUMS, sums.as_bytes())] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now.as_secs());
        tar.append_data(&mut header, name, content)?;
    }
    tar.into_inner()?.finish()
}

/// Unpacks the state, if every file is as its digest says.
///
/// # Errors
/// [`SnapshotError::Archive`].
pub fn unpack(packed: &[u8]) -> Result<Vec<u8>, SnapshotError> {
    let wrong = |why: String| SnapshotError::Archive(why);
    let mut files = read_files(packed).map_err(|error| wrong(error.to_string()))?;
    let sums = files.remove(SUMS).ok_or_else(|| wrong(format!("it has no {SUMS}")))?;
    let sums = String::from_utf8(sums).map_err(|_| wrong(format!("{SUMS} is no text")))?;
    for name in [META, STATE] {
        let content = files.get(name).ok_or_else(|| wrong(format!("it has no {name}")))?;
        let mut lines = sums.lines().filter_map(|line| line.split_once("  "));
        let told = lines.find(|(_, of)| *of == name).map(|(sum, _)| sum);
        if told != Some(hex(content).as_str()) {
            return Err(wrong(format!("the digest of {name} is not that of {SUMS}")));
        }
    }
    Ok(files.remove(STATE).unwrap_or_default())
}

fn read_files(packed: &[u8]) -> io::Result<HashMap<String, Vec<u8>>> {
    let mut archive = tar::Archive::new(GzDecoder::new(packed).take(LARGEST));
    let mut files = HashMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        if ![META, STATE, SUMS].contains(&name.as_str()) {
            return Err(io::Error::other(format!("it holds {name:?}, which is none of it")));
        }
        let mut content = Vec::new();
        let size = entry.size();
        entry.read_to_end(&mut content)?;
        if content.len() as u64 != size {
            return Err(io::Error::other(format!("{name} is cut off")));
        }
        files.insert(name, content);
    }
    // The end of gzip has a checksum of its own.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(files)
}

fn hex(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
