//! The best place for the workers of one group: which domain, and in it which split ([`knapsack`](super::knapsack)).
//!
//! # Which domains
//! If no worker runs yet and some domain of a level has room for all, the optimum lies in one such domain: it uses one
//! domain at that level and at each above, nothing uses fewer, and domains used come first in the objective. So levels are
//! tried from the node outwards until one has such a domain.
//!
//! The domains of a level are found best first, from the outermost inwards: what a domain, or any domain below it, costs at
//! least is known from its sums. The one that costs least is opened (its children take its place) or, at the level
//! tried, solved; that ends when the next one costs no less than the best found. So of most domains nothing is looked at but
//! the sums of the one above. What looks the same as a domain solved before ([`Domain::signature`](crate::tree::Domain)) cannot
//! be better than that one with all its nodes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::rc::Rc;

use super::Eligibility;
use super::pack::{Packed, Packer};
use super::ranks::Place;
use super::room::{Ask, State};
use super::vacancy::Vacancy;
use crate::tree::{BuildMixing, ROOT, mix};

/// Where the terms of the objective are in its vector, for a cluster of some number of levels. Domains used come from the
/// outermost level inwards, what is left over and opened from the node outwards.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// Levels, the node level included.
    pub(super) levels: usize,
}

impl Terms {
    pub(super) fn width(self) -> usize {
        3 * self.levels + 4
    }
    pub(super) fn used(self, depth: usize) -> usize {
        depth
    }
    pub(super) fn weak(self) -> usize {
        self.levels
    }
    pub(super) fn nvlink(self) -> usize {
        self.levels + 1
    }
    pub(super) fn left(self, depth: usize) -> usize {
        self.levels + 2 + 2 * (self.levels - 1 - depth)
    }
    pub(super) fn opened(self, depth: usize) -> usize {
        self.left(depth) + 1
    }
    pub(super) fn wires(self) -> usize {
        3 * self.levels + 2
    }
    pub(super) fn worth(self) -> usize {
        3 * self.levels + 3
    }
}

/// Workers per seat.
pub(super) type Split = Vec<(u32, u32)>;

/// Terms of the objective that domains are compared by before they are solved: all but wires and worth, for up to four
/// levels; of more levels the first terms, which bounds as well.
const COMPARED: usize = 14;

/// What a place costs at least.
type Bound = [u32; COMPARED];

/// Bits per level in the number by which places are ordered.
const ORDER_BITS: u32 = 20;

/// A place in the search: what anything in it costs at least, and its rank in the order of the tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    bound: Bound,
    order: u128,
    place: Place,
    /// Which child of the domain above it is, if others that look alike come after it.
    nth: Option<usize>,
}

/// What a domain costs at least, as far as that is known from others.
#[derive(Clone)]
enum Floor {
    Unknown,
    /// Nothing in it can be the best.
    None,
    Cost(Rc<[i64]>),
}

/// By signature of a domain: for each bound, which tells where it lies, its floor once that was asked for.
type Floors = HashMap<u64, Vec<(Bound, Option<Floor>)>, BuildMixing>;

/// The placing of one group on the cluster as it is in one state.
pub(super) struct Spread<'s, 'a> {
    pub(super) state: &'s State<'a>,
    pub(super) ask: &'s Ask<'a>,
    pub(super) packer: &'s mut Packer,
    pub(super) terms: Terms,
    pub(super) vacancy: Vacancy<'s, 'a>,
    /// Whether the gang has workers somewhere already.
    pub(super) begun: bool,
    /// Lists to be used again.
    pub(super) rooms: Vec<u32>,
    pub(super) fewest: Vec<(u32, u32)>,
    /// Whether all that was found so far is proven best.
    pub(super) exact: bool,
}

impl<'s, 'a> Spread<'s, 'a> {
    /// For places at and below `top`. Without `eligible`, every node will do.
    pub(super) fn new(
        state: &'s State<'a>,
        ask: &'s Ask<'a>,
        packer: &'s mut Packer,
        eligible: Option<Eligibility<'s>>,
        levels: usize,
        top: Place,
    ) -> Self {
        Self::over(state, ask, packer, Vacancy::new(state, ask, eligible, levels, top), levels)
    }

    /// With the room of every seat at and below `top` already known.
    pub(super) fn with_rooms(
        state: &'s State<'a>,
        ask: &'s Ask<'a>,
        packer: &'s mut Packer,
        seats: Vec<u32>,
        levels: usize,
        top: Place,
    ) -> Self {
        Self::over(state, ask, packer, Vacancy::known(state, ask, seats, levels, top), levels)
    }

