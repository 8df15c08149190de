//! Arguments of `mesh-proxy` and of `mesh proxy`.

use crate::access_log::Format;
use clap::{Parser, ValueEnum};
use mesh_core::config::span;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// A sidecar and front proxy made of the mesh's layers.
///
/// With `--listen` and `--upstream` no file is needed; `--config` loads listeners and
/// destinations from a file, which is read again when it changes. The flags about TLS and
/// protocols are for that listener and that upstream: without them they are refused, because in
/// a file each listener and each destination has settings of its own.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "mesh-proxy",
    version,
    after_help = "Examples:\n  mesh-proxy --listen 0.0.0.0:8080 --upstream 10.0.0.1:80,10.0.0.2:80\n  mesh-proxy --config mesh.yaml --admin off"
)]
#[non_exhaustive]
pub struct Args {
    /// Where to accept connections; port 0 picks a free one and prints it.
    #[arg(long, value_name = "ADDR", env = "MESH_LISTEN", requires = "upstream")]
    pub listen: Option<SocketAddr>,

    /// Where they go: addresses separated by commas, or dns://name:port.
    #[arg(long, value_name = "ADDR,…", env = "MESH_UPSTREAM", requires = "listen")]
    pub upstream: Option<Upstream>,

    /// What is spoken on the listener; by default what the first bytes say.
    #[arg(long, value_enum, env = "MESH_PROTOCOL", requires = "listen")]
    pub protocol: Option<Protocol>,

    /// What the endpoints speak; by default HTTP/1.1, and HTTP/2 for gRPC.
    #[arg(long, value_enum, env = "MESH_UPSTREAM_PROTOCOL", requires = "listen")]
    pub upstream_protocol: Option<UpstreamProtocol>,

    /// A configuration file; several are read as one, and no object may be in two of them.
    #[arg(long, value_name = "FILE", env = "MESH_CONFIG", value_delimiter = ',')]
    pub config: Vec<PathBuf>,

    /// Prints the YAML that the other flags stand for, and exits.
    #[arg(long)]
    pub print_config: bool,

    /// Where the proxy runs, for zone-aware routing and failover by labels.
    #[arg(long, value_name = "REGION/ZONE/SUBZONE", env = "MESH_LOCALITY")]
    pub locality: Option<mesh_core::Locality>,

    /// Its labels, for failover by labels: key=value, with commas between them.
    #[arg(long, value_name = "LABELS", env = "MESH_LABELS")]
    pub labels: Option<mesh_core::pick::Labels>,

    /// Its number among the callers of the same destinations, for deterministic subsetting.
    #[arg(long, value_name = "N", env = "MESH_CALLER_NUMBER", default_value_t = 0)]
    pub caller_number: u64,

    /// Makes random decisions repeatable, for tests: those of the n-th request follow from it and n.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Threads that serve, each with its own listener and connections. One per core.
    #[arg(long, value_name = "N", env = "MESH_WORKERS")]
    pub workers: Option<std::num::NonZeroUsize>,

