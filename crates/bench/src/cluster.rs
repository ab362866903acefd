//! A cluster in a box: a week of jobs, with failures, through the very decisions that run in a cluster, and through those of
//! others. What is the same for all: nodes, jobs, failures, the queue.

pub mod faults;
pub mod jobs;
pub mod means;
pub mod plot;
pub mod report;
pub mod reservation;
pub mod simulation;
pub mod site;
pub mod strategy;
pub mod studies;
pub mod tally;
pub mod workload;

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use self::means::Means;
use self::report::counted;
use self::simulation::replay;
use self::site::Site;
use self::studies::{HELIOS, SEREN};
use self::tally::Outcome;
use self::workload::Workload;
use crate::measure::Printer;

const DAY_SECONDS: u64 = 86_400;

#[derive(Debug, ClapArgs)]
pub struct Args {
    /// How many nodes the cluster has; may be given several times.
    #[arg(long, default_values_t = [640, 5_000], value_parser = whole::<usize>)]
    nodes: Vec<usize>,
    /// The published workload to draw jobs from: helios or seren; may be given several times.
    #[arg(long, default_values_t = [HELIOS.name.to_owned(), SEREN.name.to_owned()], conflicts_with = "jobs")]
    study: Vec<String>,
    /// Jobs from a file instead: submit_seconds,duration_seconds,workers,gpus_per_worker[,level], counted from the start.
    #[arg(long, value_name = "FILE")]
    jobs: Option<PathBuf>,
    /// The GPU time that the jobs ask for, as a share of what there is.
    #[arg(long, default_value_t = 0.92, value_parser = number, allow_negative_numbers = true)]
    load: f64,
    /// How many days are counted.
    #[arg(long, default_value_t = 7, value_parser = whole::<u64>)]
    days: u64,
    /// Jobs, failures and the random strategy are drawn from it.
    #[arg(long, default_value_t = 1, value_parser = whole::<u64>)]
    seed: u64,
    /// So many weeks, each of its own seed from --seed on: a table of the means, with the t of the differences between Weft
    /// and best fit week by week.
    #[arg(long, value_name = "WEEKS", value_parser = whole::<u64>, conflicts_with_all = ["json", "svg"])]
    seeds: Option<u64>,
    /// How often a node or one of its GPUs fails, in a thousand node-days.
    #[arg(long, default_value_t = faults::PER_THOUSAND_NODE_DAYS, value_parser = number, allow_negative_numbers = true)]
    failures: f64,
    /// Name the nodes the other way round, those of NVLink domains last: who takes the first of equal nodes takes others then.
    #[arg(long)]
    reversed: bool,
    /// No gang asks for nodes of NVLink domains: those that did take workers of eight GPUs.
    #[arg(long, conflicts_with = "jobs")]
    no_nvl72_gangs: bool,
    /// Jobs that are not for nodes of NVLink domains stay off them, as a taint or a flavor of its own keeps them.
    #[arg(long, conflicts_with = "no_nvl72_gangs")]
    typed: bool,
    /// Tables for docs/benchmarks.md.
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// A folder for plots as SVG.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
}

/// One cluster and one workload, with the outcome of each strategy.
pub struct Scenario {
    pub nodes: usize,
    pub gpus: u32,
    /// `helios`, or the name of the file.
    pub jobs: String,
    pub about: String,
    pub count: usize,
    pub faults: usize,
    pub load: f64,
    pub days: u64,
    pub seed: u64,
    pub outcomes: Vec<Outcome>,
}

/// More than one failure of each node a day is no cluster.
const MOST_FAILURES: f64 = 1_000.0;

/// Jobs for three times the GPUs there are.
const MOST_LOAD: f64 = 3.0;

/// Weeks of which a mean says no more than that of fewer.
const MOST_SEEDS: u64 = 1_000;

fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "give a whole number, such as 7".to_owned())
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "give a number, such as 0.92".to_owned())
}

