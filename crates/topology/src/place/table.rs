//! The best split of one group's workers over a domain, by dynamic programming over the tree.
//!
//! For a domain *d* let *f(d, t)* be the smallest objective with which exactly *t* workers fit below *d*. On a node it is
//! computed; for a domain it is *own(d, t)* plus the least Σ *f(child, tᵢ)* over all splits Σ *tᵢ = t*. The objective is a
//! vector compared term by term whose terms add up over the tree, and adding the same vector to two others keeps their
//! order, so the best split of the whole is made of best splits of the parts. Slices only take values of *t* away: at
//! their level a domain holds the gaps of the slices begun in it and whole slices.

use std::rc::Rc;

use super::Eligibility;
use super::pack::{Packed, Packer};
use super::ranks::Place;
use super::room::{Ask, State};
use crate::tree::ROOT;

/// Above this many steps of the dynamic programme a domain is split greedily, largest room first.
const MOST_STEPS: u64 = 2_000_000;

/// Where the terms of the objective are in its vector, for a cluster of some number of levels.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// Levels, the node level included.
    pub(super) levels: usize,
}

impl Terms {
    pub(super) fn width(self) -> usize {
        3 * self.levels + 3
    }
    pub(super) fn used(self, depth: usize) -> usize {
        depth
    }
    pub(super) fn weak(self) -> usize {
        self.levels
    }
    pub(super) fn opened(self, depth: usize) -> usize {
        self.levels + 1 + depth
    }
    pub(super) fn left(self, depth: usize) -> usize {
        2 * self.levels + 1 + depth
    }
    pub(super) fn wires(self) -> usize {
        3 * self.levels + 1
    }
    pub(super) fn worth(self) -> usize {
        3 * self.levels + 2
    }
}

/// Workers per seat.
pub(super) type Split = Vec<(u32, u32)>;

/// The placing of one group on the cluster as it is in one state.
pub(super) struct Split1<'s, 'a> {
    state: &'s State<'a>,
    ask: &'s Ask<'a>,
    packer: &'s mut Packer,
    terms: Terms,
    /// Workers that a seat can take, by seat.
    seats: Vec<u32>,
    /// The most workers that a domain can take, slices considered, by domain.
    domains: Vec<u32>,
    /// Workers that a place must take at least, by slice level: gaps in slices begun there.
    gaps: Vec<Vec<(Place, u32)>>,
    pub(super) exact: bool,
}

/// *f(d, ·)* of one place, and how it came about.
struct Table {
    /// `cost[t]` for t = 0 …; none where it cannot be.
    cost: Vec<Option<Rc<[i64]>>>,
    parts: Vec<(Place, Table, Vec<u32>)>,
}

impl<'s, 'a> Split1<'s, 'a> {
    pub(super) fn new(
        state: &'s State<'a>,
        ask: &'s Ask<'a>,
        packer: &'s mut Packer,
        eligible: Eligibility<'_>,
        levels: usize,
    ) -> Self {
        let tree = state.tree;
        let mut seats = vec![0; tree.seat_bound()];
        for id in tree.seats_below(ROOT) {
            seats[id as usize] = state.capacity(id, ask, eligible).unwrap_or(0);
        }
        Self::with_room(state, ask, packer, seats, levels)
    }

    /// With the room of every seat already known.
    pub(super) fn with_room(
        state: &'s State<'a>,
        ask: &'s Ask<'a>,
        packer: &'s mut Packer,
        seats: Vec<u32>,
        levels: usize,
    ) -> Self {
        let gaps = ask.slices.iter().map(|&(depth, size)| {
            let mut gaps: Vec<(Place, u32)> = Vec::new();
            let mut seen = std::collections::BTreeSet::new();
            for (&index, &seat) in &ask.running {
                let slice = index / size;
                if !seen.insert(slice) {
                    continue;
                }
                let missing = ask.missing.iter().filter(|&&index| index / size == slice).count() as u32;
                let place = Place::of(state.tree, seat, depth);
                match gaps.iter_mut().find(|(at, _)| *at == place) {
                    Some((_, gap)) => *gap += missing,
                    None if missing > 0 => gaps.push((place, missing)),
                    None => {}
                }
            }
            gaps
        });
        let gaps = gaps.collect();
        let domains = vec![0; state.tree.domain_bound()];
        let mut split = Self { state, ask, packer, terms: Terms { levels }, seats, domains, gaps, exact: true };
        split.sum_up(ROOT);
        split
    }

