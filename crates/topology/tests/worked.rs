//! Gangs on clusters small enough to think through: what goes where, and what people read when it does not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod machines;

use machines::{bridged, gang, member, nvswitch8, racks_of_h100, zones_and_racks};
use weft_topology::*;

/// The demo's cluster: two DGX H100 in rack-a, four bridged A100 in rack-b, and no zone labels at all.
fn demo() -> Cluster {
    let mut cluster = zones_and_racks();
    cluster.upsert(member(nvswitch8("node-1", 18), &[("rack", "rack-a")]));
    cluster.upsert(member(nvswitch8("node-2", 18), &[("rack", "rack-a")]));
    cluster.upsert(member(bridged("node-3", 4), &[("rack", "rack-b")]));
    cluster
}

/// Plans every worker of a placement in the cluster.
fn plan(cluster: &mut Cluster, job: &str, placement: &Placement) {
    for worker in &placement.workers {
        let claim = Claim { gpus: worker.gpus.clone(), planned: true, ..Default::default() };
        cluster.claim(&worker.node, format!("{job}-{}-{}", worker.group, worker.index).into(), claim);
    }
}

fn nodes(placement: &Placement) -> Vec<&str> {
    placement.workers.iter().map(|worker| worker.node.as_str()).collect()
}

fn gpus(placement: &Placement, worker: usize) -> Vec<&str> {
    placement.workers[worker].gpus.iter().map(GpuUuid::as_str).collect()
}

#[test]
fn a_gang_that_requires_a_rack_gets_one() {
    let placement = place(&demo(), &gang(2, 8, Some("rack"))).unwrap();
    assert_eq!(nodes(&placement), ["node-1", "node-2"]);
    assert_eq!(gpus(&placement, 0).len(), 8);
    assert_eq!(placement.workers.iter().map(|w| (w.index, w.rank)).collect::<Vec<_>>(), [(0, 0), (1, 1)]);
}

#[test]
fn two_jobs_of_two_gpus_get_the_two_bridged_pairs() {
    let mut cluster = demo();
    let only_node_3 = |_: &Group, node: &NodeName| match node.as_str() {
        "node-3" => Ok(()),
        _ => Err(Exclusion::Selector { detail: "kubernetes.io/hostname=node-3".into() }),
    };
    let first = place_where(&cluster, &gang(1, 2, None), &only_node_3).unwrap();
    assert_eq!(gpus(&first, 0), ["GPU-node-3-0", "GPU-node-3-1"]);
    plan(&mut cluster, "pair-a", &first);
    let second = place_where(&cluster, &gang(1, 2, None), &only_node_3).unwrap();
    assert_eq!(gpus(&second, 0), ["GPU-node-3-2", "GPU-node-3-3"]);
    plan(&mut cluster, "pair-b", &second);
    let why = place_where(&cluster, &gang(1, 2, None), &only_node_3).unwrap_err();
    assert_eq!(
        why.to_string(),
        "needs 1 worker × 2 GPUs; no node has room for any; excluded: 2 nodes: selector \
         (kubernetes.io/hostname=node-3), 1 node: planned for another (0 of 2 left)"
    );
}

#[test]
fn a_gang_that_is_too_big_says_what_is_missing_and_fits_when_a_node_is_added() {
    let mut cluster = demo();
    let too_big = gang(3, 8, Some("rack"));
    let why = place(&cluster, &too_big).unwrap_err();
    assert_eq!(
        why.to_string(),
        "needs 3 workers × 8 GPUs in one rack; best is rack-a with room for 2 of 3; \
         excluded: 1 node in rack-b: too few GPUs (4 of 8)"
    );
    assert_eq!(
        why.tree(),
        "needs 3 workers × 8 GPUs in one rack\n\
         └ cluster of 3 nodes: room for 2 of 3\n\
         \u{20} └ best zone of 1: without a name, room for 2 of 3\n\
         \u{20}   └ best rack of 2: rack-a, room for 2 of 3\n\
         \u{20}     └ best host of 3: node-1, room for 1 of 3\n\
         ✗ 1 node in rack-b for group worker: too few GPUs (4 of 8), such as node-3"
    );
    cluster.upsert(member(nvswitch8("node-4", 18), &[("rack", "rack-a")]));
    assert_eq!(nodes(&place(&cluster, &too_big).unwrap()), ["node-1", "node-2", "node-4"]);
}

