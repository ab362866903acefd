//! What is left of a gang that shrinks: its worth by the definition, and that no other rest is worth more.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod brute;
mod machines;

use std::collections::{BTreeMap, BTreeSet};

use brute::{clusters, domains, is_nvlinked, sizes, worth};
use machines::{member, nvswitch8, racks_of_h100};
use proptest::prelude::*;
use weft_topology::what_if::{NoShrinking, shrink};
use weft_topology::*;

/// Places a gang and claims what it gets: the GPUs, or only their number.
fn start(cluster: &mut Cluster, gang: &Gang, known: bool) -> Option<Running> {
    let placement = place(cluster, gang).ok()?;
    let owner = |worker: &Worker| Owner::from(format!("{}-{}", worker.group, worker.index));
    for worker in &placement.workers {
        let (gpus, number) = (worker.gpus.clone(), worker.gpus.len() as u32);
        let claim = if known {
            Claim { gpus, ..Default::default() }
        } else {
            Claim { unidentified_gpus: number, ..Default::default() }
        };
        cluster.claim(&worker.node, owner(worker), claim);
    }
    Some(Running::started("job", gang, &placement, owner))
}

/// The objective of the workers of a gang that stay, by name, as if they were placed so on the cluster without the gang.
fn objective(cluster: &Cluster, running: &Running, stays: &[usize]) -> Vec<(String, i64)> {
    let gang = &running.gang;
    let empty = cluster.without(&running.owners);
    let seat = |at: usize| empty.node(&gang.placed[at].node).unwrap();
    // What a worker holds, and of how many GPUs it is not known which.
    let held = |at: usize| {
        let claim = cluster.claim_of(&running.owners[at]).unwrap().1;
        let known = seat(at).member.node.set_of(claim.gpus.iter().map(GpuUuid::as_str)).unwrap();
        (known, claim.unidentified_gpus)
    };
    let names: Vec<&str> = cluster.levels().iter().map(|level| level.name.as_str()).chain(["host"]).collect();
    let (mut inwards, mut outwards, mut nvlink) = (Vec::new(), Vec::new(), 0);
    for (depth, level) in names.iter().enumerate() {
        let domain = |at: usize| domains(seat(at))[depth].clone();
        let used: BTreeSet<String> = stays.iter().map(|&at| domain(at)).collect();
        inwards.push((format!("{level}s used"), used.len() as i64));
        for group in gang.groups.iter().filter(|g| g.balanced.as_ref().is_some_and(|b| b.level.as_str() == *level)) {
            let mut counts: BTreeMap<String, i64> = BTreeMap::new();
            for &at in stays.iter().filter(|&&at| gang.placed[at].group == group.name) {
                *counts.entry(domain(at)).or_default() += 1;
            }
            let squares = counts.values().map(|count| count * count).sum();
            inwards.push((format!("unevenness over {level}s (sum of squares)"), squares));
        }
        let (mut left, mut opened) = (0, 0);
        for used in used {
            let nodes: Vec<&Seat> = empty.nodes().filter(|seat| domains(seat)[depth] == used).collect();
            let given: u32 =
                stays.iter().filter(|&&at| domain(at) == used).map(|&at| held(at).0.len() as u32 + held(at).1).sum();
            let rest = i64::from(nodes.iter().map(|seat| seat.free_count()).sum::<u32>()) - i64::from(given);
            let idle = i64::from(rest > 0 && given > 0 && nodes.iter().all(|seat| seat.is_idle()));
            left += rest;
            opened += idle;
            if depth + 2 == names.len() && nodes.iter().any(|seat| is_nvlinked(seat)) {
                nvlink += idle;
            }
        }
        outwards.extend([(format!("{level}s opened"), opened), (format!("GPUs left over by {level}"), left)]);
    }
    outwards.reverse();
    let wiring = |at: usize| seat(at).member.node.wiring().clone();
    let weak = stays.iter().map(|&at| 2 - i64::from(wiring(at).grade(held(at).0))).sum();
    let wires: i64 = stays.iter().map(|&at| i64::from(wiring(at).within(held(at).0))).sum();
    let mut on: BTreeMap<&NodeName, GpuSet> = BTreeMap::new();
    for &at in stays {
        let set = on.entry(&gang.placed[at].node).or_default();
        *set = set.union(held(at).0);
    }
    let lost = on.iter().map(|(node, &set)| {
        let seat = empty.node(node).unwrap();
        let mean = |rest: GpuSet| (worth(seat.member.node.wiring(), rest) / sizes(rest)) as i64;
        mean(seat.free()) - mean(seat.free().difference(set))
    });
    let inside = [("weak workers".to_owned(), weak), ("NVLink domains opened".to_owned(), nvlink)];
    let last = [("wires (negated)".to_owned(), -wires), ("worth lost to later jobs".to_owned(), lost.sum())];
    [inwards, inside.to_vec(), outwards, last.to_vec()].concat()
}

