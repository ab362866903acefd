//! The file: a fixed layout of atomics, then the profile as YAML.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering},
};

use memmap2::MmapRaw;
use serde::{Deserialize, Serialize};

use super::{Isolation, OpenError, now_ns};
use crate::profile::Profile;

/// GPUs that one machine can have.
pub const MAX_GPUS: usize = 16;
/// Processes that can use one machine at a time.
pub const MAX_PROCESSES: usize = 256;
/// Events that a waiter may fall behind before it misses one.
pub const EVENTS: usize = 128;
/// Spans of a [`Window`]: together 25.6 s.
pub const SPANS: usize = 256;

const MAGIC: u64 = u64::from_le_bytes(*b"WEFT-SIM");
/// Raised with every change of the layout or of what its numbers mean.
const FORMAT: u32 = 1;

/// The whole fixed part. Only atomics, for which all zeros is a valid beginning.
#[repr(C)]
pub struct Layout {
    pub header: Header,
    pub gpus: [GpuRecord; MAX_GPUS],
    pub events: [EventRecord; EVENTS],
    pub slots: [Slot; MAX_PROCESSES],
}

#[repr(C)]
pub struct Header {
    pub magic: AtomicU64,
    pub format: AtomicU32,
    pub isolation: AtomicU32,
    pub made_ns: AtomicU64,
    pub document_bytes: AtomicU64,
    /// Bytes of the control file that were applied.
    pub control_offset: AtomicU64,
    /// Events ever published; the ring holds the last [`EVENTS`].
    pub events: AtomicU64,
    /// A futex: changes with every event.
    pub bell: AtomicU32,
    _padding: AtomicU32,
    _room: [AtomicU64; 24],
}

#[repr(C)]
pub struct GpuRecord {
    /// 0 healthy, 1 XID, 2 lost.
    pub health: AtomicU32,
    /// The last XID since the last recovery.
    pub xid: AtomicU32,
    /// Changes with every fault and recovery.
    pub generation: AtomicU32,
    /// Changes when every context on the GPU dies.
    pub context_epoch: AtomicU32,
    /// Highest energy ever reported, mJ: a counter must not go back.
    pub energy_mj: AtomicU64,
    /// Work of all processes, finished pieces, ns.
    pub busy_ns: AtomicU64,
    /// Kernel launches.
    pub launches: AtomicU64,
    /// From the GPU to the host.
    pub pcie_tx_bytes: AtomicU64,
    /// From the host to the GPU.
    pub pcie_rx_bytes: AtomicU64,
    pub nvlink_tx_bytes: AtomicU64,
    pub nvlink_rx_bytes: AtomicU64,
    /// XIDs ever raised.
    pub xids: AtomicU64,
    /// Uncorrected memory errors.
    pub memory_errors: AtomicU64,
    /// Rows of memory that were replaced.
    pub rows_remapped: AtomicU32,
    /// 1: a replacement waits for a reset.
    pub remap_pending: AtomicU32,
    /// 1: a replacement failed.
    pub remap_failed: AtomicU32,
    _padding: AtomicU32,
    _room: [AtomicU64; 13],
    /// Microseconds of work.
    pub work: Window,
    /// KiB sent to the host.
    pub tx: Window,
    /// KiB received from the host.
    pub rx: Window,
}

/// What happened in the last 25.6 s: one span for each 100 ms, number of the span in the upper half, amount in the lower.
#[repr(C)]
pub struct Window {
    pub spans: [AtomicU64; SPANS],
}

#[repr(C)]
pub struct EventRecord {
    pub gpu: AtomicU32,
    /// As `EventKind` numbers them.
    pub kind: AtomicU32,
    /// The XID.
    pub data: AtomicU64,
    pub at_ns: AtomicU64,
}

/// What one process does. Written only by the holder of the slot's lock.
#[repr(C)]
pub struct Slot {
    /// In the process's own PID namespace; 0: free.
    pub pid: AtomicI32,
    _padding: AtomicU32,
    pub since_ns: AtomicU64,
    /// The command, NUL-padded.
    pub command: [AtomicU64; 8],
    pub uses: [GpuUse; MAX_GPUS],
}

/// What one process does on one GPU.
#[repr(C)]
pub struct GpuUse {
    pub memory_bytes: AtomicU64,
    pub peak_bytes: AtomicU64,
    pub contexts: AtomicU32,
    /// Pieces of work under way.
    pub running: AtomicU32,
    /// When the first of them began, 0 when there is none.
    pub busy_since_ns: AtomicU64,
    pub busy_ns: AtomicU64,
    pub launches: AtomicU64,
}

/// The part of the file that people can read.
#[derive(Serialize, Deserialize)]
pub struct Document {
    pub seed: String,
    pub profile: Profile,
}

