//! Prints the table of cases × policies: `cargo run --release -p testkit --example world`.
//!
//! `MESH_SEED` repeats a run; the first argument is the measured time in seconds (20).

use mesh_core::{Policy, health::outlier, pick};
use std::time::Duration;
use testkit::world::{cases, seed};

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(20);
    let (seed, measured) = (seed(), Duration::from_secs(seconds));
    let with = |kind, detection: bool| {
        let mut policy = Policy::default();
        policy.pick.policy = kind;
        if !detection {
            policy.outlier = outlier::Config::off();
        }
        policy
    };
    let policies = [
        ("default", with(pick::Policy::PeakEwma, true)),
        ("peak EWMA alone", with(pick::Policy::PeakEwma, false)),
        ("least request alone", with(pick::Policy::LeastRequest, false)),
        ("round robin alone", with(pick::Policy::RoundRobin, false)),
    ];
    println!("p99 of good calls in ms (failed %), {seconds} s, seed {seed}\n");
    let names: Vec<_> = policies.iter().map(|(name, _)| *name).collect();
    println!("| case | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(names.len()));
    for (name, case) in cases::ALL {
        let cells: Vec<_> = policies
            .iter()
            .map(|(_, policy)| {
                let report = case(seed, policy.clone(), measured).run();
                report.assert_sound();
                let p99 = report.latency(0.99).as_secs_f64() * 1e3;
                format!("{p99:.0} ({:.2})", report.failed_share() * 100.0)
            })
            .collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
}
