//! From a gang to a placement: candidate domains, group after group, and what to do when not all have room.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::ask::{Question, question};
use super::joint::Rooms;
use super::pack::{Packed, Packer};
use super::ranks::{Place, assign_all};
use super::rings::in_ring;
use super::room::{Ask, State};
use super::several::MOST_STEPS;
use super::table::{Split, Spread, Terms, packed};
use super::{Eligibility, Placement, Preference, Term, Worker, explain};
use crate::gang::{Gang, InvalidGang};
use crate::tree::{BuildMixing, ROOT, Tree};
use crate::why::NoPlacement;
use crate::{Cluster, GpuSet, NodeName};

pub(super) fn solve(
    cluster: &Cluster,
    gang: &Gang,
    eligible: Option<Eligibility<'_>>,
) -> Result<Placement, NoPlacement> {
    let question = question(cluster, gang)?;
    let mut search = Search::new(cluster, &question, eligible);
    search.place(gang).ok_or_else(|| {
        let proven = search.proven && counts_are_exact(cluster, gang);
        NoPlacement::NoRoom(Box::new(explain::no_room(cluster, gang, &question, eligible, proven)))
    })
}

pub(super) fn solve_if_room(
    cluster: &Cluster,
    gang: &Gang,
    eligible: Option<Eligibility<'_>>,
) -> Result<Option<Placement>, InvalidGang> {
    let question = question(cluster, gang)?;
    Ok(Search::new(cluster, &question, eligible).place(gang))
}

/// Whether the room of every node is known exactly. Sets of GPUs joined in some way are not searched through on nodes of more
/// GPUs than are tabled.
fn counts_are_exact(cluster: &Cluster, gang: &Gang) -> bool {
    let joined = gang.groups.iter().any(|group| group.joined_by.is_some() && group.gpus > 1);
    !joined || cluster.nodes().all(|seat| seat.member.node.gpus().len() <= crate::EXACT_UP_TO)
}

/// A place for so many workers of each group.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) cost: Vec<i64>,
    /// By group.
    pub(super) splits: Vec<Split>,
    pub(super) workers: Vec<u32>,
    pub(super) exact: bool,
    /// The objective by name, where it has terms that one group alone does not have.
    pub(super) named: Option<Vec<Term>>,
}

pub(super) struct Search<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) question: &'a Question<'a>,
    pub(super) eligible: Option<Eligibility<'a>>,
    pub(super) start: State<'a>,
    pub(super) packer: Packer,
    /// Groups in the order in which they are placed: those that only some GPUs or
    /// wires suit, then those with the most GPUs per
    /// worker.
    pub(super) order: Vec<usize>,
    /// Whether a failure so far proves that there is no place.
    pub(super) proven: bool,
    /// What places have room for, once it was asked for.
    pub(super) rooms: Option<Rc<Rooms>>,
    /// What is left of the steps of searches over several groups.
    pub(super) steps: u64,
    /// Whether all sets of GPUs on nodes were proven best, in searches over several groups.
    pub(super) packed_exactly: bool,
}

impl<'a> Search<'a> {
    pub(super) fn new(cluster: &'a Cluster, question: &'a Question<'a>, eligible: Option<Eligibility<'a>>) -> Self {
        let mut start = State::new(cluster.tree());
        for ask in &question.asks {
            for &seat in ask.running.values() {
                start.mark_used(seat);
            }
        }
        let mut order: Vec<usize> = (0..question.asks.len()).collect();
        order.sort_by_key(|&group| {
            let group = question.asks[group].group;
            let any = group.product.is_none() && group.mig_profile.is_none();
            (group.joined_by.is_none(), any, std::cmp::Reverse(group.gpus))
        });
        Self {
            cluster,
            question,
            eligible,
            start,
            packer: Packer::default(),
            order,
            proven: true,
            rooms: None,
            steps: MOST_STEPS,
            packed_exactly: true,
        }
    }

    pub(super) fn levels(&self) -> usize {
        self.cluster.levels().len() + 1
    }

    /// Places all missing workers, or where groups have a minimum as many as have room.
    fn place(&mut self, gang: &Gang) -> Option<Placement> {
        let full: Vec<u32> = self.question.asks.iter().map(|ask| ask.missing.len() as u32).collect();
        let found = self.attempt(&full).or_else(|| self.partial(&full))?;
        Some(self.placement(gang, found))
    }

    /// Places so many workers of each group, or finds that it cannot.
    fn attempt(&mut self, workers: &[u32]) -> Option<Found> {
        let wanted = workers.iter().filter(|&&workers| workers > 0).count();
        if wanted > 1 || self.question.rules.relate {
            self.several(workers)
        } else {
            let bound = self.question.bound_to.or(self.question.asks.iter().find_map(|ask| ask.bound_to));
            let candidates = if bound.is_some() { self.candidates(self.question.required) } else { Vec::new() };
            self.single(&candidates, workers)
        }
    }

