//! Questions about clusters that are not there: who moves, who goes, what to add.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod brute;
mod machines;

use std::collections::BTreeSet;

use brute::world::{World, check_relations};
use brute::{check, clusters, domains};
use machines::{anyone, bridged, every_node, gang, member, nvswitch8, pcie, racks_of_h100, zones_and_racks};
use proptest::prelude::*;
use weft_topology::what_if::{
    NoShrinking, defragment, place_on_empty, place_without, replace, shrink, smallest_addition,
};
use weft_topology::*;

/// Places a gang, claims what it gets, and hands back the job.
fn start(cluster: &mut Cluster, name: &str, gang: &Gang) -> Option<Running> {
    let placement = place(cluster, gang).ok()?;
    let owner = |worker: &Worker| Owner::from(format!("{name}-{}-{}", worker.group, worker.index));
    let running = Running::started(name, gang, &placement, owner);
    for worker in &placement.workers {
        let group = gang.groups.iter().find(|group| group.name == worker.group).unwrap();
        let claim = Claim { gpus: worker.gpus.clone(), resources: group.resources.clone(), ..Default::default() };
        cluster.claim(&worker.node, owner(worker), claim);
    }
    Some(running)
}

/// A job whose worker holds these GPUs of a node.
fn hold(cluster: &mut Cluster, name: &str, node: &str, gpus: &[u32]) -> Running {
    let owner = Owner::from(name);
    let claim =
        Claim { gpus: gpus.iter().map(|gpu| format!("GPU-{node}-{gpu}").into()).collect(), ..Default::default() };
    cluster.claim(&node.into(), owner.clone(), claim);
    let mut gang = gang(1, gpus.len() as u32, None);
    gang.placed.push(Placed { group: "worker".into(), index: 0, node: node.into() });
    Running { name: name.to_owned(), gang, owners: vec![owner], fixed: false }
}

/// The worker fails: it holds nothing and has no place.
fn fail(cluster: &mut Cluster, running: &mut Running, at: usize) {
    running.gang.placed.remove(at);
    let owner = running.owners.remove(at);
    cluster.release(&owner);
}

fn without(running: &Running, movers: &[usize]) -> Gang {
    let mut gang = running.gang.clone();
    gang.placed = gang.placed.into_iter().enumerate().filter(|(at, _)| !movers.contains(at)).map(|(_, p)| p).collect();
    gang
}

fn subsets(count: usize, size: usize) -> Vec<Vec<usize>> {
    let all = (0u32..1 << count).filter(|bits| bits.count_ones() as usize == size);
    all.map(|bits| (0..count).filter(|at| bits >> at & 1 == 1).collect()).collect()
}

#[test]
fn a_worker_moves_only_where_nothing_else_helps_and_then_as_few_as_can() {
    // Rack r0 has three whole nodes, r1 four. The gang of three sits in r0 and loses a node there.
    let mut cluster = racks_of_h100(2, 4);
    cluster.remove(&"r0-n3".into());
    let mut running = start(&mut cluster, "job", &gang(3, 8, Some("rack"))).unwrap();
    assert!(running.gang.placed.iter().all(|placed| placed.node.as_str().starts_with("r0")));
    fail(&mut cluster, &mut running, 1);
    let stay = replace(&cluster, &running, &every_node).unwrap();
    assert!(stay.movers.is_empty() && stay.fewest);
    assert!(stay.to_string().ends_with("; nobody else moves"), "{stay}");
    cluster.remove(&"r0-n1".into());
    assert!(place(&cluster, &running.gang).is_err(), "r0 has no room for the third");
    let moved = replace(&cluster, &running, &every_node).unwrap();
    assert_eq!(moved.movers, running.gang.placed, "so the others go with it");
    assert!(moved.fewest);
    let nodes: Vec<&str> = moved.placement.workers.iter().map(|worker| worker.node.as_str()).collect();
    assert_eq!(nodes, ["r1-n0", "r1-n1", "r1-n2"]);
    assert!(
        moved.to_string().ends_with("; for want of room worker-0 of r0-n0, worker-2 of r0-n2 move, the fewest that do"),
        "{moved}"
    );
}

