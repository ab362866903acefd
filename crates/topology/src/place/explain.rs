//! Works out why a gang has no place, for people.

use std::collections::BTreeMap;

use super::Eligibility;
use super::ask::Question;
use super::pack::Packer;
use super::ranks::Place;
use super::room::State;
use super::table::Spread;
use crate::gang::Gang;
use crate::tree::ROOT;
use crate::why::{Best, Excluded, Exclusion, NoRoom};
use crate::{Cluster, Level};

/// What is asked for, in words: `2 workers × 8 GPUs`; groups are named where there are several.
pub(super) fn wanted(gang: &Gang, workers: &[u32]) -> String {
    let groups = gang.groups.iter().zip(workers).filter(|&(_, &workers)| workers > 0);
    let parts: Vec<String> = groups
        .map(|(group, &workers)| {
            let s = |n: u32| if n == 1 { "" } else { "s" };
            let what = match group.gpus {
                0 => String::new(),
                n => format!(" × {n} GPU{}", s(n)),
            };
            let kind = match (&group.product, &group.mig_profile) {
                (product, Some(profile)) => {
                    format!(" ({}{profile} slices)", product.as_ref().map(|p| format!("{p} ")).unwrap_or_default())
                }
                (Some(product), None) => format!(" ({product})"),
                (None, None) => String::new(),
            };
            let name = if gang.groups.len() > 1 { format!(" {:?}", group.name) } else { String::new() };
            format!("{workers} worker{}{name}{what}{kind}", s(workers))
        })
        .collect();
    if parts.is_empty() { "no workers".to_owned() } else { parts.join(" + ") }
}

/// What binds groups beyond their own level, in words.
fn relations(gang: &Gang) -> Vec<String> {
    let balanced = gang.groups.iter().filter_map(|group| {
        let crate::gang::Balance { level, most } = group.balanced.as_ref()?;
        Some(format!("at most {} of {:?} in one {level}", (*most)?, group.name))
    });
    gang.relations.iter().map(ToString::to_string).chain(balanced).collect()
}

pub(super) fn no_room(
    cluster: &Cluster,
    gang: &Gang,
    question: &Question<'_>,
    eligible: Option<Eligibility<'_>>,
    proven: bool,
) -> NoRoom {
    let tree = cluster.tree();
    let levels = cluster.levels().len() + 1;
    let least = |ask: &super::room::Ask<'_>| {
        let running = ask.running.len() as u32;
        ask.group.min.map_or(ask.missing.len() as u32, |min| min.saturating_sub(running))
    };
    let workers: Vec<u32> = question.asks.iter().map(least).collect();
    let mut state = State::new(tree);
    for &seat in question.asks.iter().flat_map(|ask| ask.running.values()) {
        state.mark_used(seat);
    }

    // What every place has room for, per group. Groups are not yet set against each other here.
    let mut packer = Packer::default();
    let mut fits: BTreeMap<Place, u32> = BTreeMap::new();
    let mut excluded: BTreeMap<(usize, &'static str), (Exclusion, Vec<u32>)> = BTreeMap::new();
    let seats = tree.seats_below(ROOT);
    for (nth, ask) in question.asks.iter().enumerate().filter(|&(nth, _)| workers[nth] > 0) {
        let mut room = vec![0; tree.seat_bound()];
        for &seat in &seats {
            match state.capacity(seat, ask, eligible) {
                Ok(workers) => room[seat as usize] = workers,
                Err(reason) => excluded.entry((nth, reason.word())).or_insert((reason, Vec::new())).1.push(seat),
            }
        }
        let split = Spread::with_rooms(&state, ask, &mut packer, room, levels, Place::Domain(ROOT));
        let mut add = |place: Place| *fits.entry(place).or_default() += split.room(place).min(workers[nth]);
        add(Place::Domain(ROOT));
        (0..levels - 1).flat_map(|depth| tree.domains_at(depth)).for_each(|id| add(Place::Domain(id)));
        seats.iter().for_each(|&seat| add(Place::Seat(seat)));
    }
    // Several groups compete for the same GPUs; no domain has room for more workers than it has GPUs for the smallest.
    let smallest = gang.groups.iter().map(|group| group.gpus).min().unwrap_or(0).max(1);
    if question.asks.len() > 1 {
        for (&place, fits) in &mut fits {
            let free = match place {
                Place::Domain(id) => state.free_below(id),
                Place::Seat(id) => state.free_on(id),
            };
            *fits = if gang.groups.iter().any(|group| group.gpus == 0) { *fits } else { (*fits).min(free / smallest) };
        }
    }

    let mut best = vec![Best {
        level: None,
        domain: None,
        fits: fits.get(&Place::Domain(ROOT)).copied().unwrap_or(0),
        domains: 1,
    }];
    for depth in 0..levels {
        let (level, places): (Level, Vec<Place>) = match cluster.levels().get(depth) {
            Some(level) => (level.name.clone(), tree.domains_at(depth).into_iter().map(Place::Domain).collect()),
            None => (Level::host(), seats.iter().map(|&seat| Place::Seat(seat)).collect()),
        };
        let bound = question.bound_to.filter(|_| question.required == Some(depth));
        let candidates = places.iter().copied().filter(|&place| bound.is_none_or(|bound| bound == place));
        // The first of those with the most room.
        let top = candidates.rev().max_by_key(|place| fits.get(place).copied().unwrap_or(0));
        let room = top.and_then(|place| fits.get(&place).copied()).unwrap_or(0);
        let name = |place: Place| match place {
            Place::Domain(id) => tree.domain(id).key.name.clone(),
            Place::Seat(id) => tree.seat(id).map(|seat| seat.name().as_str().into()),
        };
        let domain = top.filter(|_| room > 0).and_then(name);
        best.push(Best { level: Some(level), domain, fits: room, domains: places.len() as u32 });
    }

    let bound_depth = question.required.filter(|&depth| depth + 1 < levels);
    let mut excluded: Vec<Excluded> = excluded
        .into_iter()
        .filter_map(|((nth, _), (reason, mut seats))| {
            seats.sort_by_key(|&id| tree.seat(id).map(|seat| seat.name().clone()));
            let first = tree.seat(*seats.first()?)?;
            let mut domains = seats.iter().map(|&seat| Some(tree.seat(seat)?.path[bound_depth?].clone()));
            let domain = domains.next().flatten().flatten();
            let same = domains.all(|other| other.flatten() == domain);
            Some(Excluded {
                group: gang.groups[nth].name.clone(),
                reason,
                nodes: seats.len() as u32,
                example: first.name().clone(),
                domain: domain.filter(|_| same),
            })
        })
        .collect();
    excluded.sort_by(|a, b| b.nodes.cmp(&a.nodes).then_with(|| a.reason.cmp(&b.reason)));
    NoRoom {
        wanted: wanted(gang, &workers),
        workers: workers.iter().sum(),
        required: gang.required.clone(),
        relations: relations(gang),
        best,
        excluded,
        nodes: seats.len() as u32,
        proven,
    }
}
