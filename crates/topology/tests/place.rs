//! Placing gangs: never worse than brute force, never infeasible when feasible.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod brute;
mod machines;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use brute::{check, clusters, domains, is_nvlinked, on_node, terms};
use machines::{member, node, nvswitch8, zones_and_racks};
use proptest::prelude::*;
use weft_topology::*;

/// What brute force looks up for every split.
struct World<'a> {
    cluster: &'a Cluster,
    gang: &'a Gang,
    /// The domains of each node, from the outermost level inwards.
    domains: BTreeMap<&'a str, Vec<String>>,
    /// The nodes of each domain, level by level.
    seats: Vec<BTreeMap<String, Vec<&'a Seat>>>,
    /// Where workers of the gang run.
    running: BTreeSet<String>,
    /// What so many workers on a node are worth, once it was worked out.
    on_node: RefCell<BTreeMap<(&'a str, u32), [i64; 3]>>,
}

impl<'a> World<'a> {
    fn new(cluster: &'a Cluster, gang: &'a Gang) -> Self {
        let domains: BTreeMap<&str, Vec<String>> =
            cluster.nodes().map(|seat| (seat.name().as_str(), domains(seat))).collect();
        let mut seats = vec![BTreeMap::<String, Vec<&Seat>>::new(); cluster.levels().len() + 1];
        for seat in cluster.nodes() {
            for (depth, domain) in domains[seat.name().as_str()].iter().enumerate() {
                seats[depth].entry(domain.clone()).or_default().push(seat);
            }
        }
        let running = gang.placed.iter().flat_map(|placed| domains[placed.node.as_str()].clone()).collect();
        Self { cluster, gang, domains, seats, running, on_node: RefCell::default() }
    }

    /// The documented objective of a split over nodes.
    fn objective(&self, split: &BTreeMap<&'a str, u32>) -> Vec<i64> {
        let (levels, gpus) = (self.seats.len(), self.gang.groups[0].gpus);
        let (mut used, mut opened, mut left, mut nvlink) = (vec![0; levels], vec![0; levels], vec![0; levels], 0);
        for (depth, members) in self.seats.iter().enumerate() {
            for (domain, seats) in members {
                let workers: u32 = seats.iter().filter_map(|seat| split.get(seat.name().as_str())).sum();
                if workers == 0 {
                    continue;
                }
                let free: u32 = seats.iter().map(|seat| seat.free_count()).sum();
                let rest = i64::from(free) - i64::from(workers * gpus);
                used[depth] += i64::from(!self.running.contains(domain));
                let idle = i64::from(rest > 0 && seats.iter().all(|seat| seat.is_idle()));
                opened[depth] += idle;
                left[depth] += rest;
                nvlink += if depth + 2 == levels && seats.iter().any(|seat| is_nvlinked(seat)) { idle } else { 0 };
            }
        }
        let mut inside = [0; 3];
        for (&name, &workers) in split.iter().filter(|&(_, &workers)| workers > 0) {
            let seat = self.cluster.node(&name.into()).unwrap();
            let make = || on_node(&seat.member.node, seat.free(), gpus as usize, workers as usize);
            let one = *self.on_node.borrow_mut().entry((name, workers)).or_insert_with(make);
            inside = std::array::from_fn(|i| inside[i] + one[i]);
        }
        let outwards = (0..levels).rev().flat_map(|depth| [left[depth], opened[depth]]).collect();
        [used, vec![inside[0], nvlink], outwards, inside[1..].to_vec()].concat()
    }
}