/// Racks of as many one-GPU seats as a slice has workers, one more free than there are slices, and one worker failed.
fn sliced_job(slices: u32, size: u32) -> (Cluster, Running) {
    let mut cluster = zones_and_racks();
    for rack in 0..=slices {
        let name = format!("r{rack}");
        cluster.upsert(member(pcie(&format!("n{rack:02}"), size), &[("zone", "z"), ("rack", name.as_str())]));
    }
    let mut sliced = gang(slices * size, 1, None);
    sliced.groups[0].slices = vec![Slice { level: "rack".into(), size }];
    let mut running = start(&mut cluster, "job", &sliced).unwrap();
    // Its GPU goes to somebody else, so its slice has to leave.
    let lost = running.gang.placed[0].node.clone();
    fail(&mut cluster, &mut running, 0);
    let free = cluster.node(&lost).unwrap().free().lowest().unwrap();
    let claim = Claim { gpus: vec![format!("GPU-{lost}-{free}").into()], ..Default::default() };
    cluster.claim(&lost, "somebody".into(), claim);
    (cluster, running)
}

#[test]
fn that_nobody_can_stay_of_a_slice_is_proven_by_trying() {
    let (cluster, running) = sliced_job(1, 4);
    let moved = replace(&cluster, &running, &every_node).unwrap();
    assert_eq!((moved.movers.len(), moved.fewest), (3, true), "{moved}");
}

#[test]
fn the_fewest_movers_are_claimed_only_as_far_as_all_smaller_sets_were_tried() {
    // Of 65 and 63 workers all sets of one are tried, of 59 those of two, too.
    for (slices, size, fewest) in [(22, 3, true), (15, 4, true), (16, 4, false)] {
        let (cluster, running) = sliced_job(slices, size);
        let moved = replace(&cluster, &running, &every_node).unwrap();
        assert_eq!(moved.movers.len() as u32, size - 1, "the others stay: {moved}");
        assert!(moved.movers.iter().all(|mover| mover.index < size));
        assert_eq!(moved.fewest, fewest, "{moved}");
    }
}

#[test]
fn one_small_worker_makes_way_for_a_large_one_of_its_own_gang() {
    let mut cluster = zones_and_racks();
    for name in ["a", "b"] {
        cluster.upsert(member(bridged(name, 4), &[("zone", "z"), ("rack", "r")]));
    }
    let groups = vec![Group::new("large", 1, 4), Group::new("small", 2, 1)];
    let mut gang = Gang { groups, ..Default::default() };
    let small = |index, node: &str| Placed { group: "small".into(), index, node: node.into() };
    gang.placed = vec![small(0, "a"), small(1, "b")];
    let owners: Vec<Owner> = vec!["s0".into(), "s1".into()];
    for (owner, node) in owners.iter().zip(["a", "b"]) {
        let claim = Claim { gpus: vec![format!("GPU-{node}-0").into()], ..Default::default() };
        cluster.claim(&node.into(), owner.clone(), claim);
    }
    let running = Running { name: "job".into(), gang, owners, fixed: false };
    let moved = replace(&cluster, &running, &every_node).unwrap();
    assert_eq!(moved.movers.len(), 1);
    assert!(moved.fewest);
    // The joint search keeps whichever comes first; what counts is that one stays.
    let nodes: BTreeSet<&str> = moved.placement.workers.iter().map(|worker| worker.node.as_str()).collect();
    assert_eq!(nodes.len(), 2, "{}", moved.placement.tree());
}

