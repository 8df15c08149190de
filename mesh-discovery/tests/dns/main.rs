//! DNS on real sockets: a scripted server for answers and faults, then real name servers.

#![allow(missing_docs)]

mod answers;
mod faults;
mod real;
mod server;

use hickory_resolver::proto::rr::Record;
use mesh_discovery::{Dns, Failure, Resolve, Update, Watch, dns};
use server::{Asked, Server, address};
use std::net::SocketAddr;
use std::time::Duration;

/// Longer than any machine under load should need.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

fn config(servers: &[SocketAddr]) -> dns::Config {
    let mut config = dns::Config::default();
    config.servers = servers.to_vec();
    config.timeout = Duration::from_millis(500);
    config.min_refresh = Duration::from_secs(1);
    config.seed = Some(42);
    config
}

fn watch(server: &Server, host: &str, port: Option<u16>) -> Watch {
    Dns::new(config(&[server.address])).resolver(host, port).watch()
}

/// A script that answers every question from these records, whatever its name.
fn always(records: Vec<Record>) -> impl FnMut(&Asked) -> Vec<Vec<u8>> + Send + 'static {
    move |asked| asked.answer(&records)
}

fn web(ttl: u32, ips: &[&str]) -> Vec<Record> {
    ips.iter().map(|ip| address("web.test.", ttl, ip)).collect()
}

/// The next update, which must come.
pub(crate) async fn next(watch: &mut Watch) -> Update {
    tokio::time::timeout(PATIENCE, watch.changed())
        .await
        .expect("an update was due")
        .expect("the source goes on")
}

/// The identities in the next set, past failures.
pub(crate) async fn ids(watch: &mut Watch) -> Vec<String> {
    loop {
        if let Update::Endpoints(specs) = next(watch).await {
            return specs.iter().map(|spec| spec.id.to_string()).collect();
        }
    }
}

/// The next failure, which must come before another set.
pub(crate) async fn failure(watch: &mut Watch) -> Failure {
    match next(watch).await {
        Update::Failed(failure) => failure,
        other => panic!("a failure was due, not {other:?}"),
    }
}

/// Nudges until the set with exactly these identities comes.
async fn until_ids(watch: &mut Watch, wanted: &[&str]) {
    let nudger = watch.nudger();
    let nudging = async {
        loop {
            nudger.nudge();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waiting = async { while ids(watch).await != wanted {} };
    tokio::select! { () = waiting => {}, () = nudging => {} }
}
