//! The order in which collectives should pass through a gang: around each node along its best wires, and in and out of every
//! domain once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Placement, Worker};
use crate::tree::Tree;
use crate::{Cluster, DomainName, GpuSet, Level, Wiring};

/// Up to so many workers on a node, their best ring is found exactly.
const EXACT_UP_TO: usize = 10;

/// One ring of a hierarchical collective.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ring {
    /// What the ring stays within: a node (`host`), a domain of a level; none for the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Level>,
    /// The name of that node or domain; none for the whole cluster or a domain without a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<DomainName>,
    /// The ranks in it, in order. In a node all of its ranks; further out one rank for each part, the first of its own ring.
    pub ranks: Vec<u32>,
}

/// The rings of a gang.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rings {
    /// All ranks in one ring that enters and leaves every node and every domain once.
    pub flat: Vec<u32>,
    /// A ring for each node and domain with two parts or more, innermost first: reduce along the first ones, then along
    /// those further out, and back.
    pub rings: Vec<Ring>,
}

impl Placement {
    /// The rings through the workers placed.
    pub fn rings(&self, cluster: &Cluster) -> Rings {
        rings(cluster, &self.workers)
    }
}

/// The rings through `workers`, which may be all of a gang, earlier placed ones included.
pub fn rings(cluster: &Cluster, workers: &[Worker]) -> Rings {
    let tree = cluster.tree();
    // By the domains from the outside in: numbers of domains, and last of the seat.
    let mut nodes: BTreeMap<u32, Vec<&Worker>> = BTreeMap::new();
    for worker in workers {
        if let Some(seat) = tree.seat_id(&worker.node) {
            nodes.entry(seat).or_default().push(worker);
        }
    }
    let mut rings = Rings::default();
    let mut parts: Vec<(u32, Vec<u32>)> = Vec::new();
    for (seat, mut workers) in nodes {
        workers.sort_by_key(|worker| worker.rank);
        let ranks = around(tree, seat, &workers);
        if ranks.len() > 1 {
            let domain = tree.seat(seat).map(|seat| seat.name().as_str().into());
            rings.rings.push(Ring { within: Some(Level::host()), domain, ranks: ranks.clone() });
        }
        parts.push((tree.parent_of_seat(seat), ranks));
    }
    rings.rings.sort_by_key(|ring| ring.ranks.iter().min().copied());
    for depth in (0..=cluster.levels().len()).rev() {
        // `parts` are what lies directly below domains of the level before `depth`; the root is at none.
        let mut above: BTreeMap<u32, Vec<Vec<u32>>> = BTreeMap::new();
        for (domain, ranks) in parts {
            above.entry(domain).or_default().push(ranks);
        }
        let mut level: Vec<(u32, Vec<u32>, Option<Ring>)> = Vec::new();
        for (domain, mut inner) in above {
            inner.sort_by_key(|ranks| ranks.iter().min().copied());
            let heads: Vec<u32> = inner.iter().filter_map(|ranks| ranks.first().copied()).collect();
            let within = depth.checked_sub(1).map(|depth| cluster.levels()[depth].name.clone());
            let ring = Ring { within, domain: tree.domain(domain).key.name.clone(), ranks: heads };
            let ring = Some(ring).filter(|ring| ring.ranks.len() > 1);
            level.push((tree.domain(domain).parent, inner.concat(), ring));
        }
        level.sort_by_key(|(_, ranks, _)| ranks.iter().min().copied());
        rings.rings.extend(level.iter().filter_map(|(_, _, ring)| ring.clone()));
        parts = level.into_iter().map(|(parent, ranks, _)| (parent, ranks)).collect();
    }
    rings.flat = parts.into_iter().flat_map(|(_, ranks)| ranks).collect();
    rings
}

/// The ranks of the workers on a node, around it.
fn around(tree: &Tree, seat: u32, workers: &[&Worker]) -> Vec<u32> {
    let Some(node) = tree.seat(seat).map(|seat| &seat.member.node) else { return Vec::new() };
    let set = |worker: &&Worker| worker.gpus.iter().filter_map(|gpu| node.position(gpu.as_str())).collect();
    let sets: Vec<GpuSet> = workers.iter().map(set).collect();
    ring(node.wiring(), &sets).into_iter().map(|at| workers[at].rank).collect()
}

/// The sets in the order of the ring with the most in wires from each to the next.
pub(super) fn in_ring(wiring: &Wiring, sets: &[GpuSet]) -> Vec<GpuSet> {
    ring(wiring, sets).into_iter().map(|at| sets[at]).collect()
}

