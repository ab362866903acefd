//! Sharing GPUs out by parts: MIG devices and replicas, packed and spread, against every other way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod machines;

use std::cmp::Reverse;

use machines::{gpu, set};
use proptest::prelude::*;
use weft_topology::Sharing::{Pack, Spread};
use weft_topology::*;

const NONE: GpuSet = GpuSet::EMPTY;

/// A node whose parts, in the order of their positions, are of these GPUs.
fn parts_of(boards: &[u32]) -> Node {
    let part = |(index, board): (usize, &u32)| Gpu {
        pci_bus_id: format!("00000000:{board:02X}:00.0").into(),
        mig_profile: Some("1g.10gb".into()),
        ..gpu("n", index as u32, Some(0))
    };
    let gpus = boards.iter().enumerate().map(part).collect();
    Node::new(NodeFacts { name: "n".into(), gpus, ..Default::default() }).unwrap()
}

/// So many GPUs of so many parts each.
fn of_equal(gpus: u32, parts: u32) -> Node {
    parts_of(&(0..gpus * parts).map(|part| part / parts).collect::<Vec<_>>())
}

fn pick(node: &Node, taken: &[usize], count: usize, sharing: Sharing) -> GpuSet {
    share(node, node.all().difference(set(taken)), NONE, NONE, count, sharing).unwrap().parts
}

#[test]
fn seven_slices_of_an_h100_are_used_up_before_the_next_is_opened_or_taken_in_turn() {
    let node = of_equal(2, 7);
    let mut free = node.all();
    for one in 0..14 {
        let got = share(&node, free, NONE, NONE, 1, Pack).unwrap();
        assert_eq!((got.parts, got.opened), (set(&[one]), u32::from(one % 7 == 0)));
        free = free.difference(got.parts);
    }
    assert!(share(&node, free, NONE, NONE, 1, Pack).is_err());
    // Spread, they come from both in turn.
    let mut taken = Vec::new();
    for one in 0..14 {
        let at = one % 2 * 7 + one / 2;
        assert_eq!(pick(&node, &taken, 1, Spread), set(&[at]));
        taken.push(at);
    }
    assert_eq!(pick(&node, &[7], 3, Spread), set(&[0, 1, 8]));
    // GPU 1 is in use by one: three more go there, so that GPU 0 stays whole.
    assert_eq!(pick(&node, &[7], 3, Pack), set(&[8, 9, 10]));
    // Seven have no room there. One GPU is opened either way, and one is enough.
    assert_eq!(pick(&node, &[7], 7, Pack), set(&[0, 1, 2, 3, 4, 5, 6]));
}

#[test]
fn four_replicas_of_two_gpus_are_spread_two_and_two() {
    let node = of_equal(2, 4);
    assert_eq!(pick(&node, &[], 1, Spread), set(&[0]));
    assert_eq!(pick(&node, &[0], 1, Spread), set(&[4]));
    assert_eq!(pick(&node, &[], 4, Spread), set(&[0, 1, 4, 5]));
    assert_eq!(pick(&node, &[], 5, Spread), set(&[0, 1, 2, 4, 5]));
    // Three of GPU 0 are in use: it gets none before GPU 1 has as many.
    assert_eq!(pick(&node, &[0, 1, 2], 3, Spread), set(&[4, 5, 6]));
    assert_eq!(pick(&node, &[0, 1, 2], 3, Pack), set(&[4, 5, 6]), "an idle one is opened either way, and is enough");
    assert_eq!(pick(&node, &[], 4, Pack), set(&[0, 1, 2, 3]));
}

#[test]
fn of_gpus_in_use_those_are_packed_that_leave_the_least_over() {
    // 4, 3 and 2 are free: five are 3 + 2. The roomiest with the next that does would leave one over.
    let node = of_equal(3, 5);
    let taken = [0, 5, 6, 10, 11, 12];
    assert_eq!(pick(&node, &taken, 5, Pack), set(&[7, 8, 9, 13, 14]));
    assert_eq!(pick(&node, &taken, 2, Pack), set(&[13, 14]));
    // What is left over is on one GPU, the last.
    assert_eq!(pick(&node, &taken, 6, Pack), set(&[1, 2, 3, 4, 13, 14]));
    // Two GPUs in use would do for the room of one idle: the idle one stays.
    let node = of_equal(3, 4);
    assert_eq!(pick(&node, &[4, 5, 8, 9], 4, Pack), set(&[6, 7, 10, 11]));
}