#[test]
fn every_reason_is_told_apart_and_counted() {
    let mut cluster = zones_and_racks();
    let rack = [("zone", "z"), ("rack", "r")];
    let mut add = |name: &str, change: &dyn Fn(&mut Member)| {
        let mut member = member(nvswitch8(name, 18), &rack);
        change(&mut member);
        cluster.upsert(member);
    };
    add("cordoned", &|m| m.standing = Standing::Cordoned);
    add("held", &|_| {});
    add("not-ready", &|m| m.standing = Standing::NotReady);
    add("nowhere", &|m| m.labels.clear());
    add("planned", &|_| {});
    add("short", &|m| m.allocatable = Resources::new().with("cpu", 1_000));
    add("sick", &|m| m.node = m.node.clone().with_health("GPU-sick-0", Health::unhealthy("XID 79")).unwrap());
    add("small", &|m| m.node = bridged("small", 4));
    add("tainted", &|_| {});
    add("unselected", &|_| {});
    add("unidentified", &|_| {});
    let one = |node: &str| Claim { gpus: vec![format!("GPU-{node}-0").into()], ..Default::default() };
    cluster.claim(&"held".into(), "a".into(), one("held"));
    cluster.claim(&"planned".into(), "b".into(), Claim { planned: true, ..one("planned") });
    cluster.claim(&"unidentified".into(), "c".into(), Claim { unidentified_gpus: 2, ..Default::default() });
    let mut gang = gang(1, 8, Some("rack"));
    gang.groups[0].resources = Resources::new().with("cpu", 16_000);
    let eligible = |_: &Group, node: &NodeName| match node.as_str() {
        "tainted" => Err(Exclusion::Taint { detail: "dedicated=x:NoSchedule".into() }),
        "unselected" => Err(Exclusion::Selector { detail: "class=h100".into() }),
        _ => Ok(()),
    };
    let Err(NoPlacement::NoRoom(why)) = place_where(&cluster, &gang, &eligible) else { panic!("there is no room") };
    let reasons: Vec<String> =
        why.excluded.iter().map(|e| format!("{} {} ({})", e.nodes, e.reason, e.example)).collect();
    assert_eq!(
        reasons,
        [
            "2 GPUs taken (7 of 8 left) (held)",
            "1 selector (class=h100) (unselected)",
            "1 taint (dedicated=x:NoSchedule) (tainted)",
            "1 not ready (not-ready)",
            "1 cordoned (cordoned)",
            "1 level label missing (rack) (nowhere)",
            "1 too few GPUs (4 of 8) (small)",
            "1 GPUs unhealthy (7 of 8 healthy) (sick)",
            "1 planned for another (7 of 8 left) (planned)",
            "1 other resource (cpu: 1000 of 16000 left) (short)",
        ]
    );
    gang.groups[0].product = Some("A100".into());
    gang.required = None;
    let why = place(&cluster, &gang).unwrap_err().to_string();
    assert!(why.contains("nodes: wrong product (NVIDIA H100 80GB HBM3)"), "{why}");
    assert!(why.starts_with("needs 1 worker × 8 GPUs (A100); no node has room for any; excluded: 9 nodes"), "{why}");
}

#[test]
fn a_cluster_without_nodes_says_so() {
    let why = place(&zones_and_racks(), &gang(1, 1, None)).unwrap_err();
    assert_eq!(why.to_string(), "needs 1 worker × 1 GPU; the cluster has no nodes");
}

