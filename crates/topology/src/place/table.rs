//! The best split of one group's workers over domains, by dynamic programming over the tree.
//!
//! For a domain *d* let *f(d, t)* be the smallest objective with which exactly *t* workers fit below *d*. On a node it is
//! computed; for a domain it is *own(d, t)* plus the least Σ *f(child, tᵢ)* over all splits Σ *tᵢ = t*. The objective is a
//! vector compared term by term whose terms add up over the tree, and adding the same vector to two others keeps their
//! order, so the best split of the whole is made of best splits of the parts. Slices only take values of *t* away: at
//! their level a domain holds the gaps of the slices begun in it and whole slices.
//!
//! # Which domains
//! If no worker runs yet and some domain of a level has room for all, the optimum lies in one such domain: it uses one
//! domain at that level and at each above, nothing uses fewer, and domains used come first in the objective. So the
//! search goes down level by level while there are such domains. Those of the last level are taken in the order of a
//! lower bound, until the bound exceeds the best found; what is below a domain that looks the same as one already
//! solved ([`Domain::signature`](crate::tree::Domain)) is not solved again.

use std::rc::Rc;

use super::Eligibility;
use super::pack::{Packed, Packer};
use super::ranks::Place;
use super::room::{Ask, State};
use crate::tree::mix;

/// Above this many steps of the dynamic programme (about a millisecond) a domain is split greedily, largest room first.
const MOST_STEPS: u64 = 20_000;

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
pub(super) struct Spread<'s, 'a> {
    state: &'s State<'a>,
    ask: &'s Ask<'a>,
    packer: &'s mut Packer,
    terms: Terms,
    rooms: Rooms,
    /// Workers that a place must take at least, by slice level: gaps in slices begun there.
    gaps: Vec<Vec<(Place, u32)>>,
    /// Whether all that was found so far is proven best.
    pub(super) exact: bool,
}

/// How many workers places have room for.
enum Rooms {
    /// GPUs are all that counts and nothing was given away: the sums that the tree keeps say it.
    Sums,
    /// Worked out node by node below some place; by number, 0 elsewhere.
    Known {
        seats: Vec<u32>,
        /// Slices considered.
        domains: Vec<u32>,
        /// What must go below a domain at least.
        dues: Vec<u32>,
    },
}

/// *f(d, ·)* of one place, and how it came about.
struct Table {
    /// Row *t* is *f(d, t)*.
    cost: Vec<i64>,
    /// Whether *t* workers can be there.
    can: Vec<bool>,
    parts: Vec<(Place, Table, Vec<u32>)>,
}

impl<'s, 'a> Spread<'s, 'a> {
    /// For places at and below `top`. Without `eligible`, every node will do.
    pub(super) fn new(
        state: &'s State<'a>,
        ask: &'s Ask<'a>,
        packer: &'s mut Packer,
        eligible: Option<Eligibility<'_>>,
        levels: usize,
        top: Place,
    ) -> Self {
        let group = ask.group;
        let plain =
            group.gpus > 0 && group.product.is_none() && group.mig_profile.is_none() && group.resources.is_empty();
        if plain && eligible.is_none() && ask.slices.is_empty() && state.is_untouched() {
            let rooms = Rooms::Sums;
            return Self { state, ask, packer, terms: Terms { levels }, rooms, gaps: Vec::new(), exact: true };
        }
        let tree = state.tree;
        let mut seats = vec![0; tree.seat_bound()];
        let below = match top {
            Place::Domain(id) => tree.seats_below(id),
            Place::Seat(id) => vec![id],
        };
        for id in below {
            seats[id as usize] = state.capacity(id, ask, eligible).unwrap_or(0);
        }
        Self::with_rooms(state, ask, packer, seats, levels, top)
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
        let gaps = ask.slices.iter().map(|&(depth, size)| gaps(state, ask, depth, size)).collect();
        let mut spread = Self { state, ask, packer, terms: Terms { levels }, rooms: Rooms::Sums, gaps, exact: true };
        let mut domains = vec![0; state.tree.domain_bound()];
        let mut dues = vec![0; state.tree.domain_bound()];
        if let Place::Domain(id) = top {
            spread.sum_up(id, &seats, &mut domains, &mut dues);
        }
        spread.rooms = Rooms::Known { seats, domains, dues };
        spread
    }

