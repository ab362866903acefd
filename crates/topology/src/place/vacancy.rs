//! How many workers of a group places have room for: looked up in the sums of the tree, or worked out node by node where
//! and when it is asked for.

use std::cell::Cell;
use std::sync::Arc;

use super::Eligibility;
use super::fewest::{Least, LeastFree, Summed, enough, hosts, least_of_sets, left_on};
use super::ranks::Place;
use super::room::{Ask, State};
use crate::tree::ROOT;

/// Not worked out yet.
const UNKNOWN: u32 = u32::MAX;

/// Room for the workers of one group.
pub(super) struct Vacancy<'s, 'a> {
    state: &'s State<'a>,
    ask: &'s Ask<'a>,
    eligible: Option<Eligibility<'s>>,
    source: Source<'s>,
    /// Workers that a place must take at least, by slice level: gaps in slices begun there.
    gaps: Vec<Vec<(Place, u32)>>,
    host: usize,
    /// Whether to take all nodes of the product that is wanted as good enough for now.
    all: Cell<bool>,
    /// A list to be used again.
    rooms: Cell<Vec<(u32, u32)>>,
}

enum Source<'s> {
    /// GPUs are all that counts and nothing was given away: the sums that the tree keeps say it.
    Sums,
    /// By number, worked out when it is first asked for. A group without slices.
    /// Where a product is wanted, also that and what of it each domain has free.
    Asked { seats: Vec<Cell<u32>>, domains: Vec<Cell<u32>>, suiting: Option<(&'s str, Vec<Cell<u32>>)> },
    /// By number, all of it: what whole slices and begun ones can use. `dues` is what must go below a domain at least.
    Slices { seats: Vec<u32>, domains: Vec<u32>, dues: Vec<u32> },
}

impl<'s, 'a> Vacancy<'s, 'a> {
    /// For places at and below `top`. Without `eligible`, every node will do.
    pub(super) fn new(
        state: &'s State<'a>,
        ask: &'s Ask<'a>,
        eligible: Option<Eligibility<'s>>,
        levels: usize,
        top: Place,
    ) -> Self {
        let group = ask.group;
        let plain = bounded(ask) && group.product.is_none() && group.joined_by.is_none();
        let plain = plain && group.resources.is_empty() && ask.labels.is_empty();
        let host = levels - 1;
        if !ask.slices.is_empty() {
            let mut seats = vec![0; state.tree.seat_bound()];
            for id in top.seats(state.tree) {
                seats[id as usize] = state.capacity(id, ask, eligible).unwrap_or(0);
            }
            return Self::known(state, ask, seats, levels, top);
        }
        let source = if plain && eligible.is_none() && state.is_untouched() {
            Source::Sums
        } else {
            let unknown = |many| vec![Cell::new(UNKNOWN); many];
            let (seats, domains) = (state.tree.seat_bound(), state.tree.domain_bound());
            let suiting = group.product.as_deref().map(|wanted| (wanted, unknown(domains)));
            Source::Asked { seats: unknown(seats), domains: unknown(domains), suiting }
        };
        Self { state, ask, eligible, source, gaps: Vec::new(), host, all: Cell::default(), rooms: Cell::default() }
    }

    /// With the room of every seat at and below `top` already known.
    pub(super) fn known(state: &'s State<'a>, ask: &'s Ask<'a>, seats: Vec<u32>, levels: usize, top: Place) -> Self {
        let gaps = ask.slices.iter().map(|&(depth, size)| gaps(state, ask, depth, size)).collect();
        let mut vacancy = Self {
            state,
            ask,
            eligible: None,
            source: Source::Sums,
            gaps,
            host: levels - 1,
            all: Cell::default(),
            rooms: Cell::default(),
        };
        let mut domains = vec![0; state.tree.domain_bound()];
        let mut dues = vec![0; state.tree.domain_bound()];
        if let Place::Domain(id) = top {
            vacancy.sum_up(id, &seats, &mut domains, &mut dues);
        }
        vacancy.source = Source::Slices { seats, domains, dues };
        vacancy
    }

    fn sum_up(&self, id: u32, seats: &[u32], domains: &mut [u32], dues: &mut [u32]) {
        let domain = self.state.tree.domain(id);
        let (mut sum, mut due) = (0u32, 0u32);
        for &child in &domain.children {
            self.sum_up(child, seats, domains, dues);
            sum = sum.saturating_add(domains[child as usize]);
            due += dues[child as usize];
        }
        for &seat in &domain.seats {
            sum = sum.saturating_add(self.round(Place::Seat(seat), self.host, seats[seat as usize]));
            due += self.gap(self.host, Place::Seat(seat)).map_or(0, |(gap, _)| gap);
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
    pub(super) fn allows(&self, place: Place, depth: usize, workers: u32) -> bool {
        self.gap(depth, place).is_none_or(|(gap, size)| workers >= gap && (workers - gap).is_multiple_of(size))
    }

    /// The most workers that a place can take.
    pub(super) fn room(&self, place: Place) -> u32 {
        match (&self.source, place) {
            (Source::Sums, _) => self.at_most(place),
            (Source::Asked { .. }, _) if self.all.get() => self.at_most(place),
            (Source::Slices { domains, .. }, Place::Domain(id)) => domains[id as usize],
            (Source::Slices { seats, .. }, Place::Seat(id)) => self.round(place, self.host, seats[id as usize]),
            (Source::Asked { domains, .. }, Place::Domain(id)) => {
                let known = &domains[id as usize];
                if known.get() == UNKNOWN {
                    known.set(self.sum(id));
                }
                known.get()
            }
            (Source::Asked { seats, .. }, Place::Seat(id)) => {
                let known = &seats[id as usize];
                if known.get() == UNKNOWN {
                    let none = self.at_most(place) == 0;
                    let room = if none { 0 } else { self.state.capacity(id, self.ask, self.eligible).unwrap_or(0) };
                    known.set(room.min(UNKNOWN - 1));
                }
                known.get()
            }
        }
    }

    fn sum(&self, id: u32) -> u32 {
        if self.at_most(Place::Domain(id)) == 0 {
            return 0;
        }
        self.below(id).map(|place| self.room(place)).fold(0, u32::saturating_add).min(UNKNOWN - 1)
    }

    /// What lies right below a domain, without nodes that have no room for a worker at first sight.
    pub(super) fn below(&self, id: u32) -> impl Iterator<Item = Place> {
        let domain = self.state.tree.domain(id);
        let least = match self.source {
            Source::Slices { .. } => 0,
            Source::Sums | Source::Asked { .. } if bounded(self.ask) => self.ask.group.gpus,
            Source::Sums | Source::Asked { .. } => 0,
        };
        let seats = domain.seats.iter().zip(&domain.whole).filter(move |&(_, &whole)| u32::from(whole) >= least);
        domain.children.iter().map(|&id| Place::Domain(id)).chain(seats.map(|(&id, _)| Place::Seat(id)))
    }

    /// What the room of a place is at most, at no cost: what the free GPUs of its nodes with the product that is wanted let, if
    /// all these nodes will do.
    pub(super) fn at_most(&self, place: Place) -> u32 {
        let gpus = self.ask.group.gpus;
        match (&self.source, place) {
            (Source::Slices { .. }, _) => self.room(place),
            _ if !bounded(self.ask) => UNKNOWN - 1,
            (Source::Asked { suiting: Some((wanted, known)), .. }, _) => self.of_product(place, wanted, known),
            (_, Place::Domain(id)) => self.state.tree.domain(id).room(gpus),
            (_, Place::Seat(id)) => self.state.seat(id).map_or(0, |seat| seat.room(gpus)),
        }
    }

    /// What nodes with GPUs of the product that is wanted let: where all products of a domain suit its sums say it, else those of
    /// what lies right below it.
    fn of_product(&self, place: Place, wanted: &str, known: &[Cell<u32>]) -> u32 {
        let gpus = self.ask.group.gpus;
        let suits = |product: &Arc<str>| self.state.suits(product, wanted);
        match place {
            Place::Domain(id) => {
                let domain = self.state.tree.domain(id);
                let suiting = domain.products.iter().filter(|(product, _)| suits(product)).count();
                if suiting == 0 || suiting == domain.products.len() {
                    return if suiting == 0 { 0 } else { domain.room(gpus) };
                }
                let known = &known[id as usize];
                if known.get() == UNKNOWN {
                    let sum = self.below(id).map(|place| self.at_most(place)).fold(0, u32::saturating_add);
                    known.set(sum.min(UNKNOWN - 1));
                }
                known.get()
            }
            Place::Seat(id) => {
                let Some(seat) = self.state.seat(id) else { return 0 };
                let any = seat.member.node.gpus().iter().any(|gpu| suits(&gpu.product));
                if any { seat.room(gpus) } else { 0 }
            }
        }
    }

    /// The most room in one domain that is this place or below it, `between` levels above the innermost, at no cost: no more
    /// than this.
    pub(super) fn at_most_in_one(&self, place: Place, between: Option<usize>) -> u32 {
        let all = self.at_most(place);
        match (&self.source, place, between) {
            (Source::Sums | Source::Asked { .. }, Place::Domain(id), Some(between)) if bounded(self.ask) => {
                self.state.tree.domain(id).roomiest(self.ask.group.gpus, between).map_or(all, |room| room.min(all))
            }
            _ => all,
        }
    }

    /// Whether [`Self::at_most`] says no more than [`Self::room`], everywhere.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.source, Source::Sums) || self.all.get()
    }

    /// Whether [`Self::assume_all`] makes a difference: rooms have to be asked for, and the sums say something about them.
    pub(super) fn can_assume_all(&self) -> bool {
        matches!(self.source, Source::Asked { .. }) && self.ask.group.mig_profile.is_none()
    }

    /// Takes [`Self::at_most`] for the room until told otherwise.
    pub(super) fn assume_all(&self, all: bool) {
        self.all.set(all);
    }

    /// What a place must take at least: the gaps of slices begun at or below it.
    pub(super) fn due(&self, place: Place) -> u32 {
        match (&self.source, place) {
            (Source::Slices { dues, .. }, Place::Domain(id)) => dues[id as usize],
            (Source::Slices { .. }, Place::Seat(_)) => self.gap(self.host, place).map_or(0, |(gap, _)| gap),
            _ => 0,
        }
    }

    /// The fewest nodes below a domain that have room for so many workers, or fewer.
    pub(super) fn fewest_hosts(&self, id: u32, workers: u32) -> u32 {
        if !bounded(self.ask) || workers <= 1 {
            return u32::from(workers > 0);
        }
        hosts(&self.state.tree.domain(id).by_free, self.ask.group.gpus, workers)
    }

    /// The fewest GPUs that workers leave over on `hosts` nodes below a domain if no fewer have the room, or fewer.
    pub(super) fn least_left(&self, id: u32, hosts: u32) -> u32 {
        if bounded(self.ask) { left_on(&self.state.tree.domain(id).by_free, self.ask.group.gpus, hosts) } else { 0 }
    }

    /// What the workers use and leave over at least in the fewest domains right below a domain that have the room, two at least.
    /// None where that is not known.
    pub(super) fn least_of_sets(&self, id: u32, workers: u32) -> Option<Least> {
        if !bounded(self.ask) {
            return None;
        }
        let tree = self.state.tree;
        let summed = |&child: &u32| {
            let domain = tree.domain(child);
            Summed { room: self.at_most(Place::Domain(child)), free: domain.free, by_free: &domain.by_free }
        };
        let children: Vec<Summed<'_>> = tree.domain(id).children.iter().map(summed).collect();
        least_of_sets(&children, self.ask.group.gpus, workers)
    }

    /// What the workers leave over at least in the domain right below a domain that they are all in.
    pub(super) fn least_left_in_child(&self, id: u32, workers: u32) -> u32 {
        if !bounded(self.ask) {
            return 0;
        }
        let tree = self.state.tree;
        let children = tree.domain(id).children.iter().map(|&child| tree.domain(child));
        let roomy = children.filter(|child| child.room(self.ask.group.gpus) >= workers);
        roomy.map(|child| child.free).min().map_or(0, |free| free - self.ask.group.gpus * workers)
    }

    /// Where the workers fit on one node below a domain: what they leave over at least on it, and then in each domain in
    /// between, the innermost first, as far as that is known.
    pub(super) fn least_left_on_one(&self, id: u32, workers: u32) -> (u32, impl Iterator<Item = u32>) {
        let needed = self.ask.group.gpus.saturating_mul(workers);
        let domain = self.state.tree.domain(id);
        let mut nodes = domain.by_free.iter().zip(0..).skip(needed as usize);
        let free = nodes.find(|(nodes, _)| **nodes > 0).map(|(_, free)| free).filter(|_| bounded(self.ask));
        let between = free.and_then(|free| domain.tightest(free)).unwrap_or_default();
        (free.map_or(0, |free: u32| free - needed), between.iter().map(move |free| free - needed))
    }

    /// The fewest domains right below a domain that have room for so many workers, or fewer, and what they leave over in so
    /// many of them, or less.
    pub(super) fn fewest_children(&self, id: u32, workers: u32) -> (u32, u32) {
        let tree = self.state.tree;
        let mut rooms = self.rooms.take();
        rooms.clear();
        rooms.extend(
            tree.domain(id).children.iter().map(|&child| (self.at_most(Place::Domain(child)), tree.domain(child).free)),
        );
        rooms.sort_unstable_by(|a, b| b.cmp(a));
        let (mut fewest, mut left) = (usize::from(workers > 0), 0);
        if bounded(self.ask) {
            fewest = rooms.len();
            if let Some((enough, sum)) = enough(rooms.iter().map(|&(room, _)| room), workers) {
                fewest = enough;
                // The others leave at least so many to each; one with less room takes no part.
                let least = u64::from(rooms[enough - 1].0).saturating_sub(sum - u64::from(workers));
                rooms.retain(|&(room, _)| u64::from(room) >= least);
                rooms.sort_unstable_by_key(|&(_, free)| free);
                let free: u32 = rooms[..enough].iter().map(|&(_, free)| free).sum();
                left = free.saturating_sub(self.ask.group.gpus * workers);
            }
        }
        self.rooms.set(rooms);
        (fewest as u32, left)
    }

    /// The same for up to `most` workers at once, and not less. None if that takes too long.
    pub(super) fn least_free(&self, id: u32, most: u32) -> Option<LeastFree> {
        if !bounded(self.ask) {
            return None;
        }
        let tree = self.state.tree;
        let children = tree.domain(id).children.iter();
        let rooms = children.map(|&child| (self.at_most(Place::Domain(child)), tree.domain(child).free));
        LeastFree::new(&rooms.collect::<Vec<_>>(), most, self.ask.group.gpus)
    }

    /// Whether a place has the labels of all levels that the group needs, as far out as it lies.
    pub(super) fn is_labelled(&self, place: Place) -> bool {
        let tree = self.state.tree;
        let inner = match place {
            Place::Domain(id) => id,
            Place::Seat(id) => tree.parent_of_seat(id),
        };
        self.all.get()
            || self.ask.labels.iter().all(|(depth, _)| {
                let above = tree.ancestors(inner).find(|&id| tree.domain(id).depth == Some(*depth));
                above.is_none_or(|id| id == ROOT || tree.domain(id).key.name.is_some())
            })
    }
}

/// Whether the number of free whole GPUs bounds how many workers fit.
fn bounded(ask: &Ask<'_>) -> bool {
    ask.group.gpus > 0 && ask.group.mig_profile.is_none()
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
