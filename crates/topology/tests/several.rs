//! Several groups at once, and what they want of each other: never worse than brute force, never infeasible when feasible.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod brute;
mod machines;

use brute::world::{World, check_relations, is_torn};
use brute::{check, clusters, terms};
use proptest::prelude::*;
use weft_topology::*;

fn level() -> impl Strategy<Value = Level> {
    prop_oneof![Just("zone"), Just("block"), Just("rack"), Just("host")].prop_map(Level::from)
}

/// Replicas, GPUs, required and preferred level, balance, level of a slice, whether it needs much processor.
type Drawn = (u32, u32, Option<Level>, Option<Level>, Option<(Level, Option<u32>)>, Option<Level>, bool);

fn groups(most: usize, replicas: u32) -> impl Strategy<Value = Vec<Group>> {
    let one = (
        1..=replicas,
        0u32..=3,
        prop::option::weighted(0.2, level()),
        prop::option::weighted(0.2, level()),
        prop::option::weighted(0.2, (level(), prop::option::of(1u32..=2))),
        prop::option::weighted(0.2, level()),
        prop::bool::weighted(0.2),
    );
    prop::collection::vec(one, 1..=most).prop_map(|groups| {
        let make = |(nth, drawn): (usize, Drawn)| {
            let (replicas, gpus, required, preferred, balanced, slice, hungry) = drawn;
            let mut group = Group::new(["a", "b", "c"][nth], replicas, gpus);
            (group.required, group.preferred) = (required, preferred);
            group.balanced = balanced.map(|(level, most)| Balance { level, most });
            if let (Some(level), true) = (slice, replicas > 1) {
                group.slices = vec![Slice { level, size: replicas }];
                if replicas == 4 {
                    group.slices[0].size = 2;
                }
            }
            if hungry {
                group.resources = Resources::new().with("cpu", 24_000);
            }
            group
        };
        groups.into_iter().enumerate().map(make).collect()
    })
}

fn gangs(most: usize, replicas: u32) -> impl Strategy<Value = Gang> {
    let kind = (0u8..6, level());
    (groups(most, replicas), prop::option::weighted(0.3, level()), prop::collection::vec(kind, 0..=2)).prop_map(
        |(groups, required, kinds)| {
            let names: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
            let relation = |(kind, level): (u8, Level)| {
                let pair = || names[..2].to_vec();
                match kind {
                    0 => Relation::Together { groups: pair(), level },
                    1 => Relation::Apart { groups: pair(), level },
                    2 => Relation::Apart { groups: names.clone(), level },
                    3 => Relation::Leader { leader: names[names.len() - 1].clone(), workers: names[0].clone(), level },
                    4 => Relation::Leader { leader: names[1].clone(), workers: names[0].clone(), level },
                    _ => Relation::Together { groups: names.clone(), level },
                }
            };
            let relations = if names.len() > 1 { kinds.into_iter().map(relation).collect() } else { Vec::new() };
            Gang { groups, required, relations, ..Default::default() }
        },
    )
}

