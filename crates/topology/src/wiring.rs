//! The wires between all GPUs of a machine, and what follows from them once and for all.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

use crate::{GpuSet, Path, Wire};

/// Up to this many GPUs every subset is tabled, so that choices are exact: 2¹⁶ subsets, 512 KiB per distinct wiring.
pub const EXACT_UP_TO: usize = 16;

/// A symmetric table of wires. Equal machines share one, with its tables, through [`Arc`](std::sync::Arc).
pub struct Wiring {
    n: usize,
    /// Row-major `n×n`; the diagonal means nothing.
    wires: Box<[Wire]>,
    scores: Box<[u32]>,
    tables: OnceLock<Option<Tables>>,
    packings: [OnceLock<Box<[u32]>>; EXACT_UP_TO + 1],
}

impl Wiring {
    /// `wires` is the row-major `n×n` table; of two unequal directions the worse counts, missing entries are unknown.
    pub fn new(n: usize, mut wires: Vec<Wire>) -> Self {
        let n = n.min(GpuSet::CAPACITY);
        wires.resize(n * n, Wire::UNKNOWN);
        for a in 0..n {
            wires[a * n + a] = Wire::UNKNOWN;
            for b in a + 1..n {
                let (forth, back) = (wires[a * n + b], wires[b * n + a]);
                let worse = if forth.score() <= back.score() { forth } else { back };
                wires[a * n + b] = worse;
                wires[b * n + a] = worse;
            }
        }
        let scores = wires.iter().map(|wire| wire.score()).collect();
        Self { n, wires: wires.into(), scores, tables: OnceLock::new(), packings: Default::default() }
    }

    /// How many GPUs are wired.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there is no GPU.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// What joins the GPUs at two positions; [`Wire::UNKNOWN`] for a GPU with itself or a position that is not there.
    pub fn wire(&self, a: usize, b: usize) -> Wire {
        if a < self.n && b < self.n { self.wires[a * self.n + b] } else { Wire::UNKNOWN }
    }

    /// The score of one pair.
    pub(crate) fn pair(&self, a: usize, b: usize) -> u32 {
        self.scores[a * self.n + b]
    }

    /// The sum of the scores of the wires from `gpu` to the members of `set`.
    pub(crate) fn towards(&self, gpu: usize, set: GpuSet) -> u32 {
        set.iter().map(|other| self.pair(gpu, other)).sum()
    }

    /// The sum of the scores of all wires within `set`.
    pub fn within(&self, set: GpuSet) -> u32 {
        let set = set.intersection(GpuSet::first(self.n));
        set.iter().map(|gpu| self.towards(gpu, GpuSet::first(gpu).intersection(set))).sum()
    }

    /// The worst wire within `set`: the one that a ring over all of it has to use in the end. None below two GPUs.
    pub fn weakest(&self, set: GpuSet) -> Option<Wire> {
        let pairs = set.iter().flat_map(|a| set.iter().filter(move |&b| b > a).map(move |b| (a, b)));
        pairs.map(|(a, b)| self.wire(a, b)).min_by_key(|wire| wire.score())
    }

    /// A coarse grade of `set` for comparing nodes: 2 when every two GPUs have NVLink, 1 when no wire leaves the socket
    /// (or is unknown), 0 otherwise. Fewer than two GPUs have nothing to wish for: 2.
    pub fn grade(&self, set: GpuSet) -> u8 {
        match self.weakest(set) {
            None => 2,
            Some(wire) if wire.nvlinks > 0 => 2,
            Some(wire) if wire.path >= Path::SameNuma => 1,
            Some(_) => 0,
        }
    }

    /// The tables of all subsets, made on first use; none beyond [`EXACT_UP_TO`] GPUs.
    pub(crate) fn tables(&self) -> Option<&Tables> {
        self.tables.get_or_init(|| (self.n <= EXACT_UP_TO).then(|| Tables::new(self))).as_ref()
    }

