//! Choosing GPUs of a node: real machines, malformed facts, and brute force.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod machines;

use std::cell::RefCell;
use std::collections::HashMap;

use machines::{bridged, dgx1, gpu, hgx2, node, nvswitch8, pcie, set};
use proptest::prelude::*;
use weft_topology::{
    Assumption, Gpu, GpuSet, Health, Link, NoChoice, Node, NodeError, NodeFacts, Path, Wire, Wiring, choose,
};

const NONE: GpuSet = GpuSet::EMPTY;

fn pick(node: &Node, free: GpuSet, count: usize) -> GpuSet {
    choose(node, free, NONE, NONE, count).unwrap().gpus
}

/// Requests one after the other, each keeping what it got.
fn in_turn(node: &Node, counts: &[usize]) -> Vec<GpuSet> {
    let mut free = node.all();
    counts
        .iter()
        .map(|&count| {
            let got = pick(node, free, count);
            free = free.difference(got);
            got
        })
        .collect()
}

#[test]
fn two_pairs_on_bridged_cards_are_the_two_bridged_pairs() {
    assert_eq!(in_turn(&bridged("a100x4", 4), &[2, 2]), [set(&[0, 1]), set(&[2, 3])]);
}

#[test]
fn a_bridged_pair_is_not_split_while_an_odd_gpu_is_free() {
    for n in [4, 8] {
        let node = bridged("n", n);
        for taken in 0..n as usize {
            let free = node.all().difference(set(&[taken]));
            assert_eq!(pick(&node, free, 1), set(&[taken ^ 1]), "the other half of the broken pair");
        }
    }
    // Two odd GPUs: each single goes to one of them.
    let node = bridged("n", 8);
    let mut free = node.all().difference(set(&[2, 5]));
    for odd in [3, 4] {
        let got = pick(&node, free, 1);
        assert_eq!(got, set(&[odd]));
        free = free.difference(got);
    }
}

#[test]
fn three_gpus_on_bridged_cards_are_a_pair_and_an_odd_one_of_the_same_socket() {
    let node = bridged("n", 8);
    assert_eq!(pick(&node, node.all(), 3), set(&[0, 1, 2]));
    assert_eq!(pick(&node, node.all().difference(set(&[6])), 3), set(&[4, 5, 7]), "7 is odd already");
}

#[test]
fn sockets_stay_whole_on_nvswitch_machines() {
    for links in [12, 18] {
        let node = nvswitch8("dgx", links);
        assert_eq!(in_turn(&node, &[4, 4]), [set(&[0, 1, 2, 3]), set(&[4, 5, 6, 7])]);
        assert_eq!(in_turn(&node, &[1, 4, 2, 1]), [set(&[0]), set(&[4, 5, 6, 7]), set(&[1, 2]), set(&[3])]);
        assert_eq!(in_turn(&node, &[2, 2, 2, 2]), [set(&[0, 1]), set(&[2, 3]), set(&[4, 5]), set(&[6, 7])]);
        assert_eq!(pick(&node, node.all(), 8), node.all());
    }
}

#[test]
fn the_cube_mesh_of_dgx1_is_cut_where_fewest_nvlinks_are() {
    let node = dgx1("dgx1");
    assert_eq!(in_turn(&node, &[4, 4]), [set(&[0, 1, 2, 3]), set(&[4, 5, 6, 7])]);
    // A pair with both a switch and two NVLinks; then the rest of that quad, so that the other stays whole; then the
    // other quad's pairs of two NVLinks.
    assert_eq!(in_turn(&node, &[2, 2, 2, 2]), [set(&[2, 3]), set(&[0, 1]), set(&[4, 7]), set(&[5, 6])]);
    // Whatever GPU went first, the next single one is not taken from a quad that is still whole.
    for taken in 0..8 {
        let half = if taken < 4 { set(&[0, 1, 2, 3]) } else { set(&[4, 5, 6, 7]) };
        let got = pick(&node, node.all().difference(set(&[taken])), 1);
        assert!(got.is_subset(half), "{taken} taken, then {got}");
    }
}

#[test]
fn two_sockets_of_pcie_cards_stay_whole() {
    let node = pcie("l40s", 8);
    assert_eq!(in_turn(&node, &[2, 4, 2]), [set(&[0, 1]), set(&[4, 5, 6, 7]), set(&[2, 3])]);
    assert_eq!(in_turn(&node, &[3, 1, 4]), [set(&[0, 1, 2]), set(&[3]), set(&[4, 5, 6, 7])]);
}