/// Lets some workers run already, wherever brute force agrees that they keep what is required among themselves.
fn run_some(cluster: &Cluster, gang: &mut Gang, running: &[(u8, u8, u8)]) {
    let names: Vec<NodeName> = cluster.nodes().map(|seat| seat.name().clone()).collect();
    for &(group, index, node) in running {
        let group = &gang.groups[group as usize % gang.groups.len()];
        let placed = Placed {
            group: group.name.clone(),
            index: u32::from(index) % group.replicas,
            node: names[node as usize % names.len()].clone(),
        };
        if gang.placed.iter().all(|other| (&other.group, other.index) != (&placed.group, placed.index)) {
            gang.placed.push(placed);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_global_rejects: 200_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn several_groups_are_placed_as_well_as_can_be(
        cluster in clusters(1..=5),
        mut gang in gangs(3, 2),
        running in prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(any::<(u8, u8, u8)>(), 1..=2)],
    ) {
        run_some(&cluster, &mut gang, &running);
        let found = place(&cluster, &gang);
        prop_assume!(!matches!(found, Err(NoPlacement::Invalid(_))));
        let world = World::new(&cluster, &gang);
        prop_assume!(!is_torn(&world));
        match (found, world.best()) {
            (Ok(placement), Some(best)) => {
                check_relations(&cluster, &gang, &placement);
                check(&cluster, &gang, &placement);
                let single = gang.groups.len() == 1 && gang.relations.is_empty() && gang.groups[0].balanced.is_none();
                let one_left = world.missing.iter().filter(|&&missing| missing > 0).count() <= 1
                    && gang.relations.is_empty() && gang.groups.iter().all(|group| group.balanced.is_none());
                // A single group prefers nothing beyond the objective: there the term is not listed.
                if !single && !one_left {
                    let terms = terms(&placement);
                    prop_assert_eq!(terms, best, "{}", placement.tree());
                }
                prop_assert!(placement.exact);
            }
            (Err(NoPlacement::NoRoom(why)), None) => prop_assert!(why.proven),
            (found, best) => prop_assert!(false, "found {found:?}, brute force {best:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_global_rejects: 200_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn several_groups_find_a_place_wherever_there_is_one(cluster in clusters(6..=12), gang in gangs(2, 4)) {
        let found = place(&cluster, &gang);
        prop_assume!(!matches!(found, Err(NoPlacement::Invalid(_))));
        let world = World::new(&cluster, &gang);
        match found {
            Ok(placement) => {
                check_relations(&cluster, &gang, &placement);
                check(&cluster, &gang, &placement);
            }
            Err(NoPlacement::NoRoom(why)) => {
                prop_assert!(why.proven);
                prop_assert!(!world.is_feasible(), "{}", why.tree());
            }
            Err(NoPlacement::Invalid(_)) => {}
        }
    }
}

#[test]
fn racks_of_equal_nodes_are_told_apart_by_who_may_use_them() {
    let mut cluster = machines::racks_of_h100(2, 2);
    for rack in 0..2 {
        let (node, owner) = (format!("r{rack}-n1"), format!("other-{rack}"));
        let gpus = (0..2).map(|i| format!("GPU-{node}-{i}").into()).collect();
        cluster.claim(&node.as_str().into(), owner.as_str().into(), Claim { gpus, ..Default::default() });
    }
    let gang = Gang {
        groups: vec![Group::new("a", 1, 6), Group::new("b", 1, 8)],
        required: Some("rack".into()),
        ..Default::default()
    };
    // In r0 either has room, but only on the same node.
    let ruled_out = |group: &Group, node: &NodeName| match (group.name.as_str(), node.as_str()) {
        ("a", "r0-n1") => Err(Exclusion::Taint { detail: "maintenance:NoSchedule".into() }),
        _ => Ok(()),
    };
    let found = place_where(&cluster, &gang, &ruled_out).unwrap();
    let nodes: Vec<&str> = found.workers.iter().map(|worker| worker.node.as_str()).collect();
    assert_eq!(nodes, ["r1-n1", "r1-n0"]);
    assert!(found.exact);
}

#[test]
fn several_groups_open_no_idle_rack_where_a_begun_one_has_an_idle_node() {
    let mut cluster = machines::zones_and_racks();
    for (rack, node) in [("r0", "a"), ("r1", "b"), ("r1", "c"), ("r2", "d"), ("r2", "e")] {
        cluster.upsert(machines::member(machines::nvswitch8(node, 18), &[("zone", "z"), ("rack", rack)]));
    }
    // All GPUs of b and d are taken: a, c and e have as many left, and only a's rack is idle.
    for node in ["b", "d"] {
        let gpus = (0..8).map(|i| format!("GPU-{node}-{i}").into()).collect();
        cluster.claim(&node.into(), node.into(), Claim { gpus, ..Default::default() });
    }
    let gang = Gang {
        groups: vec![Group::new("large", 1, 4), Group::new("small", 1, 2)],
        relations: vec![Relation::Apart { groups: vec!["large".into(), "small".into()], level: "rack".into() }],
        ..Default::default()
    };
    let found = place(&cluster, &gang).unwrap();
    let nodes: Vec<&str> = found.workers.iter().map(|worker| worker.node.as_str()).collect();
    assert_eq!(nodes, ["c", "e"], "{}", found.tree());
    assert!(found.exact);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_global_rejects: 200_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn beyond_the_bound_all_rules_hold_and_the_terms_are_those_of_the_placement(
        cluster in clusters(3..=9),
        mut gang in gangs(3, 4),
        running in prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(any::<(u8, u8, u8)>(), 1..=2)],
    ) {
        run_some(&cluster, &mut gang, &running);
        // Without GPUs of their own they fit nearly anywhere, in more ways than are tried.
        gang.groups.extend(["x", "y", "z"].map(|name| Group::new(name, 40, 0)));
        let found = place(&cluster, &gang);
        prop_assume!(found.is_ok());
        let placement = found.unwrap();
        let world = World::new(&cluster, &gang);
        prop_assume!(!placement.exact && !is_torn(&world));
        check_relations(&cluster, &gang, &placement);
        check(&cluster, &gang, &placement);
        let on = |group: &Group, seat: &Seat| {
            let here = |worker: &&Worker| worker.group == group.name && worker.node == *seat.name();
            placement.workers.iter().filter(here).count() as u32
        };
        let counts: Vec<Vec<u32>> =
            gang.groups.iter().map(|group| cluster.nodes().map(|seat| on(group, seat)).collect()).collect();
        prop_assert!(world.holds(&counts));
        prop_assert!((0..cluster.nodes().count()).all(|node| world.fits(node, &counts)));
        let terms = terms(&placement);
        prop_assert_eq!(terms, world.objective(&counts), "{}", placement.tree());
    }
}
