//! How many workers of each group places have room for, each group looked at alone.

use crate::GpuSet;
use crate::place::Eligibility;
use crate::place::ranks::Place;
use crate::place::room::{Ask, State};
use crate::tree::ROOT;

/// How many workers of each group places have room for, each group looked at alone.
#[derive(Debug)]
pub(in crate::place) struct Rooms {
    /// By group, then by seat.
    pub(super) seats: Vec<Vec<u32>>,
    /// By group, then by domain.
    domains: Vec<Vec<u32>>,
    /// Whether some node has GPUs for two groups, each of which can use some that the other cannot. Then giving GPUs to one
    /// group after the other can miss a way.
    pub(in crate::place) crossing: bool,
}

impl Rooms {
    pub(in crate::place) fn new(
        state: &State<'_>,
        asks: &[Ask<'_>],
        order: &[usize],
        eligible: Option<Eligibility<'_>>,
    ) -> Self {
        let tree = state.tree;
        let mut seats = vec![vec![0; tree.seat_bound()]; asks.len()];
        let mut domains = vec![vec![0u32; tree.domain_bound()]; asks.len()];
        // Nor is it known which sets of one group that needs wires leave the most to another.
        let wired = asks.iter().filter(|ask| ask.group.joined_by.is_some() && ask.group.gpus > 1).count();
        let mut crossing = wired > 1;
        let filtered = asks.iter().any(|ask| ask.group.product.is_some());
        for seat in tree.seats_below(ROOT) {
            for (group, ask) in asks.iter().enumerate() {
                let room = state.capacity(seat, ask, eligible).unwrap_or(0).min(ask.missing.len() as u32);
                seats[group][seat as usize] = room;
                for domain in tree.ancestors(tree.parent_of_seat(seat)) {
                    let sum = &mut domains[group][domain as usize];
                    *sum = sum.saturating_add(room);
                }
            }
            if filtered {
                let sets: Vec<GpuSet> = order.iter().map(|&group| state.free(seat, asks[group].group)).collect();
                crossing |= (0..sets.len()).any(|i| {
                    let alike = |&other: &GpuSet| sets[i].is_subset(other) || sets[i].intersection(other).is_empty();
                    !sets[i + 1..].iter().all(alike)
                });
            }
        }
        Self { seats, domains, crossing }
    }

    /// How many workers of a group have room at a place.
    pub(in crate::place) fn of(&self, group: usize, place: Place) -> u32 {
        match place {
            Place::Domain(id) => self.domains[group][id as usize],
            Place::Seat(id) => self.seats[group][id as usize],
        }
    }
}
