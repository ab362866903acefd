//! What the agent reads of whole machines: the simulated driver behind the real NVML wrapper.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

mod support;

use support::Node;
use weft_sim::state::Fault;
use weft_topology::{GpuSet, Path};

fn node(document: &serde_json::Value) -> weft_topology::Node {
    serde_json::from_value(document["node"].clone()).unwrap()
}

#[test]
fn an_h100_machine_has_every_pair_joined_through_nvswitch_and_two_numa_nodes() {
    let simulated = Node::new("h100x8");
    let document = simulated.discover();
    let node = node(&document);
    assert_eq!(node.gpus().len(), 8);
    assert!(node.assumptions().is_empty(), "nothing had to be guessed: {:?}", node.assumptions());
    for a in 0..8 {
        for b in (0..8).filter(|b| *b != a) {
            let wire = node.wiring().wire(a, b);
            assert!(wire.nvswitch && wire.nvlinks == 18, "{a}-{b}: {wire}");
        }
    }
    let numa: Vec<Option<u32>> = node.gpus().iter().map(|gpu| gpu.numa).collect();
    assert_eq!(numa, [Some(0), Some(0), Some(0), Some(0), Some(1), Some(1), Some(1), Some(1)]);
    let facts = simulated.machine();
    for (gpu, expected) in node.gpus().iter().zip(facts.facts()) {
        assert_eq!(gpu.uuid.as_str(), expected.uuid.to_string());
        assert_eq!(gpu.memory_bytes, expected.memory_bytes);
    }
    assert_eq!(document["driver"]["version"], facts.driver_version());
    let minors: Vec<_> = document["boards"].as_array().unwrap().iter().map(|board| board["minor"].clone()).collect();
    assert_eq!(minors, (0..8).collect::<Vec<_>>());
}

#[test]
fn an_a100_machine_has_two_bridged_pairs_and_nothing_else() {
    let node = node(&Node::new("a100x4").discover());
    let bridged: Vec<(usize, usize)> = (0..4)
        .flat_map(|a| (a + 1..4).map(move |b| (a, b)))
        .filter(|(a, b)| node.wiring().wire(*a, *b).nvlinks > 0)
        .collect();
    assert_eq!(bridged, [(0, 1), (2, 3)]);
    assert!(!node.wiring().wire(0, 1).nvswitch);
    let pair = GpuSet::first(2);
    assert_eq!(node.wiring().grade(pair), 2);
}

#[test]
fn an_l40s_machine_is_wired_over_pcie_only() {
    let node = node(&Node::new("l40sx8").discover());
    assert_eq!(node.gpus().len(), 8);
    let wires = (0..8).flat_map(|a| (a + 1..8).map(move |b| (a, b))).map(|(a, b)| node.wiring().wire(a, b));
    for wire in wires {
        assert!(wire.nvlinks == 0 && wire.path != Path::Unknown, "{wire}");
    }
}

#[test]
fn a_lost_gpu_is_named_and_the_others_are_read() {
    let simulated = Node::new("h100x8");
    simulated.raise(3, Fault::Lost);
    let document = simulated.discover();
    let node = node(&document);
    assert_eq!(node.gpus().len(), 7);
    assert_eq!(document["unreadable"][0]["index"], 3);
    assert!(node.assumptions().is_empty(), "{:?}", node.assumptions());
}

#[test]
fn a_machine_without_a_driver_is_told_in_a_sentence() {
    let output = Node::without_driver("h100x8").discover_raw();
    assert!(!output.status.success());
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert!(sentence.starts_with("weft-agent: no NVIDIA driver found: libnvidia-ml.so.1 is not under"), "{sentence}");
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
}
