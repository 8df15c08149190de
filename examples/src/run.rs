//! The demo itself: starts all, follows the script, and shows what becomes of it.

use crate::Done;
use crate::faults::{SCRIPT, Step};
use crate::load::{Load, get};
use crate::phase::Phase;
use crate::processes::Processes;
use crate::recent::Recent;
use crate::report::Report;
use crate::services::dashboard::DestinationRow;
use crate::view::{Moment, View};
use mesh_tower::connect::Connections;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often the picture is drawn.
const FRAME: Duration = Duration::from_millis(250);

/// Runs the demo; true if success stayed at 99.9 % or better in every phase.
pub(crate) async fn run(length: Duration, rate: u32, plain: bool) -> Done {
    let mut stop = Stop::new()?;
    println!("Starting three services and two sidecars.");
    let processes = tokio::select! {
        started = Processes::start(length) => started?,
        () = stop.wanted() => return Ok(false),
    };
    let mut view = View::new(plain)?;
    let mut demo = Demo::new(processes, length, rate).await?;
    let ended = tokio::select! {
        ended = demo.play(&mut view) => ended,
        () = stop.wanted() => Ok(()),
    };
    let report = demo.finish(&mut view).await;
    view.end()?;
    ended?;
    print!("\n{report}");
    Ok(report.is_good())
}

struct Demo {
    processes: Processes,
    length: Duration,
    with: Load,
    without: Load,
    state: Arc<Connections>,
    recent: Recent,
    report: Report,
}

impl Demo {
    async fn new(processes: Processes, length: Duration, rate: u32) -> io::Result<Self> {
        let dashboard = processes.dashboard;
        let state = Arc::new(Connections::new(vec![dashboard], None, Arc::default()));
        // First calls open connections, which is not what the demo is about.
        for path in ["/", "/without"].into_iter().cycle().take(20) {
            get(&state, path).await.map_err(io::Error::other)?;
        }
        Ok(Self {
            with: Load::start(dashboard, "/", rate),
            without: Load::start(dashboard, "/without", rate.div_ceil(4)),
            processes,
            length,
            state,
            recent: Recent::default(),
            report: Report::default(),
        })
    }

    /// Follows the script until its end, or until the person has seen enough.
    async fn play(&mut self, view: &mut View) -> io::Result<()> {
        let start = Instant::now();
        let mut frames = interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut steps = SCRIPT.iter().peekable();
        while start.elapsed() < self.length && !view.wants_to_quit()? {
            frames.tick().await;
            let rows = rows(&self.state).await;
            if let Some(phase) = self.report.last_mut() {
                phase.watch(&rows);
            }
            let due = |step: &&Step| start.elapsed() >= self.length.mul_f64(step.at);
            if let Some(step) = steps.next_if(due) {
                if let Some(done) = self.report.last_mut() {
                    view.mesh(&done.sentence());
                }
                view.happens(step.says);
                self.begin(step, &rows).await?;
            }
            self.recent.push(self.with.take_recent(), &rows);
            view.draw(&Moment {
                left: self.length.saturating_sub(start.elapsed()),
                phase: self.report.last_mut().map_or("", |phase| phase.name),
                recent: &self.recent,
                rows: &rows,
                instances: &self.processes.counting,
            })?;
        }
        Ok(())
    }

    async fn begin(&mut self, step: &Step, rows: &[DestinationRow]) -> io::Result<()> {
        // A fault belongs to its own phase from its first moment to its last.
        if step.heals() {
            step.act(&mut self.processes).await?;
        }
        let tallies = [self.with.phase(), self.without.phase()];
        let names = self.processes.names();
        self.report.add(Phase::new(step.name, step.about, names, tallies, rows));
        if !step.heals() {
            step.act(&mut self.processes).await?;
        }
        Ok(())
    }

    /// Lets the calls under way come to their end, then the processes.
    async fn finish(mut self, view: &mut View) -> Report {
        self.with.finish().await;
        self.without.finish().await;
        let rows = rows(&self.state).await;
        if let Some(phase) = self.report.last_mut() {
            phase.watch(&rows);
            view.mesh(&phase.sentence());
        }
        self.report
    }
}

/// What the mesh in the dashboard says of itself; nothing if it does not answer.
async fn rows(state: &Arc<Connections>) -> Vec<DestinationRow> {
    match get(state, "/state").await {
        Ok(body) => serde_json::from_slice(&body).unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

/// What asks the demo to end early, beside the keys: SIGINT and SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn wanted(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
