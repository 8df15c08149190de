//! HCL as Consul writes it, which is version 1 of that language.
//!
//! ```text
//! body   = { item [","] }
//! item   = key "=" value | key { key } object
//! key    = name | string
//! value  = string | heredoc | number | "true" | "false" | list | object
//! list   = "[" [ value { "," value } [","] ] "]"
//! object = "{" body "}"
//! ```
//!
//! Blocks of one name are the items of a list, one block is a map. Labels (`service "web" {}`) nest.
//! Comments are `#`, `//` and `/* */`. A heredoc is `<<END` or, with the indentation of its last
//! line taken off all lines, `<<-END`. In a string `${…}` stays as it is. Numbers may be decimal,
//! `0x1f`, `017` (octal), `1.5` or `1e3`.
//!
//! The readers for Rust know version 2 alone, where quoted keys in blocks, several attributes on
//! one line, commas between them, dots in names and a plain `${` are errors. All five are common
//! in Consul's files, so this one is ours.
//!
//! A key that is given twice, blocks apart, is an error here; Consul takes the last.
//!
//! Source: HCL 1's README and answers of `consul validate` 1.8.7.

use serde_json::Number;

use super::json;
use super::text::{MAX_DEPTH, MAX_NODES, Places, Unreadable};
use crate::decode::{Key, Node, Tree};

/// Reads one file. One that begins with `{` is JSON.
pub(super) fn read(text: &str) -> Result<Node> {
    if text.trim_start().starts_with('{') {
        return json::read(text);
    }
    let mut reader = Reader { text, places: Places::of(text), at: 0, nodes: 0 };
    let entries = reader.body(0)?;
    reader.blank()?;
    if !reader.rest().is_empty() {
        return Err(reader.expected("a name or the end of the file"));
    }
    Ok(Node { at: reader.places.at(0, 1), value: Tree::Map(entries) })
}

struct Reader<'a> {
    text: &'a str,
    places: Places<'a>,
    at: usize,
    nodes: usize,
}

