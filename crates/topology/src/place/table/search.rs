//! The best domain of one level: best first, what looks alike once.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::rc::Rc;

use super::bound::{Bound, COMPARED};
use super::{Split, Spread};
use crate::place::ranks::Place;
use crate::tree::{BuildMixing, mix};

/// A place in the search: what anything in it costs at least, and its rank in the order of the tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    bound: Bound,
    order: u128,
    place: Place,
    /// Which child of the domain above it is, if others that look alike come after it.
    nth: Option<usize>,
    /// Whether the bound is from a closer look.
    is_close: bool,
}

impl Candidate {
    /// One that no others come after, with a bound from sums.
    fn new(bound: Bound, order: u128, place: Place) -> Self {
        Self { bound, order, place, nth: None, is_close: false }
    }
}

/// What a domain costs at least, as far as that is known from others.
#[derive(Clone)]
enum Floor {
    Unknown,
    /// Nothing in it can be the best.
    None,
    Cost(Rc<[i64]>),
}

/// By look of a domain: for each bound, which tells where it lies, its floor once that was asked for.
type Floors = HashMap<u64, Vec<(Bound, Option<Floor>)>, BuildMixing>;

impl<'s, 'a> Spread<'s, 'a> {
    /// The best way to put exactly `workers` into one domain of a level that is one of `places` or lies in one.
    pub(super) fn best_at(&mut self, places: &[Place], level: usize, workers: u32) -> Option<(Vec<i64>, Split)> {
        let mut open = BinaryHeap::with_capacity(64);
        for (nth, &place) in places.iter().enumerate() {
            if self.may_hold(place, level, workers) {
                let bound = self.bound(&self.outside(place, workers), place, level, workers);
                open.push(Reverse(Candidate::new(bound, self.order.ranked(0, 0, nth), place)));
            }
        }
        let mut best: Option<(Vec<i64>, Split, u128)> = None;
        let mut floors = Floors::default();
        while let Some(Reverse(candidate)) = open.pop() {
            let Candidate { bound, order, place, nth, is_close } = candidate;
            if best.as_ref().is_some_and(|(cost, ..)| bound > self.compared(cost)) {
                break;
            }
            // To look closer takes longer, and solving takes much longer than that.
            if !is_close && self.level(place) == level {
                let closer = self.closer(bound, place, workers);
                if closer > bound {
                    open.push(Reverse(Candidate { bound: closer, is_close: true, ..candidate }));
                    continue;
                }
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
                    self.open(id, at + 1, (&bound, order), level, workers, &mut open);
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
        (above, order): (&Bound, u128),
        level: usize,
        workers: u32,
        open: &mut BinaryHeap<Reverse<Candidate>>,
    ) {
        let tree = self.state.tree;
        let domain = tree.domain(id);
        // Those that look alike cost the same at least, unless the gang is in one of them.
        let mut last = None;
        for (nth, &child) in domain.children.iter().enumerate() {
            let look = self.skips_alike().then(|| tree.domain(child).signature);
            if look.is_some() && look == last {
                continue;
            }
            let place = Place::Domain(child);
            if self.may_hold(place, level, workers) {
                let bound = self.bound(above, place, level, workers);
                let candidate = Candidate::new(bound, self.order.ranked(order, at, nth), place);
                open.push(Reverse(Candidate { nth: look.and(Some(nth)), ..candidate }));
                last = look;
            }
        }
        for (nth, &seat) in domain.seats.iter().enumerate() {
            let place = Place::Seat(seat);
            if self.may_hold(place, level, workers) {
                let bound = self.bound(above, place, level, workers);
                open.push(Reverse(Candidate::new(bound, self.order.ranked(order, at, nth), place)));
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
        let order = self.order.beside(order, self.level(place), nth);
        let candidate = Candidate::new(bound, order, Place::Domain(children[nth]));
        open.push(Reverse(Candidate { nth: Some(nth), ..candidate }));
    }

    /// Whether what looks the same need not be looked at twice: signatures know nothing of slices, nor of what the gang has
    /// already.
    fn skips_alike(&self) -> bool {
        !self.begun && self.ask.slices.is_empty()
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
        let look = self.look_there(id, workers);
        match floors.get(&look).and_then(|seen| seen.iter().find(|seen| seen.0 == bound)) {
            None => {
                floors.entry(look).or_default().push((bound, None));
                return Floor::Unknown;
            }
            Some(_) if self.vacancy.is_plain() => return Floor::None,
            Some((_, Some(floor))) => return floor.clone(),
            Some((_, None)) => {}
        }
        if !self.vacancy.can_assume_all() {
            return Floor::Unknown;
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

    /// The signature of a domain. Bounds tell where it lies, but of more levels than they know not all of it: then what the
    /// domains above add beyond them is in it, too.
    fn look_there(&self, id: u32, workers: u32) -> u64 {
        let tree = self.state.tree;
        let mut look = tree.domain(id).signature;
        if self.terms.wires() > COMPARED {
            for above in tree.ancestors(tree.domain(id).parent) {
                let Some(depth) = tree.domain(above).depth else { break };
                self.own(above, depth, workers, |term, value| {
                    if term >= COMPARED {
                        look = mix(look ^ mix(term as u64) ^ value as u64);
                    }
                });
            }
        }
        look
    }

    /// Domains with the same signature have equally good splits. None if something runs or was given away there.
    pub(in crate::place) fn signature(&self, place: Place) -> Option<u64> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is the test's own message")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::place::ask::question;
    use crate::place::pack::Packer;
    use crate::place::room::State;
    use crate::tree::ROOT;
    use crate::tree::tests::{LABELS, apply, events};
    use crate::{Cluster, Exclusion, Gang, Group, LevelLabel, NodeName};

    /// All places of a level, counted from the root, that are a place or lie in it.
    fn of_level(cluster: &Cluster, place: Place, level: usize) -> Vec<Place> {
        let tree = cluster.tree();
        let mut all = vec![place];
        for _ in 0..=LABELS.len() {
            let open = all.iter().flat_map(|&place| match place {
                Place::Domain(id) if tree.domain(id).depth.map_or(0, |depth| depth + 1) < level => {
                    let domain = tree.domain(id);
                    let seats = domain.seats.iter().map(|&id| Place::Seat(id));
                    domain.children.iter().map(|&id| Place::Domain(id)).chain(seats).collect()
                }
                _ => vec![place],
            });
            all = open.collect();
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_search_finds_what_trying_every_domain_finds(
            events in events(60, 40), workers in 1u32..=12, gpus in 1u32..=4, off in prop::option::of(any::<u64>()),
        ) {
            let mut cluster = Cluster::new(LABELS.map(|label| LevelLabel::new(label, label)).to_vec()).unwrap();
            events.iter().for_each(|event| apply(&mut cluster, event));
            let gang = Gang { groups: vec![Group::new("w", workers, gpus)], ..Gang::default() };
            let question = question(&cluster, &gang).unwrap();
            let (state, mut packer) = (State::new(cluster.tree()), Packer::default());
            let kept_off = |_: &Group, node: &NodeName| {
                let number: u32 = node.as_str()[1..].parse().unwrap();
                if off.is_some_and(|off| off >> number & 1 == 1) { Err(Exclusion::NotReady) } else { Ok(()) }
            };
            let eligible: Option<crate::Eligibility<'_>> = if off.is_some() { Some(&kept_off) } else { None };
            let levels = LABELS.len() + 1;
            let root = Place::Domain(ROOT);
            let mut spread = Spread::new(&state, &question.asks[0], &mut packer, eligible, levels, root);
            for outer in 0..levels {
                for top in of_level(&cluster, root, outer) {
                    for level in outer..=levels {
                        let each = of_level(&cluster, top, level).into_iter().filter_map(|place| spread.solved(place, workers));
                        let best = each.min_by(|a, b| a.0.cmp(&b.0));
                        let found = spread.best_at(&[top], level, workers);
                        prop_assert_eq!(&found, &best, "{:?}, level {}", top, level);
                        // What is known beforehand is no more than that, whether all nodes will do or not.
                        let bound = spread.bound(&spread.outside(top, workers), top, level, workers);
                        let least_free = match top {
                            Place::Domain(id) => spread.vacancy.least_free(id, workers),
                            Place::Seat(_) => None,
                        };
                        let known = least_free.map(|free| free.of(workers));
                        let closer = spread.bound_with(&spread.outside(top, workers), top, level, workers, known);
                        prop_assert!(bound <= closer, "{:?}, level {}: {:?}", top, level, bound);
                        let closest = spread.closer(bound, top, workers);
                        if let (Some((cost, _)), true) = (&found, spread.level(top) == level) {
                            prop_assert!(closest <= spread.compared(cost), "{:?}, level {}: {:?}", top, level, closest);
                        }
                        if let Some((cost, _)) = found {
                            prop_assert!(closer <= spread.compared(&cost), "{:?}, level {}: {:?}", top, level, closer);
                        }
                    }
                }
            }
        }
    }
}
