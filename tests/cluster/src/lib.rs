//! A real Kubernetes cluster on one machine, for tests and the demo: etcd, API server, controller manager, scheduler,
//! CoreDNS, and nodes with kubelet, containerd and runc, each node in namespaces of its own.
//!
//! ```text
//!  127.0.0.1:port ─▶ forwarder ─▶ control plane (network namespace)      node-1 (all namespaces)
//!                                 etcd ◀─ API server ◀─ controllers       pid 1 ─ containerd ─ runc ─ pods
//!                                              ▲         scheduler                └ kubelet
//!                                              └─────────────── bridge ──────────────┘
//! ```
//!
//! [`Cluster::up`] makes one, [`Cluster::open`] finds it again, [`down`] removes it together with everything that ever
//! belonged to it. The programs are built from pinned Go modules ([`tools`]). All state lies in
//! `target/cluster/<name>`. Needs root.
//!
//! A program that uses this crate calls [`helper::dispatch`] first in its `main`.

mod cgroup;
mod cluster;
mod commands;
mod component;
mod error;
pub mod helper;
pub mod machine;
pub mod network;
mod node;
mod node_root;
mod pki;
pub mod preflight;
mod process;
mod progress;
mod run;
mod state;
pub mod tools;

pub use cluster::{Cluster, Options, Status, down};
pub use component::{Component, PAUSE_IMAGE};
pub use error::{Error, Result};
pub use node::NodeSpec;
pub use process::Process;
pub use progress::{Progress, Silent};
pub use state::{cluster_names, state_folder};
