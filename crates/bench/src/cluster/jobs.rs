//! The jobs that are replayed: read from a file.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::site::{Kind, LEVELS};
use crate::rivals::Ask;

/// One job of equal workers that start together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub submit_seconds: u64,
    /// How long it runs once it has all its GPUs.
    pub duration_seconds: u64,
    pub ask: Ask,
}

impl Job {
    pub fn gpus(&self) -> u32 {
        self.ask.workers * self.ask.gpus
    }

    /// Keeps a job that is not for NVL72 nodes off them.
    pub fn stay_off_nvl72(&mut self) {
        if !self.ask.is_for_nvl72() {
            self.ask.kinds &= !Kind::Nvl72.bit();
        }
    }

    /// A gang for nodes of NVLink domains becomes one of as many GPUs for others.
    pub fn leave_nvl72(&mut self) {
        if self.ask.is_for_nvl72() {
            self.ask = Ask::of_job(self.gpus() / Kind::Hgx.gpus(), Kind::Hgx.gpus(), self.ask.required);
        }
    }
}

impl Ask {
    /// Of a job on any kind of node that is large enough. Gangs prefer one rack.
    pub fn of_job(workers: u32, gpus: u32, required: Option<usize>) -> Self {
        let kinds = Kind::ALL.into_iter().filter(|kind| kind.gpus() >= gpus).map(Kind::bit).sum();
        Self { workers, gpus, kinds, required, preferred: (workers > 1).then_some(RACK) }
    }

    /// The same on nodes of one NVLink domain across nodes only, which it prefers to have to itself.
    pub fn on_nvl72(self) -> Self {
        Self { kinds: Kind::Nvl72.bit(), preferred: Some(NVLINK), ..self }
    }

    /// Whether no other nodes will do.
    pub fn is_for_nvl72(&self) -> bool {
        self.kinds == Kind::Nvl72.bit()
    }
}

/// Depths in [`LEVELS`].
pub const RACK: usize = 2;
pub const NVLINK: usize = 3;

/// Reads `submit_seconds,duration_seconds,workers,gpus_per_worker[,level]`, one job a line; a first line that starts with a
/// letter is a heading, empty lines and those that start with `#` are passed over. `level` is required.
///
/// # Errors
/// Names the line and what is wrong with it.
pub fn read(file: &Path) -> Result<Vec<Job>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read the jobs in {}", file.display()))?;
    parse(&text).with_context(|| format!("the jobs in {}", file.display()))
}

/// Workers that a job in a file may have.
const MOST_WORKERS: u32 = 100_000;

fn parse(text: &str) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    // Spreadsheets begin a file with a byte order mark.
    for (n, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        let heading = n == 0 && line.starts_with(char::is_alphabetic);
        if line.is_empty() || line.starts_with('#') || heading {
            continue;
        }
        jobs.push(job(line).with_context(|| format!("line {}, {line:?}", n + 1))?);
    }
    jobs.sort_by_key(|job| job.submit_seconds);
    Ok(jobs)
}

fn job(line: &str) -> Result<Job> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let (&[submit, duration, workers, gpus], level) = match fields.split_first_chunk::<4>() {
        Some((first, rest)) if rest.len() <= 1 => (first, rest.first().copied().filter(|level| !level.is_empty())),
        _ => bail!("write submit_seconds,duration_seconds,workers,gpus_per_worker and, if need be, a level"),
    };
    let number = |field: &str| field.parse::<u32>().with_context(|| format!("{field:?} is no whole number"));
    let depth = |level: &str| {
        let depth = LEVELS.iter().position(|&known| known == level);
        depth.with_context(|| format!("level {level:?} is unknown: use one of {}", LEVELS.join(", ")))
    };
    let (workers, gpus) = (number(workers)?, number(gpus)?);
    if workers == 0 || gpus == 0 || gpus > Kind::Hgx.gpus() {
        bail!("a job has at least one worker, and each of them 1 to {} GPUs", Kind::Hgx.gpus());
    }
    if workers > MOST_WORKERS {
        bail!("{workers} workers are more than a cluster has nodes: {MOST_WORKERS} at most");
    }
    let ask = Ask::of_job(workers, gpus, level.map(depth).transpose()?);
    Ok(Job { submit_seconds: number(submit)?.into(), duration_seconds: u64::from(number(duration)?).max(1), ask })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_read_with_and_without_a_level_and_come_in_the_order_of_time() {
        let jobs =
            parse("submit_seconds,duration_seconds,workers,gpus_per_worker\n60,600,2,8,rack\n\n# a comment\n0,5,1,2\n");
        let jobs = jobs.unwrap();
        assert_eq!(jobs.iter().map(|job| (job.submit_seconds, job.gpus())).collect::<Vec<_>>(), [(0, 2), (60, 16)]);
        assert_eq!(jobs[1].ask.required, Some(RACK));
        assert_eq!(jobs[0].ask.kinds, 7);
        assert_eq!(jobs[1].ask.kinds, Kind::Hgx.bit());
    }

    #[test]
    fn a_gang_that_leaves_the_nvl72_nodes_keeps_its_gpus() {
        let job = |ask| Job { submit_seconds: 0, duration_seconds: 1, ask };
        let mut gang = job(Ask::of_job(4, 4, None).on_nvl72());
        gang.leave_nvl72();
        assert_eq!(gang.ask, Ask::of_job(2, 8, None));
        let mut other = job(Ask::of_job(1, 4, None));
        other.leave_nvl72();
        assert_eq!(other.ask, Ask::of_job(1, 4, None));
    }

    #[test]
    fn a_job_kept_off_nvl72_nodes_takes_all_others_and_a_gang_for_them_stays() {
        let job = |ask| Job { submit_seconds: 0, duration_seconds: 1, ask };
        let mut other = job(Ask::of_job(1, 4, None));
        other.stay_off_nvl72();
        assert_eq!(other.ask.kinds, Kind::Hgx.bit() | Kind::Bridged.bit());
        let mut gang = job(Ask::of_job(4, 4, None).on_nvl72());
        gang.stay_off_nvl72();
        assert_eq!(gang.ask, Ask::of_job(4, 4, None).on_nvl72());
    }

    #[test]
    fn a_wrong_line_is_named_with_what_is_wrong() {
        for (line, words) in [
            ("1,2,3", "gpus_per_worker"),
            ("1,2,x,8", "no whole number"),
            ("1,2,1,9", "1 to 8 GPUs"),
            ("1,2,536870912,8", "100000 at most"),
            ("1,2,1,8,row", "use one of zone, block, rack, nvlink"),
        ] {
            let error = format!("{:#}", parse(&format!("# jobs\n{line}\n")).unwrap_err());
            assert!(error.contains("line 2") && error.contains(words), "{error}");
        }
    }
}