    fn sum_up(&mut self, id: u32) -> u32 {
        let tree = self.state.tree;
        let domain = tree.domain(id);
        let mut sum = 0u32;
        for &child in &domain.children {
            sum = sum.saturating_add(self.sum_up(child));
        }
        for &seat in &domain.seats {
            sum = sum.saturating_add(self.round(Place::Seat(seat), self.levels() - 1, self.seats[seat as usize]));
        }
        let room = domain.depth.map_or(sum, |depth| self.round(Place::Domain(id), depth, sum));
        self.domains[id as usize] = room;
        room
    }

    fn levels(&self) -> usize {
        self.terms.levels
    }

    /// The most of `room` that whole slices and begun ones can use at a place.
    fn round(&self, place: Place, depth: usize, room: u32) -> u32 {
        match self.ask.slices.iter().position(|&(at, _)| at == depth) {
            Some(nth) => {
                let gap = self.gap(nth, place);
                let size = self.ask.slices[nth].1;
                if room < gap { room } else { gap + (room - gap) / size * size }
            }
            None => room,
        }
    }

    fn gap(&self, nth: usize, place: Place) -> u32 {
        self.gaps[nth].iter().find(|(at, _)| *at == place).map_or(0, |&(_, gap)| gap)
    }

    /// Whether a place may hold exactly `workers` new ones as far as slices go.
    fn allowed(&self, place: Place, depth: usize, workers: u32) -> bool {
        self.ask.slices.iter().position(|&(at, _)| at == depth).is_none_or(|nth| {
            let gap = self.gap(nth, place);
            workers >= gap && (workers - gap).is_multiple_of(self.ask.slices[nth].1)
        })
    }

    /// The most workers that a place can take.
    pub(super) fn room(&self, place: Place) -> u32 {
        match place {
            Place::Domain(id) => self.domains[id as usize],
            Place::Seat(id) => self.round(place, self.levels() - 1, self.seats[id as usize]),
        }
    }

    /// The depth of a place; the root has none.
    fn depth(&self, place: Place) -> Option<usize> {
        match place {
            Place::Domain(id) => self.state.tree.domain(id).depth,
            Place::Seat(_) => Some(self.levels() - 1),
        }
    }

    fn children(&self, place: Place) -> Vec<Place> {
        let Place::Domain(id) = place else { return Vec::new() };
        let domain = self.state.tree.domain(id);
        let places =
            domain.children.iter().map(|&id| Place::Domain(id)).chain(domain.seats.iter().map(|&id| Place::Seat(id)));
        places.filter(|&place| self.room(place) > 0 || !self.may_be_empty(place)).collect()
    }

    fn may_be_empty(&self, place: Place) -> bool {
        self.gaps.iter().flatten().all(|&(at, _)| at != place)
    }

    /// The best way to put exactly `workers` below `place`, with its objective, that of the domains above included.
    pub(super) fn best(&mut self, place: Place, workers: u32) -> Option<(Vec<i64>, Split)> {
        if workers > self.room(place) {
            return None;
        }
        let mut split = Split::new();
        self.fill(place, workers, &mut split)?;
        split.sort_unstable();
        let cost = cost(self.state, self.ask, self.packer, self.terms, &split, &mut self.exact);
        Some((cost, split))
    }

    fn fill(&mut self, place: Place, workers: u32, split: &mut Split) -> Option<()> {
        if self.steps(place, workers) <= MOST_STEPS {
            let table = self.table(place, workers);
            table.cost.get(workers as usize)?.as_ref()?;
            collect(&table, place, workers, split);
            return Some(());
        }
        self.exact = false;
        self.greedy(place, workers, split)
    }

