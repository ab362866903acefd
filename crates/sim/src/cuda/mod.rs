//! `libcuda.so.1`: the CUDA driver API over the simulated machine.
//!
//! ```text
//!  C callers ──▶ api (exported names, checks) ──▶ context ──▶ stream (a queue and a thread) ──▶ launch, copies, libraries
//!                                                   │                                             │
//!                                                   └── driver ── state (shared with NVML) ◀──────┘ memory, busy time
//! ```
//! Calls are asynchronous as they are with a GPU. An error on the GPU (an illegal address, an injected XID) ends its context, and
//! every later call answers it.

mod api;
pub mod context;
pub mod device;
pub mod driver;
pub mod error;
pub mod ffi;
pub mod launch;
pub mod memory;
pub mod module;
pub mod registry;
pub mod stream;