    fn sum_up(&self, id: u32, seats: &[u32], domains: &mut [u32], dues: &mut [u32]) {
        let domain = self.state.tree.domain(id);
        let (mut sum, mut due) = (0u32, 0u32);
        for &child in &domain.children {
            self.sum_up(child, seats, domains, dues);
            sum = sum.saturating_add(domains[child as usize]);
            due += dues[child as usize];
        }
        let host = self.terms.levels - 1;
        for &seat in &domain.seats {
            sum = sum.saturating_add(self.round(Place::Seat(seat), host, seats[seat as usize]));
            due += self.gap(host, Place::Seat(seat)).map_or(0, |(gap, _)| gap);
        }
        domains[id as usize] = domain.depth.map_or(sum, |depth| self.round(Place::Domain(id), depth, sum));
        let own = domain.depth.and_then(|depth| self.gap(depth, Place::Domain(id)));
        dues[id as usize] = own.map_or(due, |(gap, _)| gap);
    }

    /// If a slice level has this depth: the gap of slices begun at a place, and the size of a slice.
    fn gap(&self, depth: usize, place: Place) -> Option<(u32, u32)> {
        let nth = self.ask.slices.iter().position(|&(at, _)| at == depth)?;
        let gap = self.gaps[nth].iter().find(|(at, _)| *at == place).map_or(0, |&(_, gap)| gap);
        Some((gap, self.ask.slices[nth].1))
    }

    /// The most of `room` that whole slices and begun ones can use at a place.
    fn round(&self, place: Place, depth: usize, room: u32) -> u32 {
        match self.gap(depth, place) {
            Some((gap, size)) if room >= gap => gap + (room - gap) / size * size,
            _ => room,
        }
    }

    /// Whether a place may hold exactly `workers` new ones as far as slices go.
    fn allowed(&self, place: Place, depth: usize, workers: u32) -> bool {
        self.gap(depth, place).is_none_or(|(gap, size)| workers >= gap && (workers - gap).is_multiple_of(size))
    }

    /// The most workers that a place can take.
    pub(super) fn room(&self, place: Place) -> u32 {
        match (&self.rooms, place) {
            (Rooms::Known { domains, .. }, Place::Domain(id)) => domains[id as usize],
            (Rooms::Known { seats, .. }, Place::Seat(id)) => {
                self.round(place, self.terms.levels - 1, seats[id as usize])
            }
            (Rooms::Sums, Place::Domain(id)) => self.state.tree.domain(id).room(self.ask.group.gpus),
            (Rooms::Sums, Place::Seat(id)) => self.state.seat(id).map_or(0, |seat| seat.room(self.ask.group.gpus)),
        }
    }

    /// What a place must take at least: the gaps of slices begun at or below it.
    fn due(&self, place: Place) -> u32 {
        match (&self.rooms, place) {
            (Rooms::Sums, _) => 0,
            (Rooms::Known { dues, .. }, Place::Domain(id)) => dues[id as usize],
            (_, Place::Seat(_)) => self.gap(self.terms.levels - 1, place).map_or(0, |(gap, _)| gap),
        }
    }

    /// The depth of a place; the root has none.
    fn depth(&self, place: Place) -> Option<usize> {
        match place {
            Place::Domain(id) => self.state.tree.domain(id).depth,
            Place::Seat(_) => Some(self.terms.levels - 1),
        }
    }

    fn children(&self, place: Place) -> Vec<Place> {
        let Place::Domain(id) = place else { return Vec::new() };
        let domain = self.state.tree.domain(id);
        let domains = domain.children.iter().map(|&id| Place::Domain(id));
        let places = domains.chain(domain.seats.iter().map(|&id| Place::Seat(id)));
        places.filter(|&place| self.room(place) > 0 || self.due(place) > 0).collect()
    }

    /// Whether a place has the labels of all levels that the group needs, as far out as it lies.
    fn labelled(&self, place: Place) -> bool {
        let tree = self.state.tree;
        let inner = match place {
            Place::Domain(id) => id,
            Place::Seat(id) => tree.parent_of_seat(id),
        };
        self.ask.labels.iter().all(|(depth, _)| {
            let above = tree.ancestors(inner).find(|&id| tree.domain(id).depth == Some(*depth));
            above.is_none_or(|id| tree.domain(id).key.name.is_some())
        })
    }

