//! The tree of domains over the nodes, with sums that change along one path per event.

use std::sync::Arc;

use crate::pages::Pages;
use crate::stock::{Stock, Stocks};
use crate::trie::Trie;
use crate::{DomainName, NodeName, Seat};

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

/// One domain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Domain {
    pub(crate) key: Key,
    pub(crate) parent: u32,
    /// Level of this domain, 0 for the outermost; the root has none.
    pub(crate) depth: Option<usize>,
    /// Domains one level below, by key; empty at the innermost level.
    pub(crate) children: Vec<u32>,
    /// Nodes by name; only at the innermost level.
    pub(crate) seats: Vec<u32>,
    /// Whole GPUs that each of these nodes has for new work, so that those without need not be looked up.
    pub(crate) whole: Vec<u8>,
    /// Nodes below.
    pub(crate) nodes: u32,
    /// GPUs below that can be given away.
    pub(crate) free: u32,
    /// Nodes below of which a GPU is held or planned.
    pub(crate) busy: u32,
    /// Nodes below that are part of an NVLink domain of several nodes.
    pub(crate) nvlinked: u32,
    /// How many nodes below have so many whole GPUs for new work, by that number; not longer than needed.
    pub(crate) by_free: Vec<u32>,
    /// How many nodes below there are of each kind of stock.
    pub(crate) stocks: Stocks,
    /// Products of GPUs, and how many nodes below have some.
    pub(crate) products: Vec<(Arc<str>, u32)>,
    /// Room for workers of one, two, … whole GPUs each, as [`Self::room`] says it.
    rooms: [u32; SUMMED],
    /// For nodes of one, two, … free whole GPUs, where they are tightest, as [`Self::tightest`] says it.
    tight: Vec<Tight>,
    /// For workers of one, two, … whole GPUs, the most room of one domain, as [`Self::roomiest`] says it.
    roomy: Vec<Roomy>,
    /// Sum over what is right below, so equal for domains that hold the same in any order. (Different ones are equal with a
    /// chance of 2⁻⁶⁴.)
    pub(crate) signature: u64,
}

/// Sizes of workers for which each domain keeps the sum of the room: those that machines of eight GPUs can take.
const SUMMED: usize = 8;

/// Levels between a domain and its nodes for which it knows where nodes are tightest; of more the innermost.
const LEVELS: usize = 4;

/// The least free GPUs of the domains that hold a node, from the innermost outwards, compared in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tight {
    free: [u32; LEVELS],
    /// The domain right below that this is of.
    child: u32,
}

impl Tight {
    const NOWHERE: Self = Self { free: [u32::MAX; LEVELS], child: u32::MAX };
}

/// The most room in one of the domains below, by level, the innermost first, and the domain right below that it is in.
type Roomy = [(u32, u32); LEVELS];

impl Domain {
    /// The most room for workers of so many whole GPUs in one domain below, `between` levels above the innermost; none where
    /// that is not known.
    pub(crate) fn roomiest(&self, gpus: u32, between: usize) -> Option<u32> {
        Some(self.roomy.get((gpus as usize).checked_sub(1)?)?.get(between)?.0)
    }

    /// Of the nodes below with just so many free whole GPUs, the one whose domains have the least free GPUs: those of each
    /// level in between, the innermost first. None where that is not known.
    pub(crate) fn tightest(&self, free: u32) -> Option<&[u32]> {
        let tight = self.tight.get((free as usize).checked_sub(1)?)?;
        Some(tight.free.as_slice()).filter(|_| tight.child != u32::MAX)
    }

    /// Whether it holds nodes of an NVLink domain, and nodes only: the rack of an NVL72, or its part of a larger one.
    pub(crate) fn is_nvlink(&self) -> bool {
        self.nvlinked > 0 && self.children.is_empty()
    }

