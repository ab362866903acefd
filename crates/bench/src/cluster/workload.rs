//! The jobs of a scenario: drawn from a study, or read from a file.

use anyhow::{Context, Result, bail};

use super::jobs::{self, Job};
use super::report::counted;
use super::simulation::Window;
use super::site::Site;
use super::studies::{HELIOS, SEREN, Study};
use super::{Args, DAY_SECONDS};

/// The first days of drawn jobs fill the cluster, also with jobs that run for days, and are not counted.
const WARM_UP_DAYS: u64 = 3;

pub enum Workload {
    Drawn(Study),
    File { name: String, jobs: Vec<Job> },
}

/// Those that are asked for.
///
/// # Errors
/// If a study is unknown, or the file cannot be read or has no job in time.
pub fn all(args: &Args) -> Result<Vec<Workload>> {
    let Some(file) = &args.jobs else {
        return args.study.iter().map(|name| Ok(Workload::Drawn(study(name)?))).collect();
    };
    let jobs = jobs::read(file)?;
    let end = args.days * DAY_SECONDS;
    if !jobs.iter().any(|job| job.submit_seconds < end) {
        let days = counted(args.days, "day");
        bail!("no job in {} comes within {days}: give jobs, or more --days", file.display());
    }
    let name = file.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok(vec![Workload::File { name, jobs }])
}

fn study(name: &str) -> Result<Study> {
    let known = [HELIOS, SEREN].into_iter().find(|study| study.name == name);
    known.with_context(|| format!("no study is named {name:?}: use helios or seren"))
}

impl Workload {
    /// What is counted.
    pub fn window(&self, args: &Args) -> Window {
        let from_seconds = match self {
            Self::Drawn(_) => WARM_UP_DAYS * DAY_SECONDS,
            Self::File { .. } => 0,
        };
        Window { from_seconds, to_seconds: from_seconds + args.days * DAY_SECONDS }
    }

    pub fn jobs(&self, args: &Args, site: &Site, seed: u64) -> Vec<Job> {
        let mut jobs = match self {
            Self::Drawn(study) => study.jobs(site, args.load, self.window(args), seed),
            Self::File { jobs, .. } => jobs.clone(),
        };
        if args.no_nvl72_gangs {
            jobs.iter_mut().for_each(Job::leave_nvl72);
        }
        if args.typed {
            jobs.iter_mut().for_each(Job::stay_off_nvl72);
        }
        jobs
    }

    /// A short name, as in those of plots, and one for people.
    pub fn names(&self, args: &Args) -> (String, String) {
        let (mut short, mut about) = match self {
            Self::Drawn(study) => (study.name.to_owned(), study.about.to_owned()),
            Self::File { name, .. } => (name.clone(), name.clone()),
        };
        let variants = [
            (args.no_nvl72_gangs, "-no-nvl72-gangs", ", no gang for NVL72 nodes"),
            (args.typed, "-typed", ", other jobs kept off NVL72 nodes"),
            (args.reversed, "-reversed", ", nodes named the other way round"),
        ];
        for (_, suffix, words) in variants.iter().filter(|(asked, ..)| *asked) {
            short += suffix;
            about += words;
        }
        (short, about)
    }
}
