//! The processes on the machine: who holds how much memory, who is at work, and who has died.

use std::{
    io,
    sync::{PoisonError, atomic::Ordering::*},
};

use super::{
    Machine,
    file::{GpuUse, MAX_PROCESSES, Slot},
    lock::{self, Byte},
    now_ns,
};

/// This process as a user of the machine: what it does is seen by all others, and ends with it.
#[derive(Clone, Copy)]
pub struct Process<'m> {
    machine: &'m Machine,
    slot: usize,
}

/// A piece of work under way: from [`Process::busy`] until it is dropped, the GPU counts as used.
#[must_use = "the GPU is at work until this is dropped"]
pub struct Busy<'m> {
    process: Process<'m>,
    gpu: usize,
}

/// A process seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// In the reader's PID namespace if it is visible there, else as the process itself knows it.
    pub pid: i32,
    /// Its command.
    pub command: String,
    /// GPU memory that it holds, bytes.
    pub memory_bytes: u64,
    /// The most that it held at any time, bytes.
    pub peak_bytes: u64,
    /// Its CUDA contexts on the GPU.
    pub contexts: u32,
    /// Its kernel launches on the GPU.
    pub launches: u64,
    /// GPU time of its finished work, nanoseconds.
    pub busy_ns: u64,
}

/// The GPU has too little free memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("GPU {gpu} has {free_bytes} bytes free, {wanted_bytes} were asked for")]
pub struct OutOfMemory {
    /// The GPU's index.
    pub gpu: usize,
    /// What was asked for.
    pub wanted_bytes: u64,
    /// What was there.
    pub free_bytes: u64,
}

/// Why this process cannot use the machine.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// All slots belong to living processes.
    #[error("{MAX_PROCESSES} processes use this simulated machine already: end one of them")]
    Full,
    /// The state's file system knows no locks.
    #[error("cannot lock the machine state: {0}; keep it on a local file system")]
    Lock(#[from] io::Error),
}

impl Machine {
    /// This process's place on the machine, taken at the first call and kept until the process ends.
    ///
    /// After `fork` the child shares its parent's place: compare [`Process::pid`] with your own to refuse, as CUDA does.
    ///
    /// # Errors
    /// There is no free place.
    pub fn process(&self) -> Result<Process<'_>, RegisterError> {
        if let Some(slot) = self.slot.get() {
            return Ok(Process { machine: self, slot: *slot });
        }
        let _local = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = self.slot.get() {
            return Ok(Process { machine: self, slot: *slot });
        }
        let file = &self.mapping.file;
        for (number, slot) in self.mapping.layout().slots.iter().enumerate() {
            if !lock::try_lock(file, Byte::Slot(number))? {
                continue;
            }
            // Whoever had it is dead: the lock would not be ours otherwise.
            slot.clear();
            slot.set_command(&own_command());
            slot.since_ns.store(now_ns(), Relaxed);
            // A convenience only: readers fall back to the recorded number.
            let _unmarked = lock::mark_pid(file, Byte::Pid(number));
            slot.pid.store(std::process::id() as i32, Release);
            self.slot.get_or_init(|| number);
            return Ok(Process { machine: self, slot: number });
        }
        Err(RegisterError::Full)
    }

    /// The processes that use GPU `gpu`, in no order.
    pub fn processes(&self, gpu: usize) -> Vec<ProcessInfo> {
        self.reap();
        let slots = self.mapping.layout().slots.iter().enumerate();
        slots
            .filter_map(|(number, slot)| {
                let recorded = slot.pid.load(Acquire);
                let uses = &slot.uses[gpu];
                let (contexts, memory_bytes) = (uses.contexts.load(Relaxed), uses.memory_bytes.load(Relaxed));
                (recorded != 0 && (contexts > 0 || memory_bytes > 0)).then(|| ProcessInfo {
                    pid: lock::pid_of(&self.mapping.file, Byte::Pid(number)).unwrap_or(recorded),
                    command: slot.command(),
                    memory_bytes,
                    peak_bytes: uses.peak_bytes.load(Relaxed),
                    contexts,
                    launches: uses.launches.load(Relaxed),
                    busy_ns: uses.busy_ns.load(Relaxed),
                })
            })
            .collect()
    }

    /// Gives back what dead processes held.
    pub fn reap(&self) {
        let _local = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let file = &self.mapping.file;
        for (number, slot) in self.mapping.layout().slots.iter().enumerate() {
            if slot.pid.load(Acquire) == 0 || self.slot.get() == Some(&number) {
                continue;
            }
            // Where locks cannot be read, nobody is declared dead.
            if lock::held_by_other(file, Byte::Slot(number)).unwrap_or(true) {
                continue;
            }
            if lock::try_lock(file, Byte::Slot(number)).unwrap_or(false) {
                slot.clear();
                // If this fails, the slot stays ours and is lost until this process ends; nothing else suffers.
                let _kept = lock::unlock(file, Byte::Slot(number));
            }
        }
    }

    pub(super) fn memory_held(&self, gpu: usize) -> u64 {
        self.mapping.layout().slots.iter().map(|slot| slot.uses[gpu].memory_bytes.load(SeqCst)).sum()
    }

    /// When the pieces of work now under way on `gpu` began.
    pub(super) fn running_since(&self, gpu: usize) -> impl Iterator<Item = u64> {
        self.mapping
            .layout()
            .slots
            .iter()
            .map(move |slot| slot.uses[gpu].busy_since_ns.load(Relaxed))
            .filter(|ns| *ns > 0)
    }

    /// Whether any process has a context on `gpu`.
    pub(super) fn has_contexts(&self, gpu: usize) -> bool {
        self.mapping.layout().slots.iter().any(|slot| slot.uses[gpu].contexts.load(Relaxed) > 0)
    }
}

