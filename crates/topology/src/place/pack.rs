//! Which GPUs of one node several workers of one group get.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::choose::{weigh, worth};
use crate::wiring::each_subset;
use crate::{GpuSet, Node, Wiring, choose};

/// GPU sets for workers that share a node, and their part in the objective.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Packed {
    /// One set per worker.
    pub(super) sets: Vec<GpuSet>,
    /// Σ (2 − grade of the set).
    pub(super) weak: i64,
    /// Σ of the wires within the sets.
    pub(super) wires: i64,
    /// What the rest of the node loses in worth to later requests.
    pub(super) worth_lost: i64,
    /// Whether no other sets score higher.
    pub(super) exact: bool,
}

/// Packings already made, since equal nodes ask for the same again and again.
#[derive(Default)]
pub(super) struct Packer {
    known: HashMap<(*const Wiring, GpuSet, u32, u32), Rc<Packed>>,
}

impl Packer {
    /// Sets of `each` GPUs for `workers` workers out of `free`; the caller knows that there are enough.
    pub(super) fn pack(&mut self, node: &Node, free: GpuSet, each: u32, workers: u32) -> Rc<Packed> {
        let key = (Arc::as_ptr(node.wiring()), free, each, workers);
        self.known.entry(key).or_insert_with(|| Rc::new(pack(node, free, each as usize, workers as usize))).clone()
    }
}

fn pack(node: &Node, free: GpuSet, each: usize, workers: usize) -> Packed {
    let wiring = node.wiring();
    if each == 0 || workers == 0 {
        return Packed { sets: vec![GpuSet::EMPTY; workers], exact: true, ..Packed::default() };
    }
    let (sets, exact) = if each > 1 && workers > 1 {
        together(node, free, each, workers)
    } else {
        one_by_one(node, free, each, workers)
    };
    let given = sets.iter().copied().fold(GpuSet::EMPTY, GpuSet::union);
    Packed {
        weak: sets.iter().map(|&set| i64::from(2 - wiring.grade(set))).sum(),
        wires: sets.iter().map(|&set| i64::from(wiring.within(set))).sum(),
        worth_lost: i64::from(worth(wiring, free)) - i64::from(worth(wiring, free.difference(given))),
        exact,
        sets,
    }
}

/// The sets that have the most in wires together with what they leave: all unions tried, each cut up at its best.
fn together(node: &Node, free: GpuSet, each: usize, workers: usize) -> (Vec<GpuSet>, bool) {
    let wiring = node.wiring();
    let (Some(tables), Some(packing)) = (wiring.tables(), wiring.packing(each)) else {
        return one_by_one(node, free, each, workers);
    };
    let left = free.len() - each * workers;
    let sizes = left.saturating_sub(1).max(1) as u64;
    let all = free.bits() as usize;
    let mut best = (0, 0);
    each_subset(all, each * workers, 0, &mut |union| {
        let score = weigh(packing[union], sizes, tables.worth[all ^ union]) + 1;
        if score > best.0 {
            best = (score, union);
        }
    });
    let mut sets = Vec::with_capacity(workers);
    let mut rest = best.1;
    while rest != 0 {
        let lowest = rest & rest.wrapping_neg();
        let mut block = None;
        each_subset(rest ^ lowest, each - 1, lowest, &mut |set| {
            if block.is_none() && tables.within[set] + packing[rest ^ set] == packing[rest] {
                block = Some(set);
            }
        });
        let Some(block) = block else { return one_by_one(node, free, each, workers) };
        sets.push(GpuSet::from_bits(block as u64));
        rest ^= block;
    }
    (sets, true)
}

/// One set after the other; for single GPUs one choice of them all, cut up in order.
fn one_by_one(node: &Node, mut free: GpuSet, each: usize, workers: usize) -> (Vec<GpuSet>, bool) {
    let none = GpuSet::EMPTY;
    if each == 1 {
        return match choose(node, free, none, none, workers) {
            Ok(choice) => (choice.gpus.iter().map(|gpu| GpuSet::from_iter([gpu])).collect(), choice.exact),
            Err(_) => (Vec::new(), false),
        };
    }
    let mut sets = Vec::with_capacity(workers);
    let mut exact = workers == 1;
    while sets.len() < workers {
        let Ok(choice) = choose(node, free, none, none, each) else { return (Vec::new(), false) };
        free = free.difference(choice.gpus);
        exact &= choice.exact;
        sets.push(choice.gpus);
    }
    (sets, exact)
}
