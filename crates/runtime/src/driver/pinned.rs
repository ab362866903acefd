//! Host memory that the GPU reads and writes itself.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys as cuda;
use memmap2::MmapRaw;

use super::Context;
use crate::Error;
use crate::error::Doing;

/// A mapped file whose pages are locked and known to every GPU of this process.
///
/// The runtime's own CPU never reads or writes the bytes: another process writes them at any time, and could cut the file
/// short, which kills whoever touches the lost pages. The pages that the GPU was given stay, whatever happens to the file.
pub struct Pinned {
    map: Arc<MmapRaw>,
    device: u64,
}

impl Pinned {
    /// Locks the pages of `map`. The context must be current on this thread.
    ///
    /// # Errors
    /// What the driver answers: it takes memory (tmpfs, hugetlbfs), not files on a disk.
    pub fn new(_context: &Context, map: Arc<MmapRaw>) -> Result<Self, Error> {
        let host = map.as_mut_ptr().cast::<c_void>();
        let flags = cuda::CU_MEMHOSTREGISTER_PORTABLE | cuda::CU_MEMHOSTREGISTER_DEVICEMAP;
        let what = "pinning a region (it must lie in memory, such as an emptyDir of medium Memory)";
        // SAFETY: the range is mapped, and unregistered in `release` before it is unmapped.
        unsafe { cuda::cuMemHostRegister_v2(host, map.len(), flags) }.result().doing(what)?;
        let mut device = 0;
        // SAFETY: the range was just registered with DEVICEMAP.
        let mapped = unsafe { cuda::cuMemHostGetDevicePointer_v2(&mut device, host, 0) }.result().doing(what);
        let pinned = Self { map, device };
        match mapped {
            Ok(()) => Ok(pinned),
            Err(error) => {
                let _released = pinned.release(_context);
                Err(error)
            }
        }
    }

    /// Address for the CPU side of copies.
    pub fn host(&self) -> usize {
        self.map.as_mut_ptr() as usize
    }

    /// Address for kernels.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Size.
    pub fn bytes(&self) -> usize {
        self.map.len()
    }

    /// Unlocks, and lets go of the mapping.
    ///
    /// # Errors
    /// What the driver answers; the mapping is let go all the same.
    pub fn release(self, _context: &Context) -> Result<(), Error> {
        // SAFETY: registered in `new`, and no copy or kernel is under way: work is synchronised before a region is released.
        unsafe { cuda::cuMemHostUnregister(self.map.as_mut_ptr().cast()) }.result().doing("releasing a region")
    }
}
