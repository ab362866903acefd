//! `libnvidia-ml.so.1`: the machine as NVIDIA's management library shows it.
//!
//! Each function takes NVML's own types from `nvml-wrapper-sys`, so that a change of the real interface breaks the build
//! here instead of a reader's memory. What a simulated GPU does not have is answered as a real driver answers it:
//! `NVML_ERROR_NOT_SUPPORTED`. On a lost GPU, everything but what the library remembers of its identity is
//! `NVML_ERROR_GPU_IS_LOST`.

#[macro_use]
mod ffi;
mod events;
mod fields;
mod identity;
mod processes;
mod reliability;
mod sensors;
mod session;
mod unsupported;
mod wires;
