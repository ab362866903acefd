//! Who moves, worked by hand: where all sets cannot be tried, where gangs stand in each other's way, and what is claimed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod machines;

use std::collections::BTreeSet;

use machines::{anyone, bridged, every_node, gang, member, node, nvswitch8, pcie, racks_of_h100, zones_and_racks};
use weft_topology::what_if::{NoAddition, defragment, place_on_empty, replace, smallest_addition};
use weft_topology::*;

fn gpus_of(node: &str, gpus: &[u32]) -> Vec<GpuUuid> {
    gpus.iter().map(|gpu| format!("GPU-{node}-{gpu}").into()).collect()
}

/// A job whose workers hold these GPUs of these nodes.
fn hold(cluster: &mut Cluster, name: &str, required: Option<&str>, workers: &[(&str, &[u32])]) -> Running {
    let mut gang = gang(workers.len() as u32, workers[0].1.len() as u32, required);
    let mut owners = Vec::new();
    for (index, (node, gpus)) in workers.iter().enumerate() {
        let owner = Owner::from(format!("{name}-{index}"));
        cluster.claim(&(*node).into(), owner.clone(), Claim { gpus: gpus_of(node, gpus), ..Default::default() });
        gang.placed.push(Placed { group: "worker".into(), index: index as u32, node: (*node).into() });
        owners.push(owner);
    }
    Running { name: name.to_owned(), gang, owners, fixed: false }
}

/// GPUs of a node that nobody can move.
fn block(cluster: &mut Cluster, node: &str, gpus: &[u32]) {
    let claim = Claim { gpus: gpus_of(node, gpus), ..Default::default() };
    cluster.claim(&node.into(), format!("blocked-{node}").as_str().into(), claim);
}

/// Nodes of eight GPUs in one rack, on the first as many one-GPU jobs as have to move, on the others up to four each, which
/// make no room.
fn crowded(jobs: usize, on_first: usize) -> (Cluster, Vec<Running>) {
    let mut cluster = zones_and_racks();
    let mut all = Vec::new();
    for job in 0..jobs {
        let (at, gpu) = if job < on_first { (0, job) } else { (1 + (job - on_first) / 4, (job - on_first) % 4) };
        let name = format!("n{at:02}");
        if gpu == 0 {
            cluster.upsert(member(nvswitch8(&name, 18), &[("zone", "z"), ("rack", "r")]));
            if at > 0 {
                block(&mut cluster, &name, &[7]);
            }
        }
        all.push(hold(&mut cluster, &format!("job{job:02}"), None, &[(name.as_str(), &[gpu as u32])]));
    }
    (cluster, all)
}

#[test]
fn that_no_fewer_jobs_move_is_claimed_only_as_far_as_all_smaller_sets_were_tried() {
    // Of 62 jobs there are 1,953 sets of one and two, of 63 there are 2,016.
    for (jobs, on_first, fewest) in [(62, 3, true), (63, 3, false), (63, 2, true)] {
        let (cluster, running) = crowded(jobs, on_first);
        let plan = defragment(&cluster, &running, &gang(1, 8, None), &anyone).unwrap();
        assert_eq!((plan.moves.len(), plan.fewest), (on_first, fewest), "of {jobs}: {plan}");
        assert!(plan.moves.iter().all(|one| one.from == "n00".into() && one.to != "n00".into()));
    }
}

#[test]
fn of_equally_many_movers_those_with_the_fewest_gpus_go() {
    for unidentified in [0, 2] {
        let mut cluster = zones_and_racks();
        // The waiting gang would be better off on n1.
        for machine in [pcie("n0", 8), nvswitch8("n1", 18), nvswitch8("n2", 18)] {
            cluster.upsert(member(machine, &[("zone", "z"), ("rack", "r")]));
        }
        block(&mut cluster, "n2", &[0, 1]);
        let mut jobs = vec![
            hold(&mut cluster, "two", None, &[("n0", &[0, 1])]),
            hold(&mut cluster, "three", None, &[("n1", &[0, 1, 2])]),
        ];
        if unidentified > 0 {
            // Of the smaller one it is not known which GPUs it has.
            let claim = Claim { unidentified_gpus: unidentified, ..Default::default() };
            cluster.claim(&"n0".into(), jobs[0].owners[0].clone(), claim);
        }
        for _ in 0..2 {
            let plan = defragment(&cluster, &jobs, &gang(1, 8, None), &anyone).unwrap();
            assert_eq!((plan.moves.len(), plan.moves[0].job.as_str()), (1, "two"), "{plan}");
            jobs.reverse();
        }
    }
}

