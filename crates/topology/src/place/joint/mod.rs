//! The best split of all groups at once, by dynamic programming over the tree.
//!
//! As for one group ([`super::table`]), with a vector of numbers in place of one: *f(d, t)* is the smallest objective with
//! which exactly *t₁, t₂, …* workers of the groups fit below domain *d*. All that binds groups to domains and to each other
//! ([`Rules`]) is a condition on such vectors, and takes some of them away; all terms of the objective add up over the
//! tree. So the best split of the whole is made of best splits of the parts, exactly as there.
//!
//! The work grows with the product of the groups' sizes: it is counted, and given up beyond a number of steps.

mod cost;
mod rooms;
mod seat;
mod vectors;

use std::collections::BTreeMap;

pub(super) use rooms::Rooms;

use cost::add_domain;
use vectors::{NOWHERE, Part, Table, Vectors};

use super::ask::Question;
use super::pack::Packer;
use super::ranks::Place;
use super::room::State;
use super::table::Split;
use super::terms::Layout;
use crate::tree::{ROOT, mix};

/// The search was larger than its bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct GaveUp;

/// Cost and, by group, workers per seat.
pub(super) type Splits = (Vec<i64>, Vec<Split>);

/// Where workers are now that may stay: by group and seat.
pub(super) type Stay = BTreeMap<(usize, u32), u32>;

/// One search.
pub(super) struct Joint<'s, 'a> {
    state: &'s State<'a>,
    question: &'s Question<'a>,
    packer: &'s mut Packer,
    rooms: &'s Rooms,
    layout: &'s Layout,
    stay: &'s Stay,
    /// Groups in the order in which they get GPUs on a node.
    order: &'s [usize],
    /// Workers of each group to be placed.
    full: &'s [u32],
    /// Steps that may still be made.
    pub(super) steps: u64,
    /// Whether all packings on nodes were proven best.
    pub(super) exact: bool,
    vectors: Vectors,
    /// By number of a vector: where it is in the table that is being made.
    slots: Vec<u32>,
}

impl<'s, 'a> Joint<'s, 'a> {
    #[allow(clippy::too_many_arguments, reason = "all that a search looks at, made once per search")]
    pub(super) fn new(
        state: &'s State<'a>,
        question: &'s Question<'a>,
        packer: &'s mut Packer,
        rooms: &'s Rooms,
        layout: &'s Layout,
        stay: &'s Stay,
        order: &'s [usize],
        full: &'s [u32],
        steps: u64,
    ) -> Self {
        let vectors = Vectors::new(full);
        let slots = vec![NOWHERE; vectors.count.unwrap_or(0)];
        Self { state, question, packer, rooms, layout, stay, order, full, steps, exact: true, vectors, slots }
    }

    /// The best way to put all workers below `top`; none if there is no way.
    pub(super) fn solve(&mut self, top: Place) -> Result<Option<Splits>, GaveUp> {
        self.vectors.count.ok_or(GaveUp)?;
        let table = self.table(top)?;
        let all = self.vectors.pack(self.full);
        let Some(row) = table.keys.iter().position(|&key| key == all) else { return Ok(None) };
        let mut cost = table.costs[row * self.layout.width..][..self.layout.width].to_vec();
        let tree = self.state.tree;
        let above = match top {
            Place::Domain(ROOT) => ROOT,
            Place::Domain(id) => tree.domain(id).parent,
            Place::Seat(id) => tree.parent_of_seat(id),
        };
        for id in tree.ancestors(above) {
            let Some(depth) = tree.domain(id).depth else { continue };
            if top == Place::Domain(id) {
                continue;
            }
            if !self.question.rules.allow(Place::Domain(id), depth, self.full, self.full) {
                return Ok(None);
            }
            add_domain(self.state, self.question, self.layout, &mut cost, id, depth, self.full);
        }
        let mut splits = vec![Split::new(); self.full.len()];
        self.collect(&table, top, all, &mut splits);
        splits.iter_mut().for_each(|split| split.sort_unstable());
        Ok(Some((cost, splits)))
    }

    /// Equal for innermost domains that hold the same in any order, as far as this gang can tell; none elsewhere.
    pub(super) fn signature(&self, place: Place) -> Option<u64> {
        let Place::Domain(id) = place else { return None };
        let domain = self.state.tree.domain(id);
        if !domain.children.is_empty() || self.state.is_begun() || self.layout.moved.is_some() {
            return None;
        }
        let of = |&id: &u32| {
            let rooms = self.rooms.seats.iter().fold(0, |bits, seats| mix(bits ^ u64::from(seats[id as usize])));
            // Of other resources only the room that they leave to each group alone is in it: not enough for several.
            let spare = self.state.spare(id)?;
            let spare = spare.iter().flat_map(|(name, amount)| name.bytes().map(u64::from).chain([amount]));
            let spare = spare.fold(0, |bits, part| mix(bits ^ part));
            Some(mix(self.state.seat(id)?.signature ^ mix(rooms ^ mix(spare))))
        };
        let above = self.state.tree.ancestors(domain.parent).fold(0, |bits, id| mix(bits ^ u64::from(id)));
        Some(domain.seats.iter().filter_map(of).fold(mix(above), u64::wrapping_add))
    }