/// An open state file.
pub struct Mapping {
    map: MmapRaw,
    pub file: File,
    /// Where it lies; nothing for a private machine.
    pub path: Option<PathBuf>,
}

impl Mapping {
    pub fn layout(&self) -> &Layout {
        // SAFETY: `attach` checked that the mapping is at least this long, a mapping is page-aligned, every field of
        // `Layout` is an atomic, for which any bits are valid, and other processes write it only atomically.
        unsafe { &*self.map.as_ptr().cast::<Layout>() }
    }

    /// Opens a state file and checks that this build can read it.
    pub fn open(path: &Path) -> Result<(Mapping, Document), OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        let file = File::options().read(true).write(true).open(path).map_err(io)?;
        Self::attach(file, Some(path.to_owned()))
    }

    /// A machine of this process alone.
    pub fn private(document: &Document) -> Result<(Mapping, Document), OpenError> {
        let io = |source| OpenError::Io { path: "(memory)".into(), source };
        let fd = rustix::fs::memfd_create("weft-sim", rustix::fs::MemfdFlags::CLOEXEC).map_err(|e| io(e.into()))?;
        let mut file = File::from(fd);
        write(&mut file, document, Isolation::Off, 0).map_err(io)?;
        Self::attach(file, None)
    }

    /// Makes the file at `path`, whole or not at all.
    pub fn create(path: &Path, document: &Document, isolation: Isolation) -> io::Result<()> {
        let old_control = std::fs::metadata(control_path(path)).map_or(0, |file| file.len());
        let temporary = path.with_extension(format!("new-{}", std::process::id()));
        let mut file = File::options().write(true).create(true).truncate(true).open(&temporary)?;
        write(&mut file, document, isolation, old_control)?;
        // Every user of the node may have GPU work, as every user may open /dev/nvidia0.
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        std::fs::rename(&temporary, path)
    }

    fn attach(file: File, path: Option<PathBuf>) -> Result<(Mapping, Document), OpenError> {
        let name = || path.clone().unwrap_or_else(|| "(memory)".into());
        let io = |source| OpenError::Io { path: name(), source };
        let damaged = |why: String| OpenError::Damaged { path: name(), why };
        let length = file.metadata().map_err(io)?.len();
        let mut head = [0; 12];
        if length < head.len() as u64 {
            return Err(OpenError::NotAState { path: name() });
        }
        file.read_exact_at(&mut head, 0).map_err(io)?;
        if head[..8] != MAGIC.to_le_bytes() {
            return Err(OpenError::NotAState { path: name() });
        }
        let found = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        if found != FORMAT {
            return Err(OpenError::Format { path: name(), found, expected: FORMAT });
        }
        let fixed = size_of::<Layout>() as u64;
        if length < fixed {
            return Err(damaged(format!("it has {length} bytes of at least {fixed}")));
        }
        let map = MmapRaw::map_raw(&file).map_err(io)?;
        let mapping = Mapping { map, file, path: path.clone() };
        let document_bytes = mapping.layout().header.document_bytes.load(Ordering::Relaxed);
        if fixed.checked_add(document_bytes) != Some(length) {
            return Err(damaged(format!("it has {length} bytes, its header says {fixed} + {document_bytes}")));
        }
        let mut text = vec![0; document_bytes as usize];
        mapping.file.read_exact_at(&mut text, fixed).map_err(io)?;
        let document = serde_yaml_ng::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        Ok((mapping, document))
    }
}

/// `<state>.control`.
pub fn control_path(state: &Path) -> PathBuf {
    let mut path = state.as_os_str().to_owned();
    path.push(".control");
    path.into()
}

/// Writes a new machine: a header, zeros, the profile. What the control file says already is not for this machine.
fn write(file: &mut File, document: &Document, isolation: Isolation, old_control: u64) -> io::Result<()> {
    let text = serde_yaml_ng::to_string(document).map_err(io::Error::other)?;
    let mut fixed = vec![0_u8; size_of::<Layout>()];
    let mut put = |at: usize, bytes: &[u8]| fixed[at..at + bytes.len()].copy_from_slice(bytes);
    put(std::mem::offset_of!(Header, magic), &MAGIC.to_le_bytes());
    put(std::mem::offset_of!(Header, format), &FORMAT.to_le_bytes());
    put(std::mem::offset_of!(Header, isolation), &(isolation as u32).to_le_bytes());
    put(std::mem::offset_of!(Header, made_ns), &now_ns().to_le_bytes());
    put(std::mem::offset_of!(Header, document_bytes), &(text.len() as u64).to_le_bytes());
    put(std::mem::offset_of!(Header, control_offset), &old_control.to_le_bytes());
    file.write_all(&fixed)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()
}