    /// Steps of the dynamic programme below a place.
    fn steps(&self, place: Place, workers: u32) -> u64 {
        let mut sum = 0u64;
        let mut steps = 0u64;
        for child in self.children(place) {
            let room = u64::from(self.room(child).min(workers));
            steps += (sum.min(u64::from(workers)) + 1) * (room + 1) + self.steps(child, workers);
            sum += room;
        }
        steps
    }

    /// Gaps first, then as much as fits into the child with the most room, and so on; the last part goes where it fits best.
    fn greedy(&mut self, place: Place, workers: u32, split: &mut Split) -> Option<()> {
        let children = self.children(place);
        let due = |this: &Self, child: Place| this.due(child);
        let mut parts: Vec<(Place, u32, u32)> = Vec::with_capacity(children.len());
        let mut rest = workers;
        for child in children {
            let due = due(self, child);
            rest = rest.checked_sub(due)?;
            parts.push((child, due, self.room(child).checked_sub(due)?));
        }
        parts.sort_by_key(|&(_, _, more)| std::cmp::Reverse(more));
        let mut at = 0;
        while rest > 0 {
            let (_, _, more) = *parts.get(at)?;
            if more >= rest {
                // The last part: the child with the least room that holds it.
                let fits = parts[at..].iter().rposition(|&(_, _, more)| more >= rest)?;
                parts[at + fits].1 += rest;
                break;
            }
            parts[at].1 += more;
            rest -= more;
            at += 1;
        }
        for (child, part, _) in parts {
            if part > 0 {
                match child {
                    Place::Seat(seat) => split.push((seat, part)),
                    Place::Domain(_) => self.fill(child, part, split)?,
                }
            }
        }
        Some(())
    }

    /// What a place must take at least: the gaps of slices begun at or below it.
    fn due(&self, place: Place) -> u32 {
        if self.gaps.iter().all(Vec::is_empty) {
            return 0;
        }
        let own = self.depth(place).and_then(|depth| self.ask.slices.iter().position(|&(at, _)| at == depth));
        match own {
            Some(nth) => self.gap(nth, place),
            None => self.children(place).into_iter().map(|child| self.due(child)).sum(),
        }
    }

    fn table(&mut self, place: Place, limit: u32) -> Table {
        let mut table = match place {
            Place::Seat(id) => self.seat_table(id, limit),
            Place::Domain(_) => self.domain_table(place, limit),
        };
        if let Some(depth) = self.depth(place) {
            for (workers, cost) in table.cost.iter_mut().enumerate() {
                if !self.allowed(place, depth, workers as u32) {
                    *cost = None;
                } else if let (Place::Domain(id), Some(cost), true) = (place, cost, workers > 0) {
                    let mut sum = cost.to_vec();
                    add_domain(self.state, self.ask, self.terms, &mut sum, id, depth, workers as u32);
                    *cost = sum.into();
                }
            }
        }
        table
    }

    fn seat_table(&mut self, id: u32, limit: u32) -> Table {
        let most = self.seats[id as usize].min(limit);
        let mut cost: Vec<Option<Rc<[i64]>>> = Vec::with_capacity(most as usize + 1);
        for workers in 0..=most {
            let mut sum = vec![0; self.terms.width()];
            if workers > 0 {
                add_seat(self.state, self.ask, self.packer, self.terms, &mut sum, id, workers, &mut self.exact);
            }
            cost.push(Some(sum.into()));
        }
        Table { cost, parts: Vec::new() }
    }