    /// By subset: the most that disjoint sets of `size` can have in wires together; none beyond [`EXACT_UP_TO`] GPUs.
    pub(crate) fn packing(&self, size: usize) -> Option<&[u32]> {
        let tables = self.tables()?;
        Some(self.packings.get(size)?.get_or_init(|| Packer::new(self.n).packings(&tables.within, size).into()))
    }

    /// Whether swapping two GPUs changes no wire, so that neither can be told from the other.
    fn are_twins(&self, a: usize, b: usize) -> bool {
        (0..self.n).all(|other| other == a || other == b || self.pair(a, other) == self.pair(b, other))
    }
}

impl PartialEq for Wiring {
    fn eq(&self, other: &Self) -> bool {
        self.n == other.n && self.wires == other.wires
    }
}

impl Eq for Wiring {}

impl Hash for Wiring {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.n.hash(state);
        self.wires.hash(state);
    }
}

impl fmt::Debug for Wiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wiring").field("n", &self.n).finish_non_exhaustive()
    }
}

/// For every subset of a machine's GPUs, its wires and its worth.
pub(crate) struct Tables {
    /// By subset: the sum of the scores of its wires.
    pub(crate) within: Box<[u32]>,
    /// By subset: Σ over k = 2 … its size of the best packing into sets of k (see [`Packer::packings`]).
    pub(crate) worth: Box<[u32]>,
    /// By GPU: itself and the GPUs that cannot be told from it, as bits. A GPU is in one such class only.
    pub(crate) twins: [u32; EXACT_UP_TO],
}

impl Tables {
    fn new(wiring: &Wiring) -> Self {
        let subsets = 1usize << wiring.n;
        let mut within = vec![0u32; subsets];
        for set in 1..subsets {
            let rest = set & (set - 1);
            let (a, b) = (set.trailing_zeros() as usize, rest.trailing_zeros() as usize);
            if rest != 0 {
                // Without the one, without the other, less what both counts hold, and the wire between the two.
                let others = rest & (rest - 1);
                within[set] = within[rest] + within[set ^ (1 << b)] - within[others] + wiring.pair(a, b);
            }
        }
        let mut worth = vec![0u32; subsets];
        let mut packer = Packer::new(wiring.n);
        for size in 2..=wiring.n {
            for (worth, packing) in worth.iter_mut().zip(packer.packings(&within, size)) {
                *worth += packing;
            }
        }
        let twins_of = |a: usize| (0..wiring.n).filter(|&b| wiring.are_twins(a, b)).fold(0, |set, b| set | 1 << b);
        let twins = std::array::from_fn(|gpu| if gpu < wiring.n { twins_of(gpu) } else { 0 });
        Self { within: within.into(), worth: worth.into(), twins }
    }
}

/// Works out the best packings of all subsets; keeps what it needs for that from one size to the next.
pub(crate) struct Packer {
    n: usize,
    best: Vec<u32>,
    /// By size of the subset and of the blocks less one each: the swaps that walk through all choices (see [`swaps`]).
    walks: HashMap<(usize, usize), Vec<(u8, u8)>>,
}

impl Packer {
    pub(crate) fn new(n: usize) -> Self {
        Self { n, best: vec![0; 1 << n], walks: HashMap::new() }
    }

