//! Settings of the agent and of the server, as Consul's files write them.
//!
//! Of a setting that is written in several files the last counts; maps are merged by key. What
//! Consul knows and nothing here acts on is passed over with a warning; where leaving it out would
//! open what was to be closed, it is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::types::{GoDuration, Token};

/// Settings of the agent and of the server. What is written nowhere is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Settings {
    /// Name of the datacenter. `dc1`.
    pub datacenter: Option<String>,
    /// Where what must outlive a restart is kept.
    pub data_dir: Option<PathBuf>,
    /// The least severe messages that are logged. `info`.
    pub log_level: Option<LogLevel>,
    /// Name of this node. The host's.
    pub node_name: Option<String>,
    /// UUID of this node. Made once and kept in the data directory.
    pub node_id: Option<String>,
    /// What is said of this node.
    pub node_meta: BTreeMap<String, String>,
    /// Whether this is a server. No.
    pub server: Option<bool>,
    /// The address that this node has in the catalog.
    pub advertise_addr: Option<IpAddr>,
    /// Where HTTP and DNS listen unless `addresses` says otherwise. 127.0.0.1.
    pub client_addr: Option<Listen>,
    /// Where each interface listens.
    pub addresses: Addresses,
    /// On which ports.
    pub ports: Ports,
    /// The domain that DNS answers for. `consul.`.
    pub domain: Option<String>,
    /// Whether checks may run scripts, whoever registers them. No.
    pub enable_script_checks: Option<bool>,
    /// Whether checks from files may run scripts. No.
    pub enable_local_script_checks: Option<bool>,
    /// Whether the output of checks is not kept. It is.
    pub discard_check_output: Option<bool>,
    /// How often the catalog learns of output alone. 5 min.
    pub check_update_interval: Option<GoDuration>,
    /// Who may do what.
    pub acl: Acl,
}

/// Where each interface listens; 127.0.0.1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Addresses {
    /// The HTTP API.
    pub http: Option<Listen>,
    /// DNS.
    pub dns: Option<Listen>,
    /// xDS.
    pub grpc: Option<Listen>,
}

/// On which port each interface listens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Ports {
    /// The HTTP API. 8500.
    pub http: Option<Port>,
    /// DNS. 8600.
    pub dns: Option<Port>,
    /// xDS. 8502.
    pub grpc: Option<Port>,
    /// The first port for sidecars that name none. 21000.
    pub sidecar_min_port: Option<u16>,
    /// The last one. 21255.
    pub sidecar_max_port: Option<u16>,
}

/// Who may do what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Acl {
    /// Whether tokens are asked for. Yes, if there is one.
    pub enabled: Option<bool>,
    /// What a request without a token may do, where tokens are asked for. `allow`.
    pub default_policy: Option<DefaultPolicy>,
    /// The tokens.
    pub tokens: Tokens,
}

/// Tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Tokens {
    /// May do everything. Consul's words for it: `initial_management`, formerly `master`.
    #[serde(alias = "initial_management", alias = "master")]
    pub management: Option<Token>,
    /// May read everything.
    pub read_only: Option<Token>,
}

/// What a request without a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DefaultPolicy {
    /// Everything.
    Allow,
    /// Nothing.
    Deny,
}

/// The least severe messages that are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LogLevel {
    /// All.
    #[serde(alias = "TRACE")]
    Trace,
    /// What helps to find errors.
    #[serde(alias = "DEBUG")]
    Debug,
    /// What happens.
    #[serde(alias = "INFO")]
    Info,
    /// What should be looked at.
    #[serde(alias = "WARN")]
    Warn,
    /// What went wrong.
    #[serde(alias = "err", alias = "ERR", alias = "ERROR")]
    Error,
}

/// A port to listen on. A negative number turns the interface off; 0 takes any free port (Consul
/// turns it off for 0, too).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Port {
    /// The interface is off.
    Off,
    /// This one.
    At(u16),
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        match u16::try_from(number) {
            Ok(port) => Ok(Self::At(port)),
            Err(_) if number < 0 => Ok(Self::Off),
            Err(_) => Err(de::Error::custom(format!("{number} is no port: they end at 65535"))),
        }
    }
}

/// Addresses to listen on: one, or several with spaces between.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listen(pub Vec<IpAddr>);

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Listen;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("IP addresses with spaces between")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Listen, E> {
                let read = text.split_whitespace().map(|text| {
                    text.parse().map_err(|_| {
                        E::custom(format!(
                            "{text:?} is no IP address; names, sockets of unix and templates are \
                             not supported"
                        ))
                    })
                });
                let addresses = read.collect::<Result<Vec<IpAddr>, E>>()?;
                match addresses.is_empty() {
                    true => Err(E::custom("there is no address")),
                    false => Ok(Listen(addresses)),
                }
            }
        }
        deserializer.deserialize_str(Read)
    }
}

