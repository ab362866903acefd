//! Memory that application and runtime share.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use memmap2::MmapMut;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::wire;

/// Shared memory, readable and writable here, pinned in the runtime.
///
/// While an operation runs on it, the GPU writes it: read results after the call has returned.
pub struct Region {
    map: MmapMut,
    handle: u64,
}

impl Region {
    /// The runtime's number for it.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Its bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }

    /// An array that starts `offset` bytes into the region.
    pub fn operand(&self, offset: u64, dtype: wire::DType, shape: &[u64]) -> wire::Operand {
        wire::Operand {
            place: Some(wire::operand::Place::Region(self.handle)),
            offset,
            dtype: dtype.into(),
            shape: shape.to_vec(),
        }
    }
}

/// A file of the shared folder. Its name is removed when this is dropped; its memory lives as long as somebody maps it.
pub(crate) struct File {
    name: String,
    map: MmapMut,
    _unlink: Unlink,
}

/// Removes a file's name.
struct Unlink(PathBuf);

impl File {
    pub(crate) fn create(folder: &Path, bytes: usize) -> io::Result<Self> {
        // Not pid and count: each container of a pod counts its pids from 1, and a killed one leaves its file in the volume.
        let name = format!("rs-{:016x}{:016x}", RandomState::new().hash_one(0), RandomState::new().hash_one(1));
        let path = folder.join(&name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
        let unlink = Unlink(path);
        // The runtime may run under another user.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o666))?;
        // Taken now, by this process: a full volume is an error here, and not a crash or the runtime's memory later.
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes as u64) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => rustix::fs::ftruncate(&file, bytes as u64)?,
            taken => taken?,
        }
        // SAFETY: the file is new, under a name of our own, and the runtime neither cuts it short nor writes it outside calls.
        let map = unsafe { MmapMut::map_mut(&std::fs::File::from(file)) }?;
        Ok(Self { name, map, _unlink: unlink })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The region that the runtime opened under this name.
    pub(crate) fn into_region(self, handle: u64) -> Region {
        Region { map: self.map, handle }
    }
}

impl Drop for Unlink {
    fn drop(&mut self) {
        // Nobody opens it by name after this; if it cannot be removed, the memory volume goes with the pod.
        let _removed = std::fs::remove_file(&self.0);
    }
}