    /// The best way to put exactly `workers` into one of `places`, all of one level, with its objective.
    pub(super) fn best(&mut self, mut places: Vec<Place>, workers: u32) -> Option<(Vec<i64>, Split)> {
        let fits = |this: &Self, place: Place| this.room(place) >= workers && this.labelled(place);
        places.retain(|&place| fits(self, place));
        let begun = !self.ask.running.is_empty() || self.state.is_begun();
        if !begun {
            // Nodes are not looked at one by one here: the lower bound knows how many a domain takes.
            loop {
                let domains = places.iter().flat_map(|&place| match place {
                    Place::Domain(id) => self.state.tree.domain(id).children.as_slice(),
                    Place::Seat(_) => &[],
                });
                let deeper = domains.map(|&id| Place::Domain(id)).filter(|&place| self.room(place) >= workers);
                let deeper: Vec<Place> = deeper.collect();
                if deeper.is_empty() {
                    break;
                }
                places = deeper;
            }
        }
        let width = self.terms.width();
        let mut bounds = Vec::with_capacity(places.len() * width);
        for &place in &places {
            self.bound(place, workers, begun, &mut bounds);
        }
        let bound = |at: usize| &bounds[at * width..(at + 1) * width];
        let mut best: Option<(Vec<i64>, Split)> = None;
        let mut open: Vec<usize> = (0..places.len()).collect();
        // The next one is looked up as needed: most often the first is the last.
        while let Some(nth) =
            (0..open.len()).min_by(|&a, &b| bound(open[a]).cmp(bound(open[b])).then(open[a].cmp(&open[b])))
        {
            let at = open.swap_remove(nth);
            if best.as_ref().is_some_and(|(cost, _)| bound(at) > cost.as_slice()) {
                break;
            }
            if let Some(signature) = self.signature(places[at]) {
                // The others like it come later in order, so they lose the tie.
                open.retain(|&other| bound(other) != bound(at) || self.signature(places[other]) != Some(signature));
            }
            if let Some(found) = self.best_in(places[at], workers, begun)
                && best.as_ref().is_none_or(|best| found.0 < best.0)
            {
                best = Some(found);
            }
        }
        best
    }

    /// Appends what the objective of `workers` workers at a place is at least.
    fn bound(&self, place: Place, workers: u32, begun: bool, bounds: &mut Vec<i64>) {
        const LEAST: i64 = i64::MIN;
        let start = bounds.len();
        bounds.resize(start + self.terms.width(), 0);
        let bound = &mut bounds[start..];
        bound[self.terms.wires()] = LEAST;
        bound[self.terms.worth()] = LEAST;
        let (mut inner, from) = match place {
            Place::Domain(id) => (id, self.depth(place).map_or(0, |depth| depth + 1)),
            Place::Seat(id) => (self.state.tree.parent_of_seat(id), self.terms.levels - 1),
        };
        if !begun {
            bound[from..self.terms.levels].fill(1);
            if let Place::Domain(id) = place {
                bound[self.terms.used(self.terms.levels - 1)] = i64::from(self.fewest_hosts(id, workers));
            }
        }
        while let Some(depth) = self.state.tree.domain(inner).depth {
            add_domain(self.state, self.ask, self.terms, bound, inner, depth, workers);
            inner = self.state.tree.domain(inner).parent;
        }
    }

    /// The fewest nodes below a domain that have room for so many workers, or fewer.
    fn fewest_hosts(&self, id: u32, workers: u32) -> u32 {
        let domain = self.state.tree.domain(id);
        let mut rest = workers;
        let mut hosts = 0;
        let mut take = |room: u32, nodes: u32| {
            if rest > 0 && room > 0 {
                let taken = rest.div_ceil(room).min(nodes);
                hosts += taken;
                rest = rest.saturating_sub(taken.saturating_mul(room));
            }
        };
        match &self.rooms {
            Rooms::Sums => {
                for (free, &nodes) in domain.by_free.iter().enumerate().rev() {
                    take(free as u32 / self.ask.group.gpus, nodes);
                }
            }
            Rooms::Known { seats, .. } if domain.children.is_empty() => {
                let mut rooms: Vec<u32> = domain.seats.iter().map(|&seat| seats[seat as usize]).collect();
                rooms.sort_unstable_by(|a, b| b.cmp(a));
                rooms.into_iter().for_each(|room| take(room, 1));
            }
            Rooms::Known { .. } => take(u32::MAX, 1),
        }
        hosts
    }

