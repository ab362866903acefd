//! cuBLAS, cuBLASLt, cuFFT and cuSPARSE over the simulated driver: what they compute, on the streams they are given.
//!
//! Each call checks its arguments at once, as the libraries do, and queues its work. The work finds its operands when it runs; one
//! that leaves its allocation ends the context with an illegal address, as the library's kernel would.

pub mod blas;
pub mod blaslt;
pub mod elements;
pub mod fft;
pub mod product;
pub mod sparse;
mod vectors;
