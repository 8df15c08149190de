//! SPIFFE ID: the name of a workload, as a certificate proves it and a configuration asks for it.
//!
//! IDs are parsed and compared whole; text that is not exactly an ID is no ID at all. The same
//! parser reads configuration and certificates, so that what is checked is what is compared.
//!
//! Source: SPIFFE-ID, section 2.

use std::fmt;
use std::str::FromStr;

/// Longest SPIFFE ID, in bytes.
const MAX_ID: usize = 2048;
/// Longest trust domain, in bytes.
const MAX_TRUST_DOMAIN: usize = 255;

/// The identity of a workload: `spiffe://<trust domain>/<path>`.
///
/// ```
/// use mesh_core::SpiffeId;
///
/// let id: SpiffeId = "spiffe://shop.example/ns/default/sa/inventory".parse()?;
/// assert_eq!(id.trust_domain(), "shop.example");
/// assert_eq!(id.path(), "/ns/default/sa/inventory");
/// assert!("spiffe://shop.example/ns/../sa/inventory".parse::<SpiffeId>().is_err());
/// # Ok::<(), mesh_core::InvalidSpiffeId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    text: Box<str>,
    path: usize,
}

/// Why a text is no SPIFFE ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidSpiffeId(&'static str);

impl fmt::Display for InvalidSpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a SPIFFE ID: {}", self.0)
    }
}

impl std::error::Error for InvalidSpiffeId {}

impl SpiffeId {
    /// The part between `spiffe://` and the path.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.text.get("spiffe://".len()..self.path).unwrap_or_default()
    }

    /// The path, with its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(self.path..).unwrap_or_default()
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        if text.len() > MAX_ID {
            return Err(InvalidSpiffeId("it is longer than 2048 bytes"));
        }
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or(InvalidSpiffeId("it does not start with spiffe://"))?;
        let slash = rest.find('/').ok_or(InvalidSpiffeId("it has no path"))?;
        let (domain, path) = rest.split_at(slash);
        if domain.is_empty() || domain.len() > MAX_TRUST_DOMAIN {
            return Err(InvalidSpiffeId("its trust domain is empty or longer than 255 bytes"));
        }
        let plain = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'.' | b'-' | b'_');
        if !domain.bytes().all(plain) {
            return Err(InvalidSpiffeId("its trust domain holds more than a-z 0-9 . - _"));
        }
        for segment in path.split('/').skip(1) {
            if matches!(segment, "" | "." | "..") {
                return Err(InvalidSpiffeId("its path has an empty or relative segment"));
            }
            if !segment.bytes().all(|byte| plain(byte) || byte.is_ascii_uppercase()) {
                return Err(InvalidSpiffeId("its path holds more than a-z A-Z 0-9 . - _"));
            }
        }
        Ok(Self { text: text.into(), path: "spiffe://".len() + slash })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_an_id() {
        for valid in ["spiffe://td/p", "spiffe://a-b_c.d9/ns/Default/sa/x.y_z-1"] {
            assert_eq!(valid.parse::<SpiffeId>().expect(valid).to_string(), valid);
        }
        let long = format!("spiffe://td/{}", "p".repeat(MAX_ID));
        for invalid in [
            "",
            "spiffe://",
            "spiffe://td",
            "spiffe://td/",
            "spiffe:///p",
            "spiffe://td/p/",
            "spiffe://td//p",
            "spiffe://td/./p",
            "spiffe://td/../p",
            "spiffe://td/p?q",
            "spiffe://td/p#f",
            "spiffe://td/%70",
            "spiffe://td/p\0",
            "spiffe://td/ü",
            "spiffe://td:80/p",
            "spiffe://user@td/p",
            "spiffe://TD/p",
            "SPIFFE://td/p",
            "https://td/p",
            " spiffe://td/p",
            long.as_str(),
        ] {
            assert!(invalid.parse::<SpiffeId>().is_err(), "{invalid:?}");
        }
    }
}
