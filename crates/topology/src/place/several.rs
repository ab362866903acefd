//! Several groups at once: the innermost domain that holds them all, group after group.

use super::ranks::Place;
use super::solve::{Found, Search, within};
use super::table::{Split, Spread, Terms, packed};
use crate::tree::ROOT;

/// Candidate domains that are tried for a gang of several groups before the search gives up.
const MOST_CANDIDATES: usize = 20_000;

impl Search<'_> {
    /// Several groups: the innermost level of which one domain holds them all, else all over the cluster.
    pub(super) fn several(&mut self, workers: &[u32]) -> Option<Found> {
        let outermost = self.question.required;
        for depth in (outermost.unwrap_or(0)..self.levels()).rev() {
            let candidates = self.candidates(Some(depth));
            if let Some(found) = self.best_of(&candidates, workers) {
                return Some(found);
            }
        }
        if outermost.is_some() { None } else { self.best_of(&[Place::Domain(ROOT)], workers) }
    }

    /// The candidate with the smallest objective.
    pub(super) fn best_of_several(&mut self, candidates: &[Place], workers: &[u32]) -> Option<Found> {
        let need: u64 =
            self.order.iter().map(|&g| u64::from(self.question.asks[g].group.gpus) * u64::from(workers[g])).sum();
        let mut best: Option<Found> = None;
        let mut tried = 0;
        for &candidate in candidates {
            let free = match candidate {
                Place::Domain(id) => self.start.free_below(id),
                Place::Seat(id) => self.start.free_on(id),
            };
            if u64::from(free) < need {
                continue;
            }
            tried += 1;
            if tried > MOST_CANDIDATES {
                self.proven = false;
                break;
            }
            if let Some(found) = self.in_turn(candidate, workers)
                && best.as_ref().is_none_or(|best| found.cost < best.cost)
            {
                best = Some(found);
            }
        }
        best.map(|best| Found { exact: false, ..best })
    }

    /// All groups in one candidate, one after the other.
    fn in_turn(&mut self, candidate: Place, workers: &[u32]) -> Option<Found> {
        let levels = self.levels();
        let mut state = self.start.clone();
        let mut found = Found {
            cost: vec![0; Terms { levels }.width()],
            splits: vec![Split::new(); workers.len()],
            workers: workers.to_vec(),
            exact: true,
        };
        for &group in &self.order {
            if workers[group] == 0 {
                continue;
            }
            let ask = &self.question.asks[group];
            let mut spread = Spread::new(&state, ask, &mut self.packer, self.eligible, levels, candidate);
            let best = spread.best(within(&self.start, candidate, ask), workers[group]);
            let Some((cost, one)) = best else {
                self.proven &= self.divisible();
                return None;
            };
            for &(seat, workers) in &one {
                let packed = packed(&state, ask, &mut self.packer, seat, workers);
                let gpus = packed.sets.iter().copied().fold(crate::GpuSet::EMPTY, crate::GpuSet::union);
                state.give(seat, ask.group, workers, gpus);
            }
            for (sum, term) in found.cost.iter_mut().zip(cost) {
                *sum += term;
            }
            found.splits[group] = one;
        }
        Some(found)
    }

    /// Whether placing the groups one after the other, most GPUs first, finds a place wherever there is one: GPUs are
    /// all that counts, nothing binds a group by itself, and each size divides the one before.
    ///
    /// For then a node with *c* free GPUs has room for ⌊c/g⌋ workers of the next size *g* less what the larger ones
    /// took, and as *g* divides their sizes that does not depend on which nodes they went to.
    fn divisible(&self) -> bool {
        let groups = self.order.iter().map(|&group| &self.question.asks[group]);
        let plain = groups.clone().all(|ask| {
            let group = ask.group;
            group.resources.is_empty() && group.product.is_none() && ask.required.is_none() && ask.slices.is_empty()
        });
        let sizes: Vec<u32> = groups.map(|ask| ask.group.gpus).filter(|&gpus| gpus > 0).collect();
        plain && sizes.windows(2).all(|pair| pair[0].is_multiple_of(pair[1]))
    }
}
