//! Weft's node agent.
//!
//! ```text
//!  driver ──inventory──▶ Snapshot ──cdi──▶ plugin ◀──▶ kubelet (devices, preferred GPUs, Allocate)
//!                 │         │                ▲ ▲
//!                 │         │         pods ──┘ └── holders ◀── kubelet (pod resources)
//!                 │         │   (planned GPUs)        │
//!                 │         ├──────────publish────────┴──▶ API server (GpuNode)
//!                 └─Samples─┴──────────metrics─────────▶ Prometheus
//! ```
//!
//! One value, the [`snapshot::Snapshot`], says what the machine is at a moment. [`inventory`] makes it from the driver and
//! from health events; everything that leaves the agent is derived from it. The agent keeps no state that a restart
//! would lose: kubelet knows who holds what, the API server knows what was planned and which XIDs were seen.

#![forbid(unsafe_code)]

pub mod agent;
pub mod args;
pub mod cdi;
pub mod discover;
pub mod driver_files;
pub mod holders;
pub mod http;
pub mod inventory;
pub mod metrics;
pub mod plugin;
pub mod pods;
pub mod publish;
pub mod remembered;
pub mod report;
pub mod samples;
pub mod snapshot;
pub mod socket;
pub mod status;
pub mod uvm;
