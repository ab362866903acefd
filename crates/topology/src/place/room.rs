//! What is left of the cluster while a gang is being placed, and how many workers of a group a node can take.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ranks::Place;
use super::{Eligibility, joined};
use crate::gang::Group;
use crate::stock::{Short, Stock};
use crate::tree::Tree;
use crate::why::Exclusion;
use crate::{Gpu, GpuSet, Level, Resources, Seat, Standing};

/// A group with what its placing needs beside its definition.
#[derive(Clone, Debug)]
pub(super) struct Ask<'a> {
    pub(super) group: &'a Group,
    /// Indices of the workers that have no place.
    pub(super) missing: Vec<u32>,
    /// Seats of the workers that run, by index.
    pub(super) running: BTreeMap<u32, u32>,
    /// The level that binds this group alone.
    pub(super) required: Option<usize>,
    /// The domain of that level where workers of the group run already.
    pub(super) bound_to: Option<Place>,
    /// Slices by depth of their level, outermost first.
    pub(super) slices: Vec<(usize, u32)>,
    /// Levels whose label a node must have.
    pub(super) labels: Vec<(usize, Level)>,
    /// Who leads this group, if there are several leaders.
    pub(super) led: Option<Led>,
}

/// Leaders of a group, each for as many consecutive workers.
#[derive(Clone, Debug)]
pub(super) struct Led {
    /// The group of the leaders.
    pub(super) by: usize,
    /// The level at which a leader is with its workers.
    pub(super) depth: usize,
    /// Workers of each leader.
    pub(super) size: u32,
    /// Seats of the leaders that run, by index.
    pub(super) running: BTreeMap<u32, u32>,
}

/// The cluster less what was given to the gang so far.
#[derive(Clone)]
pub(super) struct State<'a> {
    pub(super) tree: &'a Tree,
    changed: BTreeMap<u32, Room>,
    /// GPUs given below each domain.
    given: BTreeMap<u32, u32>,
    /// Domains and seats where workers of the gang are.
    used_domains: BTreeSet<u32>,
    used_seats: BTreeSet<u32>,
    /// Which products suit, by where what is wanted and the product's name lie in memory: equal nodes share the names of their
    /// products, and are asked by the thousand.
    suiting: RefCell<Vec<((*const u8, *const u8), bool)>>,
}

/// What is left on one node.
#[derive(Clone, Debug)]
struct Room {
    free: GpuSet,
    spare: Resources,
}