    /// Domains of a level, those with running workers only where the gang is bound to one.
    pub(super) fn candidates(&self, depth: Option<usize>) -> Vec<Place> {
        let tree = self.start.tree;
        let Some(depth) = depth else { return vec![Place::Domain(ROOT)] };
        if let (Some(bound), true) = (self.question.bound_to, self.question.required == Some(depth)) {
            return vec![bound];
        }
        if depth + 1 == self.levels() {
            tree.seats_below(ROOT).into_iter().map(Place::Seat).collect()
        } else {
            tree.domains_at(depth).into_iter().map(Place::Domain).collect()
        }
    }

    /// One group: each candidate solved for itself.
    fn single(&mut self, candidates: &[Place], workers: &[u32]) -> Option<Found> {
        let levels = self.levels();
        let mut found = Found {
            cost: vec![0; Terms { levels }.width()],
            splits: vec![Split::new(); workers.len()],
            workers: workers.to_vec(),
            exact: true,
            named: None,
        };
        let Some(group) = workers.iter().position(|&workers| workers > 0) else { return Some(found) };
        let ask = &self.question.asks[group];
        let top = Place::Domain(ROOT);
        let mut spread = Spread::new(&self.start, ask, &mut self.packer, self.eligible, levels, top);
        let (cost, one) = if self.question.bound_to.is_none() && ask.bound_to.is_none() {
            // One domain of the innermost level required is one of each further out, too.
            let outermost = self.question.required.max(ask.required).map_or(0, |depth| depth + 1);
            spread.best_within(&[top], outermost, workers[group])?
        } else {
            let places = candidates.iter().flat_map(|&candidate| within(&self.start, candidate, ask)).collect();
            spread.best(places, workers[group])?
        };
        let exact = spread.exact;
        found.cost = cost;
        found.splits[group] = one;
        found.exact = exact;
        Some(found)
    }

    /// As many workers as there is room for, no fewer than the minimum of each group: first the minima, then group after
    /// group as many more as fit.
    fn partial(&mut self, full: &[u32]) -> Option<Found> {
        let asks = &self.question.asks;
        let mut workers: Vec<u32> = Vec::with_capacity(full.len());
        for (ask, &full) in asks.iter().zip(full) {
            let running = ask.running.len() as u32;
            let least = ask.group.min.map_or(full, |min| min.saturating_sub(running).min(full));
            workers.push(least.next_multiple_of(unit(ask)).min(full));
        }
        if workers == full {
            return None;
        }
        // For all of these attempts together, as much again as for all workers at once.
        self.steps = MOST_STEPS;
        let mut found = self.attempt(&workers)?;
        for group in 0..full.len() {
            let unit = unit(&asks[group]);
            // Room does not come back as the number grows, so the most that fit can be found by halving.
            let (mut fits, mut fails) = (workers[group] / unit, full[group] / unit + 1);
            while fails - fits > 1 {
                let middle = (fits + fails) / 2;
                let mut more = workers.clone();
                more[group] = middle * unit;
                match self.attempt(&more) {
                    Some(better) => (found, fits) = (better, middle),
                    None => fails = middle,
                }
            }
            workers[group] = fits * unit;
        }
        Some(found)
    }

    /// The answer in the caller's terms.
    fn placement(&mut self, gang: &Gang, found: Found) -> Placement {
        let tree = self.cluster.tree();
        let levels = self.levels();
        let mut state = self.start.clone();
        let mut rings: HashMap<*const Packed, Vec<GpuSet>, BuildMixing> = HashMap::default();
        let mut sets: BTreeMap<(usize, u32), std::vec::IntoIter<GpuSet>> = BTreeMap::new();
        for &group in &self.order {
            let ask = &self.question.asks[group];
            for &(seat, workers) in &found.splits[group] {
                let packed = packed(&state, ask, &mut self.packer, seat, workers);
                let gpus = packed.sets.iter().copied().fold(GpuSet::EMPTY, GpuSet::union);
                state.give(seat, ask.group, workers, gpus);
                // Equal packings are one and the same, so that their ring is found once.
                let ringed = rings.entry(Rc::as_ptr(&packed)).or_insert_with(|| {
                    let node = state.seat(seat).map(|seat| &seat.member.node);
                    node.map_or_else(Vec::new, |node| in_ring(node.wiring(), &packed.sets))
                });
                sets.insert((group, seat), ringed.clone().into_iter());
            }
        }
        let mut workers: Vec<(usize, u32, u32, Vec<crate::GpuUuid>)> = Vec::new();
        for (group, index, seat) in assign_all(tree, &self.question.asks, &found.splits) {
            let gpus = sets.get_mut(&(group, seat)).and_then(Iterator::next).unwrap_or_default();
            let gpus = state.seat(seat).map(|seat| seat.member.node.uuids(gpus)).unwrap_or_default();
            workers.push((group, index, seat, gpus));
        }
        workers.sort_unstable();
        let workers = self.ranked(gang, workers);
        let left_out = self.question.asks.iter().map(|ask| ask.missing.len() as u32).sum::<u32>()
            - found.workers.iter().sum::<u32>();
        let domains_of = |group: Option<usize>, depth: usize| {
            let mine = |nth: usize| group.is_none_or(|group| group == nth);
            let asks = self.question.asks.iter().enumerate().filter(|&(nth, _)| mine(nth));
            let running = asks.flat_map(|(_, ask)| ask.running.values().copied());
            let splits = found.splits.iter().enumerate().filter(|&(nth, _)| mine(nth));
            let placed = splits.flat_map(|(_, split)| split).map(|&(seat, _)| seat);
            let mut places: Vec<Place> = running.chain(placed).map(|seat| Place::of(tree, seat, depth)).collect();
            places.sort_unstable();
            places.dedup();
            places.len() as u32
        };
        let preferred = gang.preferred.clone().and_then(|level| {
            let depth = self.cluster.depth(&level)?;
            Some((level, domains_of(None, depth) <= 1))
        });
        let preference = |(nth, group): (usize, &crate::Group)| {
            let level = group.preferred.clone()?;
            let domains = domains_of(Some(nth), self.cluster.depth(&level)?);
            Some(Preference { group: group.name.clone(), level, domains })
        };
        let preferences = gang.groups.iter().enumerate().filter_map(preference).collect();
        Placement {
            workers,
            terms: found.named.clone().unwrap_or_else(|| self.terms(&found.cost, levels)),
            left_out,
            preferred,
            preferences,
            exact: found.exact,
            wanted: explain::wanted(gang, &found.workers),
        }
    }

