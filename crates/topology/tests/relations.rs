//! What groups want of each other, of levels and of wires, on clusters small enough to think through.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod brute;
mod machines;

use brute::world::check_relations;
use brute::{check, cuts};
use machines::{bridged, dgx1, hgx2, member, node, nvswitch8, pcie, racks_of_h100, set, zones_and_racks};
use proptest::prelude::*;
use weft_topology::*;

fn one_group(replicas: u32, gpus: u32) -> Gang {
    Gang { groups: vec![Group::new("worker", replicas, gpus)], ..Default::default() }
}

fn nodes_of<'a>(placement: &'a Placement, group: &str) -> Vec<&'a str> {
    placement.workers.iter().filter(|w| w.group == group).map(|w| w.node.as_str()).collect()
}

fn term(placement: &Placement, name: &str) -> i64 {
    placement.terms.iter().find(|term| term.name == name).unwrap_or_else(|| panic!("{}", placement.tree())).value
}

/// `racks` GB200 NVL72 racks: 18 nodes of four GPUs in one NVLink domain each, of which `gone` are not ready.
fn nvl72(racks: u32, gone: u32) -> Cluster {
    let mut cluster = Cluster::new(vec![LevelLabel::new("nvlink", "nvidia.com/gpu.clique")]).unwrap();
    for rack in 0..racks {
        for n in 0..18 {
            let name = format!("r{rack}-n{n:02}");
            let machine = node(&name, 4, |_, _| Wire::nvswitch(18, Path::CrossSocket));
            let mut member = member(machine, &[("nvidia.com/gpu.clique", &format!("c{rack}"))]);
            if n < gone {
                member.standing = Standing::NotReady;
            }
            cluster.upsert(member);
        }
    }
    cluster
}

fn per_rack(placement: &Placement, group: &str) -> Vec<usize> {
    let mut counts = std::collections::BTreeMap::new();
    for node in nodes_of(placement, group) {
        *counts.entry(&node[..2]).or_insert(0) += 1;
    }
    counts.into_values().collect()
}

#[test]
fn twenty_four_workers_go_twelve_and_twelve_over_nvl72_racks() {
    let balanced = |workers: u32, most: Option<u32>| {
        let mut gang = one_group(workers, 4);
        gang.groups[0].balanced = Some(Balance { level: "nvlink".into(), most });
        gang
    };
    let cluster = nvl72(3, 0);
    let greedy = place(&cluster, &one_group(24, 4)).unwrap();
    assert_eq!(per_rack(&greedy, "worker"), [18, 6], "what the fewest leftovers come to");
    let found = place(&cluster, &balanced(24, None)).unwrap();
    assert_eq!(per_rack(&found, "worker"), [12, 12]);
    assert!(found.exact);
    assert_eq!(term(&found, "unevenness of \"worker\" over nvlinks (sum of squares)"), 288);
    // Sixteen of the eighteen are sure to stay: seventeen are not put into one rack.
    assert_eq!(per_rack(&place(&cluster, &balanced(16, Some(16))).unwrap(), "worker"), [16]);
    assert_eq!(per_rack(&place(&cluster, &balanced(17, None)).unwrap(), "worker"), [17]);
    let mut over = per_rack(&place(&cluster, &balanced(17, Some(16))).unwrap(), "worker");
    over.sort_unstable();
    assert_eq!(over, [8, 9]);
    let mut three = per_rack(&place(&cluster, &balanced(40, Some(16))).unwrap(), "worker");
    three.sort_unstable();
    assert_eq!(three, [13, 13, 14]);
    let why = place(&cluster, &balanced(49, Some(16))).unwrap_err();
    assert_eq!(
        why.to_string(),
        "needs 49 workers × 4 GPUs, at most 16 of \"worker\" in one nvlink; the cluster has room for each group alone, but \
         not for all as they are to be placed"
    );
    // With two nodes of each rack gone, as can happen any day, it is the same.
    assert_eq!(per_rack(&place(&nvl72(2, 2), &balanced(24, Some(16))).unwrap(), "worker"), [12, 12]);
    // A worker that is replaced keeps the balance.
    let mut broken = balanced(24, None);
    let placed = found.workers.iter().filter(|w| w.index != 3);
    broken.placed = placed.map(|w| Placed { group: w.group.clone(), index: w.index, node: w.node.clone() }).collect();
    let mut busy = cluster.clone();
    for worker in found.workers.iter().filter(|w| w.index != 3) {
        let claim = Claim { gpus: worker.gpus.clone(), ..Default::default() };
        busy.claim(&worker.node, format!("w{}", worker.index).as_str().into(), claim);
    }
    let again = place(&busy, &broken).unwrap();
    assert_eq!(again.workers[0].node.as_str()[..2], found.workers[3].node.as_str()[..2]);
}

