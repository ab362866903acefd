//! A cluster in a box: a week of jobs, with failures, through the very decisions that run in a cluster, and through those of
//! others. What is the same for all: nodes, jobs, failures, the queue.

pub mod faults;
pub mod jobs;
pub mod plot;
pub mod report;
pub mod reservation;
pub mod simulation;
pub mod site;
pub mod strategy;
pub mod studies;
pub mod tally;

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use self::jobs::Job;
use self::report::counted;
use self::simulation::{Window, replay};
use self::site::Site;
use self::studies::{HELIOS, SEREN, Study};
use self::tally::Outcome;
use crate::measure::Printer;

/// The first days fill the cluster, also with jobs that run for days, and are not counted.
const WARM_UP_DAYS: u64 = 3;
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
    for &nodes in &args.nodes {
        match &args.jobs {
            Some(file) => {
                let mut jobs = jobs::read(file)?;
                let end = args.days * DAY_SECONDS;
                if !jobs.iter().any(|job| job.submit_seconds < end) {
                    let days = counted(args.days, "day");
                    bail!("no job in {} comes within {days}: give jobs, or more --days", file.display());
                }
                if args.typed {
                    jobs.iter_mut().for_each(Job::stay_off_nvl72);
                }
                let name = file.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
                scenario(args, print, nodes, 0, (name.clone(), name), |_, _| jobs)?;
            }
            None => {
                for name in &args.study {
                    let study = study(name)?;
                    let draw = |site: &Site, window| {
                        let mut jobs = study.jobs(site, args.load, window, args.seed);
                        if args.no_nvl72_gangs {
                            jobs.iter_mut().for_each(Job::leave_nvl72);
                        }
                        if args.typed {
                            jobs.iter_mut().for_each(Job::stay_off_nvl72);
                        }
                        jobs
                    };
                    let mut names = (study.name.to_owned(), study.about.to_owned());
                    if args.no_nvl72_gangs {
                        names.0 += "-no-nvl72-gangs";
                        names.1 += ", no gang for NVL72 nodes";
                    }
                    scenario(args, print, nodes, WARM_UP_DAYS * DAY_SECONDS, names, draw)?;
                }
            }
        }
    }
    Ok(())
}

fn study(name: &str) -> Result<Study> {
    let known = [HELIOS, SEREN].into_iter().find(|study| study.name == name);
    known.with_context(|| format!("no study is named {name:?}: use helios or seren"))
}

fn scenario(
    args: &Args,
    print: Printer,
    nodes: usize,
    warm_up: u64,
    (mut jobs_name, mut about): (String, String),
    draw: impl FnOnce(&Site, Window) -> Vec<Job>,
) -> Result<()> {
    let window = Window { from_seconds: warm_up, to_seconds: warm_up + args.days * DAY_SECONDS };
    let site = if args.reversed { Site::reversed(nodes)? } else { Site::new(nodes)? };
    if args.typed {
        jobs_name += "-typed";
        about += ", other jobs kept off NVL72 nodes";
    }
    if args.reversed {
        jobs_name += "-reversed";
        about += ", nodes named the other way round";
    }
    let jobs = draw(&site, window);
    let faults = faults::draw(&site, args.failures, window.to_seconds, args.seed);
    let mut outcomes = Vec::new();
    for mut strategy in strategy::all(&site, args.seed)? {
        // On standard error, which is not part of the result.
        eprintln!("{nodes} nodes, {} jobs ({jobs_name}): {} …", jobs.len(), strategy.name());
        outcomes.push(replay(site.clone(), strategy.as_mut(), &jobs, &faults, window)?);
    }
    let scenario = Scenario {
        nodes,
        gpus: site.gpus(),
        jobs: jobs_name,
        about,
        count: jobs.len(),
        faults: faults.len(),
        load: args.load,
        days: args.days,
        seed: args.seed,
        outcomes,
    };
    if print.json {
        report::lines(&scenario).iter().for_each(|line| print.line(line));
    } else {
        println!("{}", if args.markdown { report::markdown(&scenario) } else { report::text(&scenario) });
    }
    if let Some(folder) = &args.svg {
        let file = folder.join(format!("cluster-{nodes}-{}.svg", scenario.jobs));
        std::fs::write(&file, plot::svg(&scenario)).with_context(|| {
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
