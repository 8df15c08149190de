//! `mesh-proxy`: see [`mesh_proxy`].

use clap::Parser;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    mesh_proxy::run(mesh_proxy::Args::parse())
}
