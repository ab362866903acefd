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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is the test's own message")]
mod tests {
    use super::*;
    use crate::wiring::each_subset;
    use crate::wiring::tests::wiring;
    use crate::{Gpu, Health, Link, NodeFacts, Wire};

    /// The most disjoint sets, and the most in wires that so many can have, by trying all.
    fn plain(wiring: &Wiring, free: GpuSet, each: usize, joined: Joined, limit: usize) -> (usize, u32) {
        let Some(lowest) = free.lowest().filter(|_| limit > 0) else { return (0, 0) };
        let others = free.difference(GpuSet::from_bits(1 << lowest));
        let mut best = plain(wiring, others, each, joined, limit);
        each_subset(others.bits() as usize, each - 1, 1 << lowest, None, &mut |set| {
            let set = GpuSet::from_bits(set as u64);
            if set.is_subset(free) && suits(wiring, set, joined) {
                let (sets, wires) = plain(wiring, free.difference(set), each, joined, limit - 1);
                best = best.max((sets + 1, wires + wiring.within(set)));
            }
        });
        best
    }

    fn node(n: usize, wire: impl Fn(usize, usize) -> Wire) -> Node {
        let gpu = |index: usize| Gpu {
            uuid: format!("GPU-{index}").into(),
            index: index as u32,
            product: "GPU".into(),
            memory_bytes: 1,
            pci_bus_id: "".into(),
            numa: None,
            health: Health::Healthy,
            mig_profile: None,
        };
        let pairs = (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b)));
        let links = pairs.map(|(a, b)| Link { from: a as u32, to: b as u32, wire: wire(a, b) }).collect();
        Node::new(NodeFacts { name: "n".into(), gpus: (0..n).map(gpu).collect(), links, ..NodeFacts::default() })
            .unwrap()
    }

    #[test]
    fn as_many_sets_are_found_as_there_are() {
        for seed in 1..12 {
            let (n, wiring) = (7, wiring(7, seed));
            let node = node(n, |a, b| wiring.wire(a, b));
            for free in (0..1 << n).map(GpuSet::from_bits) {
                for (each, joined) in
                    [2, 3, 4].into_iter().flat_map(|k| [Joined::Socket, Joined::Nvlink].map(|j| (k, j)))
                {
                    let (sets_there, _) = plain(&wiring, free, each, joined, n);
                    assert_eq!(most(&wiring, free, each, joined) as usize, sets_there, "{each} of {free} {joined}");
                    let parts = parts(&wiring, free, joined);
                    for workers in 0..=sets_there + 1 {
                        let found = sets(&node, free, each, workers, joined);
                        assert_eq!(found.len(), workers.min(sets_there));
                        let mut left = free;
                        for &set in &found {
                            assert!(set.is_subset(left) && set.len() == each && suits(&wiring, set, joined));
                            left = left.difference(set);
                        }
                        // Where it is searched which GPUs go together, no other sets have more in wires.
                        if let ([part], true) = (&parts[..], workers > 0)
                            && !suits(&wiring, *part, joined)
                        {
                            let wires: u32 = found.iter().map(|&set| wiring.within(set)).sum();
                            assert_eq!((found.len(), wires), plain(&wiring, free, each, joined, workers));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_largest_set_is_one_that_there_is() {
        for seed in 1..12 {
            let wiring = wiring(7, seed);
            for free in (0..128).map(GpuSet::from_bits) {
                let mut largest_there = 0;
                for size in 1..=free.len() {
                    let there = plain(&wiring, free, size, Joined::Nvlink, 1).0 > 0;
                    largest_there = if there { size as u32 } else { largest_there };
                }
                assert_eq!(largest(&wiring, free, Joined::Nvlink), largest_there);
            }
        }
    }

    #[test]
    fn on_many_gpus_the_first_sets_are_taken() {
        let bits = |found: Vec<GpuSet>| found.iter().map(|set| set.bits()).collect::<Vec<u64>>();
        let wire = |near: bool| if near { Wire::nvlink(1, crate::Path::SameNuma) } else { Wire::UNKNOWN };
        // A chain: each GPU has NVLink to the next.
        let chain = node(19, |a, b| wire(b == a + 1));
        let pairs = sets(&chain, GpuSet::first(19), 2, 10, Joined::Nvlink);
        assert_eq!(bits(pairs), (0..9).map(|pair| 0b11 << (2 * pair)).collect::<Vec<u64>>(), "and an odd GPU");
        assert_eq!(most(chain.wiring(), GpuSet::first(19), 3, Joined::Nvlink), 0, "no three have it to each other");
        // A chain of triangles, each joined to the next by one wire.
        let triangles = node(18, |a, b| wire(a / 3 == b / 3 || (b == a + 1)));
        let threes = sets(&triangles, GpuSet::first(18), 3, 7, Joined::Nvlink);
        assert_eq!(bits(threes), (0..6).map(|three| 0b111 << (3 * three)).collect::<Vec<u64>>());
        let some = sets(&triangles, GpuSet::first(18), 3, 2, Joined::Nvlink);
        assert_eq!(bits(some), [0b111, 0b111_000]);
        // A chain of squares that are joined crosswise, too: of each an odd GPU is left.
        let squares = node(20, |a, b| wire(a / 4 == b / 4 || (b == a + 1)));
        let threes = sets(&squares, GpuSet::first(20), 3, 7, Joined::Nvlink);
        assert_eq!(bits(threes), (0..5).map(|three| 0b111 << (4 * three)).collect::<Vec<u64>>());
        // Two chains, of which the second is asked for what the first has no room for, and for no more.
        let chains = node(8, |a, b| wire(a / 4 == b / 4 && b == a + 1));
        assert_eq!(bits(sets(&chains, GpuSet::first(8), 2, 3, Joined::Nvlink)).len(), 3);
    }
}