fn subsets(count: usize, size: usize) -> Vec<Vec<usize>> {
    let all = (0u32..1 << count).filter(|bits| bits.count_ones() as usize == size);
    all.map(|bits| (0..count).filter(|at| bits >> at & 1 == 1).collect()).collect()
}

/// A group that shrinks, in slices or balanced or led by others.
fn gangs() -> impl Strategy<Value = (Gang, u32)> {
    let level = || prop_oneof![Just("zone"), Just("block"), Just("rack"), Just("host")].prop_map(Level::from);
    let kind = prop_oneof![3 => Just(0), 1 => Just(1), 1 => Just(2), 2 => Just(3), 1 => Just(4)];
    (1u32..=6, 0u32..=3, kind, level(), 0u32..=1, 1u32..=5).prop_map(|(replicas, gpus, kind, level, leader, by)| {
        let mut worker = Group::new("worker", replicas, gpus);
        let mut gang = Gang::default();
        match kind {
            1 => {
                worker.replicas = replicas.next_multiple_of(2);
                worker.slices = vec![Slice { level, size: 2 }];
            }
            2 => worker.balanced = Some(Balance { level, most: None }),
            3 => {
                // Two leaders or one, which leads all and stays.
                worker.replicas = replicas.next_multiple_of(2);
                gang.groups.push(Group::new("leader", if replicas > 1 { 2 } else { 1 }, leader));
                let (leader, workers) = ("leader".to_owned(), "worker".to_owned());
                gang.relations.push(Relation::Leader { leader, workers, level });
            }
            4 => gang.groups.push(Group::new("other", 2, 1)),
            _ => {}
        }
        gang.groups.push(worker);
        (gang, by)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_global_rejects: 200_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_other_rest_of_a_gang_is_worth_more(mut cluster in clusters(2..=8), (gang, by) in gangs(), known in prop::bool::weighted(0.8)) {
        let running = start(&mut cluster, &gang, known);
        prop_assume!(running.is_some());
        let running = running.unwrap();
        let group = gang.groups.iter().find(|group| group.name == "worker").unwrap();
        let leaders = gang.groups.iter().find(|group| group.name == "leader").map(|group| group.replicas);
        let of_each = leaders.filter(|&leaders| leaders > 1).map(|leaders| group.replicas / leaders);
        let unit = group.slices.first().map(|slice| slice.size).or(of_each).unwrap_or(1);
        let by = by * unit;
        if by >= group.replicas {
            let too_few = matches!(shrink(&cluster, &running, "worker", by), Err(NoShrinking::TooFewLeft { .. }));
            prop_assert!(too_few, "one worker has to stay");
            return Ok(());
        }
        let shrunk = shrink(&cluster, &running, "worker", by).unwrap();
        prop_assert!(shrunk.exact);
        // In which unit of the group a worker is, if it goes with one.
        let unit_of = |placed: &Placed| match placed.group.as_str() {
            "worker" => Some(placed.index / unit),
            "leader" => of_each.map(|size| placed.index * size / unit),
            _ => None,
        };
        let count = running.gang.placed.len();
        let rest = |gone: &[usize]| {
            let stays = |at: &usize| unit_of(&running.gang.placed[*at]).is_none_or(|unit| !gone.contains(&(unit as usize)));
            objective(&cluster, &running, &(0..count).filter(stays).collect::<Vec<_>>())
        };
        let values = |gone: &[usize]| rest(gone).into_iter().map(|(_, value)| value).collect::<Vec<_>>();
        // Of equally good rests the one with the lower indices stays.
        let order = |gone: &Vec<usize>| (values(gone), gone.iter().rev().map(|&unit| std::cmp::Reverse(unit)).collect::<Vec<_>>());
        let best = subsets((group.replicas / unit) as usize, (by / unit) as usize).into_iter().min_by_key(order).unwrap();
        let terms: Vec<(String, i64)> = shrunk.terms.iter().map(|term| (term.name.clone(), term.value)).collect();
        prop_assert_eq!(terms, rest(&best));
        let goes = |placed: &&Placed| unit_of(placed).is_some_and(|unit| best.contains(&(unit as usize)));
        let expected: Vec<Placed> = running.gang.placed.iter().filter(goes).cloned().collect();
        prop_assert_eq!(shrunk.given_up, expected);
    }
}

proptest! {
    // The objective of 67 rests a case.
    #![proptest_config(ProptestConfig { cases: 60, max_global_rejects: 200_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_swap_makes_the_rest_of_a_large_gang_worth_more(mut cluster in clusters(6..=9), by in 5usize..=6) {
        let gang = Gang { groups: vec![Group::new("worker", 16, 1)], ..Default::default() };
        let running = start(&mut cluster, &gang, true);
        prop_assume!(running.is_some());
        let running = running.unwrap();
        let shrunk = shrink(&cluster, &running, "worker", by as u32).unwrap();
        // Of 16 workers there are 4,368 sets of five and 8,008 of six.
        prop_assert_eq!(shrunk.exact, by == 5);
        let at = |placed: &Placed| running.gang.placed.iter().position(|other| other == placed).unwrap();
        let gone: BTreeSet<usize> = shrunk.given_up.iter().map(at).collect();
        prop_assert_eq!(gone.len(), by);
        let rest = |gone: &BTreeSet<usize>| objective(&cluster, &running, &(0..16).filter(|at| !gone.contains(at)).collect::<Vec<_>>());
        let values = |terms: &[(String, i64)]| terms.iter().map(|term| term.1).collect::<Vec<_>>();
        let terms: Vec<(String, i64)> = shrunk.terms.iter().map(|term| (term.name.clone(), term.value)).collect();
        prop_assert_eq!(&terms, &rest(&gone));
        for &stays in &gone {
            for goes in (0..16).filter(|at| !gone.contains(at)) {
                let mut swapped = gone.clone();
                swapped.remove(&stays);
                swapped.insert(goes);
                prop_assert!(values(&terms) <= values(&rest(&swapped)), "{goes} in place of {stays}");
            }
        }
    }
}

#[test]
fn a_gang_shrinks_to_its_minimum_and_no_further() {
    let mut cluster = racks_of_h100(1, 4);
    let mut gang = Gang { groups: vec![Group::new("worker", 4, 8)], ..Default::default() };
    gang.groups[0].min = Some(3);
    let running = start(&mut cluster, &gang, true).unwrap();
    let left = shrink(&cluster, &running, "worker", 1).unwrap();
    assert_eq!(left.given_up[0].index, 3);
    assert_eq!(
        shrink(&cluster, &running, "worker", 2),
        Err(NoShrinking::TooFewLeft { job: "job".into(), group: "worker".into(), running: 4, least: 3 })
    );
    let nobody = shrink(&cluster, &running, "worker", 0).unwrap();
    assert!(nobody.given_up.is_empty() && nobody.exact);
    assert_eq!(nobody.to_string(), "gives up nobody; the rest: zones used 1, racks used 1, hosts used 4",);
}

#[test]
fn another_group_than_the_led_one_shrinks_by_itself() {
    let mut cluster = racks_of_h100(2, 2);
    let led = Relation::Leader { leader: "leader".into(), workers: "worker".into(), level: "rack".into() };
    let groups = vec![Group::new("leader", 2, 1), Group::new("worker", 4, 1), Group::new("other", 2, 1)];
    let gang = Gang { groups, relations: vec![led], ..Default::default() };
    let running = start(&mut cluster, &gang, true).unwrap();
    let given_up = |group: &str, by: u32| {
        let shrunk = shrink(&cluster, &running, group, by).unwrap();
        shrunk.given_up.into_iter().map(|placed| (placed.group, placed.index)).collect::<Vec<_>>()
    };
    assert_eq!(given_up("other", 1), [("other".to_owned(), 1)]);
    let with_its_leader = [("leader", 1), ("worker", 2), ("worker", 3)].map(|(group, index)| (group.to_owned(), index));
    assert_eq!(given_up("worker", 2), with_its_leader);
}

#[test]
fn workers_without_gpus_that_stay_open_nothing() {
    let mut cluster = racks_of_h100(1, 2);
    let gang = Gang { groups: vec![Group::new("worker", 2, 0)], ..Default::default() };
    let running = start(&mut cluster, &gang, true).unwrap();
    let shrunk = shrink(&cluster, &running, "worker", 1).unwrap();
    let opened: Vec<i64> = shrunk.terms.iter().filter(|term| term.name.ends_with("opened")).map(|t| t.value).collect();
    assert_eq!(opened, [0, 0, 0, 0]);
}

#[test]
fn a_worker_that_holds_nothing_is_named() {
    let mut cluster = racks_of_h100(1, 2);
    let gang = Gang { groups: vec![Group::new("worker", 2, 8)], ..Default::default() };
    let mut running = start(&mut cluster, &gang, true).unwrap();
    cluster.upsert(member(nvswitch8("r0-n2", 18), &[("zone", "z"), ("rack", "r0")]));
    running.owners[1] = "somebody".into();
    assert_eq!(
        shrink(&cluster, &running, "worker", 1).unwrap_err().to_string(),
        "worker 1 of group \"worker\" of job job holds nothing in the cluster: name its owner"
    );
}
