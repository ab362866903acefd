//! Gangs that contradict themselves are refused with the reason, and what a placement says of itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod machines;

use machines::{bridged, member, nvswitch8, racks_of_h100, zones_and_racks};
use weft_topology::*;

fn names(groups: &[&str]) -> Vec<String> {
    groups.iter().map(|name| name.to_string()).collect()
}

/// Groups a, b, c, d of these sizes.
fn gang(sizes: &[u32], relations: Vec<Relation>) -> Gang {
    let groups = sizes.iter().zip(["a", "b", "c", "d"]).map(|(&replicas, name)| Group::new(name, replicas, 1));
    Gang { groups: groups.collect(), relations, ..Default::default() }
}

fn together(groups: &[&str]) -> Relation {
    Relation::Together { groups: names(groups), level: "rack".into() }
}

fn apart(groups: &[&str]) -> Relation {
    Relation::Apart { groups: names(groups), level: "rack".into() }
}

fn leads(leader: &str, workers: &str) -> Relation {
    Relation::Leader { leader: leader.into(), workers: workers.into(), level: "rack".into() }
}

/// Why a relation is refused; none if it is not.
fn refused(gang: &Gang) -> Option<String> {
    match place(&racks_of_h100(6, 2), gang) {
        Err(NoPlacement::Invalid(InvalidGang::Relation { why, .. })) => Some(why),
        Ok(_) => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_relation_takes_two_groups_or_more_each_named_once() {
    let why = Some("it takes two groups or more, each named once".to_owned());
    for relation in [together, apart] {
        for wrong in [&["a"][..], &[], &["a", "a"], &["a", "b", "a"]] {
            assert_eq!(refused(&gang(&[1, 1, 1], vec![relation(wrong)])), why, "{wrong:?}");
        }
        for right in [&["a", "b"][..], &["c", "b", "a"]] {
            assert_eq!(refused(&gang(&[1, 1, 1], vec![relation(right)])), None, "{right:?}");
        }
    }
    let unknown = refused(&gang(&[1, 1], vec![together(&["a", "x"])])).unwrap();
    assert_eq!(unknown, "there is no group \"x\": name one of the gang's");
}

#[test]
fn several_leaders_lead_one_group_that_is_not_elastic() {
    assert_eq!(refused(&gang(&[2, 4], vec![leads("a", "b")])), None);
    let why = |gang: Gang| refused(&gang).unwrap();
    assert!(why(gang(&[2, 4], vec![leads("a", "a")])).starts_with("a group does not lead itself"));
    assert!(why(gang(&[2, 3], vec![leads("a", "b")])).starts_with("2 leaders do not divide 3 workers"));
    for elastic in [0, 1] {
        let mut gang = gang(&[2, 4], vec![leads("a", "b")]);
        gang.groups[elastic].min = Some(1);
        assert!(why(gang).starts_with("with several leaders no group can be elastic"), "{elastic}");
    }
    let mut sliced = gang(&[2, 4], vec![leads("a", "b")]);
    sliced.groups[0].slices = vec![Slice { level: "rack".into(), size: 2 }];
    assert!(why(sliced).starts_with("leaders have no slices"));
    // a leads b, and b leads c: told of in either order.
    let chain = [leads("a", "b"), leads("b", "c")];
    assert!(why(gang(&[2, 4, 8], chain.to_vec())).starts_with("leaders have no slices and no leaders of their own"));
    let each_one = "with several leaders each leads one group, and is led by none";
    assert_eq!(why(gang(&[2, 4, 8], chain.into_iter().rev().collect())), each_one);
    assert_eq!(why(gang(&[2, 4, 4], vec![leads("a", "b"), leads("a", "c")])), each_one, "one leads two");
    assert_eq!(why(gang(&[2, 2, 4], vec![leads("a", "c"), leads("b", "c")])), each_one, "one is led by two");
    assert_eq!(refused(&gang(&[2, 2, 4, 4], vec![leads("a", "c"), leads("b", "d")])), None, "two pairs");
}

#[test]
fn a_worker_may_ask_for_as_many_gpus_as_a_node_can_have() {
    let mut gang = gang(&[1], vec![]);
    gang.groups[0].gpus = 64;
    assert!(matches!(place(&racks_of_h100(1, 1), &gang), Err(NoPlacement::NoRoom(_))));
    gang.groups[0].gpus = 65;
    let many = InvalidGang::TooManyGpus { group: "a".into(), gpus: 65 };
    assert_eq!(place(&racks_of_h100(1, 1), &gang), Err(NoPlacement::Invalid(many)));
}

#[test]
fn slices_of_led_workers_are_whole_parts_of_what_a_leader_leads_or_hold_several() {
    let sliced = |level: &str, size: u32| {
        let mut gang = gang(&[2, 8], vec![leads("a", "b")]);
        gang.groups[1].slices = vec![Slice { level: level.into(), size }];
        refused(&gang)
    };
    // Each leads four in one rack.
    for (level, size) in [("rack", 2), ("rack", 4), ("rack", 8), ("host", 2), ("zone", 8)] {
        assert_eq!(sliced(level, size), None, "{level} {size}");
    }
    assert!(sliced("host", 8).unwrap().contains("do not nest with slices of 8"));
    assert!(sliced("zone", 2).unwrap().contains("do not nest with slices of 2"));
}

#[test]
fn workers_that_run_where_a_relation_does_not_let_them_are_refused() {
    let running = |relation: Relation, nodes: [&str; 2]| {
        let mut gang = gang(&[2, 2], vec![relation]);
        gang.placed = vec![
            Placed { group: "a".into(), index: 0, node: nodes[0].into() },
            Placed { group: "b".into(), index: 0, node: nodes[1].into() },
        ];
        refused(&gang)
    };
    let (one, two) = (["r0-n0", "r0-n1"], ["r0-n0", "r1-n0"]);
    assert_eq!(running(together(&["a", "b"]), one), None);
    assert!(running(together(&["a", "b"]), two).unwrap().starts_with("workers of them run in two already"));
    assert_eq!(running(apart(&["a", "b"]), two), None);
    assert!(running(apart(&["a", "b"]), one).unwrap().starts_with("workers of two of them run in one already"));
}

#[test]
fn workers_that_run_count_where_a_domain_may_hold_so_many() {
    let cluster = racks_of_h100(3, 2);
    let mut gang = gang(&[4], vec![]);
    gang.groups[0].balanced = Some(Balance { level: "rack".into(), most: Some(2) });
    gang.placed = [0, 1].map(|index| Placed { group: "a".into(), index, node: "r0-n0".into() }).to_vec();
    let found = place(&cluster, &gang).unwrap();
    let nodes: Vec<&str> = found.workers.iter().map(|worker| worker.node.as_str()).collect();
    assert!(nodes.iter().all(|node| !node.starts_with("r0")), "two run in r0 already: {nodes:?}");
}

#[test]
fn all_workers_of_a_gang_bound_to_a_node_join_the_one_that_runs() {
    let mut cluster = racks_of_h100(1, 3);
    let mut gang = gang(&[2], vec![]);
    gang.required = Some(Level::host());
    gang.groups[0].required = Some(Level::host());
    gang.placed = vec![Placed { group: "a".into(), index: 0, node: "r0-n1".into() }];
    assert_eq!(place(&cluster, &gang).unwrap().workers[0].node, "r0-n1".into());
    let gpus = (0..8).map(|gpu| format!("GPU-r0-n1-{gpu}").into()).collect();
    cluster.claim(&"r0-n1".into(), "all".into(), Claim { gpus, ..Default::default() });
    assert!(place(&cluster, &gang).is_err());
}

#[test]
fn joined_workers_get_the_sets_of_one_request_where_those_are_joined() {
    let mut cluster = zones_and_racks();
    cluster.upsert(member(bridged("n", 8), &[("rack", "r")]));
    let held = [2, 3].map(|gpu| format!("GPU-n-{gpu}").into()).to_vec();
    cluster.claim(&"n".into(), "other".into(), Claim { gpus: held, ..Default::default() });
    let mut gang = gang(&[2], vec![]);
    gang.groups[0].gpus = 2;
    for joined in [None, Some(Joined::Nvlink)] {
        gang.groups[0].joined_by = joined;
        let found = place(&cluster, &gang).unwrap();
        let gpus: Vec<Vec<&str>> =
            found.workers.iter().map(|worker| worker.gpus.iter().map(GpuUuid::as_str).collect()).collect();
        assert_eq!(gpus, [["GPU-n-4", "GPU-n-5"], ["GPU-n-6", "GPU-n-7"]], "{joined:?}: one socket for both");
    }
}

#[test]
fn of_several_groups_too_each_worker_gets_joined_gpus_or_another_node() {
    let mut cluster = zones_and_racks();
    for name in ["m", "n"] {
        cluster.upsert(member(bridged(name, 6), &[("rack", "r")]));
        // One pair is whole, of the others one half is left.
        let held = [0, 2].map(|gpu| format!("GPU-{name}-{gpu}").into()).to_vec();
        cluster.claim(&name.into(), name.into(), Claim { gpus: held, ..Default::default() });
    }
    let mut gang = gang(&[2, 1], vec![]);
    (gang.groups[0].gpus, gang.groups[0].joined_by) = (2, Some(Joined::Nvlink));
    let found = place(&cluster, &gang).unwrap();
    let of = |worker: &Worker| worker.gpus.iter().map(GpuUuid::to_string).collect::<Vec<_>>();
    let pairs: Vec<Vec<String>> = found.workers.iter().filter(|worker| worker.group == "a").map(of).collect();
    assert_eq!(pairs, [["GPU-m-4", "GPU-m-5"], ["GPU-n-4", "GPU-n-5"]]);
    assert!(found.exact);
    gang.groups[0].replicas = 3;
    let Err(NoPlacement::NoRoom(why)) = place(&cluster, &gang) else { panic!("there are two pairs") };
    assert!(why.proven);
    // Of two such groups each has room on either node, until the other is there.
    gang.groups[0].replicas = 1;
    (gang.groups[1].gpus, gang.groups[1].joined_by) = (2, Some(Joined::Nvlink));
    let found = place(&cluster, &gang).unwrap();
    let pairs: Vec<Vec<String>> = found.workers.iter().map(of).collect();
    assert_eq!(pairs, [["GPU-m-4", "GPU-m-5"], ["GPU-n-4", "GPU-n-5"]]);
}

#[test]
fn slices_stay_whole_where_torn_they_would_take_fewer_nodes() {
    // Each rack has a node of three GPUs and one of one. Six workers in threes would take two nodes, in slices of two three.
    let mut cluster = zones_and_racks();
    for rack in ["r0", "r1"] {
        for (name, gpus) in [("large", 3), ("small", 1)] {
            let node = machines::pcie(&format!("{rack}-{name}"), gpus);
            cluster.upsert(member(node, &[("zone", "z"), ("rack", rack)]));
        }
    }
    let mut gang = gang(&[6], vec![]);
    let racks = |gang: &Gang| {
        let found = place(&cluster, gang).unwrap();
        let mut racks: Vec<usize> = ["r0", "r1"]
            .map(|rack| found.workers.iter().filter(|worker| worker.node.as_str().starts_with(rack)).count())
            .to_vec();
        racks.sort_unstable();
        racks
    };
    assert_eq!(racks(&gang), [3, 3]);
    gang.groups[0].slices = vec![Slice { level: "rack".into(), size: 2 }];
    assert_eq!(racks(&gang), [2, 4]);
}

#[test]
fn idle_racks_of_other_machines_are_told_apart_where_some_nodes_may_not_be_used() {
    let mut cluster = zones_and_racks();
    for (rack, near) in [("r0", true), ("r1", false), ("r2", true), ("r3", true)] {
        for n in 0..2 {
            let name = format!("{rack}-n{n}");
            let wire = |_, _| if near { Wire::nvswitch(18, Path::SameNuma) } else { Wire::over(Path::CrossSocket) };
            cluster.upsert(member(machines::node(&name, 4, wire), &[("zone", "z"), ("rack", rack)]));
        }
    }
    let mut gang = gang(&[4], vec![]);
    gang.groups[0].gpus = 4;
    let eligible = |_: &Group, node: &NodeName| match node.as_str() {
        "r0-n0" => Err(Exclusion::Cordoned),
        _ => Ok(()),
    };
    let found = place_where(&cluster, &gang, &eligible).unwrap();
    let nodes: Vec<&str> = found.workers.iter().map(|worker| worker.node.as_str()).collect();
    assert_eq!(nodes, ["r2-n0", "r2-n1", "r3-n0", "r3-n1"], "two racks, and those with NVLink");
}

#[test]
fn slices_begun_in_one_rack_are_all_completed_there() {
    let cluster = racks_of_h100(2, 4);
    let mut gang = gang(&[6], vec![]);
    gang.groups[0].gpus = 8;
    gang.groups[0].slices = vec![Slice { level: "rack".into(), size: 2 }];
    let mut busy = cluster.clone();
    for (index, node) in [(0, "r1-n0"), (2, "r1-n1")] {
        gang.placed.push(Placed { group: "a".into(), index, node: node.into() });
        let gpus = (0..8).map(|gpu| format!("GPU-{node}-{gpu}").into()).collect();
        busy.claim(&node.into(), node.into(), Claim { gpus, ..Default::default() });
    }
    let found = place(&busy, &gang).unwrap();
    let placed: Vec<_> = found.workers.iter().map(|worker| (worker.index, worker.node.as_str())).collect();
    assert_eq!(placed, [(1, "r1-n2"), (3, "r1-n3"), (4, "r0-n0"), (5, "r0-n1")]);
}

#[test]
fn workers_without_gpus_open_nothing() {
    let cluster = racks_of_h100(1, 2);
    let mut gang = gang(&[2], vec![]);
    gang.groups[0].gpus = 0;
    for groups in 1..=2 {
        let found = place(&cluster, &gang).unwrap();
        let opened: Vec<i64> =
            found.terms.iter().filter(|term| term.name.ends_with("opened")).map(|term| term.value).collect();
        assert_eq!(opened, [0, 0, 0, 0], "{groups} groups");
        gang.groups.push(Group::new("b", 1, 0));
    }
}

#[test]
fn an_elastic_group_in_slices_gets_whole_ones_up_to_what_fits() {
    let cluster = racks_of_h100(1, 8);
    let mut gang = gang(&[12], vec![]);
    gang.groups[0].gpus = 8;
    gang.groups[0].min = Some(2);
    gang.groups[0].slices = vec![Slice { level: "rack".into(), size: 2 }];
    let found = place(&cluster, &gang).unwrap();
    assert_eq!((found.workers.len(), found.left_out), (8, 4));
}

#[test]
fn one_worker_on_a_node_is_no_ring() {
    let cluster = racks_of_h100(2, 2);
    let mut gang = gang(&[3], vec![]);
    gang.groups[0].gpus = 8;
    let rings = place(&cluster, &gang).unwrap().rings(&cluster);
    assert_eq!(rings.flat, [0, 1, 2]);
    let within: Vec<_> =
        rings.rings.iter().map(|ring| (ring.domain.as_ref().map(DomainName::as_str), &ring.ranks[..])).collect();
    assert_eq!(within, [(Some("r0"), &[0, 1][..]), (Some("z"), &[0, 2])]);
}

#[test]
fn what_is_chosen_beyond_the_tables_is_not_said_to_be_the_best() {
    for (gpus, exact) in [(16, true), (18, false)] {
        let mut cluster = zones_and_racks();
        cluster.upsert(member(machines::pcie("n", gpus), &[("rack", "r")]));
        for sizes in [&[1][..], &[1, 1]] {
            let mut gang = gang(sizes, vec![]);
            gang.groups[0].gpus = 3;
            assert_eq!(place(&cluster, &gang).unwrap().exact, exact, "{gpus} GPUs, {} groups", sizes.len());
            // That there is none is proven all the same, unless it hangs on wires.
            gang.groups[0].gpus = 20;
            let Err(NoPlacement::NoRoom(why)) = place(&cluster, &gang) else { panic!("{gpus} GPUs are there") };
            assert!(why.proven);
            (gang.groups[0].gpus, gang.groups[0].joined_by) = (4, Some(Joined::Nvlink));
            let Err(NoPlacement::NoRoom(why)) = place(&cluster, &gang) else { panic!("no two are joined by NVLink") };
            assert_eq!(why.proven, exact, "{gpus} GPUs, {} groups", sizes.len());
            // A single GPU has no wires.
            gang.groups[0].gpus = 1;
            gang.groups[0].replicas = 20;
            let Err(NoPlacement::NoRoom(why)) = place(&cluster, &gang) else { panic!("{gpus} GPUs are there") };
            assert!(why.proven);
        }
    }
}

#[test]
fn a_placement_names_eight_nodes_and_counts_the_others() {
    let cluster = racks_of_h100(2, 5);
    let words = |replicas: u32| {
        let group = Group::new("worker", replicas, 8);
        place(&cluster, &Gang { groups: vec![group], ..Default::default() }).unwrap()
    };
    let eight = words(8).to_string();
    let named = "r0-n0, r0-n1, r0-n2, r0-n3, r0-n4, r1-n0, r1-n1, r1-n2";
    assert_eq!(eight, format!("8 workers × 8 GPUs on {named}; zones used 1, racks used 2, hosts used 8"));
    let nine = words(9).to_string();
    assert_eq!(nine, format!("9 workers × 8 GPUs on {named} and 1 more; zones used 1, racks used 2, hosts used 9"));
    let one = words(1);
    let lines: Vec<String> = one.tree().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], one.to_string());
    assert_eq!(lines.len(), 2 + one.terms.len());
    assert_eq!(lines[1], "  zones used: 1");
    let uuids: Vec<String> = (0..8).map(|gpu| format!("GPU-r0-n0-{gpu}")).collect();
    assert_eq!(lines[lines.len() - 1], format!("  rank 0 worker-0 on r0-n0: {}", uuids.join(",")));
}

