//! From text to a tree in which selectors are only names yet.

use super::Fault;

/// Most levels of `not` and parentheses.
const MAX_DEPTH: usize = 32;

/// An expression as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    Or(Vec<Self>),
    And(Vec<Self>),
    Not(Box<Self>),
    Match(Match),
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) selector: Selector,
    pub(super) operator: Operator,
    pub(super) negated: bool,
    /// What it is compared with, and where that stands; empty for [`Operator::Empty`].
    pub(super) value: (String, usize),
}

/// What a value is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    In,
    Empty,
    Matches,
}

/// Names from the outermost to the innermost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selector {
    pub(super) names: Vec<String>,
    pub(super) at: usize,
}

type Result<T> = std::result::Result<T, Fault>;

pub(super) fn parse(text: &str) -> Result<Syntax> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    parser.space();
    let root = parser.or()?;
    parser.space();
    match parser.rest().is_empty() {
        true => Ok(root),
        false => Err(parser.expected("\"and\", \"or\" or the end")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn expected(&self, what: &str) -> Fault {
        let found = match self.rest().chars().next() {
            Some(found) => format!("found {found:?}"),
            None => "the filter ends here".to_owned(),
        };
        Fault { at: self.at, what: format!("expected {what}, {found}") }
    }

    fn wrong(&self, at: usize, what: &str) -> Fault {
        Fault { at: at.min(self.text.len()), what: what.to_owned() }
    }

    fn eat(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    /// Whether there was white space.
    fn space(&mut self) -> bool {
        let rest = self.rest();
        let after = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        self.at += rest.len() - after.len();
        after.len() < rest.len()
    }

    /// White space, the words with white space between them, and white space.
    fn words(&mut self, words: &[&str]) -> bool {
        let start = self.at;
        let found = words.iter().all(|word| self.space() && self.eat(word)) && self.space();
        if !found {
            self.at = start;
        }
        found
    }

    fn or(&mut self) -> Result<Syntax> {
        let mut items = vec![self.and()?];
        while self.words(&["or"]) {
            items.push(self.and()?);
        }
        Ok(one_or(items, Syntax::Or))
    }

    fn and(&mut self) -> Result<Syntax> {
        let mut items = vec![self.not()?];
        while self.words(&["and"]) {
            items.push(self.not()?);
        }
        Ok(one_or(items, Syntax::And))
    }

    fn not(&mut self) -> Result<Syntax> {
        if self.depth == MAX_DEPTH {
            return Err(self.wrong(self.at, &format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.depth += 1;
        let read = self.nested();
        self.depth -= 1;
        read
    }

    fn nested(&mut self) -> Result<Syntax> {
        let start = self.at;
        if self.eat("not") && self.space() {
            let negated = self.not();
            // `not` may be a name or a value, too: `not in Tags`. Each such attempt reads but a
            // few words, so that a row of them takes linear time.
            return negated.map(|inner| Syntax::Not(Box::new(inner))).or_else(|fault| {
                self.at = start;
                self.comparison().map_err(|other| if other.at > fault.at { other } else { fault })
            });
        }
        self.at = start;
        if !self.eat("(") {
            return self.comparison();
        }
        self.space();
        let inner = self.or()?;
        self.space();
        if !self.eat(")") {
            return Err(self.expected("\")\""));
        }
        Ok(inner)
    }

    fn comparison(&mut self) -> Result<Syntax> {
        let start = self.at;
        let (selector, value) = match self.selector()? {
            Some(selector) => {
                if let Some(found) = self.operation(&selector)? {
                    return Ok(Syntax::Match(found));
                }
                let text = selector.names.join(".");
                (Some(selector), text)
            }
            None => match self.literal()? {
                Some(text) => (None, text),
                None => return Err(self.expected("a selector, a value, \"not\" or \"(\"")),
            },
        };
        let negated = self.words(&["not", "in"]);
        if !negated && !self.words(&["in"]) {
            self.space();
            return Err(self.expected(match selector {
                Some(_) => {
                    "\"==\", \"!=\", \"contains\", \"in\", \"is empty\", \"matches\" or \"not\""
                }
                None => "\"in\" or \"not in\"",
            }));
        }
        let Some(selector) = self.selector()? else {
            return Err(self.expected("a selector"));
        };
        let value = (value, start);
        Ok(Syntax::Match(Match { selector, operator: Operator::In, negated, value }))
    }

    /// What is said of a selector that stands first.
    fn operation(&mut self, selector: &Selector) -> Result<Option<Match>> {
        let start = self.at;
        self.space();
        let (operator, negated) = if self.eat("==") {
            self.space();
            (Operator::Equal, false)
        } else if self.eat("!=") {
            self.space();
            (Operator::Equal, true)
        } else {
            self.at = start;
            if self.words(&["contains"]) {
                (Operator::In, false)
            } else if self.words(&["not", "contains"]) {
                (Operator::In, true)
            } else if self.words(&["matches"]) {
                (Operator::Matches, false)
            } else if self.words(&["not", "matches"]) {
                (Operator::Matches, true)
            } else if self.words(&["is"]) {
                let negated = self.eat("not");
                if negated && !self.space() {
                    return Err(self.expected("white space"));
                }
                if !self.eat("empty") {
                    return Err(self.expected("\"empty\" or \"not empty\""));
                }
                let value = (String::new(), self.at);
                let selector = selector.clone();
                return Ok(Some(Match { selector, operator: Operator::Empty, negated, value }));
            } else {
                return Ok(None);
            }
        };
        let at = self.at;
        let text = match self.selector()? {
            Some(selector) => selector.names.join("."),
            None => match self.literal()? {
                Some(text) => text,
                None => return Err(self.expected("a value")),
            },
        };
        Ok(Some(Match { selector: selector.clone(), operator, negated, value: (text, at) }))
    }

    fn name(&mut self) -> Option<String> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let name =
            rest.get(..end).filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()))?;
        self.at += end;
        Some(name.to_owned())
    }

    fn selector(&mut self) -> Result<Option<Selector>> {
        let at = self.at;
        let Some(first) = self.name() else { return Ok(None) };
        let mut names = vec![first];
        loop {
            if self.eat(".") {
                names.push(self.name().ok_or_else(|| self.expected("a name"))?);
            } else if self.eat("[") {
                self.space();
                let key = self.string()?.ok_or_else(|| self.expected("a key in quotes"))?;
                self.space();
                if !self.eat("]") {
                    return Err(self.expected("\"]\""));
                }
                names.push(key);
            } else {
                return Ok(Some(Selector { names, at }));
            }
        }
    }

    fn literal(&mut self) -> Result<Option<String>> {
        match self.string()? {
            Some(text) => Ok(Some(text)),
            None => self.number(),
        }
    }

    fn number(&mut self) -> Result<Option<String>> {
        let start = self.at;
        let negative = self.eat("-");
        let digits = |parser: &mut Self| {
            let rest = parser.rest();
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            parser.at += end;
            end
        };
        if !self.eat("0") && digits(self) == 0 {
            return match negative {
                true => Err(self.expected("a digit")),
                false => Ok(None),
            };
        }
        let fraction = !self.eat(".") || digits(self) > 0;
        let apart = self.rest().starts_with([' ', '\t', '\r', '\n', ')']) || self.rest().is_empty();
        if !fraction || !apart {
            return Err(self.wrong(self.at, "Invalid number literal"));
        }
        Ok(self.text.get(start..self.at).map(str::to_owned))
    }

    fn string(&mut self) -> Result<Option<String>> {
        let start = self.at;
        let Some(quote @ ('"' | '`')) = self.rest().chars().next() else { return Ok(None) };
        self.at += 1;
        let Some(end) = self.rest().find(quote) else {
            return Err(self.wrong(self.text.len(), "Unterminated string literal"));
        };
        let inside = self.rest().get(..end).unwrap_or_default();
        self.at += end + 1;
        let text = if quote == '`' {
            // As Go reads raw strings.
            Some(inside.replace('\r', ""))
        } else {
            unescape(inside)
        };
        match text {
            Some(text) => Ok(Some(text)),
            None => Err(self.wrong(start, "invalid escape or line break in a string")),
        }
    }
}

fn one_or(mut items: Vec<Syntax>, of: fn(Vec<Syntax>) -> Syntax) -> Syntax {
    match items.len() {
        1 => items.remove(0),
        _ => of(items),
    }
}

/// Go's escapes in double quotes.
fn unescape(inside: &str) -> Option<String> {
    if inside.contains('\n') {
        return None;
    }
    let mut bytes = Vec::with_capacity(inside.len());
    let mut chars = inside.chars();
    let mut buffer = [0; 4];
    while let Some(next) = chars.next() {
        if next != '\\' {
            bytes.extend_from_slice(next.encode_utf8(&mut buffer).as_bytes());
            continue;
        }
        let escape = chars.clone().next()?;
        if !matches!(escape, '0'..='7') {
            chars.next();
        }
        let mut digits = |count: usize, radix: u32| {
            (0..count).try_fold(0_u32, |sum, _| {
                sum.checked_mul(radix)?.checked_add(chars.next()?.to_digit(radix)?)
            })
        };
        match escape {
            'a' => bytes.push(7),
            'b' => bytes.push(8),
            'f' => bytes.push(12),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(11),
            '\\' => bytes.push(b'\\'),
            '0'..='7' => bytes.push(u8::try_from(digits(3, 8)?).ok()?),
            'x' => bytes.push(u8::try_from(digits(2, 16)?).ok()?),
            'u' | 'U' => {
                let code = char::from_u32(digits(if escape == 'u' { 4 } else { 8 }, 16)?)?;
                bytes.extend_from_slice(code.encode_utf8(&mut buffer).as_bytes());
            }
            _ => return None,
        }
    }
    String::from_utf8(bytes).ok()
}