#[test]
fn the_node_with_fewer_small_workers_is_emptied_for_a_large_one() {
    let mut cluster = zones_and_racks();
    let mut gang = Gang { groups: vec![Group::new("large", 1, 4), Group::new("small", 3, 1)], ..Default::default() };
    let mut owners: Vec<Owner> = Vec::new();
    for (index, (node, gpu)) in [("a", 0), ("a", 1), ("b", 0)].into_iter().enumerate() {
        if gpu == 0 {
            cluster.upsert(member(bridged(node, 4), &[("zone", "z"), ("rack", "r")]));
        }
        gang.placed.push(Placed { group: "small".into(), index: index as u32, node: node.into() });
        owners.push(format!("s{index}").into());
        let claim = Claim { gpus: vec![format!("GPU-{node}-{gpu}").into()], ..Default::default() };
        cluster.claim(&node.into(), owners[index].clone(), claim);
    }
    let mut running = Running { name: "job".into(), gang, owners, fixed: false };
    let moved = replace(&cluster, &running, &every_node).unwrap();
    assert_eq!(moved.movers, [Placed { group: "small".into(), index: 2, node: "b".into() }]);
    assert!(moved.fewest);
    // One that runs on a cordoned node stays there, though no new one could go there.
    let mut cordoned = member(bridged("c", 4), &[("zone", "z"), ("rack", "r")]);
    cordoned.standing = Standing::Cordoned;
    cluster.upsert(cordoned);
    cluster.claim(&"c".into(), "s3".into(), Claim { gpus: vec!["GPU-c-0".into()], ..Default::default() });
    running.gang.groups[1].replicas = 4;
    running.gang.placed.push(Placed { group: "small".into(), index: 3, node: "c".into() });
    running.owners.push("s3".into());
    let moved = replace(&cluster, &running, &every_node).unwrap();
    assert_eq!(moved.movers, [Placed { group: "small".into(), index: 2, node: "b".into() }]);
}

#[test]
fn shrinking_frees_whole_nodes_and_racks_and_keeps_slices() {
    let mut cluster = racks_of_h100(2, 2);
    // 5 workers of 4 GPUs: two on each node of r0, one in r1.
    let running = start(&mut cluster, "job", &gang(5, 4, None)).unwrap();
    let shrunk = shrink(&cluster, &running, "worker", 1).unwrap();
    assert!(shrunk.exact);
    assert_eq!(shrunk.given_up.iter().map(|p| (p.index, p.node.as_str())).collect::<Vec<_>>(), [(4, "r1-n0")]);
    assert_eq!(shrunk.to_string(), "gives up worker-4 on r1-n0; the rest: zones used 1, racks used 1, hosts used 2");
    let shrunk = shrink(&cluster, &running, "worker", 2).unwrap();
    assert_eq!(shrunk.given_up.iter().map(|p| p.index).collect::<Vec<_>>(), [3, 4], "then the last of a broken node");
    let shrunk = shrink(&cluster, &running, "worker", 3).unwrap();
    assert_eq!(shrunk.given_up.iter().map(|p| p.index).collect::<Vec<_>>(), [2, 3, 4], "then the whole node");
    let error = shrink(&cluster, &running, "worker", 5).unwrap_err();
    assert_eq!(error.to_string(), "group \"worker\" of job job has 5 workers and needs 1: give up 4 at most");
    assert!(matches!(shrink(&cluster, &running, "x", 1), Err(NoShrinking::UnknownGroup { .. })));

    let mut cluster = racks_of_h100(3, 2);
    let mut sliced = gang(6, 8, None);
    sliced.groups[0].slices = vec![Slice { level: "rack".into(), size: 2 }];
    let running = start(&mut cluster, "job", &sliced).unwrap();
    let error = shrink(&cluster, &running, "worker", 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "group \"worker\" of job job shrinks by whole slices of 2 workers and not by 1: give up a multiple"
    );
    let shrunk = shrink(&cluster, &running, "worker", 2).unwrap();
    assert_eq!(shrunk.given_up.iter().map(|p| p.index).collect::<Vec<_>>(), [4, 5]);
}

