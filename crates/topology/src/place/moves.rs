//! How many workers of a running gang can stay, if the others may go anywhere.

use std::collections::BTreeMap;

use super::Eligibility;
use super::ask::question;
use super::joint::{Joint, Stay};
use super::ranks::Place;
use super::several::MOST_STEPS;
use super::solve::Search;
use super::terms::Layout;
use crate::gang::Gang;
use crate::tree::ROOT;
use crate::{Cluster, NodeName};

/// Workers by group (its place in the gang) and node.
pub(crate) type Counts = BTreeMap<(usize, NodeName), u32>;

/// The most workers that can stay so that the whole gang has a place.
///
/// `cluster` has nothing of the gang in it and `gang` nothing placed: whoever stays is placed there again, at the price of
/// nothing. Indices are not looked at, so a gang with slices or several leaders may have to move more.
///
/// None if it is not known: the search was too large, or some worker runs where no new one could go.
pub(crate) fn most_that_stay(
    cluster: &Cluster,
    gang: &Gang,
    eligible: Eligibility<'_>,
    running: &Counts,
) -> Option<Option<Counts>> {
    let question = question(cluster, gang).ok()?;
    let mut search = Search::new(cluster, &question, Some(eligible));
    let rooms = search.rooms();
    let tree = cluster.tree();
    let mut stay = Stay::new();
    for ((group, node), &workers) in running {
        let seat = tree.seat_id(node)?;
        if rooms.of(*group, Place::Seat(seat)) < workers {
            return None;
        }
        stay.insert((*group, seat), workers);
    }
    let layout = Layout::new(cluster.levels().len() + 1, &question.rules, true);
    let full: Vec<u32> = question.asks.iter().map(|ask| ask.missing.len() as u32).collect();
    let order = search.order.clone();
    let packer = &mut search.packer;
    let mut joint = Joint::new(&search.start, &question, packer, &rooms, &layout, &stay, &order, &full, MOST_STEPS);
    let found = joint.solve(Place::Domain(ROOT)).ok()?;
    if rooms.crossing {
        return None;
    }
    let Some((_, splits)) = found else { return Some(None) };
    let mut counts = Counts::new();
    for (group, split) in splits.iter().enumerate() {
        for &(seat, workers) in split {
            let stays = workers.min(stay.get(&(group, seat)).copied().unwrap_or(0));
            if let (1.., Some(seat)) = (stays, tree.seat(seat)) {
                counts.insert((group, seat.name().clone()), stays);
            }
        }
    }
    Some(Some(counts))
}
