//! What the job at the head of the queue is promised, so that smaller ones do not pass it for ever.
//!
//! EASY backfilling, as Slurm's and others': the head starts at the latest when, by the times at which running jobs end, it
//! has room. A job behind it may start before if it ends by then, or if the head has room then even so. Times are known
//! exactly here, which favours no strategy over another.

use super::site::{Seat, Site};
use super::strategy::Seats;
use crate::rivals::Ask;

/// The head's promise.
#[derive(Debug)]
pub struct Reservation {
    pub job: usize,
    ask: Ask,
    /// When it has room by the ends of running jobs; none if it never has (while nodes are broken).
    pub at_seconds: Option<u64>,
    /// GPUs free then, by host.
    free: Vec<u32>,
    /// Workers for which there is room then, by domain of the required level, or in all.
    rooms: Vec<u32>,
}

impl Reservation {
    /// `running` are the seats of running jobs with the time at which each ends, in the order of these.
    pub fn new<'a>(job: usize, ask: Ask, site: &Site, running: impl Iterator<Item = (u64, &'a Seats)>) -> Self {
        let free: Vec<u32> = site.view.hosts.iter().map(|host| host.free).collect();
        let domains = ask.required.map_or(1, |level| site.view.children[level].len());
        let mut promise = Self { job, ask, at_seconds: None, free, rooms: vec![0; domains] };
        for (n, host) in site.view.hosts.iter().enumerate() {
            let domain = promise.domain(site, n);
            promise.rooms[domain] += host.room(&ask);
        }
        for (end, seats) in running {
            for (_, seat) in seats {
                let at = &site.hosts[seat.host];
                if at.ready {
                    promise.change(site, seat.host, seat.gpus.intersection(at.healthy).len() as i64);
                }
            }
            if promise.has_room() {
                promise.at_seconds = Some(end);
                break;
            }
        }
        promise
    }

    /// Whether a job that ends at `end` may sit on `seats` until then. If so, that is taken into account.
    pub fn allows(&mut self, site: &Site, end: u64, seats: &[Seat]) -> bool {
        let Some(at) = self.at_seconds else { return true };
        if end <= at {
            return true;
        }
        seats.iter().for_each(|seat| self.change(site, seat.host, -(seat.gpus.len() as i64)));
        if self.has_room() {
            return true;
        }
        seats.iter().for_each(|seat| self.change(site, seat.host, seat.gpus.len() as i64));
        false
    }

    fn has_room(&self) -> bool {
        self.rooms.iter().any(|&room| room >= self.ask.workers)
    }

    fn domain(&self, site: &Site, host: usize) -> usize {
        self.ask.required.map_or(0, |level| site.view.hosts[host].domains[level] as usize)
    }

    fn change(&mut self, site: &Site, host: usize, gpus: i64) {
        let before = self.free[host];
        let after = (i64::from(before) + gpus).max(0) as u32;
        self.free[host] = after;
        if site.view.hosts[host].kind & self.ask.kinds != 0 {
            let domain = self.domain(site, host);
            // What the host had room for before is part of the sum.
            self.rooms[domain] = self.rooms[domain] + after / self.ask.gpus - before / self.ask.gpus;
        }
    }
}