#[test]
fn a_verdict_on_one_group_leaves_the_others_alone() {
    let mut asked = Asked::new("q", gang(&[1, 1], vec![]));
    let exclusion = || Exclusion::Selector { detail: "x=y".into() };
    asked.verdicts = vec![Verdict { node: "n".into(), group: Some("a".into()), exclusion: exclusion() }];
    let admit = |asked: &Asked, group: usize, node: &str| asked.rules().admit(&asked.gang.groups[group], &node.into());
    assert_eq!((admit(&asked, 0, "n"), admit(&asked, 1, "n")), (Err(exclusion()), Ok(())));
    assert_eq!(admit(&asked, 0, "m"), Ok(()));
    asked.verdicts[0].group = None;
    assert_eq!(admit(&asked, 1, "n"), Err(exclusion()));
}

#[test]
fn what_is_noted_of_nodes_and_claims_can_be_read_again() {
    let mut cluster = zones_and_racks();
    let mut facts = NodeFacts::from(nvswitch8("n", 18));
    facts.nvlink_domain = Some("fabric.7".into());
    cluster.upsert(member(Node::new(facts).unwrap(), &[("rack", "r")]));
    assert_eq!(cluster.node(&"n".into()).unwrap().member.node.nvlink_domain(), Some("fabric.7"));
    assert_eq!(nvswitch8("m", 18).nvlink_domain(), None);
    let claim = |gpu: u32| Claim {
        gpus: vec![format!("GPU-n-{gpu}").into()],
        resources: Resources::new().with("cpu", 1_000 + u64::from(gpu)),
        planned: gpu == 1,
        ..Default::default()
    };
    for (gpu, owner) in [(1, "b"), (0, "a")] {
        cluster.claim(&"n".into(), owner.into(), claim(gpu));
    }
    assert_eq!(cluster.claim_of(&"b".into()), Some((&"n".into(), &claim(1))));
    assert_eq!(cluster.claim_of(&"c".into()), None);
    let on: Vec<_> = cluster.claims_on(&"n".into()).map(|(owner, claim)| (owner.as_str(), claim.clone())).collect();
    assert_eq!(on, [("a", claim(0)), ("b", claim(1))]);
    assert_eq!(cluster.claims_on(&"m".into()).count(), 0);
}