#[test]
fn sixteen_gpus_are_chosen_exactly_and_keep_baseboards_whole() {
    let node = hgx2("hgx2");
    let choice = choose(&node, node.all().difference(set(&[9])), NONE, NONE, 3).unwrap();
    assert_eq!(choice.gpus, set(&[8, 10, 11]), "from the broken baseboard");
    assert!(choice.exact);
}

/// Reported against go-gpuallocator (pull request 80): with five GPUs free, a linked pair and three on one switch, a
/// request for three came back as two GPUs and a nil.
#[test]
fn nil_in_the_answer_of_three_out_of_five() {
    let node = node("box", 5, |a, b| match (a, b) {
        (0, 1) => Wire::nvlink(4, Path::SameNuma),
        (2.., 2..) => Wire::over(Path::SingleSwitch),
        _ => Wire::over(Path::CrossSocket),
    });
    assert_eq!(pick(&node, node.all(), 3), set(&[2, 3, 4]), "three GPUs, and the linked pair stays whole");
}

/// All (available, size) cases of boxes with bridged pairs, 18 of which made go-gpuallocator answer with a nil.
#[test]
fn every_answer_has_the_size_asked_for() {
    for bridges in [1, 2, 4] {
        let node = node("box", 8, |a, b| {
            let path = if a / 4 == b / 4 { Path::SameNuma } else { Path::CrossSocket };
            if a / 2 == b / 2 && a / 2 < bridges { Wire::nvlink(12, path) } else { Wire::over(path) }
        });
        for free in (0..256).map(GpuSet::from_bits) {
            for count in 0..=free.len() {
                let got = pick(&node, free, count);
                assert_eq!(got.len(), count);
                assert!(got.is_subset(free));
            }
            assert!(choose(&node, free, NONE, NONE, free.len() + 1).is_err());
        }
    }
}

/// go-gpuallocator overwrote its best partition through a shared slice: 13 or 14 GPUs, one linked pair near the end,
/// two asked for, and the answer was the first two.
#[test]
fn aliasing_of_the_best_partition() {
    for n in [13, 14] {
        let pair = if n == 13 { (9, 10) } else { (11, 12) };
        let node = node("box", n, |a, b| {
            if (a, b) == pair { Wire::nvlink(4, Path::CrossSocket) } else { Wire::over(Path::CrossSocket) }
        });
        assert_eq!(pick(&node, node.all(), 2), set(&[pair.0 as usize, pair.1 as usize]));
    }
}

/// k8s-device-plugin issues 231 and 2038: one GPU fell off the bus and every later request failed.
#[test]
fn a_lost_gpu_does_not_stop_the_others() {
    // It answers nothing: neither itself nor its links are reported, and indices have a gap.
    let gpus = [0, 1, 3].map(|i| gpu("n", i, Some(i / 2))).to_vec();
    let links = vec![Link { from: 0, to: 1, wire: Wire::nvlink(12, Path::SameNuma) }];
    let node = Node::new(NodeFacts { name: "n".into(), gpus, links, ..Default::default() }).unwrap();
    assert_eq!(node.indices(pick(&node, node.all(), 2)), "0,1");
    assert_eq!(node.indices(pick(&node, node.all(), 1)), "3");
    assert_eq!(
        choose(&node, node.all(), NONE, NONE, 1).unwrap().explain(&node).to_string(),
        "GPU 3 of n: of 3 free it breaks least of what later jobs need"
    );

    // It is known but unhealthy: kubelet may still offer it for a moment.
    let node = nvswitch8("n", 18).with_health("GPU-n-0", Health::unhealthy("fell off the bus (XID 79)")).unwrap();
    assert_eq!(pick(&node, node.all(), 2), set(&[1, 2]));
    let why = choose(&node, node.all(), NONE, NONE, 8).unwrap_err();
    assert_eq!(why.to_string(), "n has 7 of 8 GPUs: 8 in all, 0 taken, 1 unhealthy");
    let node = node.with_health("GPU-n-1", Health::unhealthy("XID 48")).unwrap();
    let why = choose(&node, node.all().difference(set(&[0, 7])), NONE, NONE, 6).unwrap_err();
    assert_eq!(why.to_string(), "n has 5 of 6 GPUs: 8 in all, 1 taken, 2 unhealthy");
}

