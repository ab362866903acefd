//! Several groups at once, or one that is to be balanced: the innermost domain that holds them all, searched exactly within a
//! bound; beyond it, group after group.
//!
//! # Down first
//! If nothing runs yet and some domain of a level has room for all, the optimum lies in one such domain, as for one group:
//! it uses one domain at that level and at each above, and gives every group there what it prefers, and nothing has less.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::ask::Question;
use super::joint::{GaveUp, Joint, Rooms, Splits, Stay};
use super::ranks::Place;
use super::room::State;
use super::solve::{Found, Search, contains};
use super::table::{Split, Spread, packed};
use super::terms::Layout;
use crate::GpuSet;
use crate::tree::{ROOT, Tree};

/// Steps of the joint search for one question: up to 25 ms of one core with eight GPUs to a node, 45 ms with sixteen. Beyond,
/// groups are placed one after the other, which takes up to 25 ms more on 4,992 nodes.
pub(super) const MOST_STEPS: u64 = 300_000;

/// Candidate domains in which groups are placed one after the other before that gives up, too.
const MOST_CANDIDATES: usize = 2_000;

impl Search<'_> {
    /// The best place for all groups, or the best that was found within bounds.
    pub(super) fn several(&mut self, workers: &[u32]) -> Option<Found> {
        let rooms = self.rooms();
        let layout = Layout::new(self.levels(), &self.question.rules, false);
        let outermost = self.question.required;
        let mut rounds: Vec<Vec<Place>> = Vec::new();
        if !self.start.is_begun() {
            rounds.extend((outermost.unwrap_or(0)..self.levels()).rev().map(|depth| self.candidates(Some(depth))));
        }
        if outermost.is_none() || self.start.is_begun() {
            rounds.push(vec![Place::Domain(ROOT)]);
        }
        let mut gave_up = rooms.crossing;
        for mut candidates in rounds {
            candidates.retain(|&place| (0..workers.len()).all(|group| rooms.of(group, place) >= workers[group]));
            let mut best = None;
            let complete = self.jointly(&rooms, &layout, &candidates, workers, &mut best);
            if !complete {
                gave_up = true;
                // Where something runs, the root was the only candidate: go in from the outermost level that holds it all.
                let inner = if self.start.is_begun() { self.inner(&rooms, workers) } else { vec![candidates] };
                for candidates in inner {
                    self.in_turn(&rooms, &layout, &candidates, workers, &mut best);
                    if best.is_some() {
                        break;
                    }
                }
            }
            if let Some((cost, splits)) = best {
                let named = Some(layout.named(self.cluster, self.question.gang, &self.question.rules, &cost));
                let exact = !gave_up && self.packed_exactly;
                return Some(Found { cost, splits, workers: workers.to_vec(), exact, named });
            }
        }
        self.proven &= !gave_up || self.divisible();
        None
    }

    pub(super) fn rooms(&mut self) -> Rc<Rooms> {
        let make = || Rc::new(Rooms::new(&self.start, &self.question.asks, &self.order, self.eligible));
        self.rooms.get_or_insert_with(make).clone()
    }

    /// The best over all candidates. False if the search was given up before it was through.
    fn jointly(
        &mut self,
        rooms: &Rooms,
        layout: &Layout,
        candidates: &[Place],
        workers: &[u32],
        best: &mut Option<Splits>,
    ) -> bool {
        let stay = Stay::new();
        let (question, order) = (self.question, &self.order);
        let mut joint =
            Joint::new(&self.start, question, &mut self.packer, rooms, layout, &stay, order, workers, self.steps);
        let need = question.gpus(workers);
        // Those that may be best first, until none left may be better.
        let mut open: Vec<(Vec<i64>, usize, Place)> = Vec::new();
        for (nth, &candidate) in candidates.iter().enumerate() {
            if u64::from(free(&self.start, candidate)) >= need {
                open.push((least(&self.start, question, layout, candidate, workers), nth, candidate));
            }
        }
        open.sort_unstable();
        let mut seen = BTreeSet::new();
        let mut first = usize::MAX;
        let mut complete = true;
        for (least, nth, candidate) in open {
            if best.as_ref().is_some_and(|best| least > best.0) {
                break;
            }
            // Others like it come later in order, so they lose the tie.
            if joint.signature(candidate).is_some_and(|signature| !seen.insert(signature)) {
                continue;
            }
            match joint.solve(candidate) {
                Ok(Some(found)) => {
                    let better = |best: &Splits| (&found.0, nth) < (&best.0, first);
                    if best.as_ref().is_none_or(better) {
                        (*best, first) = (Some(found), nth);
                    }
                }
                Ok(None) => {}
                Err(GaveUp) => {
                    complete = false;
                    break;
                }
            }
        }
        self.steps = joint.steps;
        self.packed_exactly &= joint.exact;
        complete
    }

    /// Candidates from the innermost level outwards, each with room for all.
    fn inner(&self, rooms: &Rooms, workers: &[u32]) -> Vec<Vec<Place>> {
        let depths = (self.question.required.unwrap_or(0)..self.levels()).rev();
        let mut rounds: Vec<Vec<Place>> = depths.map(|depth| self.candidates(Some(depth))).collect();
        rounds.push(vec![Place::Domain(ROOT)]);
        for candidates in &mut rounds {
            candidates.retain(|&place| (0..workers.len()).all(|group| rooms.of(group, place) >= workers[group]));
        }
        rounds
    }

    /// Group after group in each candidate: a way, if one is found, that keeps all rules. Nothing is proven.
    fn in_turn(
        &mut self,
        rooms: &Rooms,
        layout: &Layout,
        candidates: &[Place],
        workers: &[u32],
        best: &mut Option<Splits>,
    ) {
        let stay = Stay::new();
        let need = self.question.gpus(workers);
        let roomy = candidates.iter().copied().filter(|&place| u64::from(free(&self.start, place)) >= need);
        let candidates: Vec<Place> = roomy.take(MOST_CANDIDATES).collect();
        for candidate in candidates {
            let Some(splits) = self.one_by_one(candidate, workers) else { continue };
            let (question, order) = (self.question, &self.order);
            let packer = &mut self.packer;
            let mut joint = Joint::new(&self.start, question, packer, rooms, layout, &stay, order, workers, u64::MAX);
            if let Some(cost) = joint.judge(&splits)
                && best.as_ref().is_none_or(|best| cost < best.0)
            {
                *best = Some((cost, splits));
            }
        }
    }

    fn one_by_one(&mut self, candidate: Place, workers: &[u32]) -> Option<Vec<Split>> {
        let asks = &self.question.asks;
        let mut state = self.start.clone();
        let mut splits = vec![Split::new(); workers.len()];
        // Balanced groups need room in many domains, so they come before others fill some; leaders follow those they lead.
        let leads = |group: usize| asks.iter().any(|ask| ask.led.as_ref().is_some_and(|led| led.by == group));
        let mut order = self.order.clone();
        order.sort_by_key(|&group| (leads(group), asks[group].group.balanced.is_none()));
        for group in order.into_iter().filter(|&group| workers[group] > 0) {
            let parts = self.parts(&state, candidate, group, workers, &splits)?;
            for (places, count) in parts {
                // A balanced group has a part for each of many domains: then only what is below that one is looked at.
                let top = if let [place] = places[..] { place } else { candidate };
                let rooms = self.rooms_of(&state, top, group, &splits);
                let ask = &asks[group];
                let mut spread =
                    Spread::with_rooms(&state, ask, &mut self.packer, rooms, self.cluster.levels().len() + 1, top);
                let (_, split) = spread.best(places, count)?;
                for &(seat, workers) in &split {
                    let packed = packed(&state, ask, &mut self.packer, seat, workers);
                    let gpus = packed.sets.iter().copied().fold(GpuSet::EMPTY, GpuSet::union);
                    state.give(seat, ask.group, workers, gpus);
                    match splits[group].iter_mut().find(|part| part.0 == seat) {
                        Some(part) => part.1 += workers,
                        None => splits[group].push((seat, workers)),
                    }
                }
            }
        }
        splits.iter_mut().for_each(|split| split.sort_unstable());
        Some(splits)
    }

    /// Which places a group may go to, and how many workers to which: all to one of some places, unless leaders follow their
    /// workers or the group is to be balanced.
    fn parts(
        &self,
        state: &State<'_>,
        candidate: Place,
        group: usize,
        workers: &[u32],
        splits: &[Split],
    ) -> Option<Vec<(Vec<Place>, u32)>> {
        let (tree, asks, rules) = (state.tree, &self.question.asks, &self.question.rules);
        let mut places = vec![candidate];
        for whole in rules.wholes(group) {
            let mates = whole.groups.iter().flat_map(|&mate| &splits[mate]).map(|&(seat, _)| seat);
            let bound = whole.bound.or_else(|| mates.map(|seat| Place::of(tree, seat, whole.depth)).next());
            places = places.into_iter().flat_map(|place| narrowed(tree, place, whole.depth, bound)).collect();
        }
        let led =
            asks.iter().enumerate().find_map(|(led, ask)| Some((led, ask.led.as_ref().filter(|l| l.by == group)?)));
        if let Some((led_group, led)) = led {
            let mut seats = splits[led_group].clone();
            seats.sort_by_cached_key(|&(seat, _)| tree.path(seat));
            let counts = by_domain(tree, seats, led.depth).into_iter();
            return Some(counts.map(|(place, workers)| (vec![place], workers.div_ceil(led.size))).collect());
        }
        let balanced = rules.balanced.iter().find(|rule| rule.group == group);
        let Some(rule) = balanced else { return Some(vec![(places, workers[group])]) };
        let rooms = self.rooms_of(state, candidate, group, splits);
        let unit = asks[group].slices.first().map_or(1, |&(_, size)| size);
        let within = |seat: &u32| places.iter().any(|&place| contains(tree, place, Place::Seat(*seat)));
        let seats = candidate.seats(tree).into_iter().filter(within).map(|seat| (seat, rooms[seat as usize]));
        let domains = by_domain(tree, seats, rule.depth);
        let most = |place: Place| rule.most.map_or(u32::MAX, |most| most.saturating_sub(rule.running(place)));
        let domains = domains.into_iter().map(|(place, room)| (place, room.min(most(place)) / unit)).collect();
        let parts = evenly(domains, workers[group] / unit)?;
        Some(parts.into_iter().map(|(place, units)| (vec![place], units * unit)).collect())
    }

    /// Room per seat for a group after what was given, none where others keep it away.
    fn rooms_of(&self, state: &State<'_>, top: Place, group: usize, splits: &[Split]) -> Vec<u32> {
        let tree = state.tree;
        let mut rooms = vec![0; tree.seat_bound()];
        // Where others are, or run, that each rule keeps the group away from.
        let away: Vec<(usize, BTreeSet<Place>)> = self
            .question
            .rules
            .aparts(group)
            .map(|apart| {
                let others = apart.groups.iter().filter(|&&other| other != group);
                let placed =
                    others.flat_map(|&other| &splits[other]).map(|&(seat, _)| Place::of(tree, seat, apart.depth));
                let running = apart.running.iter().filter(|(_, groups)| groups.iter().any(|&other| other != group));
                (apart.depth, placed.chain(running.map(|(&place, _)| place)).collect())
            })
            .collect();
        for seat in top.seats(tree) {
            let kept_away = away.iter().any(|(depth, places)| places.contains(&Place::of(tree, seat, *depth)));
            if !kept_away {
                rooms[seat as usize] = state.capacity(seat, &self.question.asks[group], self.eligible).unwrap_or(0);
            }
        }
        rooms
    }

    /// Whether placing the groups one after the other, most GPUs first, finds a place wherever there is one: GPUs are
    /// all that counts, nothing binds a group by itself or to others, and each size divides the one before.
    ///
    /// For then a node with *c* free GPUs has room for ⌊c/g⌋ workers of the next size *g* less what the larger ones
    /// took, and as *g* divides their sizes that does not depend on which nodes they went to.
    fn divisible(&self) -> bool {
        let groups = self.order.iter().map(|&group| &self.question.asks[group]);
        let plain = groups.clone().all(|ask| {
            let group = ask.group;
            let any = group.product.is_none() && group.mig_profile.is_none();
            any && group.joined_by.is_none()
                && group.resources.is_empty()
                && ask.required.is_none()
                && ask.slices.is_empty()
        });
        let sizes: Vec<u32> = groups.map(|ask| ask.group.gpus).filter(|&gpus| gpus > 0).collect();
        let nested = sizes.windows(2).all(|pair| pair[0].is_multiple_of(pair[1]));
        // Candidates that were left out for their number prove nothing either.
        let all_tried = self.start.tree.seats_below(ROOT).len() <= MOST_CANDIDATES;
        plain && nested && all_tried && !self.question.rules.relate && !self.start.is_begun()
    }
}