#[test]
fn slices_of_a_balanced_gang_stay_whole() {
    let mut gang = one_group(24, 4);
    gang.groups[0].balanced = Some(Balance { level: "nvlink".into(), most: Some(16) });
    gang.groups[0].slices = vec![Slice { level: "nvlink".into(), size: 8 }];
    let mut counts = per_rack(&place(&nvl72(3, 0), &gang).unwrap(), "worker");
    counts.sort_unstable();
    assert_eq!(counts, [8, 16], "slices of eight cannot be 12 + 12");
}

#[test]
fn a_leader_is_where_its_workers_are() {
    let mut cluster = racks_of_h100(3, 2);
    // Only r1 has room for a leader of two GPUs beside two whole nodes' worth of workers.
    for node in ["r0-n0", "r2-n1"] {
        let gpus = (0..4).map(|i| format!("GPU-{node}-{i}").into()).collect();
        cluster.claim(&node.into(), node.into(), Claim { gpus, ..Default::default() });
    }
    let led = Relation::Leader { leader: "leader".into(), workers: "worker".into(), level: "rack".into() };
    let gang = Gang {
        groups: vec![Group::new("leader", 1, 2), Group::new("worker", 3, 4)],
        relations: vec![led.clone()],
        ..Default::default()
    };
    let found = place(&cluster, &gang).unwrap();
    assert_eq!(
        (nodes_of(&found, "leader"), nodes_of(&found, "worker")),
        (vec!["r1-n1"], vec!["r1-n0", "r1-n0", "r1-n1"])
    );
    // Two leaders with two workers each: pairs may be in different racks, torn they may not.
    let gang = Gang {
        groups: vec![Group::new("leader", 2, 4), Group::new("worker", 4, 4)],
        relations: vec![led],
        ..Default::default()
    };
    let found = place(&cluster, &gang).unwrap();
    check_relations(&cluster, &gang, &found);
    check(&cluster, &gang, &found);
    assert_eq!(term(&found, "racks used"), 2);
}

#[test]
fn a_leader_that_runs_keeps_its_workers_near_and_the_other_way_round() {
    let cluster = racks_of_h100(3, 3);
    let led = Relation::Leader { leader: "leader".into(), workers: "worker".into(), level: "rack".into() };
    let mut gang = Gang {
        groups: vec![Group::new("leader", 2, 1), Group::new("worker", 4, 8)],
        relations: vec![led],
        ..Default::default()
    };
    // The second leader runs in r0; workers 0 and 1, of the first, run in r2.
    let at = |group: &str, index, node: &str| Placed { group: group.into(), index, node: node.into() };
    gang.placed = vec![at("leader", 1, "r0-n0"), at("worker", 0, "r2-n0"), at("worker", 1, "r2-n1")];
    let mut busy = cluster.clone();
    for (name, node, gpus) in [("l", "r0-n0", 1), ("w0", "r2-n0", 8), ("w1", "r2-n1", 8)] {
        let gpus = (0..gpus).map(|i| format!("GPU-{node}-{i}").into()).collect();
        busy.claim(&node.into(), name.into(), Claim { gpus, ..Default::default() });
    }
    let found = place(&busy, &gang).unwrap();
    assert_eq!(nodes_of(&found, "leader"), ["r2-n2"]);
    assert_eq!(nodes_of(&found, "worker"), ["r0-n1", "r0-n2"]);
    check_relations(&busy, &gang, &found);
    // With no worker there yet, those of the second leader go to it, though its rack comes first in order.
    gang.placed.truncate(1);
    busy.release(&"w0".into());
    busy.release(&"w1".into());
    let found = place(&busy, &gang).unwrap();
    let rack =
        |index: usize| &found.workers.iter().filter(|w| w.group == "worker").nth(index).unwrap().node.as_str()[..2];
    assert_eq!((rack(2), rack(3)), ("r0", "r0"));
    check_relations(&busy, &gang, &found);
}

