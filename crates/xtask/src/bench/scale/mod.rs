//! `cargo xtask bench scale`: the operator on a control plane of the real components with many nodes that kwok plays.
//!
//! The same pods are first left to kube-scheduler alone, without gangs and without anybody choosing GPUs: the control
//! plane's own pace, against which the jobs' is told. Then come the jobs; then one more that fills the cluster, a queue
//! of jobs without room behind it, and the end of a job that makes room for one of them.

mod check;
mod figures;
mod load;
mod operator;
mod run;
mod stage;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use weft_cluster::{Cluster, Options, Progress};

use self::{
    figures::Line,
    load::{GPUS, Size},
    run::Run,
};
use crate::{progress::Console, tools};

/// The cluster's name; its place in the kernel has the checkout in it as well.
const CLUSTER: &str = "bench-scale";

#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Nodes of 8 GPUs, 16 a rack.
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    /// Jobs that are applied at once: of ten, four of one GPU, three of four, two of 2 × 8, one of 8 × 8.
    #[arg(long, default_value_t = 360)]
    jobs: usize,
    /// One JSON object a line, and nothing else on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let sizes = wanted(args)?;
    let stop = stop_on_signals()?;
    let console = Console::aside();
    for line in measure(args.nodes, &sizes, &stop, &console)? {
        println!("{}", if args.json { line.json().to_string() } else { line.text() });
    }
    Ok(())
}

/// The sizes of the jobs, if they fit however they are placed.
fn wanted(args: &Args) -> Result<Vec<Size>> {
    if args.nodes == 0 || args.jobs == 0 {
        bail!("{} nodes and {} jobs measure nothing: give at least one of each", args.nodes, args.jobs);
    }
    let sizes = load::mix(args.jobs);
    let workers: usize = sizes.iter().map(|size| size.workers).sum();
    let gpus: usize = sizes.iter().map(|size| size.workers * size.gpus).sum();
    // kube-scheduler alone may give every pod a node of its own, and one of eight GPUs needs an idle one.
    if workers > args.nodes {
        bail!(
            "{} jobs have {workers} workers with {gpus} GPUs, and {} nodes have {} GPUs: so that they fit however they are \
             placed, give a node for each worker (--nodes {workers}), or fewer jobs",
            args.jobs,
            args.nodes,
            args.nodes * GPUS
        );
    }
    Ok(sizes)
}

/// Ctrl-C ends the work in order; a second one ends the program.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    use signal_hook::{consts, flag};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [consts::SIGINT, consts::SIGTERM] {
        flag::register_conditional_shutdown(signal, 130, stop.clone())?;
        flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}

fn measure(nodes: usize, sizes: &[Size], stop: &Arc<AtomicBool>, console: &Console) -> Result<Vec<Line>> {
    let program = tools::build_optimised("weft-operator")?;
    let options = Options { kwok: true, ..Options::new(CLUSTER) };
    // Where this fails nothing is left, and a cluster of the name that runs is somebody's.
    let cluster = Cluster::up(options, console)?;
    let measured = Run::new(&cluster, nodes, sizes, stop, console).and_then(|mut run| run.all(&cluster, &program));
    console.step("removing the cluster");
    weft_cluster::down(CLUSTER, console).with_context(|| format!("cannot remove cluster `{CLUSTER}`"))?;
    if stop.load(Ordering::Relaxed) {
        // Ctrl-C reaches what was started here as well, so what failed is no news.
        bail!("interrupted: what was started is removed");
    }
    measured
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(nodes: usize, jobs: usize) -> String {
        wanted(&Args { nodes, jobs, json: false }).map_or_else(|error| error.to_string(), |_| "fine".to_owned())
    }

    #[test]
    fn what_cannot_be_measured_is_refused_with_the_next_step() {
        assert_eq!(refused(1000, 360), "fine");
        assert_eq!(refused(100, 40), "fine");
        assert!(refused(0, 40).contains("0 nodes and 40 jobs measure nothing"));
        assert!(refused(100, 0).contains("give at least one"));
        let said = refused(50, 40);
        assert!(said.contains("40 jobs have 76 workers with 448 GPUs, and 50 nodes have 400 GPUs"), "{said}");
        assert!(said.contains("(--nodes 76)"), "{said}");
    }
}