/// Positions in `sets` along the ring in which the best wires from each to the next have the highest sum; of equal rings the
/// one that comes first in order. Beyond [`EXACT_UP_TO`] sets each is followed by the nearest one left.
fn ring(wiring: &Wiring, sets: &[GpuSet]) -> Vec<usize> {
    let n = sets.len();
    if n <= 3 {
        return (0..n).collect();
    }
    let wire = |a: usize, b: usize| {
        let pairs = sets[a].iter().flat_map(|x| sets[b].iter().map(move |y| (x, y)));
        pairs.map(|(x, y)| wiring.wire(x, y).score()).max().unwrap_or(0)
    };
    let wires: Vec<Vec<u32>> = (0..n).map(|a| (0..n).map(|b| if a == b { 0 } else { wire(a, b) }).collect()).collect();
    let mut all = wires.iter().enumerate().flat_map(|(a, row)| row.iter().enumerate().filter(move |&(b, _)| b != a));
    let first = all.next().map(|(_, &wire)| wire);
    if all.all(|(_, &wire)| Some(wire) == first) {
        return (0..n).collect();
    }
    if n > EXACT_UP_TO {
        let mut order = vec![0];
        let mut open: Vec<usize> = (1..n).collect();
        while let Some(&last) = order.last()
            && let Some(at) = (0..open.len()).max_by_key(|&at| (wires[last][open[at]], std::cmp::Reverse(at)))
        {
            order.push(open.remove(at));
        }
        return order;
    }
    // `rest[visited · n + last]`: the most that a way from `last` through all that was not visited and back to 0 can have.
    let full = (1usize << n) - 1;
    let mut rest = vec![0u32; (full + 1) * n];
    for visited in (1..=full).rev().filter(|visited| visited & 1 == 1) {
        for last in (0..n).filter(|last| visited >> last & 1 == 1) {
            let next = (0..n).filter(|next| visited >> next & 1 == 0);
            let best = next.map(|next| wires[last][next] + rest[(visited | 1 << next) * n + next]).max();
            rest[visited * n + last] = best.unwrap_or(wires[last][0]);
        }
    }
    let (mut order, mut visited) = (vec![0], 1);
    while let Some(&last) = order.last()
        && let Some(next) = (0..n)
            .filter(|next| visited >> next & 1 == 0)
            .max_by_key(|&next| (wires[last][next] + rest[(visited | 1 << next) * n + next], std::cmp::Reverse(next)))
    {
        order.push(next);
        visited |= 1 << next;
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wiring::tests::wiring;

    fn permutations(of: &[usize]) -> Vec<Vec<usize>> {
        if of.is_empty() {
            return vec![Vec::new()];
        }
        let each = of.iter().flat_map(|&first| {
            let others: Vec<usize> = of.iter().copied().filter(|&other| other != first).collect();
            permutations(&others).into_iter().map(move |rest| [vec![first], rest].concat())
        });
        each.collect()
    }

    fn wire(wiring: &Wiring, a: GpuSet, b: GpuSet) -> u32 {
        a.iter().flat_map(|x| b.iter().map(move |y| wiring.wire(x, y).score())).max().unwrap_or(0)
    }

    #[test]
    fn no_other_ring_has_more_in_wires_and_of_equals_it_is_the_first() {
        for (sets, seed) in [(3, 1), (4, 1), (4, 2), (4, 3), (5, 4), (5, 5), (6, 6), (6, 7), (7, 8)] {
            for each in [1, 2] {
                let wiring = wiring(sets * each, seed);
                let sets: Vec<GpuSet> = (0..sets).map(|nth| (nth * each..(nth + 1) * each).collect()).collect();
                let length = |order: &[usize]| {
                    let next = order.iter().cycle().skip(1);
                    order.iter().zip(next).map(|(&a, &b)| wire(&wiring, sets[a], sets[b])).sum::<u32>()
                };
                let all = permutations(&(1..sets.len()).collect::<Vec<_>>());
                let all = all.into_iter().map(|rest| [vec![0], rest].concat());
                let best = all.max_by_key(|order| (length(order), std::cmp::Reverse(order.clone()))).unwrap();
                assert_eq!(ring(&wiring, &sets), best, "{} sets of {each}, seed {seed}", sets.len());
            }
        }
    }

    #[test]
    fn of_many_sets_each_is_followed_by_the_nearest_left() {
        let wiring = wiring(12, 9);
        let sets: Vec<GpuSet> = (0..12).map(|gpu| GpuSet::from_bits(1 << gpu)).collect();
        let order = ring(&wiring, &sets);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!((sorted, order[0]), ((0..12).collect::<Vec<_>>(), 0));
        for at in 0..11 {
            let to = |other: usize| wire(&wiring, sets[order[at]], sets[other]);
            let nearest = order[at + 1..].iter().copied().max_by_key(|&other| (to(other), std::cmp::Reverse(other)));
            assert_eq!(Some(order[at + 1]), nearest);
        }
    }
}
