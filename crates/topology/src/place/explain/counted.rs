//! The same from the sums that domains keep, for a group that asks for whole GPUs and nothing else.

use super::{Counted, Found, bound_depth, least};
use crate::place::ask::Question;
use crate::place::ranks::Place;
use crate::place::room::{Ask, State};
use crate::stock::{Lack, Stock};
use crate::tree::{ROOT, Tree};
use crate::{Cluster, Seat};

/// None if sums do not say it: then nodes have to be looked at.
pub(super) fn found(cluster: &Cluster, question: &Question<'_>) -> Option<Found> {
    let tree = cluster.tree();
    let [ask] = question.asks.as_slice() else { return None };
    let (group, workers) = (ask.group, least(ask));
    let asks_more = group.product.is_some() || group.mig_profile.is_some() || group.joined_by.is_some();
    let asks_more = asks_more || !group.resources.is_empty() || !ask.slices.is_empty() || !ask.running.is_empty();
    let labelled = |depth: usize| tree.level(depth).is_none_or(|level| level.unnamed == 0);
    if asks_more || group.gpus == 0 || workers == 0 || !ask.labels.iter().all(|&(depth, _)| labelled(depth)) {
        return None;
    }
    let counts = Counts { tree, gpus: group.gpus };
    let innermost = cluster.levels().len().checked_sub(1);
    let mut best = vec![(tree.domain(ROOT).room(group.gpus).min(workers), None)];
    for depth in 0..cluster.levels().len() {
        let most = counts.most_at(ROOT, depth).min(workers);
        let first = counts.first(Some(depth), |id| counts.most_at(id, depth) >= most);
        best.push((most, first.map(Place::Domain)));
    }
    let most = counts.most_on_a_node(ROOT).min(workers);
    let domain = counts.first(innermost, |id| counts.most_on_a_node(id) >= most);
    let seat = domain.and_then(|id| counts.first_seat(id, |seat| seat.room(group.gpus) >= most));
    best.push((most, seat.map(Place::Seat)));
    Some(Found { best, excluded: counts.excluded(ask, innermost, bound_depth(tree, question)) })
}

/// What the sums say for workers of so many GPUs.
struct Counts<'a> {
    tree: &'a Tree,
    gpus: u32,
}

impl Counts<'_> {
    /// The most room in one domain of a level that is this one or below it.
    fn most_at(&self, id: u32, depth: usize) -> u32 {
        let domain = self.tree.domain(id);
        if domain.depth == Some(depth) {
            return domain.room(self.gpus);
        }
        // Domains know it of their levels, counted from the innermost; the root does not.
        let between = self.tree.levels() - 1 - depth;
        let known = domain.roomiest(self.gpus, between);
        known.unwrap_or_else(|| domain.children.iter().map(|&child| self.most_at(child, depth)).max().unwrap_or(0))
    }

    fn most_on_a_node(&self, id: u32) -> u32 {
        let most = self.tree.domain(id).by_free.iter().rposition(|&nodes| nodes > 0);
        most.map_or(0, |free| free as u32 / self.gpus)
    }

    /// How many nodes below a domain lack this.
    fn lacking(&self, id: u32, lack: Lack) -> u32 {
        let lacks = self.tree.domain(id).stocks.lacks(self.gpus);
        lacks.filter(|(other, _)| *other == lack).map(|(_, nodes)| nodes).sum()
    }

    /// The first domain of a level, in the order of the tree, of which all domains above it and itself are such.
    fn first(&self, depth: Option<usize>, is_such: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = ROOT;
        while self.tree.domain(at).depth != depth {
            at = self.tree.domain(at).children.iter().copied().find(|&child| is_such(child))?;
        }
        Some(at)
    }

    /// The first such node right below a domain.
    fn first_seat(&self, id: u32, is_such: impl Fn(&Seat) -> bool) -> Option<u32> {
        self.tree.domain(id).seats.iter().copied().find(|&seat| self.tree.seat(seat).is_some_and(&is_such))
    }

    fn excluded(&self, ask: &Ask<'_>, innermost: Option<usize>, bound: Option<usize>) -> Vec<Counted> {
        let mut lacks: Vec<(Lack, u32)> = Vec::new();
        for (lack, nodes) in self.tree.domain(ROOT).stocks.lacks(self.gpus) {
            match lacks.iter_mut().find(|(other, _)| *other == lack) {
                Some((_, sum)) => *sum += nodes,
                None => lacks.push((lack, nodes)),
            }
        }
        let state = State::new(self.tree);
        let counted = lacks.into_iter().filter_map(|(lack, nodes)| {
            let lacking = |id| self.lacking(id, lack) > 0;
            let domain = self.first(innermost, lacking)?;
            let first = self.first_seat(domain, |seat| Stock::of(seat).lack(self.gpus) == Some(lack))?;
            let reason = state.capacity(first, ask, None).err()?;
            let domain = bound.and_then(|depth| self.first(Some(depth), lacking));
            let domain = domain.filter(|&id| self.lacking(id, lack) == nodes);
            Some(Counted { group: 0, reason, first, nodes, domain })
        });
        counted.collect()
    }
}