#[test]
fn contradictory_gangs_are_named() {
    let cluster = demo();
    let says = |gang: &Gang, text: &str| {
        let error = place(&cluster, gang).unwrap_err();
        assert!(matches!(error, NoPlacement::Invalid(_)), "{error:?}");
        assert_eq!(error.to_string(), text);
    };
    says(&gang(1, 1, Some("pod")), "level pod is unknown: use one of rack, zone, host");
    says(&gang(0, 1, None), "group \"worker\" has 0 replicas: ask for at least 1");
    says(&gang(1, 65, None), "group \"worker\" wants 65 GPUs per worker and a node has at most 64: use more workers");
    says(&Gang::default(), "the gang has no groups: give at least one");
    let mut twice = gang(1, 1, None);
    twice.groups.push(Group::new("worker", 1, 1));
    says(&twice, "two groups are named \"worker\": give each its own name");
    let mut least = gang(2, 1, None);
    least.groups[0].min = Some(3);
    says(&least, "group \"worker\" wants at least 3 of 2 replicas: the minimum lies between 1 and replicas");
    let mut uneven = gang(4, 1, None);
    uneven.groups[0].slices = vec![Slice { level: "rack".into(), size: 3 }];
    says(&uneven, "slices of group \"worker\" do not nest: size 3 does not divide 4: choose one that does");
    uneven.groups[0].slices = vec![Slice { level: "host".into(), size: 2 }, Slice { level: "rack".into(), size: 1 }];
    says(
        &uneven,
        "slices of group \"worker\" do not nest: level rack is not below the slice before it: list the outermost first",
    );
    let mut gone = gang(2, 1, None);
    gone.placed = vec![Placed { group: "worker".into(), index: 0, node: "node-9".into() }];
    says(
        &gone,
        "worker 0 of group \"worker\" is said to run on node-9, but the node is not there: count the worker as failed",
    );
    let mut apart = gang(3, 1, Some("rack"));
    let at = |index, node: &str| Placed { group: "worker".into(), index, node: node.into() };
    apart.placed = vec![at(0, "node-1"), at(1, "node-3")];
    says(
        &apart,
        "worker 1 of group \"worker\" is said to run on node-3, but other workers are in another domain of the required level",
    );
}

#[test]
fn of_equal_nodes_and_racks_a_small_job_takes_those_that_are_broken() {
    let mut cluster = racks_of_h100(3, 2);
    let one = |gpu: &str| Claim { gpus: vec![gpu.into()], ..Default::default() };
    cluster.claim(&"r2-n1".into(), "a".into(), one("GPU-r2-n1-3"));
    let placement = place(&cluster, &gang(1, 1, None)).unwrap();
    assert_eq!(gpus(&placement, 0), ["GPU-r2-n1-0"], "in the broken node, and its broken socket");
    let placement = place(&cluster, &gang(1, 8, None)).unwrap();
    assert_eq!(nodes(&placement), ["r2-n0"], "the whole node of the broken rack");
    let placement = place(&cluster, &gang(2, 8, None)).unwrap();
    assert_eq!(nodes(&placement), ["r0-n0", "r0-n1"], "a whole rack, for none less has two whole nodes");
}

#[test]
fn a_single_gpu_goes_to_the_node_with_the_fewest_free_wherever_that_is() {
    let mut cluster = racks_of_h100(3, 2);
    let held = |node: &str, gpus: std::ops::Range<u32>| Claim {
        gpus: gpus.map(|gpu| format!("GPU-{node}-{gpu}").into()).collect(),
        ..Default::default()
    };
    // The fullest rack has a node with seven free GPUs and no other room; the emptiest has one with a single free GPU.
    for (node, gpus) in [("r0-n0", 0..8), ("r0-n1", 0..1), ("r1-n0", 0..8), ("r2-n1", 0..7)] {
        cluster.claim(&node.into(), node.into(), held(node, gpus));
    }
    let placement = place(&cluster, &gang(1, 1, None)).unwrap();
    assert_eq!(gpus(&placement, 0), ["GPU-r2-n1-7"]);
    let placement = place(&cluster, &gang(1, 8, None)).unwrap();
    assert_eq!(nodes(&placement), ["r1-n1"], "of whole nodes, the one in the fullest rack");
}

