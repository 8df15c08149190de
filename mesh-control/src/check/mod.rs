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
mod drive;
pub mod grpc;
pub mod h2_ping;
pub mod http;
pub mod kind;
pub mod os_service;
mod output;
mod redirect;
pub mod script;
pub mod state;
mod stream;
pub mod tcp;
pub mod udp;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
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
enum Way {
    Script(script::Script),
    Tcp(tcp::Tcp),
    Udp(udp::Udp),
    OsService(os_service::OsService),
    Http(http::Http),
    Grpc(grpc::Grpc),
    H2Ping(h2_ping::H2Ping),
}

impl Way {
    async fn ask(&self, limit: usize, longest: Duration) -> CheckResult {
        // Boxed, so that a check that waits for its next run takes little room.
        let asking: BoxFuture<'_, CheckResult> = match self {
            Self::Tcp(tcp) => Box::pin(tcp.ask()),
            Self::Http(http) => Box::pin(http.ask(limit)),
            Self::Grpc(grpc) => Box::pin(grpc.ask()),
            Self::H2Ping(ping) => Box::pin(ping.ask()),
            // These say themselves what it means when time is over.
            Self::Script(script) => return Box::pin(script.ask(limit, longest)).await,
            Self::Udp(udp) => return Box::pin(udp.ask(longest)).await,
            Self::OsService(service) => return Box::pin(service.ask(limit, longest)).await,
        };
        timeout(longest, asking).await.unwrap_or_else(|_elapsed| {
            CheckResult::critical(format!("{self}: no answer within {longest:?}"))
        })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Script(_) => f.write_str("script"),
            Self::Tcp(tcp) => write!(f, "TCP connect {}", tcp.address()),
            Self::Udp(udp) => write!(f, "UDP {}", udp.address()),
            Self::OsService(_) => f.write_str("OS service"),
            Self::Http(http) => write!(f, "HTTP {}", http.url()),
            Self::Grpc(grpc) => write!(f, "gRPC check {}", grpc.target()),
            Self::H2Ping(ping) => write!(f, "HTTP2 ping {}", ping.address()),
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
        let way = match definition.kind()? {
            Kind::Ttl => return Ok(Running::spawn(async {})),
            Kind::Alias => {
                let aliases = Arc::clone(&self.aliases);
                let follow = alias::Follow::new(definition, limit);
                return Ok(Running::spawn(async move { follow.run(&*aliases, sink).await }));
            }
            Kind::Script => Way::Script(script::Script::new(definition)),
            Kind::Tcp => Way::Tcp(tcp::Tcp::new(definition)),
            Kind::Udp => Way::Udp(udp::Udp::new(definition)),
            Kind::Http => Way::Http(http::Http::new(definition)),
            Kind::Grpc => Way::Grpc(grpc::Grpc::new(definition)),
            Kind::H2Ping => Way::H2Ping(h2_ping::H2Ping::new(definition)),
            Kind::OsService => Way::OsService(os_service::OsService::new(definition)),
        };
        let (interval, longest) = (definition.run_interval(), definition.run_timeout());
        Ok(Running::spawn(async move {
            sleep(first_run(interval, &mut || fastrand::u64(..))).await;
            loop {
                let mut result = way.ask(limit, longest).await;
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;

    struct NoAliases;

    impl AliasSource for NoAliases {
        fn look<'a>(
            &'a self,
            _: &'a str,
            _: &'a str,
            _: u64,
        ) -> BoxFuture<'a, Result<Aliased, String>> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_ends_with_its_timeout_and_news_alone_is_told_until_it_is_dropped() {
        // It takes connections and never answers.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let definition: CheckDefinition = serde_json::from_value(serde_json::json!({
            "HTTP": url, "Interval": "10s", "Timeout": "2s", "FailuresBeforeCritical": 3,
            "OutputMaxSize": 4,
        }))
        .unwrap();
        let (news, mut told) = mpsc::channel(100);
        let begin = Instant::now();
        let runner = Runner::new(4096, Arc::new(NoAliases));
        let running = runner
            .start(&definition, move |result| news.try_send((Instant::now(), result)).unwrap())
            .unwrap();

        let (at, result) = told.recv().await.unwrap();
        assert_eq!(result, CheckResult::critical("HTTP"));
        // A part of the interval, then three runs of 2 s with 10 s after each but the last.
        let (first, rest) = (Duration::from_secs(10), Duration::from_secs(3 * 2 + 2 * 10));
        let took = at - begin;
        assert!(took >= rest && took <= first + rest + Duration::from_millis(10), "{took:?}");

        sleep(Duration::from_secs(100)).await;
        assert!(told.try_recv().is_err(), "the same was told twice");
        drop(running);
        assert!(told.recv().await.is_none(), "it still runs");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_check_is_not_run() {
        let runner = Runner::new(4096, Arc::new(NoAliases));
        let nothing = runner.start(&CheckDefinition::default(), |_| ());
        assert_eq!(nothing.err(), Some(KindError::None));
    }
}
