//! Weft's resources as Rust types: what people write (`GpuJob`, `GpuTopology`), what the node agent reports (`GpuNode`), and
//! the names under which the parts of Weft meet ([`names`]).
//!
//! ```text
//!  people ──▶ GpuJob ──────▶ operator ──▶ pods, status
//!  people ──▶ GpuTopology ─▶ operator, kubectl-weft
//!  agent  ──▶ GpuNode ─────▶ operator, kubectl-weft
//! ```
//!
//! The custom resource definitions in `crds/` are generated from these types (`cargo run -p weft-api --bin crdgen`); a test
//! fails when the folder is out of step. Rules that one object can be judged by are in the definitions, as schema or CEL, so
//! that `kubectl apply` answers at once; rules that need another object (does the level exist?) are the operator's.

// Every printer column has a type and a path of its own; to clippy they look repeated.
#![allow(clippy::duplicated_attributes)]

pub mod conditions;
mod crds;
pub mod job;
pub mod names;
pub mod node;
mod reference;
pub mod topology;

pub use crds::{CrdFile, crds};
pub use job::{GpuJob, GpuJobSpec, GpuJobStatus};
pub use node::{GpuNode, GpuNodeSpec, GpuNodeStatus};
pub use reference::reference;
pub use topology::{GpuTopology, GpuTopologySpec};
