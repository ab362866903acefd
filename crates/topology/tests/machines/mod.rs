//! Machines and clusters that the tests share, wired as `nvidia-smi topo -m` shows them on real ones.
#![allow(dead_code, reason = "each test file uses some")]

use std::collections::BTreeMap;

use weft_topology::{
    Cluster, Exclusion, Gang, Gpu, GpuSet, Group, Health, Level, LevelLabel, Link, Member, Node, NodeFacts, NodeName,
    Path, Resources, Running, Standing, Wire,
};

/// GPU `index` of `node`, on socket `numa`.
pub fn gpu(node: &str, index: u32, numa: Option<u32>) -> Gpu {
    Gpu {
        uuid: format!("GPU-{node}-{index}").into(),
        index,
        product: "NVIDIA H100 80GB HBM3".into(),
        memory_bytes: 80 << 30,
        pci_bus_id: format!("00000000:{index:02X}:00.0").into(),
        numa,
        health: Health::Healthy,
        mig_profile: None,
    }
}

/// A node of `n` GPUs, the lower half on socket 0, wired by `wire`.
pub fn node(name: &str, n: u32, wire: impl Fn(u32, u32) -> Wire) -> Node {
    let gpus = (0..n).map(|i| gpu(name, i, Some(i * 2 / n))).collect();
    let pairs = (0..n).flat_map(|a| (0..n).filter(move |&b| b != a).map(move |b| (a, b)));
    let links = pairs.map(|(from, to)| Link { from, to, wire: wire(from.min(to), from.max(to)) }).collect();
    Node::new(NodeFacts { name: name.into(), gpus, links, ..Default::default() }).unwrap()
}

fn socket_path(a: u32, b: u32, half: u32) -> Path {
    if a / half == b / half { Path::SameNuma } else { Path::CrossSocket }
}

/// DGX A100 or H100: all GPUs on NVSwitch (12 or 18 links each), four to a socket.
pub fn nvswitch8(name: &str, links: u8) -> Node {
    node(name, 8, |a, b| Wire::nvswitch(links, socket_path(a, b, 4)))
}

/// DGX-1 with V100: the hybrid cube mesh, six NVLinks a GPU, pairs on a PCIe switch.
pub fn dgx1(name: &str) -> Node {
    const LINKS: [(u32, u32, u8); 16] = [
        (0, 1, 1),
        (0, 2, 1),
        (0, 3, 2),
        (0, 4, 2),
        (1, 2, 2),
        (1, 3, 1),
        (1, 5, 2),
        (2, 3, 2),
        (2, 6, 1),
        (3, 7, 1),
        (4, 5, 1),
        (4, 6, 1),
        (4, 7, 2),
        (5, 6, 2),
        (5, 7, 1),
        (6, 7, 2),
    ];
    node(name, 8, |a, b| {
        let path = if a / 2 == b / 2 { Path::SingleSwitch } else { socket_path(a, b, 4) };
        match LINKS.iter().find(|link| (link.0, link.1) == (a, b)) {
            Some(&(_, _, links)) => Wire::nvlink(links, path),
            None => Wire::over(path),
        }
    })
}

/// PCIe cards in two sockets, neighbours (0,1), (2,3), … joined by an NVLink bridge.
pub fn bridged(name: &str, n: u32) -> Node {
    node(name, n, |a, b| {
        let path = socket_path(a, b, n / 2);
        if a / 2 == b / 2 { Wire::nvlink(12, path) } else { Wire::over(path) }
    })
}

/// PCIe cards in two sockets without bridges.
pub fn pcie(name: &str, n: u32) -> Node {
    node(name, n, |a, b| Wire::over(socket_path(a, b, n / 2)))
}

/// HGX-2: 16 GPUs on NVSwitch, eight to a baseboard.
pub fn hgx2(name: &str) -> Node {
    node(name, 16, |a, b| Wire::nvswitch(6, socket_path(a, b, 8)))
}

/// The set of these positions.
pub fn set(positions: &[usize]) -> GpuSet {
    positions.iter().copied().collect()
}

/// A member with the given level labels, 64 cores and 100 pods.
pub fn member(node: Node, labels: &[(&str, &str)]) -> Member {
    Member {
        node,
        labels: labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>(),
        standing: Standing::Ready,
        allocatable: Resources::new().with("cpu", 64_000).with("pods", 100),
    }
}

/// An empty cluster with levels zone and rack, labelled by their own names.
pub fn zones_and_racks() -> Cluster {
    Cluster::new(vec![LevelLabel::new("zone", "zone"), LevelLabel::new("rack", "rack")]).unwrap()
}

/// `racks` racks (r0, r1, …) of `nodes` DGX H100 each (r0-n0, …), all in zone z.
pub fn racks_of_h100(racks: u32, nodes: u32) -> Cluster {
    let mut cluster = zones_and_racks();
    for rack in 0..racks {
        for n in 0..nodes {
            let node = nvswitch8(&format!("r{rack}-n{n}"), 18);
            cluster.upsert(member(node, &[("zone", "z"), ("rack", &format!("r{rack}"))]));
        }
    }
    cluster
}

/// A gang of one group, `worker`.
pub fn gang(replicas: u32, gpus: u32, required: Option<&str>) -> Gang {
    let groups = vec![Group::new("worker", replicas, gpus)];
    Gang { groups, required: required.map(Level::from), ..Default::default() }
}

/// Rules no node out.
pub fn every_node(_: &Group, _: &NodeName) -> Result<(), Exclusion> {
    Ok(())
}

/// Rules no node out for any job.
pub fn anyone(_: Option<&Running>, _: &Group, _: &NodeName) -> Result<(), Exclusion> {
    Ok(())
}
