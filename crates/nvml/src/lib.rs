//! Reads a machine's GPUs through NVIDIA's management library, and watches their health.
//!
//! ```text
//!  DriverRoot ──Driver::open──▶ Driver ──read──▶ Machine ─▶ weft_topology::Node
//!                                 │
//!                                 └──Monitor::start──▶ Observation ─▶ Health (a state machine)
//!                                                                 └─▶ Sample (for metrics)
//! ```
//!
//! This is the only crate that names NVML. Calls that `nvml-wrapper` lacks or gets wrong are in `raw`, the only module
//! with `unsafe`. Nothing here is asynchronous: the monitor runs threads and calls a closure.

#![deny(missing_docs)]
#![deny(unsafe_code)]

mod driver;
pub mod health;
mod monitor;
#[allow(unsafe_code)]
mod raw;
mod read;
mod root;
mod sample;

pub use driver::{Driver, DriverError};
pub use health::{Fault, Health, HealthPolicy, Probe, RecoveryAction, State, Unanswered};
pub use monitor::{Monitor, Observation, Sink};
pub use raw::RemappedRows;
pub use read::{Board, DriverInfo, Machine, Unreadable, read, uuids};
pub use root::DriverRoot;
pub use sample::{MemoryUse, Sample};