impl<'m> Process<'m> {
    /// The process that took the place: not the caller, in a forked child.
    pub fn pid(&self) -> i32 {
        self.uses_slot().pid.load(Relaxed)
    }

    /// Takes memory of GPU `gpu`.
    ///
    /// # Errors
    /// Less is free, even after the memory of dead processes was given back.
    pub fn allocate(&self, gpu: usize, bytes: u64) -> Result<(), OutOfMemory> {
        let facts = &self.machine.facts[gpu];
        let capacity = facts.memory_bytes - facts.reserved_bytes;
        let uses = self.uses(gpu);
        for reaped in [false, true] {
            if reaped {
                self.machine.reap();
            }
            // First written down, then summed up: two processes at once may both be refused, never both be served.
            let own = uses.memory_bytes.fetch_add(bytes, SeqCst).saturating_add(bytes);
            if bytes <= capacity && self.machine.memory_held(gpu) <= capacity {
                uses.peak_bytes.fetch_max(own, Relaxed);
                return Ok(());
            }
            uses.memory_bytes.fetch_sub(bytes, SeqCst);
        }
        let free_bytes = capacity.saturating_sub(self.machine.memory_held(gpu));
        Err(OutOfMemory { gpu, wanted_bytes: bytes, free_bytes })
    }

    /// Gives back memory that [`Process::allocate`] took.
    pub fn free(&self, gpu: usize, bytes: u64) {
        // `fetch_update` with a floor: a wrong call must not make the machine's memory astronomical.
        let _previous =
            self.uses(gpu).memory_bytes.fetch_update(SeqCst, SeqCst, |held| Some(held.saturating_sub(bytes)));
    }

    /// Counts a context on GPU `gpu`, which makes the process one that NVML lists.
    pub fn context_created(&self, gpu: usize) {
        self.uses(gpu).contexts.fetch_add(1, Relaxed);
    }

    /// Counts a context less.
    pub fn context_destroyed(&self, gpu: usize) {
        let _previous = self.uses(gpu).contexts.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
    }

