//! Snapshots: everything that a store holds, in a file that Consul's tools take for one of theirs.
//!
//! The state is text, a line of JSON each: first what it is, then the records in the order of their
//! keys, values in base64. So it can be read without us, and goes from one engine to another. The
//! [`archive`] around it has Consul's form.
//!
//! A snapshot is restored in one batch: everything, or nothing and the reason.

pub mod archive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::store::{Key, Record, Table};

/// How the state is written.
const FORMAT: u32 = 1;

/// Why a snapshot is not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The archive is cut off, changed, or none.
    #[error("the snapshot is damaged or none: {0}")]
    Archive(String),
    /// The archive is whole, and its content is not ours.
    #[error(
        "the snapshot is none of mesh's: line {line} of its state: {why}; one of Consul's own \
         servers can only be restored there"
    )]
    State {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Head {
    mesh_state: u32,
    revision: u64,
    records: usize,
}

/// Each other line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line<'a> {
    /// The number of the table.
    table: u8,
    #[serde(borrow)]
    name: std::borrow::Cow<'a, str>,
    create_index: u64,
    modify_index: u64,
    #[serde(borrow)]
    value: std::borrow::Cow<'a, str>,
}

/// Writes the state.
#[must_use]
pub fn write(revision: u64, records: &[Record]) -> Vec<u8> {
    let mut state = Vec::new();
    line(&mut state, &Head { mesh_state: FORMAT, revision, records: records.len() });
    for record in records {
        line(
            &mut state,
            &Line {
                table: record.key.table as u8,
                name: record.key.name.as_str().into(),
                create_index: record.create_index,
                modify_index: record.modify_index,
                value: STANDARD.encode(&record.value).into(),
            },
        );
    }
    state
}

fn line(state: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(&mut *state, value).expect("texts and numbers are always JSON");
    state.push(b'\n');
}

/// Reads a state: its revision, and its records.
///
/// # Errors
/// [`SnapshotError::State`] at the first line that is not as [`write()`] writes it.
pub fn read(state: &[u8]) -> Result<(u64, Vec<Record>), SnapshotError> {
    let wrong = |line: usize, why: String| SnapshotError::State { line, why };
    let mut lines = state.split_inclusive(|byte| *byte == b'\n').zip(1..);
    let (first, _) = lines.next().ok_or_else(|| wrong(1, "it is empty".to_owned()))?;
    let head: Head = serde_json::from_slice(first).map_err(|error| wrong(1, error.to_string()))?;
    if head.mesh_state != FORMAT {
        let why = format!("its format is {}, and this version reads {FORMAT}", head.mesh_state);
        return Err(wrong(1, why));
    }
    let mut records = Vec::new();
    for (text, number) in lines {
        let read: Line<'_> =
            serde_json::from_slice(text).map_err(|error| wrong(number, error.to_string()))?;
        let table = Table::from_byte(read.table);
        let table = table.ok_or_else(|| wrong(number, format!("no table {}", read.table)))?;
        let value = STANDARD.decode(read.value.as_bytes());
        records.push(Record {
            key: Key::new(table, read.name),
            value: value.map_err(|error| wrong(number, error.to_string()))?.into(),
            create_index: read.create_index,
            modify_index: read.modify_index,
        });
    }
    if records.len() != head.records {
        let why = format!("{} records follow, and it says {}", records.len(), head.records);
        return Err(wrong(1, why));
    }
    if !records.is_sorted_by(|one, next| one.key < next.key) {
        return Err(wrong(1, "the records are not in order, or one is there twice".to_owned()));
    }
    Ok((head.revision, records))
}

#[cfg(test)]
mod tests;