#[test]
fn jobs_move_that_have_a_place_where_those_that_make_room_have_none() {
    for (fillers, found) in [(0, true), (61, true), (62, false)] {
        let mut cluster = zones_and_racks();
        for name in ["n0", "n1", "n2"] {
            cluster.upsert(member(nvswitch8(name, 18), &[("zone", "z"), ("rack", "r")]));
        }
        // The large one could make room by itself and has nowhere to go; the two small ones have.
        let mut jobs = vec![
            hold(&mut cluster, "large", None, &[("n0", &[0, 1, 2, 3, 4, 5, 6])]),
            hold(&mut cluster, "a", None, &[("n1", &[0])]),
            hold(&mut cluster, "b", None, &[("n1", &[1])]),
        ];
        block(&mut cluster, "n2", &[0, 1, 2, 3, 4, 5]);
        for filler in 0..fillers {
            let name = format!("x{filler:02}");
            cluster.upsert(member(pcie(&name, 2), &[("zone", "z"), ("rack", "s")]));
            block(&mut cluster, &name, &[1]);
            jobs.push(hold(&mut cluster, &name, None, &[(name.as_str(), &[0])]));
        }
        let plan = defragment(&cluster, &jobs, &gang(1, 8, None), &anyone);
        if found {
            let plan = plan.unwrap();
            let movers: BTreeSet<&str> = plan.moves.iter().map(|one| one.job.as_str()).collect();
            assert_eq!((movers, plan.fewest), (BTreeSet::from(["a", "b"]), true), "{plan}");
        } else {
            // Of more than 64 that is not looked for, and there are too many sets of two.
            let Err(NoPlacement::NoRoom(why)) = plan else { panic!("{plan:?}") };
            assert!(!why.proven && why.to_string().ends_with("; not proven impossible, the search gave up"), "{why}");
        }
    }
}

#[test]
fn a_plan_names_where_the_very_worker_was_and_counts_what_is_idle_then() {
    // Two whole nodes of one rack are wanted. The second worker of a job keeps r0 from having them.
    let mut cluster = racks_of_h100(3, 2);
    block(&mut cluster, "r2-n0", &[0]);
    block(&mut cluster, "r2-n1", &[0, 1, 2, 3, 4, 5, 6, 7]);
    block(&mut cluster, "r1-n1", &[0, 1, 2, 3, 4, 5, 6, 7]);
    let job = hold(&mut cluster, "job", None, &[("r2-n0", &[1, 2, 3, 4, 5]), ("r0-n1", &[0, 1, 2, 3, 4])]);
    let plan = defragment(&cluster, &[job], &gang(2, 8, Some("rack")), &anyone).unwrap();
    let moves: Vec<_> = plan.moves.iter().map(|one| (one.index, one.from.as_str(), one.to.as_str())).collect();
    assert_eq!(moves, [(1, "r0-n1", "r1-n0")], "{plan}");
    assert_eq!((plan.gpus_moved, plan.gpus_started), (5, 16));
    let gains: Vec<_> = plan.gains.iter().map(|gain| (gain.level.as_str(), gain.before, gain.after)).collect();
    assert_eq!(gains, [("zone", 0, 0), ("rack", 0, 1), ("host", 2, 2)]);
}

#[test]
fn a_mover_does_not_go_where_the_waiting_gang_takes_the_cores() {
    let mut cluster = zones_and_racks();
    for name in ["n0", "n1"] {
        cluster.upsert(member(nvswitch8(name, 18), &[("zone", "z"), ("rack", "r")]));
    }
    let cores = |cores: u64| Resources::new().with("cpu", cores * 1_000);
    let mut job = hold(&mut cluster, "job", None, &[("n0", &[0])]);
    job.gang.groups[0].resources = cores(10);
    let claim = Claim { gpus: gpus_of("n0", &[0]), resources: cores(10), ..Default::default() };
    cluster.claim(&"n0".into(), job.owners[0].clone(), claim);
    cluster.claim(&"n1".into(), "other".into(), Claim { resources: cores(40), ..Default::default() });
    let mut waiting = gang(1, 6, None);
    // A group of another name first, on a node of its own, so that the right one has to be found.
    cluster.upsert(member(nvswitch8("n2", 18), &[("zone", "z"), ("rack", "r")]));
    block(&mut cluster, "n1", &[7]);
    waiting.groups.insert(0, Group::new("first", 1, 8));
    waiting.groups[1].resources = cores(60);
    let plan = defragment(&cluster, &[job], &waiting, &anyone).unwrap();
    let moves: Vec<_> = plan.moves.iter().map(|one| (one.from.as_str(), one.to.as_str())).collect();
    assert_eq!(moves, [("n0", "n1")], "on n0 are four cores left: {plan}");
}