    /// By subset: the highest sum of wires of ⌊|set|/size⌋ disjoint sets of `size` GPUs out of it.
    ///
    /// If `size` divides |set|, the lowest GPU is in one of the sets: try each such block, the rest having been done. So
    /// the work over all subsets and sizes is Σₚ C(n,p)·Σ_{k|p} C(p−1,k−1): 3.6 million steps for n = 16, because few sizes
    /// divide a given p. Of any other subset it is the most of the subsets whose number of GPUs `size` divides; as no wire
    /// counts less than nothing, more blocks are never worse, so the largest of them need not be told apart from the
    /// smaller ones, and one pass per GPU over the whole table hands the highest values up.
    pub(crate) fn packings(&mut self, within: &[u32], size: usize) -> &[u32] {
        let Self { n, best, walks } = self;
        best.fill(0);
        for count in (size..=*n).step_by(size) {
            let walk = walks.entry((count - 1, size - 1)).or_insert_with(|| swaps(count - 1, size - 1));
            for set in of_size(*n, count) {
                best[set] = if count == size { within[set] } else { best_cut(within, best, set, size, walk) };
            }
        }
        for gpu in 0..*n {
            let bit = 1 << gpu;
            for half in best.chunks_exact_mut(2 * bit) {
                let (without, with) = half.split_at_mut(bit);
                for (with, &without) in with.iter_mut().zip(&*without) {
                    *with = (*with).max(without);
                }
            }
        }
        best
    }
}

/// The most that a block of `size` GPUs with the lowest of `set` in it has together with the best packing of the others.
fn best_cut(within: &[u32], best: &[u32], set: usize, size: usize, walk: &[(u8, u8)]) -> u32 {
    let mut bits = [0usize; EXACT_UP_TO];
    let mut rest = set & (set - 1);
    let mut count = 0;
    while rest != 0 {
        bits[count] = rest & rest.wrapping_neg();
        rest &= rest - 1;
        count += 1;
    }
    let mut block = bits[..size - 1].iter().fold(set & set.wrapping_neg(), |block, bit| block | bit);
    let mut highest = within[block] + best[set ^ block];
    for &(out, into) in walk {
        // Positions are below 16 anyhow; saying it spares two checks of bounds per step.
        block ^= bits[out as usize & 15] ^ bits[into as usize & 15];
        highest = highest.max(within[block] + best[set ^ block]);
    }
    highest
}

/// The swaps that lead from the first `k` of `n` positions through every other choice of `k`, each once (the order of the
/// revolving door: Nijenhuis and Wilf, *Combinatorial Algorithms*, chapter 3).
fn swaps(n: usize, k: usize) -> Vec<(u8, u8)> {
    let all = revolving_door(n, k);
    let swap = |pair: &[u32]| {
        let (out, into) = (pair[0] & !pair[1], pair[1] & !pair[0]);
        (out.trailing_zeros() as u8, into.trailing_zeros() as u8)
    };
    all.windows(2).map(swap).collect()
}

/// The choices of `k` out of `n`: those without the last position in this order, then those with it in the reverse order.
fn revolving_door(n: usize, k: usize) -> Vec<u32> {
    if k == 0 || k == n {
        return vec![(1 << k) - 1];
    }
    let mut all = revolving_door(n - 1, k);
    all.extend(revolving_door(n - 1, k - 1).into_iter().rev().map(|choice| choice | 1 << (n - 1)));
    all
}

/// The subsets of `n` GPUs with `count` members, ascending (Gosper's hack).
fn of_size(n: usize, count: usize) -> impl Iterator<Item = usize> {
    let first = (1usize << count) - 1;
    let next = |&set: &usize| {
        let lowest = set & set.wrapping_neg();
        let moved = set + lowest;
        Some(moved | ((set ^ moved) / lowest) >> 2)
    };
    std::iter::successors(Some(first), next).take_while(move |&set| set < 1 << n)
}

