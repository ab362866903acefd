//! Bringing the sums above a seat up to date.

use std::sync::Arc;

use super::domain::{LEVELS, Roomy, SUMMED, Tight};
use super::mixing::mix;
use super::{ROOT, Tree};
use crate::Seat;
use crate::stock::Stock;

impl Tree {
    /// Brings what is known above a seat of its products from what it was before to what it is now.
    pub(super) fn count_products(&mut self, id: u32, before: Option<&Seat>) {
        let (before, now) = (products(before), products(self.seat(id)));
        if before == now {
            return;
        }
        let above: Vec<u32> = self.ancestors(self.parent_of_seat(id)).collect();
        for at in above {
            let known = &mut self.domain_mut(at).products;
            for product in &before {
                if let Some(at) = known.iter().position(|(other, _)| other == product) {
                    known[at].1 -= 1;
                    if known[at].1 == 0 {
                        known.swap_remove(at);
                    }
                }
            }
            for product in &now {
                match known.iter_mut().find(|(other, _)| other == product) {
                    Some((_, nodes)) => *nodes += 1,
                    None => {
                        known.reserve_exact(1);
                        known.push((product.clone(), 1));
                    }
                }
            }
        }
    }

    /// Brings the sums above a seat from what they were with `before` to what the seat says now.
    pub(super) fn apply(&mut self, id: u32, before: Sums) {
        let now = Sums::of(self.seat(id));
        if now == before {
            return;
        }
        let mut at = self.parent_of_seat(id);
        let (mut look_before, mut look_now) = (before.signature, now.signature);
        let domain = self.domain_mut(at);
        if let Some(position) = domain.seats.iter().position(|&other| other == id) {
            // No node has more than 64.
            domain.whole[position] = now.whole as u8;
        }
        loop {
            let domain = self.domain_mut(at);
            let look = domain.signature;
            domain.nodes = domain.nodes + now.nodes - before.nodes;
            domain.free = domain.free + now.free - before.free;
            domain.busy = domain.busy + now.busy - before.busy;
            domain.nvlinked = domain.nvlinked + now.nvlinked - before.nvlinked;
            domain.signature = look.wrapping_add(look_now).wrapping_sub(look_before);
            // What a domain adds above is mixed, so that it matters what lies together. An empty one adds nothing.
            let mixed = |look: u64| if look == 0 { 0 } else { mix(look) };
            (look_before, look_now) = (mixed(look), mixed(domain.signature));
            for (gpus, room) in (1..).zip(&mut domain.rooms) {
                *room = *room + now.whole / gpus - before.whole / gpus;
            }
            if before.nodes > 0 {
                domain.by_free[before.whole as usize] -= 1;
            }
            if now.nodes > 0 {
                let at = now.whole as usize;
                if domain.by_free.len() <= at {
                    domain.by_free.resize(at + 1, 0);
                }
                domain.by_free[at] += 1;
            }
            domain.stocks.replace(before.stock, now.stock);
            if at == ROOT {
                break;
            }
            let parent = domain.parent;
            self.tighten(parent, at);
            at = parent;
        }
    }

    /// Brings up to date where the nodes below a domain are tightest, after a change below one of its children.
    fn tighten(&mut self, id: u32, child: u32) {
        // Of the root nobody asks it, and it may have very many children.
        if id == ROOT {
            return;
        }
        for free in 1..=SUMMED {
            let now = self.tight_in(child, free);
            let before = self.domain(id).tight.get(free - 1).copied().unwrap_or(Tight::NOWHERE);
            let tight = if now.free <= before.free {
                now
            } else if before.child == child {
                // It was the tightest and is less so now.
                let all = self.domain(id).children.iter().map(|&child| self.tight_in(child, free));
                all.min_by_key(|tight| tight.free).unwrap_or(Tight::NOWHERE)
            } else {
                continue;
            };
            if tight != before {
                let domain = self.domain_mut(id);
                domain.tight.resize(SUMMED, Tight::NOWHERE);
                domain.tight[free - 1] = tight;
            }
        }
        for gpus in 1..=SUMMED {
            let levels = self.domain(id).depth.map_or(0, |depth| self.levels.len() - 1 - depth).min(LEVELS);
            for between in 0..levels {
                let room = |tree: &Self, id: u32| (tree.room_within(id, gpus, between), id);
                let (before, now) = (self.domain(id).roomy.get(gpus - 1).map(|all| all[between]), room(self, child));
                let most = match before {
                    Some(before) if now.0 >= before.0 => now,
                    Some(before) if before.1 != child => continue,
                    _ => self.domain(id).children.iter().map(|&child| room(self, child)).max().unwrap_or(now),
                };
                if before != Some(most) {
                    let domain = self.domain_mut(id);
                    domain.roomy.resize(SUMMED, Roomy::default());
                    domain.roomy[gpus - 1][between] = most;
                }
            }
        }
    }

    /// The most room in one domain of a level that is this one or below it.
    fn room_within(&self, id: u32, gpus: usize, between: usize) -> u32 {
        let domain = self.domain(id);
        let own = domain.depth.is_some_and(|depth| self.levels.len() - 1 - depth == between);
        if own { domain.rooms[gpus - 1] } else { domain.roomy.get(gpus - 1).map_or(0, |all| all[between].0) }
    }

    /// Where nodes of so many free GPUs are tightest below a domain, as the domain above it has it.
    fn tight_in(&self, id: u32, free: usize) -> Tight {
        let domain = self.domain(id);
        if domain.by_free.get(free).is_none_or(|&nodes| nodes == 0) {
            return Tight::NOWHERE;
        }
        let mut tight = domain.tight.get(free - 1).copied().unwrap_or(Tight { free: [0; LEVELS], child: id });
        let between = domain.depth.map_or(0, |depth| self.levels.len() - 1 - depth);
        if let Some(own) = tight.free.get_mut(between) {
            *own = domain.free;
        }
        Tight { child: id, ..tight }
    }
}

/// The products of the GPUs of a node.
fn products(seat: Option<&Seat>) -> Vec<Arc<str>> {
    let mut products: Vec<Arc<str>> = Vec::new();
    for gpu in seat.into_iter().flat_map(|seat| seat.member.node.gpus()) {
        if !products.contains(&gpu.product) {
            products.push(gpu.product.clone());
        }
    }
    products
}

/// What a seat adds to the sums of the domains above it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    nodes: u32,
    free: u32,
    busy: u32,
    nvlinked: u32,
    whole: u32,
    signature: u64,
    stock: Option<Stock>,
}

impl Sums {
    pub(super) fn of(seat: Option<&Seat>) -> Self {
        seat.map_or_else(Self::default, |seat| Self {
            nodes: 1,
            free: seat.free_count(),
            busy: u32::from(!seat.is_idle()),
            nvlinked: u32::from(seat.member.node.nvlink_domain().is_some()),
            whole: seat.free_whole(),
            signature: seat.signature,
            stock: Some(Stock::of(seat)),
        })
    }
}
