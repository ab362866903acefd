//! Stand-ins for NVIDIA's user-space driver, driven by a machine profile.
//!
//! One shared library takes the place of `libnvidia-ml.so.1`, `libcuda.so.1` and the maths libraries, so that everything
//! that talks to a GPU through them runs unchanged where there is none:
//!
//! ```text
//!   agent, any NVML tool ──▶ nvml ─┐
//!                                  ├──▶ state (one mapped file per node) ◀── weft-sim fault, weft-sim status
//!   runtime, any CUDA app ─▶ cuda ─┘        ▲
//!                                           └── profile (YAML: GPUs, wires, NUMA)
//! ```
//!
//! [`state`] is the machine; the rest are views of it. A process finds its machine by `WEFT_SIM_STATE`, at
//! `/run/weft-sim/machine`, or makes a private one from `WEFT_SIM_PROFILE`; with none of these the libraries behave like
//! a driver on a machine without a GPU.

pub mod cuda;
pub mod layout;
pub mod mathlib;
pub mod node;
mod nvml;
pub mod profile;
pub mod ptx;
pub mod state;
pub mod status;
