//! The script: which fault is planted when, what is watched meanwhile.

use crate::Done;
use crate::load::{Load, Tally, get};
use crate::processes::Processes;
use crate::report::{Phase, Report};
use crate::services::counting::Fault;
use crate::services::dashboard::DestinationRow;
use crate::view::{Moment, View};
use mesh_tower::connect::{Connections, Settings};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often the picture is drawn.
const FRAME: Duration = Duration::from_millis(250);

/// What happens, to whom, in which part of the time.
struct Step {
    /// Share of the demo's time at which it begins.
    at: f64,
    name: &'static str,
    says: &'static str,
    action: Action,
}

enum Action {
    Nothing,
    Plant { instance: usize, fault: Fault },
    Heal { instance: usize },
    Kill { instance: usize },
    Restart { instance: usize },
}

fn script() -> [Step; 8] {
    let step = |at, name, says, action| Step { at, name, says, action };
    [
        step(
            0.00,
            "calm",
            "all is well: two calls of three go where it is quicker",
            Action::Nothing,
        ),
        step(
            0.14,
            "errors",
            "counting b answers 503 to everything",
            Action::Plant { instance: 1, fault: Fault { failing: true, delay_ms: 0 } },
        ),
        step(0.34, "healed", "counting b is well again", Action::Heal { instance: 1 }),
        step(
            0.40,
            "slow",
            "counting c takes 400 ms for everything",
            Action::Plant { instance: 2, fault: Fault { failing: false, delay_ms: 400 } },
        ),
        step(0.60, "quick", "counting c is quick again", Action::Heal { instance: 2 }),
        step(0.66, "killed", "counting a is killed (-9)", Action::Kill { instance: 0 }),
        step(0.78, "back", "counting a is started again", Action::Restart { instance: 0 }),
        step(1.00, "end", "", Action::Nothing),
    ]
}

/// Runs the demo; true if success stayed at 99.9 % or better in every phase.
pub(crate) async fn run(length: Duration, rate: u32, plain: bool) -> Done {
    let mut view = View::new(plain)?;
    view.say("starting three services and two sidecars")?;
    let mut processes = Processes::start(length).await?;
    let load = Load::start(&processes, "/", rate);
    let compare = Load::start(&processes, "/without", rate.div_ceil(4));
    let state =
        Arc::new(Connections::new(vec![processes.dashboard], None, Arc::new(Settings::default())));

    let start = Instant::now();
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut steps = script().into_iter().peekable();
    let mut report = Report::default();
    let mut phase: Option<Phase> = None;
    let mut recent = Recent::default();
    loop {
        frames.tick().await;
        let rows = rows(&state).await;
        let (now, then) = (load.take(), compare.take());
        if let Some(phase) = &mut phase {
            phase.watch(&now, &then, &rows);
        }
        recent.push(now);
        let passed = start.elapsed().as_secs_f64() / length.as_secs_f64();
        if steps.peek().is_some_and(|step| passed >= step.at) {
            if let Some(done) = phase.take() {
                view.say(&done.sentence())?;
                report.add(done);
            }
            let Some(step) = steps.next() else { break };
            if steps.peek().is_none() {
                break;
            }
            view.say(step.says)?;
            apply(&mut processes, &step.action).await?;
            phase = Some(Phase::new(step.name, &rows, &processes.counting));
        }
        view.draw(&Moment {
            left: length.saturating_sub(start.elapsed()),
            phase: phase.as_ref().map_or("", |phase| phase.name),
            recent: &recent.sum(),
            span: recent.span(),
            rows: &rows,
            instances: &processes.counting,
        })?;
        if view.wants_to_quit()? {
            break;
        }
    }
    view.end()?;
    drop((load, compare));
    print!("{report}");
    Ok(report.is_good())
}

async fn apply(processes: &mut Processes, action: &Action) -> std::io::Result<()> {
    match action {
        Action::Nothing => Ok(()),
        Action::Plant { instance, fault } => processes.counting[*instance].plant(fault).await,
        Action::Heal { instance } => processes.counting[*instance].plant(&Fault::default()).await,
        Action::Kill { instance } => processes.counting[*instance].kill().await,
        Action::Restart { instance } => processes.counting[*instance].restart().await,
    }
}

async fn rows(state: &Arc<Connections>) -> Vec<DestinationRow> {
    match get(state, "/state").await {
        Ok(body) => serde_json::from_slice(&body).unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

/// The calls of the last two seconds.
#[derive(Default)]
struct Recent(std::collections::VecDeque<Tally>);

impl Recent {
    const FRAMES: usize = 8;

    fn push(&mut self, tally: Tally) {
        self.0.push_back(tally);
        if self.0.len() > Self::FRAMES {
            self.0.pop_front();
        }
    }

    fn sum(&self) -> Tally {
        let mut sum = Tally::new();
        self.0.iter().for_each(|tally| sum.add(tally));
        sum
    }

    fn span(&self) -> Duration {
        FRAME * self.0.len() as u32
    }
}
