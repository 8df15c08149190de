//! `mesh config`: check, show and describe configuration.

use crate::load::{LoadError, load};
use crate::{Output, print, print_json};
use clap::{Args, Subcommand};
use mesh_core::config::Diagnostic;
use mesh_core::explain::{PolicyValue, policy_values};
use mesh_core::snapshot::Snapshot;
use serde_json::json;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit code of warnings with `--strict`.
const WARNED: u8 = 3;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Check files as they would be loaded together.
    #[command(after_long_help = "Examples:\n  mesh config check mesh.yaml\n  \
                                 mesh config check --strict -o json services.yaml routes.yaml")]
    Check(Check),
    /// Show the policy that each destination gets.
    #[command(after_long_help = "Examples:\n  mesh config show\n  \
                                 mesh config show --origin mesh.yaml")]
    Show(Show),
    /// Print the JSON schema of all kinds.
    #[command(after_long_help = "Examples:\n  mesh config schema > mesh.schema.json\n  \
                                 # then, first line of a file:\n  \
                                 # yaml-language-server: $schema=mesh.schema.json")]
    Schema,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Files; `-` is standard input. By default those of MESH_CONFIG, or mesh.yaml in a usual place.
    files: Vec<PathBuf>,
    /// Exit with 3 if there are warnings.
    #[arg(long)]
    strict: bool,
    /// How the result is printed.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Files; `-` is standard input. By default those of MESH_CONFIG, or mesh.yaml in a usual place.
    files: Vec<PathBuf>,
    /// Show defaults too, and where each value is written.
    #[arg(long)]
    origin: bool,
    /// How the result is printed.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

pub(crate) fn run(verb: Verb) -> ExitCode {
    match verb {
        Verb::Check(args) => check(&args),
        Verb::Show(args) => show(&args),
        Verb::Schema => print_json(&mesh_core::config::schema()),
    }
}

fn check(args: &Check) -> ExitCode {
    let (objects, diagnostics) = match load(&args.files) {
        Ok((documents, snapshot)) => (Some(documents.len()), snapshot.warnings().to_vec()),
        Err(LoadError::Refused(errors)) => (None, errors.diagnostics().to_vec()),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match args.output {
        Output::Json => {
            let report = json!({ "valid": objects.is_some(), "diagnostics": diagnostics });
            print_json(&report);
        }
        Output::Text => told(objects, &diagnostics),
    }
    match (objects, diagnostics.is_empty()) {
        (None, _) => ExitCode::FAILURE,
        (Some(_), false) if args.strict => ExitCode::from(WARNED),
        (Some(_), _) => ExitCode::SUCCESS,
    }
}

fn told(objects: Option<usize>, diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        eprintln!("{diagnostic}\n");
    }
    match (objects, diagnostics.len()) {
        (Some(objects), 0) => print(&format!("fine: {objects} objects")),
        (Some(objects), warnings) => {
            print(&format!("fine: {objects} objects, {warnings} warnings"))
        }
        (None, problems) => eprintln!("refused: {problems} problems"),
    }
}

fn show(args: &Show) -> ExitCode {
    let snapshot = match load(&args.files) {
        Ok((_, snapshot)) => snapshot,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let policies = policies(&snapshot, args.origin);
    if args.output == Output::Json {
        let all: serde_json::Map<String, serde_json::Value> =
            policies.into_iter().map(|(name, values)| (name, json!(values))).collect();
        return print_json(&all);
    }
    let mut text = String::new();
    for (name, values) in policies {
        let _infallible = writeln!(text, "{name}");
        for value in values {
            let _infallible = writeln!(text, "  {value}");
        }
        if !args.origin {
            text.push_str("  (defaults are shown with --origin)\n");
        }
        text.push('\n');
    }
    print(&text);
    ExitCode::SUCCESS
}

/// The policy of what is not configured, then of each destination.
fn policies(snapshot: &Snapshot, defaults: bool) -> Vec<(String, Vec<PolicyValue>)> {
    let written = |values: Vec<PolicyValue>| {
        values.into_iter().filter(|value| defaults || value.origin.line().is_some()).collect()
    };
    let unconfigured = (
        "everything else".to_owned(),
        written(policy_values(snapshot.default_policy(), snapshot.default_origins())),
    );
    let destinations = snapshot.destinations().iter().map(|known| {
        let name = format!("destination {} ({})", known.name, known.origin);
        (name, written(policy_values(&known.policy, &known.origins)))
    });
    destinations.chain([unconfigured]).collect()
}