#[test]
fn more_parts_than_a_set_holds_are_shared_out_by_number() {
    let idle = [Load { free: 10, ..Load::default() }; 8];
    assert_eq!(share_out(&idle, 23, Pack).unwrap(), [10, 10, 3, 0, 0, 0, 0, 0]);
    assert_eq!(share_out(&idle, 23, Spread).unwrap(), [3, 3, 3, 3, 3, 3, 3, 2]);
    assert_eq!(share_out(&idle, 80, Pack).unwrap(), [10; 8]);
    assert_eq!(share_out(&idle, 81, Spread), None);
    assert_eq!(share_out(&[], 0, Pack), Some(vec![]));
    // A GPU of another kind, half used, takes what it can; what must be is taken already.
    let mut gpus = idle;
    gpus[6] = Load { held: 24, must: 0, free: 24 };
    assert_eq!(share_out(&gpus, 30, Pack).unwrap(), [10, 0, 0, 0, 0, 0, 20, 0]);
    gpus[3].must = 2;
    assert_eq!(share_out(&gpus, 10, Pack).unwrap(), [0, 0, 0, 10, 0, 0, 0, 0]);
    assert_eq!(share_out(&gpus, 7, Spread).unwrap(), [2, 1, 1, 0, 1, 1, 0, 1]);
    let many = u32::MAX;
    let full = [Load { held: many, must: many, free: 1 }, Load { held: many, must: many, free: 2 }];
    assert_eq!(share_out(&full, 2, Spread).unwrap(), [1, 1]);
}

#[test]
fn sick_parts_are_never_taken_and_keep_no_gpu_from_being_idle() {
    let node = of_equal(2, 3).with_health("GPU-n-0", Health::unhealthy("XID 94")).unwrap();
    assert_eq!(pick(&node, &[], 3, Pack), set(&[3, 4, 5]), "one GPU has three");
    assert_eq!(pick(&node, &[], 3, Spread), set(&[1, 2, 3]), "nobody uses the sick one");
    assert_eq!(share(&node, node.all(), NONE, NONE, 2, Pack).unwrap().opened, 1);
    // Somebody still holds it.
    assert_eq!(pick(&node, &[0], 2, Pack), set(&[1, 2]));
    assert_eq!(pick(&node, &[0], 3, Spread), set(&[1, 3, 4]));
    assert!(share(&node, node.all(), NONE, NONE, 6, Spread).is_err());
}

#[test]
fn parts_planned_for_others_are_in_use_and_taken_only_where_there_is_no_way_around() {
    let node = of_equal(2, 3);
    let planned = set(&[3, 4]);
    let got = share(&node, node.all(), NONE, planned, 1, Pack).unwrap();
    assert_eq!((got.parts, got.avoided, got.opened), (set(&[5]), NONE, 0), "its GPU is spoken for anyhow");
    assert_eq!(share(&node, node.all(), NONE, planned, 2, Spread).unwrap().parts, set(&[0, 1]));
    let got = share(&node, node.all(), NONE, planned, 5, Spread).unwrap();
    assert_eq!((got.parts, got.avoided), (set(&[0, 1, 2, 3, 5]), set(&[3])));
    assert!(got.explain(&node).to_string().ends_with("; 1 planned for another pod, for want of others"));
    let got = share(&node, node.all(), set(&[4]), planned, 2, Pack).unwrap();
    assert_eq!((got.parts, got.avoided), (set(&[4, 5]), set(&[4])), "what must be included is, planned or not");
}

#[test]
fn entries_without_a_place_on_the_bus_are_gpus_of_their_own() {
    let gpus = (0..3).map(|i| Gpu { pci_bus_id: "".into(), ..gpu("n", i, None) }).collect();
    let node = Node::new(NodeFacts { name: "n".into(), gpus, ..Default::default() }).unwrap();
    let got = share(&node, node.all(), NONE, NONE, 2, Pack).unwrap();
    assert_eq!((got.parts, got.gpus, got.opened, got.left_over), (set(&[0, 1]), 2, 2, 0));
}

