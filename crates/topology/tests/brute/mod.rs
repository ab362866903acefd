//! Brute force that the property tests share: what the documentation defines, computed in the plainest way.
#![allow(dead_code, reason = "each test file uses some")]

pub mod world;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use weft_topology::*;

use crate::machines::{bridged, member, node, nvswitch8, pcie};

/// The domains of a node from the outermost level inwards, as the documentation defines them: by the labels so far; a
/// node without any further label is alone.
pub fn domains(seat: &Seat) -> Vec<String> {
    let mut path = String::new();
    let mut all = Vec::new();
    for (depth, name) in seat.path.iter().enumerate() {
        path += "/";
        path += match name {
            Some(name) => name.as_str(),
            None if seat.path[depth..].iter().any(Option::is_some) => "",
            None => seat.name().as_str(),
        };
        all.push(path.clone());
    }
    all.push(format!("{path}/{}", seat.name()));
    all
}

/// Whether a node is part of an NVLink domain of several nodes.
pub fn is_nvlinked(seat: &Seat) -> bool {
    seat.member.node.nvlink_domain().is_some()
}

pub fn subsets(of: GpuSet, size: usize) -> impl Iterator<Item = GpuSet> {
    (0..=of.bits()).map(GpuSet::from_bits).filter(move |set| set.is_subset(of) && set.len() == size)
}

/// All ways to cut `workers` disjoint sets of `each` out of `free`, lowest GPU first.
pub fn cuts(free: GpuSet, each: usize, workers: usize) -> Vec<Vec<GpuSet>> {
    if workers == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for set in subsets(free, each) {
        let above = GpuSet::from_bits(free.bits() & !((2u64 << set.lowest().unwrap()) - 1));
        for mut rest in cuts(above.difference(set), each, workers - 1) {
            rest.insert(0, set);
            all.push(rest);
        }
    }
    all
}

/// Σ over k of the best packing of `rest` into sets of k.
pub fn worth(wiring: &Wiring, rest: GpuSet) -> u64 {
    let packing = |k: usize| cuts(rest, k, rest.len() / k).iter().map(|cut| wires(wiring, cut)).max().unwrap_or(0);
    (2..=rest.len()).map(packing).sum()
}

pub fn wires(wiring: &Wiring, sets: &[GpuSet]) -> u64 {
    sets.iter().map(|&set| u64::from(wiring.within(set))).sum()
}

pub fn sizes(rest: GpuSet) -> u64 {
    rest.len().saturating_sub(1).max(1) as u64
}

/// Weak workers, wires (negated) and worth lost of so many workers on a node.
pub fn on_node(node: &Node, free: GpuSet, each: usize, workers: usize) -> [i64; 3] {
    sets_on_node(node, free, each, workers).0
}

/// The same, with all GPUs that they get.
pub fn sets_on_node(node: &Node, free: GpuSet, each: usize, workers: usize) -> ([i64; 3], GpuSet) {
    let wiring = node.wiring();
    let union = |sets: &[GpuSet]| sets.iter().copied().fold(GpuSet::EMPTY, GpuSet::union);
    let positions = |sets: &[GpuSet]| {
        (
            union(sets).iter().collect::<Vec<_>>(),
            sets.iter().map(|set| set.iter().collect::<Vec<_>>()).collect::<Vec<_>>(),
        )
    };
    let rest = |sets: &[GpuSet]| sets.iter().fold(free, |rest, &set| rest.difference(set));
    let value =
        |sets: &[GpuSet]| 5 * u64::from(wiring.within(union(sets))) * sizes(rest(sets)) + 4 * worth(wiring, rest(sets));
    let key = |sets: &Vec<GpuSet>| {
        let (all, each) = positions(sets);
        (value(sets), std::cmp::Reverse(all), wires(wiring, sets), std::cmp::Reverse(each))
    };
    let best = cuts(free, each, workers).into_iter().max_by_key(key).unwrap();
    let weak: i64 = best.iter().map(|&set| 2 - i64::from(wiring.grade(set))).sum();
    let mean = |rest: GpuSet| (worth(wiring, rest) / sizes(rest)) as i64;
    ([weak, -(wires(wiring, &best) as i64), mean(free) - mean(rest(&best))], union(&best))
}

