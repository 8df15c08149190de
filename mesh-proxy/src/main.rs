//! `mesh-proxy`: see [`mesh_proxy`].

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_proxy::run(mesh_proxy::Args::parse())
}