    /// Ranks count the workers there are, running or new, group after group.
    fn ranked(&self, gang: &Gang, placed: Vec<(usize, u32, u32, Vec<crate::GpuUuid>)>) -> Vec<Worker> {
        let mut before = 0;
        let mut workers = Vec::with_capacity(placed.len());
        let mut placed = placed.into_iter().peekable();
        for (group, ask) in self.question.asks.iter().enumerate() {
            let mut new = Vec::new();
            while let Some(worker) = placed.next_if(|worker| worker.0 == group) {
                new.push(worker);
            }
            let mut present: Vec<u32> = ask.running.keys().copied().chain(new.iter().map(|worker| worker.1)).collect();
            present.sort_unstable();
            for (_, index, seat, gpus) in new {
                let rank = before + present.partition_point(|&other| other < index) as u32;
                let node = self.start.seat(seat).map_or_else(|| NodeName::from(""), |seat| seat.name().clone());
                workers.push(Worker { group: gang.groups[group].name.clone(), index, rank, node, gpus });
            }
            before += present.len() as u32;
        }
        workers
    }

    fn terms(&self, cost: &[i64], levels: usize) -> Vec<Term> {
        let terms = Terms { levels };
        let names = self.cluster.levels().iter().map(|level| level.name.as_str()).chain(["host"]);
        let names: Vec<&str> = names.collect();
        let mut named = Vec::with_capacity(cost.len());
        let mut add = |name: String, at: usize| named.push(Term { name, value: cost[at] });
        for (depth, level) in names.iter().enumerate() {
            add(format!("{level}s used"), terms.used(depth));
        }
        add("weak workers".to_owned(), terms.weak());
        add("NVLink domains opened".to_owned(), terms.nvlink());
        for (depth, level) in names.iter().enumerate().rev() {
            add(format!("GPUs left over by {level}"), terms.left(depth));
            add(format!("{level}s opened"), terms.opened(depth));
        }
        add("wires (negated)".to_owned(), terms.wires());
        add("worth lost to later jobs".to_owned(), terms.worth());
        named
    }
}

/// In what steps the number of workers of a group can be changed.
fn unit(ask: &Ask<'_>) -> u32 {
    ask.slices.first().map_or(1, |&(_, size)| size)
}

/// The domains within `top` that may hold a whole group.
fn within(state: &State<'_>, top: Place, ask: &Ask<'_>) -> Vec<Place> {
    let tree = state.tree;
    let (Some(required), Place::Domain(id)) = (ask.required, top) else {
        return if ask.bound_to.is_none_or(|bound| contains(tree, bound, top)) { vec![top] } else { Vec::new() };
    };
    match (tree.domain(id).depth, ask.bound_to) {
        (Some(depth), bound) if depth >= required => {
            if bound.is_none_or(|bound| contains(tree, bound, top)) {
                vec![top]
            } else {
                Vec::new()
            }
        }
        (_, Some(bound)) => {
            if contains(tree, top, bound) {
                vec![bound]
            } else {
                Vec::new()
            }
        }
        (_, None) => {
            let below = tree.seats_below(id).into_iter();
            let mut places: Vec<Place> = below.map(|seat| Place::of(tree, seat, required)).collect();
            places.dedup();
            places
        }
    }
}

/// Whether `inner` is `outer` or lies below it.
pub(super) fn contains(tree: &Tree, outer: Place, inner: Place) -> bool {
    let above = match inner {
        Place::Domain(id) => id,
        Place::Seat(id) => tree.parent_of_seat(id),
    };
    match outer {
        Place::Domain(id) => tree.ancestors(above).any(|domain| domain == id),
        Place::Seat(_) => outer == inner,
    }
}
