//! Framing: where each HTTP/1 message of a client begins and ends, read strictly.
//!
//! ```text
//! head ─┬─ no length ──────────────────────────────► head
//!       ├─ Content-Length ─► sized ────────────────► head
//!       ├─ chunked ─► size ─► data ─► … ─► trailers ► head
//!       └─ Upgrade, without a body ────────────────► held until the switch is decided
//! ```
//!
//! The HTTP engine behind it parses the same bytes again, and refuses by itself what is no token,
//! no field and no chunk size. This machine adds what an engine forgives and a second parser down
//! the road might read differently: bare LF, `Transfer-Encoding` that is not one `chunked`, both
//! lengths at once, lengths in a list, control bytes in chunk extensions, chunk sizes above
//! sixteen digits. It never reads less strictly than the engine, so what both accept they frame
//! alike.
//!
//! It keeps no bytes, but for the first [`CARRY`] of a line that a read has cut in two.
//! Cost of a head: one `memchr` and a look at one byte per line.
//!
//! Source: RFC 9112 sections 2.2, 6 and 7.

use ::http::StatusCode;
use memchr::memchr;
use std::fmt;

/// Longest line, in bytes, that is remembered across two reads; only a field that decides on the
/// framing needs to be, and those are short.
const CARRY: usize = 64;

/// Longest chunk extensions of one message, in bytes.
const EXTENSION_LIMIT: u32 = 16 * 1024;

/// Longest trailer section, in bytes.
const TRAILER_LIMIT: u32 = 16 * 1024;

/// Most digits of a chunk size: those of a 64-bit number.
const SIZE_DIGITS: u8 = 16;

/// Empty lines that are forgiven before a request line (RFC 9112 section 2.2 asks for one).
const EMPTY_LINES: u8 = 4;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum Violation {
    /// A line of a head or of trailers ends with LF alone.
    BareLf,
    /// More empty lines before a request than are forgiven.
    EmptyLines,
    /// `Transfer-Encoding` is anything but one `chunked`.
    TransferEncoding,
    /// `Content-Length` is not one number, or there are two that differ.
    ContentLength,
    /// `Content-Length` and `Transfer-Encoding` in one message.
    BothLengths,
    /// CONNECT asks for a tunnel, which this proxy does not offer.
    Connect,
    /// A chunk size is not one to sixteen hexadecimal digits and CRLF.
    ChunkSize,
    /// A chunk does not end where its size says.
    ChunkEnd,
    /// A control byte in a chunk extension, or extensions above their limit.
    ChunkExtension,
    /// Trailers above their limit.
    Trailers,
}

impl Violation {
    /// All of them, for a counter each.
    pub(crate) const ALL: &[Self] = &[
        Self::BareLf,
        Self::EmptyLines,
        Self::TransferEncoding,
        Self::ContentLength,
        Self::BothLengths,
        Self::Connect,
        Self::ChunkSize,
        Self::ChunkEnd,
        Self::ChunkExtension,
        Self::Trailers,
    ];

    /// The word for counters.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BareLf => "bare_lf",
            Self::EmptyLines => "empty_lines",
            Self::TransferEncoding => "transfer_encoding",
            Self::ContentLength => "content_length",
            Self::BothLengths => "both_lengths",
            Self::Connect => "connect",
            Self::ChunkSize => "chunk_size",
            Self::ChunkEnd => "chunk_end",
            Self::ChunkExtension => "chunk_extension",
            Self::Trailers => "trailers",
        }
    }

    /// The status of the answer.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The sentence for the caller.
    #[must_use]
    pub(crate) const fn message(self) -> &'static str {
        match self {
            Self::BareLf => "a line ends with LF instead of CRLF",
            Self::EmptyLines => "too many empty lines before the request",
            Self::TransferEncoding => "Transfer-Encoding is not `chunked`, once",
            Self::ContentLength => "Content-Length is not one number",
            Self::BothLengths => "Content-Length and Transfer-Encoding in one request",
            Self::Connect => "CONNECT is not served here",
            Self::ChunkSize => "a chunk size is not hexadecimal digits and CRLF",
            Self::ChunkEnd => "a chunk does not end where its size says",
            Self::ChunkExtension => "chunk extensions with control bytes, or above 16 KiB",
            Self::Trailers => "trailers above 16 KiB",
        }
    }
}

/// What a scan found. Offsets count from the start of the bytes scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scanned {
    /// All of it is well formed so far.
    Fine,
    /// The bytes from `at` on must not reach the engine, which must refuse the head they belong
    /// to.
    BadSyntax { at: usize, why: Violation },
    /// The head that ends at `at` is complete, but must be refused; nothing after it counts.
    BadHead { at: usize, why: Violation },
    /// The bytes from `at` on must not reach the engine: they break the body they belong to.
    BadBody { at: usize, why: Violation },
    /// A head that asks for another protocol ends at `at`; what follows is not HTTP if it gets it.
    Ask { at: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a request line.
    Start,
    /// Within a head, after the request line.
    Fields,
    Sized(u64),
    /// Within a chunk size, with the digits so far.
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    Trailers,
    /// Nothing that follows is looked at.
    Stopped,
}