fn check(args: &Args) -> Result<()> {
    if args.nodes.contains(&0) || args.days == 0 {
        bail!("a cluster has at least one node, and at least one day is counted");
    }
    if !(0.0..=MOST_FAILURES).contains(&args.failures) {
        bail!("--failures is how many there are in a thousand node-days: 0 to {MOST_FAILURES}");
    }
    if !(args.load > 0.0 && args.load <= MOST_LOAD) {
        bail!(
            "--load is the GPU time that the jobs ask for, as a share of what there is: more than 0, up to {MOST_LOAD}"
        );
    }
    if args.seeds.is_some_and(|seeds| !(1..=MOST_SEEDS).contains(&seeds)) {
        bail!("--seeds is how many weeks there are to take the mean of: 1 to {MOST_SEEDS}");
    }
    // Before minutes are spent on what cannot be written.
    if let Some(folder) = &args.svg {
        let probe = folder.join(".weft-bench");
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&probe, ""))
            .and_then(|()| std::fs::remove_file(&probe))
            .with_context(|| {
                format!("cannot write plots to {}: name a folder that can be written", folder.display())
            })?;
    }
    Ok(())
}

pub fn run(args: &Args, print: Printer) -> Result<()> {
    check(args)?;
    let workloads = workload::all(args)?;
    for &nodes in &args.nodes {
        for workload in &workloads {
            match args.seeds {
                None => show(args, print, &scenario(args, nodes, workload, args.seed)?)?,
                Some(seeds) => {
                    let mut means = Means::default();
                    for seed in (args.seed..).take(seeds as usize) {
                        means.add(&scenario(args, nodes, workload, seed)?);
                    }
                    println!("{}", means.markdown());
                }
            }
        }
    }
    Ok(())
}

fn scenario(args: &Args, nodes: usize, workload: &Workload, seed: u64) -> Result<Scenario> {
    let window = workload.window(args);
    let site = if args.reversed { Site::reversed(nodes)? } else { Site::new(nodes)? };
    let (short, about) = workload.names(args);
    let jobs = workload.jobs(args, &site, seed);
    let faults = faults::draw(&site, args.failures, window.to_seconds, seed);
    let mut outcomes = Vec::new();
    for mut strategy in strategy::all(&site, seed)? {
        // On standard error, which is not part of the result.
        let (nodes, jobs_there) = (counted(nodes as u64, "node"), counted(jobs.len() as u64, "job"));
        eprintln!("{nodes}, {jobs_there} ({short}, seed {seed}): {} …", strategy.name());
        outcomes.push(replay(site.clone(), strategy.as_mut(), &jobs, &faults, window)?);
    }
    Ok(Scenario {
        nodes,
        gpus: site.gpus(),
        jobs: short,
        about,
        count: jobs.len(),
        faults: faults.len(),
        load: args.load,
        days: args.days,
        seed,
        outcomes,
    })
}

fn show(args: &Args, print: Printer, scenario: &Scenario) -> Result<()> {
    if print.json {
        report::lines(scenario).iter().for_each(|line| print.line(line));
    } else {
        println!("{}", if args.markdown { report::markdown(scenario) } else { report::text(scenario) });
    }
    if let Some(folder) = &args.svg {
        let file = folder.join(format!("cluster-{}-{}.svg", scenario.nodes, scenario.jobs));
        std::fs::write(&file, plot::svg(scenario)).with_context(|| {
            format!("cannot write {}: make room, or name another folder that can be written", file.display())
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_answered_with_one_that_is() {
        assert_eq!(whole::<usize>("640"), Ok(640));
        assert_eq!(number("0.5"), Ok(0.5));
        for error in [whole::<u64>("7x").unwrap_err(), whole::<u64>("-1").unwrap_err(), number("much").unwrap_err()] {
            assert!(error.starts_with("give a ") && error.contains("such as"), "{error}");
        }
    }
}
