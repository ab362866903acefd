//! What a place costs at least, from sums alone.

use super::Spread;
use crate::place::fewest::Least;
use crate::place::ranks::Place;
use crate::tree::ROOT;

/// Terms of the objective that domains are compared by before they are solved: all but wires and worth, for up to six
/// levels; of more levels the first terms, which bounds as well.
pub(super) const COMPARED: usize = 20;

/// What a place costs at least.
pub(in crate::place) type Bound = [u32; COMPARED];

impl<'s, 'a> Spread<'s, 'a> {
    /// Of the objective, what bounds know.
    pub(super) fn compared(&self, cost: &[i64]) -> Bound {
        std::array::from_fn(|term| if term < self.terms.wires() { cost[term] as u32 } else { 0 })
    }

    /// What the domains above a place cost.
    pub(super) fn outside(&self, place: Place, workers: u32) -> Bound {
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
    pub(in crate::place) fn bound(&self, above: &Bound, place: Place, level: usize, workers: u32) -> Bound {
        self.bound_with(above, place, level, workers, None)
    }

    /// The same, where it may be known how many domains right below the place the workers use at least, and what they leave
    /// over in so many.
    pub(in crate::place) fn bound_with(
        &self,
        above: &Bound,
        place: Place,
        level: usize,
        workers: u32,
        children: Option<(u32, u32)>,
    ) -> Bound {
        let levels = self.terms.levels;
        let mut bound = *above;
        match place {
            Place::Seat(id) => self.outline(id, workers, |term, value| set(&mut bound, term, value)),
            Place::Domain(id) => {
                if let Some(depth) = self.depth(place) {
                    self.own(id, depth, workers, |term, value| set(&mut bound, term, value));
                }
                if !self.begun && workers > 0 {
                    let at = self.level(place);
                    // What the domain above knows of levels further in need not be of this one.
                    (at..levels - 1).for_each(|depth| set(&mut bound, self.terms.left(depth), 0));
                    let mut fewest = 1;
                    for depth in at..levels {
                        if depth == levels - 1 {
                            fewest = fewest.max(self.vacancy.fewest_hosts(id, workers));
                        } else if depth == at && at == level {
                            let left;
                            (fewest, left) = children.unwrap_or_else(|| self.vacancy.fewest_children(id, workers));
                            set(&mut bound, self.terms.left(depth), i64::from(left));
                        }
                        set(&mut bound, self.terms.used(depth), i64::from(fewest));
                    }
                    let left = if fewest == 1 {
                        let (left, between) = self.vacancy.least_left_on_one(id, workers);
                        for (depth, left) in (at..levels - 1).rev().zip(between) {
                            set(&mut bound, self.terms.left(depth), i64::from(left));
                        }
                        left
                    } else {
                        if at + 1 == level {
                            let left = self.vacancy.least_left_in_child(id, workers);
                            set(&mut bound, self.terms.left(at), i64::from(left));
                        }
                        self.vacancy.least_left(id, fewest)
                    };
                    set(&mut bound, self.terms.left(levels - 1), i64::from(left));
                }
            }
        }
        bound
    }

    /// The same of a domain of the level that is tried, from a closer look: which of the sets of domains right below it that have
    /// the room costs least.
    pub(super) fn closer(&self, bound: Bound, place: Place, workers: u32) -> Bound {
        let Place::Domain(id) = place else { return bound };
        let mut closer = bound;
        let at = self.level(place);
        if !self.begun
            && at < self.terms.levels - 1
            && let Some(Least { hosts, left_on_hosts, left }) = self.vacancy.least_of_sets(id, workers)
        {
            let host = self.terms.levels - 1;
            let terms =
                [(self.terms.used(host), hosts), (self.terms.left(host), left_on_hosts), (self.terms.left(at), left)];
            terms.into_iter().for_each(|(term, value)| set(&mut closer, term, i64::from(value)));
        }
        closer.max(bound)
    }
}

fn set(bound: &mut Bound, term: usize, value: i64) {
    if let Some(slot) = bound.get_mut(term) {
        *slot = value as u32;
    }
}
