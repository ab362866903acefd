//! The exported functions, by what they are about.

mod context;
mod copy;
mod device;
mod execution;
mod general;
mod memory;
mod module;
mod stream;
