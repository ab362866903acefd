//! The tree of domains over the nodes, with sums that change along one path per event.

mod domain;
mod mixing;
mod sums;

use std::sync::Arc;

use domain::Key;
use sums::Sums;

pub(crate) use domain::Domain;
pub(crate) use mixing::{BuildMixing, mix};

use crate::pages::Pages;
use crate::trie::Trie;
use crate::{NodeName, Seat};

/// The whole cluster: the domain above all levels.
pub(crate) const ROOT: u32 = 0;

/// Domains and seats by number. Numbers of what was removed are used again. A clone shares everything until it changes.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    /// What there is at each level above the node, the outermost first.
    levels: Box<[Level]>,
    domains: Pages<Arc<Domain>>,
    seats: Pages<Place>,
    by_name: Trie<NodeName, u32>,
    unused_domains: Vec<u32>,
    unused_seats: Vec<u32>,
}

/// The domains of one level.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Level {
    pub(crate) domains: u32,
    /// Those whose nodes lack the label.
    pub(crate) unnamed: u32,
}

impl Level {
    fn count(&mut self, key: &Key, count: impl Fn(&mut u32)) {
        count(&mut self.domains);
        if key.name.is_none() {
            count(&mut self.unnamed);
        }
    }
}

/// A place for a seat, and the innermost domain that it is in.
#[derive(Clone, Debug, Default)]
struct Place {
    seat: Option<Arc<Seat>>,
    parent: u32,
}

impl Tree {
    pub(crate) fn new(levels: usize) -> Self {
        let mut domains = Pages::new();
        domains.push(Arc::new(Domain::default()));
        Self {
            levels: vec![Level::default(); levels].into(),
            domains,
            seats: Pages::new(),
            by_name: Trie::new(),
            unused_domains: Vec::new(),
            unused_seats: Vec::new(),
        }
    }

    /// Levels above the node.
    pub(crate) fn levels(&self) -> usize {
        self.levels.len()
    }

    /// What there is at a level above the node.
    pub(crate) fn level(&self, depth: usize) -> Option<Level> {
        self.levels.get(depth).copied()
    }

    pub(crate) fn domain(&self, id: u32) -> &Domain {
        &self.domains[id]
    }

    /// A seat by a number taken from this tree.
    pub(crate) fn seat(&self, id: u32) -> Option<&Seat> {
        self.seats[id].seat.as_deref()
    }

    pub(crate) fn parent_of_seat(&self, id: u32) -> u32 {
        self.seats[id].parent
    }

    pub(crate) fn seat_id(&self, name: &NodeName) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn seat_named(&self, name: &NodeName) -> Option<&Seat> {
        self.seat(self.seat_id(name)?)
    }

    /// Sorted anew each time, O(n·log n).
    pub(crate) fn seats_by_name(&self) -> impl Iterator<Item = &Seat> {
        let mut seats: Vec<&Seat> = self.by_name.iter().filter_map(|(_, &id)| self.seat(id)).collect();
        seats.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        seats.into_iter()
    }

    /// One more than the highest number of a seat.
    pub(crate) fn seat_bound(&self) -> usize {
        self.seats.len()
    }

    /// One more than the highest number of a domain.
    pub(crate) fn domain_bound(&self) -> usize {
        self.domains.len()
    }

    /// The domains of a level, in the order of their paths.
    pub(crate) fn domains_at(&self, depth: usize) -> Vec<u32> {
        let mut level = vec![ROOT];
        for _ in 0..=depth.min(self.levels.len()) {
            level = level.iter().flat_map(|&id| self.domain(id).children.iter().copied()).collect();
        }
        level
    }

