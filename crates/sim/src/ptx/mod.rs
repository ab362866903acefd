//! PTX, the assembly text that NVRTC emits: read, linked and executed.
//!
//! ```text
//!  text ──lex──▶ tokens ──syntax──▶ functions ──lower──▶ instructions ──module──▶ kernels ──exec──▶ memory
//! ```
//! Nothing here knows of the driver API: [`exec`] reaches memory through the trait [`exec::GlobalMemory`].
//! The rules are those of NVIDIA's "PTX ISA" document.

pub mod exec;
mod inst;
mod lex;
mod lower;
mod module;
mod opcode;
mod syntax;
#[cfg(test)]
mod tests;

pub use inst::{Inst, Op, Ty};
pub use module::{Global, Kernel, Module, Parsed};

/// Why a text is not a module that can run here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {what}")]
pub struct PtxError {
    /// Line in the source, from 1.
    pub line: u32,
    /// What was found there.
    pub what: String,
}

impl PtxError {
    fn new(line: u32, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}
