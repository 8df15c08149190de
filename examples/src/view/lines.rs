//! Text in lines of a given width.

/// Breaks between words, but not between a number and its unit; lines after the first are indented.
/// A word that is too long has a line to itself.
pub(super) fn lines(text: &str, width: usize) -> Vec<String> {
    let indent = "    ";
    let mut lines = Vec::new();
    // The indent of the first line is its own.
    let start = text.len() - text.trim_start().len();
    let (mut line, rest) = (text.get(..start).unwrap_or("").to_owned(), text.trim_start());
    let mut empty = true;
    for word in words(rest) {
        if !empty && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, indent.to_owned()));
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    lines.push(line);
    lines
}

/// Words, a number with the one after it.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let breaks = |&(at, _): &(usize, &str)| {
            !text.get(..at).is_some_and(|before| before.ends_with(|c: char| c.is_ascii_digit()))
        };
        let (word, after) = match text.match_indices(' ').find(breaks) {
            Some((at, _)) => (text.get(..at), text.get(at + 1..)),
            None => (Some(text), None),
        };
        rest = after;
        word
    })
}

/// At most `width` characters; the last is `…` if some are missing.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words() {
        let text = "  mesh: b ejected after 0.2 s; 0 of 90 failed";
        assert_eq!(lines(text, 80), [text]);
        let narrow = lines(text, 24);
        assert_eq!(narrow, ["  mesh: b ejected after", "    0.2 s; 0 of", "    90 failed"]);
        assert!(lines(text, 1).len() >= 5, "no width is too small");
        assert_eq!(lines("", 10), [""]);
    }

    #[test]
    fn what_is_cut_shows_it() {
        assert_eq!(cut("ready", 5), "ready");
        assert_eq!(cut("unreachable", 5), "unre…");
    }
}
