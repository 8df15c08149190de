//! Output that is cut: nobody keeps more than a few kilobytes of what a check says.

use std::collections::VecDeque;

/// Cuts `output` to at most `limit` bytes, at the end of a character.
pub(super) fn cut(output: &mut String, limit: usize) {
    let end = (0..=limit.min(output.len())).rev().find(|end| output.is_char_boundary(*end));
    output.truncate(end.unwrap_or_default());
}

/// Bytes as text, where what is no UTF-8 is replaced.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The last bytes of a stream: of a script, the end says most.
#[derive(Debug)]
pub(super) struct Tail {
    kept: VecDeque<u8>,
    limit: usize,
    total: u64,
}

impl Tail {
    pub(super) fn new(limit: usize) -> Self {
        Self { kept: VecDeque::new(), limit, total: 0 }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        let bytes = &bytes[bytes.len().saturating_sub(self.limit)..];
        let surplus = (self.kept.len() + bytes.len()).saturating_sub(self.limit);
        self.kept.drain(..surplus);
        self.kept.extend(bytes);
    }

    /// All of it, or that it is not all and its end. May be longer than the limit by that remark.
    pub(super) fn into_text(mut self) -> String {
        let kept = text(self.kept.make_contiguous());
        match self.total > self.limit as u64 {
            false => kept,
            true => format!("Captured {} of {} bytes\n...\n{kept}", self.limit, self.total),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_not_cut_in_two() {
        let cut_to = |limit| {
            let mut text = "aé€".to_owned();
            cut(&mut text, limit);
            text
        };
        assert_eq!([0, 1, 2, 3, 5, 6, 99].map(cut_to), ["", "a", "a", "aé", "aé", "aé€", "aé€"]);
    }

    #[test]
    fn a_tail_keeps_the_end_and_says_so() {
        let mut tail = Tail::new(4);
        tail.push(b"ab");
        tail.push(b"cd");
        assert_eq!(tail.into_text(), "abcd");
        let mut tail = Tail::new(4);
        [&b"a"[..], b"bcdefg", b"h"].into_iter().for_each(|part| tail.push(part));
        assert_eq!(tail.into_text(), "Captured 4 of 8 bytes\n...\nefgh");
    }
}