#[test]
fn each_leader_goes_to_its_own_workers_and_indices_follow_the_names() {
    // The nodes were told of from the last to the first.
    let mut cluster = zones_and_racks();
    for (rack, n) in (0..3).rev().flat_map(|rack| (0..3).rev().map(move |n| (rack, n))) {
        let name = format!("r{rack}-n{n}");
        cluster.upsert(member(nvswitch8(&name, 18), &[("zone", "z"), ("rack", &name[..2])]));
    }
    let led = Relation::Leader { leader: "leader".into(), workers: "worker".into(), level: "rack".into() };
    let groups = vec![Group::new("leader", 3, 1), Group::new("worker", 6, 8)];
    let mut gang = Gang { groups, relations: vec![led], ..Default::default() };
    // The workers of the last leader run in r1, so that those of the second are in r2.
    for (index, node) in [(4, "r1-n0"), (5, "r1-n1")] {
        gang.placed.push(Placed { group: "worker".into(), index, node: node.into() });
        let gpus = (0..8).map(|i| format!("GPU-{node}-{i}").into()).collect();
        cluster.claim(&node.into(), node.into(), Claim { gpus, ..Default::default() });
    }
    let found = place(&cluster, &gang).unwrap();
    check_relations(&cluster, &gang, &found);
    let of = |group: &str| {
        let mine = found.workers.iter().filter(|worker| worker.group == group);
        mine.map(|worker| (worker.index, worker.node.as_str())).collect::<Vec<_>>()
    };
    assert_eq!(of("worker"), [(0, "r0-n0"), (1, "r0-n1"), (2, "r2-n0"), (3, "r2-n1")]);
    assert_eq!(of("leader"), [(0, "r0-n2"), (1, "r2-n2"), (2, "r1-n2")]);
}

#[test]
fn a_leader_that_runs_keeps_the_whole_slice_of_its_workers_near() {
    // Slices of four workers in one zone, each of two leaders with their two workers in one rack.
    let mut cluster = zones_and_racks();
    for (rack, nodes) in [("r0", 3), ("r1", 3), ("r2", 3), ("r3", 3), ("r4", 3), ("r5", 3), ("r6", 3), ("r7", 3)] {
        let zone = if rack < "r4" { "z0" } else { "z1" };
        for n in 0..nodes {
            cluster.upsert(member(nvswitch8(&format!("{rack}-n{n}"), 18), &[("zone", zone), ("rack", rack)]));
        }
    }
    let led = Relation::Leader { leader: "leader".into(), workers: "worker".into(), level: "rack".into() };
    let mut gang = Gang {
        groups: vec![Group::new("leader", 4, 1), Group::new("worker", 8, 8)],
        relations: vec![led],
        ..Default::default()
    };
    gang.groups[1].slices = vec![Slice { level: "zone".into(), size: 4 }];
    // One leader of each slice runs in z0; nobody else does.
    for (index, node) in [(0, "r0-n0"), (2, "r1-n0")] {
        gang.placed.push(Placed { group: "leader".into(), index, node: node.into() });
        let claim = Claim { gpus: vec![format!("GPU-{node}-0").into()], ..Default::default() };
        cluster.claim(&node.into(), format!("l{index}").as_str().into(), claim);
    }
    let found = place(&cluster, &gang).unwrap();
    check_relations(&cluster, &gang, &found);
    assert!(nodes_of(&found, "worker").iter().all(|&node| node < "r4"), "{}", found.tree());
    // With room for six of the eight in z0 there is no way: each slice has a leader there.
    for node in ["r3-n0", "r3-n1", "r3-n2"] {
        let gpus = (0..8).map(|i| format!("GPU-{node}-{i}").into()).collect();
        cluster.claim(&node.into(), node.into(), Claim { gpus, ..Default::default() });
    }
    let Err(NoPlacement::NoRoom(why)) = place(&cluster, &gang) else { panic!("half a slice in each zone") };
    assert!(why.proven);
}

