//! Replays jobs and faults on a site, event by event, with one strategy. The queue is the same for all:
//!
//! jobs start in the order in which they came; one that has no room is passed by those behind it as far as the head's
//! [`Reservation`] allows. A job with a failed worker goes on as soon as the worker is placed anew, at once, without moving
//! the others; if that cannot be, it gives up its GPUs and waits at its old place in the queue for the time that it still
//! has to run. (It loses no work: checkpoints are not what is compared.)

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::{Context, Result};

use super::faults::Fault;
use super::jobs::Job;
use super::reservation::Reservation;
use super::site::{Seat, Site};
use super::strategy::{Change, Seats, Strategy};
use super::tally::{Outcome, Tally};
use crate::counting;
use crate::rivals::Ask;

/// So many jobs with the same request are passed over in search of a shorter one that the head's promise allows.
const PASSED_OVER: usize = 100;

/// From when to when is counted; the time before fills the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub from_seconds: u64,
    pub to_seconds: u64,
}

/// Replays `jobs` (in the order of their times) and `faults` with `strategy`.
///
/// # Errors
/// If the strategy gives GPUs away that are in use, or fewer than were asked for.
pub fn replay(
    site: Site,
    strategy: &mut dyn Strategy,
    jobs: &[Job],
    faults: &[Fault],
    window: Window,
) -> Result<Outcome> {
    let tally = Tally::new(strategy.name(), jobs, window);
    let mut replay = Replay {
        site,
        strategy,
        jobs,
        left_seconds: jobs.iter().map(|job| job.duration_seconds).collect(),
        waiting: BTreeSet::new(),
        waiting_asks: BTreeMap::new(),
        running: BTreeMap::new(),
        ends_of: BTreeMap::new(),
        repairs: BTreeSet::new(),
        reservation: None,
        tally,
    };
    replay.run(faults, window.to_seconds)?;
    Ok(replay.tally.finish())
}

/// What became of a waiting job's turn.
enum Attempt {
    Started,
    NoRoom,
    /// The head's promise forbids it.
    Held,
}

struct Replay<'a> {
    site: Site,
    strategy: &'a mut dyn Strategy,
    jobs: &'a [Job],
    /// What each job still has to run.
    left_seconds: Vec<u64>,
    waiting: BTreeSet<usize>,
    /// The same jobs by their request.
    waiting_asks: BTreeMap<Ask, BTreeSet<usize>>,
    /// By the time at which they end.
    running: BTreeMap<(u64, usize), Seats>,
    ends_of: BTreeMap<usize, u64>,
    repairs: BTreeSet<(u64, usize, Option<usize>)>,
    reservation: Option<Reservation>,
    tally: Tally<'a>,
}