/// k8s-device-plugin issue 448: a link seen from one side only made the allocator panic.
#[test]
fn asymmetric_links_count_as_the_worse_side() {
    let gpus: Vec<_> = (0..3).map(|i| gpu("n", i, Some(0))).collect();
    let links = vec![
        Link { from: 0, to: 1, wire: Wire::nvlink(4, Path::SameNuma) },
        Link { from: 1, to: 0, wire: Wire::over(Path::SameNuma) },
        Link { from: 2, to: 1, wire: Wire::nvlink(1, Path::SameNuma) },
        Link { from: 0, to: 2, wire: Wire::over(Path::SameNuma) },
    ];
    let node = Node::new(NodeFacts { name: "n".into(), gpus, links, ..Default::default() }).unwrap();
    assert_eq!(pick(&node, node.all(), 2), set(&[1, 2]), "one sure link beats four doubtful ones");
    assert_eq!(
        node.assumptions().iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "the link between GPU-n-0 and GPU-n-1 was reported both as 4 NVLinks and as the same socket; assumed the worse, the same socket"
        ]
    );
}

/// k8s-device-plugin issue 439: every link unknown.
#[test]
fn unknown_links_still_give_an_answer_and_are_noted() {
    let gpus: Vec<_> = (0..4).map(|i| gpu("n", i, None)).collect();
    let node = Node::new(NodeFacts { name: "n".into(), gpus, ..Default::default() }).unwrap();
    assert_eq!(pick(&node, node.all(), 2), set(&[0, 1]));
    assert_eq!(node.assumptions().len(), 6);
    assert!(matches!(node.assumptions()[0], Assumption::MissingLink { used: Wire::UNKNOWN, .. }));

    // With NUMA nodes known, sockets are told apart.
    let gpus: Vec<_> = (0..4).map(|i| gpu("n", i, Some(i % 2))).collect();
    let node = Node::new(NodeFacts { name: "n".into(), gpus, ..Default::default() }).unwrap();
    assert_eq!(pick(&node, node.all(), 2), set(&[0, 2]));
}

#[test]
fn repeated_gpus_and_dangling_links_are_noted_and_left_out() {
    let gpus = vec![gpu("n", 1, Some(0)), gpu("n", 0, Some(0)), gpu("n", 1, Some(1))];
    let links = vec![
        Link { from: 2, to: 1, wire: Wire::nvlink(2, Path::SameNuma) },
        Link { from: 0, to: 0, wire: Wire::nvlink(2, Path::SameNuma) },
        Link { from: 0, to: 7, wire: Wire::nvlink(2, Path::SameNuma) },
        Link { from: 0, to: 2, wire: Wire::nvlink(2, Path::SameNuma) },
    ];
    let node = Node::new(NodeFacts { name: "n".into(), gpus, links, ..Default::default() }).unwrap();
    assert_eq!(node.gpus().len(), 2);
    assert_eq!(node.wiring().wire(0, 1).nvlinks, 2, "the repeated report of GPU 1 still tells of its link");
    let notes: Vec<_> = node.assumptions().iter().map(ToString::to_string).collect();
    assert_eq!(notes.len(), 4, "{notes:?}");
    assert!(notes[0].contains("GPU-n-1 was reported more than once"), "{notes:?}");
}

#[test]
fn more_devices_than_a_set_holds_are_refused_with_the_number() {
    let gpus = (0..65).map(|i| gpu("n", i, None)).collect();
    let error = Node::new(NodeFacts { name: "n".into(), gpus, ..Default::default() }).unwrap_err();
    assert_eq!(error, NodeError::TooManyGpus { node: "n".into(), count: 65 });
    assert!(nvswitch8("n", 18).set_of(["GPU-other"]).unwrap_err().to_string().contains("n has no GPU GPU-other"));
}