#[test]
fn groups_apart_share_no_rack_and_say_so_where_they_must() {
    let cluster = racks_of_h100(2, 2);
    let apart = Relation::Apart { groups: vec!["a".into(), "b".into()], level: "rack".into() };
    let mut gang = Gang {
        groups: vec![Group::new("a", 2, 1), Group::new("b", 2, 1)],
        relations: vec![apart],
        ..Default::default()
    };
    let found = place(&cluster, &gang).unwrap();
    assert_eq!((nodes_of(&found, "a"), nodes_of(&found, "b")), (vec!["r0-n0", "r0-n0"], vec!["r1-n0", "r1-n0"]));
    gang.required = Some("rack".into());
    let Err(NoPlacement::NoRoom(why)) = place(&cluster, &gang) else { panic!("apart in one rack") };
    assert!(why.proven);
    assert_eq!(
        why.to_string(),
        "needs 2 workers \"a\" × 1 GPU + 2 workers \"b\" × 1 GPU in one rack, \"a\" and \"b\" in different racks; r0 has room \
         for each group alone, but not for all as they are to be placed"
    );
    assert!(why.tree().contains("\n  with \"a\" and \"b\" in different racks\n"), "{}", why.tree());
}

#[test]
fn a_group_gets_the_level_that_it_prefers_where_that_costs_no_outer_one() {
    let mut cluster = racks_of_h100(1, 3);
    // Three GPUs are left on each of two nodes, eight on the third.
    for node in ["r0-n0", "r0-n1"] {
        let gpus = (0..5).map(|i| format!("GPU-{node}-{i}").into()).collect();
        cluster.claim(&node.into(), node.into(), Claim { gpus, ..Default::default() });
    }
    let mut gang = Gang { groups: vec![Group::new("a", 2, 2), Group::new("b", 1, 1)], ..Default::default() };
    gang.groups[0].preferred = Some("host".into());
    let found = place(&cluster, &gang).unwrap();
    assert_eq!(nodes_of(&found, "a"), ["r0-n2", "r0-n2"]);
    assert_eq!(found.preferences, [Preference { group: "a".into(), level: "host".into(), domains: 1 }]);
    assert!(found.to_string().contains("; \"a\" in one host, as preferred"), "{found}");
    gang.groups[0].replicas = 6;
    let found = place(&cluster, &gang).unwrap();
    assert_eq!(found.preferences[0].domains, 3);
    assert!(found.to_string().contains("; \"a\" in 3 hosts, though one was preferred"), "{found}");
}

#[test]
fn relations_that_nothing_can_keep_are_named() {
    let cluster = racks_of_h100(1, 1);
    let says = |gang: &Gang, text: &str| {
        let error = place(&cluster, gang).unwrap_err();
        assert!(matches!(error, NoPlacement::Invalid(_)), "{error:?}");
        assert_eq!(error.to_string(), text);
    };
    let mut gang = Gang { groups: vec![Group::new("a", 2, 1), Group::new("b", 3, 1)], ..Default::default() };
    let rack = || Level::from("rack");
    gang.relations = vec![Relation::Together { groups: vec!["a".into(), "x".into()], level: rack() }];
    says(
        &gang,
        "the relation \"a\" and \"x\" in one rack cannot hold: there is no group \"x\": name one of the gang's",
    );
    gang.relations = vec![Relation::Apart { groups: vec!["a".into(), "a".into()], level: rack() }];
    says(
        &gang,
        "the relation \"a\" and \"a\" in different racks cannot hold: it takes two groups or more, each named once",
    );
    gang.relations = vec![Relation::Apart { groups: vec!["a".into(), "b".into()], level: rack() }];
    let at = |group: &str| Placed { group: group.into(), index: 0, node: "r0-n0".into() };
    gang.placed = vec![at("a"), at("b")];
    says(
        &gang,
        "the relation \"a\" and \"b\" in different racks cannot hold: workers of two of them run in one already: count some \
         as failed",
    );
    gang.placed.clear();
    gang.relations = vec![Relation::Leader { leader: "a".into(), workers: "b".into(), level: rack() }];
    says(
        &gang,
        "the relation each \"a\" in one rack with its \"b\" cannot hold: 2 leaders do not divide 3 workers: choose numbers that do",
    );
    gang.groups[1].replicas = 4;
    gang.groups[1].slices = vec![Slice { level: "host".into(), size: 4 }];
    says(
        &gang,
        "the relation each \"a\" in one rack with its \"b\" cannot hold: each leads 2 workers, which do not nest with slices of \
         4: choose a multiple",
    );
    gang.relations.clear();
    gang.groups[1].balanced = Some(Balance { level: rack(), most: Some(0) });
    says(&gang, "group \"b\" is balanced with at most 0 workers in a domain: allow at least 1");
}