#[test]
fn a_job_of_one_gpu_never_opens_an_empty_nvlink_domain_while_a_broken_one_has_room() {
    let levels = ["rack", "nvlink"].map(|level| LevelLabel::new(level, level));
    let mut cluster = Cluster::new(levels.to_vec()).unwrap();
    let nvl72 = |name: &str, clique: &str| {
        let mut facts = NodeFacts::from(machines::node(name, 4, |_, _| Wire::nvswitch(18, Path::SameNuma)));
        facts.nvlink_domain = Some(clique.into());
        member(Node::new(facts).unwrap(), &[("rack", clique), ("nvlink", clique)])
    };
    for (name, domain) in [("a0", "a"), ("a1", "a"), ("b0", "b"), ("b1", "b")] {
        cluster.upsert(nvl72(name, domain));
    }
    cluster.upsert(member(nvswitch8("h", 18), &[("rack", "h")]));
    let held = |gpus: &[&str]| Claim { gpus: gpus.iter().map(|&gpu| gpu.into()).collect(), ..Default::default() };

    // Three free GPUs in the empty domain, four in the broken one.
    let sick = cluster.member(&"a0".into()).unwrap();
    let node = sick.node.with_health("GPU-a0-3", Health::unhealthy("XID 79")).unwrap();
    cluster.upsert(Member { node, ..cluster.member(&"a0".into()).unwrap() });
    cluster.claim(&"b0".into(), "all".into(), held(&["GPU-b0-0", "GPU-b0-1", "GPU-b0-2", "GPU-b0-3"]));
    cluster.claim(&"h".into(), "some".into(), held(&["GPU-h-0"]));
    assert_eq!(nodes(&place(&cluster, &gang(1, 1, None)).unwrap()), ["b1"]);

    // The other domain is full: the eight GPUs of an HGX baseboard are broken further, though they leave more over.
    cluster.claim(&"b1".into(), "rest".into(), held(&["GPU-b1-0", "GPU-b1-1", "GPU-b1-2", "GPU-b1-3"]));
    let placement = place(&cluster, &gang(1, 1, None)).unwrap();
    assert_eq!(nodes(&placement), ["h"]);
    assert!(placement.terms.iter().any(|term| term.name == "NVLink domains opened" && term.value == 0));

    // Nothing else has room.
    cluster.claim(
        &"h".into(),
        "more".into(),
        held(&[1, 2, 3, 4, 5, 6, 7].map(|gpu| format!("GPU-h-{gpu}")).each_ref().map(String::as_str)),
    );
    assert_eq!(nodes(&place(&cluster, &gang(1, 1, None)).unwrap()), ["a0"]);
    assert_eq!(nodes(&place(&cluster, &gang(1, 4, None)).unwrap()), ["a1"]);
}

#[test]
fn a_single_gpu_goes_to_a_broken_pair_of_another_node_before_it_breaks_a_pair() {
    let mut cluster = zones_and_racks();
    for name in ["a", "b"] {
        cluster.upsert(member(bridged(name, 4), &[("zone", "z"), ("rack", "r")]));
    }
    let held = |gpus: &[&str]| Claim { gpus: gpus.iter().map(|&gpu| gpu.into()).collect(), ..Default::default() };
    cluster.claim(&"a".into(), "1".into(), held(&["GPU-a-0", "GPU-a-1"]));
    cluster.claim(&"b".into(), "2".into(), held(&["GPU-b-0", "GPU-b-2"]));
    let placement = place(&cluster, &gang(1, 1, None)).unwrap();
    assert_eq!(gpus(&placement, 0), ["GPU-b-1"]);
    let placement = place(&cluster, &gang(1, 2, None)).unwrap();
    assert_eq!(gpus(&placement, 0), ["GPU-a-2", "GPU-a-3"], "and a request for two gets the pair that is left");
}