#[test]
fn a_waiting_gang_and_a_mover_are_placed_at_once_where_one_after_the_other_fails() {
    let mut cluster = zones_and_racks();
    for (name, rack) in [("a", "r0"), ("b", "r0"), ("c", "r1"), ("d", "r0")] {
        cluster.upsert(member(pcie(name, 4), &[("zone", "z"), ("rack", rack)]));
    }
    block(&mut cluster, "a", &[3]);
    block(&mut cluster, "b", &[0, 1, 2]);
    block(&mut cluster, "c", &[0, 1, 2]);
    block(&mut cluster, "d", &[0, 1, 2]);
    // The job is bound to rack r0 by the worker that stays. The waiting gang would rather be in r0 as a whole.
    let job = hold(&mut cluster, "job", Some("rack"), &[("d", &[3]), ("a", &[0])]);
    for required in [None, Some("zone")] {
        let groups = vec![Group::new("large", 1, 3), Group::new("small", 1, 1)];
        let waiting = Gang { groups, required: required.map(Level::from), ..Default::default() };
        let asked = |running: Option<&Running>, group: &Group, node: &NodeName| {
            // It is asked about each group under its own name.
            assert_eq!(running.is_some(), group.name == "worker", "{}", group.name);
            if group.name == "small" && node.as_str() == "d" {
                return Err(Exclusion::Selector { detail: "x=y".into() });
            }
            Ok(())
        };
        let plan = defragment(&cluster, std::slice::from_ref(&job), &waiting, &asked).unwrap();
        let moves: Vec<_> =
            plan.moves.iter().map(|one| (one.group.as_str(), one.from.as_str(), one.to.as_str())).collect();
        assert_eq!(moves, [("worker", "a", "b")], "{plan}");
        assert_eq!(plan.moves[0].gpus, gpus_of("b", &[3]));
        let nodes: Vec<_> = plan.placement.workers.iter().map(|worker| worker.node.as_str()).collect();
        assert_eq!(nodes, ["a", "c"], "{plan}");
    }
}

#[test]
fn at_once_with_movers_a_waiting_gang_still_is_in_one_domain_of_its_level() {
    let mut cluster = zones_and_racks();
    for (name, rack) in [("a", "r0"), ("b", "r0"), ("c", "r1"), ("d", "r0"), ("e", "r0")] {
        cluster.upsert(member(pcie(name, 4), &[("zone", "z"), ("rack", rack)]));
    }
    block(&mut cluster, "a", &[3]);
    ["b", "c", "d", "e"].iter().for_each(|name| block(&mut cluster, name, &[0, 1, 2]));
    let first = hold(&mut cluster, "first", None, &[("a", &[0])]);
    // It would rather stay in r0, where its other worker is; but for that, the waiting gang would have to be in two racks.
    let mut second = hold(&mut cluster, "second", None, &[("d", &[3]), ("e", &[3])]);
    second.gang.groups[0].preferred = Some("rack".into());
    let groups = vec![Group::new("large", 1, 3), Group::new("small", 1, 1)];
    let waiting = Gang { groups, required: Some("rack".into()), ..Default::default() };
    let asked = |running: Option<&Running>, group: &Group, node: &NodeName| {
        let job = running.map_or(group.name.as_str(), |running| running.name.as_str());
        // The waiting gang takes b first, and there is no other place for the first job.
        match (job, node.as_str()) {
            ("first", "b") | ("second", _) | ("large", _) => Ok(()),
            ("small", node) if node != "d" => Ok(()),
            _ => Err(Exclusion::Selector { detail: "x=y".into() }),
        }
    };
    let plan = defragment(&cluster, &[first, second], &waiting, &asked).unwrap();
    let moves: Vec<_> = plan.moves.iter().map(|one| (one.job.as_str(), one.from.as_str(), one.to.as_str())).collect();
    assert_eq!(moves, [("first", "a", "b"), ("second", "e", "c")], "{plan}");
    let nodes: Vec<_> = plan.placement.workers.iter().map(|worker| worker.node.as_str()).collect();
    assert_eq!((nodes, plan.fewest), (vec!["a", "e"], true), "{plan}");
}