/// Calls `visit` with `chosen` joined with each subset of `pool` of `count` members, in the order of their members. Where
/// `twins` is given, a member stands for those of its class: one is left out only together with its later twins.
#[inline]
pub(crate) fn each_subset(
    pool: usize,
    count: usize,
    chosen: usize,
    twins: Option<&[u32; EXACT_UP_TO]>,
    visit: &mut impl FnMut(usize),
) {
    if count == 0 {
        return visit(chosen);
    }
    let mut rest = pool;
    while rest.count_ones() as usize >= count {
        let member = rest & rest.wrapping_neg();
        let others = rest ^ member;
        if count == 1 {
            visit(chosen | member);
        } else {
            each_subset(others, count - 1, chosen | member, twins, visit);
        }
        rest = others & !twins.map_or(0, |twins| twins[member.trailing_zeros() as usize & 15] as usize);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is the test's own message")]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn the_swaps_visit_every_choice_once() {
        for (n, k) in [(1, 0), (1, 1), (5, 2), (9, 4), (15, 7)] {
            let mut choice = (1u32 << k) - 1;
            let mut seen = std::collections::BTreeSet::from([choice]);
            for (out, into) in swaps(n, k) {
                assert!(choice >> out & 1 == 1 && choice >> into & 1 == 0, "one goes and another comes");
                choice ^= 1 << out | 1 << into;
                assert!(seen.insert(choice) && choice < 1 << n, "a choice of {n} that was not there yet");
            }
            assert_eq!(seen.len() as u64, crate::choose::binomial(n, k));
        }
    }

    #[test]
    fn twins_are_left_out_together() {
        let mut found = Vec::new();
        // Two classes: positions 0, 2 and 1, 3, 4.
        let mut twins = [0; EXACT_UP_TO];
        (0..5).for_each(|gpu| twins[gpu] = if gpu == 0 || gpu == 2 { 0b00101 } else { 0b11010 });
        each_subset(0b11111, 2, 0, Some(&twins), &mut |set| found.push(set));
        assert_eq!(found, [0b00011, 0b00101, 0b01010], "one of each class, two of the first, two of the second");
    }

    /// Any wires at all, from a seed.
    pub(crate) fn wiring(n: usize, seed: u64) -> Wiring {
        let mut state = seed | 1;
        let mut wire = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Wire::nvlink((state >> 60) as u8 / 4, Path::ALL[(state >> 33) as usize % 7])
        };
        let mut wires = vec![Wire::UNKNOWN; n * n];
        for a in 0..n {
            for b in 0..a {
                wires[a * n + b] = wire();
                wires[b * n + a] = wires[a * n + b];
            }
        }
        Wiring::new(n, wires)
    }

    /// The recurrence by which packings are defined, step by step.
    fn plain(within: &[u32], size: usize) -> Vec<u32> {
        let mut best = vec![0; within.len()];
        for set in 1..within.len() {
            let count = set.count_ones() as usize;
            let gpus = (0..EXACT_UP_TO).map(|gpu| 1 << gpu).filter(|gpu| set & gpu != 0);
            best[set] = if count < size {
                0
            } else if count.is_multiple_of(size) {
                let lowest = set & set.wrapping_neg();
                let blocks = (0..within.len()).filter(|block| block & !set == 0 && block & lowest != 0);
                let blocks = blocks.filter(|block| block.count_ones() as usize == size);
                blocks.map(|block| within[block] + best[set ^ block]).max().unwrap_or(0)
            } else {
                gpus.map(|gpu| best[set ^ gpu]).max().unwrap_or(0)
            };
        }
        best
    }

    #[test]
    fn the_tables_hold_what_their_definition_says() {
        for (n, seed) in [(1, 1), (5, 2), (9, 3), (10, 4), (10, 5)] {
            let wiring = wiring(n, seed);
            let tables = wiring.tables().unwrap();
            let mut worth = vec![0; 1 << n];
            for set in 0..1 << n {
                assert_eq!(tables.within[set], wiring.within(GpuSet::from_bits(set as u64)));
            }
            for size in 2..=n {
                let plain = plain(&tables.within, size);
                assert_eq!(wiring.packing(size).unwrap(), plain, "packings of {n} GPUs into sets of {size}");
                worth.iter_mut().zip(&plain).for_each(|(worth, packing)| *worth += packing);
            }
            assert_eq!(&*tables.worth, &worth);
        }
    }
}