impl Settings {
    /// Takes over what `later` says.
    pub(super) fn merge(&mut self, later: Self) {
        fn over<T>(mine: &mut Option<T>, later: Option<T>) {
            if later.is_some() {
                *mine = later;
            }
        }
        over(&mut self.datacenter, later.datacenter);
        over(&mut self.data_dir, later.data_dir);
        over(&mut self.log_level, later.log_level);
        over(&mut self.node_name, later.node_name);
        over(&mut self.node_id, later.node_id);
        self.node_meta.extend(later.node_meta);
        over(&mut self.server, later.server);
        over(&mut self.advertise_addr, later.advertise_addr);
        over(&mut self.client_addr, later.client_addr);
        over(&mut self.addresses.http, later.addresses.http);
        over(&mut self.addresses.dns, later.addresses.dns);
        over(&mut self.addresses.grpc, later.addresses.grpc);
        over(&mut self.ports.http, later.ports.http);
        over(&mut self.ports.dns, later.ports.dns);
        over(&mut self.ports.grpc, later.ports.grpc);
        over(&mut self.ports.sidecar_min_port, later.ports.sidecar_min_port);
        over(&mut self.ports.sidecar_max_port, later.ports.sidecar_max_port);
        over(&mut self.domain, later.domain);
        over(&mut self.enable_script_checks, later.enable_script_checks);
        over(&mut self.enable_local_script_checks, later.enable_local_script_checks);
        over(&mut self.discard_check_output, later.discard_check_output);
        over(&mut self.check_update_interval, later.check_update_interval);
        over(&mut self.acl.enabled, later.acl.enabled);
        over(&mut self.acl.default_policy, later.acl.default_policy);
        over(&mut self.acl.tokens.management, later.acl.tokens.management);
        over(&mut self.acl.tokens.read_only, later.acl.tokens.read_only);
    }
}

/// Why a setting of Consul is passed over.
const NO_GOSSIP: &str = "servers share a store here: there is no gossip, and no Raft";
const NOT_USED: &str = "nothing here acts on it";

/// Settings of Consul that are passed over, with the block that they stand in.
pub(super) const PASSED_OVER: &[(&str, &[&str], &str)] = &[
    (
        "",
        &[
            "advertise_addr_wan",
            "autopilot",
            "bind_addr",
            "bootstrap",
            "bootstrap_expect",
            "disable_host_node_id",
            "disable_keyring_file",
            "encrypt",
            "encrypt_verify_incoming",
            "encrypt_verify_outgoing",
            "gossip_lan",
            "gossip_wan",
            "non_voting_server",
            "performance",
            "protocol",
            "raft_protocol",
            "raft_snapshot_interval",
            "raft_snapshot_threshold",
            "raft_trailing_logs",
            "reconnect_timeout",
            "reconnect_timeout_wan",
            "rejoin_after_leave",
            "retry_interval",
            "retry_interval_wan",
            "retry_join",
            "retry_join_wan",
            "retry_max",
            "retry_max_wan",
            "segment",
            "segments",
            "serf_lan",
            "serf_lan_allowed_cidrs",
            "serf_wan",
            "serf_wan_allowed_cidrs",
            "start_join",
            "start_join_wan",
        ],
        NO_GOSSIP,
    ),
    (
        "",
        &[
            "cache",
            "connect",
            "default_query_time",
            "disable_anonymous_signature",
            "disable_http_unprintable_char_filter",
            "disable_remote_exec",
            "disable_update_check",
            "discovery_max_stale",
            "dns_config",
            "enable_central_service_config",
            "enable_debug",
            "enable_syslog",
            "leave_on_terminate",
            "limits",
            "log_file",
            "log_json",
            "log_rotate_bytes",
            "log_rotate_duration",
            "log_rotate_max_files",
            "max_query_time",
            "pid_file",
            "primary_datacenter",
            "primary_gateways",
            "primary_gateways_interval",
            "reap",
            "recursors",
            "session_ttl_min",
            "skip_leave_on_interrupt",
            "syslog_facility",
            "telemetry",
            "translate_wan_addrs",
            "ui",
            "ui_config",
            "ui_content_path",
            "ui_dir",
            "watches",
        ],
        NOT_USED,
    ),
    ("ports", &["server", "serf_lan", "serf_wan"], NO_GOSSIP),
    ("ports", &["https", "expose_min_port", "expose_max_port"], NOT_USED),
    ("addresses", &["https"], NOT_USED),
    (
        "acl",
        &["down_policy", "enable_token_persistence", "policy_ttl", "role_ttl", "token_ttl"],
        NOT_USED,
    ),
    ("http_config", &["response_headers", "use_cache"], NOT_USED),
];

/// Settings of Consul that close something, and that nothing here acts on.
pub(super) const REFUSED: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "acl_agent_master_token",
            "acl_agent_token",
            "acl_datacenter",
            "acl_default_policy",
            "acl_down_policy",
            "acl_enforce_version_8",
            "acl_master_token",
            "acl_replication_token",
            "acl_token",
            "acl_ttl",
            "allow_write_http_from",
            "audit",
            "auto_config",
            "auto_encrypt",
            "ca_file",
            "ca_path",
            "cert_file",
            "enable_agent_tls_for_checks",
            "key_file",
            "server_name",
            "tls",
            "tls_cipher_suites",
            "tls_min_version",
            "tls_prefer_server_cipher_suites",
            "unix_sockets",
            "verify_incoming",
            "verify_incoming_https",
            "verify_incoming_rpc",
            "verify_outgoing",
            "verify_server_hostname",
        ],
    ),
    ("http_config", &["allow_write_http_from", "block_endpoints"]),
    ("tokens", &["agent", "agent_master", "agent_recovery", "default", "replication"]),
];