    /// Two innermost domains with the same signature and bound have equally good splits. None elsewhere, or if something
    /// runs or was given away there.
    fn signature(&self, place: Place) -> Option<u64> {
        let Place::Domain(id) = place else { return None };
        if self.state.is_begun() || !self.ask.running.is_empty() {
            return None;
        }
        let domain = self.state.tree.domain(id);
        match &self.rooms {
            Rooms::Sums => Some(domain.signature),
            Rooms::Known { seats, .. } if domain.children.is_empty() => {
                let of = |&id: &u32| Some(mix(self.state.seat(id)?.signature ^ mix(u64::from(seats[id as usize]))));
                Some(domain.seats.iter().filter_map(of).fold(0, u64::wrapping_add))
            }
            Rooms::Known { .. } => None,
        }
    }

    /// The best way to put exactly `workers` below a place.
    fn best_in(&mut self, place: Place, workers: u32, begun: bool) -> Option<(Vec<i64>, Split)> {
        let one_host = match place {
            // One node is the fewest that there can be, so the optimum is on one if any has the room.
            Place::Domain(id) if !begun && workers > 0 => {
                let seats = self.state.tree.domain(id).seats.iter().copied();
                seats.filter(|&seat| self.room(Place::Seat(seat)) >= workers).collect()
            }
            Place::Domain(_) => Vec::new(),
            Place::Seat(id) => vec![id],
        };
        if one_host.is_empty() {
            let mut split = Split::new();
            self.fill(place, workers, &mut split)?;
            split.sort_unstable();
            return Some((self.cost(&split), split));
        }
        let splits = one_host.into_iter().map(|seat| vec![(seat, workers)]);
        let mut best: Option<(Vec<i64>, Split)> = None;
        for split in splits {
            let cost = self.cost(&split);
            if best.as_ref().is_none_or(|best| cost < best.0) {
                best = Some((cost, split));
            }
        }
        best
    }

    fn cost(&mut self, split: &Split) -> Vec<i64> {
        cost(self.state, self.ask, self.packer, self.terms, split, &mut self.exact)
    }

    fn fill(&mut self, place: Place, workers: u32, split: &mut Split) -> Option<()> {
        let children = self.children(place);
        if workers > 0 && children.iter().map(|&child| u64::from(self.room(child))).sum::<u64>() == u64::from(workers) {
            // Every child is full: there is nothing to choose.
            for child in children {
                let room = self.room(child);
                if room < self.due(child) {
                    return None;
                }
                match child {
                    Place::Seat(seat) => split.push((seat, room)),
                    Place::Domain(_) => self.fill(child, room, split)?,
                }
            }
            return Some(());
        }
        if self.steps(place, workers) > MOST_STEPS {
            self.exact = false;
            return self.greedy(place, workers, split);
        }
        let table = self.table(place, workers);
        if !*table.can.get(workers as usize)? {
            return None;
        }
        collect(&table, place, workers, split);
        Some(())
    }

    /// Steps of the dynamic programme below a place.
    fn steps(&self, place: Place, workers: u32) -> u64 {
        let mut sum = 0u64;
        let mut steps = 0u64;
        for child in self.children(place) {
            let room = u64::from(self.room(child).min(workers));
            steps += (sum.min(u64::from(workers)) + 1) * (room + 1) + self.steps(child, workers);
            sum += room;
            if steps > MOST_STEPS {
                break;
            }
        }
        steps
    }

