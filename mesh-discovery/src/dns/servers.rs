//! The name servers, asked one after the other.
//!
//! One hickory resolver per server, without its cache, search list, hosts file and repeats, so
//! that the schedule, the order and the failover are ours and an error can name the server. A
//! server that failed is asked last until another one fails.

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What came of one question.
pub(super) enum Reply {
    /// Records, perhaps of other names and types too.
    Answer(Lookup),
    /// The name exists, without records of this type.
    NoData,
    /// The name does not exist, says this server.
    NoSuchName(SocketAddr),
    /// No server gave an answer that can be used: which one did what.
    Failed(String),
}

pub(super) struct Servers {
    list: Vec<Server>,
    /// Where to begin: the last one that answered.
    first: AtomicUsize,
    timeout: Duration,
}

struct Server {
    address: SocketAddr,
    resolver: TokioResolver,
}

impl Servers {
    pub(super) fn new(addresses: &[SocketAddr], options: &ResolverOpts) -> Result<Self, String> {
        if addresses.is_empty() {
            return Err("no name server is configured".to_owned());
        }
        let list = addresses
            .iter()
            .map(|&address| Ok(Server { address, resolver: resolver(address, options)? }))
            .collect::<Result<_, NetError>>()
            .map_err(|error| error.to_string())?;
        Ok(Self { list, first: AtomicUsize::new(0), timeout: options.timeout })
    }

    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Reply {
        let mut failed = String::new();
        let first = self.first.load(Ordering::Relaxed);
        for offset in 0..self.list.len() {
            let index = (first + offset) % self.list.len();
            let Some(Server { address, resolver }) = self.list.get(index) else { break };
            // A truncated answer is asked for again over TCP, with a timeout of its own.
            let bound = self.timeout * 2;
            let looked = tokio::time::timeout(bound, resolver.lookup(name.clone(), kind)).await;
            let reply = match looked.unwrap_or(Err(NetError::Timeout)) {
                Ok(lookup) => Reply::Answer(lookup),
                Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
                    ResponseCode::NXDomain => Reply::NoSuchName(*address),
                    _ => Reply::NoData,
                },
                Err(error) => {
                    let separator = if failed.is_empty() { "" } else { ", " };
                    let what = describe(&error, self.timeout);
                    let _ = write!(failed, "{separator}{address} {what} to {kind}");
                    continue;
                }
            };
            self.first.store(index, Ordering::Relaxed);
            return reply;
        }
        Reply::Failed(failed)
    }
}

fn resolver(address: SocketAddr, options: &ResolverOpts) -> Result<TokioResolver, NetError> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()]
        .into_iter()
        .map(|mut connection| {
            connection.port = address.port();
            connection
        })
        .collect();
    let server = NameServerConfig::new(address.ip(), true, connections);
    let mut builder = Resolver::builder_with_config(
        ResolverConfig::from_parts(None, Vec::new(), vec![server]),
        TokioRuntimeProvider::default(),
    );
    let ours = builder.options_mut();
    *ours = options.clone();
    ours.cache_size = 0;
    ours.attempts = 0;
    ours.use_hosts_file = ResolveHosts::Never;
    ours.preserve_intermediates = true;
    builder.build()
}

fn describe(error: &NetError, timeout: Duration) -> String {
    match error {
        NetError::Timeout => format!("did not answer within {timeout:?}"),
        NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => {
            "answered SERVFAIL".to_owned()
        }
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => {
            "answered REFUSED".to_owned()
        }
        NetError::Dns(DnsError::ResponseCode(code)) => format!("answered \"{code}\""),
        NetError::Io(error) => format!("could not be reached ({error})"),
        NetError::Proto(error) => format!("sent what is no DNS message ({error})"),
        error => format!("failed ({error})"),
    }
}
