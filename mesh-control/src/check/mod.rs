//! Checks: finds out, again and again, how the services of this node are.
//!
//! | kind | passing | warning | critical |
//! |---|---|---|---|
//! | [`http`] | 2xx | 429 | any other answer, or none |
//! | [`tcp`] | the connection opens | – | it does not |
//! | [`udp`] | no refusal comes back | – | an ICMP refusal |
//! | [`grpc`] | `SERVING` | – | all else |
//! | [`h2_ping`] | the PING is answered | – | it is not |
//! | [`script`] | exit code 0 | exit code 1 | any other, a signal, no end |
//! | [`os_service`] | active | activating, reloading | all else |
//! | [`alias`] | what it repeats | what it repeats | what it repeats, and what is not there |
//! | TTL | somebody said so | somebody said so | somebody said so, or nobody in time |
//!
//! [`kind`] reads a definition into one of these; [`state`] makes states of results; here they run.
//! The first run comes after a random part of the interval, each further one an interval after the
//! end of the one before. A run that takes longer than the timeout ends there and is critical.
//! Output is cut to 4 KiB. A check opens a connection of its own for every run, and closes it: it is
//! to find out whether the service can be reached now.
//!
//! Source: Consul "Check Definition"; texts of outputs are like Consul's, as people filter by them.

pub mod alias;
pub mod kind;
pub mod os_service;
mod output;
pub mod script;
pub mod state;
pub mod tcp;
pub mod udp;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

pub use alias::{AliasSource, Aliased};
pub use kind::{Kind, KindError};
pub use state::{CheckResult, CriticalSince, Rows, SavedTtl, Thresholds, Ttl, first_run};

use crate::types::CheckDefinition;
use output::cut;

/// Runs checks.
#[derive(Clone)]
pub struct Runner {
    output_max_size: usize,
    aliases: Arc<dyn AliasSource>,
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner")
            .field("output_max_size", &self.output_max_size)
            .finish_non_exhaustive()
    }
}

/// A check that runs. It ends when this is dropped.
#[derive(Debug)]
pub struct Running(AbortHandle);

impl Running {
    pub(crate) fn spawn(run: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(run).abort_handle())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One way of finding out, ready to be asked.
enum Probe {
    Script(script::Script),
    Tcp(tcp::Tcp),
    Udp(udp::Udp),
    OsService(os_service::OsService),
    /// Not run by this version.
    Missing(Kind),
}

impl Probe {
    async fn ask(&self, limit: usize, longest: Duration) -> CheckResult {
        match self {
            // It has children to end, too.
            Self::Script(script) => return script.ask(limit, longest).await,
            Self::Tcp(tcp) => timeout(longest, tcp.ask()).await,
            Self::Udp(udp) => return udp.ask(longest).await,
            Self::OsService(service) => return service.ask(limit, longest).await,
            Self::Missing(kind) => {
                return CheckResult::critical(format!(
                    "{} checks are not run by this version",
                    kind.as_str()
                ));
            }
        }
        .unwrap_or_else(|_elapsed| {
            CheckResult::critical(format!("{self}: no answer within {longest:?}"))
        })
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Script(_) => f.write_str("script"),
            Self::Tcp(tcp) => write!(f, "TCP connect {}", tcp.address()),
            Self::Udp(udp) => write!(f, "UDP {}", udp.address()),
            Self::OsService(_) => f.write_str("OS service"),
            Self::Missing(kind) => f.write_str(kind.as_str()),
        }
    }
}

impl Runner {
    /// Keeps `output_max_size` bytes of each output, or fewer where the check says so; `aliases`
    /// tells what alias checks repeat.
    #[must_use]
    pub fn new(output_max_size: usize, aliases: Arc<dyn AliasSource>) -> Self {
        Self { output_max_size, aliases }
    }

    /// Runs a check from now on; `sink` is called with each state or output that is new, from one
    /// task. A TTL does not run: somebody else is to tell how it is.
    ///
    /// # Errors
    ///
    /// The definition is no check.
    pub fn start(
        &self,
        definition: &CheckDefinition,
        sink: impl Fn(CheckResult) + Send + 'static,
    ) -> Result<Running, KindError> {
        let mut rows = Rows::new(definition.thresholds());
        let limit = self.limit(definition.output_max_size);
        let probe = match definition.kind()? {
            Kind::Ttl => return Ok(Running::spawn(async {})),
            Kind::Alias => {
                let aliases = Arc::clone(&self.aliases);
                let follow = alias::Follow::new(definition, limit);
                return Ok(Running::spawn(async move { follow.run(&*aliases, sink).await }));
            }
            Kind::Script => Probe::Script(script::Script::new(definition)),
            Kind::Tcp => Probe::Tcp(tcp::Tcp::new(definition)),
            Kind::Udp => Probe::Udp(udp::Udp::new(definition)),
            Kind::OsService => Probe::OsService(os_service::OsService::new(definition)),
            kind => Probe::Missing(kind),
        };
        let (interval, longest) = (definition.run_interval(), definition.run_timeout());
        Ok(Running::spawn(async move {
            sleep(first_run(interval, &mut || fastrand::u64(..))).await;
            loop {
                let mut result = probe.ask(limit, longest).await;
                cut(&mut result.output, limit);
                if let Some(news) = rows.record(result) {
                    sink(news);
                }
                sleep(interval).await;
            }
        }))
    }

    /// Cuts an output that did not come from a run, to what a check may say.
    pub(crate) fn cut(&self, output: &mut String, own: Option<u64>) {
        cut(output, self.limit(own));
    }

    fn limit(&self, own: Option<u64>) -> usize {
        let own = own.filter(|own| *own > 0).and_then(|own| usize::try_from(own).ok());
        own.map_or(self.output_max_size, |own| own.min(self.output_max_size))
    }
}
