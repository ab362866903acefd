//! What people type to build, run and test Weft: `cargo xtask …`.

mod bench;
mod cluster;
mod crds;
mod demo;
mod images;
mod process;
mod progress;
mod proxy;
mod sim;
mod test;
mod tools;

use std::process::ExitCode;

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
    /// Show the whole of it: a real cluster, the chart, example jobs, failures.
    Demo(demo::Args),
    /// Everything that says whether the tree is good.
    Test(test::Args),
    /// A real Kubernetes cluster on this machine, for tests and for trying things out.
    Cluster(cluster::Args),
    /// Build the container images, as OCI archives in target/images.
    Images(images::Args),
    /// Lay out the simulated driver and NVRTC in a folder for LD_LIBRARY_PATH.
    Sim(sim::Args),
    /// How fast and how good the decisions are, beside what others do.
    Bench(bench::Args),
    /// Write the custom resource definitions that the code generates.
    Crds(crds::Args),
}

fn main() -> ExitCode {
    // First of all: a copy of this program that is to enter a node's namespaces does so before anything else happens.
    weft_cluster::helper::dispatch();
    let success = |()| ExitCode::SUCCESS;
    let done = match Cli::parse().task {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args).map(success),
        Task::Cluster(args) => cluster::run(&args).map(success),
        Task::Images(args) => images::run(&args).map(success),
        Task::Sim(args) => sim::run(&args).map(success),
        Task::Bench(args) => bench::run(&args).map(success),
        Task::Crds(args) => crds::run(&args).map(success),
    };
    done.unwrap_or_else(|error| {
        // A sentence for a person, and never a backtrace.
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
