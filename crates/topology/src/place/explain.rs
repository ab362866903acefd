//! Works out why a gang has no place, for people.

use super::Eligibility;
use super::ask::Question;
use super::pack::Packer;
use super::ranks::Place;
use super::room::State;
use super::table::Spread;
use crate::gang::Gang;
use crate::tree::ROOT;
use crate::why::{Best, Excluded, Exclusion, NoRoom};
use crate::{Cluster, DomainName, Level, NodeName};

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

/// Nodes excluded for one reason, so far.
struct Counted<'a> {
    group: usize,
    reason: Exclusion,
    nodes: u32,
    first: &'a NodeName,
    /// The domain that all of them are in.
    domain: Option<&'a DomainName>,
}

impl<'a> Counted<'a> {
    fn add(&mut self, name: &'a NodeName, domain: Option<&'a DomainName>) {
        self.nodes += 1;
        self.first = self.first.min(name);
        self.domain = self.domain.filter(|_| self.domain == domain);
    }
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
    let mut fits = Fits { domains: vec![0; tree.domain_bound()], seats: vec![0; tree.seat_bound()] };
    let mut excluded: Vec<Counted<'_>> = Vec::new();
    let bound_depth = question.required.filter(|&depth| depth + 1 < levels);
    let levels_above: Vec<Vec<u32>> = (0..levels - 1).map(|depth| tree.domains_at(depth)).collect();
    let seats = tree.seats_below(ROOT);
    for (nth, ask) in question.asks.iter().enumerate().filter(|&(nth, _)| workers[nth] > 0) {
        let mut room = vec![0; tree.seat_bound()];
        for &seat in &seats {
            match state.capacity(seat, ask, eligible) {
                Ok(workers) => room[seat as usize] = workers,
                Err(reason) => {
                    let Some(seat) = tree.seat(seat) else { continue };
                    let domain = bound_depth.and_then(|depth| seat.path[depth].as_ref());
                    let word = reason.word();
                    match excluded.iter_mut().find(|one| one.group == nth && one.reason.word() == word) {
                        Some(one) => one.add(seat.name(), domain),
                        None => excluded.push(Counted { group: nth, reason, nodes: 1, first: seat.name(), domain }),
                    }
                }
            }
        }
        let split = Spread::with_rooms(&state, ask, &mut packer, room, levels, Place::Domain(ROOT));
        let mut add = |place: Place| *fits.of(place) += split.room(place).min(workers[nth]);
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

    let mut best = vec![Best { level: None, domain: None, fits: *fits.of(Place::Domain(ROOT)), domains: 1 }];
    for depth in 0..levels {
        let (level, places): (Level, Vec<Place>) = match cluster.levels().get(depth).zip(levels_above.get(depth)) {
            Some((level, ids)) => (level.name.clone(), ids.iter().map(|&id| Place::Domain(id)).collect()),
            None => (Level::host(), seats.iter().map(|&seat| Place::Seat(seat)).collect()),
        };
        let bound = question.bound_to.filter(|_| question.required == Some(depth));
        let candidates = places.iter().copied().filter(|&place| bound.is_none_or(|bound| bound == place));
        // The first of those with the most room.
        let top = candidates.rev().max_by_key(|&place| *fits.of(place));
        let room = top.map_or(0, |place| *fits.of(place));
        let name = |place: Place| match place {
            Place::Domain(id) => tree.domain(id).key.name.clone(),
            Place::Seat(id) => tree.seat(id).map(|seat| seat.name().as_str().into()),
        };
        let domain = top.filter(|_| room > 0).and_then(name);
        best.push(Best { level: Some(level), domain, fits: room, domains: places.len() as u32 });
    }

    excluded.sort_by_key(|one| (one.group, one.reason.word()));
    let mut excluded: Vec<Excluded> = excluded
        .into_iter()
        .map(|one| Excluded {
            group: gang.groups[one.group].name.clone(),
            reason: one.reason,
            nodes: one.nodes,
            example: one.first.clone(),
            domain: one.domain.cloned(),
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
