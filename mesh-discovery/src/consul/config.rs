//! Where Consul is, and what it is shown: settings, and the environment that Consul's own programs
//! read.
//!
//! | variable | says |
//! |---|---|
//! | `CONSUL_HTTP_ADDR` | `host:port`, `http://host:port` or `https://host:port`; the port is 8500, with https 8501 |
//! | `CONSUL_HTTP_SSL` | `true`: https where the address does not say |
//! | `CONSUL_HTTP_TOKEN` | the token that every question carries |
//! | `CONSUL_HTTP_TOKEN_FILE` | a file that holds the token; read once |
//! | `CONSUL_CACERT` | PEM file of the authorities that sign Consul's certificate |
//!
//! An empty variable counts as none. Unix sockets are not spoken to.

use http::HeaderValue;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Settings of [`Consul`](super::Consul).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The agent or server that is asked. `http://127.0.0.1:8500`.
    pub address: Address,
    /// What every question carries as `X-Consul-Token`. None.
    pub token: Option<Token>,
    /// PEM file of the authorities that sign its certificate, with https; read for each
    /// connection. `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// The datacenter that is asked where nothing else says. `None`: that of the agent.
    pub datacenter: Option<String>,
    /// How long Consul may hold an answer back while nothing changes, up to 10 min. 5 min. Consul
    /// adds up to a sixteenth.
    pub wait: Duration,
    /// Longest time to a connection, TLS included. 5 s.
    pub connect_timeout: Duration,
    /// Largest answer in bytes; a larger one is a failure. 64 MiB, which is some 50,000
    /// instances of one service.
    pub max_answer: usize,
    /// Seed of the jitter, for tests. None: drawn.
    pub seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: Address::default(),
            token: None,
            ca: None,
            datacenter: None,
            wait: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(5),
            max_answer: 64 << 20,
            seed: None,
        }
    }
}

impl Config {
    /// The settings that the environment states; `None` if it does not name an address.
    ///
    /// # Errors
    /// When a variable cannot be used; the error names it, and never shows a token.
    pub fn from_env() -> Result<Option<Self>, InvalidVariable> {
        Self::from(&|name| env::var_os(name))
    }

    fn from(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<Self>, InvalidVariable> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &'static str| match set(name).map(OsString::into_string) {
            Some(Err(_)) => Err(InvalidVariable { name, why: "it is not UTF-8".to_owned() }),
            Some(Ok(text)) => Ok(Some(text)),
            None => Ok(None),
        };
        let Some(address) = text("CONSUL_HTTP_ADDR")? else { return Ok(None) };
        let ssl = match text("CONSUL_HTTP_SSL")?.as_deref() {
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
            None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
            Some(_) => {
                let why = "it is neither true nor false".to_owned();
                return Err(InvalidVariable { name: "CONSUL_HTTP_SSL", why });
            }
        };
        let address = Address::parse(&address, ssl).map_err(|error| InvalidVariable {
            name: "CONSUL_HTTP_ADDR",
            why: error.to_string(),
        })?;
        let token = match (text("CONSUL_HTTP_TOKEN")?, set("CONSUL_HTTP_TOKEN_FILE")) {
            (Some(token), _) => Some(("CONSUL_HTTP_TOKEN", token)),
            (None, Some(file)) => {
                let name = "CONSUL_HTTP_TOKEN_FILE";
                let read = std::fs::read_to_string(file);
                let token = read.map_err(|error| InvalidVariable { name, why: error.to_string() });
                Some((name, token?))
            }
            (None, None) => None,
        };
        let token = match token {
            Some((name, token)) => Some(
                Token::new(token.trim())
                    .map_err(|error| InvalidVariable { name, why: error.to_string() })?,
            ),
            None => None,
        };
        let ca = set("CONSUL_CACERT").map(PathBuf::from);
        Ok(Some(Self { address, token, ca, ..Self::default() }))
    }
}

/// A variable of the environment that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidVariable {
    /// Its name.
    pub name: &'static str,
    /// Why not.
    pub why: String,
}

impl fmt::Display for InvalidVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be used: {}", self.name, self.why)
    }
}

impl std::error::Error for InvalidVariable {}

/// A token: never shown, neither by `Debug` nor in messages.
#[derive(Clone)]
pub struct Token(HeaderValue);

impl Token {
    /// A token as Consul gave it.
    ///
    /// # Errors
    /// When it is empty or cannot stand in a header field.
    pub fn new(secret: &str) -> Result<Self, InvalidToken> {
        let mut value = HeaderValue::from_str(secret).map_err(|_| InvalidToken(()))?;
        if secret.is_empty() {
            return Err(InvalidToken(()));
        }
        value.set_sensitive(true);
        Ok(Self(value))
    }

    pub(super) const fn field(&self) -> &HeaderValue {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidToken(());

impl fmt::Display for InvalidToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token is a text without control characters, and not an empty one")
    }
}

impl std::error::Error for InvalidToken {}

/// Where Consul's HTTP API is.
///
/// ```
/// use mesh_discovery::consul::Address;
///
/// let address: Address = "consul.internal".parse().unwrap();
/// assert_eq!(address.to_string(), "http://consul.internal:8500");
/// assert!("unix:///run/consul.sock".parse::<Address>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    https: bool,
    /// Without the brackets of IPv6.
    host: String,
    port: u16,
}

