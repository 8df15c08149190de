//! Decoding: from what people and agents wrote to typed values.
//!
//! Keys of structs are matched without regard to case and underscores: `ServiceID`, `service_id`
//! and `serviceid` are one field. Keys of free-form maps (`Meta`, `Config`, `Header`) stay as they
//! are. `null` is "not given". Of a key given twice the last counts. A key that is no field is
//! refused with its path and "did you mean", as Consul refuses it (sessions and queries apart:
//! [`Options::ignore_unknown`]).
//!
//! What may stand for what depends on who wrote it, a [`Dialect`]:
//!
//! | | body | entry | file |
//! |---|---|---|---|
//! | `"80"` for a number, `1` for a boolean | no | yes | no |
//! | `80.0` for a whole number | no | yes | yes |
//! | a list of one for a map | no | no | yes |
//! | a map for a list of one | no | no | yes |
//! | a bare number for a duration | nanoseconds | nanoseconds | no |
//!
//! Limits: 2 MiB of JSON ([`Options::max_bytes`]), 64 levels.
//!
//! Differences to Consul 1.8.7: it knows underscores for some keys of its API only; it lets bytes
//! after the JSON value pass, and a port of -1 or 70000.
//!
//! Source: Go's `encoding/json`, `mapstructure`, and answers of Consul 1.8.7.

mod de;
mod error;
mod node;

pub(crate) use de::same_letters;
pub use error::DecodeError;
pub(crate) use error::nearest;
pub(crate) use node::{Key, Node, Place, Tree};

use error::Cause;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Who wrote it, hence what may stand for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// The body of a request: types are what they say.
    #[default]
    Body,
    /// A configuration entry: numbers and booleans may be texts, and the other way round.
    Entry,
    /// A definition file, in which one block and a list of one mean the same.
    File,
}

/// How to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// What may stand for what. [`Dialect::Body`].
    pub dialect: Dialect,
    /// Whether a key that is no field is passed over. No.
    pub ignore_unknown: bool,
    /// Most bytes of JSON. 2 MiB.
    pub max_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { dialect: Dialect::Body, ignore_unknown: false, max_bytes: 2 << 20 }
    }
}

impl Options {
    /// Those of a dialect.
    #[must_use]
    pub fn of(dialect: Dialect) -> Self {
        Self { dialect, ..Self::default() }
    }

    /// Passes over keys that are no fields.
    #[must_use]
    pub const fn ignore_unknown(mut self) -> Self {
        self.ignore_unknown = true;
        self
    }

    /// Refuses more bytes than these.
    #[must_use]
    pub const fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// What is wrong, and at which key.
    pub fn read_json<T: DeserializeOwned>(self, body: &[u8]) -> Result<T, DecodeError> {
        self.read_node(&Node::from_json(body, self.max_bytes)?)
    }

    /// Reads a JSON value.
    ///
    /// # Errors
    /// What is wrong, and at which key.
    pub fn read_value<T: DeserializeOwned>(self, value: &Value) -> Result<T, DecodeError> {
        self.read_node(&Node::from_value(value)?)
    }

    /// Reads a tree; tells all that is wrong in it, up to `most`: what is wrong is taken out, and
    /// the rest read again.
    pub(crate) fn read_all<T: DeserializeOwned>(
        self,
        node: &Node,
        most: usize,
    ) -> Result<T, Vec<DecodeError>> {
        let mut error = match self.read_node(node) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let mut errors = Vec::new();
        let mut rest = node.clone();
        loop {
            let (at, cause) = (error.at, error.cause);
            errors.push(error);
            let removed = at.is_some_and(|at| match cause {
                Cause::Key => rest.remove_key(at),
                Cause::Value => rest.remove_value(at),
                Cause::Missing => false,
            });
            if !removed || errors.len() >= most {
                return Err(errors);
            }
            error = match self.read_node::<T>(&rest) {
                // What is missing now may be what was taken out.
                Ok(_) | Err(DecodeError { cause: Cause::Missing, .. }) => return Err(errors),
                Err(error) => error,
            };
        }
    }

    /// Reads a tree.
    fn read_node<T: DeserializeOwned>(self, node: &Node) -> Result<T, DecodeError> {
        T::deserialize(de::De { node, options: self }).map_err(|error| error.at(node.at))
    }
}

/// Reads the body of a request.
///
/// ```
/// use mesh_control::decode;
/// use mesh_control::types::ServiceDefinition;
///
/// let body = br#"{"name": "web", "enable_tag_override": true, "Meta": {"some_Key": "v"}}"#;
/// let web: ServiceDefinition = decode::from_json(body).unwrap();
/// assert_eq!((&*web.name, web.enable_tag_override), ("web", true));
/// assert_eq!(web.meta["some_Key"], "v");
///
/// let body = br#"{"Name": "web", "Check": {"Intervall": "1s"}}"#;
/// let error = decode::from_json::<ServiceDefinition>(body).unwrap_err();
/// assert_eq!(error.to_string(), "Check: unknown field \"Intervall\", did you mean \"Interval\"?");
/// ```
///
/// # Errors
/// What is wrong, and at which key.
pub fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    Options::default().read_json(body)
}

/// Reads a JSON value as the body of a request.
///
/// # Errors
/// What is wrong, and at which key.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, DecodeError> {
    Options::default().read_value(value)
}

#[cfg(test)]
mod tests;