#[test]
fn at_once_with_a_mover_a_waiting_gang_does_not_go_where_that_one_takes_the_cores() {
    let mut cluster = zones_and_racks();
    for name in ["a", "b", "e"] {
        cluster.upsert(member(pcie(name, 4), &[("zone", "z"), ("rack", "r")]));
    }
    block(&mut cluster, "a", &[3]);
    block(&mut cluster, "b", &[0, 1]);
    block(&mut cluster, "e", &[0, 1]);
    let cores = Resources::new().with("cpu", 40_000);
    let mut job = hold(&mut cluster, "job", None, &[("a", &[0])]);
    job.gang.groups[0].resources = cores.clone();
    let small = Group { resources: cores, ..Group::new("small", 1, 1) };
    let waiting = Gang { groups: vec![Group::new("large", 1, 3), small], ..Default::default() };
    // Only on b is the job let in, where the waiting gang would go first. There are GPUs for both on b, and cores for one.
    let asked = |running: Option<&Running>, _: &Group, node: &NodeName| match running.is_none() || node.as_str() == "b"
    {
        true => Ok(()),
        false => Err(Exclusion::Selector { detail: "x=y".into() }),
    };
    let plan = defragment(&cluster, &[job], &waiting, &asked).unwrap();
    assert_eq!((plan.moves.len(), plan.moves[0].to.as_str()), (1, "b"), "{plan}");
    let nodes: Vec<_> = plan.placement.workers.iter().map(|worker| worker.node.as_str()).collect();
    assert_eq!(nodes, ["a", "e"], "{plan}");
}

/// NVLink is looked for on nodes of more GPUs than are tabled, so that a failure proves nothing.
fn beyond_the_tables() -> (Cluster, Gang) {
    let mut cluster = zones_and_racks();
    let far = node("far", 18, |_, _| Wire::over(Path::CrossSocket));
    cluster.upsert(member(far, &[("zone", "z"), ("rack", "r0")]));
    let mut waiting = gang(1, 4, None);
    waiting.groups[0].joined_by = Some(Joined::Nvlink);
    (cluster, waiting)
}

#[test]
fn nothing_is_proven_by_attempts_that_proved_nothing() {
    let (mut cluster, waiting) = beyond_the_tables();
    let model = member(nvswitch8("model", 18), &[("zone", "z"), ("rack", "r0")]);
    let added = smallest_addition(&cluster, &waiting, &every_node, &model).unwrap();
    assert_eq!((added.nodes, added.fewest), (1, false));
    for name in ["n0", "n1"] {
        cluster
            .upsert(member(node(name, 4, |_, _| Wire::nvswitch(18, Path::SameNuma)), &[("zone", "z"), ("rack", "r0")]));
    }
    let jobs = [
        hold(&mut cluster, "a", None, &[("n0", &[0, 1])]),
        hold(&mut cluster, "b", None, &[("n1", &[0])]),
        hold(&mut cluster, "c", None, &[("n1", &[1])]),
    ];
    let plan = defragment(&cluster, &jobs, &waiting, &anyone).unwrap();
    assert_eq!((plan.moves.len(), plan.fewest), (1, false), "{plan}");
}

