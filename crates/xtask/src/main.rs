//! What people type to build, run and test Weft: `cargo xtask …`.

mod cluster;
mod images;
mod process;
mod progress;
mod sim;
mod tools;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Weft's tasks. `demo` shows the whole of it on this machine; `test` says whether the tree is good.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// A real Kubernetes cluster on this machine, for tests and for trying things out.
    Cluster(cluster::Args),
    /// Build the container images, as OCI archives in target/images.
    Images(images::Args),
    /// Lay out the simulated driver in a folder for LD_LIBRARY_PATH.
    Sim(sim::Args),
}

fn main() -> Result<()> {
    // First of all: a copy of this program that is to enter a node's namespaces does so before anything else happens.
    weft_cluster::helper::dispatch();
    match Cli::parse().task {
        Task::Cluster(args) => cluster::run(&args),
        Task::Images(args) => images::run(&args),
        Task::Sim(args) => sim::run(&args),
    }
}