/// What every placement must keep, whatever its worth.
pub fn check(cluster: &Cluster, gang: &Gang, placement: &Placement) {
    let mut seen = BTreeSet::new();
    let mut spare: BTreeMap<&NodeName, u32> = BTreeMap::new();
    let mut ranks = BTreeSet::new();
    let mut places: BTreeMap<(String, u32), NodeName> =
        gang.placed.iter().map(|placed| ((placed.group.clone(), placed.index), placed.node.clone())).collect();
    for worker in &placement.workers {
        let group = gang.groups.iter().find(|group| group.name == worker.group).unwrap();
        let seat = cluster.node(&worker.node).unwrap();
        assert_eq!(worker.gpus.len(), group.gpus as usize);
        let gpus = seat.member.node.set_of(worker.gpus.iter().map(GpuUuid::as_str)).unwrap();
        assert!(gpus.is_subset(seat.free()), "a GPU that is not free");
        assert!(worker.gpus.iter().all(|gpu| seen.insert(gpu.clone())), "a GPU given twice");
        assert!(ranks.insert(worker.rank), "a rank given twice");
        *spare.entry(&worker.node).or_default() += group.gpus;
        assert!(spare[&worker.node] <= seat.free_count(), "more GPUs than can be given away");
        let before = places.insert((worker.group.clone(), worker.index), worker.node.clone());
        assert_eq!(before, None, "a worker that was there already");
    }
    let domain =
        |node: &NodeName, level: &Level| domains(cluster.node(node).unwrap())[cluster.depth(level).unwrap()].clone();
    if let Some(level) = &gang.required {
        assert!(
            places.values().map(|node| domain(node, level)).collect::<BTreeSet<_>>().len() <= 1,
            "required level broken"
        );
    }
    for group in &gang.groups {
        let mine = || places.iter().filter(|((name, _), _)| *name == group.name);
        assert_eq!(mine().count() as u32 + placement.left_out * u32::from(gang.groups.len() == 1), group.replicas);
        if let Some(level) = &group.required {
            assert!(mine().map(|(_, node)| domain(node, level)).collect::<BTreeSet<_>>().len() <= 1);
        }
        for slice in &group.slices {
            let mut of: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
            for ((_, index), node) in mine() {
                of.entry(index / slice.size).or_default().insert(domain(node, &slice.level));
            }
            assert!(of.values().all(|domains| domains.len() == 1), "a slice is split: {of:?}");
        }
    }
}

/// The value of the objective, in order of importance.
pub fn terms(placement: &Placement) -> Vec<i64> {
    placement.terms.iter().map(|term| term.value).collect()
}

/// That a placement is no better than what is best, and as good if it says that it is proven.
pub fn is_as_good_as_it_says(placement: &Placement, best: &[i64]) -> Result<(), TestCaseError> {
    let terms = terms(placement);
    if placement.exact {
        prop_assert_eq!(terms, best, "{}", placement.tree());
    } else {
        prop_assert!(terms.as_slice() >= best);
    }
    Ok(())
}

