//! Path: one spelling for each resource, so that rules and endpoints cannot read it differently.
//!
//! In this order, once:
//!
//! 1. `%41` and other escapes of unreserved characters become the character; the hexadecimal
//!    digits of the other escapes become upper case (RFC 3986 section 6.2.2). `%252e` stays: one
//!    decoding is all there is.
//! 2. `//` becomes `/`.
//! 3. `/./` and `/x/../` are resolved; `..` at the root stays at the root (section 5.2.4).
//!
//! Refused is what other parsers read in more than one way: `%2f`, `%5c`, `\`, parameters
//! (`;`), escaped control bytes, broken escapes, bytes above 0x7F, and escapes that are not UTF-8.
//!
//! A path that is in its one spelling already is looked at once, byte by byte, and not copied.

use std::fmt;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadPath {
    /// A slash or backslash that is escaped, or a backslash.
    HiddenSlash,
    /// A parameter, `;`.
    Parameter,
    /// An escape without two hexadecimal digits.
    Escape,
    /// A control byte, escaped or not.
    Control,
    /// A byte above 0x7F that is not escaped.
    NotAscii,
    /// Escapes that are not UTF-8 together.
    NotUtf8,
}

impl fmt::Display for BadPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HiddenSlash => "the path has a backslash, or an escaped slash or backslash",
            Self::Parameter => "the path has a parameter (`;`)",
            Self::Escape => "the path has `%` without two hexadecimal digits",
            Self::Control => "the path has a control byte",
            Self::NotAscii => "the path has a byte above 0x7F that is not escaped",
            Self::NotUtf8 => "the path's escapes are not UTF-8",
        })
    }
}

impl std::error::Error for BadPath {}

/// The one spelling of a path that begins with `/`; `None` if it is spelt so already.
///
/// ```
/// use mesh_core::route::path::normalize;
///
/// assert_eq!(normalize("/x/%2e%2e/%61dmin")?.as_deref(), Some("/admin"));
/// assert_eq!(normalize("/admin")?, None);
/// assert!(normalize("/x%2f..%2fadmin").is_err());
/// # Ok::<(), mesh_core::route::path::BadPath>(())
/// ```
///
/// # Errors
/// When other parsers may read it differently.
pub fn normalize(path: &str) -> Result<Option<String>, BadPath> {
    if is_plain(path.as_bytes()) {
        return Ok(None);
    }
    let decoded = decode(path.as_bytes())?;
    let normal = resolve(&decoded);
    Ok((normal != path).then_some(normal))
}

/// Whether there is nothing to decode, resolve or refuse.
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    for &byte in path {
        let dubious = match byte {
            b'%' | b'\\' | b';' | 0..=0x20 | 0x7F.. => true,
            b'/' | b'.' => before == b'/',
            _ => false,
        };
        if dubious {
            return false;
        }
        before = byte;
    }
    true
}

/// Step 1, and all refusals.
fn decode(path: &[u8]) -> Result<String, BadPath> {
    let mut decoded = String::with_capacity(path.len());
    let mut escaped = Utf8::default();
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        rest = after;
        let &byte = byte;
        if byte != b'%' {
            escaped.end()?;
            decoded.push(match byte {
                b'\\' => return Err(BadPath::HiddenSlash),
                b';' => return Err(BadPath::Parameter),
                0..=0x20 | 0x7F => return Err(BadPath::Control),
                0x80.. => return Err(BadPath::NotAscii),
                _ => char::from(byte),
            });
            continue;
        }
        let [high, low, after @ ..] = rest else { return Err(BadPath::Escape) };
        rest = after;
        let (Some(high), Some(low)) = (hex(*high), hex(*low)) else {
            return Err(BadPath::Escape);
        };
        let value = high << 4 | low;
        escaped.push(value)?;
        match value {
            b'/' | b'\\' => return Err(BadPath::HiddenSlash),
            0..=0x1F | 0x7F => return Err(BadPath::Control),
            b'-' | b'.' | b'_' | b'~' => decoded.push(char::from(value)),
            _ if value.is_ascii_alphanumeric() => decoded.push(char::from(value)),
            _ => {
                const DIGITS: [char; 16] = [
                    '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
                ];
                decoded.push('%');
                decoded
                    .extend([high, low].iter().filter_map(|digit| DIGITS.get(usize::from(*digit))));
            }
        }
    }
    escaped.end()?;
    Ok(decoded)
}