    fn over(
        state: &'s State<'a>,
        ask: &'s Ask<'a>,
        packer: &'s mut Packer,
        vacancy: Vacancy<'s, 'a>,
        levels: usize,
    ) -> Self {
        let begun = !ask.running.is_empty() || state.is_begun();
        let (rooms, fewest) = (Vec::new(), Vec::new());
        Self { state, ask, packer, terms: Terms { levels }, vacancy, begun, rooms, fewest, exact: true }
    }

    /// The most workers that a place can take.
    pub(super) fn room(&self, place: Place) -> u32 {
        self.vacancy.room(place)
    }

    /// The depth of a place; the root has none.
    pub(super) fn depth(&self, place: Place) -> Option<usize> {
        match place {
            Place::Domain(id) => self.state.tree.domain(id).depth,
            Place::Seat(_) => Some(self.terms.levels - 1),
        }
    }

    /// The best way to put exactly `workers` into one of `places`, all of one level, with its objective.
    pub(super) fn best(&mut self, places: Vec<Place>, workers: u32) -> Option<(Vec<i64>, Split)> {
        let outermost = places.first().map_or(0, |&place| self.level(place));
        self.best_within(&places, outermost, workers)
    }

    /// The best way to put exactly `workers` into one domain of some level, not further out than the `outermost`, that is one
    /// of `places` or lies in one. Levels are counted from the root here, which is 0.
    pub(super) fn best_within(
        &mut self,
        places: &[Place],
        outermost: usize,
        workers: u32,
    ) -> Option<(Vec<i64>, Split)> {
        // Nodes are not told apart below a domain: the bound knows how many it takes, and the knapsack which.
        let innermost = if self.begun { outermost } else { outermost.max(self.terms.levels - 1) };
        let levels = outermost..=innermost;
        if self.vacancy.can_assume_all() {
            // First as if all nodes would do. If what is best then lies on nodes that do, it is best; most often it does. And
            // what has no room then has none.
            let exact = self.exact;
            self.vacancy.assume_all(true);
            let found = levels.clone().rev().find_map(|level| self.best_at(places, level, workers));
            self.vacancy.assume_all(false);
            let (cost, split) = found?;
            if split.iter().all(|&(seat, workers)| self.vacancy.room(Place::Seat(seat)) >= workers) {
                return Some((cost, split));
            }
            self.exact = exact;
        }
        levels.rev().find_map(|level| self.best_at(places, level, workers))
    }

    fn level(&self, place: Place) -> usize {
        self.depth(place).map_or(0, |depth| depth + 1)
    }

    /// The best way to put exactly `workers` into one domain of a level that is one of `places` or lies in one.
    fn best_at(&mut self, places: &[Place], level: usize, workers: u32) -> Option<(Vec<i64>, Split)> {
        let mut open = BinaryHeap::new();
        for (nth, &place) in places.iter().enumerate() {
            if self.may_hold(place, level, workers) {
                let bound = self.bound(self.outside(place, workers), place, level, workers);
                open.push(Reverse(Candidate { bound, order: ranked(0, 0, nth), place, nth: None }));
            }
        }
        let mut best: Option<(Vec<i64>, Split, u128)> = None;
        let mut floors = Floors::default();
        while let Some(Reverse(candidate)) = open.pop() {
            let Candidate { bound, order, place, nth } = candidate;
            if best.as_ref().is_some_and(|(cost, ..)| bound > self.compared(cost)) {
                break;
            }
            let floor = self.floor(place, bound, level, workers, &mut floors);
            if let Floor::Cost(cost) = &floor
                && self.compared(cost) > bound
            {
                open.push(Reverse(Candidate { bound: self.compared(cost), ..candidate }));
                continue;
            }
            if let Some(nth) = nth {
                self.open_next(place, nth + 1, (bound, order), level, workers, &mut open);
            }
            let at = self.level(place);
            match (floor, place) {
                (Floor::None, _) => {}
                (Floor::Cost(cost), _) if best.as_ref().is_some_and(|best| (&*cost, order) >= (&best.0, best.2)) => {}
                (_, Place::Domain(id)) if at < level => {
                    self.open(id, at + 1, (bound, order), level, workers, &mut open);
                }
                _ if !self.vacancy.is_labelled(place) => {}
                _ => {
                    if let Some((cost, split)) = self.solved(place, workers)
                        && best.as_ref().is_none_or(|best| (&cost, order) < (&best.0, best.2))
                    {
                        best = Some((cost, split, order));
                    }
                }
            }
        }
        best.map(|(cost, split, _)| (cost, split))
    }

