//! The script: which fault is planted when.

use crate::processes::{Instance, Processes};
use crate::services::counting::Fault;
use std::io;

/// What happens, to whom, in which part of the time.
#[derive(Debug)]
pub(crate) struct Step {
    /// Share of the demo's time at which it begins.
    pub(crate) at: f64,
    pub(crate) name: &'static str,
    /// The instance that it is about.
    pub(crate) about: Option<&'static str>,
    pub(crate) says: &'static str,
    pub(crate) action: Action,
}

/// What is done to the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Nothing,
    Fail,
    Slow,
    Heal,
    Kill,
    Restart,
}

/// All steps; the last ends when the time is over.
pub(crate) const SCRIPT: [Step; 7] = [
    step(0.00, "calm", None, "all is well", Action::Nothing),
    step(0.14, "errors", Some("b"), "counting b answers 503 to everything", Action::Fail),
    step(0.34, "healed", Some("b"), "counting b is well again", Action::Heal),
    step(0.42, "slow", Some("c"), "counting c takes 400 ms for everything", Action::Slow),
    step(0.60, "quick", Some("c"), "counting c is quick again", Action::Heal),
    step(0.66, "killed", Some("a"), "counting a is killed", Action::Kill),
    step(0.78, "back", Some("a"), "counting a is started again", Action::Restart),
];

const fn step(
    at: f64,
    name: &'static str,
    about: Option<&'static str>,
    says: &'static str,
    action: Action,
) -> Step {
    Step { at, name, about, says, action }
}

impl Step {
    pub(crate) async fn act(&self, processes: &mut Processes) -> io::Result<()> {
        let about = |one: &&mut Instance| Some(one.name) == self.about;
        let Some(instance) = processes.counting.iter_mut().find(about) else { return Ok(()) };
        match self.action {
            Action::Nothing => Ok(()),
            Action::Fail => instance.plant(&Fault { failing: true, delay_ms: 0 }).await,
            Action::Slow => instance.plant(&Fault { failing: false, delay_ms: 400 }).await,
            Action::Heal => instance.plant(&Fault::default()).await,
            Action::Kill => instance.kill().await,
            Action::Restart => instance.restart().await,
        }
    }

    /// Whether it ends a fault instead of planting one.
    pub(crate) const fn heals(&self) -> bool {
        matches!(self.action, Action::Heal | Action::Restart)
    }
}