    /// Room for workers of so many whole GPUs each that ask for nothing else.
    pub(crate) fn room(&self, gpus: u32) -> u32 {
        let gpus = gpus.max(1);
        if let Some(&room) = self.rooms.get(gpus as usize - 1) {
            return room;
        }
        let from = self.by_free.iter().enumerate().skip(gpus as usize);
        from.map(|(free, &nodes)| nodes.saturating_mul(free as u32 / gpus)).fold(0, u32::saturating_add)
    }
}

/// Spreads the bits of a number so that sums of such numbers tell what was summed (SplitMix64's finish).
pub(crate) fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// A hasher for keys that are signatures or small numbers, where nobody can choose them to clash.
#[derive(Clone, Copy, Default)]
pub(crate) struct Mixing(u64);

pub(crate) type BuildMixing = std::hash::BuildHasherDefault<Mixing>;

impl std::hash::Hasher for Mixing {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let word = chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
            self.write_u64(word);
        }
    }
    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = mix(self.0 ^ number);
    }
    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }
}

/// What tells a domain from its siblings.
///
/// Nodes whose label is missing share a domain if they have a label further in: a cluster without zone labels has one
/// unnamed zone with its racks. A node without any further label is alone: nothing says that it is near another.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) name: Option<DomainName>,
    alone: Option<NodeName>,
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

    /// Brings what is known above a seat of its products from what it was before to what it is now.
    fn count_products(&mut self, id: u32, before: Option<&Seat>) {
        let (before, now) = (products(before), products(self.seat(id)));
        if before == now {
            return;
        }
        let above: Vec<u32> = self.ancestors(self.parent_of_seat(id)).collect();
        for at in above {
            let known = &mut self.domain_mut(at).products;
            for product in &before {
                if let Some(at) = known.iter().position(|(other, _)| other == product) {
                    known[at].1 -= 1;
                    if known[at].1 == 0 {
                        known.swap_remove(at);
                    }
                }
            }
            for product in &now {
                match known.iter_mut().find(|(other, _)| other == product) {
                    Some((_, nodes)) => *nodes += 1,
                    None => {
                        known.reserve_exact(1);
                        known.push((product.clone(), 1));
                    }
                }
            }
        }
    }

    /// Brings the sums above a seat from what they were with `before` to what the seat says now.
    fn apply(&mut self, id: u32, before: Sums) {
        let now = Sums::of(self.seat(id));
        if now == before {
            return;
        }
        let mut at = self.parent_of_seat(id);
        let (mut look_before, mut look_now) = (before.signature, now.signature);
        let domain = self.domain_mut(at);
        if let Some(position) = domain.seats.iter().position(|&other| other == id) {
            // No node has more than 64.
            domain.whole[position] = now.whole as u8;
        }
        loop {
            let domain = self.domain_mut(at);
            let look = domain.signature;
            domain.nodes = domain.nodes + now.nodes - before.nodes;
            domain.free = domain.free + now.free - before.free;
            domain.busy = domain.busy + now.busy - before.busy;
            domain.nvlinked = domain.nvlinked + now.nvlinked - before.nvlinked;
            domain.signature = look.wrapping_add(look_now).wrapping_sub(look_before);
            // What a domain adds above is mixed, so that it matters what lies together. An empty one adds nothing.
            let mixed = |look: u64| if look == 0 { 0 } else { mix(look) };
            (look_before, look_now) = (mixed(look), mixed(domain.signature));
            for (gpus, room) in (1..).zip(&mut domain.rooms) {
                *room = *room + now.whole / gpus - before.whole / gpus;
            }
            if before.nodes > 0 {
                domain.by_free[before.whole as usize] -= 1;
            }
            if now.nodes > 0 {
                let at = now.whole as usize;
                if domain.by_free.len() <= at {
                    domain.by_free.resize(at + 1, 0);
                }
                domain.by_free[at] += 1;
            }
            domain.stocks.replace(before.stock, now.stock);
            if at == ROOT {
                break;
            }
            let parent = domain.parent;
            self.tighten(parent, at);
            at = parent;
        }
    }

    /// Brings up to date where the nodes below a domain are tightest, after a change below one of its children.
    fn tighten(&mut self, id: u32, child: u32) {
        // Of the root nobody asks it, and it may have very many children.
        if id == ROOT {
            return;
        }
        for free in 1..=SUMMED {
            let now = self.tight_in(child, free);
            let before = self.domain(id).tight.get(free - 1).copied().unwrap_or(Tight::NOWHERE);
            let tight = if now.free <= before.free {
                now
            } else if before.child == child {
                // It was the tightest and is less so now.
                let all = self.domain(id).children.iter().map(|&child| self.tight_in(child, free));
                all.min_by_key(|tight| tight.free).unwrap_or(Tight::NOWHERE)
            } else {
                continue;
            };
            if tight != before {
                let domain = self.domain_mut(id);
                domain.tight.resize(SUMMED, Tight::NOWHERE);
                domain.tight[free - 1] = tight;
            }
        }
        for gpus in 1..=SUMMED {
            let levels = self.domain(id).depth.map_or(0, |depth| self.levels.len() - 1 - depth).min(LEVELS);
            for between in 0..levels {
                let room = |tree: &Self, id: u32| (tree.room_within(id, gpus, between), id);
                let (before, now) = (self.domain(id).roomy.get(gpus - 1).map(|all| all[between]), room(self, child));
                let most = match before {
                    Some(before) if now.0 >= before.0 => now,
                    Some(before) if before.1 != child => continue,
                    _ => self.domain(id).children.iter().map(|&child| room(self, child)).max().unwrap_or(now),
                };
                if before != Some(most) {
                    let domain = self.domain_mut(id);
                    domain.roomy.resize(SUMMED, Roomy::default());
                    domain.roomy[gpus - 1][between] = most;
                }
            }
        }
    }

    /// The most room in one domain of a level that is this one or below it.
    fn room_within(&self, id: u32, gpus: usize, between: usize) -> u32 {
        let domain = self.domain(id);
        let own = domain.depth.is_some_and(|depth| self.levels.len() - 1 - depth == between);
        if own { domain.rooms[gpus - 1] } else { domain.roomy.get(gpus - 1).map_or(0, |all| all[between].0) }
    }

    /// Where nodes of so many free GPUs are tightest below a domain, as the domain above it has it.
    fn tight_in(&self, id: u32, free: usize) -> Tight {
        let domain = self.domain(id);
        if domain.by_free.get(free).is_none_or(|&nodes| nodes == 0) {
            return Tight::NOWHERE;
        }
        let mut tight = domain.tight.get(free - 1).copied().unwrap_or(Tight { free: [0; LEVELS], child: id });
        let between = domain.depth.map_or(0, |depth| self.levels.len() - 1 - depth);
        if let Some(own) = tight.free.get_mut(between) {
            *own = domain.free;
        }
        Tight { child: id, ..tight }
    }
}

/// The products of the GPUs of a node.
fn products(seat: Option<&Seat>) -> Vec<Arc<str>> {
    let mut products: Vec<Arc<str>> = Vec::new();
    for gpu in seat.into_iter().flat_map(|seat| seat.member.node.gpus()) {
        if !products.contains(&gpu.product) {
            products.push(gpu.product.clone());
        }
    }
    products
}

/// What a seat adds to the sums of the domains above it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    nodes: u32,
    free: u32,
    busy: u32,
    nvlinked: u32,
    whole: u32,
    signature: u64,
    stock: Option<Stock>,
}

impl Sums {
    fn of(seat: Option<&Seat>) -> Self {
        seat.map_or_else(Self::default, |seat| Self {
            nodes: 1,
            free: seat.free_count(),
            busy: u32::from(!seat.is_idle()),
            nvlinked: u32::from(seat.member.node.nvlink_domain().is_some()),
            whole: seat.free_whole(),
            signature: seat.signature,
            stock: Some(Stock::of(seat)),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is the test's own message")]
pub(crate) mod tests;
