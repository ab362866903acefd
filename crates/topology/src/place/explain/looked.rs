//! What fits where, and what excludes nodes, by looking at every node.

use super::{Counted, Found, bound_depth, least};
use crate::Cluster;
use crate::gang::Gang;
use crate::place::Eligibility;
use crate::place::ask::Question;
use crate::place::pack::Packer;
use crate::place::ranks::Place;
use crate::place::room::State;
use crate::place::table::Spread;
use crate::tree::ROOT;

/// How many workers of the gang fit where, by number of domain and seat.
struct Fits {
    domains: Vec<u32>,
    seats: Vec<u32>,
}

impl Fits {
    fn of(&mut self, place: Place) -> &mut u32 {
        match place {
            Place::Domain(id) => &mut self.domains[id as usize],
            Place::Seat(id) => &mut self.seats[id as usize],
        }
    }
}

pub(super) fn found(
    cluster: &Cluster,
    gang: &Gang,
    question: &Question<'_>,
    eligible: Option<Eligibility<'_>>,
) -> Found {
    let tree = cluster.tree();
    let levels = cluster.levels().len() + 1;
    let workers: Vec<u32> = question.asks.iter().map(least).collect();
    let mut state = State::new(tree);
    for &seat in question.asks.iter().flat_map(|ask| ask.running.values()) {
        state.mark_used(seat);
    }

    // What every place has room for, per group. Groups are not yet set against each other here.
    let mut packer = Packer::default();
    let mut fits = Fits { domains: vec![0; tree.domain_bound()], seats: vec![0; tree.seat_bound()] };
    let mut excluded: Vec<Counted> = Vec::new();
    let bound_depth = bound_depth(tree, question);
    let levels_above: Vec<Vec<u32>> = (0..levels - 1).map(|depth| tree.domains_at(depth)).collect();
    let seats = tree.seats_below(ROOT);
    for (group, ask) in question.asks.iter().enumerate().filter(|&(group, _)| workers[group] > 0) {
        let mut room = vec![0; tree.seat_bound()];
        for &seat in &seats {
            match state.capacity(seat, ask, eligible) {
                Ok(workers) => room[seat as usize] = workers,
                Err(reason) => {
                    let domain = bound_depth.and_then(|depth| tree.domain_of_seat(seat, depth));
                    let same = |one: &&mut Counted| one.group == group && one.reason.word() == reason.word();
                    match excluded.iter_mut().find(same) {
                        Some(one) => {
                            one.nodes += 1;
                            one.domain = one.domain.filter(|_| one.domain == domain);
                        }
                        None => excluded.push(Counted { group, reason, first: seat, nodes: 1, domain }),
                    }
                }
            }
        }
        let split = Spread::with_rooms(&state, ask, &mut packer, room, levels, Place::Domain(ROOT));
        let mut add = |place: Place| *fits.of(place) += split.room(place).min(workers[group]);
        add(Place::Domain(ROOT));
        levels_above.iter().flatten().for_each(|&id| add(Place::Domain(id)));
        seats.iter().for_each(|&seat| add(Place::Seat(seat)));
    }
    // Several groups compete for the same GPUs; no domain has room for more workers than it has GPUs for the smallest.
    let smallest = gang.groups.iter().map(|group| group.gpus).min().unwrap_or(0);
    if question.asks.len() > 1 && smallest > 0 {
        let domains = levels_above.iter().flatten().copied().chain([ROOT]);
        for place in domains.map(Place::Domain).chain(seats.iter().map(|&seat| Place::Seat(seat))) {
            let free = match place {
                Place::Domain(id) => state.free_below(id),
                Place::Seat(id) => state.free_on(id),
            };
            let fits = fits.of(place);
            *fits = (*fits).min(free / smallest);
        }
    }

    let mut best = vec![(*fits.of(Place::Domain(ROOT)), None)];
    for depth in 0..levels {
        let places: Vec<Place> = match levels_above.get(depth) {
            Some(ids) => ids.iter().map(|&id| Place::Domain(id)).collect(),
            None => seats.iter().map(|&seat| Place::Seat(seat)).collect(),
        };
        let bound = question.bound_to.filter(|_| question.required == Some(depth));
        let candidates = places.into_iter().filter(|&place| bound.is_none_or(|bound| bound == place));
        // The first of those with the most room.
        let top = candidates.rev().max_by_key(|&place| *fits.of(place));
        best.push((top.map_or(0, |place| *fits.of(place)), top));
    }
    Found { best, excluded }
}