#[test]
fn what_must_be_included_is_and_contradictions_are_named() {
    let node = bridged("n", 8);
    let all = node.all();
    assert_eq!(choose(&node, all, set(&[5]), NONE, 2).unwrap().gpus, set(&[4, 5]));
    assert_eq!(choose(&node, all, set(&[0, 7]), NONE, 2).unwrap().gpus, set(&[0, 7]));
    assert_eq!(
        choose(&node, all, set(&[0, 7]), NONE, 1),
        Err(NoChoice::MustExceedsCount { node: "n".into(), count: 1, must: 2 })
    );
    let free = all.difference(set(&[3]));
    assert_eq!(
        choose(&node, free, set(&[3]), NONE, 2),
        Err(NoChoice::MustNotUsable { node: "n".into(), gpus: set(&[3]) })
    );
    assert_eq!(choose(&node, NONE, NONE, NONE, 0).unwrap().gpus, NONE);
}

#[test]
fn gpus_planned_for_others_are_touched_only_where_there_is_no_way_around() {
    let node = bridged("n", 8);
    let planned = set(&[0, 1, 2]);
    let choice = choose(&node, node.all(), NONE, planned, 1).unwrap();
    assert_eq!((choice.gpus, choice.avoided), (set(&[3]), NONE), "GPU 3's partner is spoken for");
    let choice = choose(&node, node.all(), NONE, planned, 6).unwrap();
    assert_eq!((choice.gpus, choice.avoided), (set(&[2, 3, 4, 5, 6, 7]), set(&[2])));
    assert!(choice.explain(&node).to_string().ends_with("; 2 planned for another pod, for want of others"));
    // What must be included is, planned or not.
    let choice = choose(&node, node.all(), set(&[0]), planned, 2).unwrap();
    assert_eq!(choice.avoided, set(&[0]));
}

#[test]
fn a_choice_says_in_words_what_it_is_and_from_how_many() {
    let words =
        |node: &Node, count: usize| choose(node, node.all(), NONE, NONE, count).unwrap().explain(node).to_string();
    let node = bridged("n", 4);
    assert_eq!(words(&node, 0), "no GPU of n was asked for");
    assert_eq!(words(&node, 1), "GPU 0 of n: of 4 free it breaks least of what later jobs need");
    assert_eq!(
        words(&node, 2),
        "GPUs 0,1 of n, joined by 12 NVLinks: the best of 6 sets, counting what it leaves to later jobs"
    );
    assert_eq!(
        words(&node, 3),
        "GPUs 0,1,2 of n, any two joined by at least the link between sockets: the best of 4 sets, counting what it leaves to \
         later jobs"
    );
    assert_eq!(
        words(&node, 4),
        "GPUs 0,1,2,3 of n, any two joined by at least the link between sockets: the only set there is"
    );
    let large = machines::node("n", 18, |_, _| Wire::over(Path::SameNuma));
    assert_eq!(
        words(&large, 2),
        "GPUs 0,1 of n, joined by the same socket: a good one of 153 sets, too many to try all"
    );
}

#[test]
fn gpus_with_an_unknown_wire_between_them_are_told_apart_by_their_others() {
    // Nothing is known of 0 and 1; both reach 2, and only 1 by NVLink.
    let node = node("n", 3, |a, b| match (a, b) {
        (0, 1) => Wire::UNKNOWN,
        (1, 2) => Wire::nvlink(4, Path::SameNuma),
        _ => Wire::over(Path::SameNuma),
    });
    assert_eq!(pick(&node, node.all(), 2), set(&[1, 2]));
}

#[test]
fn wires_that_nobody_reported_are_inferred_from_board_and_socket() {
    let on_board = |index, numa, board: &str| Gpu { pci_bus_id: board.into(), ..gpu("n", index, numa) };
    let gpus = vec![
        on_board(0, Some(0), "00000000:01:00.0"),
        on_board(1, Some(0), "00000000:01:00.0"),
        on_board(2, Some(0), ""),
        on_board(3, Some(1), ""),
        on_board(4, None, "00000000:02:00.0"),
    ];
    let node = Node::new(NodeFacts { name: "n".into(), gpus, ..Default::default() }).unwrap();
    let path = |a, b| node.wiring().wire(a, b).path;
    assert_eq!(path(0, 1), Path::SameBoard);
    assert_eq!(path(0, 2), Path::SameNuma);
    assert_eq!((path(0, 3), path(2, 3)), (Path::CrossSocket, Path::CrossSocket));
    assert_eq!((path(0, 4), path(3, 4)), (Path::Unknown, Path::Unknown));
}