    /// The seats below a domain, in the order of their paths.
    pub(crate) fn seats_below(&self, id: u32) -> Vec<u32> {
        let mut found = Vec::with_capacity(self.domain(id).nodes as usize);
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            let domain = self.domain(id);
            open.extend(domain.children.iter().rev());
            found.extend(&domain.seats);
        }
        found
    }

    /// What seats are ordered by: their domains from the outermost, then their names.
    pub(crate) fn path(&self, seat: u32) -> (Vec<&Key>, Option<&NodeName>) {
        let mut keys: Vec<&Key> = self.ancestors(self.parent_of_seat(seat)).map(|id| &self.domain(id).key).collect();
        keys.reverse();
        (keys, self.seat(seat).map(Seat::name))
    }

    /// The domain of a seat at a level.
    pub(crate) fn domain_of_seat(&self, seat: u32, depth: usize) -> Option<u32> {
        self.ancestors(self.parent_of_seat(seat)).find(|&id| self.domain(id).depth == Some(depth))
    }

    /// A domain and all above it, the root last.
    pub(crate) fn ancestors(&self, id: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(Some(id), |&id| (id != ROOT).then(|| self.domain(id).parent))
    }

    /// Adds a seat, or replaces the one of that name.
    pub(crate) fn insert(&mut self, seat: Seat) {
        let name = seat.name().clone();
        let moved = self.seat_named(&name).is_some_and(|old| old.path != seat.path);
        if moved {
            self.remove(&name);
        }
        if let Some(id) = self.seat_id(&name) {
            let old = self.seats[id].seat.replace(Arc::new(seat));
            self.adjust(id, old.as_deref());
            self.count_products(id, old.as_deref());
            return;
        }
        let parent = self.descend(&seat);
        let id = match self.unused_seats.pop() {
            Some(id) => id,
            None => {
                self.seats.push(Place::default());
                (self.seats.len() - 1) as u32
            }
        };
        self.seats[id] = Place { seat: Some(Arc::new(seat)), parent };
        let position =
            self.domain(parent).seats.partition_point(|&other| self.seat(other).is_some_and(|s| *s.name() < name));
        let domain = self.domain_mut(parent);
        domain.seats.insert(position, id);
        domain.whole.insert(position, 0);
        self.by_name.insert(&name, id);
        self.adjust(id, None);
        self.count_products(id, None);
    }

    /// Takes a seat out, and the domains that this leaves empty. False if there was none.
    pub(crate) fn remove(&mut self, name: &NodeName) -> bool {
        let Some(id) = self.by_name.remove(name) else { return false };
        let old = self.seats[id].seat.take();
        self.adjust(id, old.as_deref());
        self.count_products(id, old.as_deref());
        let mut at = self.parent_of_seat(id);
        let domain = self.domain_mut(at);
        if let Some(position) = domain.seats.iter().position(|&other| other == id) {
            domain.seats.remove(position);
            domain.whole.remove(position);
        }
        self.unused_seats.push(id);
        while at != ROOT && self.domain(at).nodes == 0 {
            let (parent, depth) = (self.domain(at).parent, self.domain(at).depth);
            if let Some(level) = depth.and_then(|depth| self.levels.get_mut(depth)) {
                level.count(&self.domains[at].key, |count| *count -= 1);
            }
            self.domain_mut(parent).children.retain(|&other| other != at);
            self.unused_domains.push(at);
            at = parent;
        }
        true
    }

    /// Changes a seat in place.
    pub(crate) fn change(&mut self, name: &NodeName, change: impl FnOnce(&mut Seat)) {
        let Some(id) = self.seat_id(name) else { return };
        let Some(mut seat) = self.seats[id].seat.take() else { return };
        let before = Sums::of(Some(&seat));
        change(Arc::make_mut(&mut seat));
        self.seats[id].seat = Some(seat);
        self.apply(id, before);
    }

    /// The innermost domain of a seat, made with those above it where they are not there yet.
    fn descend(&mut self, seat: &Seat) -> u32 {
        let mut at = ROOT;
        for (depth, name) in seat.path.iter().enumerate() {
            let further = seat.path[depth..].iter().any(Option::is_some);
            let key = Key { name: name.clone(), alone: (!further).then(|| seat.name().clone()) };
            at = match self.domain(at).children.binary_search_by(|&child| self.domain(child).key.cmp(&key)) {
                Ok(found) => self.domain(at).children[found],
                Err(position) => {
                    if let Some(level) = self.levels.get_mut(depth) {
                        level.count(&key, |count| *count += 1);
                    }
                    let domain = Arc::new(Domain { key, parent: at, depth: Some(depth), ..Domain::default() });
                    let id = match self.unused_domains.pop() {
                        Some(id) => {
                            self.domains[id] = domain;
                            id
                        }
                        None => {
                            self.domains.push(domain);
                            (self.domains.len() - 1) as u32
                        }
                    };
                    self.domain_mut(at).children.insert(position, id);
                    id
                }
            };
        }
        at
    }

    fn domain_mut(&mut self, id: u32) -> &mut Domain {
        Arc::make_mut(&mut self.domains[id])
    }

    fn adjust(&mut self, id: u32, old: Option<&Seat>) {
        self.apply(id, Sums::of(old));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is the test's own message")]
pub(crate) mod tests;