    /// Whether a split keeps all rules, and the objective of it: computed from nothing but the split.
    pub(super) fn judge(&mut self, splits: &[Split]) -> Option<Vec<i64>> {
        let tree = self.state.tree;
        let groups = self.full.len();
        let mut places: BTreeMap<(usize, Place), Vec<u32>> = BTreeMap::new();
        let host = self.layout.used.len() - 1;
        for (group, split) in splits.iter().enumerate() {
            for &(seat, workers) in split {
                let above = tree.ancestors(tree.parent_of_seat(seat));
                let above = above.filter_map(|id| Some((tree.domain(id).depth?, Place::Domain(id))));
                for at in above.chain([(host, Place::Seat(seat))]) {
                    places.entry(at).or_insert_with(|| vec![0; groups])[group] += workers;
                }
            }
        }
        for (place, depth) in self.question.rules.due() {
            places.entry((depth, place)).or_insert_with(|| vec![0; groups]);
        }
        let mut cost = vec![0; self.layout.width];
        for ((depth, place), counts) in &places {
            if !self.question.rules.allow(*place, *depth, counts, self.full) {
                return None;
            }
            if counts.iter().all(|&count| count == 0) {
                continue;
            }
            match *place {
                Place::Domain(id) => {
                    add_domain(self.state, self.question, self.layout, &mut cost, id, *depth, counts);
                }
                Place::Seat(id) => {
                    let table = self.seat_table(id, Some(counts)).ok()?;
                    if table.keys.is_empty() {
                        return None;
                    }
                    cost.iter_mut().zip(&table.costs).for_each(|(sum, term)| *sum += term);
                }
            }
        }
        Some(cost)
    }

    fn table(&mut self, place: Place) -> Result<Table, GaveUp> {
        let mut table = match place {
            Place::Seat(id) => self.seat_table(id, None)?,
            Place::Domain(id) => self.domain_table(id)?,
        };
        let depth = match place {
            Place::Seat(_) => Some(self.layout.used.len() - 1),
            Place::Domain(id) => self.state.tree.domain(id).depth,
        };
        if let Some(depth) = depth {
            let width = self.layout.width;
            let mut counts = vec![0; self.full.len()];
            let mut kept = 0;
            for row in 0..table.keys.len() {
                self.vectors.unpack(table.keys[row], &mut counts);
                if !self.question.rules.allow(place, depth, &counts, self.full) {
                    continue;
                }
                table.keys[kept] = table.keys[row];
                table.numbers[kept] = table.numbers[row];
                table.costs.copy_within(row * width..(row + 1) * width, kept * width);
                if let (Place::Domain(id), true) = (place, table.keys[kept] > 0) {
                    let cost = &mut table.costs[kept * width..(kept + 1) * width];
                    add_domain(self.state, self.question, self.layout, cost, id, depth, &counts);
                }
                kept += 1;
            }
            table.keys.truncate(kept);
            table.numbers.truncate(kept);
            table.costs.truncate(kept * width);
        }
        Ok(table)
    }

    fn domain_table(&mut self, id: u32) -> Result<Table, GaveUp> {
        let mut sum = Table::default();
        sum.push(0, 0, &vec![0; self.layout.width]);
        let domain = self.state.tree.domain(id);
        let domains = domain.children.iter().map(|&id| Place::Domain(id));
        for child in domains.chain(domain.seats.iter().map(|&id| Place::Seat(id))) {
            // Where something runs, a place may have to take what it has no room for.
            let idle = !self.state.is_begun();
            if idle && (0..self.full.len()).all(|group| self.full[group] == 0 || self.rooms.of(group, child) == 0) {
                continue;
            }
            let table = self.table(child)?;
            if !table.holds_nothing() {
                sum = self.merge(sum, child, table)?;
            }
        }
        Ok(sum)
    }

    fn merge(&mut self, sum: Table, place: Place, child: Table) -> Result<Table, GaveUp> {
        let width = self.layout.width;
        let steps = sum.keys.len() as u64 * child.keys.len() as u64;
        self.steps = self.steps.checked_sub(steps).ok_or(GaveUp)?;
        let mut next = Table::default();
        let mut shares: Vec<(u64, u32)> = Vec::new();
        // Smallest share first: among equals, earlier children get more.
        for share in 0..child.keys.len() {
            let own = &child.costs[share * width..(share + 1) * width];
            for before in 0..sum.keys.len() {
                let key = sum.keys[before] + child.keys[share];
                if !self.vectors.within_bounds(key) {
                    continue;
                }
                let terms = sum.costs[before * width..(before + 1) * width].iter().zip(own).map(|(a, b)| a + b);
                let number = sum.numbers[before] + child.numbers[share];
                match self.slots[number as usize] {
                    NOWHERE => {
                        self.slots[number as usize] = next.keys.len() as u32;
                        next.keys.push(key);
                        next.numbers.push(number);
                        next.costs.extend(terms);
                        shares.push((key, share as u32));
                    }
                    row => {
                        let best = &mut next.costs[row as usize * width..(row as usize + 1) * width];
                        if terms.clone().lt(best.iter().copied()) {
                            best.iter_mut().zip(terms).for_each(|(best, term)| *best = term);
                            shares[row as usize].1 = share as u32;
                        }
                    }
                }
            }
        }
        next.numbers.iter().for_each(|&number| self.slots[number as usize] = NOWHERE);
        shares.sort_unstable();
        next.parts = sum.parts;
        next.parts.push(Part { place, table: child, shares });
        Ok(next)
    }

    fn collect(&self, table: &Table, place: Place, key: u64, splits: &mut [Split]) {
        if let Place::Seat(seat) = place {
            let mut counts = vec![0; self.full.len()];
            self.vectors.unpack(key, &mut counts);
            for (split, &workers) in splits.iter_mut().zip(&counts) {
                if workers > 0 {
                    split.push((seat, workers));
                }
            }
            return;
        }
        let mut rest = key;
        for part in table.parts.iter().rev() {
            // Every vector of a stage has its share.
            let Ok(at) = part.shares.binary_search_by_key(&rest, |share| share.0) else { continue };
            let own = part.table.keys[part.shares[at].1 as usize];
            self.collect(&part.table, part.place, own, splits);
            rest -= own;
        }
    }
}
