//! How fast and how good Weft's decisions are, beside what others do on the same input in the same process.
//!
//! ```text
//! cargo xtask bench allocate   which GPUs of a node
//! cargo xtask bench place      which nodes of a cluster
//! cargo xtask bench cluster    a week of jobs on a simulated cluster
//! ```
//!
//! One line per case; with `--json` one object a line, in the form that [`measure::Line`] describes.

mod allocate;
mod cluster;
mod counting;
mod machines;
mod measure;
mod place;
mod random;
mod rivals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static COUNTING: counting::Counting = counting::Counting;

/// Measures Weft's decisions against those of others.
#[derive(Debug, Parser)]
// People start it through cargo, so that is what usage says.
#[command(name = "weft-bench", bin_name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
    /// One JSON object a line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Choosing GPUs of a node, against the enumeration of all partitions.
    Allocate,
    /// Placing gangs on 5,000 and 10,000 nodes, or those of a file, against best fit over all nodes.
    Place(place::Args),
    /// A week of jobs with failures on simulated clusters, against best fit by counts, most allocated and random.
    Cluster(cluster::Args),
}

fn main() -> ExitCode {
    let Cli { bench, json } = Cli::parse();
    let print = measure::Printer { json };
    let done = match bench {
        Bench::Allocate => allocate::run(print),
        Bench::Place(args) => place::run(&args, print),
        Bench::Cluster(args) => cluster::run(&args, print),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
