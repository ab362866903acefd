//! Weft's model of GPU machines and clusters, and the decisions made on it.
//!
//! Everything here is a pure function of plain data: no I/O, no clock, no Kubernetes, no NVML. A decision returns its
//! answer together with the reason that a person reads; nothing computes the reason a second time.
//!
//! ```text
//!  NodeFacts ──Node::new──▶ Node ──────────────choose──▶ Choice     | NoChoice
//!                            ├───────────────────share───▶ Shared     | NoChoice     (parts of GPUs)
//!                            │
//!                            └─▶ Cluster ──────place───▶ Placement  | NoPlacement
//! ```
//!
//! # Choosing GPUs of a node
//! ```
//! use weft_topology::{Gpu, GpuSet, Health, Link, Node, NodeFacts, Path, Wire, choose};
//!
//! // Four A100 PCIe cards, bridged in pairs (0,1) and (2,3).
//! let gpu = |index: u32| Gpu {
//!     uuid: format!("GPU-{index}").into(),
//!     index,
//!     product: "NVIDIA A100 80GB PCIe".into(),
//!     memory_bytes: 80 << 30,
//!     pci_bus_id: format!("00000000:{index:02X}:00.0").into(),
//!     numa: Some(index / 2),
//!     health: Health::Healthy,
//!     mig_profile: None,
//! };
//! let links = vec![
//!     Link { from: 0, to: 1, wire: Wire::nvlink(12, Path::SameNuma) },
//!     Link { from: 2, to: 3, wire: Wire::nvlink(12, Path::SameNuma) },
//! ];
//! let node = Node::new(NodeFacts { name: "node-3".into(), gpus: (0..4).map(gpu).collect(), links, ..Default::default() })?;
//! assert_eq!(node.assumptions().len(), 4); // the pairs that nobody reported, inferred from NUMA nodes
//!
//! // GPU 1 is taken: a single GPU comes from the broken pair, not from the whole one.
//! let free = node.set_of(["GPU-0", "GPU-2", "GPU-3"])?;
//! let choice = choose(&node, free, GpuSet::EMPTY, GpuSet::EMPTY, 1)?;
//! assert_eq!(node.uuids(choice.gpus), ["GPU-0".into()]);
//! assert_eq!(
//!     choice.explain(&node).to_string(),
//!     "GPU 0 of node-3: of 3 free it breaks least of what later jobs need",
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Placing a gang on a cluster
//! ```
//! use weft_topology::*;
//!
//! let gpu = |node: &str, index: u32| Gpu {
//!     uuid: format!("GPU-{node}-{index}").into(),
//!     index,
//!     product: "NVIDIA H100 80GB HBM3".into(),
//!     memory_bytes: 80 << 30,
//!     pci_bus_id: format!("00000000:{index:02X}:00.0").into(),
//!     numa: Some(index / 4),
//!     health: Health::Healthy,
//!     mig_profile: None,
//! };
//! let member = |name: &str, rack: &str| -> Result<Member, NodeError> {
//!     let wire = |from, to| Link { from, to, wire: Wire::nvswitch(18, Path::CrossSocket) };
//!     let links = (0..8).flat_map(|a| (a + 1..8).map(move |b| wire(a, b))).collect();
//!     let gpus = (0..8).map(|index| gpu(name, index)).collect();
//!     Ok(Member {
//!         node: Node::new(NodeFacts { name: name.into(), gpus, links, ..Default::default() })?,
//!         labels: [("topology.weft.dev/rack".to_owned(), rack.to_owned())].into(),
//!         standing: Standing::Ready,
//!         allocatable: Resources::new().with("cpu", 64_000),
//!     })
//! };
//! let mut cluster = Cluster::new(vec![LevelLabel::new("rack", "topology.weft.dev/rack")])?;
//! cluster.upsert(member("node-1", "rack-a")?);
//! cluster.upsert(member("node-2", "rack-a")?);
//! cluster.upsert(member("node-3", "rack-b")?);
//!
//! let gang = Gang { groups: vec![Group::new("worker", 2, 8)], required: Some("rack".into()), ..Default::default() };
//! let placement = place(&cluster, &gang)?;
//! assert_eq!(placement.workers[1].node, "node-2".into());
//! assert_eq!(placement.to_string(), "2 workers × 8 GPUs on node-1, node-2; racks used 1, hosts used 2");
//!
//! // A pod takes one GPU of node-2; nodes may be ruled out with a reason.
//! let one = Claim { gpus: vec!["GPU-node-2-5".into()], ..Default::default() };
//! cluster.claim(&"node-2".into(), "default/notebook".into(), one);
//! let ready = |_: &Group, node: &NodeName| match node.as_str() {
//!     "node-3" => Err(Exclusion::Taint { detail: "maintenance:NoSchedule".into() }),
//!     _ => Ok(()),
//! };
//! let why = place_where(&cluster, &gang, &ready).unwrap_err();
//! assert_eq!(
//!     why.to_string(),
//!     "needs 2 workers × 8 GPUs in one rack; best is rack-a with room for 1 of 2; \
//!      excluded: 1 node in rack-b: taint (maintenance:NoSchedule), 1 node in rack-a: GPUs taken (7 of 8 left)",
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod choose;
mod chosen;
mod cluster;
mod gang;
mod gpu;
mod gpu_set;
mod name;
mod node;
mod pages;
pub mod place;
mod resources;
mod seat;
pub mod share;
mod shared;
pub mod situation;
mod stock;
mod tree;
mod trie;
pub mod what_if;
mod why;
mod wire;
mod wiring;

pub use choose::{Choice, NoChoice, choose};
pub use cluster::{Claim, Cluster, LevelLabel, LevelsError, Member, Standing};
pub use gang::{Balance, Gang, Group, InvalidGang, Joined, MOST_WORKERS, Placed, Relation, Slice};
pub use gpu::{Gpu, Health};
pub use gpu_set::GpuSet;
pub use name::{DomainName, GpuUuid, Level, NodeName, Owner};
pub use node::{Assumption, Link, Node, NodeError, NodeFacts};
pub use place::rings::{Ring, Rings};
pub use place::{Eligibility, Placement, Preference, Term, Worker, place, place_if_room, place_where};
pub use resources::Resources;
pub use seat::Seat;
pub use share::{Load, Shared, Sharing, share, share_out};
pub use situation::{Asked, Rules, Situation, Unreadable, VERSION, Verdict};
pub use what_if::{Addition, Running, smallest_addition};
pub use why::{Best, Excluded, Exclusion, NoPlacement, NoRoom};
pub use wire::{NotAWire, Path, Wire};
pub use wiring::{EXACT_UP_TO, Wiring};
