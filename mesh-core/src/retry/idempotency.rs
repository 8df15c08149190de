//! Which gRPC methods do no harm when they are repeated, as their `.proto` files declare:
//!
//! ```proto
//! rpc GetItem(GetItemRequest) returns (Item) { option idempotency_level = NO_SIDE_EFFECTS; }
//! ```
//!
//! Read from a `FileDescriptorSet`, which `protoc --descriptor_set_out` and tonic's build script
//! (`file_descriptor_set_path`) write. `NO_SIDE_EFFECTS` and `IDEMPOTENT` declare a method, other
//! levels say nothing. What the caller or the policy says wins:
//!
//! ```text
//! call > route and service (`retry.idempotent`) > proto > HTTP method
//! ```
//!
//! Bounds: 100,000 declared methods, paths of 1,024 bytes; a look costs one hash of the path.
//! Source: `google/protobuf/descriptor.proto` (`FileDescriptorSet`, `MethodOptions`), of which only
//! names and levels are read.

use crate::protobuf::{Fields, Malformed, Value};
use foldhash::quality::RandomState;
use std::collections::HashSet;
use std::fmt;

/// Most methods that are kept.
const METHODS: usize = 100_000;
/// Longest path of a method.
const PATH: usize = 1024;

/// The methods that descriptors declare idempotent, by the paths of their calls.
///
/// ```
/// use mesh_core::retry::IdempotentMethods;
///
/// // package "a"; service "B" with a method "C" of level NO_SIDE_EFFECTS.
/// let set = b"\x0a\x12\x12\x01a\x32\x0d\x0a\x01B\x12\x08\x0a\x01C\x22\x03\x90\x02\x01";
/// let methods = IdempotentMethods::from_descriptor_set(set)?;
/// assert!(methods.contains("/a.B/C"));
/// assert!(!methods.contains("/a.B/D"));
/// # Ok::<(), mesh_core::retry::InvalidDescriptorSet>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct IdempotentMethods {
    paths: HashSet<Box<str>, RandomState>,
}

impl IdempotentMethods {
    /// Reads a `FileDescriptorSet`.
    ///
    /// # Errors
    /// When the bytes are no such message, it describes no service, a name is none, or there are
    /// more methods than a service can have in earnest.
    pub fn from_descriptor_set(bytes: &[u8]) -> Result<Self, InvalidDescriptorSet> {
        let mut methods = Self::default();
        let mut services = 0_usize;
        for file in messages(bytes, 1) {
            let file = file?;
            let package = text(file, 2)?;
            for service in messages(file, 6) {
                services += 1;
                methods.service(package, service?)?;
            }
        }
        if services == 0 {
            return Err(InvalidDescriptorSet(Why::NoService));
        }
        Ok(methods)
    }

    fn service(&mut self, package: &str, service: &[u8]) -> Result<(), InvalidDescriptorSet> {
        let name = text(service, 1)?;
        for method in messages(service, 2) {
            let method = method?;
            if !declares(method)? {
                continue;
            }
            let dot = if package.is_empty() { "" } else { "." };
            let method = text(method, 1)?;
            if package.len() + name.len() + method.len() + 3 > PATH {
                return Err(InvalidDescriptorSet(Why::LongName));
            }
            if [name, method].contains(&"") || [package, name, method].iter().any(|n| !plain(n)) {
                return Err(InvalidDescriptorSet(Why::NoName));
            }
            self.paths.insert(format!("/{package}{dot}{name}/{method}").into());
            if self.paths.len() > METHODS {
                return Err(InvalidDescriptorSet(Why::Many));
            }
        }
        Ok(())
    }

    /// Adds those of another set.
    ///
    /// # Errors
    /// When there are too many together.
    pub fn extend(&mut self, other: Self) -> Result<(), InvalidDescriptorSet> {
        self.paths.extend(other.paths);
        if self.paths.len() > METHODS {
            return Err(InvalidDescriptorSet(Why::Many));
        }
        Ok(())
    }

    /// Whether the method of this path is declared idempotent.
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        !self.paths.is_empty() && self.paths.contains(path)
    }

    /// How many methods are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

/// The messages of one field.
fn messages(
    message: &[u8],
    number: u64,
) -> impl Iterator<Item = Result<&[u8], InvalidDescriptorSet>> {
    Fields::of(message).filter_map(move |field| match field {
        Ok((found, Value::Bytes(bytes))) if found == number => Some(Ok(bytes)),
        Ok((found, _)) if found == number => Some(Err(Malformed::Field.into())),
        Ok(_) => None,
        Err(malformed) => Some(Err(malformed.into())),
    })
}

/// The text of one field; of several the last, and without one the empty text.
fn text(message: &[u8], number: u64) -> Result<&str, InvalidDescriptorSet> {
    let last = messages(message, number).try_fold(&[][..], |_, bytes| bytes)?;
    std::str::from_utf8(last).map_err(|_| InvalidDescriptorSet(Why::NoName))
}

