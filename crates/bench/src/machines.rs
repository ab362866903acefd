//! The machines and clusters that are measured on.

use anyhow::{Context, Result};
use weft_topology::{
    Claim, Cluster, Gpu, GpuSet, Health, LevelLabel, Link, Member, Node, NodeFacts, NodeName, Owner, Path, Resources,
    Standing, Wire, choose,
};

use crate::random::Random;

/// A machine of `n` GPUs on two sockets; `wire` says what joins two GPUs beside the path that it is given.
pub fn machine(name: &str, product: &str, n: u32, wire: impl Fn(u32, u32, Path) -> Wire) -> Result<Node> {
    let gpu = |index: u32| Gpu {
        uuid: format!("GPU-{name}-{index}").into(),
        index,
        product: product.into(),
        memory_bytes: 80 << 30,
        pci_bus_id: format!("00000000:{index:02X}:00.0").into(),
        numa: Some(index * 2 / n),
        health: Health::Healthy,
        mig_profile: None,
    };
    let path = |a, b| if a * 2 / n == b * 2 / n { Path::SameNuma } else { Path::CrossSocket };
    let pairs = (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b)));
    let links = pairs.map(|(from, to)| Link { from, to, wire: wire(from, to, path(from, to)) }).collect();
    let facts = NodeFacts { name: name.into(), gpus: (0..n).map(gpu).collect(), links, ..Default::default() };
    Node::new(facts).with_context(|| format!("the machine {name}"))
}

/// PCIe cards, each two neighbours joined by an NVLink bridge.
pub fn bridged(name: &str, n: u32) -> Result<Node> {
    let bridge = |a, b, path| if a / 2 == b / 2 { Wire::nvlink(12, path) } else { Wire::over(path) };
    machine(name, "NVIDIA A100 80GB PCIe", n, bridge)
}

/// Eight H100 on an HGX baseboard: 18 NVLinks of each GPU into NVSwitches.
pub fn hgx(name: &str) -> Result<Node> {
    machine(name, "NVIDIA H100 80GB HBM3", 8, |_, _, path| Wire::nvswitch(18, path))
}

/// The name of the `n`-th node.
pub fn node_name(n: usize) -> String {
    format!("n{n:05}")
}

/// A cluster that is partly full.
pub struct Filled {
    pub cluster: Cluster,
    /// Who holds GPUs, and how many.
    pub held: Vec<(Owner, u32)>,
}

/// Nodes of eight H100 in racks of 16 and blocks of 8 racks; `fill` of the GPUs are held by jobs of 1, 2, 4 and 8 GPUs
/// that sit where they happened to land, which `seed` says.
pub fn filled(nodes: usize, fill: f64, seed: u64) -> Result<Filled> {
    let levels = vec![LevelLabel::new("block", "block"), LevelLabel::new("rack", "rack")];
    let mut cluster = Cluster::new(levels)?;
    for n in 0..nodes {
        let rack = n / 16;
        let labels =
            [("block", rack / 8), ("rack", rack)].map(|(key, value)| (key.to_owned(), format!("{key}-{value:04}")));
        cluster.upsert(Member {
            node: hgx(&node_name(n))?,
            labels: labels.into(),
            standing: Standing::Ready,
            allocatable: Resources::new(),
        });
    }
    let mut random = Random::new(0x5eed + seed);
    let mut held = Vec::new();
    let (total, mut taken) = (nodes as f64 * 8.0, 0.0);
    while taken < total * fill {
        let gpus = [1u32, 2, 4, 8, 8][random.below(5)];
        let node = NodeName::from(node_name(random.below(nodes)));
        // Too full for this size: another draw brings another node and, sooner or later, a single GPU.
        let Some(owner) = hold(&mut cluster, &node, gpus, held.len()) else { continue };
        held.push((owner, gpus));
        taken += f64::from(gpus);
    }
    Ok(Filled { cluster, held })
}

fn hold(cluster: &mut Cluster, node: &NodeName, gpus: u32, nth: usize) -> Option<Owner> {
    let seat = cluster.node(node)?;
    let choice = choose(&seat.member.node, seat.free(), GpuSet::EMPTY, GpuSet::EMPTY, gpus as usize).ok()?;
    let gpus = seat.member.node.uuids(choice.gpus);
    let owner = Owner::from(format!("job-{nth}"));
    cluster.claim(node, owner.clone(), Claim { gpus, ..Claim::default() });
    Some(owner)
}
