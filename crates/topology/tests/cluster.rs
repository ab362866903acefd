//! The cluster follows events: the state is the same as if it were built anew, whatever happened before.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod machines;

use std::collections::BTreeMap;

use machines::{bridged, member, nvswitch8, pcie};
use proptest::prelude::*;
use weft_topology::*;

/// One event from outside.
#[derive(Clone, Debug)]
enum Event {
    Upsert { node: u8, kind: u8, zone: Option<u8>, rack: Option<u8>, sick: u8, cordoned: bool },
    Remove { node: u8 },
    Claim { owner: u8, node: u8, gpus: u8, unidentified: u32, cpu: u64, planned: bool },
    Release { owner: u8 },
}

fn events(count: usize) -> impl Strategy<Value = Vec<Event>> {
    let label = || prop::option::weighted(0.85, 0u8..3);
    let upsert = (0u8..12, 0u8..3, label(), label(), any::<u8>(), prop::bool::weighted(0.1));
    let claim = (0u8..40, 0u8..12, any::<u8>(), 0u32..2, 0u64..4_000, any::<bool>());
    let event = prop_oneof![
        2 => upsert.prop_map(|(node, kind, zone, rack, sick, cordoned)| Event::Upsert { node, kind, zone, rack, sick, cordoned }),
        1 => (0u8..12).prop_map(|node| Event::Remove { node }),
        5 => claim.prop_map(|(owner, node, gpus, unidentified, cpu, planned)| Event::Claim { owner, node, gpus, unidentified, cpu, planned }),
        2 => (0u8..40).prop_map(|owner| Event::Release { owner }),
    ];
    prop::collection::vec(event, count)
}

fn name(node: u8) -> NodeName {
    format!("n{node}").into()
}

fn levels() -> Cluster {
    Cluster::new(vec![LevelLabel::new("zone", "zone"), LevelLabel::new("rack", "rack")]).unwrap()
}

/// What the events come to, kept in plain maps.
#[derive(Default)]
struct Plain {
    members: BTreeMap<NodeName, Member>,
    claims: BTreeMap<Owner, (NodeName, Claim)>,
}

impl Plain {
    fn apply(&mut self, cluster: &mut Cluster, event: &Event) {
        match *event {
            Event::Upsert { node, kind, zone, rack, sick, cordoned } => {
                let at = name(node);
                let machine = match kind {
                    0 => nvswitch8(at.as_str(), 18),
                    1 => bridged(at.as_str(), 4),
                    _ => pcie(at.as_str(), 6),
                };
                let first = machine.gpus()[0].uuid.clone();
                let health = if sick < 40 { Health::unhealthy("XID 79") } else { Health::Healthy };
                let machine = machine.with_health(first.as_str(), health).unwrap();
                let labels = [("zone", zone.map(|z| z.to_string())), ("rack", rack.map(|r| r.to_string()))];
                let labels: Vec<(&str, &str)> = labels.iter().filter_map(|(k, v)| Some((*k, v.as_deref()?))).collect();
                let mut member = member(machine, &labels);
                member.standing = if cordoned { Standing::Cordoned } else { Standing::Ready };
                self.members.insert(at, member.clone());
                cluster.upsert(member);
            }
            Event::Remove { node } => {
                assert_eq!(cluster.remove(&name(node)), self.members.remove(&name(node)).is_some());
            }
            Event::Claim { owner, node, gpus, unidentified, cpu, planned } => {
                let gpus =
                    GpuSet::from_bits(u64::from(gpus)).iter().map(|i| format!("GPU-n{node}-{i}").into()).collect();
                let resources = Resources::new().with("cpu", cpu);
                let claim = Claim { gpus, unidentified_gpus: unidentified, resources, planned };
                let owner = Owner::from(format!("pod-{owner}"));
                self.claims.insert(owner.clone(), (name(node), claim.clone()));
                cluster.claim(&name(node), owner, claim);
            }
            Event::Release { owner } => {
                let owner = Owner::from(format!("pod-{owner}"));
                assert_eq!(cluster.release(&owner), self.claims.remove(&owner).is_some());
            }
        }
    }

    /// A cluster made at once, in another order than the events came in.
    fn rebuilt(&self) -> Cluster {
        let mut cluster = levels();
        for (owner, (node, claim)) in self.claims.iter().rev() {
            cluster.claim(node, owner.clone(), claim.clone());
        }
        for member in self.members.values().rev() {
            cluster.upsert(member.clone());
        }
        cluster
    }
}