#[test]
fn a_wiring_tells_nothing_of_gpus_that_are_not_there() {
    let node = nvswitch8("n", 18);
    let wiring = node.wiring();
    assert_eq!((wiring.len(), wiring.is_empty()), (8, false));
    assert_ne!(wiring.wire(7, 6), Wire::UNKNOWN);
    for (a, b) in [(0, 8), (8, 0), (8, 8), (3, 3)] {
        assert_eq!(wiring.wire(a, b), Wire::UNKNOWN);
    }
    let none = Node::new(NodeFacts { name: "n".into(), ..Default::default() }).unwrap();
    assert_eq!((none.wiring().len(), none.wiring().is_empty()), (0, true));
    assert_ne!(dgx1("a").wiring(), wiring, "as many GPUs, wired otherwise");
    assert_eq!(nvswitch8("b", 18).wiring(), wiring);
}

#[test]
fn a_set_holds_positions_up_to_63_and_is_written_as_a_list() {
    let mut some = set(&[0, 5, 63]);
    assert_eq!([0, 4, 5, 63, 64, 65].map(|position| some.contains(position)), [true, false, true, true, false, false]);
    some.insert(64);
    some.remove(64);
    assert_eq!(some, set(&[0, 5, 63]), "no node has a position 64");
    some.remove(5);
    some.remove(6);
    assert_eq!(
        (some.to_string(), NONE.to_string(), format!("{some:?}")),
        ("0,63".into(), "none".into(), "{0, 63}".into())
    );
    assert_eq!(serde_json::to_string(&some).unwrap(), "[0,63]");
    assert_eq!(serde_json::from_str::<GpuSet>("[63,0]").unwrap(), some);
}

#[test]
fn a_wire_is_shortened_as_nvidia_smi_prints_it() {
    let shorts =
        [Wire::nvswitch(18, Path::SameNuma), Wire::nvlink(1, Path::CrossSocket), Wire::over(Path::MultipleSwitches)];
    assert_eq!(shorts.map(Wire::short), ["NV18", "NV1", "PXB"]);
}

#[test]
fn a_node_survives_being_stored() {
    let node = dgx1("n").with_health("GPU-n-3", Health::unhealthy("XID 48")).unwrap();
    let text = serde_json::to_string(&node).unwrap();
    assert!(text.contains(r#""wire":"NV2+NODE""#) && text.contains(r#""memoryBytes":"#), "{text}");
    assert_eq!(serde_json::from_str::<Node>(&text).unwrap(), node);
    // Assumptions stay with the facts that made them necessary.
    let gpus: Vec<_> = (0..3).map(|i| gpu("n", i, None)).collect();
    let unknown = Node::new(NodeFacts { name: "n".into(), gpus, ..Default::default() }).unwrap();
    let text = serde_json::to_string(&unknown).unwrap();
    assert_eq!(serde_json::from_str::<Node>(&text).unwrap(), unknown);
}

/// Any wires at all between so many GPUs, reported in both directions, which need not agree.
fn wirings(sizes: std::ops::RangeInclusive<u32>) -> impl Strategy<Value = Node> {
    let wire = prop_oneof![
        4 => (0usize..7).prop_map(|path| Wire::over(Path::ALL[path])),
        2 => (1u8..5, 0usize..7).prop_map(|(links, path)| Wire::nvlink(links, Path::ALL[path])),
        1 => Just(Wire::nvswitch(18, Path::SameNuma)),
    ];
    let pairs = (sizes.end() * sizes.end()) as usize;
    (sizes, prop::collection::vec(prop::option::weighted(0.95, wire), pairs)).prop_map(|(n, wires)| {
        let pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b)));
        let links = pairs.zip(wires).filter_map(|((from, to), wire)| Some(Link { from, to, wire: wire? })).collect();
        let gpus = (0..n).map(|i| gpu("n", i, (i % 3 > 0).then_some(i % 2))).collect();
        Node::new(NodeFacts { name: "n".into(), gpus, links, ..Default::default() }).unwrap()
    })
}

/// Pₖ by its definition, trying every way to cut disjoint sets of k out of GPUs, each once.
struct Packings<'a> {
    wiring: &'a Wiring,
    known: RefCell<HashMap<(u64, usize, usize), u64>>,
}

impl<'a> Packings<'a> {
    fn new(wiring: &'a Wiring) -> Self {
        Self { wiring, known: RefCell::default() }
    }