    fn domain_table(&mut self, place: Place, limit: u32) -> Table {
        let nothing: Rc<[i64]> = vec![0; self.terms.width()].into();
        let mut sum: Vec<Option<Rc<[i64]>>> = vec![Some(nothing)];
        let mut parts = Vec::new();
        for child in self.children(place) {
            let table = self.table(child, limit);
            let most = (sum.len() + table.cost.len() - 2).min(limit as usize);
            let mut merged: Vec<Option<Rc<[i64]>>> = vec![None; most + 1];
            let mut taken = vec![0u32; most + 1];
            // Smallest part first: among equals, earlier children get more.
            for (part, cost) in table.cost.iter().enumerate() {
                let Some(cost) = cost else { continue };
                for (before, so_far) in sum.iter().enumerate().take((most + 1).saturating_sub(part)) {
                    let Some(so_far) = so_far else { continue };
                    let at = before + part;
                    let better = merged[at]
                        .as_ref()
                        .is_none_or(|best| so_far.iter().zip(cost.iter()).map(|(a, b)| a + b).lt(best.iter().copied()));
                    if better {
                        merged[at] = Some(so_far.iter().zip(cost.iter()).map(|(a, b)| a + b).collect());
                        taken[at] = part as u32;
                    }
                }
            }
            sum = merged;
            parts.push((child, table, taken));
        }
        Table { cost: sum, parts }
    }
}

/// Reads the split of `workers` off a table.
fn collect(table: &Table, place: Place, workers: u32, split: &mut Split) {
    if let Place::Seat(seat) = place {
        if workers > 0 {
            split.push((seat, workers));
        }
        return;
    }
    let mut rest = workers;
    for (child, table, taken) in table.parts.iter().rev() {
        let part = taken[rest as usize];
        collect(table, *child, part, split);
        rest -= part;
    }
}

/// The objective of a split, computed from nothing but the split.
pub(super) fn cost(
    state: &State<'_>,
    ask: &Ask<'_>,
    packer: &mut Packer,
    terms: Terms,
    split: &Split,
    exact: &mut bool,
) -> Vec<i64> {
    let tree = state.tree;
    let mut sum = vec![0; terms.width()];
    let mut domains = std::collections::BTreeMap::new();
    for &(seat, workers) in split {
        add_seat(state, ask, packer, terms, &mut sum, seat, workers, exact);
        for domain in tree.ancestors(tree.parent_of_seat(seat)) {
            *domains.entry(domain).or_insert(0) += workers;
        }
    }
    for (domain, workers) in domains {
        if let Some(depth) = tree.domain(domain).depth {
            add_domain(state, ask, terms, &mut sum, domain, depth, workers);
        }
    }
    sum
}

#[allow(clippy::too_many_arguments)]
fn add_seat(
    state: &State<'_>,
    ask: &Ask<'_>,
    packer: &mut Packer,
    terms: Terms,
    sum: &mut [i64],
    id: u32,
    workers: u32,
    exact: &mut bool,
) {
    let packed = packed(state, ask, packer, id, workers);
    let depth = terms.levels - 1;
    let left = i64::from(state.free_on(id)) - i64::from(ask.group.gpus) * i64::from(workers);
    sum[terms.used(depth)] += i64::from(!state.seat_is_used(id));
    sum[terms.weak()] += packed.weak;
    sum[terms.opened(depth)] += i64::from(state.seat_is_idle(id) && left > 0 && ask.group.gpus > 0);
    sum[terms.left(depth)] += left;
    sum[terms.wires()] -= packed.wires;
    sum[terms.worth()] += packed.worth_lost;
    *exact &= packed.exact;
}

fn add_domain(state: &State<'_>, ask: &Ask<'_>, terms: Terms, sum: &mut [i64], id: u32, depth: usize, workers: u32) {
    let left = i64::from(state.free_below(id)) - i64::from(ask.group.gpus) * i64::from(workers);
    sum[terms.used(depth)] += i64::from(!state.domain_is_used(id));
    sum[terms.opened(depth)] += i64::from(state.domain_is_idle(id) && left > 0 && ask.group.gpus > 0);
    sum[terms.left(depth)] += left;
}

/// The GPUs of `workers` workers on a seat.
pub(super) fn packed(state: &State<'_>, ask: &Ask<'_>, packer: &mut Packer, id: u32, workers: u32) -> Rc<Packed> {
    match state.seat(id) {
        Some(seat) => packer.pack(&seat.member.node, state.free(id, ask.group), ask.group.gpus, workers),
        None => Rc::default(),
    }
}