#[test]
fn shrinking_a_large_gang_says_that_it_was_not_through() {
    let mut cluster = racks_of_h100(8, 8);
    let running = start(&mut cluster, "job", &gang(60, 8, None)).unwrap();
    let shrunk = shrink(&cluster, &running, "worker", 4).unwrap();
    let racks: BTreeSet<&str> = shrunk.given_up.iter().map(|placed| &placed.node.as_str()[..2]).collect();
    assert_eq!(racks.len(), 1, "the rack that is half full is left: {shrunk}");
    assert!(!shrunk.exact);
    assert!(shrunk.to_string().ends_with("; not proven best"));
}

#[test]
fn the_fewest_workers_move_so_that_a_waiting_gang_fits() {
    let mut cluster = zones_and_racks();
    for name in ["n0", "n1", "n2"] {
        cluster.upsert(member(nvswitch8(name, 18), &[("zone", "z"), ("rack", "r")]));
    }
    let jobs = vec![
        hold(&mut cluster, "a", "n0", &[0]),
        hold(&mut cluster, "b", "n0", &[1]),
        hold(&mut cluster, "c", "n1", &[0, 1]),
        hold(&mut cluster, "d", "n2", &[0]),
        hold(&mut cluster, "e", "n2", &[1, 2, 3]),
    ];
    let waiting = gang(1, 8, None);
    assert!(place(&cluster, &waiting).is_err());
    let plan = defragment(&cluster, &jobs, &waiting, &anyone).unwrap();
    assert_eq!(plan.moves.len(), 1, "{plan}");
    assert_eq!((plan.moves[0].job.as_str(), plan.moves[0].from.as_str()), ("c", "n1"));
    assert_eq!((plan.gpus_moved, plan.gpus_started, plan.fewest), (2, 8, true));
    assert_eq!(plan.placement.workers[0].node, "n1".into());
    let hosts = plan.gains.last().unwrap();
    assert_eq!((hosts.level.as_str(), hosts.before, hosts.after), ("host", 0, 1));
    assert!(
        plan.to_string().starts_with("moving c worker-0 from n1 to n2 (2 GPUs) starts 8 GPUs: 1 worker × 8 GPUs on n1"),
        "{plan}"
    );
    // Fixed jobs stay: then the two of n0 move.
    let mut jobs = jobs;
    jobs[2].fixed = true;
    let plan = defragment(&cluster, &jobs, &waiting, &anyone).unwrap();
    let movers: BTreeSet<&str> = plan.moves.iter().map(|one| one.job.as_str()).collect();
    assert_eq!((movers, plan.fewest), (BTreeSet::from(["a", "b"]), true));
    // Two whole nodes cannot be had: ten GPUs are in use, and nothing says otherwise.
    let why = defragment(&cluster, &jobs, &gang(3, 8, None), &anyone).unwrap_err();
    assert!(why.to_string().contains("GPUs taken"), "{why}");
    // Nothing has to move where there is room.
    let plan = defragment(&cluster, &jobs, &gang(1, 4, None), &anyone).unwrap();
    assert!(plan.moves.is_empty() && plan.to_string().starts_with("nothing has to move: "));
}

#[test]
fn ended_jobs_and_an_empty_cluster_are_only_imagined() {
    let mut cluster = racks_of_h100(1, 2);
    let running = start(&mut cluster, "job", &gang(1, 8, None)).unwrap();
    let two = gang(2, 8, None);
    assert!(place(&cluster, &two).is_err());
    assert!(place_without(&cluster, &two, &every_node, &running.owners).is_ok(), "if the job ended");
    assert!(place_on_empty(&cluster, &two, &every_node).is_ok());
    let why = place_on_empty(&cluster, &gang(3, 8, None), &every_node).unwrap_err().to_string();
    assert_eq!(why, "needs 3 workers × 8 GPUs; the cluster has room for 2 of 3");
    assert!(place(&cluster, &two).is_err(), "but it has not");
}

