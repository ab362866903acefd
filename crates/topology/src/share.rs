//! Sharing GPUs: which parts of which GPUs a request for parts gets.
//!
//! A part is a MIG device, or one of the replicas under which a shared GPU is offered: an entry of a [`Node`] with the
//! same `pci_bus_id` as the other parts of its GPU. Where that is empty, an entry is a GPU of one part. Parts of one GPU
//! are equal: how many are taken from which GPU is all there is to decide, so this is exact for any number of them.
//!
//! # Pack
//! [`Sharing::Pack`] keeps GPUs whole for who needs whole ones. Smallest first in these terms, the first that differs
//! deciding: GPUs that were idle and no longer are, GPUs used, parts left over on the GPUs used; then the lowest GPUs.
//!
//! *Exact.* GPUs with a part that must be included are used anyway and serve first; *k* parts are left to find. Each term
//! is a sum over the GPUs used, and adding the same to two sums keeps their order. So the best set with room for *k* is a
//! knapsack, with or without the lowest GPU and then the best for what is still needed: n·k steps. (Taking the roomiest
//! is not enough: of 4, 3 and 2 free, five are 3 + 2.) The lowest GPU that belongs to any best set is taken, then the
//! next. Without any one of them there is too little room, or the set would not be the best; so each of them is used, and
//! what is left over is less than any of them has, and stays on the last one.
//!
//! # Spread
//! [`Sharing::Spread`] has as few as possible share a GPU: Σ lᵢ² is least, where lᵢ parts of GPU i are in use
//! afterwards; then the lowest GPUs.
//!
//! *Exact.* A part more on a GPU with *l* in use adds 2l + 1, which grows with *l*. So parts of a GPU cost more one after
//! the other, and any *k* cost at least what the *k* cheapest cost; taking the cheapest next takes these. k·log n steps.
//!
//! # What counts
//! Parts that are not free are in use, also those of another MIG profile than is asked for, which the caller does not
//! offer. Parts planned for others (`avoid`) are in use too, as long as there are enough others; if there are not, all
//! others are taken and as few planned ones as needed. A sick part is never taken, and in use only if it is not free.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;

use crate::choose::{Question, usable};
use crate::{GpuSet, NoChoice, Node};

/// How parts of GPUs are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// On as few GPUs as can be, so that others stay whole.
    Pack,
    /// As evenly as can be, so that each has as much of its GPU as can be.
    Spread,
}

/// The chosen parts, and why these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The parts.
    pub parts: GpuSet,
    /// By which of the two ways.
    pub sharing: Sharing,
    /// GPUs that they are parts of.
    pub gpus: u32,
    /// GPUs among these of which no part was in use.
    pub opened: u32,
    /// Parts that are left over on these GPUs.
    pub left_over: u32,
    /// The most parts that are then in use on one of these GPUs.
    pub most_in_use: u32,
    /// Parts among them that were to be avoided, since there was no way around.
    pub avoided: GpuSet,
}

impl Shared {
    /// The sentence for people; `node` is the one chosen on.
    pub fn explain<'a>(&'a self, node: &'a Node) -> impl fmt::Display + 'a {
        Explained { shared: self, node }
    }
}

struct Explained<'a> {
    shared: &'a Shared,
    node: &'a Node,
}

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shared, node } = self;
        let s = |count: usize| if count == 1 { "" } else { "s" };
        let (parts, gpus) = (shared.parts.len(), shared.gpus);
        if parts == 0 {
            return write!(f, "no part of a GPU of {} was asked for", node.name());
        }
        let uuids: Vec<String> = node.uuids(shared.parts).iter().map(ToString::to_string).collect();
        write!(f, "part{} {} of {}, on {gpus} GPU{}", s(parts), uuids.join(","), node.name(), s(gpus as usize))?;
        match shared.sharing {
            Sharing::Pack => {
                let opened = shared.opened;
                write!(f, ": packed, {opened} idle GPU{} opened, {} left over", s(opened as usize), shared.left_over)?;
            }
            Sharing::Spread => write!(f, ": spread, at most {} in use on one GPU", shared.most_in_use)?,
        }
        if !shared.avoided.is_empty() {
            write!(f, "; {} planned for another pod, for want of others", shared.avoided.len())?;
        }
        Ok(())
    }
}

/// Picks `count` parts of GPUs out of `free`, packed or spread as this module describes.
///
/// As with [`choose`](crate::choose()), unhealthy parts are never chosen, the answer contains `must`, has exactly `count`
/// members, and contains parts of `avoid` only where there is no way around. The same input gives the same answer.
///
/// # Errors
/// [`NoChoice`] says which of the ways in which it cannot be it was, with the counts.
pub fn share(
    node: &Node,
    free: GpuSet,
    must: GpuSet,
    avoid: GpuSet,
    count: usize,
    sharing: Sharing,
) -> Result<Shared, NoChoice> {
    let usable = usable(node, free, must, count)?;
    let Question { fixed, pool, pick, .. } = Question::new(usable, must, avoid, count);
    let planned = avoid.difference(fixed).difference(pool);
    let in_use = node.all().difference(free).union(planned);
    let wholes = wholes(node);
    let size = |set: GpuSet, of: GpuSet| set.intersection(of).len() as u32;
    let load = |&whole: &GpuSet| Load { held: size(whole, in_use), must: size(whole, fixed), free: size(whole, pool) };
    let loads: Vec<Load> = wholes.iter().map(load).collect();
    // There are enough: `usable` and `Question` saw to that.
    let taken = share_out(&loads, pick as u32, sharing).unwrap_or_default();

    let mut shared =
        Shared { parts: fixed, sharing, gpus: 0, opened: 0, left_over: 0, most_in_use: 0, avoided: GpuSet::EMPTY };
    for ((whole, load), taken) in wholes.iter().zip(&loads).zip(taken) {
        shared.parts = shared.parts.union(whole.intersection(pool).iter().take(taken as usize).collect());
        if load.must + taken > 0 {
            shared.gpus += 1;
            shared.opened += u32::from(load.held == 0);
            shared.left_over += load.free - taken;
            shared.most_in_use = shared.most_in_use.max(load.held + load.must + taken);
        }
    }
    shared.avoided = shared.parts.intersection(avoid);
    Ok(shared)
}