    /// The most wires that so many disjoint sets of k out of `rest` have.
    fn most(&self, rest: GpuSet, k: usize, sets: usize) -> u64 {
        let Some(lowest) = rest.lowest().filter(|_| sets > 0) else { return 0 };
        if let Some(&known) = self.known.borrow().get(&(rest.bits(), k, sets)) {
            return known;
        }
        // The lowest GPU is in one of the sets, or in none.
        let others = rest.difference(set(&[lowest]));
        let with = |set: GpuSet| u64::from(self.wiring.within(set)) + self.most(rest.difference(set), k, sets - 1);
        let with = subsets(others, k - 1).map(|companions| with(companions.union(set(&[lowest])))).max();
        let without = (others.len() >= k * sets).then(|| self.most(others, k, sets));
        let most = with.max(without).unwrap();
        self.known.borrow_mut().insert((rest.bits(), k, sets), most);
        most
    }

    /// The sum over all later request sizes.
    fn worth(&self, rest: GpuSet) -> u64 {
        (2..=rest.len()).map(|k| self.most(rest, k, rest.len() / k)).sum()
    }

    /// The documented score, times four and the number of later request sizes to stay with whole numbers.
    fn score(&self, chosen: GpuSet, rest: GpuSet) -> u64 {
        let sizes = rest.len().saturating_sub(1).max(1) as u64;
        5 * u64::from(self.wiring.within(chosen)) * sizes + 4 * self.worth(rest)
    }
}

fn subsets(of: GpuSet, size: usize) -> impl Iterator<Item = GpuSet> {
    // Counting down by one within the bits of `of` meets all of its subsets.
    let mut next = Some(of.bits());
    let all = std::iter::from_fn(move || {
        let set = next?;
        next = (set > 0).then(|| (set - 1) & of.bits());
        Some(GpuSet::from_bits(set))
    });
    all.filter(move |set| set.len() == size)
}

/// Any wirings of so many GPUs; which of them are free, must be included, are to be avoided and are sick; how many are asked for.
type Asked = (Node, (u64, u64, u64, u64), usize);

fn asked(sizes: std::ops::RangeInclusive<u32>) -> impl Strategy<Value = Asked> {
    let most = *sizes.end() as usize;
    let some = || 0u64..1 << most;
    let free = prop_oneof![some(), Just(u64::MAX)];
    (wirings(sizes), (free, some(), some(), some()), 0..=most)
}

