//! Questions that are larger than what is searched exactly: the best is not promised then, what holds and what is said is.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod brute;
mod machines;

use brute::check;
use brute::world::check_relations;
use machines::{member, nvswitch8, pcie, racks_of_h100, zones_and_racks};
use weft_topology::*;

fn one_group(replicas: u32) -> Gang {
    Gang { groups: vec![Group::new("worker", replicas, 1)], ..Default::default() }
}

/// Three groups without GPUs that make a question about several groups too large.
fn crowd() -> impl Iterator<Item = Group> {
    ["x", "y", "z"].into_iter().map(|name| Group::new(name, 40, 0))
}

/// Takes the first `gpus` GPUs of a node.
fn take(cluster: &mut Cluster, node: &str, gpus: u32) {
    let claim = Claim { gpus: (0..gpus).map(|i| format!("GPU-{node}-{i}").into()).collect(), ..Default::default() };
    cluster.claim(&node.into(), format!("taken-{node}").as_str().into(), claim);
}

fn run(cluster: &mut Cluster, gang: &mut Gang, index: u32, node: &str) {
    take(cluster, node, 1);
    gang.placed.push(Placed { group: "worker".into(), index, node: node.into() });
}

fn term(placement: &Placement, name: &str) -> i64 {
    placement.terms.iter().find(|term| term.name == name).unwrap_or_else(|| panic!("{}", placement.tree())).value
}

#[test]
fn a_large_gang_that_grows_first_fills_the_racks_and_nodes_where_it_is() {
    // 128 GPUs a rack, of which the last has one worker already: 127 more go there, 73 into one other rack.
    let mut cluster = racks_of_h100(4, 16);
    let mut gang = one_group(201);
    run(&mut cluster, &mut gang, 0, "r3-n0");
    let found = place(&cluster, &gang).unwrap();
    assert!(!found.exact, "too large for the knapsack");
    assert_eq!(term(&found, "racks used"), 1, "{}", found.tree());
    check(&cluster, &gang, &found);
    // And so with nodes: seven on the one where a worker runs leave 241 for 31 others, not 32.
    let mut cluster = racks_of_h100(1, 40);
    let mut gang = one_group(256);
    run(&mut cluster, &mut gang, 0, "r0-n39");
    let found = place(&cluster, &gang).unwrap();
    assert!(!found.exact);
    assert_eq!(term(&found, "hosts used"), 31, "{}", found.tree());
}

#[test]
fn many_slices_begun_on_nodes_are_all_completed_there() {
    // Slices of two on a node; on each of forty nodes one lacks its second worker, and a hundred more slices are to come.
    let mut cluster = racks_of_h100(1, 40);
    let mut gang = one_group(280);
    gang.groups[0].slices = vec![Slice { level: "host".into(), size: 2 }];
    for node in 0..40 {
        run(&mut cluster, &mut gang, 2 * node, &format!("r0-n{node}"));
    }
    let found = place(&cluster, &gang).unwrap();
    assert!(!found.exact);
    for node in 0..40 {
        let second = found.workers.iter().find(|worker| worker.index == 2 * node + 1).unwrap();
        assert_eq!(second.node.as_str(), format!("r0-n{node}"));
    }
}

#[test]
fn groups_that_stay_together_do_so_beyond_the_bound_even_where_another_rack_is_fuller() {
    // A rack to each node. The first group leaves three GPUs of r0, the second four of r1; the third would fit r0 best.
    let cluster = racks_of_h100(4, 1);
    let mut gang = Gang {
        groups: vec![Group::new("first", 1, 5), Group::new("second", 1, 4), Group::new("third", 3, 1)],
        relations: vec![Relation::Together { groups: vec!["second".into(), "third".into()], level: "rack".into() }],
        ..Default::default()
    };
    gang.groups.extend(crowd());
    let found = place(&cluster, &gang).unwrap();
    assert!(!found.exact);
    check_relations(&cluster, &gang, &found);
}