    /// PEM file of the certificate chain that the listener shows.
    #[arg(
        long,
        value_name = "FILE",
        env = "MESH_TLS_CERT",
        requires = "tls_key",
        requires = "listen"
    )]
    pub tls_cert: Option<PathBuf>,

    /// PEM file of its key.
    #[arg(
        long,
        value_name = "FILE",
        env = "MESH_TLS_KEY",
        requires = "tls_cert",
        requires = "listen"
    )]
    pub tls_key: Option<PathBuf>,

    /// PEM file of authorities; with it, every client must show a certificate of one of them.
    #[arg(
        long,
        value_name = "FILE",
        env = "MESH_TLS_CLIENT_CA",
        requires = "tls_cert",
        requires = "listen"
    )]
    pub tls_client_ca: Option<PathBuf>,

    /// Speak TLS to the endpoints, trusting the authorities of the system.
    #[arg(long, env = "MESH_UPSTREAM_TLS", requires_if("true", "listen"))]
    pub upstream_tls: bool,

    /// PEM file of the authorities that endpoints are trusted by; implies --upstream-tls.
    #[arg(long, value_name = "FILE", env = "MESH_UPSTREAM_CA", requires = "listen")]
    pub upstream_ca: Option<PathBuf>,

    /// PEM file of the certificate to show to endpoints; implies --upstream-tls.
    #[arg(
        long,
        value_name = "FILE",
        env = "MESH_UPSTREAM_CERT",
        requires = "upstream_key",
        requires = "listen"
    )]
    pub upstream_cert: Option<PathBuf>,

    /// PEM file of its key.
    #[arg(
        long,
        value_name = "FILE",
        env = "MESH_UPSTREAM_KEY",
        requires = "upstream_cert",
        requires = "listen"
    )]
    pub upstream_key: Option<PathBuf>,

    /// DNS name or spiffe:// identity that endpoints must prove; implies --upstream-tls.
    #[arg(long, value_name = "NAME", env = "MESH_UPSTREAM_NAME", requires = "listen")]
    pub upstream_name: Option<String>,

    /// Where the admin pages are served: a loopback address, on which port 0 picks a free one and
    /// prints it, or `off`.
    #[arg(
        long,
        value_name = "ADDR|off",
        default_value_t = AdminListen::DEFAULT,
        env = "MESH_ADMIN_LISTEN"
    )]
    pub admin: AdminListen,

    /// Writes a line per request to stdout.
    #[arg(long, value_enum, value_name = "FORMAT", env = "MESH_ACCESS_LOG")]
    pub access_log: Option<Format>,

    /// Longest time that draining may take, such as 30s or 1m30s. By default what ServerPolicies
    /// say of the inbound listeners, the longest of several; 30s if they say nothing.
    #[arg(long, value_name = "SPAN", value_parser = span::parse, env = "MESH_DRAIN_TIMEOUT")]
    pub drain_timeout: Option<Duration>,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1 or HTTP/2, unless the Service of the listener takes bytes; that of --upstream does
    /// not.
    Auto,
    /// HTTP/1 or HTTP/2; all else is refused.
    Http,
    /// Bytes of any kind, relayed to one endpoint as they come.
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

/// Where admin pages are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdminListen {
    /// Nowhere.
    Off,
    /// Here.
    At(SocketAddr),
}

impl AdminListen {
    /// 127.0.0.1:19000, the port of Envoy's admin pages beside Consul.
    pub const DEFAULT: Self = Self::At(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 19000));
}

impl std::str::FromStr for AdminListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            address => address
                .parse()
                .map(Self::At)
                .map_err(|_| format!("`{address}` is neither ip:port nor `off`")),
        }
    }
}

impl fmt::Display for AdminListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
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
        assert_eq!((args.protocol, args.admin), (None, AdminListen::DEFAULT));
        for wrong in [
            &["--listen", "127.0.0.1:0"][..],
            &["--upstream", "127.0.0.1:1"],
            &["--listen", "x", "--upstream", "127.0.0.1:1"],
            &["--listen", "127.0.0.1:0", "--upstream", "inventory:80"],
            &["--listen", "127.0.0.1:0", "--upstream", "dns://"],
            &["--drain-timeout", "30"],
            &["--drain-timeout", "1s1s1s1s1s"],
            &["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", "--tls-cert", "a"],
            &["--admin", "19000"],
            &["--admin", "of"],
            &["--workers", "0"],
        ] {
            let args = std::iter::once("mesh-proxy").chain(wrong.iter().copied());
            assert!(Args::try_parse_from(args).is_err(), "{wrong:?}");
        }
        for text in ["off", "127.0.0.1:19000", "[::1]:0"] {
            let admin: AdminListen = text.parse().unwrap();
            assert_eq!(admin.to_string(), text);
        }
        assert_eq!("dns://inventory:80".parse(), Ok(Upstream::Dns("inventory:80".into())));
    }
}