impl<'a> State<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        Self {
            tree,
            changed: BTreeMap::new(),
            given: BTreeMap::new(),
            used_domains: BTreeSet::new(),
            used_seats: BTreeSet::new(),
            suiting: RefCell::default(),
        }
    }

    pub(super) fn seat(&self, id: u32) -> Option<&'a Seat> {
        self.tree.seat(id)
    }

    /// Whether nothing was given away yet.
    pub(super) fn is_untouched(&self) -> bool {
        self.changed.is_empty()
    }

    /// Whether the gang has a worker anywhere.
    pub(super) fn is_begun(&self) -> bool {
        !self.used_seats.is_empty()
    }

    /// What a seat has left beside GPUs.
    pub(super) fn spare(&self, id: u32) -> Option<&Resources> {
        self.changed.get(&id).map(|room| &room.spare).or_else(|| self.seat(id).map(|seat| &seat.spare))
    }

    /// GPUs of a seat that a worker of `group` may get.
    pub(super) fn free(&self, id: u32, group: &Group) -> GpuSet {
        let Some(seat) = self.seat(id) else { return GpuSet::EMPTY };
        let free = self.changed.get(&id).map_or_else(|| seat.free(), |room| room.free);
        free.intersection(self.suitable(seat, group))
    }

    /// GPUs of any kind that can still be given away on a seat.
    pub(super) fn free_on(&self, id: u32) -> u32 {
        let Some(seat) = self.seat(id) else { return 0 };
        let free = self.changed.get(&id).map_or_else(|| seat.free(), |room| room.free);
        (free.len() as u32).saturating_sub(seat.unidentified)
    }

    /// GPUs of any kind that can still be given away below a domain.
    pub(super) fn free_below(&self, domain: u32) -> u32 {
        self.tree.domain(domain).free.saturating_sub(self.given.get(&domain).copied().unwrap_or(0))
    }

    /// Whether nobody, this gang included, has a GPU on a seat.
    pub(super) fn seat_is_idle(&self, id: u32) -> bool {
        !self.changed.contains_key(&id) && self.seat(id).is_some_and(Seat::is_idle)
    }

    /// Whether nobody, this gang included, has a GPU below a domain.
    pub(super) fn domain_is_idle(&self, domain: u32) -> bool {
        self.tree.domain(domain).busy == 0 && !self.given.contains_key(&domain)
    }

    pub(super) fn domain_is_used(&self, domain: u32) -> bool {
        self.used_domains.contains(&domain)
    }

    pub(super) fn seat_is_used(&self, seat: u32) -> bool {
        self.used_seats.contains(&seat)
    }

    /// Notes that a worker of the gang is here.
    pub(super) fn mark_used(&mut self, seat: u32) {
        self.used_seats.insert(seat);
        self.used_domains.extend(self.tree.ancestors(self.tree.parent_of_seat(seat)));
    }

    /// Gives GPUs and other resources of a seat to `workers` workers of `group`.
    pub(super) fn give(&mut self, id: u32, group: &Group, workers: u32, gpus: GpuSet) {
        let Some(seat) = self.seat(id) else { return };
        let room = self.changed.entry(id).or_insert_with(|| Room { free: seat.free(), spare: seat.spare.clone() });
        room.free = room.free.difference(gpus);
        for _ in 0..workers {
            room.spare.subtract(&group.resources);
        }
        for domain in self.tree.ancestors(self.tree.parent_of_seat(id)) {
            *self.given.entry(domain).or_default() += gpus.len() as u32;
        }
        self.mark_used(id);
    }

    /// How many workers of a group a seat can take, at least one, or why none.
    pub(super) fn capacity(&self, id: u32, ask: &Ask<'_>, eligible: Option<Eligibility<'_>>) -> Result<u32, Exclusion> {
        let group = ask.group;
        let Some(seat) = self.seat(id) else { return Ok(0) };
        if let Some(eligible) = eligible {
            eligible(group, seat.name())?;
        }
        match seat.member.standing {
            Standing::Ready => {}
            Standing::NotReady => return Err(Exclusion::NotReady),
            Standing::Cordoned => return Err(Exclusion::Cordoned),
        }
        for (depth, level) in &ask.labels {
            if seat.path.get(*depth).is_some_and(Option::is_none) {
                return Err(Exclusion::LevelLabelMissing { level: level.clone() });
            }
        }
        let by_gpus = self.gpu_capacity(id, seat, group)?;
        let spare = self.changed.get(&id).map_or(&seat.spare, |room| &room.spare);
        let by_resources = match spare.times(&group.resources) {
            Some((0, name)) => {
                let (free, needs) = (spare.get(name), group.resources.get(name));
                return Err(Exclusion::Resource { name: name.to_owned(), free, needs });
            }
            Some((times, _)) => u32::try_from(times).unwrap_or(u32::MAX),
            None => u32::MAX,
        };
        Ok(by_gpus.min(by_resources).min(group.replicas))
    }

    /// GPUs of the kind that a group asks for, free or not.
    fn suitable(&self, seat: &Seat, group: &Group) -> GpuSet {
        if group.product.is_none() && group.mig_profile.is_none() {
            return seat.whole;
        }
        let profile = group.mig_profile.as_deref();
        let product = group.product.as_deref();
        seat.member.node.positions(|gpu| {
            gpu.mig_profile.as_deref() == profile && product.is_none_or(|wanted| self.suits(&gpu.product, wanted))
        })
    }

    /// Whether GPUs of a product are what a group wants.
    pub(super) fn suits(&self, product: &Arc<str>, wanted: &str) -> bool {
        let key = (wanted.as_ptr(), product.as_ptr());
        let mut known = self.suiting.borrow_mut();
        if let Some(&(_, suits)) = known.iter().find(|(other, _)| *other == key) {
            return suits;
        }
        let suits = contains_ignoring_case(product, wanted);
        known.push((key, suits));
        suits
    }

    fn gpu_capacity(&self, id: u32, seat: &Seat, group: &Group) -> Result<u32, Exclusion> {
        let needs = group.gpus;
        if needs == 0 {
            return Ok(u32::MAX);
        }
        let (node, suitable, gpus) = (&seat.member.node, self.suitable(seat, group), self.free(id, group));
        let stock = Stock::among(seat, suitable, gpus);
        let free = u32::from(stock.free);
        Err(match stock.short(needs) {
            None => {
                let Some(joined) = group.joined_by.filter(|_| needs > 1) else { return Ok(free / needs) };
                let room = joined::most(node.wiring(), gpus, needs as usize, joined).min(free / needs);
                if room > 0 {
                    return Ok(room);
                }
                Exclusion::Wires { joined, has: joined::largest(node.wiring(), gpus, joined), needs }
            }
            Some(Short::Product) => Exclusion::WrongProduct { has: node.gpus().first().map(has).unwrap_or_default() },
            Some(Short::Gpus) => Exclusion::TooFewGpus { has: stock.suitable.into(), needs },
            Some(Short::Healthy) => Exclusion::GpusUnhealthy { healthy: stock.healthy.into(), needs },
            Some(Short::Unheld) => Exclusion::GpusTaken { free: stock.unheld.into(), needs },
            Some(Short::Unplanned) => Exclusion::PlannedForAnother { free, needs },
        })
    }
}

/// A GPU in the words in which a product is asked for.
fn has(gpu: &Gpu) -> String {
    match &gpu.mig_profile {
        Some(profile) => format!("{} in {profile} slices", gpu.product),
        None => gpu.product.to_string(),
    }
}

/// Of ASCII letters, as products are written; nodes are asked by the thousand, so nothing is allocated.
fn contains_ignoring_case(text: &str, wanted: &str) -> bool {
    let (text, wanted) = (text.as_bytes(), wanted.as_bytes());
    wanted.is_empty() || text.windows(wanted.len()).any(|part| part.eq_ignore_ascii_case(wanted))
}
