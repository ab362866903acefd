//! What is counted while jobs are replayed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::jobs::{Job, NVLINK, RACK};
use super::simulation::Window;
use super::site::Site;
use super::strategy::Seats;
use crate::measure::Measured;
use crate::rivals::Ask;

/// Jobs by their GPUs: the name of a class and the most that it has.
pub const CLASSES: [(&str, u32); 5] = [("1", 1), ("2-7", 7), ("8", 8), ("9-64", 64), ("65+", u32::MAX)];

/// The time series have a point for so much time.
const STEP_SECONDS: u64 = 2 * 3_600;

/// How the jobs of a class waited, by seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waits {
    /// In order. A job that did not start counts as having waited until the end.
    pub seconds: Vec<u64>,
}

impl Waits {
    /// The wait that so many per cent of the jobs do not exceed.
    pub fn percentile(&self, percent: usize) -> u64 {
        let at = (self.seconds.len() * percent / 100).min(self.seconds.len().saturating_sub(1));
        self.seconds.get(at).copied().unwrap_or(0)
    }
}

/// What a gang spans, on average.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Span {
    pub gangs: u64,
    pub domains: u64,
}

impl Span {
    pub fn mean(&self) -> f64 {
        self.domains as f64 / self.gangs.max(1) as f64
    }
}

/// The result of one strategy.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub strategy: &'static str,
    /// GPUs in use, as a share of those that are not broken.
    pub utilisation: f64,
    /// GPU-hours idle while a job waits that needs no more GPUs than are idle and has no place.
    pub lost_gpu_hours: f64,
    pub waits: [Waits; CLASSES.len()],
    /// Of the gangs that ask for nodes of NVLink domains: too few to show in the percentiles of their class.
    pub nvl72_waits: Waits,
    /// Racks by gang (of several workers), by the class of its size.
    pub racks: [Span; CLASSES.len()],
    /// NVLink domains by gang that asks for nodes of NVLink domains.
    pub nvlink_domains: Span,
    /// Of the jobs whose workers have several GPUs, the share of which every worker's GPUs all share NVLinks.
    pub jobs_with_full_nvlink: f64,
    /// Jobs started in the window, and those that still waited at its end.
    pub started: u64,
    pub left_waiting: u64,
    /// Jobs of which a failed worker was placed anew at once, and those that had to wait for it.
    pub replaced: u64,
    pub interrupted: u64,
    /// By steps of time: GPUs in use, and those idle and lost, as shares.
    pub series: Vec<(f64, f64)>,
    pub decisions: u64,
    /// Not part of what is the same every time.
    pub time: Measured,
    pub total_seconds: f64,
}

pub struct Tally<'a> {
    jobs: &'a [Job],
    window: Window,
    outcome: Outcome,
    now: u64,
    busy: u128,
    able: u128,
    lost: u128,
    steps: Vec<(u128, u128, u128)>,
    /// First starts, by job.
    starts: BTreeMap<usize, u64>,
    /// Jobs whose workers have several GPUs, and those of them with full NVLink.
    several: u64,
    full: u64,
    times_us: Vec<f64>,
    allocations: u64,
}

impl<'a> Tally<'a> {
    pub fn new(strategy: &'static str, jobs: &'a [Job], window: Window) -> Self {
        let outcome = Outcome {
            strategy,
            utilisation: 0.0,
            lost_gpu_hours: 0.0,
            waits: Default::default(),
            nvl72_waits: Waits::default(),
            racks: Default::default(),
            nvlink_domains: Span::default(),
            jobs_with_full_nvlink: 0.0,
            started: 0,
            left_waiting: 0,
            replaced: 0,
            interrupted: 0,
            series: Vec::new(),
            decisions: 0,
            time: Measured::default(),
            total_seconds: 0.0,
        };
        Self {
            jobs,
            window,
            outcome,
            now: 0,
            busy: 0,
            able: 0,
            lost: 0,
            steps: Vec::new(),
            starts: BTreeMap::new(),
            several: 0,
            full: 0,
            times_us: Vec::new(),
            allocations: 0,
        }
    }

