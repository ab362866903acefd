//! What is said of a gang that has no place: per level the best domain, and what excluded how many nodes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod brute;
mod machines;

use std::collections::{BTreeMap, BTreeSet};

use brute::{clusters, domains};
use machines::{bridged, member, nvswitch8, racks_of_h100, zones_and_racks};
use proptest::prelude::*;
use weft_topology::*;

fn no_room(cluster: &Cluster, gang: &Gang) -> NoRoom {
    match place(cluster, gang) {
        Err(NoPlacement::NoRoom(why)) => *why,
        other => panic!("{other:?}"),
    }
}

fn hold(cluster: &mut Cluster, node: &str, gpus: std::ops::Range<u32>) {
    let gpus = gpus.map(|gpu| format!("GPU-{node}-{gpu}").into()).collect();
    cluster.claim(&node.into(), format!("held-{node}").as_str().into(), Claim { gpus, ..Default::default() });
}

fn cordon(cluster: &mut Cluster, node: &str) {
    let mut member = cluster.member(&node.into()).unwrap();
    member.standing = Standing::Cordoned;
    cluster.upsert(member);
}

fn excluded(why: &NoRoom) -> Vec<(&str, &str, u32, &str, Option<&str>)> {
    let all = why.excluded.iter().map(|each| {
        let domain = each.domain.as_ref().map(DomainName::as_str);
        (each.group.as_str(), each.reason.word(), each.nodes, each.example.as_str(), domain)
    });
    all.collect()
}

#[test]
fn several_groups_are_not_said_to_fit_into_the_same_gpus() {
    let cluster = racks_of_h100(2, 1);
    let groups = vec![Group::new("a", 1, 8), Group::new("b", 2, 4)];
    let mut gang = Gang { groups, required: Some("rack".into()), ..Default::default() };
    let why = no_room(&cluster, &gang);
    assert_eq!(
        why.to_string(),
        "needs 1 worker \"a\" × 8 GPUs + 2 workers \"b\" × 4 GPUs in one rack; best is r0 with room for 2 of 3"
    );
    let fits: Vec<_> = why.best.iter().map(|best| (best.fits, best.domains)).collect();
    assert_eq!(fits, [(3, 1), (3, 1), (2, 2), (2, 2)], "GPUs for two workers of four in each rack");
    assert_eq!(
        why.tree(),
        "needs 1 worker \"a\" × 8 GPUs + 2 workers \"b\" × 4 GPUs in one rack\n\
         └ cluster of 2 nodes: room for 3 of 3\n  \
           └ best zone of 1: z, room for 3 of 3\n    \
             └ best rack of 2: r0, room for 2 of 3\n      \
               └ best host of 2: r0-n0, room for 2 of 3"
    );
    // Workers without GPUs are bounded by no GPUs.
    gang.groups.push(Group::new("c", 5, 0));
    assert_eq!(no_room(&cluster, &gang).best[2].fits, 8);
}

#[test]
fn the_level_that_the_only_group_requires_is_named_like_that_of_the_gang() {
    let cluster = racks_of_h100(2, 2);
    let mut gang = Gang { groups: vec![Group::new("w", 3, 8)], ..Default::default() };
    gang.groups[0].required = Some("rack".into());
    let said = "needs 3 workers × 8 GPUs in one rack; best is r0 with room for 2 of 3";
    assert_eq!(no_room(&cluster, &gang).to_string(), said);
    // The inner of two levels binds.
    gang.required = Some("zone".into());
    assert_eq!(no_room(&cluster, &gang).to_string(), said);
}

#[test]
fn groups_that_run_already_are_not_spoken_of() {
    let mut cluster = racks_of_h100(1, 2);
    hold(&mut cluster, "r0-n0", 0..8);
    hold(&mut cluster, "r0-n1", 0..1);
    let mut a = Group::new("a", 1, 8);
    a.product = Some("H200".into());
    let mut gang = Gang { groups: vec![a, Group::new("b", 1, 8)], ..Default::default() };
    gang.placed = vec![Placed { group: "a".into(), index: 0, node: "r0-n0".into() }];
    let why = no_room(&cluster, &gang);
    assert_eq!((why.wanted.as_str(), why.workers), ("1 worker \"b\" × 8 GPUs", 1));
    assert_eq!(excluded(&why), [("b", "GPUs taken", 2, "r0-n0", None)]);
}

#[test]
fn excluded_nodes_are_counted_with_the_domain_that_all_of_them_are_in() {
    let mut cluster = racks_of_h100(2, 3);
    for node in ["r0-n1", "r0-n0"] {
        cordon(&mut cluster, node);
    }
    let gang = |required: Option<&str>| Gang {
        groups: vec![Group::new("worker", 7, 8)],
        required: required.map(Level::from),
        ..Default::default()
    };
    let why = no_room(&cluster, &gang(Some("rack")));
    assert_eq!(excluded(&why), [("worker", "cordoned", 2, "r0-n0", Some("r0"))]);
    assert!(why.tree().contains("\n✗ 2 nodes in r0 for group worker: cordoned, such as r0-n0"), "{}", why.tree());
    // Of the cluster as a whole, or of nodes, no domain is named.
    assert_eq!(excluded(&no_room(&cluster, &gang(None))), [("worker", "cordoned", 2, "r0-n0", None)]);
    assert_eq!(excluded(&no_room(&cluster, &gang(Some("host")))), [("worker", "cordoned", 2, "r0-n0", None)]);
    cordon(&mut cluster, "r1-n2");
    assert_eq!(excluded(&no_room(&cluster, &gang(Some("rack")))), [("worker", "cordoned", 3, "r0-n0", None)]);
}

