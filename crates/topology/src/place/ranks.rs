//! Which worker goes to which of the places found: indices follow the tree, slices stay together.

use std::collections::BTreeMap;

use super::room::Ask;
use super::table::Split;
use crate::tree::Tree;

/// Gives every worker of every group its index: group, index and seat. Leaders go last, each to a place with its workers.
pub(super) fn assign_all(tree: &Tree, asks: &[Ask<'_>], splits: &[Split]) -> Vec<(usize, u32, u32)> {
    let places = |group: usize| -> Vec<u32> {
        let mut in_order = splits[group].clone();
        in_order.sort_by_cached_key(|&(seat, _)| tree.path(seat));
        in_order.into_iter().flat_map(|(seat, workers)| std::iter::repeat_n(seat, workers as usize)).collect()
    };
    let leads = |group: usize| asks.iter().position(|ask| ask.led.as_ref().is_some_and(|led| led.by == group));
    let mut all = Vec::new();
    for (group, ask) in asks.iter().enumerate().filter(|&(group, _)| leads(group).is_none()) {
        all.extend(assign(tree, ask, &places(group)).into_iter().map(|(index, seat)| (group, index, seat)));
    }
    for (leader, ask) in asks.iter().enumerate() {
        let Some(workers) = leads(leader) else { continue };
        let Some(led) = &asks[workers].led else { continue };
        let mut open = places(leader);
        let mut with: BTreeMap<u32, Place> = BTreeMap::new();
        let new = all.iter().filter(|worker| worker.0 == workers).map(|&(_, index, seat)| (index, seat));
        for (index, seat) in asks[workers].running.iter().map(|(&index, &seat)| (index, seat)).chain(new) {
            with.entry(index / led.size).or_insert_with(|| Place::of(tree, seat, led.depth));
        }
        let mut assigned = Vec::new();
        for &index in &ask.missing {
            let suits = |seat: &u32| with.get(&index).is_none_or(|at| Place::of(tree, *seat, led.depth) == *at);
            if let Some(at) = open.iter().position(suits) {
                assigned.push((leader, index, open.remove(at)));
            }
        }
        all.extend(assigned);
    }
    all
}

/// Gives the missing indices of a group to `places` (seats in tree order, one entry per worker): for each place the
/// lowest index whose slices are begun in the place's domains, innermost slice first, else the lowest of a slice not
/// begun, else the lowest there is.
///
/// The counts per domain are sums of begun slices' gaps and whole slices ([`super::solve`]), so every slice that is
/// begun in a domain is also finished there.
fn assign(tree: &Tree, ask: &Ask<'_>, places: &[u32]) -> Vec<(u32, u32)> {
    let mut open: Vec<u32> = ask.missing.clone();
    if ask.slices.is_empty() {
        return open.into_iter().zip(places.iter().copied()).collect();
    }
    let domain = |seat: u32, depth: usize| Place::of(tree, seat, depth);
    // Where each slice was begun, per slice level.
    let mut begun: Vec<BTreeMap<u32, Place>> = ask
        .slices
        .iter()
        .map(|&(depth, size)| ask.running.iter().map(|(&index, &seat)| (index / size, domain(seat, depth))).collect())
        .collect();
    // Leaders that run say where their workers go, and so the slices around them.
    if let Some(led) = &ask.led {
        for (nth, &(depth, size)) in ask.slices.iter().enumerate().filter(|(_, slice)| slice.0 <= led.depth) {
            for (&leader, &seat) in &led.running {
                begun[nth].entry(leader * led.size / size).or_insert_with(|| domain(seat, depth));
            }
        }
    }
    let mut assigned = Vec::with_capacity(places.len());
    for &seat in places {
        // How well an index suits: 0 if its innermost slice is begun here, 1 if the next one out is, …; not at all if a
        // slice of it is begun elsewhere.
        let suits = |index: u32| {
            let mut rank = ask.slices.len();
            for (nth, &(depth, size)) in ask.slices.iter().enumerate() {
                match begun[nth].get(&(index / size)) {
                    Some(at) if *at == domain(seat, depth) => rank = ask.slices.len() - 1 - nth,
                    Some(_) => return None,
                    None => {}
                }
            }
            Some(rank)
        };
        let best = open.iter().enumerate().filter_map(|(at, &index)| Some((suits(index)?, index, at))).min();
        let Some((_, index, at)) = best else { continue };
        open.remove(at);
        for (nth, &(depth, size)) in ask.slices.iter().enumerate() {
            begun[nth].entry(index / size).or_insert_with(|| domain(seat, depth));
        }
        assigned.push((index, seat));
    }
    assigned.sort_unstable();
    assigned
}

/// A domain of some level, the node level included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Domain(u32),
    Seat(u32),
}

impl Place {
    /// Where a seat is at a depth.
    pub(super) fn of(tree: &Tree, seat: u32, depth: usize) -> Self {
        tree.domain_of_seat(seat, depth).map_or(Self::Seat(seat), Self::Domain)
    }

    /// The seats at or below it, in the order of the tree.
    pub(super) fn seats(self, tree: &Tree) -> Vec<u32> {
        match self {
            Self::Domain(id) => tree.seats_below(id),
            Self::Seat(id) => vec![id],
        }
    }
}
