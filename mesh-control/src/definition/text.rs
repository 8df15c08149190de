//! What the three readers of text share: places, limits, and why a text cannot be read.

use crate::decode::Place;

/// Most bytes of one file. 1 MiB.
pub(super) const MAX_FILE: usize = 1 << 20;
/// Most levels of nesting in a file.
pub(super) const MAX_DEPTH: usize = 32;
/// Most values in a file, aliases of YAML expanded.
pub(super) const MAX_NODES: usize = 100_000;

/// Why a text cannot be read, and where.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) at: Place,
    pub(super) what: String,
    pub(super) help: Option<String>,
}

/// Bytes between two marks of [`Places`].
const STEP: usize = 64;

/// The places of a text by offsets. Asking costs the same wherever it is, as a stranger may have
/// written all on one line.
pub(super) struct Places<'a> {
    text: &'a [u8],
    /// Where each line begins.
    lines: Vec<usize>,
    /// How many characters begin before each multiple of [`STEP`].
    marks: Vec<usize>,
}

impl<'a> Places<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let after = text.match_indices('\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(after).collect();
        let text = text.as_bytes();
        let sums = text.chunks(STEP).scan(0, |sum, chunk| {
            *sum += begun(chunk);
            Some(*sum)
        });
        Self { text, lines, marks: std::iter::once(0).chain(sums).collect() }
    }

    /// The place of the bytes from `start` to `end`, of which the first line is pointed at.
    pub(super) fn at(&self, start: usize, end: usize) -> Place {
        let next = self.lines.partition_point(|begin| *begin <= start);
        let begin = self.lines.get(next.saturating_sub(1)).copied().unwrap_or_default();
        let line_end = self.lines.get(next).map_or(self.text.len(), |after| after - 1);
        let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let count = |from, to| self.before(to).saturating_sub(self.before(from));
        Place {
            line: narrow(next),
            column: narrow(count(begin, start) + 1),
            width: narrow(count(start, end.min(line_end)).max(1)),
        }
    }

    /// How many characters begin before an offset.
    fn before(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        let mark = self.marks.get(offset / STEP).copied().unwrap_or_default();
        mark + begun(self.text.get(offset / STEP * STEP..offset).unwrap_or_default())
    }
}

/// How many characters begin in these bytes of UTF-8.
fn begun(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn places_are_those_of_counting(text in "[aü\u{1f600}\n]{0,200}") {
            let places = Places::of(&text);
            for (start, _) in text.char_indices().chain([(text.len(), ' ')]) {
                let before = &text[..start];
                let line = before.rsplit('\n').next().unwrap_or_default();
                let after = text[start..].split('\n').next().unwrap_or_default();
                let place = places.at(start, text.len());
                prop_assert_eq!(place.line as usize, before.matches('\n').count() + 1);
                prop_assert_eq!(place.column as usize, line.chars().count() + 1);
                prop_assert_eq!(place.width as usize, after.chars().count().max(1));
            }
        }
    }
}