#[test]
fn mixed_resources_are_placed_exactly_where_going_one_after_the_other_fails() {
    let mut cluster = zones_and_racks();
    for (name, cpu) in [("a", 8_000), ("b", 2_000)] {
        let mut member = member(bridged(name, 4), &[("zone", "z"), ("rack", "r")]);
        member.allocatable = Resources::new().with("cpu", cpu);
        cluster.upsert(member);
    }
    // The one with more GPUs would like node a best, but only there is the processor for the other.
    let group =
        |name: &str, gpus, cpu| Group { resources: Resources::new().with("cpu", cpu), ..Group::new(name, 1, gpus) };
    let gang = Gang { groups: vec![group("large", 4, 1_000), group("small", 1, 8_000)], ..Default::default() };
    let found = place(&cluster, &gang).unwrap();
    assert_eq!((nodes_of(&found, "large"), nodes_of(&found, "small")), (vec!["b"], vec!["a"]));
    assert!(found.exact);
    let gang = Gang { groups: vec![group("large", 4, 3_000), group("small", 1, 8_000)], ..Default::default() };
    let Err(NoPlacement::NoRoom(why)) = place(&cluster, &gang) else { panic!("there is no room") };
    assert!(why.proven, "and where there is no way, that is proven");
}

#[test]
fn beyond_its_size_the_search_still_places_and_says_what_it_did_not_prove() {
    let mut cluster = racks_of_h100(6, 16);
    let wide = |replicas: u32| {
        let groups = (0..5).map(|nth| Group::new(&format!("g{nth}"), replicas, 1 + nth % 3)).collect();
        let apart = Relation::Apart { groups: vec!["g0".into(), "g1".into()], level: "rack".into() };
        let lead = Relation::Leader { leader: "g2".into(), workers: "g3".into(), level: "rack".into() };
        Gang { groups, relations: vec![apart, lead], ..Default::default() }
    };
    let gang = wide(20);
    let found = place(&cluster, &gang).unwrap();
    check(&cluster, &gang, &found);
    check_relations(&cluster, &gang, &found);
    assert!(!found.exact);
    let mut balanced = one_group(500, 1);
    balanced.groups[0].balanced = Some(Balance { level: "rack".into(), most: None });
    balanced.groups.push(Group::new("other", 90, 2));
    let found = place(&cluster, &balanced).unwrap();
    check(&cluster, &balanced, &found);
    let counts = per_rack(&found, "worker");
    assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    balanced.groups[0].balanced = Some(Balance { level: "rack".into(), most: Some(84) });
    balanced.groups[1].replicas = 40;
    let found = place(&cluster, &balanced).unwrap();
    check_relations(&cluster, &balanced, &found);
    assert_eq!(per_rack(&found, "worker").len(), 6, "four racks have room for all, but not with 84 in each at most");
    // GPUs for all, but no way is found, and the groups are too many to try all ways: that is not called impossible.
    for node in 1..16 {
        for rack in 0..6 {
            cluster.remove(&format!("r{rack}-n{node}").as_str().into());
        }
    }
    let mut gang = Gang { groups: vec![Group::new("a", 7, 3), Group::new("b", 9, 2)], ..Default::default() };
    gang.relations = vec![Relation::Apart { groups: vec!["a".into(), "b".into()], level: "host".into() }];
    let Err(NoPlacement::NoRoom(why)) = place(&cluster, &gang) else { panic!("a takes four of six nodes") };
    assert!(why.proven, "two groups are few enough to try all ways");
    gang.groups.extend(["c", "d", "e"].map(|name| Group::new(name, 40, 0)));
    let Err(NoPlacement::NoRoom(why)) = place(&cluster, &gang) else { panic!("a takes four of six nodes") };
    assert!(!why.proven);
    assert!(why.to_string().ends_with("; not proven impossible, the search gave up"), "{why}");
}