impl Replay<'_> {
    fn run(&mut self, faults: &[Fault], until: u64) -> Result<()> {
        let (mut next_job, mut next_fault) = (0, 0);
        loop {
            let end = self.running.first_key_value().map(|(&(end, _), _)| end);
            let repair = self.repairs.first().map(|repair| repair.0);
            let fault = faults.get(next_fault).map(|fault| fault.at_seconds);
            let job = self.jobs.get(next_job).map(|job| job.submit_seconds);
            let Some(now) = [end, repair, fault, job].into_iter().flatten().min().filter(|&now| now < until) else {
                break;
            };
            self.tally.advance(now, &self.site, &self.waiting_asks);
            let mut freed = false;
            while let Some((&(at, job), _)) = self.running.first_key_value()
                && at == now
            {
                self.end(job);
                freed = true;
            }
            while let Some(&(at, host, gpu)) = self.repairs.first()
                && at == now
            {
                self.repairs.pop_first();
                self.set_failed(host, gpu, false);
                freed = true;
            }
            while let Some(fault) = faults.get(next_fault).filter(|fault| fault.at_seconds == now) {
                next_fault += 1;
                self.fail(fault, now)?;
                freed = true;
            }
            let before = next_job;
            while self.jobs.get(next_job).is_some_and(|job| job.submit_seconds == now) {
                self.enqueue(next_job);
                next_job += 1;
            }
            if freed {
                self.start_waiting(now)?;
            } else {
                // Nothing became free, so only the new ones can start.
                for job in before..next_job {
                    self.attempt(job, now, false)?;
                }
            }
        }
        self.tally.advance(until, &self.site, &self.waiting_asks);
        Ok(())
    }

    fn enqueue(&mut self, job: usize) {
        self.waiting.insert(job);
        self.waiting_asks.entry(self.jobs[job].ask).or_default().insert(job);
    }

    fn dequeue(&mut self, job: usize) {
        self.waiting.remove(&job);
        let ask = self.jobs[job].ask;
        if let Some(jobs) = self.waiting_asks.get_mut(&ask) {
            jobs.remove(&job);
            if jobs.is_empty() {
                self.waiting_asks.remove(&ask);
            }
        }
    }

    /// Starts the waiting jobs that have room and may, in the order in which they came.
    fn start_waiting(&mut self, now: u64) -> Result<()> {
        // The next job of each request that may still have room, and how many of that request were passed over.
        let firsts = self.waiting_asks.values().filter_map(BTreeSet::first);
        let mut next: BTreeMap<usize, usize> = firsts.map(|&job| (job, 0)).collect();
        while let Some((job, mut passed)) = next.pop_first() {
            match self.attempt(job, now, passed > 0)? {
                Attempt::Started => {}
                Attempt::NoRoom => continue,
                Attempt::Held => passed += 1,
            }
            if passed < PASSED_OVER
                && let Some(jobs) = self.waiting_asks.get(&self.jobs[job].ask)
                && let Some(&after) = jobs.range(job + 1..).next()
            {
                next.insert(after, passed);
            }
        }
        Ok(())
    }

    /// Starts a waiting job if it has room and the head's promise allows it. One that outlasts the head's start is not tried
    /// if another with its request was `held` back already.
    fn attempt(&mut self, job: usize, now: u64, held: bool) -> Result<Attempt> {
        let ask = self.jobs[job].ask;
        if !self.site.has_room(&ask) {
            return Ok(Attempt::NoRoom);
        }
        let end = now + self.left_seconds[job];
        let head = self.waiting.first().copied().filter(|&head| head != job);
        if let Some(head) = head {
            self.promise(head, now);
            let start = self.reservation.as_ref().and_then(|promise| promise.at_seconds);
            if held && start.is_some_and(|start| end > start) {
                return Ok(Attempt::Held);
            }
        }
        let seats = self.decide(&ask, &Seats::new())?;
        let seats = seats.with_context(|| format!("{} finds no room where there is", self.strategy.name()))?;
        let places: Vec<Seat> = seats.iter().map(|&(_, seat)| seat).collect();
        if let (Some(_), Some(promise)) = (head, &mut self.reservation)
            && !promise.allows(&self.site, end, &places)
        {
            return Ok(Attempt::Held);
        }
        if head.is_none() {
            // The head starts, so the next one is promised anew.
            self.reservation = None;
        }
        self.start(job, seats, now)?;
        Ok(Attempt::Started)
    }

    /// Brings the promise up to date: it is for the head, and not for a time that is over.
    fn promise(&mut self, head: usize, now: u64) {
        let holds = |promise: &Reservation| promise.job == head && promise.at_seconds.is_some_and(|at| at > now);
        if !self.reservation.as_ref().is_some_and(holds) {
            let running = self.running.iter().map(|(&(end, _), seats)| (end, seats));
            self.reservation = Some(Reservation::new(head, self.jobs[head].ask, &self.site, running));
        }
    }

    /// Asks the strategy, with a look at the clock and at the answer.
    fn decide(&mut self, ask: &Ask, running: &Seats) -> Result<Option<Seats>> {
        let (allocations, start) = (counting::allocations(), Instant::now());
        let seats = self.strategy.place(&self.site, ask, running);
        self.tally.decided(start.elapsed(), counting::allocations() - allocations);
        if let Some(seats) = &seats {
            let short = seats.iter().any(|(_, seat)| seat.gpus.len() != ask.gpus as usize);
            anyhow::ensure!(
                !short && seats.len() + running.len() == ask.workers as usize,
                "{} placed {} of {} workers, or not with {} GPUs each",
                self.strategy.name(),
                seats.len() + running.len(),
                ask.workers,
                ask.gpus
            );
        }
        Ok(seats)
    }

    fn start(&mut self, job: usize, seats: Seats, now: u64) -> Result<()> {
        self.dequeue(job);
        self.take(job, &seats)?;
        self.tally.started(job, now, &seats, &self.site);
        let end = now + self.left_seconds[job];
        self.ends_of.insert(job, end);
        self.running.insert((end, job), seats);
        Ok(())
    }

    fn end(&mut self, job: usize) -> Option<u64> {
        let end = self.ends_of.remove(&job)?;
        let seats = self.running.remove(&(end, job))?;
        self.release(job, &seats);
        Some(end)
    }

    fn take(&mut self, job: usize, seats: &Seats) -> Result<()> {
        for &(worker, seat) in seats {
            self.site.take(seat).with_context(|| format!("{}, job {job}", self.strategy.name()))?;
            self.strategy.note(Change::Taken { job, worker, seat });
        }
        Ok(())
    }

    fn release(&mut self, job: usize, seats: &Seats) {
        for &(worker, seat) in seats {
            self.site.give(seat);
            self.strategy.note(Change::Freed { job, worker });
        }
    }

    fn set_failed(&mut self, host: usize, gpu: Option<usize>, failed: bool) {
        self.site.set_failed(host, gpu, failed);
        self.strategy.note(Change::Host { host, site: &self.site });
        self.reservation = None;
    }

    fn fail(&mut self, fault: &Fault, now: u64) -> Result<()> {
        let host = &self.site.hosts[fault.host];
        if !host.ready || fault.gpu.is_some_and(|gpu| !host.healthy.contains(gpu)) {
            return Ok(());
        }
        self.set_failed(fault.host, fault.gpu, true);
        self.repairs.insert((fault.repaired_seconds, fault.host, fault.gpu));
        let hit = |seat: &Seat| seat.host == fault.host && fault.gpu.is_none_or(|gpu| seat.gpus.contains(gpu));
        let jobs: Vec<(u64, usize)> = self
            .running
            .iter()
            .filter(|(_, seats)| seats.iter().any(|(_, seat)| hit(seat)))
            .map(|(&key, _)| key)
            .collect();
        for (end, job) in jobs {
            let Some(seats) = self.running.remove(&(end, job)) else { continue };
            let (lost, mut kept): (Seats, Seats) = seats.into_iter().partition(|(_, seat)| hit(seat));
            self.release(job, &lost);
            let ask = self.jobs[job].ask;
            match self.decide(&ask, &kept)? {
                Some(seats) => {
                    self.take(job, &seats)?;
                    kept.extend(seats);
                    kept.sort_unstable_by_key(|&(worker, _)| worker);
                    self.running.insert((end, job), kept);
                    self.tally.replaced();
                }
                None => {
                    self.release(job, &kept);
                    self.ends_of.remove(&job);
                    self.left_seconds[job] = end - now;
                    self.enqueue(job);
                    self.tally.interrupted();
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
