//! Groups whose room free whole GPUs do not bound: workers on MIG slices, and workers without GPUs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod machines;

use machines::{member, node, pcie, zones_and_racks};
use weft_topology::*;

const PROFILE: &str = "1g.10gb";

/// A node of so many slices, joined by these paths.
fn slices(name: &str, count: u32, path: Path) -> Node {
    let mut facts = NodeFacts::from(node(name, count, |_, _| Wire::over(path)));
    facts.gpus.iter_mut().for_each(|gpu| gpu.mig_profile = Some(PROFILE.into()));
    Node::new(facts).unwrap()
}

fn near(name: &str, count: u32) -> Node {
    slices(name, count, Path::SameNuma)
}

/// Nodes in zones and racks.
fn cluster(nodes: Vec<(&str, &str, Node)>) -> Cluster {
    let mut cluster = zones_and_racks();
    for (zone, rack, node) in nodes {
        cluster.upsert(member(node, &[("zone", zone), ("rack", rack)]));
    }
    cluster
}

fn on_slices(replicas: u32, gpus: u32) -> Gang {
    let group = Group { mig_profile: Some(PROFILE.into()), ..Group::new("w", replicas, gpus) };
    Gang { groups: vec![group], ..Default::default() }
}

fn without_gpus(replicas: u32, cpu: u64) -> Gang {
    let group = Group { resources: Resources::new().with("cpu", cpu), ..Group::new("w", replicas, 0) };
    Gang { groups: vec![group], ..Default::default() }
}

/// Zones and racks used.
fn used(cluster: &Cluster, gang: &Gang) -> (i64, i64) {
    let found = place(cluster, gang).unwrap_or_else(|why| panic!("{why}"));
    assert!(found.exact);
    (found.terms[0].value, found.terms[1].value)
}

/// Two zones of two racks of one node, with room for two workers each.
fn two_zones(node: impl Fn(&str) -> Node) -> Cluster {
    let racks = [("a", "a0"), ("a", "a1"), ("b", "b0"), ("b", "b1")];
    cluster(racks.into_iter().map(|(zone, rack)| (zone, rack, node(rack))).collect())
}

#[test]
fn they_have_the_room_that_there_is() {
    assert_eq!(used(&two_zones(|name| pcie(name, 4)), &without_gpus(5, 32_000)), (2, 3));
    assert_eq!(used(&two_zones(|name| near(name, 2)), &on_slices(5, 1)), (2, 3));
}

#[test]
fn they_use_the_fewest_racks_of_one_zone() {
    // In zone a two racks are enough, in zone b three are needed; zone a has more racks.
    let (a, b) = (["a0", "a1", "a2", "a3", "a4"], ["b0", "b1", "b2"]);
    let (many, few) = (a.map(|rack| ("a", rack, near(rack, 4))), b.map(|rack| ("b", rack, near(rack, 2))));
    assert_eq!(used(&cluster(many.into_iter().chain(few).collect()), &on_slices(6, 1)), (1, 2));
    let second = |rack: &str| format!("{rack}-1");
    let twice = a.iter().flat_map(|&rack| [("a", rack, pcie(rack, 4)), ("a", rack, pcie(&second(rack), 4))]);
    let once = b.iter().map(|&rack| ("b", rack, pcie(rack, 4)));
    assert_eq!(used(&cluster(twice.chain(once).collect()), &without_gpus(3, 64_000)), (1, 2));
}

#[test]
fn over_two_zones_they_use_the_fewest_racks() {
    // Zones a and b have three slices in one rack each, beside racks without; the others one slice in each of three racks.
    let mut nodes = Vec::new();
    for (zone, racks) in [("a", ["a0", "a1", "a2", "a3", "a4"]), ("b", ["b0", "b1", "b2", "b3", "b4"])] {
        nodes.push((zone, racks[0], near(racks[0], 3)));
        nodes.extend(racks[1..].iter().map(|&rack| (zone, rack, pcie(rack, 4))));
    }
    for (zone, racks) in [("c", ["c0", "c1", "c2"]), ("d", ["d0", "d1", "d2"]), ("e", ["e0", "e1", "e2"])] {
        nodes.extend(racks.into_iter().map(|rack| (zone, rack, near(rack, 1))));
    }
    assert_eq!(used(&cluster(nodes), &on_slices(6, 1)), (2, 2));
}

#[test]
fn where_racks_look_alike_and_one_may_not_be_used_slices_are_given_where_they_fit_best() {
    let far = |name, count| slices(name, count, Path::CrossSocket);
    let cluster = cluster(vec![
        ("z", "r1", far("r1-x", 1)),
        ("z", "r1", far("r1-y", 6)),
        ("z", "r2", far("r2-x", 1)),
        ("z", "r2", far("r2-y", 6)),
        ("z", "r3", far("r3-z", 7)),
    ]);
    let off = |_: &Group, node: &NodeName| match node.as_str().starts_with("r1") {
        true => Err(Exclusion::Selector { detail: "x=y".into() }),
        false => Ok(()),
    };
    let found = place_where(&cluster, &on_slices(2, 2), &off).unwrap();
    assert!(found.workers.iter().all(|worker| worker.node.as_str() == "r2-y"), "{}", found.tree());
}
