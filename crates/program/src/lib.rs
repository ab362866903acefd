//! The language of `spec.program`: arrays, kernels and library calls that a person writes in YAML and a GPU runs.
//!
//! ```text
//! YAML ──serde──▶ Program ──validate──▶ Plan ──▶ weft-runtime runs it
//!                    │           └────▶ [Problem]: the field and what is wrong with it
//!                    └─schemars──▶ the CRD's structural schema
//! ```
//!
//! The types are part of the `GpuJob` resource, so their schema is structural: every choice between alternatives is a
//! struct of optional fields, and [`validate`] checks that exactly one is set. [`validate`] does no I/O: the operator
//! calls it before it makes a pod, and the runtime calls it again before it touches a GPU.

mod document;
mod dtype;
mod plan;
mod problem;
mod spec;
mod validate;

pub use document::{DocumentError, parse};
pub use dtype::DType;
pub use plan::*;
pub use problem::Problem;
pub use spec::*;
pub use validate::validate;
