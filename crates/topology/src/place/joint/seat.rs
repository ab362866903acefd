//! What a node can hold of several groups.

use super::cost::add_groups;
use super::vectors::Table;
use super::{GaveUp, Joint};
use crate::place::ranks::Place;
use crate::{GpuSet, Resources};

/// What a row of a node's table takes, in steps of which the merging of two rows takes one: some 80 ns and 40 ns.
const ROW_STEPS: u64 = 2;

/// A node being filled: how many of each group, and weak workers, wires (negated) and worth lost so far.
struct OnSeat<'e> {
    id: u32,
    counts: Vec<u32>,
    inside: [i64; 3],
    exactly: Option<&'e [u32]>,
}

impl Joint<'_, '_> {
    /// What a node can hold of each group, one group getting its GPUs after the other; only `exactly` so many if given.
    pub(super) fn seat_table(&mut self, id: u32, exactly: Option<&[u32]>) -> Result<Table, GaveUp> {
        let mut table = Table::default();
        let (state, nothing) = (self.state, Resources::new());
        let spare = state.spare(id).unwrap_or(&nothing);
        let mut seat = OnSeat { id, counts: vec![0; self.full.len()], inside: [0; 3], exactly };
        self.fill(&mut seat, 0, GpuSet::EMPTY, spare, &mut table)?;
        Ok(table)
    }

    fn fill(
        &mut self,
        seat: &mut OnSeat<'_>,
        nth: usize,
        given: GpuSet,
        spare: &Resources,
        table: &mut Table,
    ) -> Result<(), GaveUp> {
        let Some(&group) = self.order.get(nth) else {
            self.steps = self.steps.checked_sub(ROW_STEPS).ok_or(GaveUp)?;
            let cost = self.seat_cost(seat);
            table.push(self.vectors.pack(&seat.counts), self.vectors.number(&seat.counts), &cost);
            return Ok(());
        };
        let most = self.rooms.seats[group][seat.id as usize].min(self.full[group]);
        let wanted = seat.exactly.map(|counts| counts[group]);
        let ask = &self.question.asks[group];
        let each = ask.group.gpus;
        let free = self.state.free(seat.id, ask.group).difference(given);
        let unidentified = self.state.seat(seat.id).map_or(0, |seat| seat.unidentified);
        let resources = &ask.group.resources;
        let mut less = (!resources.is_empty()).then(|| spare.clone());
        for workers in 0..=most {
            if workers > 0 {
                let enough = (free.len() as u32).saturating_sub(unidentified) >= workers * each || each == 0;
                let runs_out = |less: &Resources| less.times(resources).is_some_and(|(times, _)| times == 0);
                if !enough || less.as_ref().is_some_and(runs_out) {
                    break;
                }
                if let Some(less) = &mut less {
                    less.subtract(resources);
                }
            }
            if wanted.is_some_and(|wanted| wanted != workers) {
                continue;
            }
            let before = seat.inside;
            let mut taken = given;
            if workers > 0
                && each > 0
                && let Some(node) = self.state.seat(seat.id).map(|seat| &seat.member.node)
            {
                let packed = self.packer.pack(node, free, ask.group, workers);
                if packed.sets.len() < workers as usize {
                    break;
                }
                taken = packed.sets.iter().copied().fold(given, GpuSet::union);
                let more = [packed.weak, -packed.wires, packed.worth_lost];
                seat.inside.iter_mut().zip(more).for_each(|(sum, term)| *sum += term);
                self.exact &= packed.exact;
            }
            seat.counts[group] = workers;
            self.fill(seat, nth + 1, taken, less.as_ref().unwrap_or(spare), table)?;
            seat.counts[group] = 0;
            seat.inside = before;
        }
        Ok(())
    }

    fn seat_cost(&self, seat: &OnSeat<'_>) -> Vec<i64> {
        let (layout, id, counts) = (self.layout, seat.id, &seat.counts);
        let mut cost = vec![0; layout.width];
        if counts.iter().all(|&count| count == 0) {
            return cost;
        }
        let depth = layout.used.len() - 1;
        if let Some(at) = layout.moved {
            let stay = |(group, &count): (usize, &u32)| count.min(self.stay.get(&(group, id)).copied().unwrap_or(0));
            cost[at] = -counts.iter().enumerate().map(|one| i64::from(stay(one))).sum::<i64>();
        }
        let gpus = self.question.gpus(counts) as i64;
        let left = i64::from(self.state.free_on(id)) - gpus;
        cost[layout.used[depth]] = i64::from(!self.state.seat_is_used(id));
        cost[layout.opened[depth]] = i64::from(self.state.seat_is_idle(id) && left > 0 && gpus > 0);
        cost[layout.left[depth]] = left;
        add_groups(self.question, layout, &mut cost, Place::Seat(id), depth, counts);
        cost[layout.weak] += seat.inside[0];
        cost[layout.wires] += seat.inside[1];
        cost[layout.worth] += seat.inside[2];
        cost
    }
}