#[test]
fn a_domain_is_named_only_where_there_is_room() {
    let mut cluster = zones_and_racks();
    cluster.upsert(member(bridged("a", 4), &[("rack", "r")]));
    let gang = |gpus: u32| Gang { groups: vec![Group::new("worker", 2, gpus)], ..Default::default() };
    let why = no_room(&cluster, &gang(8));
    assert!(why.best.iter().all(|best| best.domain.is_none() && best.fits == 0), "{why:?}");
    assert_eq!(
        why.tree(),
        "needs 2 workers × 8 GPUs\n\
         └ cluster of 1 node: room for 0 of 2\n  \
           └ no zone has room for any (of 1)\n    \
             └ no rack has room for any (of 1)\n      \
               └ no host has room for any (of 1)\n\
         ✗ 1 node for group worker: too few GPUs (4 of 8), such as a"
    );
    assert_eq!(
        no_room(&cluster, &gang(4)).tree(),
        "needs 2 workers × 4 GPUs\n\
         └ cluster of 1 node: room for 1 of 2\n  \
           └ best zone of 1: without a name, room for 1 of 2\n    \
             └ best rack of 1: r, room for 1 of 2\n      \
               └ best host of 1: a, room for 1 of 2"
    );
}

#[test]
fn gpus_held_without_it_being_known_which_are_no_room_for_joined_workers_either() {
    let mut cluster = zones_and_racks();
    cluster.upsert(member(nvswitch8("n", 18), &[("rack", "r")]));
    cluster.claim(&"n".into(), "pod".into(), Claim { unidentified_gpus: 3, ..Default::default() });
    let mut group = Group::new("worker", 2, 4);
    group.joined_by = Some(Joined::Nvlink);
    let mut gang = Gang { groups: vec![group], ..Default::default() };
    assert_eq!(no_room(&cluster, &gang).best[0].fits, 1, "five GPUs can be given away");
    gang.groups[0].replicas = 1;
    assert_eq!(place(&cluster, &gang).unwrap().workers.len(), 1);
}

#[test]
fn the_largest_set_that_is_joined_is_named() {
    let mut cluster = zones_and_racks();
    cluster.upsert(member(bridged("n", 8), &[("rack", "r")]));
    let mut group = Group::new("worker", 1, 3);
    group.joined_by = Some(Joined::Nvlink);
    let mut gang = Gang { groups: vec![group], ..Default::default() };
    let wires = |why: NoRoom| why.excluded[0].reason.clone();
    assert_eq!(wires(no_room(&cluster, &gang)), Exclusion::Wires { joined: Joined::Nvlink, has: 2, needs: 3 });
    gang.groups[0].gpus = 5;
    gang.groups[0].joined_by = Some(Joined::Socket);
    assert_eq!(wires(no_room(&cluster, &gang)), Exclusion::Wires { joined: Joined::Socket, has: 4, needs: 5 });
    // One half of each pair is held, but for the last pair; then of that, too.
    gang.groups[0].gpus = 4;
    gang.groups[0].joined_by = Some(Joined::Nvlink);
    for (halves, has) in [(&[0, 2, 4][..], 2), (&[0, 2, 4, 6][..], 1)] {
        let gpus = halves.iter().map(|gpu| format!("GPU-n-{gpu}").into()).collect();
        cluster.claim(&"n".into(), "halves".into(), Claim { gpus, ..Default::default() });
        assert_eq!(wires(no_room(&cluster, &gang)), Exclusion::Wires { joined: Joined::Nvlink, has, needs: 4 });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_global_rejects: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_every_level_has_room_for_is_counted_node_by_node(
        cluster in clusters(1..=9), replicas in 1u32..=12, gpus in 1u32..=4, required in 0usize..=4,
    ) {
        let levels = ["zone", "block", "rack", "host"];
        let required = levels.get(required).map(|&level| Level::from(level));
        let gang = Gang { groups: vec![Group::new("worker", replicas, gpus)], required, ..Default::default() };
        let found = place(&cluster, &gang);
        prop_assume!(found.is_err());
        let Err(NoPlacement::NoRoom(why)) = found else { panic!("{found:?}") };
        let room = |seat: &Seat| {
            let labelled = gang.required.iter().all(|level| level.is_host() || seat.path[cluster.depth(level).unwrap()].is_some());
            let ready = seat.member.standing == Standing::Ready;
            if labelled && ready { (seat.free_count() / gpus).min(replicas) } else { 0 }
        };
        let all: u32 = cluster.nodes().map(room).sum();
        prop_assert_eq!((why.best[0].fits, why.best[0].level.clone()), (all.min(replicas), None));
        for (depth, level) in levels.iter().enumerate() {
            let mut rooms: BTreeMap<String, u32> = BTreeMap::new();
            for seat in cluster.nodes() {
                *rooms.entry(domains(seat)[depth].clone()).or_default() += room(seat);
            }
            let most = rooms.values().copied().max().unwrap_or(0).min(replicas);
            let best = &why.best[depth + 1];
            prop_assert_eq!(best.level.as_ref().map(Level::as_str), Some(*level));
            prop_assert_eq!((best.fits, best.domains as usize), (most, rooms.len()), "{}", level);
        }
        let without: BTreeSet<NodeName> = cluster.nodes().filter(|seat| room(seat) == 0).map(|seat| seat.name().clone()).collect();
        prop_assert_eq!(why.excluded.iter().map(|one| one.nodes as usize).sum::<usize>(), without.len());
        prop_assert!(why.excluded.iter().all(|one| without.contains(&one.example)));
        prop_assert_eq!((why.nodes as usize, why.workers), (cluster.nodes().count(), replicas));
    }
}
