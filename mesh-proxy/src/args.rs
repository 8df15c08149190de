//! Arguments of `mesh-proxy` and of `mesh proxy`.

use crate::access_log::Format;
use clap::{Parser, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A sidecar and front proxy made of the mesh's layers.
///
/// With `--listen` and `--upstream` no file is needed; `--config` loads listeners and
/// destinations from a file, which is read again when it changes.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "mesh-proxy",
    version,
    after_help = "Examples:\n  mesh-proxy --listen 0.0.0.0:8080 --upstream 10.0.0.1:80,10.0.0.2:80\n  mesh-proxy --config mesh.yaml --admin 127.0.0.1:19000"
)]
#[non_exhaustive]
pub struct Args {
    /// Where to accept connections; port 0 picks a free one and prints it.
    #[arg(long, value_name = "ADDR", env = "MESH_LISTEN", requires = "upstream")]
    pub listen: Option<SocketAddr>,

    /// Where they go: addresses separated by commas, or dns://name:port.
    #[arg(long, value_name = "ADDR,…", env = "MESH_UPSTREAM", requires = "listen")]
    pub upstream: Option<Upstream>,

    /// What is spoken on the listener.
    #[arg(long, value_enum, default_value_t = Protocol::Auto, env = "MESH_PROTOCOL")]
    pub protocol: Protocol,

    /// What the endpoints speak; by default HTTP/1.1, and HTTP/2 for gRPC.
    #[arg(long, value_enum, env = "MESH_UPSTREAM_PROTOCOL")]
    pub upstream_protocol: Option<UpstreamProtocol>,

    /// A configuration file; several are read as one, and no object may be in two of them.
    #[arg(long, value_name = "FILE", env = "MESH_CONFIG", value_delimiter = ',')]
    pub config: Vec<PathBuf>,

    /// Prints the YAML that the other flags stand for, and exits.
    #[arg(long)]
    pub print_config: bool,

    /// Threads that serve, each with its own listener and connections. One per core.
    #[arg(long, value_name = "N", env = "MESH_WORKERS")]
    pub workers: Option<std::num::NonZeroUsize>,

    /// PEM file of the certificate chain that the listener shows.
    #[arg(long, value_name = "FILE", env = "MESH_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file of its key.
    #[arg(long, value_name = "FILE", env = "MESH_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// PEM file of authorities; with it, every client must show a certificate of one of them.
    #[arg(long, value_name = "FILE", env = "MESH_TLS_CLIENT_CA", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,

    /// Speak TLS to the endpoints, trusting the authorities of the system.
    #[arg(long, env = "MESH_UPSTREAM_TLS")]
    pub upstream_tls: bool,

    /// PEM file of the authorities that endpoints are trusted by; implies --upstream-tls.
    #[arg(long, value_name = "FILE", env = "MESH_UPSTREAM_CA")]
    pub upstream_ca: Option<PathBuf>,

    /// PEM file of the certificate to show to endpoints; implies --upstream-tls.
    #[arg(long, value_name = "FILE", env = "MESH_UPSTREAM_CERT", requires = "upstream_key")]
    pub upstream_cert: Option<PathBuf>,

    /// PEM file of its key.
    #[arg(long, value_name = "FILE", env = "MESH_UPSTREAM_KEY", requires = "upstream_cert")]
    pub upstream_key: Option<PathBuf>,

    /// DNS name or spiffe:// identity that endpoints must prove; implies --upstream-tls.
    #[arg(long, value_name = "NAME", env = "MESH_UPSTREAM_NAME")]
    pub upstream_name: Option<String>,

    /// Where the admin pages are served; only loopback addresses are accepted.
    #[arg(long, value_name = "ADDR", env = "MESH_ADMIN_LISTEN")]
    pub admin: Option<SocketAddr>,

    /// Writes a line per request to stdout.
    #[arg(long, value_enum, value_name = "FORMAT", env = "MESH_ACCESS_LOG")]
    pub access_log: Option<Format>,

    /// Longest time that draining may take, such as 30s or 1m30s. By default what ServerPolicies
    /// say of the inbound listeners, the longest of several; 30s if they say nothing.
    #[arg(long, value_name = "SPAN", value_parser = span, env = "MESH_DRAIN_TIMEOUT")]
    pub drain_timeout: Option<Duration>,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[non_exhaustive]
pub enum Protocol {
    /// By the first bytes: HTTP/1, HTTP/2, or else bytes.
    Auto,
    /// HTTP/1 or HTTP/2; all else is refused.
    Http,
    /// Bytes.
    Tcp,
}

/// What endpoints speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[non_exhaustive]
pub enum UpstreamProtocol {
    /// HTTP/1.1, and HTTP/2 for gRPC.
    Http,
    /// HTTP/2.
    Http2,
}

/// Where endpoints come from, as a flag says it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Upstream {
    /// These addresses.
    Addresses(Vec<SocketAddr>),
    /// `name:port` by A and AAAA records, `name` alone by SRV records.
    Dns(String),
}

impl std::str::FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("dns://") {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
            return if !name.is_empty() && name.bytes().all(plain) {
                Ok(Self::Dns(name.to_owned()))
            } else {
                Err(format!("`{name}` is not name or name:port"))
            };
        }
        text.split(',')
            .map(|address| {
                address.trim().parse().map_err(|_| {
                    format!("`{address}` is not ip:port; for a name write dns://{address}")
                })
            })
            .collect::<Result<_, _>>()
            .map(Self::Addresses)
    }
}

/// A span by GEP-2257: `1h`, `30s`, `1m30s500ms`.
fn span(text: &str) -> Result<Duration, String> {
    let invalid = || format!("`{text}` is no span such as 30s or 1m30s");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let millis = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return Err(invalid()),
        };
        let part = number.checked_mul(millis).ok_or_else(invalid)?;
        total = total.checked_add(Duration::from_millis(part)).ok_or_else(invalid)?;
        rest = after;
    }
    if text.is_empty() { Err(invalid()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_are_consistent() {
        Args::command().debug_assert();
        let args = Args::try_parse_from([
            "mesh-proxy",
            "--listen",
            "127.0.0.1:0",
            "--upstream",
            "127.0.0.1:1, [::1]:2",
            "--drain-timeout",
            "1m30s",
        ])
        .unwrap();
        let addresses = ["127.0.0.1:1", "[::1]:2"].map(|text| text.parse().unwrap());
        assert_eq!(args.upstream, Some(Upstream::Addresses(addresses.to_vec())));
        assert_eq!(args.drain_timeout, Some(Duration::from_secs(90)));
        for wrong in [
            &["--listen", "127.0.0.1:0"][..],
            &["--upstream", "127.0.0.1:1"],
            &["--listen", "x", "--upstream", "127.0.0.1:1"],
            &["--listen", "127.0.0.1:0", "--upstream", "inventory:80"],
            &["--listen", "127.0.0.1:0", "--upstream", "dns://"],
            &["--drain-timeout", "30"],
            &["--tls-cert", "a"],
            &["--workers", "0"],
        ] {
            let args = std::iter::once("mesh-proxy").chain(wrong.iter().copied());
            assert!(Args::try_parse_from(args).is_err(), "{wrong:?}");
        }
        assert_eq!("dns://inventory:80".parse(), Ok(Upstream::Dns("inventory:80".into())));
    }
}