fn free(state: &State<'_>, place: Place) -> u32 {
    match place {
        Place::Domain(id) => state.free_below(id),
        Place::Seat(id) => state.free_on(id),
    }
}

/// What the objective of all workers at a place is at least: what is known of it and of the domains above without looking
/// at how the workers are split below. Only where nothing runs.
fn least(state: &State<'_>, question: &Question<'_>, layout: &Layout, place: Place, workers: &[u32]) -> Vec<i64> {
    let tree = state.tree;
    let host = layout.used.len() - 1;
    let need = question.gpus(workers) as i64;
    let mut cost = vec![0; layout.width];
    layout.used.iter().for_each(|&at| cost[at] = 1);
    let (depth, mut inner) = match place {
        Place::Domain(id) => {
            let mut free: Vec<u32> = tree.seats_below(id).into_iter().map(|seat| state.free_on(seat)).collect();
            free.sort_unstable_by(|a, b| b.cmp(a));
            let mut sum = 0;
            let enough = free.iter().position(|&free| {
                sum += i64::from(free);
                sum >= need
            });
            cost[layout.used[host]] = enough.map_or(1, |at| at as i64 + 1);
            (tree.domain(id).depth, id)
        }
        Place::Seat(id) => {
            let left = i64::from(state.free_on(id)) - need;
            cost[layout.opened[host]] = i64::from(state.seat_is_idle(id) && left > 0 && need > 0);
            cost[layout.left[host]] = left;
            (Some(host), tree.parent_of_seat(id))
        }
    };
    for &(nth, at) in &layout.preferred {
        cost[at] = i64::from(workers[question.rules.preferred[nth].group] > 0);
    }
    for &(nth, at) in &layout.balanced {
        let rule = &question.rules.balanced[nth];
        let all = i64::from(workers[rule.group]);
        // All in one domain, or at best each in its own.
        cost[at] = if depth.is_some_and(|depth| rule.depth <= depth) { all * all } else { all };
    }
    while let Some(at) = tree.domain(inner).depth {
        let left = i64::from(state.free_below(inner)) - need;
        cost[layout.opened[at]] = i64::from(state.domain_is_idle(inner) && left > 0 && need > 0);
        cost[layout.left[at]] = left;
        inner = tree.domain(inner).parent;
    }
    // The wires are not known, nor what they are worth.
    cost[layout.wires] = i64::MIN;
    cost[layout.worth] = i64::MIN;
    cost
}