/// The parts of each GPU, in the order of their lowest.
fn wholes(node: &Node) -> Vec<GpuSet> {
    let mut wholes: Vec<(&str, GpuSet)> = Vec::new();
    for (position, gpu) in node.gpus().iter().enumerate() {
        let bus = &*gpu.pci_bus_id;
        match wholes.iter_mut().find(|(other, _)| !bus.is_empty() && *other == bus) {
            Some((_, parts)) => parts.insert(position),
            None => wholes.push((bus, std::iter::once(position).collect())),
        }
    }
    wholes.into_iter().map(|(_, parts)| parts).collect()
}

/// The parts of one GPU, by number: what [`share`] decides on, for callers with more parts than a [`GpuSet`] holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Parts that others use.
    pub held: u32,
    /// Parts that the request gets in any case.
    pub must: u32,
    /// Parts that it may get besides.
    pub free: u32,
}

/// How many of the free parts of each GPU `more` parts are taken from, beside those that the request gets in any case; none
/// if there are fewer. Packed or spread as this module describes, exactly.
pub fn share_out(gpus: &[Load], more: u32, sharing: Sharing) -> Option<Vec<u32>> {
    let room: u64 = gpus.iter().map(|gpu| u64::from(gpu.free)).sum();
    if room < u64::from(more) {
        return None;
    }
    Some(match sharing {
        Sharing::Pack => pack(gpus, more),
        Sharing::Spread => spread(gpus, more),
    })
}

fn spread(gpus: &[Load], more: u32) -> Vec<u32> {
    let mut taken = vec![0; gpus.len()];
    let in_use = |at: usize, taken: u32| u64::from(gpus[at].held) + u64::from(gpus[at].must) + u64::from(taken);
    let open = (0..gpus.len()).filter(|&at| gpus[at].free > 0);
    let mut next: BinaryHeap<Reverse<(u64, usize)>> = open.map(|at| Reverse((in_use(at, 0), at))).collect();
    for _ in 0..more {
        let Some(Reverse((_, at))) = next.pop() else { break };
        taken[at] += 1;
        if taken[at] < gpus[at].free {
            next.push(Reverse((in_use(at, taken[at]), at)));
        }
    }
    taken
}

fn pack(gpus: &[Load], more: u32) -> Vec<u32> {
    // GPUs that are used in any case serve first, and what they have left over counts in any case.
    let anyway: u64 = gpus.iter().filter(|gpu| gpu.must > 0).map(|gpu| u64::from(gpu.free)).sum();
    let mut used: Vec<bool> = gpus.iter().map(|gpu| gpu.must > 0).collect();
    if let Some(need) = u64::from(more).checked_sub(anyway).filter(|&need| need > 0) {
        let others: Vec<usize> = (0..gpus.len()).filter(|&at| gpus[at].must == 0 && gpus[at].free > 0).collect();
        let others_used = tightest(gpus, &others, need as usize);
        others_used.into_iter().for_each(|at| used[at] = true);
    }
    let mut rest = more;
    let take = |(gpu, used): (&Load, bool)| {
        let taken = if used { gpu.free.min(rest) } else { 0 };
        rest -= taken;
        taken
    };
    gpus.iter().zip(used).map(take).collect()
}

/// What a set of GPUs costs: idle ones, all of them, and the room that they have.
type Terms = (usize, usize, usize);

/// The GPUs out of `others` that have room for `need` and cost least; of equals the lowest.
fn tightest(gpus: &[Load], others: &[usize], need: usize) -> Vec<usize> {
    let room = |at: usize| gpus[at].free as usize;
    // With this GPU and the best of those after it.
    let with = |after: &[Option<Terms>], at: usize, n: usize| {
        let (idle, count, sum) = after[n.saturating_sub(room(at))]?;
        Some((idle + usize::from(gpus[at].held == 0), count + 1, sum + room(at)))
    };
    // least[i][n]: the least that GPUs from the i-th on with room for n cost, if there are such.
    let mut least: Vec<Vec<Option<Terms>>> = vec![vec![None; need + 1]; others.len() + 1];
    least[others.len()][0] = Some((0, 0, 0));
    for (i, &at) in others.iter().enumerate().rev() {
        let after = &least[i + 1];
        let row = (0..=need).map(|n| with(after, at, n).into_iter().chain(after[n]).min()).collect();
        least[i] = row;
    }
    let (mut used, mut n) = (Vec::new(), need);
    for (i, &at) in others.iter().enumerate() {
        if let Some(terms) = with(&least[i + 1], at, n)
            && least[i][n] == Some(terms)
        {
            n = n.saturating_sub(room(at));
            used.push(at);
        }
    }
    used
}