#[test]
fn ranks_follow_the_tree() {
    let mut cluster = racks_of_h100(2, 2);
    // Four workers of four GPUs do not fit in one rack any more.
    for node in ["r0-n0", "r1-n0"] {
        let gpus = (0..4).map(|i| format!("GPU-{node}-{i}").into()).collect();
        cluster.claim(&node.into(), format!("x-{node}").into(), Claim { gpus, ..Default::default() });
    }
    let placement = place(&cluster, &gang(5, 4, None)).unwrap();
    assert_eq!(nodes(&placement), ["r0-n0", "r0-n1", "r0-n1", "r1-n1", "r1-n1"]);
    assert_eq!(placement.workers.iter().map(|w| w.rank).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(gpus(&placement, 1), ["GPU-r0-n1-0", "GPU-r0-n1-1", "GPU-r0-n1-2", "GPU-r0-n1-3"]);
}

#[test]
fn failed_workers_are_replaced_where_the_gang_is_and_the_others_stay() {
    let mut cluster = racks_of_h100(3, 4);
    let mut gang = gang(3, 8, Some("rack"));
    let first = place(&cluster, &gang).unwrap();
    plan(&mut cluster, "job", &first);
    assert_eq!(nodes(&first), ["r0-n0", "r0-n1", "r0-n2"]);
    // Two workers fail at once: one node is cordoned, a GPU of the other is lost.
    for index in [0, 2] {
        cluster.release(&format!("job-worker-{index}").as_str().into());
    }
    let mut cordoned = member(nvswitch8("r0-n0", 18), &[("zone", "z"), ("rack", "r0")]);
    cordoned.standing = Standing::Cordoned;
    cluster.upsert(cordoned);
    gang.placed = vec![Placed { group: "worker".into(), index: 1, node: "r0-n1".into() }];
    let second = place(&cluster, &gang).unwrap();
    let found: Vec<_> = second.workers.iter().map(|w| (w.index, w.rank, w.node.as_str())).collect();
    assert_eq!(found, [(0, 0, "r0-n2"), (2, 2, "r0-n3")], "index and rank stay, the rack stays");
    // With one node less there is no room in that rack, and other racks do not count.
    cluster.remove(&"r0-n3".into());
    let why = place(&cluster, &gang).unwrap_err();
    assert_eq!(
        why.to_string(),
        "needs 2 workers × 8 GPUs in one rack; best is r0 with room for 1 of 2; excluded: \
         1 node in r0: cordoned, 1 node in r0: planned for another (0 of 8 left)"
    );
}

#[test]
fn a_failed_worker_of_a_slice_is_replaced_in_the_slices_domain() {
    let mut cluster = racks_of_h100(3, 3);
    let mut gang = gang(4, 8, None);
    gang.groups[0].slices = vec![Slice { level: "rack".into(), size: 2 }];
    let first = place(&cluster, &gang).unwrap();
    assert_eq!(nodes(&first), ["r0-n0", "r0-n1", "r1-n0", "r1-n1"], "two slices, each in one rack");
    plan(&mut cluster, "job", &first);
    cluster.release(&"job-worker-3".into());
    cluster.remove(&"r1-n1".into());
    let running = first.workers.iter().filter(|w| w.index != 3);
    gang.placed = running.map(|w| Placed { group: w.group.clone(), index: w.index, node: w.node.clone() }).collect();
    assert_eq!(nodes(&place(&cluster, &gang).unwrap()), ["r1-n2"], "not r0-n2, which the first slice is next to");
}

/// NVL72: 18 nodes of four GPUs a rack, of which only 16 are sure to be there.
#[test]
fn slices_of_a_gang_are_spread_over_nvlink_domains_whole() {
    let mut cluster = Cluster::new(vec![LevelLabel::new("nvlink", "nvidia.com/gpu.clique")]).unwrap();
    for rack in 0..3 {
        for n in 0..18 {
            let name = format!("r{rack}-n{n:02}");
            let node = machines::node(&name, 4, |_, _| Wire::nvswitch(18, Path::CrossSocket));
            cluster.upsert(member(node, &[("nvidia.com/gpu.clique", &format!("c{rack}"))]));
        }
    }
    let mut gang = gang(24, 4, None);
    gang.groups[0].slices = vec![Slice { level: "nvlink".into(), size: 12 }];
    let placement = place(&cluster, &gang).unwrap();
    let domains: Vec<&str> = nodes(&placement).into_iter().map(|node| &node[..2]).collect();
    assert_eq!(domains, [["r0"; 12], ["r1"; 12]].concat());
    // Sixteen fit in one domain, nineteen do not.
    let mut one = self::gang(16, 4, Some("nvlink"));
    assert!(place(&cluster, &one).is_ok());
    one.groups[0].replicas = 19;
    let why = place(&cluster, &one).unwrap_err().to_string();
    assert_eq!(why, "needs 19 workers × 4 GPUs in one nvlink; best is c0 with room for 18 of 19");
}

#[test]
fn an_elastic_group_gets_as_many_workers_as_fit_and_grows_later() {
    let mut cluster = racks_of_h100(1, 3);
    let mut gang = gang(4, 8, Some("rack"));
    assert!(place(&cluster, &gang).is_err());
    gang.groups[0].min = Some(2);
    let partial = place(&cluster, &gang).unwrap();
    assert_eq!((nodes(&partial).len(), partial.left_out), (3, 1));
    assert!(partial.to_string().contains("3 workers × 8 GPUs on r0-n0, r0-n1, r0-n2"), "{partial}");
    assert!(partial.to_string().ends_with("; 1 worker beyond the minimum has no room"), "{partial}");
    plan(&mut cluster, "job", &partial);
    gang.placed = partial
        .workers
        .iter()
        .map(|w| Placed { group: w.group.clone(), index: w.index, node: w.node.clone() })
        .collect();
    assert_eq!(place(&cluster, &gang).unwrap().left_out, 1, "what runs is enough; nothing new fits");
    cluster.upsert(member(nvswitch8("r0-n3", 18), &[("zone", "z"), ("rack", "r0")]));
    let grown = place(&cluster, &gang).unwrap();
    assert_eq!(grown.workers.iter().map(|w| (w.index, w.rank, w.node.as_str())).collect::<Vec<_>>(), [(3, 3, "r0-n3")]);
    // Below the minimum there is no placement, and the sentence speaks of the minimum.
    let mut small = racks_of_h100(1, 1);
    gang.placed.clear();
    let why = place(&small, &gang).unwrap_err().to_string();
    assert_eq!(why, "needs 2 workers × 8 GPUs in one rack; best is r0 with room for 1 of 2");
    small.upsert(member(nvswitch8("r0-n1", 18), &[("zone", "z"), ("rack", "r0")]));
    assert_eq!(place(&small, &gang).unwrap().left_out, 2);
}

#[test]
fn several_groups_share_a_domain_and_ranks_count_through_them() {
    let mut cluster = racks_of_h100(2, 2);
    let held = (0..4).map(|i| format!("GPU-r0-n0-{i}").into()).collect();
    cluster.claim(&"r0-n0".into(), "x".into(), Claim { gpus: held, ..Default::default() });
    let gang = Gang {
        groups: vec![Group::new("leader", 1, 0), Group::new("learner", 1, 8), Group::new("actor", 4, 1)],
        required: Some("rack".into()),
        ..Default::default()
    };
    let placement = place(&cluster, &gang).unwrap();
    let found: Vec<_> =
        placement.workers.iter().map(|w| (w.rank, w.group.as_str(), w.index, w.node.as_str())).collect();
    assert_eq!(
        found,
        [
            (0, "leader", 0, "r0-n0"),
            (1, "learner", 0, "r0-n1"),
            (2, "actor", 0, "r0-n0"),
            (3, "actor", 1, "r0-n0"),
            (4, "actor", 2, "r0-n0"),
            (5, "actor", 3, "r0-n0"),
        ]
    );
}

#[test]
fn a_preferred_level_is_kept_where_possible_and_said_where_not() {
    let cluster = racks_of_h100(2, 2);
    let mut gang = gang(2, 8, None);
    gang.preferred = Some("rack".into());
    let placement = place(&cluster, &gang).unwrap();
    assert_eq!(placement.preferred, Some(("rack".into(), true)));
    gang.groups[0].replicas = 3;
    let placement = place(&cluster, &gang).unwrap();
    assert_eq!(placement.preferred, Some(("rack".into(), false)));
    assert!(
        placement.to_string().ends_with("; not all in one rack, though preferred: none has the room"),
        "{placement}"
    );
}

#[test]
fn a_snapshot_answers_what_if_and_leaves_the_cluster_alone() {
    let mut cluster = racks_of_h100(1, 2);
    let first = place(&cluster, &gang(1, 8, None)).unwrap();
    plan(&mut cluster, "job", &first);
    assert!(place(&cluster, &gang(2, 8, None)).is_err());
    let mut without = cluster.clone();
    without.release(&"job-worker-0".into());
    assert!(place(&without, &gang(2, 8, None)).is_ok(), "if the job ended");
    assert!(place(&cluster, &gang(2, 8, None)).is_err(), "but it has not");
}

#[test]
fn mig_slices_and_whole_gpus_are_kept_apart() {
    let mut cluster = zones_and_racks();
    let slices = (0..4).map(|i| Gpu {
        pci_bus_id: format!("00000000:0{}:00.0", i / 2).into(),
        mig_profile: Some("3g.40gb".into()),
        ..machines::gpu("m", i, Some(0))
    });
    let node = Node::new(NodeFacts { name: "m".into(), gpus: slices.collect(), ..Default::default() }).unwrap();
    cluster.upsert(member(node, &[("rack", "r")]));
    cluster.upsert(member(nvswitch8("w", 18), &[("rack", "r")]));
    let mut gang = gang(1, 2, None);
    assert_eq!(nodes(&place(&cluster, &gang).unwrap()), ["w"]);
    gang.groups[0].mig_profile = Some("3g.40gb".into());
    let placement = place(&cluster, &gang).unwrap();
    assert_eq!(gpus(&placement, 0), ["GPU-m-0", "GPU-m-1"], "two slices of one GPU");
    gang.groups[0].mig_profile = Some("1g.10gb".into());
    let why = place(&cluster, &gang).unwrap_err().to_string();
    assert_eq!(
        why,
        "needs 1 worker × 2 GPUs (1g.10gb slices); no node has room for any; excluded: 2 nodes: wrong product \
         (NVIDIA H100 80GB HBM3 in 3g.40gb slices)"
    );
}

#[test]
fn the_smallest_addition_names_the_rack_and_the_number() {
    let mut cluster = racks_of_h100(2, 2);
    let any: Eligibility<'_> = &|_, _| Ok(());
    let model = member(nvswitch8("model", 18), &[("zone", "z"), ("rack", "new")]);
    let two = smallest_addition(&cluster, &gang(2, 8, Some("rack")), any, &model).unwrap();
    assert_eq!(two.nodes, 0, "there is room already");
    let held = (0..8).map(|i| format!("GPU-r0-n0-{i}").into()).collect();
    cluster.claim(&"r0-n0".into(), "x".into(), Claim { gpus: held, ..Default::default() });
    let four = smallest_addition(&cluster, &gang(4, 8, Some("rack")), any, &model).unwrap();
    assert_eq!((four.nodes, four.member.labels["rack"].as_str()), (2, "r1"), "r0 would need three, a new rack four");
    assert_eq!(nodes(&four.placement), ["added-node-0", "added-node-1", "r1-n0", "r1-n1"]);
    let free = smallest_addition(&cluster, &gang(4, 8, None), any, &model).unwrap();
    assert_eq!(free.nodes, 1);
    let small = member(bridged("model", 4), &[("zone", "z"), ("rack", "new")]);
    let why = smallest_addition(&cluster, &gang(4, 8, Some("rack")), any, &small).unwrap_err().to_string();
    assert!(why.contains("too few GPUs (4 of 8)"), "{why}");
    assert!(place(&cluster.emptied(), &gang(4, 8, None)).is_ok(), "it would fit on the empty cluster");
}

#[test]
fn a_gang_over_many_racks_uses_the_fewest_and_stays_by_itself_when_it_grows() {
    let mut cluster = racks_of_h100(12, 8);
    // Every second rack has one node less to give.
    for rack in (0..12).step_by(2) {
        let node = format!("r{rack}-n0");
        let gpus = (0..8).map(|i| format!("GPU-{node}-{i}").into()).collect();
        cluster.claim(&node.as_str().into(), node.as_str().into(), Claim { gpus, ..Default::default() });
    }
    let mut gang = gang(300, 1, None);
    let placement = place(&cluster, &gang).unwrap();
    let term = |placement: &Placement, name: &str| placement.terms.iter().find(|t| t.name == name).unwrap().value;
    assert_eq!(term(&placement, "racks used"), 5, "four racks of 64 and one more");
    assert_eq!(term(&placement, "hosts used"), 38);
    let distinct: std::collections::BTreeSet<_> = placement.workers.iter().flat_map(|w| &w.gpus).collect();
    assert_eq!(distinct.len(), 300);
    // Four more workers find room on the node that the gang has not filled.
    plan(&mut cluster, "job", &placement);
    gang.placed = placement
        .workers
        .iter()
        .map(|w| Placed { group: w.group.clone(), index: w.index, node: w.node.clone() })
        .collect();
    gang.groups[0].replicas = 304;
    let more = place(&cluster, &gang).unwrap();
    assert_eq!(term(&more, "hosts used"), 0, "{}", more.tree());
    assert_eq!(more.workers.iter().map(|w| w.rank).collect::<Vec<_>>(), [300, 301, 302, 303]);
}
