//! The best split of all groups at once, by dynamic programming over the tree.
//!
//! As for one group ([`super::table`]), with a vector of numbers in place of one: *f(d, t)* is the smallest objective with
//! which exactly *t₁, t₂, …* workers of the groups fit below domain *d*. All that binds groups to domains and to each other
//! ([`Rules`]) is a condition on such vectors, and takes some of them away; all terms of the objective add up over the
//! tree. So the best split of the whole is made of best splits of the parts, exactly as there.
//!
//! The work grows with the product of the groups' sizes: it is counted, and given up beyond a number of steps.

use std::collections::BTreeMap;

use super::Eligibility;
use super::ask::Question;
use super::pack::Packer;
use super::ranks::Place;
use super::room::{Ask, State};
use super::table::Split;
use super::terms::Layout;
use crate::tree::{ROOT, mix};
use crate::{GpuSet, Resources};

/// The most vectors that a domain can be asked about: the product of all (workers + 1).
const MOST_VECTORS: usize = 20_000;

/// What a row of a node's table takes, in steps of which the merging of two rows takes one: some 80 ns and 40 ns.
const ROW_STEPS: u64 = 2;

/// The search was larger than its bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct GaveUp;

/// Cost and, by group, workers per seat.
pub(super) type Splits = (Vec<i64>, Vec<Split>);

/// How many workers of each group places have room for, each group looked at alone.
#[derive(Debug)]
pub(super) struct Rooms {
    /// By group, then by seat.
    seats: Vec<Vec<u32>>,
    /// By group, then by domain.
    domains: Vec<Vec<u32>>,
    /// Whether some node has GPUs for two groups, each of which can use some that the other cannot. Then giving GPUs to one
    /// group after the other can miss a way.
    pub(super) crossing: bool,
}

impl Rooms {
    pub(super) fn new(state: &State<'_>, asks: &[Ask<'_>], order: &[usize], eligible: Option<Eligibility<'_>>) -> Self {
        let tree = state.tree;
        let mut seats = vec![vec![0; tree.seat_bound()]; asks.len()];
        let mut domains = vec![vec![0u32; tree.domain_bound()]; asks.len()];
        // Nor is it known which sets of one group that needs wires leave the most to another.
        let wired = asks.iter().filter(|ask| ask.group.joined_by.is_some() && ask.group.gpus > 1).count();
        let mut crossing = wired > 1;
        let filtered = asks.iter().any(|ask| ask.group.product.is_some());
        for seat in tree.seats_below(ROOT) {
            for (group, ask) in asks.iter().enumerate() {
                let room = state.capacity(seat, ask, eligible).unwrap_or(0).min(ask.missing.len() as u32);
                seats[group][seat as usize] = room;
                for domain in tree.ancestors(tree.parent_of_seat(seat)) {
                    domains[group][domain as usize] += room;
                }
            }
            if filtered {
                let sets: Vec<GpuSet> = order.iter().map(|&group| state.free(seat, asks[group].group)).collect();
                crossing |= (0..sets.len()).any(|i| {
                    let alike = |&other: &GpuSet| sets[i].is_subset(other) || sets[i].intersection(other).is_empty();
                    !sets[i + 1..].iter().all(alike)
                });
            }
        }
        Self { seats, domains, crossing }
    }

    /// How many workers of a group have room at a place.
    pub(super) fn of(&self, group: usize, place: Place) -> u32 {
        match place {
            Place::Domain(id) => self.domains[group][id as usize],
            Place::Seat(id) => self.seats[group][id as usize],
        }
    }
}

/// Where workers are now that may stay: by group and seat.
pub(super) type Stay = BTreeMap<(usize, u32), u32>;

/// One search.
pub(super) struct Joint<'s, 'a> {
    pub(super) state: &'s State<'a>,
    pub(super) question: &'s Question<'a>,
    pub(super) packer: &'s mut Packer,
    pub(super) rooms: &'s Rooms,
    pub(super) layout: &'s Layout,
    pub(super) stay: &'s Stay,
    /// Groups in the order in which they get GPUs on a node.
    pub(super) order: &'s [usize],
    /// Workers of each group to be placed.
    pub(super) full: &'s [u32],
    /// Steps that may still be made.
    pub(super) steps: u64,
    /// Whether all packings on nodes were proven best.
    pub(super) exact: bool,
    vectors: Vectors,
    /// By number of a vector: where it is in the table that is being made.
    slots: Vec<u32>,
}

const NOWHERE: u32 = u32::MAX;