/// The domains of a level that are, contain or are within a place; only `bound` if given.
fn narrowed(tree: &Tree, place: Place, depth: usize, bound: Option<Place>) -> Vec<Place> {
    if let Some(bound) = bound {
        return match (contains(tree, bound, place), contains(tree, place, bound)) {
            (true, _) => vec![place],
            (false, true) => vec![bound],
            (false, false) => Vec::new(),
        };
    }
    match place {
        Place::Domain(id) if tree.domain(id).depth.is_none_or(|at| at < depth) => {
            let mut places: Vec<Place> =
                tree.seats_below(id).into_iter().map(|seat| Place::of(tree, seat, depth)).collect();
            places.dedup();
            places
        }
        _ => vec![place],
    }
}

/// Sums over seats by domain of a level, both in the order of the tree: what follows must not depend on numbers, which come
/// from the order of events.
fn by_domain(tree: &Tree, seats: impl IntoIterator<Item = (u32, u32)>, depth: usize) -> Vec<(Place, u32)> {
    let mut sums: Vec<(Place, u32)> = Vec::new();
    for (seat, count) in seats {
        let place = Place::of(tree, seat, depth);
        match sums.last_mut() {
            Some((last, sum)) if *last == place => *sum = sum.saturating_add(count),
            _ => sums.push((place, count)),
        }
    }
    sums
}