/// Whether the options of a method, which may stand in parts, declare it.
fn declares(method: &[u8]) -> Result<bool, InvalidDescriptorSet> {
    let mut level = 0;
    for options in messages(method, 4) {
        for field in Fields::of(options?) {
            match field? {
                (34, Value::Number(number)) => level = number,
                (34, _) => return Err(Malformed::Field.into()),
                _ => {}
            }
        }
    }
    // 1 is NO_SIDE_EFFECTS, 2 is IDEMPOTENT.
    Ok(matches!(level, 1 | 2))
}

/// Whether a name is made of what names in a `.proto` file are made of.
fn plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
}

/// Bytes that are no set of descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidDescriptorSet(Why);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Malformed(Malformed),
    NoService,
    NoName,
    LongName,
    Many,
}

impl From<Malformed> for InvalidDescriptorSet {
    fn from(malformed: Malformed) -> Self {
        Self(Why::Malformed(malformed))
    }
}

impl fmt::Display for InvalidDescriptorSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Why::Malformed(malformed) => write!(f, "it is no FileDescriptorSet: {malformed}"),
            Why::NoService => f.write_str("it describes no service"),
            Why::NoName => f.write_str("the name of a package, service or method is none"),
            Why::LongName => write!(f, "the path of a method is longer than {PATH} bytes"),
            Why::Many => write!(f, "more than {METHODS} methods are declared idempotent"),
        }
    }
}

impl std::error::Error for InvalidDescriptorSet {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn varint(mut number: u64, out: &mut Vec<u8>) {
        while number > 0x7f {
            out.push(number as u8 | 0x80);
            number >>= 7;
        }
        out.push(number as u8);
    }

    fn field(number: u64, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        varint(number << 3 | 2, &mut out);
        varint(content.len() as u64, &mut out);
        out.extend_from_slice(content);
        out
    }

    fn level(level: u64) -> Vec<u8> {
        let mut options = Vec::new();
        varint(34 << 3, &mut options);
        varint(level, &mut options);
        field(4, &options)
    }

    fn method(name: &str, levels: &[u64]) -> Vec<u8> {
        let levels = levels.iter().flat_map(|number| level(*number));
        field(2, &field(1, name.as_bytes()).into_iter().chain(levels).collect::<Vec<_>>())
    }

    fn service(name: &str, methods: &[Vec<u8>]) -> Vec<u8> {
        // Names may follow what they name.
        field(6, &[methods.concat(), field(1, name.as_bytes())].concat())
    }

    fn file(package: &str, services: &[u8]) -> Vec<u8> {
        field(1, &[services, &field(2, package.as_bytes())].concat())
    }

    #[test]
    fn methods_are_known_by_their_paths() {
        let methods = [
            method("Get", &[1]),
            method("Put", &[2]),
            method("Add", &[0]),
            method("Move", &[]),
            method("Later", &[3]),
            method("Merged", &[1, 0]),
        ];
        let items = service("Items", &methods);
        let set = [file("shop.v1", &items), file("", &items)].concat();
        let found = IdempotentMethods::from_descriptor_set(&set).expect("valid");
        for known in ["/Items/Get", "/Items/Put", "/shop.v1.Items/Get", "/shop.v1.Items/Put"] {
            assert!(found.contains(known), "{known}");
        }
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn what_is_no_descriptor_set_is_refused() {
        let items = |name: &str| file("shop", &service("Items", &[method(name, &[1])]));
        for (bytes, why) in [
            (Vec::new(), "it describes no service"),
            (b"-----BEGIN CERTIFICATE-----".to_vec(), "no FileDescriptorSet"),
            (items("a/b"), "is none"),
            (items(""), "is none"),
            (items("a\r\nb"), "is none"),
            (items(&"a".repeat(1025)), "longer than 1024"),
            (file("shop", &service("Items", &[field(2, &field(4, &field(34, b"1")))])), "no Fil"),
            (vec![0x08, 0x01], "no FileDescriptorSet"),
        ] {
            let told = IdempotentMethods::from_descriptor_set(&bytes).expect_err(why).to_string();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn methods_are_bounded_and_so_is_what_they_cost() {
        let many: Vec<_> = (0..=METHODS).map(|n| method(&format!("M{n}"), &[1])).collect();
        let told = IdempotentMethods::from_descriptor_set(&file("p", &service("S", &many)));
        assert!(told.expect_err("too many").to_string().contains("more than 100000"));
    }

    #[test]
    fn a_set_that_is_cut_is_refused_wherever_it_is() {
        let set = file("shop.v1", &service("Items", &[method("Get", &[1]), method("Put", &[2])]));
        for end in 0..set.len() {
            assert!(IdempotentMethods::from_descriptor_set(&set[..end]).is_err(), "{end}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = IdempotentMethods::from_descriptor_set(&bytes);
            let _ = IdempotentMethods::from_descriptor_set(&file("p", &bytes));
        }
    }
}