impl Default for Address {
    fn default() -> Self {
        Self { https: false, host: "127.0.0.1".to_owned(), port: 8500 }
    }
}

impl Address {
    /// Whether TLS is spoken.
    #[must_use]
    pub const fn is_https(&self) -> bool {
        self.https
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, as the authority of requests.
    pub(super) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn parse(text: &str, ssl: bool) -> Result<Self, InvalidAddress> {
        let (https, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(("unix", _)) => return Err(InvalidAddress::Unix),
            Some(_) => return Err(InvalidAddress::Other),
            None => (ssl, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let bare = |text: &str| {
            text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).map(str::to_owned)
        };
        let default = if https { 8501 } else { 8500 };
        let (host, port) = match rest.rsplit_once(':') {
            _ if rest.parse::<IpAddr>().is_ok() => (rest.to_owned(), default),
            Some((host, port)) if !port.contains(']') => {
                let port = port.parse().ok().filter(|port| *port != 0);
                let host = bare(host).unwrap_or_else(|| host.to_owned());
                (host, port.ok_or(InvalidAddress::Other)?)
            }
            _ => (bare(rest).unwrap_or_else(|| rest.to_owned()), default),
        };
        let is_name = host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
        if host.len() > 253 || !(is_name || host.parse::<IpAddr>().is_ok()) {
            return Err(InvalidAddress::Other);
        }
        Ok(Self { https, host, port })
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        Self::parse(text, false)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

/// A text that is no [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidAddress {
    /// It names a Unix socket.
    Unix,
    /// It is something else.
    Other,
}

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unix => "Unix sockets are not supported: write host:port",
            Self::Other => "it is not host:port, http://host:port or https://host:port",
        })
    }
}

impl std::error::Error for InvalidAddress {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_consul_takes() {
        for (text, address) in [
            ("127.0.0.1:8500", "http://127.0.0.1:8500"),
            ("consul.internal", "http://consul.internal:8500"),
            ("http://consul:80/", "http://consul:80"),
            ("https://consul", "https://consul:8501"),
            ("[::1]:8500", "http://[::1]:8500"),
            ("[::1]", "http://[::1]:8500"),
            ("::1", "http://[::1]:8500"),
            ("https://[fd00::1]:9", "https://[fd00::1]:9"),
        ] {
            assert_eq!(text.parse::<Address>().map(|it| it.to_string()).as_deref(), Ok(address));
        }
        assert_eq!("unix:///run/consul.sock".parse::<Address>(), Err(InvalidAddress::Unix));
        for wrong in [
            "",
            ":8500",
            "a:0",
            "a:65536",
            "a:x",
            "ftp://a",
            "a b",
            "a/v1",
            "http://u:p@h",
            "a\r\n",
        ] {
            assert_eq!(wrong.parse::<Address>(), Err(InvalidAddress::Other), "{wrong:?}");
        }
    }

    fn read(set: &[(&str, &str)]) -> Result<Option<Config>, InvalidVariable> {
        Config::from(&|name| {
            set.iter().find(|(known, _)| *known == name).map(|(_, text)| text.into())
        })
    }

    #[test]
    fn the_environment_is_that_of_consuls_own_programs() {
        assert!(read(&[]).expect("nothing is wrong").is_none());
        assert!(read(&[("CONSUL_HTTP_ADDR", "")]).expect("an empty one is none").is_none());
        let config = read(&[
            ("CONSUL_HTTP_ADDR", "consul:7000"),
            ("CONSUL_HTTP_SSL", "true"),
            ("CONSUL_HTTP_TOKEN", "5ec4e7-of-ours\n"),
            ("CONSUL_CACERT", "/etc/consul/ca.pem"),
        ]);
        let config = config.expect("all are well").expect("an address");
        assert_eq!(config.address.to_string(), "https://consul:7000");
        assert_eq!(config.ca, Some("/etc/consul/ca.pem".into()));
        let field = config.token.as_ref().map(|token| token.field().as_bytes().to_vec());
        assert_eq!(field.as_deref(), Some(&b"5ec4e7-of-ours"[..]));
        assert!(!format!("{config:?}").contains("5ec4e7"), "{config:?}");
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_variable_and_without_the_token() {
        for (variable, value, why) in [
            ("CONSUL_HTTP_ADDR", "unix:///run/consul.sock", "Unix sockets are not supported"),
            ("CONSUL_HTTP_SSL", "perhaps", "neither true nor false"),
            ("CONSUL_HTTP_TOKEN", "5ec4e7\u{7}", "without control characters"),
            ("CONSUL_HTTP_TOKEN_FILE", "/nowhere/at/all", "No such file"),
        ] {
            let set = [(variable, value), ("CONSUL_HTTP_ADDR", "127.0.0.1")];
            let error = read(&set).expect_err(variable).to_string();
            assert!(error.starts_with(&format!("{variable} cannot be used: ")), "{error}");
            assert!(error.contains(why) && !error.contains("5ec4e7"), "{error}");
        }
    }
}