#[test]
fn added_nodes_are_spread_over_the_racks_whose_slices_lack_them() {
    let mut cluster = racks_of_h100(2, 1);
    let mut sliced = gang(4, 8, None);
    sliced.groups[0].slices = vec![Slice { level: "rack".into(), size: 2 }];
    let model = member(nvswitch8("model", 18), &[("zone", "z"), ("rack", "new")]);
    let added = smallest_addition(&cluster, &sliced, &every_node, &model).unwrap();
    assert_eq!((added.nodes, added.level.clone()), (2, Some("rack".into())));
    let parts: Vec<(u32, &str)> = added.parts.iter().map(|p| (p.nodes, p.domain.as_ref().unwrap().as_str())).collect();
    assert_eq!(parts, [(1, "r0"), (1, "r1")], "one each: into one rack it would take three");
    assert!(added.fewest);
    cluster.upsert(member(nvswitch8("r0-n1", 18), &[("zone", "z"), ("rack", "r0")]));
    let added = smallest_addition(&cluster, &sliced, &every_node, &model).unwrap();
    assert_eq!((added.nodes, added.parts[0].domain.clone()), (1, Some("r1".into())));
    // Where no level matters, none is named.
    let added = smallest_addition(&cluster, &gang(4, 8, None), &every_node, &model).unwrap();
    assert_eq!((added.nodes, added.level), (1, None));
}

