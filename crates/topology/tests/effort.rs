//! How many nodes are looked at for an answer: the bounds of the search are worth what they save.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod machines;

use std::cell::RefCell;
use std::collections::BTreeSet;

use machines::{member, nvswitch8, zones_and_racks};
use weft_topology::*;

/// 32 racks of 16 nodes in four zones. Of every `of` nodes all but the first are in use, by one to eight GPUs.
fn cluster(of: u32) -> Cluster {
    let mut cluster = zones_and_racks();
    for n in 0..512 {
        let name = format!("n{n:03}");
        let (zone, rack) = (format!("z{}", n / 128), format!("r{:02}", n / 16));
        cluster.upsert(member(nvswitch8(&name, 18), &[("zone", &zone), ("rack", &rack)]));
        let held = if n % of == 0 { 0 } else { 1 + n * 7 % 8 };
        let gpus = (0..held).map(|gpu| format!("GPU-{name}-{gpu}").into()).collect();
        cluster.claim(&name.as_str().into(), name.as_str().into(), Claim { gpus, ..Default::default() });
    }
    cluster
}

/// The nodes that were asked about, how often, and those taken. One of so many nodes may not be used.
fn asked(cluster: &Cluster, gang: &Gang, off: Option<u32>) -> (BTreeSet<NodeName>, usize, BTreeSet<NodeName>) {
    let nodes = RefCell::new((BTreeSet::new(), 0));
    let eligible = |_: &Group, node: &NodeName| {
        let mut nodes = nodes.borrow_mut();
        nodes.0.insert(node.clone());
        nodes.1 += 1;
        let number: u32 = node.as_str()[1..].parse().unwrap();
        if off.is_some_and(|off| number.is_multiple_of(off)) { Err(Exclusion::Cordoned) } else { Ok(()) }
    };
    let placement = place_where(cluster, gang, &eligible).unwrap();
    let (nodes, times) = nodes.into_inner();
    (nodes, times, placement.workers.into_iter().map(|worker| worker.node).collect())
}

#[test]
fn few_nodes_are_asked_about() {
    let gangs = [
        (1, 1, None),
        (1, 8, None),
        (3, 2, None),
        (8, 8, None),
        (8, 8, Some("zone")),
        (2, 8, Some("rack")),
        (30, 8, None),
        (12, 3, Some("rack")),
    ];
    for (of, cluster) in [1, 2, 5].map(|of| (of, cluster(of))) {
        for (replicas, gpus, required) in gangs {
            let groups = vec![Group::new("w", replicas, gpus)];
            let gang = Gang { groups, required: required.map(Level::from), ..Default::default() };
            // Where all will do, nobody asks about others than those that are taken, and only once.
            let (nodes, times, taken) = asked(&cluster, &gang, None);
            assert_eq!((&nodes, times), (&taken, taken.len()), "{replicas} × {gpus}, {required:?}, 1 of {of} idle");
            // Where some will not, a small gang asks about no more than two racks hold.
            let (nodes, times, _) = asked(&cluster, &gang, Some(7));
            if replicas <= 3 || required == Some("rack") {
                assert!(nodes.len() <= 32, "{replicas} × {gpus}, {required:?}, 1 of {of} idle: {}", nodes.len());
            }
            assert_eq!(times, nodes.len(), "each once");
        }
    }
}
