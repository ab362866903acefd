//! `kubectl weft`: what a person on call asks. Reads, and changes nothing.
//!
//! ```text
//!  API server ──cluster──▶ snapshot ──explain, topo, simulate──▶ text      (pure; golden files hold it in place)
//! ```

mod cluster;
mod explain;
mod list;
mod local;
mod simulate;
mod span;
mod table;
mod topo;
mod tree;
mod why;
mod world;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

/// Ask Weft: why a job waits, whether one would fit, how the GPUs are wired, what a program does on this machine.
#[derive(Parser)]
#[command(name = "kubectl-weft", bin_name = "kubectl weft", version, about)]
struct Cli {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

/// Which cluster, as kubectl's flags say it.
#[derive(Args, Debug)]
struct Connection {
    /// Path of the kubeconfig, instead of $KUBECONFIG or ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, instead of its current one.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Namespace, instead of the context's.
    #[arg(long, short, global = true, value_name = "NAME")]
    namespace: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Say where a job stands and why: what keeps it waiting, its workers with their nodes and GPUs, conditions, events.
    Explain {
        /// Name of the GpuJob.
        job: String,
    },
    /// Draw the cluster's levels, nodes and GPUs with health and holders; for one node also the wires between its GPUs.
    Topo {
        /// Name of the node; all nodes without it.
        node: Option<String>,
    },
    /// Say whether a job would fit and where, or why not and what would help. Nothing is created.
    Simulate(simulate::Simulate),
    /// Run a program without Kubernetes, by the `weft-runtime` of this machine.
    Run(local::Run),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(status) => status,
        Err(error) => {
            eprintln!("kubectl weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints an answer. Whoever reads it may have had enough before its end, as `head` does.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot print the answer"),
        _ => Ok(()),
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let now = jiff::Timestamp::now();
    match cli.command {
        Command::Explain { job } => {
            let cluster = cluster::Cluster::connect(&cli.connection).await?;
            say(&explain::render(&cluster.job(&job).await?, now))?;
        }
        Command::Topo { node } => {
            let cluster = cluster::Cluster::connect(&cli.connection).await?;
            let nodes = cluster.nodes().await?;
            match node {
                Some(name) => say(&topo::node(&nodes, &name, now)?)?,
                None => say(&topo::all(&nodes, now))?,
            }
        }
        Command::Simulate(simulate) => return simulate.run(&cli.connection).await,
        Command::Run(run) => return Err(run.exec()),
    }
    Ok(ExitCode::SUCCESS)
}