/// How the body of the message in hand is framed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Head {
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    fault: Option<Violation>,
}

/// The reader of one connection. See the [module docs](self).
#[derive(Debug)]
pub(crate) struct Framing {
    state: State,
    head: Head,
    /// Heads that were complete.
    heads: u64,
    empty_lines: u8,
    /// Extension or trailer bytes of the message in hand.
    spent: u32,
    carry: Carry,
}

impl Framing {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Start,
            head: Head::default(),
            heads: 0,
            empty_lines: 0,
            spent: 0,
            carry: Carry::new(),
        }
    }

    /// How many heads were complete so far.
    pub(crate) const fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether part of a head is there, and the rest is not.
    pub(crate) const fn in_head(&self) -> bool {
        matches!(self.state, State::Fields)
            || (matches!(self.state, State::Start) && !self.carry.is_empty())
    }

    /// Whether the last message is over and none has begun.
    pub(crate) const fn between_messages(&self) -> bool {
        matches!(self.state, State::Start) && self.carry.is_empty()
    }

    /// Reads on. After anything but [`Scanned::Fine`] and [`Scanned::Ask`] nothing more is read.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Scanned {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..)
            && !rest.is_empty()
        {
            let step = match self.state {
                State::Start | State::Fields => self.line(rest),
                State::Trailers => self.trailer(rest),
                State::Stopped => return Scanned::Fine,
                _ => self.body(rest),
            };
            match step {
                Step::Took(count) => at += count,
                Step::Ask(count) => return Scanned::Ask { at: at + count },
                Step::BadHead(count, why) => {
                    self.state = State::Stopped;
                    return Scanned::BadHead { at: at + count, why };
                }
                Step::BadSyntax(why) => {
                    self.state = State::Stopped;
                    return Scanned::BadSyntax { at, why };
                }
                Step::BadBody(count, why) => {
                    self.state = State::Stopped;
                    return Scanned::BadBody { at: at + count, why };
                }
            }
        }
        Scanned::Fine
    }

    /// One line of a head.
    fn line(&mut self, rest: &[u8]) -> Step {
        let Some(end) = memchr(b'\n', rest) else {
            self.carry.push(rest);
            return Step::Took(rest.len());
        };
        let (piece, _) = rest.split_at(end);
        let took = end + 1;
        if self.carry.is_empty() {
            return match piece.split_last() {
                Some((b'\r', line)) => self.complete(line, false, took),
                _ => Step::BadSyntax(Violation::BareLf),
            };
        }
        let mut carry = std::mem::replace(&mut self.carry, Carry::new());
        carry.push(piece);
        if carry.last != b'\r' {
            return Step::BadSyntax(Violation::BareLf);
        }
        let (line, cut) = carry.line();
        self.complete(line, cut, took)
    }

    /// A whole line without its CRLF; `cut` if only its first bytes are known.
    fn complete(&mut self, line: &[u8], cut: bool, took: usize) -> Step {
        match (self.state, line.is_empty()) {
            (State::Start, true) => {
                self.empty_lines += 1;
                if self.empty_lines > EMPTY_LINES {
                    return Step::BadSyntax(Violation::EmptyLines);
                }
                Step::Took(took)
            }
            (State::Start, false) => {
                self.head = Head::default();
                self.empty_lines = 0;
                if line.starts_with(b"CONNECT ") {
                    self.head.fault = Some(Violation::Connect);
                }
                self.state = State::Fields;
                Step::Took(took)
            }
            (_, false) => {
                self.head.field(line, cut);
                Step::Took(took)
            }
            (_, true) => self.end_of_head(took),
        }
    }

    fn end_of_head(&mut self, took: usize) -> Step {
        self.heads += 1;
        self.spent = 0;
        let Head { length, chunked, upgrade, fault } = self.head;
        if let Some(why) = fault {
            return Step::BadHead(took, why);
        }
        self.state = match length {
            Some(_) if chunked => return Step::BadHead(took, Violation::BothLengths),
            _ if chunked => State::Size { size: 0, digits: 0 },
            None | Some(0) => State::Start,
            Some(length) => State::Sized(length),
        };
        if upgrade && self.state == State::Start { Step::Ask(took) } else { Step::Took(took) }
    }

    fn trailer(&mut self, rest: &[u8]) -> Step {
        let Some(end) = memchr(b'\n', rest) else {
            self.carry.push(rest);
            return match self.spend(rest.len()) {
                Ok(()) => Step::Took(rest.len()),
                Err(()) => Step::BadBody(0, Violation::Trailers),
            };
        };
        let (piece, _) = rest.split_at(end);
        let mut carry = std::mem::replace(&mut self.carry, Carry::new());
        carry.push(piece);
        if carry.last != b'\r' {
            return Step::BadBody(0, Violation::BareLf);
        }
        if self.spend(end + 1).is_err() {
            return Step::BadBody(0, Violation::Trailers);
        }
        if carry.line().0.is_empty() {
            self.state = State::Start;
        }
        Step::Took(end + 1)
    }

    /// Counts bytes that are kept until the message ends against their limit.
    fn spend(&mut self, count: usize) -> Result<(), ()> {
        self.spent = self.spent.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        if self.spent > TRAILER_LIMIT.min(EXTENSION_LIMIT) { Err(()) } else { Ok(()) }
    }

    /// A step through a body; `rest` is not empty.
    fn body(&mut self, rest: &[u8]) -> Step {
        let available = rest.len() as u64;
        match self.state {
            State::Sized(left) | State::Data(left) => {
                let took = left.min(available);
                self.state = match (self.state, left - took) {
                    (State::Sized(_), 0) => State::Start,
                    (State::Sized(_), left) => State::Sized(left),
                    (_, 0) => State::DataCr,
                    (_, left) => State::Data(left),
                };
                // It is at most `available`, which is a length.
                return Step::Took(usize::try_from(took).unwrap_or(rest.len()));
            }
            State::Extension { size } => return self.extension(size, rest),
            _ => {}
        }
        let Some(&byte) = rest.first() else { return Step::Took(0) };
        self.state = match (self.state, byte) {
            (State::Size { size, digits }, _) => match size_digit(byte) {
                Some(digit) if digits < SIZE_DIGITS => {
                    State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
                }
                None if digits > 0 && byte == b'\r' => State::SizeLf { size },
                None if digits > 0 && byte == b';' => State::Extension { size },
                _ => return Step::BadBody(0, Violation::ChunkSize),
            },
            (State::SizeLf { size: 0 }, b'\n') => {
                self.spent = 0;
                State::Trailers
            }
            (State::SizeLf { size }, b'\n') => State::Data(size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { size: 0, digits: 0 },
            (State::SizeLf { .. }, _) => return Step::BadBody(0, Violation::ChunkSize),
            _ => return Step::BadBody(0, Violation::ChunkEnd),
        };
        Step::Took(1)
    }

    fn extension(&mut self, size: u64, rest: &[u8]) -> Step {
        let end = rest.iter().position(|&byte| (byte < 0x20 && byte != b'\t') || byte == 0x7F);
        let length = end.unwrap_or(rest.len());
        if self.spend(length).is_err() {
            return Step::BadBody(0, Violation::ChunkExtension);
        }
        match end.and_then(|end| rest.get(end)) {
            None => Step::Took(length),
            Some(b'\r') => {
                self.state = State::SizeLf { size };
                Step::Took(length + 1)
            }
            Some(_) => Step::BadBody(length, Violation::ChunkExtension),
        }
    }
}