    /// Time passes until `to` with nothing happening.
    pub fn advance(&mut self, to: u64, site: &Site, waiting: &BTreeMap<Ask, BTreeSet<usize>>) {
        let from = self.now.max(self.window.from_seconds);
        let until = to.min(self.window.to_seconds);
        self.now = to;
        if from >= until {
            return;
        }
        let (able, idle) = site.able_and_idle();
        let (able, busy) = (u128::from(able), u128::from(able - idle));
        let lost = u128::from(lost(site, waiting));
        let mut at = from;
        while at < until {
            let step = (at - self.window.from_seconds) / STEP_SECONDS;
            let next = until.min(self.window.from_seconds + (step + 1) * STEP_SECONDS);
            let seconds = u128::from(next - at);
            if self.steps.len() <= step as usize {
                self.steps.resize(step as usize + 1, (0, 0, 0));
            }
            let sums = &mut self.steps[step as usize];
            *sums = (sums.0 + able * seconds, sums.1 + busy * seconds, sums.2 + lost * seconds);
            at = next;
        }
    }

    pub fn decided(&mut self, time: Duration, allocations: u64) {
        self.times_us.push(time.as_nanos() as f64 / 1_000.0);
        self.allocations += allocations;
    }

    pub fn replaced(&mut self) {
        self.outcome.replaced += 1;
    }

    pub fn interrupted(&mut self) {
        self.outcome.interrupted += 1;
    }

    pub fn started(&mut self, job: usize, now: u64, seats: &Seats, site: &Site) {
        self.starts.entry(job).or_insert(now);
        if now < self.window.from_seconds {
            return;
        }
        self.outcome.started += 1;
        let ask = self.jobs[job].ask;
        if ask.workers > 1 {
            let split = seats.iter().map(|&(_, seat)| (seat.host, 1)).collect();
            let span = |span: &mut Span, depth: usize| {
                span.gangs += 1;
                span.domains += site.view.used(&split, depth) as u64;
            };
            span(&mut self.outcome.racks[class(&self.jobs[job])], RACK);
            if ask.is_for_nvl72() {
                span(&mut self.outcome.nvlink_domains, NVLINK);
            }
        }
        if ask.gpus > 1 {
            let full = |seat: &super::site::Seat| site.hosts[seat.host].node.wiring().grade(seat.gpus) == 2;
            self.several += 1;
            // The slowest worker sets the pace, so one that is not linked in full is enough.
            self.full += u64::from(seats.iter().all(|(_, seat)| full(seat)));
        }
    }

    pub fn finish(mut self) -> Outcome {
        for (n, job) in self.jobs.iter().enumerate() {
            if job.submit_seconds < self.window.from_seconds || job.submit_seconds >= self.window.to_seconds {
                continue;
            }
            let start = self.starts.get(&n).copied();
            self.outcome.left_waiting += u64::from(start.is_none());
            let wait = start.unwrap_or(self.window.to_seconds) - job.submit_seconds;
            self.outcome.waits[class(job)].seconds.push(wait);
            if job.ask.is_for_nvl72() {
                self.outcome.nvl72_waits.seconds.push(wait);
            }
        }
        let waits = self.outcome.waits.iter_mut().chain([&mut self.outcome.nvl72_waits]);
        waits.for_each(|waits| waits.seconds.sort_unstable());
        for &(able, busy, lost) in &self.steps {
            self.outcome.series.push((busy as f64 / able.max(1) as f64, lost as f64 / able.max(1) as f64));
            (self.able, self.busy, self.lost) = (self.able + able, self.busy + busy, self.lost + lost);
        }
        let outcome = &mut self.outcome;
        outcome.utilisation = self.busy as f64 / self.able.max(1) as f64;
        outcome.lost_gpu_hours = self.lost as f64 / 3_600.0;
        outcome.jobs_with_full_nvlink = if self.several == 0 { 1.0 } else { self.full as f64 / self.several as f64 };
        outcome.decisions = self.times_us.len() as u64;
        outcome.total_seconds = self.times_us.iter().sum::<f64>() / 1e6;
        outcome.time = Measured::of(self.times_us, self.allocations);
        self.outcome
    }
}

/// GPUs that are idle and would do for a job that waits, needs no more than that, and has no place.
fn lost(site: &Site, waiting: &BTreeMap<Ask, BTreeSet<usize>>) -> u32 {
    let lost = |ask: &Ask| {
        let idle = site.idle(ask.kinds);
        if idle >= ask.workers * ask.gpus && !site.has_room(ask) { idle } else { 0 }
    };
    waiting.keys().map(lost).max().unwrap_or(0)
}

fn class(job: &Job) -> usize {
    CLASSES.iter().position(|&(_, most)| job.gpus() <= most).unwrap_or(CLASSES.len() - 1)
}