/// One group, sometimes in slices or bound to a level.
fn jobs(replicas: u32) -> impl Strategy<Value = Gang> {
    let level = || prop_oneof![Just("zone"), Just("block"), Just("rack"), Just("host")].prop_map(Level::from);
    let required = prop::option::weighted(0.5, level());
    let slice = prop::option::weighted(0.3, level());
    (1..=replicas, 1u32..=3, required, slice).prop_map(|(replicas, gpus, required, slice)| {
        let mut group = Group::new("worker", replicas, gpus);
        if let (Some(level), 0) = (slice, replicas % 2) {
            group.slices = vec![Slice { level, size: 2 }];
        }
        Gang { groups: vec![group], required, ..Default::default() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, max_global_rejects: 200_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn failed_workers_are_replaced_with_the_fewest_movers(
        mut cluster in clusters(2..=8),
        gang in jobs(4),
        second in prop::option::of((1u32..=2, 0u32..=2)),
        failed in 1u8..16,
        gone in any::<u8>(),
    ) {
        let mut gang = gang;
        gang.groups.extend(second.map(|(replicas, gpus)| Group::new("other", replicas, gpus)));
        let running = start(&mut cluster, "job", &gang);
        prop_assume!(running.is_some());
        let mut running = running.unwrap();
        // A node may fail, with what runs there.
        let lost = running.gang.placed[gone as usize % running.gang.placed.len()].node.clone();
        for at in (0..running.gang.placed.len()).rev() {
            if failed >> at & 1 == 1 || (gone % 2 == 0 && running.gang.placed[at].node == lost) {
                fail(&mut cluster, &mut running, at);
            }
        }
        if gone % 2 == 0 {
            cluster.remove(&lost);
        }
        let count = running.gang.placed.len();
        let fewest = (0..=count).find(|&size| subsets(count, size).iter().any(|movers| {
            let rest = cluster.without(movers.iter().map(|&at| &running.owners[at]));
            World::new(&rest, &without(&running, movers)).is_feasible()
        }));
        match (replace(&cluster, &running, &every_node), fewest) {
            (Ok(found), Some(fewest)) => {
                prop_assert_eq!(found.movers.len(), fewest, "{}", found);
                prop_assert!(found.fewest);
                let movers: Vec<usize> = (0..count).filter(|&at| found.movers.contains(&running.gang.placed[at])).collect();
                let rest = cluster.without(movers.iter().map(|&at| &running.owners[at]));
                let gang = without(&running, &movers);
                check(&rest, &gang, &found.placement);
                check_relations(&rest, &gang, &found.placement);
            }
            (Err(NoPlacement::NoRoom(why)), None) => prop_assert!(why.proven),
            (found, fewest) => prop_assert!(false, "found {found:?}, brute force {fewest:?}"),
        }
    }

    #[test]
    fn a_waiting_gang_is_let_in_with_the_fewest_movers(
        mut cluster in clusters(2..=6),
        jobs in prop::collection::vec(jobs(2), 1..=3),
        waiting in jobs(2),
    ) {
        let names = ["a", "b", "c"];
        let jobs: Vec<Running> = jobs.iter().zip(names).filter_map(|(gang, name)| start(&mut cluster, name, gang)).collect();
        let movable: Vec<(usize, usize)> =
            jobs.iter().enumerate().flat_map(|(job, running)| (0..running.owners.len()).map(move |at| (job, at))).collect();
        let rest_of = |movers: &[usize]| cluster.without(movers.iter().map(|&m| &jobs[movable[m].0].owners[movable[m].1]));
        // All gangs concerned as one, each group bound by itself: they have one group each.
        let joint = |movers: &[usize]| {
            let mut all = waiting.clone();
            all.required = None;
            all.groups[0].required = waiting.required.clone();
            all.groups[0].name = "waiting".into();
            for (job, running) in jobs.iter().enumerate() {
                let mine: Vec<usize> = movers.iter().filter(|&&m| movable[m].0 == job).map(|&m| movable[m].1).collect();
                if !mine.is_empty() {
                    let gang = without(running, &mine);
                    let group = Group { name: running.name.clone(), required: gang.required.clone(), ..gang.groups[0].clone() };
                    all.groups.push(group);
                    all.placed.extend(gang.placed.iter().map(|p| Placed { group: running.name.clone(), ..p.clone() }));
                }
            }
            all
        };
        let fewest = (0..=movable.len()).find(|&size| {
            subsets(movable.len(), size).iter().any(|movers| World::new(&rest_of(movers), &joint(movers)).is_feasible())
        });
        match (defragment(&cluster, &jobs, &waiting, &anyone), fewest) {
            (Ok(plan), Some(fewest)) => {
                prop_assert_eq!(plan.moves.len(), fewest, "{}", plan);
                prop_assert!(plan.fewest);
                // Carried out move by move it leaves every job as it wants to be, and the gang starts.
                let mut after = cluster.clone();
                for one in &plan.moves {
                    let running = jobs.iter().find(|running| running.name == one.job).unwrap();
                    let at = running.gang.placed.iter().position(|p| p.index == one.index).unwrap();
                    prop_assert_eq!(&running.gang.placed[at].node, &one.from);
                    after.release(&running.owners[at]);
                }
                let mut taken = BTreeSet::new();
                for one in &plan.moves {
                    let seat = after.node(&one.to).unwrap();
                    let gpus = seat.member.node.set_of(one.gpus.iter().map(GpuUuid::as_str)).unwrap();
                    prop_assert!(gpus.is_subset(seat.free()), "a GPU that is not free");
                    prop_assert!(one.gpus.iter().all(|gpu| taken.insert(gpu.clone())), "a GPU given twice");
                }
                for one in &plan.moves {
                    let claim = Claim { gpus: one.gpus.clone(), ..Default::default() };
                    after.claim(&one.to, format!("moved-{}-{}", one.job, one.index).as_str().into(), claim);
                }
                for running in jobs.iter().filter(|running| running.gang.required.is_some()) {
                    let depth = cluster.depth(running.gang.required.as_ref().unwrap()).unwrap();
                    let at = |p: &Placed| {
                        let moved = plan.moves.iter().find(|one| one.job == running.name && one.index == p.index);
                        let node = moved.map_or(&p.node, |one| &one.to);
                        domains(after.node(node).unwrap())[depth].clone()
                    };
                    prop_assert_eq!(running.gang.placed.iter().map(at).collect::<BTreeSet<_>>().len(), 1);
                }
                check(&after, &waiting, &plan.placement);
            }
            (Err(NoPlacement::NoRoom(_)), None) => {}
            (found, fewest) => prop_assert!(false, "found {found:?}, brute force {fewest:?}"),
        }
    }

    #[test]
    fn a_gang_shrinks_to_the_best_rest(mut cluster in clusters(2..=8), gang in jobs(6), by in 1u32..=3) {
        let running = start(&mut cluster, "job", &gang);
        prop_assume!(running.is_some());
        let running = running.unwrap();
        let unit = gang.groups[0].slices.first().map_or(1, |slice| slice.size);
        let by = by * unit;
        prop_assume!(by < gang.groups[0].replicas);
        let shrunk = shrink(&cluster, &running, "worker", by).unwrap();
        prop_assert!(shrunk.exact);
        prop_assert_eq!(shrunk.given_up.len() as u32, by);
        let empty = cluster.without(&running.owners);
        let levels = cluster.levels().len() + 1;
        // Domains used and GPUs left over by the rest: the terms that need no wires.
        let value = |gone: &[usize]| {
            let stays = running.gang.placed.iter().enumerate().filter(|(at, _)| !gone.contains(at)).map(|(_, p)| p);
            let stays: Vec<&Placed> = stays.collect();
            let used: Vec<i64> = (0..levels).map(|depth| {
                stays.iter().map(|p| domains(empty.node(&p.node).unwrap())[depth].clone()).collect::<BTreeSet<_>>().len() as i64
            }).collect();
            used
        };
        let gone: Vec<usize> = (0..running.gang.placed.len()).filter(|&at| shrunk.given_up.contains(&running.gang.placed[at])).collect();
        let whole = |set: &Vec<usize>| {
            let index = |at: usize| running.gang.placed[at].index / unit;
            set.iter().all(|&at| (0..running.gang.placed.len()).filter(|&other| index(other) == index(at)).all(|other| set.contains(&other)))
        };
        prop_assert!(whole(&gone), "a part of a slice goes");
        let best = subsets(running.gang.placed.len(), by as usize).into_iter().filter(whole).map(|set| value(&set)).min();
        prop_assert_eq!(Some(value(&gone)), best);
        let named: Vec<i64> = shrunk.terms.iter().filter(|t| t.name.ends_with("used")).map(|t| t.value).collect();
        prop_assert_eq!(named, value(&gone));
    }
}

#[test]
fn that_not_all_ways_to_add_nodes_were_tried_is_said_and_not_that_there_is_none() {
    // Two groups are to be in different racks, and with 25 full racks there are more ways to spread two nodes than are tried.
    let racks = |many: usize| {
        let mut cluster = Cluster::new(vec![LevelLabel::new("rack", "rack")]).unwrap();
        for nth in 0..many {
            let name = format!("n{nth:02}");
            let machine = machines::nvswitch8(&name, 18);
            let gpus = machine.uuids(machine.all());
            cluster.upsert(machines::member(machine, &[("rack", name.as_str())]));
            cluster.claim(&name.as_str().into(), name.as_str().into(), Claim { gpus, ..Claim::default() });
        }
        cluster
    };
    let gang = Gang {
        groups: vec![Group::new("a", 2, 8), Group::new("b", 2, 8)],
        relations: vec![Relation::Apart { groups: vec!["a".into(), "b".into()], level: "rack".into() }],
        ..Gang::default()
    };
    let addition = |many: usize| {
        let cluster = racks(many);
        let model = cluster.member(&"n00".into()).unwrap();
        what_if::smallest_addition(&cluster, &gang, &|_, _| Ok(()), &model)
    };
    assert_eq!(addition(10).unwrap().nodes, 4);
    assert_eq!(addition(25).unwrap_err(), what_if::NoAddition::GaveUp("n00".into()));
}
