//! The state of one simulated machine, shared by every process of a node through a mapped file.
//!
//! ```text
//!   weft-sim fault ──┐        ┌── libweft_sim.so as libnvidia-ml.so.1, in the agent's pod
//!                    ▼        ▼
//!             /run/weft-sim/machine ◄── libweft_sim.so as libcuda.so.1, in a job's pod
//! ```
//!
//! The file holds what changes (faults, memory and work of each process) as atomics, and after that the profile, from
//! which the facts follow. No process may leave it broken by dying at any moment, so nothing in it is a lock:
//!
//! - A process owns one *slot* and is the only writer of it. It is alive as long as the kernel holds its advisory lock
//!   on the slot's byte of the file (an open-file-description lock, released however the process ends). Whoever
//!   looks at the machine clears the slots of the dead, so the memory of a killed process comes back by itself.
//! - Memory in use on a GPU is the sum over the slots: there is no total that a crash between two writes could falsify.
//! - Faults are written under another such lock, and published by advancing one number.
//!
//! # For the CUDA side
//! ```no_run
//! use weft_sim::state;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let machine = state::machine()?;                 // OpenError::NoMachine: answer CUDA_ERROR_NO_DEVICE
//! for index in machine.cuda_visible() {            // ordinal 0, 1, … in this order
//!     let gpu = machine.gpu(index);
//!     println!("{} {}", gpu.facts().uuid, gpu.memory().free_bytes);
//! }
//! let process = machine.process()?;                // takes this process's slot on first use
//! process.allocate(0, 1 << 20)?;                   // OutOfMemory: CUDA_ERROR_OUT_OF_MEMORY
//! let epoch = machine.gpu(0).context_epoch();      // remember in the context
//! let busy = process.busy(0);                      // until dropped, the GPU is at work
//! drop(busy);
//! machine.poll();                                  // sees the control file; cheap, call it on each API entry
//! if machine.gpu(0).context_epoch() != epoch { /* the context is dead: see Gpu::health */ }
//! # Ok(()) }
//! ```

mod fault;
mod file;
mod load;
mod lock;
mod open;
mod process;
pub mod visible;

use std::sync::{
    Mutex, OnceLock,
    atomic::{AtomicU64, Ordering},
};

pub use fault::{Event, EventKind, Fault, FaultError, Health, MemoryErrors};
pub use file::{MAX_GPUS, MAX_PROCESSES};
pub use load::{Load, Traffic};
pub use open::{DEFAULT_STATE, Isolation, OpenError, machine};
pub use process::{Busy, OutOfMemory, Process, ProcessInfo, RegisterError};

use crate::profile::{GpuFacts, Profile};

/// A machine that this process looks at.
pub struct Machine {
    mapping: file::Mapping,
    profile: Profile,
    seed: String,
    facts: Vec<GpuFacts>,
    cuda_version: i32,
    /// This process's place.
    slot: OnceLock<usize>,
    polled_ns: AtomicU64,
    // For our own threads, which the locks on the file do not tell apart.
    slots: Mutex<()>,
    working: Mutex<()>,
    faulting: Mutex<()>,
    controlling: Mutex<()>,
}

/// One GPU of a [`Machine`].
#[derive(Clone, Copy)]
pub struct Gpu<'m> {
    machine: &'m Machine,
    facts: &'m GpuFacts,
    record: &'m file::GpuRecord,
}

/// A GPU's memory, bytes. `total = reserved + used + free`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total_bytes: u64,
    /// Kept by the driver.
    pub reserved_bytes: u64,
    /// Held by processes, their contexts included.
    pub used_bytes: u64,
    /// What can be allocated.
    pub free_bytes: u64,
}

impl Machine {
    /// What the machine was made from.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Driver version, as `580.95.05`.
    pub fn driver_version(&self) -> &str {
        &self.profile.driver
    }

    /// CUDA version as `cuDriverGetVersion` packs it: 13.0 is 13000.
    pub fn cuda_version(&self) -> i32 {
        self.cuda_version
    }

    /// The facts of all GPUs, visible to this process or not.
    pub fn facts(&self) -> &[GpuFacts] {
        &self.facts
    }

    /// The GPU with this index (see [`Machine::visible`]).
    ///
    /// # Panics
    /// There is no such GPU: indices come from [`Machine::visible`] or [`Machine::facts`].
    pub fn gpu(&self, index: usize) -> Gpu<'_> {
        Gpu { machine: self, facts: &self.facts[index], record: &self.mapping.layout().gpus[index] }
    }

    /// All GPUs, visible or not.
    pub fn gpus(&self) -> impl Iterator<Item = Gpu<'_>> {
        (0..self.facts.len()).map(|index| self.gpu(index))
    }

    /// Applies what was appended to the control file since anyone looked. Looks at most every few milliseconds, so
    /// that every API call may begin with it.
    pub fn poll(&self) {
        const EVERY_NS: u64 = 5_000_000;
        let now = now_ns();
        let last = self.polled_ns.load(Ordering::Relaxed);
        if now.saturating_sub(last) >= EVERY_NS
            && self.polled_ns.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.apply_control();
        }
    }

    /// Seconds since the machine was made, by the machine's clock.
    pub fn uptime_seconds(&self) -> f64 {
        now_ns().saturating_sub(self.mapping.layout().header.made_ns.load(Ordering::Relaxed)) as f64 / 1e9
    }
}

impl<'m> Gpu<'m> {
    /// What never changes about it.
    pub fn facts(&self) -> &'m GpuFacts {
        self.facts
    }

    /// Its memory as it is now, with the memory of dead processes given back.
    pub fn memory(&self) -> Memory {
        self.machine.reap();
        let facts = self.facts;
        let used_bytes = self.machine.memory_held(facts.index).min(facts.memory_bytes - facts.reserved_bytes);
        Memory {
            total_bytes: facts.memory_bytes,
            reserved_bytes: facts.reserved_bytes,
            used_bytes,
            free_bytes: facts.memory_bytes - facts.reserved_bytes - used_bytes,
        }
    }
}

/// Nanoseconds of the clock that all processes of a machine share (`CLOCK_MONOTONIC`).
pub fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to. The call cannot fail: the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests;