    /// Counts a kernel launch.
    pub fn launched(&self, gpu: usize) {
        self.uses(gpu).launches.fetch_add(1, Relaxed);
        self.machine.mapping.layout().gpus[gpu].launches.fetch_add(1, Relaxed);
    }

    /// Counts bytes copied from the host to the GPU.
    pub fn copied_to_gpu(&self, gpu: usize, bytes: u64) {
        let record = &self.machine.mapping.layout().gpus[gpu];
        record.pcie_rx_bytes.fetch_add(bytes, Relaxed);
        record.rx.add(now_ns(), bytes.div_ceil(1024));
    }

    /// Counts bytes copied from the GPU to the host.
    pub fn copied_to_host(&self, gpu: usize, bytes: u64) {
        let record = &self.machine.mapping.layout().gpus[gpu];
        record.pcie_tx_bytes.fetch_add(bytes, Relaxed);
        record.tx.add(now_ns(), bytes.div_ceil(1024));
    }

    /// Counts bytes copied from one GPU to another: over NVLink where they have one, else over PCIe.
    pub fn copied_between(&self, from: usize, to: usize, bytes: u64) {
        let (source, target) = (&self.machine.facts[from], &self.machine.facts[to]);
        if source.nvlinks_to(target) > 0 {
            let gpus = &self.machine.mapping.layout().gpus;
            gpus[from].nvlink_tx_bytes.fetch_add(bytes, Relaxed);
            gpus[to].nvlink_rx_bytes.fetch_add(bytes, Relaxed);
        } else if from != to {
            self.copied_to_host(from, bytes);
            self.copied_to_gpu(to, bytes);
        }
    }

    /// Begins a piece of work (a kernel, a library call) on GPU `gpu`.
    pub fn busy(&self, gpu: usize) -> Busy<'m> {
        let _local = self.machine.working.lock().unwrap_or_else(PoisonError::into_inner);
        let uses = self.uses(gpu);
        if uses.running.fetch_add(1, Relaxed) == 0 {
            uses.busy_since_ns.store(now_ns(), Relaxed);
        }
        Busy { process: *self, gpu }
    }

    fn uses_slot(&self) -> &'m Slot {
        &self.machine.mapping.layout().slots[self.slot]
    }

    fn uses(&self, gpu: usize) -> &'m GpuUse {
        &self.uses_slot().uses[gpu]
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let machine = self.process.machine;
        let _local = machine.working.lock().unwrap_or_else(PoisonError::into_inner);
        let uses = self.process.uses(self.gpu);
        if uses.running.fetch_sub(1, Relaxed) == 1 {
            let (since, now) = (uses.busy_since_ns.swap(0, Relaxed), now_ns());
            let spent = now.saturating_sub(since);
            uses.busy_ns.fetch_add(spent, Relaxed);
            let record = &machine.mapping.layout().gpus[self.gpu];
            record.busy_ns.fetch_add(spent, Relaxed);
            record.work.add_between(since, now);
        }
    }
}

impl Slot {
    /// Back to nothing. The PID goes last: until then, others may see the slot as in use and look at its lock again.
    fn clear(&self) {
        for uses in &self.uses {
            uses.busy_since_ns.store(0, Relaxed);
            uses.running.store(0, Relaxed);
            uses.contexts.store(0, Relaxed);
            uses.memory_bytes.store(0, SeqCst);
            uses.peak_bytes.store(0, Relaxed);
            uses.busy_ns.store(0, Relaxed);
            uses.launches.store(0, Relaxed);
        }
        self.pid.store(0, Release);
    }

    fn command(&self) -> String {
        let bytes: Vec<u8> = self.command.iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).collect();
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
    }

    fn set_command(&self, command: &str) {
        let mut bytes = [0; 64];
        let end = command.len().min(bytes.len());
        bytes[..end].copy_from_slice(&command.as_bytes()[..end]);
        for (word, chunk) in self.command.iter().zip(bytes.chunks_exact(8)) {
            word.store(chunk.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)), Relaxed);
        }
    }
}

fn own_command() -> String {
    std::env::current_exe().ok().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}