    /// Gaps first; then children where the gang has workers already, and in each case the child with the most room, as
    /// much as fits; the last part goes where it fits best. Whole slices fit wherever there is room for them, so this
    /// finds a split whenever there is one.
    fn greedy(&mut self, place: Place, workers: u32, split: &mut Split) -> Option<()> {
        let mut parts: Vec<(Place, u32, u32)> = Vec::new();
        let mut rest = workers;
        for child in self.children(place) {
            let due = self.due(child);
            rest = rest.checked_sub(due)?;
            parts.push((child, due, self.room(child).checked_sub(due)?));
        }
        let is_new = |child: Place| match child {
            Place::Domain(id) => !self.state.domain_is_used(id),
            Place::Seat(id) => !self.state.seat_is_used(id),
        };
        parts.sort_by_key(|&(child, _, more)| (is_new(child), std::cmp::Reverse(more)));
        let mut at = 0;
        while rest > 0 {
            let (child, _, more) = *parts.get(at)?;
            if more >= rest {
                let alike = parts[at..].iter().enumerate().filter(|(_, part)| is_new(part.0) == is_new(child));
                let (last, _) = alike.filter(|(_, part)| part.2 >= rest).min_by_key(|(_, part)| part.2)?;
                parts[at + last].1 += rest;
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

    fn table(&mut self, place: Place, limit: u32) -> Table {
        let mut table = match place {
            Place::Seat(id) => self.seat_table(id, limit),
            Place::Domain(_) => self.domain_table(place, limit),
        };
        if let Some(depth) = self.depth(place) {
            let width = self.terms.width();
            for (workers, (cost, can)) in table.cost.chunks_mut(width).zip(&mut table.can).enumerate() {
                *can &= self.allowed(place, depth, workers as u32);
                if let (Place::Domain(id), true, true) = (place, *can, workers > 0) {
                    add_domain(self.state, self.ask, self.terms, cost, id, depth, workers as u32);
                }
            }
        }
        table
    }

    fn seat_table(&mut self, id: u32, limit: u32) -> Table {
        let most = self.room(Place::Seat(id)).min(limit);
        let width = self.terms.width();
        let mut cost = vec![0; (most as usize + 1) * width];
        for (workers, sum) in cost.chunks_mut(width).enumerate().skip(1) {
            let count = workers as u32;
            add_seat(self.state, self.ask, self.packer, self.terms, sum, id, count, &mut self.exact);
        }
        Table { cost, can: vec![true; most as usize + 1], parts: Vec::new() }
    }

    fn domain_table(&mut self, place: Place, limit: u32) -> Table {
        let width = self.terms.width();
        let mut sum = Table { cost: vec![0; width], can: vec![true], parts: Vec::new() };
        let mut row = vec![0; width];
        for child in self.children(place) {
            let table = self.table(child, limit);
            let most = (sum.can.len() + table.can.len() - 2).min(limit as usize);
            let mut cost = vec![0; (most + 1) * width];
            let mut can = vec![false; most + 1];
            let mut taken = vec![0u32; most + 1];
            // Smallest part first: among equals, earlier children get more.
            for part in (0..table.can.len().min(most + 1)).filter(|&part| table.can[part]) {
                let own = &table.cost[part * width..(part + 1) * width];
                for before in (0..sum.can.len().min(most + 1 - part)).filter(|&before| sum.can[before]) {
                    let at = before + part;
                    for ((row, a), b) in row.iter_mut().zip(&sum.cost[before * width..]).zip(own) {
                        *row = a + b;
                    }
                    let best = &mut cost[at * width..(at + 1) * width];
                    if !can[at] || row.as_slice() < &*best {
                        best.copy_from_slice(&row);
                        (can[at], taken[at]) = (true, part as u32);
                    }
                }
            }
            (sum.cost, sum.can) = (cost, can);
            sum.parts.push((child, table, taken));
        }
        sum
    }
}

/// Gaps of the slices of one level that running workers began, by the place where they are.
fn gaps(state: &State<'_>, ask: &Ask<'_>, depth: usize, size: u32) -> Vec<(Place, u32)> {
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
    // Domains by number: the innermost first, then what is above them, the same step for all since depths are equal.
    let mut domains: Vec<(u32, u32)> = Vec::with_capacity(split.len());
    for &(seat, workers) in split {
        add_seat(state, ask, packer, terms, &mut sum, seat, workers, exact);
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
            add_domain(state, ask, terms, &mut sum, *domain, depth, *workers);
            *domain = tree.domain(*domain).parent;
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