#[test]
fn what_cannot_be_is_refused_as_with_whole_gpus() {
    let node = of_equal(2, 3).with_health("GPU-n-5", Health::unhealthy("XID 94")).unwrap();
    let free = node.all().difference(set(&[0]));
    for sharing in [Pack, Spread] {
        let asked = |must: &[usize], count| share(&node, free, set(must), NONE, count, sharing);
        for (must, count) in [(&[][..], 5), (&[0, 1, 5], 3), (&[1, 2], 1), (&[9], 2)] {
            assert_eq!(asked(must, count).unwrap_err(), choose(&node, free, set(must), NONE, count).unwrap_err());
        }
        assert_eq!(asked(&[], 5).unwrap_err().to_string(), "n has 4 of 5 GPUs: 6 in all, 1 taken, 1 unhealthy");
        assert_eq!(asked(&[], 0).unwrap().parts, NONE);
        assert_eq!(asked(&[2], 1).unwrap().parts, set(&[2]));
        // Positions that the node does not have are nobody's.
        assert_eq!(share(&node, GpuSet::first(64), NONE, set(&[60]), 5, sharing).unwrap().parts, GpuSet::first(5));
    }
    let none = Node::new(NodeFacts { name: "none".into(), ..Default::default() }).unwrap();
    assert_eq!(share(&none, NONE, NONE, NONE, 0, Pack).unwrap().gpus, 0);
    assert!(share(&none, NONE, NONE, NONE, 1, Pack).is_err());
}

#[test]
fn what_was_shared_out_says_in_words_what_it_is() {
    let node = of_equal(2, 4);
    let words = |taken: &[usize], count, sharing| {
        let free = node.all().difference(set(taken));
        share(&node, free, NONE, NONE, count, sharing).unwrap().explain(&node).to_string()
    };
    assert_eq!(words(&[], 0, Pack), "no part of a GPU of n was asked for");
    assert_eq!(words(&[], 1, Pack), "part GPU-n-0 of n, on 1 GPU: packed, 1 idle GPU opened, 3 left over");
    assert_eq!(words(&[0], 2, Pack), "parts GPU-n-1,GPU-n-2 of n, on 1 GPU: packed, 0 idle GPUs opened, 1 left over");
    assert_eq!(words(&[0], 2, Spread), "parts GPU-n-1,GPU-n-4 of n, on 2 GPUs: spread, at most 2 in use on one GPU");
    assert_eq!(words(&[0, 1], 2, Spread), "parts GPU-n-4,GPU-n-5 of n, on 1 GPU: spread, at most 2 in use on one GPU");
}

/// Parts in use afterwards, squared and summed; or GPUs opened, used, and what is left over on them: by their definitions.
fn terms(gpus: &[Load], taken: &[u32], sharing: Sharing) -> Vec<u64> {
    let each = || gpus.iter().zip(taken);
    let used = || each().filter(|(gpu, taken)| gpu.must + **taken > 0);
    match sharing {
        Pack => vec![
            used().filter(|(gpu, _)| gpu.held == 0).count() as u64,
            used().count() as u64,
            used().map(|(gpu, taken)| u64::from(gpu.free - taken)).sum(),
        ],
        Spread => vec![each().map(|(gpu, taken)| u64::from(gpu.held + gpu.must + taken).pow(2)).sum()],
    }
}

