//! A check of a service of the operating system: what `systemctl is-active` says of a unit.
//!
//! | state | status |
//! |---|---|
//! | `active` | passing |
//! | `activating`, `reloading`, `refreshing` | warning |
//! | `inactive`, `failed`, `deactivating`, `unknown`, … | critical |
//!
//! Where there is no systemd it is critical and says so. Source: Consul 1.16 "OSService" by name
//! and meaning; systemd's `systemctl(1)` for the states.

use std::io;
use std::time::Duration;

use tokio::time::timeout;

use super::CheckResult;
use super::output::Tail;
use super::script::run;
use crate::types::{CheckDefinition, CheckStatus};

/// What is asked.
const SYSTEMCTL: &str = "systemctl";

/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct OsService {
    name: String,
    systemctl: String,
}

impl OsService {
    /// That of a definition.
    #[must_use]
    pub fn new(definition: &CheckDefinition) -> Self {
        Self { name: definition.os_service.clone(), systemctl: SYSTEMCTL.to_owned() }
    }

    /// Asks once, for at most `longest`, and keeps `limit` bytes of the answer.
    pub async fn ask(&self, limit: usize, longest: Duration) -> CheckResult {
        // What follows `--` is no option, whatever it is called.
        let args = [&*self.systemctl, "is-active", "--", &*self.name].map(str::to_owned);
        let mut tail = Tail::new(limit);
        let name = &self.name;
        let ended = match timeout(longest, run(&args, &mut tail)).await {
            Ok(ended) => ended,
            Err(_elapsed) => {
                return CheckResult::critical(format!(
                    "Service {name:?}: systemctl does not answer within {longest:?}"
                ));
            }
        };
        match ended {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return CheckResult::critical(format!(
                    "Service {name:?}: there is no systemctl on this node, so no service manager to ask"
                ));
            }
            Err(error) => return CheckResult::critical(format!("Service {name:?}: {error}")),
        }
        let said = tail.into_text();
        let status = match said.trim() {
            "active" => CheckStatus::Passing,
            "activating" | "reloading" | "refreshing" => CheckStatus::Warning,
            _ => CheckStatus::Critical,
        };
        CheckResult::new(status, format!("Service {name:?}: {}", said.trim()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::agent::scratch::Scratch;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn states_of_a_unit_are_states_of_the_check() {
        let scratch = Scratch::new();
        let systemctl = scratch.path().join("systemctl");
        // Says the name that it is asked for, if it is asked rightly.
        let script = "#!/bin/sh\n[ \"$1 $2\" = 'is-active --' ] && echo \"$3\" && exit 3\n";
        fs::write(&systemctl, script).unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o700)).unwrap();
        let systemctl = systemctl.to_str().unwrap().to_owned();
        for (name, expected) in [
            ("active", CheckStatus::Passing),
            ("activating", CheckStatus::Warning),
            ("inactive", CheckStatus::Critical),
            ("--version", CheckStatus::Critical),
        ] {
            let service = OsService { name: name.to_owned(), systemctl: systemctl.clone() };
            let seen = service.ask(4096, LONG).await;
            assert_eq!(seen, CheckResult::new(expected, format!("Service {name:?}: {name}")));
        }
    }

    #[tokio::test]
    async fn without_a_service_manager_it_says_so() {
        let service =
            OsService { name: "ssh".to_owned(), systemctl: "/nowhere/systemctl".to_owned() };
        let seen = service.ask(4096, LONG).await;
        assert_eq!(seen.status, CheckStatus::Critical);
        assert!(seen.output.contains("there is no systemctl"), "{seen:?}");
    }
}
