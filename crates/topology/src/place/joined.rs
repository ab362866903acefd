//! Workers whose GPUs have to be joined by wires of some worth: how many of them a node has room for, and which GPUs they get.
//!
//! Two GPUs suit each other or not, and all of a worker's GPUs suit each other. Free GPUs fall into parts that no suitable
//! wire joins. In most machines all of a part suit each other, so it has room for ⌊size/each⌋ workers whichever GPUs they
//! take. Where they do not (the cube mesh of a DGX-1), the most disjoint sets are searched, exactly up to 16 GPUs.

use std::collections::HashMap;

use crate::gang::Joined;
use crate::{GpuSet, Node, Wiring, choose};

/// Beyond so many GPUs in a part whose GPUs do not all suit each other, the first sets found are taken.
const EXACT_UP_TO: usize = 16;

/// How many workers of `each` GPUs so joined fit into `free`.
pub(super) fn most(wiring: &Wiring, free: GpuSet, each: usize, joined: Joined) -> u32 {
    let parts = parts(wiring, free, joined).into_iter();
    parts.map(|part| room(wiring, part, each, joined)).sum::<usize>() as u32
}

/// The size of the largest set so joined.
pub(super) fn largest(wiring: &Wiring, free: GpuSet, joined: Joined) -> u32 {
    (1..=free.len()).rev().find(|&size| most(wiring, free, size, joined) > 0).unwrap_or(0) as u32
}

/// Sets for so many workers, fewer if there is no room: out of the smallest part that has room, so that larger ones stay
/// whole; in it, the set that [`choose()`] takes, or those with the most in wires where not all of a part suit each other.
pub(super) fn sets(node: &Node, free: GpuSet, each: usize, workers: usize, joined: Joined) -> Vec<GpuSet> {
    let wiring = node.wiring();
    let mut parts = parts(wiring, free, joined);
    let mut sets: Vec<GpuSet> = Vec::with_capacity(workers);
    while sets.len() < workers {
        let open = parts.iter_mut().filter(|part| room(wiring, **part, each, joined) > 0);
        let Some(part) = open.min_by_key(|part| (part.len(), part.lowest())) else { break };
        if suits(wiring, *part, joined) {
            let Ok(choice) = choose(node, *part, GpuSet::EMPTY, GpuSet::EMPTY, each) else { break };
            *part = part.difference(choice.gpus);
            sets.push(choice.gpus);
        } else {
            let found = search(wiring, *part, each, joined, workers - sets.len());
            *part = found.iter().fold(*part, |part, &set| part.difference(set));
            sets.extend(found);
        }
    }
    sets
}

fn suits(wiring: &Wiring, set: GpuSet, joined: Joined) -> bool {
    wiring.grade(set) >= joined.grade()
}

fn room(wiring: &Wiring, part: GpuSet, each: usize, joined: Joined) -> usize {
    if suits(wiring, part, joined) {
        part.len() / each.max(1)
    } else {
        search(wiring, part, each, joined, usize::MAX).len()
    }
}

fn neighbours(wiring: &Wiring, gpu: usize, among: GpuSet, joined: Joined) -> GpuSet {
    let pair = |other: usize| GpuSet::from_bits(1 << gpu | 1 << other);
    among.iter().filter(|&other| other != gpu && suits(wiring, pair(other), joined)).collect()
}

fn parts(wiring: &Wiring, free: GpuSet, joined: Joined) -> Vec<GpuSet> {
    let mut rest = free;
    let mut parts = Vec::new();
    while let Some(first) = rest.lowest() {
        let mut part = GpuSet::from_bits(1 << first);
        let mut edge = vec![first];
        while let Some(gpu) = edge.pop() {
            let new = neighbours(wiring, gpu, rest.difference(part), joined);
            edge.extend(new.iter());
            part = part.union(new);
        }
        rest = rest.difference(part);
        parts.push(part);
    }
    parts
}

/// As many disjoint sets as there are, at most `limit`; of equally many those with the most in wires.
fn search(wiring: &Wiring, part: GpuSet, each: usize, joined: Joined, limit: usize) -> Vec<GpuSet> {
    let mut search = Search { wiring, each, near: [GpuSet::EMPTY; GpuSet::CAPACITY], known: HashMap::new() };
    part.iter().for_each(|gpu| search.near[gpu] = neighbours(wiring, gpu, part, joined));
    let limit = limit.min(part.len() / each.max(1));
    let (mut rest, mut left) = (part, limit);
    let mut sets = Vec::new();
    while let Some(lowest) = rest.lowest() {
        let set = if part.len() <= EXACT_UP_TO { search.best(rest, left).2 } else { search.first(rest, lowest) };
        match set {
            Some(set) if left > 0 => {
                rest = rest.difference(set);
                left -= 1;
                sets.push(set);
            }
            _ => rest.remove(lowest),
        }
    }
    sets
}

struct Search<'w> {
    wiring: &'w Wiring,
    each: usize,
    near: [GpuSet; GpuSet::CAPACITY],
    known: HashMap<(GpuSet, usize), Best>,
}

/// Sets, their wires, and the one of them with the lowest GPU of what was asked about, if that GPU is in one.
type Best = (usize, u32, Option<GpuSet>);

impl Search<'_> {
    fn best(&mut self, rest: GpuSet, limit: usize) -> Best {
        let Some(lowest) = rest.lowest().filter(|_| limit > 0 && rest.len() >= self.each) else { return (0, 0, None) };
        if let Some(&known) = self.known.get(&(rest, limit)) {
            return known;
        }
        let mut others = rest;
        others.remove(lowest);
        let without = self.best(others, limit);
        let mut best = (without.0, without.1, None);
        let mut blocks = Vec::new();
        self.blocks(GpuSet::from_bits(1 << lowest), self.near[lowest].intersection(others), &mut blocks);
        for block in blocks {
            let (sets, wires, _) = self.best(rest.difference(block), limit - 1);
            let with = (sets + 1, wires + self.wiring.within(block));
            if with > (best.0, best.1) {
                best = (with.0, with.1, Some(block));
            }
        }
        self.known.insert((rest, limit), best);
        best
    }

    fn first(&self, rest: GpuSet, lowest: usize) -> Option<GpuSet> {
        let mut block = GpuSet::from_bits(1 << lowest);
        let mut pool = self.near[lowest].intersection(rest);
        while let (true, Some(next)) = (block.len() < self.each, pool.lowest()) {
            block.insert(next);
            pool = pool.intersection(self.near[next]);
        }
        (block.len() == self.each).then_some(block)
    }

    /// All sets that begin with `block` and go on within `pool`, whose members suit all of it.
    fn blocks(&self, block: GpuSet, mut pool: GpuSet, found: &mut Vec<GpuSet>) {
        if block.len() == self.each {
            return found.push(block);
        }
        while let Some(next) = pool.lowest() {
            pool.remove(next);
            let mut more = block;
            more.insert(next);
            self.blocks(more, pool.intersection(self.near[next]), found);
        }
    }
}