#[test]
fn beyond_the_bound_only_a_question_of_sizes_that_divide_each_other_is_proven_to_have_no_answer() {
    // Four whole nodes, ten halves and eight with three GPUs: room for either group and GPUs for both, but not places.
    let mut cluster = zones_and_racks();
    for n in 0..22 {
        let name = format!("n{n:02}");
        cluster.upsert(member(nvswitch8(&name, 18), &[("zone", "z"), ("rack", "r")]));
        take(&mut cluster, &name, [0, 4, 5][usize::from(n >= 4) + usize::from(n >= 14)]);
    }
    let mut gang = Gang { groups: vec![Group::new("a", 4, 8), Group::new("b", 12, 4)], ..Default::default() };
    gang.groups.extend(crowd());
    let proven = |gang: &Gang| match place(&cluster, gang) {
        Err(NoPlacement::NoRoom(why)) => why.proven,
        other => panic!("{other:?}"),
    };
    assert!(proven(&gang));
    let mut uneven = gang.clone();
    uneven.groups[0].gpus = 6;
    assert!(!proven(&uneven), "4 does not divide 6");
    let but = |change: &dyn Fn(&mut Group)| {
        let mut gang = gang.clone();
        // The larger ones, which are placed first: so the sizes stay in an order in which they divide.
        change(&mut gang.groups[0]);
        proven(&gang)
    };
    assert!(!but(&|group| group.product = Some("H100".into())));
    assert!(!but(&|group| group.joined_by = Some(Joined::Nvlink)));
    assert!(!but(&|group| group.resources = Resources::new().with("cpu", 1)));
    assert!(!but(&|group| group.required = Some("zone".into())));
    assert!(!but(&|group| group.slices = vec![Slice { level: "zone".into(), size: 4 }]));
}

#[test]
fn groups_apart_keep_apart_beyond_the_bound_also_from_what_runs() {
    let mut cluster = racks_of_h100(3, 2);
    let mut gang = Gang {
        groups: vec![Group::new("worker", 3, 1), Group::new("other", 4, 2)],
        relations: vec![Relation::Apart { groups: vec!["worker".into(), "other".into()], level: "rack".into() }],
        ..Default::default()
    };
    gang.groups.extend(crowd());
    run(&mut cluster, &mut gang, 1, "r1-n0");
    let found = place(&cluster, &gang).unwrap();
    assert!(!found.exact);
    check_relations(&cluster, &gang, &found);
    let racks = |group: &str| {
        let mine = found.workers.iter().filter(|worker| worker.group == group);
        mine.map(|worker| &worker.node.as_str()[..2]).collect::<Vec<_>>()
    };
    assert!(!racks("other").contains(&"r1"), "{}", found.tree());
}

#[test]
fn elastic_groups_get_what_there_is_room_for_beyond_the_bound() {
    let mut cluster = zones_and_racks();
    for n in 0..3 {
        cluster.upsert(member(pcie(&format!("n{n}"), 8), &[("zone", "z"), ("rack", "r")]));
    }
    let mut gang = Gang { groups: vec![Group::new("large", 2, 5), Group::new("small", 40, 1)], ..Default::default() };
    gang.groups[1].min = Some(4);
    gang.groups.extend(crowd());
    let found = place(&cluster, &gang).unwrap();
    assert_eq!((found.left_out, found.exact), (26, false), "24 GPUs less ten: {}", found.tree());
}

#[test]
fn over_more_blocks_than_can_be_searched_the_racks_with_the_most_room_are_taken() {
    let mut cluster = Cluster::new(["block", "rack"].map(|level| LevelLabel::new(level, level)).to_vec()).unwrap();
    // In each of nine blocks one rack has 40 free GPUs, and three others have one each.
    for block in 0..9 {
        for (rack, nodes, taken) in [(0, 5, 0), (1, 1, 7), (2, 1, 7), (3, 1, 7)] {
            for n in 0..nodes {
                let name = format!("b{block}-r{rack}-n{n}");
                let (block, rack) = (format!("b{block}"), format!("b{block}-r{rack}"));
                cluster.upsert(member(nvswitch8(&name, 18), &[("block", &block), ("rack", &rack)]));
                take(&mut cluster, &name, taken);
            }
        }
    }
    let gang = one_group(360);
    let found = place(&cluster, &gang).unwrap();
    check(&cluster, &gang, &found);
    let used = |level: &str| found.terms.iter().find(|term| term.name == format!("{level}s used")).unwrap().value;
    assert_eq!((used("block"), used("rack"), used("host")), (9, 9, 45));
    assert!(!found.exact, "it was not searched through");
}
