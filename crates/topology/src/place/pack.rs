//! Which GPUs of one node several workers of one group get.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::joined;
use crate::choose::worth;
use crate::gang::{Group, Joined};
use crate::tree::BuildMixing;
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

/// Wiring, free GPUs, GPUs of each worker, workers, and what has to join them.
type Key = (*const Wiring, GpuSet, u32, u32, Option<Joined>);

/// Packings already made, since equal nodes ask for the same again and again.
#[derive(Default)]
pub(super) struct Packer {
    known: HashMap<Key, Rc<Packed>, BuildMixing>,
    /// The one asked for last, which most often is asked for next.
    last: Option<(Key, Rc<Packed>)>,
}

impl Packer {
    /// Sets of GPUs for `workers` workers of a group out of `free`; none if there are not enough, and fewer than workers if
    /// wires do not join them as the group needs.
    pub(super) fn pack(&mut self, node: &Node, free: GpuSet, group: &Group, workers: u32) -> Rc<Packed> {
        let joined = group.joined_by.filter(|_| group.gpus > 1);
        let key = (Arc::as_ptr(node.wiring()), free, group.gpus, workers, joined);
        if let Some((_, last)) = self.last.as_ref().filter(|(last, _)| *last == key) {
            return last.clone();
        }
        let make = || Rc::new(pack(node, free, group.gpus as usize, workers as usize, joined));
        let packed = self.known.entry(key).or_insert_with(make);
        self.last = Some((key, packed.clone()));
        packed.clone()
    }
}

fn pack(node: &Node, free: GpuSet, each: usize, workers: usize, joined: Option<Joined>) -> Packed {
    let wiring = node.wiring();
    if each == 0 || workers == 0 {
        return Packed { sets: vec![GpuSet::EMPTY; workers], exact: true, ..Packed::default() };
    }
    if free.len() < each * workers {
        // Only a search that takes all nodes for good enough asks this. What it finds here does not count in the end, so it
        // need only be no better than what there is elsewhere.
        return Packed { weak: 2 * workers as i64, exact: true, ..Packed::default() };
    }
    let (mut sets, mut exact) = cut(node, free, each, workers);
    if let Some(joined) = joined.filter(|joined| sets.iter().any(|&set| wiring.grade(set) < joined.grade())) {
        (sets, exact) = (joined::sets(node, free, each, workers, joined), true);
    }
    let given = sets.iter().copied().fold(GpuSet::EMPTY, GpuSet::union);
    Packed {
        weak: sets.iter().map(|&set| i64::from(2 - wiring.grade(set))).sum(),
        wires: sets.iter().map(|&set| i64::from(wiring.within(set))).sum(),
        worth_lost: i64::from(worth(wiring, free)) - i64::from(worth(wiring, free.difference(given))),
        exact,
        sets,
    }
}

/// The GPUs that one request for all workers would get, for the workers talk to each other too, cut into the sets that
/// have the most in wires.
fn cut(node: &Node, free: GpuSet, each: usize, workers: usize) -> (Vec<GpuSet>, bool) {
    let none = GpuSet::EMPTY;
    let Ok(choice) = choose(node, free, none, none, each * workers) else { return (Vec::new(), false) };
    if workers == 1 {
        return (vec![choice.gpus], choice.exact);
    }
    let wiring = node.wiring();
    let mut sets = Vec::with_capacity(workers);
    let mut rest = choice.gpus;
    match (wiring.tables(), wiring.packing(each)) {
        (Some(tables), Some(packing)) => {
            while let Some(lowest) = rest.lowest() {
                let all = rest.bits() as usize;
                let mut block = None;
                each_subset(all & !(1 << lowest), each - 1, 1 << lowest, None, &mut |set| {
                    if block.is_none() && tables.within[set] + packing[all ^ set] == packing[all] {
                        block = Some(set);
                    }
                });
                // There is one: the table's value was reached with some block for the lowest GPU.
                let Some(block) = block else { break };
                let block = GpuSet::from_bits(block as u64);
                rest = rest.difference(block);
                sets.push(block);
            }
            (sets, choice.exact)
        }
        _ => {
            while let Ok(next) = choose(node, rest, none, none, each) {
                rest = rest.difference(next.gpus);
                sets.push(next.gpus);
                if rest.is_empty() {
                    break;
                }
            }
            (sets, false)
        }
    }
}