    /// Puts what lies right below a domain in its place: of neighbours that look alike, the first.
    fn open(
        &self,
        id: u32,
        at: usize,
        (above, order): (Bound, u128),
        level: usize,
        workers: u32,
        open: &mut BinaryHeap<Reverse<Candidate>>,
    ) {
        let tree = self.state.tree;
        let domain = tree.domain(id);
        let mut last = None;
        for (nth, &child) in domain.children.iter().enumerate() {
            let place = Place::Domain(child);
            if !self.may_hold(place, level, workers) {
                continue;
            }
            // They cost the same at least, unless the gang is in one of them.
            let look = (!self.begun && self.ask.slices.is_empty()).then(|| tree.domain(child).signature);
            if look.is_none() || look != last {
                let bound = self.bound(above, place, level, workers);
                open.push(Reverse(Candidate { bound, order: ranked(order, at, nth), place, nth: look.and(Some(nth)) }));
            }
            last = look;
        }
        for (nth, &seat) in domain.seats.iter().enumerate() {
            let place = Place::Seat(seat);
            if self.may_hold(place, level, workers) {
                let bound = self.bound(above, place, level, workers);
                open.push(Reverse(Candidate { bound, order: ranked(order, at, nth), place, nth: None }));
            }
        }
    }

    /// Puts the next domain that looks like its neighbour after it.
    fn open_next(
        &self,
        place: Place,
        from: usize,
        (bound, order): (Bound, u128),
        level: usize,
        workers: u32,
        open: &mut BinaryHeap<Reverse<Candidate>>,
    ) {
        let Place::Domain(id) = place else { return };
        if self.skips_alike() && self.vacancy.is_plain() {
            return;
        }
        let tree = self.state.tree;
        let children = &tree.domain(tree.domain(id).parent).children;
        let next = (from..children.len()).find(|&nth| self.may_hold(Place::Domain(children[nth]), level, workers));
        let Some(nth) = next.filter(|&nth| tree.domain(children[nth]).signature == tree.domain(id).signature) else {
            return;
        };
        let order = ranked(order & !ranked(0, self.level(place), usize::MAX), self.level(place), nth);
        open.push(Reverse(Candidate { bound, order, place: Place::Domain(children[nth]), nth: Some(nth) }));
    }

    /// Whether what looks the same need not be looked at twice: signatures know nothing of products, slices, nor of what the
    /// gang has already.
    fn skips_alike(&self) -> bool {
        !self.begun && self.ask.slices.is_empty() && self.ask.group.product.is_none()
    }

    /// Whether one domain of a level may have the room that is this place or lies in it.
    fn may_hold(&self, place: Place, level: usize, workers: u32) -> bool {
        let between = (self.terms.levels - 1).checked_sub(level).filter(|_| self.level(place) < level);
        self.vacancy.at_most_in_one(place, between) >= workers
    }

    /// What the workers cost in a domain at least, as far as that is known from another one that looks the same.
    ///
    /// Where all nodes will do, nothing in the second domain of a look is better than what is, or will be, found in the first,
    /// so it is passed over. Where some may not, the second and later ones are no better than any of them would be if all its
    /// nodes did.
    fn floor(&mut self, place: Place, bound: Bound, level: usize, workers: u32, floors: &mut Floors) -> Floor {
        let Place::Domain(id) = place else { return Floor::Unknown };
        if !self.skips_alike() {
            return Floor::Unknown;
        }
        let look = self.state.tree.domain(id).signature;
        match floors.get(&look).and_then(|seen| seen.iter().find(|seen| seen.0 == bound)) {
            None => {
                floors.entry(look).or_default().push((bound, None));
                return Floor::Unknown;
            }
            Some(_) if self.vacancy.is_plain() => return Floor::None,
            Some((_, Some(floor))) => return floor.clone(),
            Some((_, None)) => {}
        }
        self.vacancy.assume_all(true);
        let floor = self.best_at(&[place], level, workers).map_or(Floor::None, |(cost, _)| Floor::Cost(cost.into()));
        self.vacancy.assume_all(false);
        // Also under the bound that it comes back with once that is known.
        let known = floors.entry(look).or_default();
        known.retain(|seen| seen.0 != bound);
        known.push((bound, Some(floor.clone())));
        if let Floor::Cost(cost) = &floor {
            known.push((self.compared(cost), Some(floor.clone())));
        }
        floor
    }

    /// The best way to put exactly `workers` below a place.
    fn solved(&mut self, place: Place, workers: u32) -> Option<(Vec<i64>, Split)> {
        if self.vacancy.room(place) < workers {
            return None;
        }
        let mut split = Split::new();
        self.fill(place, workers, &mut split)?;
        Some((self.cost(&split), split))
    }

    fn cost(&mut self, split: &Split) -> Vec<i64> {
        cost(self.state, self.ask, self.packer, self.terms, split, &mut self.exact)
    }