/// All splits over nodes that keep what is required, with the best objective among them. `kept_off` nodes take no worker.
fn brute_force(cluster: &Cluster, gang: &Gang, kept_off: &BTreeSet<NodeName>) -> Option<Vec<i64>> {
    let group = &gang.groups[0];
    let mut needed: Vec<&Level> = gang.required.iter().chain(&group.required).collect();
    needed.extend(group.slices.iter().map(|slice| &slice.level));
    let room = |seat: &Seat| {
        let labelled = needed.iter().all(|level| level.is_host() || seat.path[cluster.depth(level).unwrap()].is_some());
        let ready = seat.member.standing == Standing::Ready;
        let cpu = group.resources.get("cpu");
        let by_cpu = seat.spare.get("cpu").checked_div(cpu).map_or(u32::MAX, |workers| workers as u32);
        let suits = |gpu: &Gpu| group.product.as_ref().is_none_or(|product| gpu.product.contains(product.as_str()));
        let will_do = !kept_off.contains(seat.name()) && seat.member.node.gpus().iter().all(suits);
        if labelled && ready && will_do { (seat.free_count() / group.gpus).min(by_cpu) } else { 0 }
    };
    let seats: Vec<(&Seat, u32)> =
        cluster.nodes().map(|seat| (seat, room(seat))).filter(|&(_, room)| room > 0).collect();
    let mut best: Option<Vec<i64>> = None;
    let missing = group.replicas - gang.placed.len() as u32;
    let mut split = BTreeMap::new();
    fn each<'a>(
        seats: &[(&'a Seat, u32)],
        rest: u32,
        split: &mut BTreeMap<&'a str, u32>,
        visit: &mut impl FnMut(&BTreeMap<&'a str, u32>),
    ) {
        match seats.split_first() {
            _ if rest == 0 => visit(split),
            None => {}
            Some((&(seat, room), others)) => {
                for workers in 0..=room.min(rest) {
                    split.insert(seat.name().as_str(), workers);
                    each(others, rest - workers, split, visit);
                }
                split.remove(seat.name().as_str());
            }
        }
    }
    let world = World::new(cluster, gang);
    each(&seats, missing, &mut split, &mut |split| {
        if holds(&world, gang, split) {
            let value = world.objective(split);
            if best.as_ref().is_none_or(|best| value < *best) {
                best = Some(value);
            }
        }
    });
    best
}

/// Whether workers can be given to a split so that required levels and slices hold.
fn holds(world: &World<'_>, gang: &Gang, split: &BTreeMap<&str, u32>) -> bool {
    let (cluster, group) = (world.cluster, &gang.groups[0]);
    let domain = |node: &str, depth: usize| world.domains[node][depth].as_str();
    let at = |depth: usize| {
        let new = split.iter().filter(|&(_, &workers)| workers > 0).map(|(node, _)| domain(node, depth));
        new.chain(gang.placed.iter().map(|placed| domain(placed.node.as_str(), depth))).collect::<BTreeSet<_>>()
    };
    if gang.required.iter().chain(&group.required).any(|level| at(cluster.depth(level).unwrap()).len() > 1) {
        return false;
    }
    group.slices.iter().all(|slice| {
        let depth = cluster.depth(&slice.level).unwrap();
        let mut gaps: BTreeMap<&str, u32> = BTreeMap::new();
        let begun: BTreeMap<u32, &Placed> =
            gang.placed.iter().rev().map(|placed| (placed.index / slice.size, placed)).collect();
        for (number, placed) in begun {
            let there = gang.placed.iter().filter(|placed| placed.index / slice.size == number).count() as u32;
            *gaps.entry(domain(placed.node.as_str(), depth)).or_default() += slice.size - there;
        }
        let mut counts: BTreeMap<&str, u32> = gaps.keys().map(|&domain| (domain, 0)).collect();
        for (node, &workers) in split {
            *counts.entry(domain(node, depth)).or_default() += workers;
        }
        counts.iter().all(|(domain, &workers)| {
            let gap = gaps.get(domain).copied().unwrap_or(0);
            workers >= gap && (workers - gap).is_multiple_of(slice.size)
        })
    })
}

/// That what was found is as good as brute force found, and that there is none where it found none.
fn compare(
    found: Result<Placement, NoPlacement>,
    best: Option<Vec<i64>>,
    cluster: &Cluster,
    gang: &Gang,
) -> Result<(), TestCaseError> {
    match (found, best) {
        (Ok(placement), Some(best)) => {
            check(cluster, gang, &placement);
            let terms = terms(&placement);
            prop_assert_eq!(terms, best, "{}", placement.tree());
            prop_assert!(placement.exact);
        }
        (Err(NoPlacement::NoRoom(why)), None) => prop_assert!(why.proven),
        (found, best) => prop_assert!(false, "found {found:?}, brute force {best:?}"),
    }
    Ok(())
}

/// Rules out these nodes, as a node selector does.
fn keeping_off(nodes: &BTreeSet<NodeName>) -> impl Fn(&Group, &NodeName) -> Result<(), Exclusion> {
    |_, node| match nodes.contains(node) {
        true => Err(Exclusion::Selector { detail: "x=y".into() }),
        false => Ok(()),
    }
}

/// A gang of one group; some of its workers may run already.
fn gangs() -> impl Strategy<Value = (Gang, Vec<(u32, u8)>)> {
    let level = || prop_oneof![Just("zone"), Just("block"), Just("rack"), Just("host")].prop_map(Level::from);
    let slices = prop_oneof![
        4 => Just(vec![]),
        1 => (level(), 2u32..=3).prop_map(|(level, size)| vec![Slice { level, size }]),
        1 => Just(vec![Slice { level: "zone".into(), size: 4 }, Slice { level: "rack".into(), size: 2 }]),
        1 => Just(vec![Slice { level: "rack".into(), size: 4 }, Slice { level: "host".into(), size: 2 }]),
    ];
    let options = (prop::option::weighted(0.4, level()), prop::option::weighted(0.2, level()));
    (1u32..=5, 1u32..=4, options, slices, prop::collection::vec((0u32..5, any::<u8>()), 0..3)).prop_map(
        |(replicas, gpus, (required, own), slices, running)| {
            let outer = slices.first().map_or(1, |slice: &Slice| slice.size);
            let mut group = Group::new("worker", replicas.next_multiple_of(outer), gpus);
            group.required = own;
            group.slices = slices;
            (Gang { groups: vec![group], required, ..Default::default() }, running)
        },
    )
}

/// Places a gang of which some workers run, if these keep what is required among themselves, and compares with brute force.
fn as_well_as_can_be(cluster: &Cluster, mut gang: Gang, running: Vec<(u32, u8)>) -> Result<(), TestCaseError> {
    let names: Vec<NodeName> = cluster.nodes().map(|seat| seat.name().clone()).collect();
    for (index, node) in running {
        let index = index % gang.groups[0].replicas;
        let node = names[node as usize % names.len()].clone();
        if gang.placed.iter().all(|placed| placed.index != index) {
            gang.placed.push(Placed { group: "worker".into(), index, node });
        }
    }
    // Where they cannot, the gang is refused as contradictory.
    let world = World::new(cluster, &gang);
    let alone = Gang { groups: vec![Group { slices: vec![], ..gang.groups[0].clone() }], ..gang.clone() };
    prop_assume!(holds(&world, &alone, &BTreeMap::new()));
    prop_assume!(gang.groups[0].slices.iter().all(|slice| {
        let depth = cluster.depth(&slice.level).unwrap();
        let mut at: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
        for placed in &gang.placed {
            at.entry(placed.index / slice.size).or_default().insert(&world.domains[placed.node.as_str()][depth]);
        }
        at.values().all(|domains| domains.len() == 1)
    }));
    compare(place(cluster, &gang), brute_force(cluster, &gang, &BTreeSet::new()), cluster, &gang)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, max_global_rejects: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_group_is_placed_as_well_as_can_be((cluster, (gang, running)) in (clusters(1..=9), gangs())) {
        as_well_as_can_be(&cluster, gang, running)?;
    }

    #[test]
    fn selectors_resources_and_products_are_kept_and_cost_nothing_else(
        (cluster, (mut gang, _)) in (clusters(1..=9), gangs()), off in any::<u16>(), cpu in 0usize..4, product in any::<bool>(),
    ) {
        let number = |node: &NodeName| node.as_str()[1..].parse::<u32>().unwrap();
        let kept_off: BTreeSet<NodeName> =
            cluster.nodes().map(|seat| seat.name().clone()).filter(|node| off >> number(node) & 1 == 1).collect();
        gang.groups[0].resources = Resources::new().with("cpu", [0, 10_000, 25_000, 40_000][cpu]);
        gang.groups[0].product = product.then(|| "H100".to_owned());
        let best = brute_force(&cluster, &gang, &kept_off);
        let found = place_where(&cluster, &gang, &keeping_off(&kept_off));
        let if_room = match place_if_room(&cluster, &gang, &keeping_off(&kept_off)) {
            Ok(placement) => placement,
            Err(invalid) => {
                prop_assert_eq!(&found, &Err(NoPlacement::Invalid(invalid)));
                None
            }
        };
        prop_assert_eq!(if_room.as_ref(), found.as_ref().ok());
        compare(found, best, &cluster, &gang)?;
    }

    #[test]
    fn a_refusal_says_the_same_from_sums_as_from_looking_at_every_node(
        (cluster, (gang, _)) in (clusters(0..=12), gangs()), gone in any::<u16>(), sick in any::<u64>(), more in 0u32..30,
    ) {
        let mut cluster = cluster;
        let nodes: Vec<NodeName> = cluster.nodes().map(|seat| seat.name().clone()).collect();
        for (i, name) in nodes.iter().enumerate() {
            let mut member = cluster.member(name).unwrap();
            let mut facts = NodeFacts::from(member.node.clone());
            for gpu in facts.gpus.iter_mut().filter(|gpu| sick >> (5 * i + gpu.index as usize) & 0b11 == 0b11) {
                gpu.health = Health::Unhealthy { reason: "Xid 79".into() };
            }
            member.node = Node::new(facts).unwrap();
            cluster.upsert(member);
            if gone >> i & 0b11 == 0b11 {
                cluster.remove(name);
            }
        }
        let gang = Gang { groups: vec![Group { replicas: more, slices: vec![], ..gang.groups[0].clone() }], ..gang };
        prop_assert_eq!(place(&cluster, &gang), place_where(&cluster, &gang, &|_, _| Ok(())));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_global_rejects: 50_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_up_to_twelve_nodes_one_group_is_placed_as_well_as_can_be(
        (cluster, (gang, running)) in (clusters(10..=12), gangs()),
    ) {
        as_well_as_can_be(&cluster, gang, running)?;
    }
}

proptest! {
    // Twelve nodes have many splits.
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn domains_that_look_alike_are_told_apart_by_who_may_use_them(
        held in prop::collection::vec(prop::sample::select(vec![0u64, 0, 0, 0b0001, 0b0011, 0b0101]), 12),
        off in any::<u16>(), replicas in 1u32..=6, gpus in 1u32..=4,
    ) {
        // Two blocks of two racks of three equal nodes each, most of them idle.
        let levels = ["block", "rack"].map(|level| LevelLabel::new(level, level));
        let mut cluster = Cluster::new(levels.to_vec()).unwrap();
        for (i, held) in held.iter().enumerate() {
            let name = format!("n{i:02}");
            let labels = [("block", (i / 6).to_string()), ("rack", (i / 3).to_string())];
            let labels = labels.each_ref().map(|(key, value)| (*key, value.as_str()));
            let machine = machines::bridged(&name, 4);
            let gpus = machine.uuids(GpuSet::from_bits(*held));
            cluster.upsert(machines::member(machine, &labels));
            cluster.claim(&name.as_str().into(), name.as_str().into(), Claim { gpus, ..Default::default() });
        }
        let kept_off: BTreeSet<NodeName> =
            (0..12).filter(|i| off >> i & 1 == 1).map(|i| format!("n{i:02}").as_str().into()).collect();
        let gang = Gang { groups: vec![Group::new("worker", replicas, gpus)], ..Default::default() };
        let best = brute_force(&cluster, &gang, &kept_off);
        compare(place_where(&cluster, &gang, &keeping_off(&kept_off)), best, &cluster, &gang)?;
        let best = brute_force(&cluster, &gang, &BTreeSet::new());
        compare(place(&cluster, &gang), best, &cluster, &gang)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn over_several_of_many_racks_a_gang_is_placed_as_well_as_can_be(
        nodes in prop::collection::vec((0usize..7, prop::sample::select(vec![0u64, 0, 0b0001, 0b0011, 0b0101, 0b0111, 0b1111])), 8..=12),
        replicas in 3u32..=7, gpus in 1u32..=4,
    ) {
        let mut cluster = Cluster::new(vec![LevelLabel::new("rack", "rack")]).unwrap();
        for (i, (rack, held)) in nodes.into_iter().enumerate() {
            let name = format!("n{i:02}");
            let machine = if i % 3 == 0 { machines::pcie(&name, 4) } else { machines::bridged(&name, 4) };
            let gpus = machine.uuids(GpuSet::from_bits(held));
            cluster.upsert(member(machine, &[("rack", rack.to_string().as_str())]));
            cluster.claim(&name.as_str().into(), name.as_str().into(), Claim { gpus, ..Default::default() });
        }
        let gang = Gang { groups: vec![Group::new("worker", replicas, gpus)], ..Default::default() };
        let best = brute_force(&cluster, &gang, &BTreeSet::new());
        compare(place(&cluster, &gang), best, &cluster, &gang)?;
    }
}

#[test]
fn of_equal_nodes_the_first_of_the_first_zone_is_taken_also_where_it_comes_later_there() {
    let mut cluster = zones_and_racks();
    // As many free GPUs in each zone, not in the same numbers: the two do not look alike.
    let racks = [
        ("z0", "a", 4),
        ("z0", "b", 4),
        ("z0", "c", 4),
        ("z0", "d", 0),
        ("z1", "e", 0),
        ("z1", "f", 2),
        ("z1", "g", 2),
    ];
    for (zone, rack, taken) in racks {
        cluster.upsert(member(nvswitch8(rack, 18), &[("zone", zone), ("rack", rack)]));
        let gpus = (0..taken).map(|i| format!("GPU-{rack}-{i}").into()).collect();
        cluster.claim(&rack.into(), rack.into(), Claim { gpus, ..Default::default() });
    }
    let gang = Gang { groups: vec![Group::new("worker", 1, 8)], ..Default::default() };
    assert_eq!(place(&cluster, &gang).unwrap().workers[0].node, "d".into());
}

#[test]
fn one_node_with_far_wires_comes_before_two_with_near_ones() {
    let mut cluster = zones_and_racks();
    let rack = [("zone", "z"), ("rack", "r")];
    cluster.upsert(member(node("far", 8, |_, _| Wire::over(Path::CrossSocket)), &rack));
    for name in ["near-1", "near-2"] {
        cluster.upsert(member(node(name, 4, |_, _| Wire::nvswitch(18, Path::SameNuma)), &rack));
    }
    cluster.upsert(member(node("start", 2, |_, _| Wire::over(Path::SameNuma)), &rack));
    let mut gang = Gang { groups: vec![Group::new("worker", 5, 2)], ..Default::default() };
    // Also where a worker runs already, so that numbers of nodes are weighed and not bounded.
    gang.placed = vec![Placed { group: "worker".into(), index: 0, node: "start".into() }];
    let gpus = (0..2).map(|i| format!("GPU-start-{i}").into()).collect();
    cluster.claim(&"start".into(), "first".into(), Claim { gpus, ..Default::default() });
    let found = place(&cluster, &gang).unwrap();
    assert!(found.workers.iter().all(|worker| worker.node == "far".into()), "{}", found.tree());
    check(&cluster, &gang, &found);
}

#[test]
fn of_a_node_with_two_products_only_the_wanted_gpus_are_given() {
    let mut cluster = zones_and_racks();
    for (name, rack) in [("n1", "r"), ("n2", "s")] {
        let mut facts = NodeFacts::from(nvswitch8(name, 18));
        facts.gpus[..4].iter_mut().for_each(|gpu| gpu.product = "NVIDIA A100-SXM4-80GB".into());
        cluster.upsert(member(Node::new(facts).unwrap(), &[("zone", "z"), ("rack", rack)]));
    }
    let gang = |replicas| {
        let group = Group { product: Some("a100".into()), ..Group::new("worker", replicas, 2) };
        Gang { groups: vec![group], ..Default::default() }
    };
    let found = place(&cluster, &gang(3)).unwrap();
    check(&cluster, &gang(3), &found);
    let nodes: Vec<&str> = found.workers.iter().map(|worker| worker.node.as_str()).collect();
    assert_eq!(nodes, ["n1", "n1", "n2"]);
    let gpus = found.workers.iter().flat_map(|worker| &worker.gpus);
    assert!(gpus.clone().all(|gpu| gpu.as_str()[7..].parse::<u32>().unwrap() < 4), "{}", found.tree());
    assert!(place(&cluster, &gang(5)).is_err());
}

#[test]
fn workers_get_all_their_gpus_where_nothing_is_known_of_wires() {
    let mut cluster = zones_and_racks();
    cluster.upsert(member(node("n", 5, |_, _| Wire::over(Path::Unknown)), &[("zone", "z"), ("rack", "r")]));
    cluster.claim(&"n".into(), "other".into(), Claim { gpus: vec!["GPU-n-0".into()], ..Default::default() });
    let gang = Gang { groups: vec![Group::new("worker", 2, 2)], ..Default::default() };
    let found = place(&cluster, &gang).unwrap();
    let gpus: Vec<Vec<&str>> =
        found.workers.iter().map(|worker| worker.gpus.iter().map(GpuUuid::as_str).collect()).collect();
    assert_eq!(gpus, [["GPU-n-1", "GPU-n-2"], ["GPU-n-3", "GPU-n-4"]]);
}

proptest! {
    // Each level adds three terms to the objective, which then takes more words, or more than there are.
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_many_levels_one_group_is_placed_as_well_as_can_be(
        nodes in prop::collection::vec((any::<u8>(), 0u64..16), 2..=7), apart in any::<u8>(), replicas in 1u32..=5, gpus in 1u32..=3,
    ) {
        for levels in [4, 6, 14, 60] {
            let names: Vec<String> = (0..levels).map(|level| format!("level{level:02}")).collect();
            let mut cluster = Cluster::new(names.iter().map(|name| LevelLabel::new(name, name)).collect()).unwrap();
            for (i, (labels, held)) in nodes.iter().enumerate() {
                let name = format!("n{i}");
                // Some levels tell no nodes apart.
                let value = |level: usize| (labels & apart) >> (level % 8) & 1;
                let values: Vec<String> = (0..levels).map(|level| value(level).to_string()).collect();
                let labels: Vec<(&str, &str)> =
                    names.iter().zip(&values).map(|(name, value)| (name.as_str(), value.as_str())).collect();
                let machine = machines::bridged(&name, 4);
                let claim = Claim { gpus: machine.uuids(GpuSet::from_bits(held & held >> 1)), ..Default::default() };
                cluster.upsert(machines::member(machine, &labels));
                cluster.claim(&name.as_str().into(), name.as_str().into(), claim);
            }
            let gang = Gang { groups: vec![Group::new("worker", replicas, gpus)], ..Default::default() };
            let (found, best) = (place(&cluster, &gang), brute_force(&cluster, &gang, &BTreeSet::new()));
            if levels == 60 {
                // Of so many terms it is not said that none is better.
                prop_assert_eq!(found.is_ok(), best.is_some());
                found.iter().for_each(|placement| check(&cluster, &gang, placement));
            } else {
                compare(found, best, &cluster, &gang)?;
            }
        }
    }
}

/// Where two workers of a gang go, out of these nodes of one rack.
fn nodes_taken(nodes: Vec<Node>, gpus: u32) -> Vec<String> {
    let mut cluster = zones_and_racks();
    nodes.into_iter().for_each(|node| cluster.upsert(member(node, &[("zone", "z"), ("rack", "r")])));
    let gang = Gang { groups: vec![Group::new("worker", 2, gpus)], ..Default::default() };
    let found = place(&cluster, &gang).unwrap();
    check(&cluster, &gang, &found);
    found.workers.iter().map(|worker| worker.node.to_string()).collect()
}

#[test]
fn of_nodes_that_leave_as_much_over_those_with_the_most_wires_are_taken() {
    let linked = |name: &str, links: u8| node(name, 4, |_, _| Wire::nvlink(links, Path::SameNuma));
    assert_eq!(nodes_taken(vec![linked("a", 4), linked("b", 12), linked("c", 12)], 4), ["b", "c"]);
    assert_eq!(nodes_taken(vec![linked("a", 12), linked("b", 4), linked("c", 12)], 4), ["a", "c"]);
}

#[test]
fn a_little_more_in_wires_counts_before_much_that_later_jobs_lose() {
    // A worker takes two of three GPUs. Those of b and c have a slightly better wire, and NVLink to the third, which is lost.
    let pair = |name: &str, path: Path, others: Wire| {
        let mut facts =
            NodeFacts::from(node(name, 3, |a, b| if (a, b) == (0, 1) { Wire::nvlink(12, path) } else { others }));
        facts.name = name.into();
        Node::new(facts).unwrap()
    };
    let (plain, dear) = (Wire::over(Path::SameNuma), Wire::nvlink(11, Path::SameNuma));
    let nodes =
        || vec![pair("a", Path::SameNuma, plain), pair("b", Path::HostBridge, dear), pair("c", Path::HostBridge, dear)];
    let lost = |node: &Node| on_node(node, node.all(), 2, 1);
    let (a, b) = (lost(&nodes()[0]), lost(&nodes()[1]));
    assert!(a[0] == b[0] && a[1] > b[1] && a[1] - b[1] < 100 && a[2] + 100 < b[2], "{a:?} {b:?}");
    assert_eq!(nodes_taken(nodes(), 2), ["b", "c"]);
    let mut nodes = nodes();
    nodes.swap(0, 2);
    assert_eq!(nodes_taken(nodes, 2), ["b", "c"]);
}