/// Steps 2 and 3.
fn resolve(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in path.split('/') {
        directory = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut resolved = String::with_capacity(path.len());
    for segment in &segments {
        resolved.push('/');
        resolved.push_str(segment);
    }
    if directory || segments.is_empty() {
        resolved.push('/');
    }
    resolved
}

const fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Checks that a run of escapes is UTF-8, character by character.
#[derive(Default)]
struct Utf8 {
    bytes: [u8; 4],
    length: usize,
}

impl Utf8 {
    fn push(&mut self, byte: u8) -> Result<(), BadPath> {
        *self.bytes.get_mut(self.length).ok_or(BadPath::NotUtf8)? = byte;
        self.length += 1;
        match std::str::from_utf8(self.bytes.get(..self.length).unwrap_or_default()) {
            Ok(_) => self.length = 0,
            Err(error) if error.error_len().is_some() => return Err(BadPath::NotUtf8),
            Err(_) => {}
        }
        Ok(())
    }

    fn end(&self) -> Result<(), BadPath> {
        if self.length == 0 { Ok(()) } else { Err(BadPath::NotUtf8) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_resource_has_one_spelling() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a.b/..c/.d", "/a.b/..c/.d"),
            ("/%61%2D%7e", "/a-~"),
            ("/a%3ab%20c", "/a%3Ab%20c"),
            ("/%c3%a9", "/%C3%A9"),
            ("/%f0%9f%98%80", "/%F0%9F%98%80"),
            ("//a///b", "/a/b"),
            ("/a/./b/.", "/a/b/"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/../../etc", "/etc"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/.%2E/b", "/b"),
            ("/a/%2E/b", "/a/b"),
            ("/a/%252e%252e/b", "/a/%252e%252e/b"),
            ("/public/..//admin", "/admin"),
        ] {
            let normal = normalize(path).expect("fine");
            assert_eq!(normal.as_deref().unwrap_or(path), expected, "{path}");
            assert_eq!(normalize(expected), Ok(None), "not in its one spelling: {expected}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (path, why) in [
            ("/a%2fb", BadPath::HiddenSlash),
            ("/a%5Cb", BadPath::HiddenSlash),
            ("/a\\b", BadPath::HiddenSlash),
            ("/a;x=1", BadPath::Parameter),
            ("/a/..;/b", BadPath::Parameter),
            ("/a%00", BadPath::Control),
            ("/a%0d%0ab", BadPath::Control),
            ("/a%7f", BadPath::Control),
            ("/a%", BadPath::Escape),
            ("/a%2", BadPath::Escape),
            ("/a%zz", BadPath::Escape),
            ("/a%c0%ae", BadPath::NotUtf8),
            ("/a%e0%80%af", BadPath::NotUtf8),
            ("/a%c3", BadPath::NotUtf8),
            ("/a%c3b", BadPath::NotUtf8),
            ("/a%ff", BadPath::NotUtf8),
            ("/\u{e9}", BadPath::NotAscii),
        ] {
            assert_eq!(normalize(path), Err(why), "{path}");
        }
    }

    /// The same path in every spelling that reaches a file system or a rule elsewhere.
    #[test]
    fn no_spelling_of_a_denied_path_passes_as_another() {
        let spellings = [
            "/admin",
            "//admin",
            "/./admin",
            "/x/../admin",
            "/%61dmin",
            "/a%64min",
            "/%2e/admin",
            "/x/%2e%2e/admin",
            "/x/.%2e/admin",
            "/x/%2E./admin",
            "/../admin",
            "/..//admin",
            "/x//../../admin",
            "/.//admin",
            "///admin",
            "/%61%64%6d%69%6e",
            "/%41/../admin",
            "/x/y/../../admin",
            "/./././admin",
            "/x/./../admin",
        ];
        for spelling in spellings {
            let normal = normalize(spelling).expect("fine");
            assert_eq!(normal.as_deref().unwrap_or(spelling), "/admin", "{spelling}");
        }
        let refused = [
            "/x%2f..%2fadmin",
            "/%2fadmin",
            "/x/..%2fadmin",
            "/x/..%5cadmin",
            "/x\\..\\admin",
            "/\\admin",
            "/admin;x",
            "/x/..;/admin",
            "/;/admin",
            "/admin%00",
            "/admin%00.png",
            "/%c0%ae%c0%ae/admin",
            "/x/%c0%ae./admin",
            "/x/..%c0%afadmin",
            "/admin%0a",
            "/%e0%80%ae/admin",
            "/x/%",
            "/%zzadmin",
            "/x/..%c1%9cadmin",
            "/admin%3b%",
        ];
        for spelling in refused {
            assert!(normalize(spelling).is_err(), "{spelling}");
        }
    }
}