/// `units` over the fewest domains, as evenly as their rooms let: the smallest that hold an even part.
fn evenly(mut domains: Vec<(Place, u32)>, units: u32) -> Option<Vec<(Place, u32)>> {
    domains.retain(|&(_, room)| room > 0);
    domains.sort_by_key(|&(_, room)| std::cmp::Reverse(room));
    let mut sum = 0u64;
    let fewest = domains.iter().position(|&(_, room)| {
        sum += u64::from(room);
        sum >= u64::from(units)
    })? + 1;
    let part = units.div_ceil(fewest as u32);
    // With room for an even part each, the tightest such domains; else those with the most room.
    let roomy = domains.partition_point(|&(_, room)| room >= part);
    let from = roomy.saturating_sub(fewest);
    let mut chosen: Vec<(Place, u32)> = domains[from..from + fewest].to_vec();
    // The tightest first: what it cannot take goes to the others.
    chosen.sort_by_key(|&(_, room)| room);
    let mut rest = units;
    let count = chosen.len();
    for (nth, (_, room)) in chosen.iter_mut().enumerate() {
        *room = (*room).min(rest.div_ceil((count - nth) as u32));
        rest -= *room;
    }
    Some(chosen)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is the test's own message")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::place::ask::question;
    use crate::tree::tests::{LABELS, apply, events};
    use crate::{Balance, Cluster, Gang, Group, LevelLabel};

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_known_beforehand_is_no_more_than_what_the_groups_cost(
            events in events(30, 14),
            sizes in prop::collection::vec((1u32..=3, 0u32..=3), 2..=3),
            preferred in prop::option::of(0usize..4),
            balanced in prop::option::of(0usize..4),
        ) {
            let mut cluster = Cluster::new(LABELS.map(|label| LevelLabel::new(label, label)).to_vec()).unwrap();
            events.iter().for_each(|event| apply(&mut cluster, event));
            let level = |depth: usize| LABELS.get(depth).copied().unwrap_or("host").into();
            let groups = sizes.iter().zip(["a", "b", "c"]).map(|(&(replicas, gpus), name)| Group::new(name, replicas, gpus));
            let mut gang = Gang { groups: groups.collect(), ..Gang::default() };
            gang.groups[0].preferred = preferred.map(level);
            gang.groups[1].balanced = balanced.map(|depth| Balance { level: level(depth), most: None });
            let question = question(&cluster, &gang).unwrap();
            let mut search = Search::new(&cluster, &question, None);
            let layout = Layout::new(LABELS.len() + 1, &question.rules, false);
            let (rooms, stay, order) = (search.rooms(), Stay::new(), search.order.clone());
            let workers: Vec<u32> = gang.groups.iter().map(|group| group.replicas).collect();
            for depth in 0..=LABELS.len() {
                for place in search.candidates(Some(depth)) {
                    let packer = &mut search.packer;
                    let (start, full) = (&search.start, &workers[..]);
                    let mut joint =
                        Joint::new(start, &question, packer, &rooms, &layout, &stay, &order, full, MOST_STEPS);
                    let Ok(Some((cost, _))) = joint.solve(place) else { continue };
                    let least = least(start, &question, &layout, place, full);
                    prop_assert!(least <= cost, "{:?}: {:?} is not below {:?}", place, least, cost);
                }
            }
        }
    }
}