type Result<T> = std::result::Result<T, Unreadable>;

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, token: char) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len_utf8();
        }
        found
    }

    fn wrong(&self, start: usize, what: impl Into<String>) -> Unreadable {
        Unreadable { at: self.places.at(start, start + 1), what: what.into(), help: None }
    }

    fn expected(&self, what: &str) -> Unreadable {
        let found = match self.peek() {
            Some(found) => format!("found `{}`", found.escape_debug()),
            None => "the file ends here".to_owned(),
        };
        self.wrong(self.at, format!("expected {what}, {found}"))
    }

    /// Passes white space and comments.
    fn blank(&mut self) -> Result<()> {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n', '\u{feff}']);
            self.at += rest.len() - trimmed.len();
            if trimmed.starts_with('#') || trimmed.starts_with("//") {
                self.at += trimmed.find('\n').unwrap_or(trimmed.len());
            } else if let Some(inside) = trimmed.strip_prefix("/*") {
                let Some(end) = inside.find("*/") else {
                    return Err(self.wrong(self.at, "this comment does not end"));
                };
                self.at += end + 4;
            } else {
                return Ok(());
            }
        }
    }

    fn body(&mut self, depth: usize) -> Result<Vec<(Key, Node)>> {
        let mut entries = Entries::default();
        loop {
            self.blank()?;
            let Some(first) = self.key()? else { return Ok(entries.list) };
            self.item(first, depth, &mut entries)?;
            self.blank()?;
            self.eat(',');
        }
    }

    fn item(&mut self, first: Key, depth: usize, entries: &mut Entries) -> Result<()> {
        let mut labels = Vec::new();
        loop {
            self.blank()?;
            let start = self.at;
            if self.peek() == Some('{') {
                let value = self.value(depth + labels.len())?;
                let nested = labels.into_iter().rev().fold(value, |inner: Node, label: Key| Node {
                    at: label.at,
                    value: Tree::Map(vec![(label, inner)]),
                });
                return self.put(entries, first, nested);
            }
            if labels.is_empty() && self.eat('=') {
                self.blank()?;
                let value = self.value(depth)?;
                return self.put(entries, first, value);
            }
            match self.key()? {
                Some(label) if labels.len() < MAX_DEPTH => labels.push(label),
                Some(_) => return Err(self.too_deep(start)),
                None if labels.is_empty() => return Err(self.expected("`=` or `{`")),
                None => return Err(self.expected("`{`")),
            }
        }
    }

    fn put(&self, entries: &mut Entries, key: Key, value: Node) -> Result<()> {
        entries.put(key, value).map_err(|key| Unreadable {
            at: key.at,
            what: format!("`{}` stands here twice", key.text.escape_debug()),
            help: Some("blocks may be repeated, values may not".to_owned()),
        })
    }

    fn too_deep(&self, at: usize) -> Unreadable {
        self.wrong(at, format!("nested deeper than {MAX_DEPTH} levels"))
    }

    fn key(&mut self) -> Result<Option<Key>> {
        let start = self.at;
        let text = match self.peek() {
            Some('"') => self.string()?,
            Some(first) if first.is_alphabetic() || first == '_' => self.name().to_owned(),
            _ => return Ok(None),
        };
        Ok(Some(Key { at: self.places.at(start, self.at), text }))
    }

    fn name(&mut self) -> &'a str {
        let rest = self.rest();
        let part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        let end = rest.find(|c| !part(c)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn value(&mut self, depth: usize) -> Result<Node> {
        let start = self.at;
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.wrong(start, format!("more than {MAX_NODES} values in one file")));
        }
        let value = match self.peek() {
            Some('{' | '[') if depth >= MAX_DEPTH => return Err(self.too_deep(start)),
            Some('{') => {
                self.at += 1;
                let entries = self.body(depth + 1)?;
                if !self.eat('}') {
                    return Err(self.expected("a name or `}`"));
                }
                Tree::Map(entries)
            }
            Some('[') => {
                self.at += 1;
                Tree::List(self.items(depth + 1)?)
            }
            Some('"') => Tree::Text(self.string()?),
            Some('<') => Tree::Text(self.heredoc()?),
            Some('-' | '.' | '0'..='9') => Tree::Number(self.number()?),
            _ => match self.name() {
                "true" => Tree::Bool(true),
                "false" => Tree::Bool(false),
                "" => return Err(self.expected("a value")),
                word => {
                    return Err(Unreadable {
                        at: self.places.at(start, self.at),
                        what: format!("`{word}` is no value"),
                        help: Some("put texts in double quotes".to_owned()),
                    });
                }
            },
        };
        let end = match value {
            Tree::List(_) | Tree::Map(_) => start + 1,
            _ => self.at,
        };
        Ok(Node { at: self.places.at(start, end), value })
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Node>> {
        let mut items = Vec::new();
        loop {
            self.blank()?;
            if self.eat(']') {
                return Ok(items);
            }
            items.push(self.value(depth)?);
            self.blank()?;
            if !self.eat(',') && self.peek() != Some(']') {
                return Err(self.expected("`,` or `]`"));
            }
        }
    }

    fn number(&mut self) -> Result<Number> {
        let start = self.at;
        let rest = self.rest();
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
        let end = rest.find(|c| !part(c)).unwrap_or(rest.len());
        let text = rest.get(..end).unwrap_or_default();
        self.at += end;
        let (sign, digits) = match text.strip_prefix('-') {
            Some(digits) => ("-", digits),
            None => ("", text),
        };
        let lower = digits.to_ascii_lowercase();
        let whole = |digits: &str, radix: u32| {
            if digits.starts_with(['+', '-']) {
                return None;
            }
            i64::from_str_radix(&format!("{sign}{digits}"), radix).ok().map(Number::from)
        };
        let read = if let Some(digits) = lower.strip_prefix("0x") {
            whole(digits, 16)
        } else if lower.contains(['.', 'e']) {
            let plain = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | '+' | '-');
            let float = lower.chars().all(plain).then(|| text.parse().ok()).flatten();
            float.and_then(Number::from_f64)
        } else if lower.len() > 1 && lower.starts_with('0') {
            whole(&lower, 8)
        } else {
            whole(&lower, 10)
        };
        read.ok_or_else(|| Unreadable {
            at: self.places.at(start, self.at),
            what: "this is no number that can be read".to_owned(),
            help: None,
        })
    }

    fn string(&mut self) -> Result<String> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        // Depth of braces within `${`.
        let mut braces = 0_usize;
        let mut bytes = Vec::new();
        loop {
            let from = self.at;
            let Some(next) = self.peek() else {
                return Err(self.wrong(start, "this text does not end"));
            };
            self.at += next.len_utf8();
            match next {
                '"' if braces == 0 => return Ok(text),
                '\n' if braces == 0 => {
                    return Err(Unreadable {
                        help: Some("a text of several lines is a heredoc: `<<END`".to_owned()),
                        ..self.wrong(from, "a text ends on the line where it begins")
                    });
                }
                '$' if self.rest().starts_with('{') => {
                    braces += 1;
                    self.at += 1;
                    text.push_str("${");
                }
                '{' if braces > 0 => {
                    braces += 1;
                    text.push(next);
                }
                '}' if braces > 0 => {
                    braces -= 1;
                    text.push(next);
                }
                '\\' if braces == 0 => {
                    // Bytes in a row may make one letter.
                    bytes.clear();
                    self.at = from;
                    while self.eat('\\') {
                        if !self.escape(&mut bytes) {
                            return Err(self.wrong(from, "no such escape in a text"));
                        }
                    }
                    match std::str::from_utf8(&bytes) {
                        Ok(made) => text.push_str(made),
                        Err(_) => return Err(self.wrong(from, "these bytes are no UTF-8")),
                    }
                }
                _ => text.push(next),
            }
        }
    }

    /// What stands after a backslash.
    fn escape(&mut self, bytes: &mut Vec<u8>) -> bool {
        let Some(kind) = self.peek() else { return false };
        if !kind.is_digit(8) {
            self.at += kind.len_utf8();
        }
        let mut digits = |count: usize, radix: u32| {
            let digits = self.rest().get(..count)?;
            self.at += count;
            digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(())?;
            u32::from_str_radix(digits, radix).ok()
        };
        let byte = match kind {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' | '"' => kind as u8,
            '0'..='7' => match digits(3, 8).and_then(|code| u8::try_from(code).ok()) {
                Some(byte) => byte,
                None => return false,
            },
            'x' => match digits(2, 16).and_then(|code| u8::try_from(code).ok()) {
                Some(byte) => byte,
                None => return false,
            },
            'u' | 'U' => {
                let code = digits(if kind == 'u' { 4 } else { 8 }, 16).and_then(char::from_u32);
                let Some(code) = code else { return false };
                bytes.extend_from_slice(code.encode_utf8(&mut [0; 4]).as_bytes());
                return true;
            }
            _ => return false,
        };
        bytes.push(byte);
        true
    }

    fn heredoc(&mut self) -> Result<String> {
        let start = self.at;
        let rest = self.rest();
        let indented = rest.starts_with("<<-");
        let line = rest.split('\n').next().unwrap_or_default();
        let marker = line.get(if indented { 3 } else { 2 }..).unwrap_or_default().trim_end();
        let name = |c: char| c.is_alphanumeric() || c == '_';
        if !rest.starts_with("<<") || marker.is_empty() || !marker.chars().all(name) {
            return Err(self.wrong(start, "expected `<<` and a name at the end of the line"));
        }
        let mut lines = Vec::new();
        let mut at = line.len() + 1;
        for line in rest.get(at..).unwrap_or_default().split('\n') {
            if line.trim() == marker {
                // What follows the marker is read on, the end of its line included.
                self.at = start + at + line.len();
                let indent = line.get(..line.len() - line.trim_start().len()).unwrap_or_default();
                let fits = lines.iter().all(|line: &&str| line.starts_with(indent));
                let cut = if indented && fits { indent.len() } else { 0 };
                let kept = lines.iter().map(|line| line.get(cut..).unwrap_or_default());
                return Ok(kept.flat_map(|line| [line, "\n"]).collect());
            }
            lines.push(line.strip_suffix('\r').unwrap_or(line));
            at += line.len() + 1;
        }
        Err(self.wrong(start, format!("this text does not end: no line is `{marker}`")))
    }
}

/// The entries of a body, in which blocks of one name become a list.
#[derive(Default)]
struct Entries {
    list: Vec<(Key, Node)>,
    index: std::collections::HashMap<String, usize>,
}

impl Entries {
    fn put(&mut self, key: Key, value: Node) -> std::result::Result<(), Key> {
        let known = self.index.get(&key.text).and_then(|index| self.list.get_mut(*index));
        let Some((_, known)) = known else {
            self.index.insert(key.text.clone(), self.list.len());
            self.list.push((key, value));
            return Ok(());
        };
        if !is_blocks(known) || !is_blocks(&value) {
            return Err(key);
        }
        let items = match std::mem::replace(&mut known.value, Tree::Null) {
            Tree::List(items) => items,
            one => vec![Node { at: known.at, value: one }],
        };
        let more = match value.value {
            Tree::List(more) => more,
            one => vec![Node { at: value.at, value: one }],
        };
        known.value = Tree::List(items.into_iter().chain(more).collect());
        Ok(())
    }
}

fn is_blocks(node: &Node) -> bool {
    match &node.value {
        Tree::Map(_) => true,
        Tree::List(items) => items.iter().all(|item| matches!(item.value, Tree::Map(_))),
        _ => false,
    }
}