/// Every way to take so many.
fn ways(gpus: &[Load], count: u32) -> Vec<Vec<u32>> {
    let Some((first, others)) = gpus.split_first() else {
        return if count == 0 { vec![vec![]] } else { vec![] };
    };
    let with = |taken: u32| ways(others, count - taken).into_iter().map(move |rest| [vec![taken], rest].concat());
    (0..=first.free.min(count)).flat_map(with).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_other_way_to_share_out_is_better(
        gpus in prop::collection::vec((0u32..4, prop_oneof![3 => Just(0u32), 1 => 1u32..3], 0u32..6), 0..=6),
    ) {
        let gpus: Vec<Load> = gpus.into_iter().map(|(held, must, free)| Load { held, must, free }).collect();
        let room: u32 = gpus.iter().map(|gpu| gpu.free).sum();
        for count in 0..=room {
            let all = ways(&gpus, count);
            for sharing in [Pack, Spread] {
                // Among equals as much as can be of the first GPU, then of the next.
                let best = all.iter().min_by_key(|taken| (terms(&gpus, taken, sharing), Reverse((*taken).clone())));
                prop_assert_eq!(share_out(&gpus, count, sharing), best.cloned(), "{:?} {}", sharing, count);
            }
        }
        prop_assert_eq!(share_out(&gpus, room + 1, Pack), None);
    }

    #[test]
    fn no_other_set_of_parts_is_better(
        boards in prop::collection::vec(0u32..4, 1..=8), free in any::<u8>(), must in any::<u8>(), avoid in any::<u8>(),
        sick in any::<u8>(),
    ) {
        let mut node = parts_of(&boards);
        let within = |bits: u8, node: &Node| GpuSet::from_bits(bits.into()).intersection(node.all());
        for part in within(sick & sick >> 3, &node).iter() {
            node = node.with_health(&format!("GPU-n-{part}"), Health::unhealthy("XID 94")).unwrap();
        }
        let free = within(free | free >> 2, &node);
        let usable = free.intersection(node.healthy());
        let must = within(must & must >> 2 & must >> 4, &node).intersection(usable);
        let avoid = within(avoid & avoid >> 3, &node);
        let mut order: Vec<u32> = Vec::new();
        boards.iter().for_each(|board| if !order.contains(board) { order.push(*board) });
        let of = |board: u32, parts: GpuSet| parts.iter().filter(|&part| boards[part] == board).count() as u64;
        for count in 0..=usable.len() + 1 {
            let candidates = (0..=usable.bits()).map(GpuSet::from_bits);
            let candidates: Vec<GpuSet> = candidates
                .filter(|parts| parts.is_subset(usable) && must.is_subset(*parts) && parts.len() == count)
                .collect();
            let least = candidates.iter().map(|parts| parts.intersection(avoid).len()).min();
            // If more than `must` brings have to be taken, those planned are looked at like any others.
            let forced = least.is_some_and(|least| least > must.intersection(avoid).len());
            let held = |board: u32| {
                let planned = if forced { avoid.difference(usable) } else { avoid.difference(must) };
                of(board, node.all().difference(free).union(planned))
            };
            // What is left over once no more than needed are taken of those to avoid.
            let open = if forced { usable } else { usable.difference(avoid) };
            for sharing in [Pack, Spread] {
                let value = |parts: GpuSet| {
                    let used = || order.iter().copied().filter(move |&board| of(board, parts) > 0);
                    match sharing {
                        Pack => vec![
                            used().filter(|&board| held(board) == 0).count() as u64,
                            used().count() as u64,
                            used().map(|board| of(board, open.difference(parts))).sum(),
                        ],
                        Spread => vec![order.iter().map(|&board| (held(board) + of(board, parts)).pow(2)).sum()],
                    }
                };
                let key = |parts: &GpuSet| {
                    let of_each: Vec<u64> = order.iter().map(|&board| of(board, *parts)).collect();
                    (value(*parts), Reverse(of_each), parts.iter().collect::<Vec<_>>())
                };
                let best = candidates.iter().filter(|parts| Some(parts.intersection(avoid).len()) == least).min_by_key(|parts| key(parts));
                match (share(&node, free, must, avoid, count, sharing), best) {
                    (Ok(found), Some(&best)) => {
                        prop_assert_eq!(found.parts, best, "{:?} {} {:?} {:?}", sharing, count, value(found.parts), value(best));
                        prop_assert_eq!(found.avoided, best.intersection(avoid));
                        prop_assert_eq!(found.sharing, sharing);
                        let used: Vec<u32> = order.iter().copied().filter(|&board| of(board, best) > 0).collect();
                        let in_use = used.iter().map(|&board| held(board) + of(board, best)).max().unwrap_or(0);
                        let terms = (u64::from(found.opened), u64::from(found.gpus), u64::from(found.left_over));
                        let opened = used.iter().filter(|&&board| held(board) == 0).count() as u64;
                        let left = used.iter().map(|&board| of(board, open.difference(best))).sum();
                        prop_assert_eq!(terms, (opened, used.len() as u64, left));
                        prop_assert_eq!(u64::from(found.most_in_use), in_use);
                    }
                    (Err(_), None) => {}
                    (found, best) => prop_assert!(false, "found {:?}, brute force {:?}", found, best),
                }
            }
        }
    }
}