/// Vectors as numbers: packed with a guard bit each, so that one subtraction tells whether any exceeds its bound; and
/// counted through.
struct Vectors {
    shifts: Vec<u32>,
    strides: Vec<u32>,
    bounds: u64,
    guards: u64,
    /// How many there are; none if they are too many to search.
    count: Option<usize>,
}

impl Vectors {
    fn new(full: &[u32]) -> Self {
        let mut vectors = Self { shifts: Vec::new(), strides: Vec::new(), bounds: 0, guards: 0, count: None };
        let (mut shift, mut count) = (0u32, 1usize);
        for &most in full {
            let bits = u32::BITS - most.leading_zeros();
            let more = count.checked_mul(most as usize + 1).filter(|&count| count <= MOST_VECTORS);
            let (true, Some(more)) = (shift + bits < u64::BITS, more) else { return vectors };
            vectors.shifts.push(shift);
            vectors.strides.push(count as u32);
            vectors.bounds |= u64::from(most) << shift | 1 << (shift + bits);
            vectors.guards |= 1 << (shift + bits);
            shift += bits + 1;
            count = more;
        }
        vectors.count = Some(count);
        vectors
    }

    fn pack(&self, counts: &[u32]) -> u64 {
        counts.iter().zip(&self.shifts).map(|(&count, &shift)| u64::from(count) << shift).sum()
    }

    fn number(&self, counts: &[u32]) -> u32 {
        counts.iter().zip(&self.strides).map(|(&count, &stride)| count * stride).sum()
    }

    fn unpack(&self, key: u64, counts: &mut [u32]) {
        for (at, count) in counts.iter_mut().enumerate() {
            let above = self.shifts.get(at + 1).copied().unwrap_or(u64::BITS);
            let width = above - self.shifts[at];
            let mask = if width >= u64::BITS { u64::MAX } else { (1 << width) - 1 };
            *count = (key >> self.shifts[at] & mask) as u32;
        }
    }

    fn within_bounds(&self, key: u64) -> bool {
        (self.bounds - key) & self.guards == self.guards
    }
}

/// *f(d, ·)* of one place, for the vectors that it can hold, and how each came about.
#[derive(Default)]
struct Table {
    keys: Vec<u64>,
    numbers: Vec<u32>,
    costs: Vec<i64>,
    parts: Vec<Part>,
}

/// A child, and for each vector up to and with it the child's share.
struct Part {
    place: Place,
    table: Table,
    /// Vector and row of `table`, by vector.
    shares: Vec<(u64, u32)>,
}

impl Table {
    fn push(&mut self, key: u64, number: u32, cost: &[i64]) {
        self.keys.push(key);
        self.numbers.push(number);
        self.costs.extend_from_slice(cost);
    }

    fn holds_nothing(&self) -> bool {
        self.keys == [0]
    }
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

    /// What a node can hold of each group, one group getting its GPUs after the other; only `exactly` so many if given.
    fn seat_table(&mut self, id: u32, exactly: Option<&[u32]>) -> Result<Table, GaveUp> {
        let mut table = Table::default();
        let (state, nothing) = (self.state, Resources::new());
        let spare = state.spare(id).unwrap_or(&nothing);
        let mut seat = OnSeat { id, counts: vec![0; self.full.len()], inside: [0; 3], exactly };
        self.fill(&mut seat, 0, GpuSet::EMPTY, spare, &mut table)?;
        Ok(table)
    }

