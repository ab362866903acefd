//! The wires between all GPUs of a machine, and what follows from them once and for all.

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
        let make = || {
            let mut best = vec![0; tables.within.len()];
            packings(&tables.within, size, &mut best);
            best.into()
        };
        Some(self.packings.get(size)?.get_or_init(make))
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
    /// By subset: Σ over k = 2 … its size of the best packing into sets of k (see [`packings`]).
    pub(crate) worth: Box<[u32]>,
}

impl Tables {
    fn new(wiring: &Wiring) -> Self {
        let subsets = 1usize << wiring.n;
        let mut within = vec![0u32; subsets];
        for set in 1..subsets {
            let rest = set & (set - 1);
            let lowest = set.trailing_zeros() as usize;
            within[set] = within[rest] + wiring.towards(lowest, GpuSet::from_bits(rest as u64));
        }
        let mut worth = vec![0u32; subsets];
        let mut packing = vec![0u32; subsets];
        for size in 2..=wiring.n {
            packings(&within, size, &mut packing);
            for (worth, packing) in worth.iter_mut().zip(&packing) {
                *worth += packing;
            }
        }
        Self { within: within.into(), worth: worth.into() }
    }
}

/// Fills `best[set]` with the highest sum of wires of ⌊|set|/size⌋ disjoint sets of `size` GPUs out of `set`.
///
/// If `size` divides |set|, the lowest GPU is in one of the sets: try each. If not, some GPU is left out: try each, and
/// the answer for the rest is already there. So the work over all subsets and sizes is Σₚ C(n,p)·Σ_{k|p} C(p−1,k−1):
/// 3.6 million steps for n = 16, because few sizes divide a given p.
pub(crate) fn packings(within: &[u32], size: usize, best: &mut [u32]) {
    best[0] = 0;
    for set in 1..within.len() {
        let count = set.count_ones() as usize;
        best[set] = if count < size {
            0
        } else if count == size {
            within[set]
        } else if count.is_multiple_of(size) {
            let lowest = set & set.wrapping_neg();
            let mut highest = 0;
            each_subset(set ^ lowest, size - 1, lowest, &mut |block| {
                highest = highest.max(within[block] + best[set ^ block]);
            });
            highest
        } else {
            let mut highest = 0;
            let mut rest = set;
            while rest != 0 {
                let gpu = rest & rest.wrapping_neg();
                rest ^= gpu;
                highest = highest.max(best[set ^ gpu]);
            }
            highest
        };
    }
}

/// Calls `visit` with `chosen` joined with each subset of `pool` of `count` members, in the order of their members.
#[inline]
pub(crate) fn each_subset(pool: usize, count: usize, chosen: usize, visit: &mut impl FnMut(usize)) {
    if count == 0 {
        return visit(chosen);
    }
    let mut rest = pool;
    while rest.count_ones() as usize >= count {
        let member = rest & rest.wrapping_neg();
        rest ^= member;
        if count == 1 {
            visit(chosen | member);
        } else {
            each_subset(rest, count - 1, chosen | member, visit);
        }
    }
}