#[test]
fn that_no_fewer_move_is_not_claimed_where_sets_were_refused_without_proof() {
    // Of two groups that need wires, nothing is proven once workers of both have no place; of one, it is.
    for smalls in [2, 3] {
        let mut cluster = zones_and_racks();
        for (name, gpus) in [("n0", 4), ("n1", 2), ("n2", 2), ("n3", 2)] {
            let machine = node(name, gpus, |_, _| Wire::nvswitch(18, Path::SameNuma));
            cluster.upsert(member(machine, &[("zone", "z"), ("rack", "r")]));
        }
        let at: [(&str, &[u32]); 3] = [("n0", &[0, 1]), ("n0", &[2, 3]), ("n3", &[0, 1])];
        let mut running = hold(&mut cluster, "job", None, &at[..smalls]);
        running.gang.groups.push(Group::new("large", 1, 4));
        running.gang.groups.iter_mut().for_each(|group| group.joined_by = Some(Joined::Nvlink));
        let Err(NoPlacement::NoRoom(why)) = place(&cluster, &running.gang) else { panic!("there is room") };
        assert!(why.proven, "with nobody moved it is one group");
        let moved = replace(&cluster, &running, &every_node).unwrap();
        let movers: Vec<u32> = moved.movers.iter().map(|mover| mover.index).collect();
        assert_eq!((movers, moved.fewest), (vec![0, 1], false), "{moved}");
    }
}

#[test]
fn the_fewest_movers_are_counted_where_their_sets_are_too_many_to_try() {
    // 66 small workers: of one and two there are 2,211 sets, and three have to go.
    let mut cluster = zones_and_racks();
    let groups = vec![Group::new("large", 1, 8), Group::new("small", 66, 1)];
    let mut running = Running { name: "job".into(), gang: Gang { groups, ..Default::default() }, ..Default::default() };
    for index in 0..66usize {
        let (at, gpu) = if index < 63 { (index / 4, index % 4) } else { (16, index - 63) };
        let name = format!("n{at:02}");
        if gpu == 0 {
            cluster.upsert(member(nvswitch8(&name, 18), &[("zone", "z"), ("rack", "r")]));
        }
        let owner = Owner::from(format!("small-{index}"));
        let claim = Claim { gpus: gpus_of(&name, &[gpu as u32]), ..Default::default() };
        cluster.claim(&name.as_str().into(), owner.clone(), claim);
        running.gang.placed.push(Placed { group: "small".into(), index: index as u32, node: name.as_str().into() });
        running.owners.push(owner);
    }
    let moved = replace(&cluster, &running, &every_node).unwrap();
    let movers: Vec<u32> = moved.movers.iter().map(|mover| mover.index).collect();
    assert!(movers == [60, 61, 62] || movers == [63, 64, 65], "{moved}");
    assert!(moved.fewest, "{moved}");
}

#[test]
fn of_workers_that_can_move_the_one_goes_that_leaves_the_best_place() {
    let near = |name: &str| node(name, 4, |_, _| Wire::nvswitch(18, Path::SameNuma));
    // A minimum keeps workers from being counted, so each set is tried.
    for (machines, moves) in
        [([near("a"), pcie("b", 4)], 0), ([pcie("a", 4), near("b")], 1), ([pcie("a", 4), pcie("b", 4)], 0)]
    {
        let mut cluster = zones_and_racks();
        cluster.upsert(member(pcie("c", 2), &[("zone", "z"), ("rack", "r")]));
        block(&mut cluster, "c", &[0]);
        for machine in machines {
            cluster.upsert(member(machine, &[("zone", "z"), ("rack", "r")]));
        }
        let groups = vec![Group::new("large", 1, 4), Group { min: Some(2), ..Group::new("small", 2, 1) }];
        let mut running =
            Running { name: "job".into(), gang: Gang { groups, ..Default::default() }, ..Default::default() };
        for (index, name) in ["a", "b"].into_iter().enumerate() {
            let owner = Owner::from(format!("small-{index}"));
            cluster.claim(&name.into(), owner.clone(), Claim { gpus: gpus_of(name, &[0]), ..Default::default() });
            running.gang.placed.push(Placed { group: "small".into(), index: index as u32, node: name.into() });
            running.owners.push(owner);
        }
        let moved = replace(&cluster, &running, &every_node).unwrap();
        assert_eq!((moved.movers.len(), moved.movers[0].index, moved.fewest), (1, moves, true), "{moved}");
    }
}

