//! The objective of a split as a vector: where each term is, and what nodes and domains add to it.

use std::rc::Rc;

use super::Spread;
use crate::place::pack::{Packed, Packer};
use crate::place::room::{Ask, State};

/// Where the terms of the objective are in its vector, for a cluster of some number of levels. Domains used come from the
/// outermost level inwards, what is left over and opened from the node outwards.
#[derive(Clone, Copy)]
pub(in crate::place) struct Terms {
    /// Levels, the node level included.
    pub(in crate::place) levels: usize,
}

impl Terms {
    pub(in crate::place) fn width(self) -> usize {
        3 * self.levels + 4
    }
    pub(in crate::place) fn used(self, depth: usize) -> usize {
        depth
    }
    pub(in crate::place) fn weak(self) -> usize {
        self.levels
    }
    pub(in crate::place) fn nvlink(self) -> usize {
        self.levels + 1
    }
    pub(in crate::place) fn left(self, depth: usize) -> usize {
        self.levels + 2 + 2 * (self.levels - 1 - depth)
    }
    pub(in crate::place) fn opened(self, depth: usize) -> usize {
        self.left(depth) + 1
    }
    pub(in crate::place) fn wires(self) -> usize {
        3 * self.levels + 2
    }
    pub(in crate::place) fn worth(self) -> usize {
        3 * self.levels + 3
    }
}

/// Workers per seat.
pub(in crate::place) type Split = Vec<(u32, u32)>;

impl<'s, 'a> Spread<'s, 'a> {
    /// What a domain itself adds to the objective.
    pub(in crate::place) fn own(&self, id: u32, depth: usize, workers: u32, add: impl FnMut(usize, i64)) {
        add_domain(self.state, self.ask, self.terms, id, depth, workers, add);
    }

    /// What a node adds to the objective, before its GPUs are chosen.
    pub(in crate::place) fn outline(&self, id: u32, workers: u32, add: impl FnMut(usize, i64)) {
        outline(self.state, self.ask, self.terms, id, workers, add);
    }
}

/// The objective of a split, computed from nothing but the split.
pub(in crate::place) fn cost(
    state: &State<'_>,
    ask: &Ask<'_>,
    packer: &mut Packer,
    terms: Terms,
    split: &Split,
    exact: &mut bool,
) -> Vec<i64> {
    let tree = state.tree;
    let mut sum = vec![0; terms.width()];
    // Domains by number: the innermost first, then what is above them, the same step for all since depths are equal.
    let mut domains: Vec<(u32, u32)> = Vec::with_capacity(split.len());
    for &(seat, workers) in split {
        outline(state, ask, terms, seat, workers, |term, value| sum[term] += value);
        let packed = packed(state, ask, packer, seat, workers);
        sum[terms.weak()] += packed.weak;
        sum[terms.wires()] -= packed.wires;
        sum[terms.worth()] += packed.worth_lost;
        *exact &= packed.exact;
        domains.push((tree.parent_of_seat(seat), workers));
    }
    loop {
        domains.sort_unstable_by_key(|&(domain, _)| domain);
        domains.dedup_by(|next, first| {
            let same = next.0 == first.0;
            if same {
                first.1 += next.1;
            }
            same
        });
        let Some(depth) = domains.first().and_then(|&(domain, _)| tree.domain(domain).depth) else { break };
        for (domain, workers) in &mut domains {
            add_domain(state, ask, terms, *domain, depth, *workers, |term, value| sum[term] += value);
            *domain = tree.domain(*domain).parent;
        }
    }
    sum
}

/// What a node adds to the objective, before its GPUs are chosen.
fn outline(state: &State<'_>, ask: &Ask<'_>, terms: Terms, id: u32, workers: u32, mut add: impl FnMut(usize, i64)) {
    let depth = terms.levels - 1;
    let left = i64::from(state.free_on(id)) - i64::from(ask.group.gpus) * i64::from(workers);
    add(terms.used(depth), i64::from(!state.seat_is_used(id)));
    add(terms.opened(depth), i64::from(state.seat_is_idle(id) && left > 0 && ask.group.gpus > 0));
    add(terms.left(depth), left);
}

/// What a domain itself adds to the objective.
fn add_domain(
    state: &State<'_>,
    ask: &Ask<'_>,
    terms: Terms,
    id: u32,
    depth: usize,
    workers: u32,
    mut add: impl FnMut(usize, i64),
) {
    let left = i64::from(state.free_below(id)) - i64::from(ask.group.gpus) * i64::from(workers);
    let opened = i64::from(state.domain_is_idle(id) && left > 0 && ask.group.gpus > 0);
    add(terms.used(depth), i64::from(!state.domain_is_used(id)));
    add(terms.nvlink(), if state.tree.domain(id).is_nvlink() { opened } else { 0 });
    add(terms.left(depth), left);
    add(terms.opened(depth), opened);
}

/// The GPUs of `workers` workers on a seat.
pub(in crate::place) fn packed(
    state: &State<'_>,
    ask: &Ask<'_>,
    packer: &mut Packer,
    id: u32,
    workers: u32,
) -> Rc<Packed> {
    match state.seat(id) {
        Some(seat) => packer.pack(&seat.member.node, state.free(id, ask.group), ask.group, workers),
        None => Rc::default(),
    }
}