#[test]
fn workers_that_need_wires_get_them_or_the_reason() {
    let mut cluster = zones_and_racks();
    cluster.upsert(member(pcie("plain", 8), &[("rack", "r")]));
    cluster.upsert(member(bridged("bridged", 8), &[("rack", "r")]));
    let mut gang = one_group(1, 2);
    gang.groups[0].joined_by = Some(Joined::Nvlink);
    gang.groups[0].replicas = 4;
    let found = place(&cluster, &gang).unwrap();
    assert_eq!(nodes_of(&found, "worker"), ["bridged"; 4]);
    assert_eq!(found.workers[2].gpus, ["GPU-bridged-4".into(), "GPU-bridged-5".into()]);
    // One GPU of each pair is taken: four are free there, and no two of them joined.
    let half = (0..8).step_by(2).map(|i| format!("GPU-bridged-{i}").into()).collect();
    cluster.claim(&"bridged".into(), "x".into(), Claim { gpus: half, ..Default::default() });
    gang.groups[0].replicas = 1;
    let why = place(&cluster, &gang).unwrap_err();
    assert_eq!(
        why.to_string(),
        "needs 1 worker × 2 GPUs; no node has room for any; excluded: 2 nodes: wires (1 of 2 joined by NVLink)"
    );
    gang.groups[0].joined_by = Some(Joined::Socket);
    gang.groups[0].gpus = 3;
    gang.groups[0].replicas = 2;
    let found = place(&cluster, &gang).unwrap();
    let gpus: Vec<String> = found.workers.iter().map(|w| w.gpus.iter().map(|gpu| gpu.to_string()).collect()).collect();
    assert_eq!(
        gpus,
        ["GPU-plain-0GPU-plain-1GPU-plain-2", "GPU-plain-4GPU-plain-5GPU-plain-6"],
        "three of each socket"
    );
    // In the cube mesh six GPUs can be three pairs or two triangles on NVLink, but no five are joined all to all.
    let mut cluster = zones_and_racks();
    cluster.upsert(member(dgx1("cube"), &[("rack", "r")]));
    let room = |gpus: u32, workers: u32| {
        let mut gang = one_group(workers, gpus);
        gang.groups[0].joined_by = Some(Joined::Nvlink);
        place(&cluster, &gang).is_ok()
    };
    // Which sets of one such group leave the most to another is not searched, and not claimed.
    let mut two = one_group(1, 3);
    two.groups.push(Group::new("other", 1, 3));
    two.groups.iter_mut().for_each(|group| group.joined_by = Some(Joined::Nvlink));
    assert!(!place(&cluster, &two).unwrap().exact);
    assert!(room(2, 4) && room(3, 2) && room(4, 2) && !room(3, 3) && !room(5, 1));
}

#[test]
fn ranks_go_around_each_node_along_its_best_wires() {
    let mut cluster = zones_and_racks();
    cluster.upsert(member(dgx1("cube"), &[("rack", "r")]));
    let found = place(&cluster, &one_group(8, 1)).unwrap();
    let order: Vec<usize> = found.workers.iter().map(|w| w.gpus[0].as_str()[9..].parse().unwrap()).collect();
    let wiring = cluster.node(&"cube".into()).unwrap().member.node.wiring().clone();
    let ring = |order: &[usize]| (0..8).map(|at| wiring.wire(order[at], order[(at + 1) % 8]).score()).sum::<u32>();
    // The best of all 5,040 rings.
    let mut best = 0;
    let mut rest: Vec<usize> = (1..8).collect();
    permutations(&mut rest, 0, &mut |rest| {
        let order: Vec<usize> = [0].into_iter().chain(rest.iter().copied()).collect();
        best = best.max(ring(&order));
    });
    assert_eq!(ring(&order), best, "{order:?}");
    assert!((0..8).all(|at| wiring.wire(order[at], order[(at + 1) % 8]).nvlinks > 0), "NVLink all the way round");
}