    /// Of the objective, what bounds know.
    fn compared(&self, cost: &[i64]) -> Bound {
        std::array::from_fn(|term| if term < self.terms.wires() { cost[term] as u32 } else { 0 })
    }

    /// What the domains above a place cost.
    fn outside(&self, place: Place, workers: u32) -> Bound {
        let tree = self.state.tree;
        let above = match place {
            Place::Domain(ROOT) => return [0; COMPARED],
            Place::Domain(id) => tree.domain(id).parent,
            Place::Seat(id) => tree.parent_of_seat(id),
        };
        let mut bound = [0; COMPARED];
        for id in tree.ancestors(above) {
            if let Some(depth) = tree.domain(id).depth {
                self.own(id, depth, workers, |term, value| set(&mut bound, term, value));
            }
        }
        bound
    }

    /// What `workers` workers in one domain of a level cost at least if that is a place or lies in it, given the same of the
    /// domain that the place is in.
    fn bound(&self, above: Bound, place: Place, level: usize, workers: u32) -> Bound {
        let levels = self.terms.levels;
        let mut bound = above;
        match place {
            Place::Seat(id) => self.outline(id, workers, |term, value| set(&mut bound, term, value)),
            Place::Domain(id) => {
                if let Some(depth) = self.depth(place) {
                    self.own(id, depth, workers, |term, value| set(&mut bound, term, value));
                }
                if !self.begun && workers > 0 {
                    let at = self.level(place);
                    let mut fewest = 1;
                    for depth in at..levels {
                        if depth == levels - 1 {
                            fewest = fewest.max(self.vacancy.fewest_hosts(id, workers));
                        } else if depth == at && at == level {
                            let left;
                            (fewest, left) = self.vacancy.fewest_children(id, workers);
                            set(&mut bound, self.terms.left(depth), i64::from(left));
                        }
                        set(&mut bound, self.terms.used(depth), i64::from(fewest));
                    }
                    let left = self.vacancy.least_left(id, workers, fewest);
                    set(&mut bound, self.terms.left(levels - 1), i64::from(left));
                    if fewest == 1
                        && let Some(between) = self.vacancy.least_left_between(id, workers)
                    {
                        for (depth, left) in (at..levels - 1).rev().zip(between) {
                            set(&mut bound, self.terms.left(depth), i64::from(left));
                        }
                    }
                }
            }
        }
        bound
    }

    /// What a domain itself adds to the objective.
    pub(super) fn own(&self, id: u32, depth: usize, workers: u32, add: impl FnMut(usize, i64)) {
        add_domain(self.state, self.ask, self.terms, id, depth, workers, add);
    }

    /// What a node adds to the objective, before its GPUs are chosen.
    pub(super) fn outline(&self, id: u32, workers: u32, add: impl FnMut(usize, i64)) {
        outline(self.state, self.ask, self.terms, id, workers, add);
    }

    /// Domains with the same signature have equally good splits. None if something runs or was given away there.
    pub(super) fn signature(&self, place: Place) -> Option<u64> {
        let Place::Domain(id) = place else { return None };
        if !self.skips_alike() {
            return None;
        }
        Some(if self.vacancy.is_plain() { self.state.tree.domain(id).signature } else { self.look(id) })
    }

    /// A signature that knows the room of each node.
    fn look(&self, id: u32) -> u64 {
        let tree = self.state.tree;
        let domain = tree.domain(id);
        let seat = |&id: &u32| {
            let room = u64::from(self.vacancy.room(Place::Seat(id)));
            tree.seat(id).map_or(0, |seat| mix(seat.signature ^ mix(room)))
        };
        let below = domain.children.iter().map(|&child| mix(self.look(child)));
        let below = below.chain(domain.seats.iter().map(seat)).fold(0, u64::wrapping_add);
        mix(below ^ u64::from(domain.free))
    }
}

fn set(bound: &mut Bound, term: usize, value: i64) {
    if let Some(slot) = bound.get_mut(term) {
        *slot = value as u32;
    }
}

/// Where the nth child of a place comes in the order of the tree. Beyond six levels or a million children, ties between
/// equally good domains are no longer broken by name.
fn ranked(parent: u128, level: usize, nth: usize) -> u128 {
    let shift = (u128::BITS - ORDER_BITS).saturating_sub(level as u32 * ORDER_BITS);
    parent | (nth as u128 & ((1 << ORDER_BITS) - 1)) << shift
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
pub(super) fn packed(state: &State<'_>, ask: &Ask<'_>, packer: &mut Packer, id: u32, workers: u32) -> Rc<Packed> {
    match state.seat(id) {
        Some(seat) => packer.pack(&seat.member.node, state.free(id, ask.group), ask.group, workers),
        None => Rc::default(),
    }
}