/// A small cluster of levels zone, block and rack with nodes of up to four GPUs, some of them held, planned or sick.
pub fn clusters(nodes: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Cluster> {
    let label = |values: u8| prop_oneof![8 => (0..values).prop_map(Some), 1 => Just(None)];
    let one = (0u8..4, label(2), label(2), label(3), 0u64..16, 0u64..16, 0u32..20, 0u8..20);
    prop::collection::vec(one, nodes).prop_map(|nodes| {
        let levels = ["zone", "block", "rack"].map(|level| LevelLabel::new(level, level));
        let mut cluster = Cluster::new(levels.to_vec()).unwrap();
        for (i, (kind, zone, block, rack, held, planned, unidentified, standing)) in nodes.into_iter().enumerate() {
            let name = format!("n{i}");
            let machine = match kind {
                0 => bridged(&name, 4),
                1 => pcie(&name, 4),
                2 => node(&name, 4, |a, b| {
                    if a == 0 { Wire::over(Path::ALL[b as usize]) } else { Wire::nvlink(b as u8, Path::HostBridge) }
                }),
                _ => {
                    let mut facts = NodeFacts::from(node(&name, 3, |_, _| Wire::nvswitch(18, Path::SameNuma)));
                    facts.gpus.iter_mut().for_each(|gpu| gpu.product = "NVIDIA A100-SXM4-80GB".into());
                    facts.nvlink_domain = Some("fabric.1".into());
                    Node::new(facts).unwrap()
                }
            };
            let labels = [("zone", zone), ("block", block), ("rack", rack)];
            let labels: Vec<_> = labels.iter().filter_map(|&(key, value)| Some((key, value?.to_string()))).collect();
            let labels: Vec<_> = labels.iter().map(|(key, value)| (*key, value.as_str())).collect();
            let (held, planned) = (GpuSet::from_bits(held & held >> 1), GpuSet::from_bits(planned & planned >> 2));
            let held = machine.uuids(held.intersection(machine.all()));
            let planned = machine.uuids(planned.intersection(machine.all()));
            let mut member = member(machine, &labels);
            member.standing = match standing {
                0 => Standing::Cordoned,
                1 => Standing::NotReady,
                _ => Standing::Ready,
            };
            cluster.upsert(member);
            let unidentified_gpus = u32::from(unidentified == 0);
            cluster.claim(
                &name.as_str().into(),
                format!("held-{i}").as_str().into(),
                Claim { gpus: held, unidentified_gpus, ..Default::default() },
            );
            cluster.claim(
                &name.as_str().into(),
                format!("planned-{i}").as_str().into(),
                Claim { gpus: planned, planned: true, ..Default::default() },
            );
        }
        cluster
    })
}

const A100: &str = "NVIDIA A100-SXM4-80GB";

/// The MIG profile of the slices of odd nodes.
pub const PROFILE: &str = "1g.10gb";

/// Nodes of five kinds and two products on two to five levels, some of their GPUs held or planned. With `odd` ones some are of two
/// products, have MIG slices, no GPUs, no label of a level, or a GPU that somebody holds without it being known which.
pub fn wide_clusters(nodes: std::ops::Range<usize>, odd: bool) -> impl Strategy<Value = Cluster> {
    let one = (0u8..if odd { 10 } else { 6 }, any::<u8>(), any::<u8>(), 0u8..40, 0usize..if odd { 60 } else { 1 });
    // How many domains of a level, or nodes, lie right below one of the level above.
    let fans = prop::collection::vec(1usize..=4, 2..=5);
    (prop::collection::vec(one, nodes), fans, any::<bool>()).prop_map(move |(nodes, fans, full)| {
        let levels: Vec<LevelLabel> = (0..fans.len())
            .map(|depth| LevelLabel::new(&format!("level-{depth}"), &format!("level-{depth}")))
            .collect();
        let mut cluster = Cluster::new(levels).unwrap();
        for (i, (kind, held, planned, standing, oddity)) in nodes.into_iter().enumerate() {
            let name = format!("n{i:02}");
            let machine = match kind {
                0 => bridged(&name, 4),
                1 => pcie(&name, 4),
                2 => {
                    let mut facts = NodeFacts::from(node(&name, 4, |_, _| Wire::nvswitch(18, Path::SameNuma)));
                    facts.nvlink_domain = Some("fabric.1".into());
                    Node::new(facts).unwrap()
                }
                3 => nvswitch8(&name, 12),
                6 => changed(nvswitch8(&name, 12), 0..4, |gpu| gpu.product = A100.into()),
                7 => changed(pcie(&name, 6), 0..6, |gpu| gpu.mig_profile = Some(PROFILE.into())),
                8 => changed(bridged(&name, 6), 2..5, |gpu| gpu.mig_profile = Some(PROFILE.into())),
                9 if held & 1 == 0 => {
                    Node::new(NodeFacts { name: name.as_str().into(), ..Default::default() }).unwrap()
                }
                _ => changed(nvswitch8(&name, 12), 0..8, |gpu| gpu.product = A100.into()),
            };
            // Neighbours share the inner domains: the number of the node, cut off further the further out.
            let mut labels: Vec<(String, String)> = Vec::new();
            let mut number = i;
            for depth in (0..fans.len()).rev() {
                number /= fans[depth];
                if odd && (oddity == depth || oddity == 6 && i % 2 == 0) {
                    continue;
                }
                labels.push((format!("level-{depth}"), number.to_string()));
            }
            let labels: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let held = GpuSet::from_bits(u64::from(if full { held } else { held & held >> 3 }));
            let planned = GpuSet::from_bits(u64::from(planned & planned >> 1 & planned >> 4));
            let (held, planned) = [held, planned].map(|set| machine.uuids(set.intersection(machine.all()))).into();
            let mut member = member(machine, &labels);
            member.standing = if standing == 0 { Standing::Cordoned } else { Standing::Ready };
            cluster.upsert(member);
            let node: NodeName = name.as_str().into();
            cluster.claim(&node, format!("held-{i}").as_str().into(), Claim { gpus: held, ..Default::default() });
            let claim = Claim { gpus: planned, planned: true, ..Default::default() };
            cluster.claim(&node, format!("planned-{i}").as_str().into(), claim);
            if odd && oddity % 8 == 7 {
                let claim = Claim { unidentified_gpus: 1, ..Default::default() };
                cluster.claim(&node, format!("unidentified-{i}").as_str().into(), claim);
            }
        }
        cluster
    })
}

/// A node of which some GPUs are changed.
fn changed(node: Node, gpus: std::ops::Range<usize>, change: impl FnMut(&mut Gpu)) -> Node {
    let mut facts = NodeFacts::from(node);
    facts.gpus[gpus].iter_mut().for_each(change);
    Node::new(facts).unwrap()
}