#[test]
fn the_only_worker_that_runs_moves_where_it_has_to() {
    let mut cluster = racks_of_h100(2, 2);
    let mut gang = gang(2, 8, None);
    gang.groups[0].slices = vec![Slice { level: "rack".into(), size: 2 }];
    gang.placed = vec![Placed { group: "worker".into(), index: 0, node: "r0-n0".into() }];
    cluster.claim(
        &"r0-n0".into(),
        "w0".into(),
        Claim { gpus: gpus_of("r0-n0", &[0, 1, 2, 3, 4, 5, 6, 7]), ..Default::default() },
    );
    block(&mut cluster, "r0-n1", &[0]);
    let running = Running { name: "job".into(), gang, owners: vec!["w0".into()], fixed: false };
    let moved = replace(&cluster, &running, &every_node).unwrap();
    assert_eq!((moved.movers.len(), moved.fewest), (1, true), "{moved}");
    assert!(moved.placement.workers.iter().all(|worker| worker.node.as_str().starts_with("r1")));
}

#[test]
fn on_an_empty_cluster_all_workers_are_placed_anew() {
    let mut cluster = racks_of_h100(1, 2);
    let mut two = gang(2, 8, None);
    two.placed = vec![Placed { group: "worker".into(), index: 0, node: "r0-n0".into() }];
    block(&mut cluster, "r0-n0", &[0, 1, 2, 3, 4, 5, 6, 7]);
    let placement = place_on_empty(&cluster, &two, &every_node).unwrap();
    assert_eq!(placement.workers.iter().map(|worker| worker.node.as_str()).collect::<Vec<_>>(), ["r0-n0", "r0-n1"]);
}

/// So many racks of H100 nodes that are all in use.
fn full(racks: u32, nodes: u32) -> Cluster {
    let mut cluster = racks_of_h100(racks, nodes);
    for rack in 0..racks {
        for n in 0..nodes {
            block(&mut cluster, &format!("r{rack}-n{n}"), &[0, 1, 2, 3, 4, 5, 6, 7]);
        }
    }
    cluster
}

fn added(cluster: &Cluster, gang: &Gang) -> Addition {
    let model = member(nvswitch8("model", 18), &[("zone", "z"), ("rack", "new")]);
    smallest_addition(cluster, gang, &every_node, &model).unwrap()
}

#[test]
fn as_many_nodes_are_added_as_workers_where_nothing_is_free() {
    let cluster = full(2, 1);
    for required in [None, Some("zone"), Some("rack")] {
        let found = added(&cluster, &gang(4, 8, required));
        assert_eq!((found.nodes, found.parts.len(), found.fewest), (4, 1, true), "{required:?}");
    }
    // The level of the node binds to no domain above it.
    let found = added(&cluster, &gang(2, 4, Some("host")));
    assert_eq!((found.nodes, found.level, found.fewest), (1, None, true));
    let mut sliced = gang(4, 4, None);
    sliced.groups[0].slices = vec![Slice { level: "host".into(), size: 2 }];
    let found = added(&cluster, &sliced);
    assert_eq!((found.nodes, found.level, found.fewest), (2, None, true));
    // Of those that run already none is added again.
    let mut begun = gang(3, 8, None);
    begun.placed = vec![Placed { group: "worker".into(), index: 0, node: "r0-n0".into() }];
    assert_eq!(added(&cluster, &begun).nodes, 2);
}

#[test]
fn one_domain_is_added_to_where_several_take_as_many_nodes() {
    let mut cluster = full(2, 1);
    cluster.upsert(member(nvswitch8("r0-n1", 18), &[("zone", "z"), ("rack", "r0")]));
    let mut sliced = gang(4, 8, None);
    sliced.groups[0].slices = vec![Slice { level: "rack".into(), size: 2 }];
    let found = added(&cluster, &sliced);
    let parts: Vec<_> = found.parts.iter().map(|part| (part.nodes, part.domain.as_ref().unwrap().as_str())).collect();
    assert_eq!((parts, found.fewest), (vec![(3, "r0")], true));
}

#[test]
fn that_no_fewer_nodes_do_is_claimed_only_as_far_as_all_spreads_were_tried() {
    let slices = |replicas: u32, size: u32, required: Option<&str>| {
        let mut gang = gang(replicas, 8, required);
        gang.groups[0].slices = vec![Slice { level: "rack".into(), size }];
        gang
    };
    // Two nodes are spread over 26 racks in 325 ways, more than are tried, over 21 in 210.
    let many = full(25, 1);
    assert_eq!((added(&many, &slices(4, 2, None)).nodes, added(&many, &slices(4, 2, None)).fewest), (4, false));
    let few = full(20, 2);
    let found = added(&few, &slices(3, 3, None));
    assert_eq!((found.nodes, found.fewest), (3, true), "racks count once, however many nodes they have");
    // Where all have to be in one rack there is nothing to spread.
    for gang in [gang(4, 8, Some("rack")), slices(4, 2, Some("rack"))] {
        let found = added(&many, &gang);
        assert_eq!((found.nodes, found.fewest), (4, true));
    }
}

