//! An alias: repeats the health of a node, or of a service with its node.
//!
//! ```text
//! critical   the first critical check of the service or of its node; or there is no such service
//! warning    otherwise, if one of them warns
//! passing    otherwise, also where there is no check
//! ```
//!
//! An alias does not repeat itself. Source: Consul "Check Definition", texts as 1.8.7 gives them.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::output::cut;
use super::{CheckResult, Rows, Thresholds};
use crate::types::{CheckDefinition, CheckStatus, HealthCheck};

/// Longest wait after an error; the first is drawn from a tenth of it.
const WAIT: Duration = Duration::from_secs(10);

/// Where alias checks look.
pub trait AliasSource: Send + Sync + 'static {
    /// The checks of a node (this one where empty), or at least those that bear on `service`; waits
    /// until their revision is another than `index`, or for some minutes. Index 0 does not wait.
    fn look<'a>(
        &'a self,
        node: &'a str,
        service: &'a str,
        index: u64,
    ) -> BoxFuture<'a, Result<Aliased, String>>;
}

/// What an alias sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "built by every implementation of AliasSource")]
pub struct Aliased {
    /// The revision of it.
    pub index: u64,
    /// The checks of the node and of its services.
    pub checks: Vec<HealthCheck>,
    /// Whether the node has the service.
    pub service_exists: bool,
}

/// Follows what an alias repeats.
#[derive(Clone, Debug)]
pub(super) struct Follow {
    own_id: String,
    node: String,
    service: String,
    limit: usize,
}

impl Follow {
    pub(super) fn new(definition: &CheckDefinition, limit: usize) -> Self {
        Self {
            own_id: definition.id.clone(),
            node: definition.alias_node.clone(),
            service: definition.alias_service.clone(),
            limit,
        }
    }

    pub(super) async fn run(&self, source: &dyn AliasSource, sink: impl Fn(CheckResult)) {
        let mut rows = Rows::new(Thresholds::default());
        let (mut index, mut failures) = (0, 0_u32);
        loop {
            let seen = source.look(&self.node, &self.service, index).await;
            let mut result = match &seen {
                Ok(seen) => self.verdict(seen),
                Err(error) => CheckResult::critical(format!(
                    "Failure checking aliased node or service: {error}"
                )),
            };
            cut(&mut result.output, self.limit);
            if let Some(news) = rows.record(result) {
                sink(news);
            }
            match seen {
                // One that goes down began anew.
                Ok(seen) => {
                    index = if seen.index < index { 0 } else { seen.index.max(1) };
                    failures = 0;
                }
                Err(_) => {
                    failures = failures.saturating_add(1).min(10);
                    index = 0;
                    sleep(WAIT.mul_f64(f64::from(failures) / 10.0 * fastrand::f64())).await;
                }
            }
        }
    }

    /// What is to be said of what is seen.
    fn verdict(&self, seen: &Aliased) -> CheckResult {
        let bears = |check: &&HealthCheck| {
            check.id != self.own_id
                && (check.service_id.is_empty() || check.service_id == self.service)
        };
        let found =
            seen.service_exists || seen.checks.iter().any(|check| check.service_id == self.service);
        if !self.service.is_empty() && !found {
            let Self { service, node, .. } = self;
            return CheckResult::critical(format!(
                "Service {service} could not be found on node {node}"
            ));
        }
        let checks = || seen.checks.iter().filter(bears);
        // The first of the worst: max_by_key gives the last one.
        let worst = checks().rev().max_by_key(|check| check.status);
        match worst {
            None => CheckResult::passing("No checks found."),
            Some(check) if check.status == CheckStatus::Passing => {
                CheckResult::passing("All checks passing.")
            }
            Some(check) => CheckResult::new(
                check.status,
                format!("Aliased check {:?} failing: {}", check.name, check.output),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use parking_lot::Mutex;

    use super::CheckStatus::{Critical, Passing, Warning};
    use super::*;

    fn follow(node: &str, service: &str) -> Follow {
        let definition = CheckDefinition {
            id: "me".into(),
            alias_node: node.into(),
            alias_service: service.into(),
            ..CheckDefinition::default()
        };
        Follow::new(&definition, 4096)
    }

    fn check(id: &str, service: &str, status: CheckStatus) -> HealthCheck {
        HealthCheck {
            id: id.into(),
            name: id.into(),
            service_id: service.into(),
            status,
            output: format!("{id} said so"),
            ..HealthCheck::default()
        }
    }

    fn verdict(service: &str, service_exists: bool, checks: &[HealthCheck]) -> CheckResult {
        let seen = Aliased { index: 1, checks: checks.to_vec(), service_exists };
        follow("", service).verdict(&seen)
    }

    #[test]
    fn it_says_what_the_worst_of_its_checks_says() {
        let checks = [
            check("other", "db", Critical),
            check("node", "", Passing),
            check("slow", "web", Warning),
            check("down", "web", Critical),
            check("also down", "web", Critical),
            check("me", "web", Critical),
        ];
        let web = |n| verdict("web", true, &checks[..n]);
        assert_eq!(web(1), CheckResult::passing("No checks found."));
        assert_eq!(web(2), CheckResult::passing("All checks passing."));
        let slow = "Aliased check \"slow\" failing: slow said so";
        assert_eq!(web(3), CheckResult::new(Warning, slow));
        let down = "Aliased check \"down\" failing: down said so";
        assert_eq!(web(6), CheckResult::critical(down));
        // The node alone: neither the services' checks nor its own.
        assert_eq!(verdict("", false, &checks), CheckResult::passing("All checks passing."));
    }

    #[test]
    fn what_is_not_there_is_critical() {
        let checks = [check("node", "", Passing)];
        let expected = CheckResult::critical("Service web could not be found on node ");
        assert_eq!(verdict("web", false, &checks), expected);
        assert_eq!(verdict("web", false, &[check("up", "web", Passing)]).status, Passing);
    }

    /// Answers in this order, and then never again.
    struct Script(Mutex<VecDeque<(u64, Result<Aliased, String>)>>);

    impl AliasSource for Script {
        fn look<'a>(
            &'a self,
            _: &'a str,
            _: &'a str,
            index: u64,
        ) -> BoxFuture<'a, Result<Aliased, String>> {
            let next = self.0.lock().pop_front();
            Box::pin(async move {
                let Some((expected, answer)) = next else { std::future::pending().await };
                assert_eq!(index, expected);
                answer
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_follows_changes_and_is_critical_while_it_cannot_look() {
        let seen = |index, status| {
            Ok(Aliased { index, checks: vec![check("up", "web", status)], service_exists: true })
        };
        let source = Script(Mutex::new(VecDeque::from([
            (0, seen(7, Passing)),
            (7, seen(9, Passing)),
            (9, Err("no server".to_owned())),
            (0, seen(9, Warning)),
            (9, seen(3, Passing)),
            (0, seen(3, Critical)),
        ])));
        let (told, follow) = (Mutex::new(Vec::new()), follow("n2", "web"));
        let run = follow.run(&source, |result| told.lock().push(result.status));
        let long = tokio::time::timeout(Duration::from_secs(3600), run).await;
        assert!(long.is_err());
        assert_eq!(*told.lock(), [Passing, Critical, Warning, Passing, Critical]);
    }
}