#[test]
fn a_ring_is_closed_by_a_good_wire_too() {
    // The best way from GPU 0 through all is 0,1,2,3, and its ends are hardly joined.
    let links = [(0, 1, 4), (0, 2, 3), (0, 3, 1), (1, 2, 4), (1, 3, 3), (2, 3, 4)];
    let machine = node("n", 4, |a, b| {
        let link = links.iter().find(|link| (link.0, link.1) == (a, b)).unwrap();
        Wire::nvlink(link.2, Path::SameNuma)
    });
    let mut cluster = zones_and_racks();
    cluster.upsert(member(machine, &[("rack", "r")]));
    let found = place(&cluster, &one_group(4, 1)).unwrap();
    let order: Vec<&str> = found.workers.iter().map(|w| &w.gpus[0].as_str()[6..]).collect();
    assert_eq!(order, ["0", "1", "3", "2"]);
}

#[test]
fn the_best_ring_is_found_for_up_to_ten_gpus() {
    // Each is linked to the next, and the first best to one across: to go there first breaks the ring.
    let machine = node("n", 10, |a, b| match (a, b) {
        (0, 5) => Wire::nvlink(5, Path::SameNuma),
        _ if b == a + 1 || (a, b) == (0, 9) => Wire::nvlink(4, Path::SameNuma),
        _ => Wire::over(Path::SameNuma),
    });
    let mut cluster = zones_and_racks();
    cluster.upsert(member(machine, &[("rack", "r")]));
    let found = place(&cluster, &one_group(10, 1)).unwrap();
    let order: Vec<&str> = found.workers.iter().map(|w| &w.gpus[0].as_str()[6..]).collect();
    assert_eq!(order, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}

fn permutations(items: &mut Vec<usize>, from: usize, visit: &mut impl FnMut(&[usize])) {
    if from == items.len() {
        return visit(items);
    }
    for at in from..items.len() {
        items.swap(from, at);
        permutations(items, from + 1, visit);
        items.swap(from, at);
    }
}

#[test]
fn rings_enter_and_leave_every_domain_once() {
    let cluster = racks_of_h100(2, 2);
    let found = place(&cluster, &one_group(12, 2)).unwrap();
    let rings = found.rings(&cluster);
    let mut all = rings.flat.clone();
    all.sort_unstable();
    assert_eq!(all, (0..12).collect::<Vec<_>>());
    assert_eq!(rings.flat, all, "in the order of ranks");
    let node = |rank: u32| found.workers.iter().find(|w| w.rank == rank).unwrap().node.as_str();
    for prefix in [2, 5] {
        let names: Vec<&str> = rings.flat.iter().map(|&rank| &node(rank)[..prefix]).collect();
        let changes = (0..12).filter(|&at| names[at] != names[(at + 1) % 12]).count();
        let distinct = names.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!(changes, distinct, "{names:?}");
    }
    let shape: Vec<(Option<&str>, usize)> =
        rings.rings.iter().map(|ring| (ring.within.as_ref().map(Level::as_str), ring.ranks.len())).collect();
    assert_eq!(
        shape,
        [(Some("host"), 4), (Some("host"), 4), (Some("host"), 4), (Some("rack"), 2), (Some("zone"), 2)],
        "around three nodes, between the two of the full rack, between the racks"
    );
}

#[test]
fn answers_explain_themselves_as_sentence_and_tree() {
    let machine = bridged("n", 4);
    let choice = choose(&machine, machine.all(), GpuSet::EMPTY, GpuSet::EMPTY, 3).unwrap();
    assert_eq!(
        choice.tree(&machine),
        "GPUs 0,1,2 of n, any two joined by at least the link between sockets: the best of 4 sets, counting what it leaves \
         to later jobs\n  \
         └ GPU 0 (GPU-n-0, NUMA node 0): to 1 by 12 NVLinks, to 2 by the link between sockets\n  \
         └ GPU 1 (GPU-n-1, NUMA node 0): to 2 by the link between sockets\n  \
         └ GPU 2 (GPU-n-2, NUMA node 1)\n  wires within: 1240; worth of what remains: 0"
    );
    let cluster = racks_of_h100(1, 2);
    let tree = place(&cluster, &one_group(2, 8)).unwrap().tree_on(&cluster);
    assert_eq!(
        tree,
        "2 workers × 8 GPUs on r0-n0, r0-n1; zones used 1, racks used 1, hosts used 2\n└ zone z\n  └ rack r0\n    └ host r0-n0\n      └ rank 0 worker-0: GPU-r0-n0-0,GPU-r0-n0-1,GPU-r0-n0-2,GPU-r0-n0-3,\
         GPU-r0-n0-4,GPU-r0-n0-5,GPU-r0-n0-6,GPU-r0-n0-7\n    └ host r0-n1\n      └ rank 1 worker-1: GPU-r0-n1-0,GPU-r0-n1-1,\
         GPU-r0-n1-2,GPU-r0-n1-3,GPU-r0-n1-4,GPU-r0-n1-5,GPU-r0-n1-6,GPU-r0-n1-7"
    );
}

#[test]
fn gangs_of_small_workers_fill_hgx2_board_by_board() {
    let mut cluster = zones_and_racks();
    cluster.upsert(member(hgx2("h"), &[("rack", "r")]));
    cluster.upsert(member(nvswitch8("d", 18), &[("rack", "r")]));
    let gang = Gang {
        groups: vec![Group::new("a", 2, 4), Group::new("b", 1, 8)],
        required: Some("host".into()),
        ..Default::default()
    };
    let found = place(&cluster, &gang).unwrap();
    assert_eq!(nodes_of(&found, "a"), ["h", "h"]);
    let machine = &cluster.node(&"h".into()).unwrap().member.node;
    let gpus = |group: &str| -> GpuSet {
        let mine = found.workers.iter().filter(|w| w.group == group).flat_map(|w| &w.gpus);
        machine.set_of(mine.map(GpuUuid::as_str)).unwrap()
    };
    assert_eq!(gpus("b"), set(&[0, 1, 2, 3, 4, 5, 6, 7]), "the large one has a board");
    assert_eq!(gpus("a"), set(&[8, 9, 10, 11, 12, 13, 14, 15]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn room_for_workers_that_need_wires_is_counted_exactly(
        wires in prop::collection::vec(0u8..4, 15),
        held in 0u64..64,
        each in 2usize..=4,
        socket in any::<bool>(),
    ) {
        // Six GPUs, any two joined by NVLink, within the socket or over sockets.
        let machine = node("n", 6, |a, b| match wires[(b * (b - 1) / 2 + a) as usize] {
            0 => Wire::over(Path::CrossSocket),
            1 => Wire::over(Path::SameNuma),
            _ => Wire::nvlink(2, Path::CrossSocket),
        });
        let free = machine.all().difference(GpuSet::from_bits(held));
        let joined = if socket { Joined::Socket } else { Joined::Nvlink };
        let grade = if socket { 1 } else { 2 };
        let fits = |cut: &Vec<GpuSet>| cut.iter().all(|&set| machine.wiring().grade(set) >= grade);
        let most = (0..=free.len() / each).rev().find(|&workers| cuts(free, each, workers).iter().any(fits)).unwrap();
        let mut cluster = zones_and_racks();
        let uuids = machine.uuids(GpuSet::from_bits(held));
        cluster.upsert(member(machine.clone(), &[("rack", "r")]));
        cluster.claim(&"n".into(), "held".into(), Claim { gpus: uuids, ..Default::default() });
        for workers in 1..=3u32 {
            let mut gang = one_group(workers, each as u32);
            gang.groups[0].joined_by = Some(joined);
            match place(&cluster, &gang) {
                Ok(found) => {
                    prop_assert!(workers as usize <= most);
                    check(&cluster, &gang, &found);
                    for worker in &found.workers {
                        let gpus = machine.set_of(worker.gpus.iter().map(GpuUuid::as_str)).unwrap();
                        prop_assert!(machine.wiring().grade(gpus) >= grade);
                    }
                }
                Err(_) => prop_assert!(workers as usize > most, "{workers} of {most}"),
            }
        }
    }
}