#[test]
fn a_number_of_nodes_that_nobody_has_is_not_looked_for() {
    let cluster = full(2, 8);
    let model = member(nvswitch8("model", 18), &[("zone", "z"), ("rack", "new")]);
    let asked = |replicas: u32, gpus: u32, required: Option<&str>| {
        smallest_addition(&cluster, &gang(replicas, gpus, required), &every_node, &model)
    };
    let found = asked(4_000, 1, None).unwrap();
    assert_eq!((found.nodes, found.fewest), (500, true));
    assert_eq!(asked(320_000, 8, Some("rack")).unwrap_err(), NoAddition::TooMany("model".into()));
    // Five of eight GPUs are a worker's, so the GPUs would suffice and the nodes do not.
    let beyond = asked(10_001, 5, None).unwrap_err();
    assert_eq!(
        beyond.to_string(),
        "10000 more nodes like model do not make room, and more are not looked at: ask for fewer workers"
    );
    // A worker that such a node cannot take is the reason, however many workers there are.
    let why = asked(320_000, 16, None).unwrap_err().to_string();
    assert!(why.contains("too few GPUs (8 of 16)"), "{why}");
    let mut gang = gang(u32::MAX, 1, None);
    gang.groups.push(Group::new("second", u32::MAX, 1));
    let why = smallest_addition(&cluster, &gang, &every_node, &model).unwrap_err().to_string();
    assert_eq!(why, "8589934590 workers are wanted and a gang has at most 320000: ask for fewer replicas");
}

#[test]
fn many_nodes_are_imagined_in_few_domains_and_that_is_said() {
    let asked = gang(1_500, 8, Some("rack"));
    let found = added(&full(20, 1), &asked);
    assert_eq!((found.nodes, found.fewest), (1_500, true), "in 20 racks it takes 30,000 nodes to prove it");
    let found = added(&full(80, 1), &asked);
    assert_eq!((found.nodes, found.fewest), (1_500, false), "and in 80 more than 100,000");
}

#[test]
fn the_fewest_nodes_are_found_from_a_guess_that_is_too_high_or_too_low() {
    // What is free in the racks lets fewer do; whole slices and domains take more than the GPUs add up to.
    let mut cluster = full(1, 1);
    for n in 0..40 {
        cluster.upsert(member(nvswitch8(&format!("free{n}"), 18), &[("zone", "z"), ("rack", "r0")]));
    }
    let two = |first: u32, second: u32| Gang {
        groups: vec![Group::new("first", first, 8), Group::new("second", second, 5)],
        ..Default::default()
    };
    assert_eq!((added(&cluster, &two(40, 40)).nodes, added(&cluster, &two(90, 60)).nodes), (40, 110));
    let mut sliced = gang(60, 4, None);
    sliced.groups[0].slices = vec![Slice { level: "rack".into(), size: 60 }];
    block(&mut cluster, "free0", &[0, 1, 2, 3, 4, 5]);
    assert_eq!(added(&full(1, 1), &sliced).nodes, 30);
    let mut hosts = gang(60, 3, None);
    hosts.groups[0].balanced = Some(Balance { level: "host".into(), most: Some(1) });
    assert_eq!((added(&full(1, 1), &hosts).nodes, added(&cluster, &hosts).nodes), (60, 21));
}

#[test]
fn small_machines_are_told_apart_from_the_model_that_is_added() {
    let mut cluster = zones_and_racks();
    cluster.upsert(member(bridged("small", 4), &[("zone", "z"), ("rack", "r0")]));
    // A node without a rack is no rack to add to.
    cluster.upsert(member(bridged("alone", 4), &[("zone", "z")]));
    let found = added(&cluster, &gang(1, 8, Some("rack")));
    assert_eq!((found.nodes, found.parts[0].domain.clone()), (1, Some("new".into())), "the model's own rack first");
}
