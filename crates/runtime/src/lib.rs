//! The runtime that owns a pod's GPUs: it runs programs from YAML, and serves applications that have no CUDA of their own.
//!
//! ```text
//!  weft-runtime run FILE ──▶ program ──┐
//!                                      ├─▶ device: one thread for each GPU ─▶ driver: CUDA, NVRTC, cuBLAS, cuFFT, cuSPARSE
//!  client ──socket──▶ serve: sessions ─┘
//!           shared memory: regions ───── pinned, the GPU reads and writes them itself
//! ```
//!
//! A CUDA context lives on one thread and never leaves it. Requests reach that thread as closures through a bounded channel
//! and answer through a one-shot; whoever waits is a task, never a blocked thread. Every CUDA library is looked up at run
//! time, and a missing one is an error that says which step needs it.

mod answer;
pub mod device;
pub mod driver;
mod error;
pub mod logging;
pub mod probe;
pub mod program;
pub mod ptx;
pub mod serve;

pub use error::Error;
