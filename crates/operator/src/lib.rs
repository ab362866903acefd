//! Weft's operator: turns GpuJobs into gangs of pods on the best-wired GPUs, and keeps them there.
//!
//! ```text
//!                       ┌────────────── one leader at a time (lease) ──────────────┐
//! API server ──watch──▶ │ index ──▶ reconcile (pure) ──▶ batch ──▶ write ──────────│──▶ API server
//!                       │   ▲           │ assumed pods                             │
//!                       │   └───────────┘                                          │
//!                       └───────────────────────────────────────────────────────────┘
//! ```
//!
//! * [`facts`]: what matters of nodes and pods. * [`index`]: the world on which decisions are made.
//! * [`ask`]: a job as the question where it has room.
//! * [`reconcile`]: what to do for one job, without effects. * [`write`]: the only place with effects.
//! * [`controller`]: the loop that joins them. * [`lease`]: who of several operators works. * [`pulse`]: whether it does.
//!
//! Nothing that a restart would lose is kept in memory: placements are in the pods (node selector, `weft.dev/gpus`), attempts
//! and restarts in the job's status.

pub mod ask;
pub mod controller;
pub mod facts;
pub mod guard;
pub mod index;
pub mod lease;
pub mod metrics;
pub mod outage;
pub mod pulse;
pub mod quantity;
pub mod reconcile;
pub mod revision;
mod run;
pub mod server;
pub mod validate;
pub mod watch;
pub mod worker_pod;
pub mod write;

pub use run::{Options, run};
