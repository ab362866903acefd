//! Memory that kernels can reach, by device address.
//!
//! Device memory lies in this process but has addresses of its own ([`DEVICE_BIT`] set), so that a program which follows a device
//! pointer on the host crashes here as it would with a GPU. Pinned and managed memory has the same address on both sides (UVA).

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::error::{Answer, Error};
use super::registry::Handle;
use crate::ptx::exec::Region;
use crate::state::Process;

/// Set in every address of device memory: no pointer of this process has it.
pub const DEVICE_BIT: u64 = 1 << 52;
/// Allocations from this size on are mapped one by one and zero until touched.
const MAP_FROM: usize = 64 << 10;
/// What smaller ones hold at first: not zero, so that a program that forgot to set them shows it.
const POISON: u8 = 0xff;
/// Accounting unit, bytes.
const GRAIN: u64 = 512;

/// What an allocation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On a GPU.
    Device,
    /// `cuMemAllocManaged`: on both sides.
    Managed,
    /// Page-locked memory that the driver allocated.
    Pinned,
    /// Page-locked memory of the program.
    Registered,
}

/// A piece of memory.
pub struct Allocation {
    /// Device address.
    pub base: u64,
    pub bytes: usize,
    pub kind: Kind,
    /// GPU that holds it, or on which the context was when it was made.
    pub gpu: usize,
    pub context: Handle,
    host: *mut u8,
    layout: Storage,
    /// Gives back what was accounted.
    process: Option<Process<'static>>,
    accounted: u64,
}

enum Storage {
    Mapped,
    Heap(std::alloc::Layout),
    Theirs,
}

// SAFETY: the memory is reached from any thread by raw copies and atomics whose ordering the CUDA program is responsible for,
// exactly as on a GPU; the fields themselves do not change.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Drop for Allocation {
    fn drop(&mut self) {
        match self.layout {
            Storage::Mapped => {
                // SAFETY: mapped by `store` with this size, and nothing refers to it any more. An error leaves it mapped.
                unsafe { libc::munmap(self.host.cast(), self.bytes) };
            }
            // SAFETY: allocated by `store` with this layout.
            Storage::Heap(layout) => unsafe { std::alloc::dealloc(self.host, layout) },
            Storage::Theirs => {}
        }
        if let Some(process) = self.process {
            process.free(self.gpu, self.accounted);
        }
    }
}

fn store(bytes: usize) -> Answer<(*mut u8, Storage)> {
    if bytes >= MAP_FROM {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: a new anonymous mapping touches no other memory.
        let host = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        return if host == libc::MAP_FAILED { Err(Error::OutOfMemory) } else { Ok((host.cast(), Storage::Mapped)) };
    }
    let layout = std::alloc::Layout::from_size_align(bytes, GRAIN as usize).map_err(|_| Error::InvalidValue)?;
    // SAFETY: `bytes` is not zero: callers refuse that.
    let host = unsafe { std::alloc::alloc(layout) };
    if host.is_null() {
        return Err(Error::OutOfMemory);
    }
    // SAFETY: just allocated with this size.
    unsafe { host.write_bytes(POISON, bytes) };
    Ok((host, Storage::Heap(layout)))
}

impl Allocation {
    /// New memory of `bytes` for a context on `gpu`; device memory is taken from the machine's account.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for no bytes, [`Error::OutOfMemory`] when the GPU or this machine has too little.
    pub fn new(kind: Kind, bytes: usize, process: Process<'static>, gpu: usize, context: Handle) -> Answer<Self> {
        if bytes == 0 {
            return Err(Error::InvalidValue);
        }
        let accounted = (bytes as u64).checked_next_multiple_of(GRAIN).ok_or(Error::OutOfMemory)?;
        let on_gpu = matches!(kind, Kind::Device | Kind::Managed);
        if on_gpu {
            process.allocate(gpu, accounted).map_err(|_| Error::OutOfMemory)?;
        }
        let (host, layout) = store(bytes).inspect_err(|_| {
            if on_gpu {
                process.free(gpu, accounted);
            }
        })?;
        let base = host as u64 | if kind == Kind::Device { DEVICE_BIT } else { 0 };
        Ok(Self { base, bytes, kind, gpu, context, host, layout, process: on_gpu.then_some(process), accounted })
    }

    /// Memory of the program, page-locked.
    pub fn registered(address: u64, bytes: usize, gpu: usize, context: Handle) -> Self {
        let (base, host, layout) = (address, address as *mut u8, Storage::Theirs);
        Self { base, bytes, kind: Kind::Registered, gpu, context, host, layout, process: None, accounted: 0 }
    }

    /// Where a device address inside lies in this process.
    pub fn host(&self, address: u64) -> *mut u8 {
        self.host.wrapping_add((address - self.base) as usize)
    }

    /// Whether `[address, address + bytes)` lies inside.
    pub fn holds(&self, address: u64, bytes: usize) -> bool {
        address >= self.base
            && (address - self.base).checked_add(bytes as u64).is_some_and(|end| end <= self.bytes as u64)
    }

    /// Whether host code may follow the address.
    pub fn on_host(&self) -> bool {
        self.kind != Kind::Device
    }

    /// As kernels take it.
    pub fn region(self: &Arc<Self>) -> Region {
        let keep: Arc<dyn Any + Send + Sync> = self.clone();
        Region { base: self.base, end: self.base + self.bytes as u64, host: self.host, keep }
    }
}

/// All allocations of this process.
#[derive(Default)]
pub struct Table(RwLock<BTreeMap<u64, Arc<Allocation>>>);

impl Table {
    /// Makes an allocation known.
    pub fn insert(&self, allocation: Allocation) -> u64 {
        let base = allocation.base;
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(base, Arc::new(allocation));
        base
    }

    /// The allocation that holds an address.
    pub fn find(&self, address: u64) -> Option<Arc<Allocation>> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (_, allocation) = table.range(..=address).next_back()?;
        allocation.holds(address, 1).then(|| allocation.clone())
    }

    /// Whether any allocation touches the range.
    pub fn overlaps(&self, address: u64, bytes: usize) -> bool {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let before = table.range(..address.saturating_add(bytes as u64)).next_back();
        before.is_some_and(|(base, allocation)| base + allocation.bytes as u64 > address)
    }

    /// Forgets the allocation that begins at `base` and is of one of the `kinds`; it lives on while work holds it.
    pub fn remove(&self, base: u64, kinds: &[Kind]) -> Option<Arc<Allocation>> {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !kinds.contains(&table.get(&base)?.kind) {
            return None;
        }
        table.remove(&base)
    }

    /// Forgets all allocations of a context.
    pub fn remove_context(&self, context: Handle) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|_, allocation| allocation.context != context);
    }
}
