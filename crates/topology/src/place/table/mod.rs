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

mod bound;
mod objective;
mod order;
mod search;

pub(super) use objective::{Split, Terms, cost, packed};

use order::Order;

use super::Eligibility;
use super::pack::Packer;
use super::ranks::Place;
use super::room::{Ask, State};
use super::vacancy::Vacancy;

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
    /// Ties are broken by the order of the tree.
    order: Order,
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
        let order = Order::of(state.tree, levels);
        Self { state, ask, packer, terms: Terms { levels }, vacancy, begun, rooms, fewest, exact: true, order }
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

    pub(super) fn level(&self, place: Place) -> usize {
        self.depth(place).map_or(0, |depth| depth + 1)
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
}