    fn fill(
        &mut self,
        seat: &mut OnSeat<'_>,
        nth: usize,
        given: GpuSet,
        spare: &Resources,
        table: &mut Table,
    ) -> Result<(), GaveUp> {
        let Some(&group) = self.order.get(nth) else {
            self.steps = self.steps.checked_sub(ROW_STEPS).ok_or(GaveUp)?;
            let cost = self.seat_cost(seat);
            table.push(self.vectors.pack(&seat.counts), self.vectors.number(&seat.counts), &cost);
            return Ok(());
        };
        let most = self.rooms.seats[group][seat.id as usize].min(self.full[group]);
        let wanted = seat.exactly.map(|counts| counts[group]);
        let ask = &self.question.asks[group];
        let each = ask.group.gpus;
        let free = self.state.free(seat.id, ask.group).difference(given);
        let unidentified = self.state.seat(seat.id).map_or(0, |seat| seat.unidentified);
        let resources = &ask.group.resources;
        let mut less = (!resources.is_empty()).then(|| spare.clone());
        for workers in 0..=most {
            if workers > 0 {
                let enough = (free.len() as u32).saturating_sub(unidentified) >= workers * each || each == 0;
                let runs_out = |less: &Resources| less.times(resources).is_some_and(|(times, _)| times == 0);
                if !enough || less.as_ref().is_some_and(runs_out) {
                    break;
                }
                if let Some(less) = &mut less {
                    less.subtract(resources);
                }
            }
            if wanted.is_some_and(|wanted| wanted != workers) {
                continue;
            }
            let before = seat.inside;
            let mut taken = given;
            if workers > 0
                && each > 0
                && let Some(node) = self.state.seat(seat.id).map(|seat| &seat.member.node)
            {
                let packed = self.packer.pack(node, free, ask.group, workers);
                if packed.sets.len() < workers as usize {
                    break;
                }
                taken = packed.sets.iter().copied().fold(given, GpuSet::union);
                let more = [packed.weak, -packed.wires, packed.worth_lost];
                seat.inside.iter_mut().zip(more).for_each(|(sum, term)| *sum += term);
                self.exact &= packed.exact;
            }
            seat.counts[group] = workers;
            self.fill(seat, nth + 1, taken, less.as_ref().unwrap_or(spare), table)?;
            seat.counts[group] = 0;
            seat.inside = before;
        }
        Ok(())
    }

    fn seat_cost(&self, seat: &OnSeat<'_>) -> Vec<i64> {
        let (layout, id, counts) = (self.layout, seat.id, &seat.counts);
        let mut cost = vec![0; layout.width];
        if counts.iter().all(|&count| count == 0) {
            return cost;
        }
        let depth = layout.used.len() - 1;
        if let Some(at) = layout.moved {
            let stay = |(group, &count): (usize, &u32)| count.min(self.stay.get(&(group, id)).copied().unwrap_or(0));
            cost[at] = -counts.iter().enumerate().map(|one| i64::from(stay(one))).sum::<i64>();
        }
        let gpus = gpus(self.question, counts);
        let left = i64::from(self.state.free_on(id)) - gpus;
        cost[layout.used[depth]] = i64::from(!self.state.seat_is_used(id));
        cost[layout.opened[depth]] = i64::from(self.state.seat_is_idle(id) && left > 0 && gpus > 0);
        cost[layout.left[depth]] = left;
        add_groups(self.question, layout, &mut cost, Place::Seat(id), depth, counts);
        cost[layout.weak] += seat.inside[0];
        cost[layout.wires] += seat.inside[1];
        cost[layout.worth] += seat.inside[2];
        cost
    }
}

/// A node being filled: how many of each group, and weak workers, wires (negated) and worth lost so far.
struct OnSeat<'e> {
    id: u32,
    counts: Vec<u32>,
    inside: [i64; 3],
    exactly: Option<&'e [u32]>,
}

fn gpus(question: &Question<'_>, counts: &[u32]) -> i64 {
    question.asks.iter().zip(counts).map(|(ask, &count)| i64::from(ask.group.gpus) * i64::from(count)).sum()
}

fn add_domain(
    state: &State<'_>,
    question: &Question<'_>,
    layout: &Layout,
    cost: &mut [i64],
    id: u32,
    depth: usize,
    counts: &[u32],
) {
    let gpus = gpus(question, counts);
    let left = i64::from(state.free_below(id)) - gpus;
    cost[layout.used[depth]] += i64::from(!state.domain_is_used(id));
    let opened = i64::from(state.domain_is_idle(id) && left > 0 && gpus > 0);
    cost[layout.nvlink] += if state.tree.domain(id).is_nvlink() { opened } else { 0 };
    cost[layout.left[depth]] += left;
    cost[layout.opened[depth]] += opened;
    add_groups(question, layout, cost, Place::Domain(id), depth, counts);
}

/// What single groups prefer of this place, and how even they are.
fn add_groups(question: &Question<'_>, layout: &Layout, cost: &mut [i64], place: Place, depth: usize, counts: &[u32]) {
    for &(nth, at) in &layout.preferred {
        let rule = &question.rules.preferred[nth];
        if rule.depth == depth && counts[rule.group] > 0 && rule.running(place) == 0 {
            cost[at] += 1;
        }
    }
    for &(nth, at) in &layout.balanced {
        let rule = &question.rules.balanced[nth];
        if rule.depth == depth {
            // With so many domains in use, the sum of squares is least where the numbers are most alike.
            let (new, running) = (i64::from(counts[rule.group]), i64::from(rule.running(place)));
            cost[at] += (new + running) * (new + running) - running * running;
        }
    }
}
