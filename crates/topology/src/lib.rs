//! Weft's model of GPU machines and clusters, and the decisions made on it.
//!
//! Everything here is a pure function of plain data: no I/O, no clock, no Kubernetes, no NVML. A decision returns its
//! answer together with the reason that a person reads; nothing computes the reason a second time.
//!
//! ```text
//!  NodeFacts ──Node::new──▶ Node ──────────────choose──▶ Choice     | NoChoice
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

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod choose;
mod gpu;
mod gpu_set;
mod name;
mod node;
mod wire;
mod wiring;

pub use choose::{Choice, NoChoice, choose};
pub use gpu::{Gpu, Health};
pub use gpu_set::GpuSet;
pub use name::{DomainName, GpuUuid, Level, NodeName, Owner};
pub use node::{Assumption, Link, Node, NodeError, NodeFacts};
pub use wire::{NotAWire, Path, Wire};
pub use wiring::{EXACT_UP_TO, Wiring};