fn same(a: &Cluster, b: &Cluster) {
    assert!(a.nodes().eq(b.nodes()), "nodes differ");
    assert_eq!(serde_json::to_string(a).unwrap(), serde_json::to_string(b).unwrap());
    for (replicas, gpus, level) in
        [(1, 1, None), (2, 2, Some("rack")), (3, 2, None), (2, 4, Some("zone")), (9, 8, None)]
    {
        let group = Group { resources: Resources::new().with("cpu", 9_000), ..Group::new("w", replicas, gpus) };
        let gang = Gang { groups: vec![group], required: level.map(Level::from), ..Default::default() };
        assert_eq!(place(a, &gang), place(b, &gang));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn the_state_after_many_events_is_the_state_built_anew(events in events(400)) {
        let mut cluster = levels();
        let mut plain = Plain::default();
        for (at, event) in events.iter().enumerate() {
            plain.apply(&mut cluster, event);
            if at % 100 == 99 {
                same(&cluster, &plain.rebuilt());
            }
        }
    }

    #[test]
    fn a_snapshot_does_not_see_later_events(before in events(60), after in events(60)) {
        let mut cluster = levels();
        let mut plain = Plain::default();
        before.iter().for_each(|event| plain.apply(&mut cluster, event));
        let snapshot = cluster.clone();
        let then = plain.rebuilt();
        after.iter().for_each(|event| plain.apply(&mut cluster, event));
        same(&snapshot, &then);
    }
}

#[test]
fn ten_thousand_events_leave_no_trace_but_the_state() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let events = events(10_000).new_tree(&mut runner).unwrap().current();
    let mut cluster = levels();
    let mut plain = Plain::default();
    events.iter().for_each(|event| plain.apply(&mut cluster, event));
    same(&cluster, &plain.rebuilt());
    // Everything taken out again: nothing is left behind.
    for owner in plain.claims.keys() {
        cluster.release(owner);
    }
    for node in plain.members.keys() {
        cluster.remove(node);
    }
    same(&cluster, &levels());
}

#[test]
fn a_stored_cluster_comes_back_the_same() {
    let mut cluster = levels();
    cluster.claim(&"b".into(), "early".into(), Claim { gpus: vec!["GPU-b-1".into()], ..Default::default() });
    cluster.upsert(member(nvswitch8("a", 18), &[("zone", "z"), ("rack", "r")]));
    cluster.upsert(member(nvswitch8("b", 18), &[("zone", "z")]));
    let text = serde_json::to_string(&cluster).unwrap();
    let back: Cluster = serde_json::from_str(&text).unwrap();
    same(&cluster, &back);
    assert_eq!(
        back.node(&"b".into()).unwrap().taken,
        machines::set(&[1]),
        "the claim that came before its node counts"
    );
    let wirings: Vec<_> = back.nodes().map(|seat| std::sync::Arc::as_ptr(seat.member.node.wiring())).collect();
    assert_eq!(wirings[0], wirings[1], "equal nodes share their wiring");
    assert!(serde_json::from_str::<Cluster>(r#"{"levels":[{"name":"host","label":"x"}]}"#).is_err());
}

#[test]
fn a_node_put_back_as_it_was_told_of_stays_where_it_was() {
    let mut cluster = levels();
    cluster.upsert(member(nvswitch8("a", 18), &[("zone", "z"), ("rack", "r")]));
    cluster.upsert(member(nvswitch8("b", 18), &[("rack", "r")]));
    let before = cluster.clone();
    for name in ["a", "b"] {
        let told = cluster.member(&name.into()).unwrap();
        cluster.upsert(told);
    }
    same(&cluster, &before);
    assert_eq!(cluster.member(&"a".into()).unwrap().labels["zone"], "z");
    assert_eq!(cluster.member(&"c".into()), None);
}

#[test]
fn a_claim_follows_its_owner_and_its_gpus() {
    let mut cluster = levels();
    for name in ["a", "b"] {
        cluster.upsert(member(nvswitch8(name, 18), &[("rack", "r")]));
    }
    let claim = |node: &str| Claim { gpus: vec![format!("GPU-{node}-6").into()], ..Default::default() };
    cluster.claim(&"a".into(), "pod".into(), claim("a"));
    cluster.claim(&"b".into(), "pod".into(), claim("b"));
    assert!(cluster.node(&"a".into()).unwrap().is_idle(), "a pod is in one place");
    assert_eq!(cluster.claim_of(&"pod".into()).unwrap().0, &"b".into());
    // GPU 0 is lost: positions shift, the claim stays with its GPU.
    let facts = NodeFacts::from(nvswitch8("b", 18));
    let gpus = facts.gpus[1..].to_vec();
    let node = Node::new(NodeFacts { name: "b".into(), gpus, ..Default::default() }).unwrap();
    cluster.upsert(member(node, &[("rack", "r")]));
    assert_eq!(cluster.node(&"b".into()).unwrap().taken, machines::set(&[5]));
}

#[test]
fn the_order_in_which_nodes_came_does_not_matter_on_many_levels() {
    // Equal idle nodes in a-1 and in b-0; a-0 and b-1 are full.
    let nodes = [("n0", "a", "0", 8), ("n1", "a", "1", 0), ("n2", "b", "0", 0), ("n3", "b", "1", 8)];
    let labels: Vec<String> = (0..8).map(|depth| format!("level-{depth}")).collect();
    let placed = |order: [usize; 4]| {
        let levels = labels.iter().map(|label| LevelLabel::new(label, label)).collect();
        let mut cluster = Cluster::new(levels).unwrap();
        for (name, outer, inner, held) in order.map(|at| nodes[at]) {
            let machine = nvswitch8(name, 18);
            let gpus = machine.uuids(GpuSet::from_bits((1 << held) - 1));
            let values = ["x", "x", "x", "x", "x", "x", outer, inner];
            let of_node: Vec<(&str, &str)> = labels.iter().map(String::as_str).zip(values).collect();
            cluster.upsert(member(machine, &of_node));
            cluster.claim(&name.into(), name.into(), Claim { gpus, ..Default::default() });
        }
        place(&cluster, &Gang { groups: vec![Group::new("w", 1, 8)], ..Default::default() }).unwrap()
    };
    assert_eq!(placed([0, 1, 2, 3]), placed([3, 2, 1, 0]));
}