/// Asks, and compares with all other sets that there are.
fn none_scores_higher((mut node, (free, must, avoid, sick), count): Asked) -> Result<(), TestCaseError> {
    for i in GpuSet::from_bits(sick & sick >> 3).intersection(node.all()).iter() {
        node = node.with_health(&format!("GPU-n-{i}"), Health::unhealthy("XID 79")).unwrap();
    }
    let free = GpuSet::from_bits(free).intersection(node.all());
    let usable = free.intersection(node.healthy());
    let must = GpuSet::from_bits(must & must >> 1 & must >> 2).intersection(usable);
    let avoid = GpuSet::from_bits(avoid & avoid >> 2);
    let answer = choose(&node, free, must, avoid, count);
    let candidates: Vec<_> = subsets(usable, count).filter(|set| must.is_subset(*set)).collect();
    let Some(least) = candidates.iter().map(|set| set.intersection(avoid).len()).min() else {
        prop_assert!(answer.is_err());
        return Ok(());
    };
    // As few of those to avoid as can be; if more than `must` brings, all others are in already.
    let forced = least > must.intersection(avoid).len();
    let kept = if forced { usable } else { usable.difference(avoid) };
    let packings = Packings::new(node.wiring());
    let value = |set: GpuSet| packings.score(set, kept.difference(set));
    let best = candidates.iter().filter(|set| set.intersection(avoid).len() == least).copied();
    let considered = best.clone().count() as u64;
    // Highest score; among equals, the set whose positions come first.
    let best = best.max_by_key(|&set| (value(set), std::cmp::Reverse(set.iter().collect::<Vec<_>>()))).unwrap();
    let choice = answer.unwrap();
    prop_assert_eq!(choice.gpus, best, "score {} against {}", value(choice.gpus), value(best));
    prop_assert!(choice.exact);
    prop_assert_eq!(choice.wires, node.wiring().within(best));
    prop_assert_eq!(choice.avoided, best.intersection(avoid));
    prop_assert_eq!(choice.considered, considered);
    let rest = kept.difference(best);
    let later = packings.worth(rest);
    prop_assert_eq!(u64::from(choice.rest_worth), later / rest.len().saturating_sub(1).max(1) as u64);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_nine_and_ten_gpus_no_other_set_scores_higher(asked in asked(9..=10)) {
        none_scores_higher(asked)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_other_set_scores_higher(asked in asked(1..=8)) {
        none_scores_higher(asked)?;
    }

    #[test]
    fn beyond_the_tables_a_choice_is_never_worse_than_the_average_set(
        node in wirings(17..=22), free in any::<u64>(), count in 1usize..=8,
    ) {
        let free = GpuSet::from_bits(free).intersection(node.all());
        match choose(&node, free, NONE, NONE, count) {
            Err(why) => prop_assert!(free.len() < count, "{why}"),
            Ok(choice) => {
                prop_assert_eq!(choice.gpus.len(), count);
                prop_assert!(choice.gpus.is_subset(free));
                let wiring = node.wiring();
                let kept = u64::from(wiring.within(choice.gpus)) + u64::from(wiring.within(free.difference(choice.gpus)));
                // A pair is within S or within R with probability (k(k−1) + (n−k)(n−k−1)) / n(n−1).
                let (n, k) = (free.len() as u64, count as u64);
                let uncut = k * (k - 1) + (n - k) * (n - k).saturating_sub(1);
                prop_assert!(kept * n * (n - 1) >= u64::from(wiring.within(free)) * uncut);
                prop_assert_eq!(choice.rest_worth, wiring.within(free.difference(choice.gpus)));
                prop_assert_eq!(choice.exact, free.len() == count, "only where there is nothing to choose");
            }
        }
    }

    #[test]
    fn beyond_the_tables_no_swap_makes_a_choice_better(
        node in wirings(17..=22),
        free in any::<u64>(), must in any::<u64>(), avoid in any::<u64>(), count in 0usize..=12,
    ) {
        let free = GpuSet::from_bits(free | free >> 7).intersection(node.all());
        let must = GpuSet::from_bits(must & must >> 5 & must >> 13 & must >> 17).intersection(free);
        let avoid = GpuSet::from_bits(avoid & avoid >> 5);
        let answer = choose(&node, free, must, avoid, count);
        prop_assume!(must.len() <= count && count <= free.len());
        let choice = answer.unwrap();
        prop_assert!(must.is_subset(choice.gpus) && choice.gpus.is_subset(free));
        prop_assert_eq!(choice.gpus.len(), count);
        // Those to be avoided come in only once all others are.
        let open = free.difference(avoid).difference(must);
        let forced = must.len() + open.len() < count;
        let (fixed, kept) = if forced { (must.union(open), free) } else { (must, free.difference(avoid)) };
        let pool = if forced { free.difference(fixed) } else { open };
        prop_assert!(fixed.is_subset(choice.gpus) && choice.gpus.is_subset(fixed.union(pool)));
        let (wiring, all) = (node.wiring(), kept.union(choice.gpus));
        let value = |set: GpuSet| wiring.within(set) + wiring.within(all.difference(set));
        for out in choice.gpus.difference(fixed).iter() {
            for into in pool.difference(choice.gpus).iter() {
                let swapped = choice.gpus.difference(set(&[out])).union(set(&[into]));
                prop_assert!(value(swapped) <= value(choice.gpus), "{into} in place of {out}");
            }
        }
    }

    #[test]
    fn the_order_in_which_facts_come_does_not_matter(node in wirings(1..=8), seed in any::<u64>(), count in 1usize..=3) {
        let mut facts = NodeFacts::from(node.clone());
        // A rotation of the GPUs, with links renumbered, and links in reverse.
        let n = facts.gpus.len();
        let shift = seed as usize % n;
        facts.gpus.rotate_left(shift);
        facts.assumptions.clear();
        for link in &mut facts.links {
            let moved = |i: u32| ((i as usize + n - shift) % n) as u32;
            (link.from, link.to) = (moved(link.to), moved(link.from));
        }
        facts.links.reverse();
        let other = Node::new(facts).unwrap();
        prop_assert_eq!(other.wiring(), node.wiring());
        prop_assert_eq!(choose(&other, other.all(), NONE, NONE, count), choose(&node, node.all(), NONE, NONE, count));
    }
}