/// One step of the machine: bytes taken, and what they showed.
enum Step {
    Took(usize),
    Ask(usize),
    BadHead(usize, Violation),
    BadSyntax(Violation),
    BadBody(usize, Violation),
}

impl Head {
    /// Takes note of a field that decides on the framing.
    fn field(&mut self, line: &[u8], cut: bool) {
        // Most fields begin with another letter.
        match line.first() {
            Some(b't' | b'T') => {
                if let Some(value) = value_of(line, b"transfer-encoding:") {
                    if cut || self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        self.fault = Some(Violation::TransferEncoding);
                    }
                    self.chunked = true;
                }
            }
            Some(b'c' | b'C') => {
                if let Some(value) = value_of(line, b"content-length:") {
                    match length(value) {
                        Some(length) if !cut && self.length.is_none_or(|other| other == length) => {
                            self.length = Some(length);
                        }
                        _ => self.fault = Some(Violation::ContentLength),
                    }
                }
            }
            Some(b'u' | b'U') if value_of(line, b"upgrade:").is_some() => self.upgrade = true,
            _ => {}
        }
    }
}

/// The value of a field, without the white space around it, if the line is that field's.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| trim(value))
}

/// Without the spaces and tabs around it: no other white space is allowed there.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A `Content-Length`: one to nineteen digits, which is below 2^63 or refused.
fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    let mut length = 0_u64;
    for byte in value {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        length = length.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    i64::try_from(length).is_ok().then_some(length)
}

const fn size_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The first bytes of a line that a read has cut in two.
struct Carry {
    bytes: [u8; CARRY],
    /// Of the whole line, which may be longer than what is kept.
    length: usize,
    last: u8,
}

impl Carry {
    const fn new() -> Self {
        Self { bytes: [0; CARRY], length: 0, last: 0 }
    }

    const fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn push(&mut self, piece: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.length..) {
            for (kept, byte) in room.iter_mut().zip(piece) {
                *kept = *byte;
            }
        }
        self.length += piece.len();
        if let Some(&last) = piece.last() {
            self.last = last;
        }
    }

    /// The line without its CR, and whether only its first bytes are known.
    fn line(&self) -> (&[u8], bool) {
        let length = self.length.saturating_sub(1);
        match self.bytes.get(..length) {
            Some(line) => (line, false),
            None => (&self.bytes, true),
        }
    }
}

impl fmt::Debug for Carry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carry").field("length", &self.length).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
