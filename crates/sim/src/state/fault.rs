//! What goes wrong with a GPU, and how everyone hears of it.

use std::{
    fmt, io,
    os::unix::fs::FileExt,
    path::PathBuf,
    str::FromStr,
    sync::{PoisonError, atomic::Ordering::*},
    time::{Duration, Instant},
};

use rustix::thread::futex;

use super::{
    Gpu, Machine,
    file::{EVENTS, control_path},
    lock::{self, Byte},
    now_ns,
};

/// The XID with which a GPU falls off the bus.
const FALLEN_OFF_THE_BUS: u32 = 79;

/// XIDs that name a fault of one application or inform only: the GPU itself stays healthy.
/// From NVIDIA's XID catalogue, "Xid errors", recovery actions RESTART_APP and IGNORE.
const HARMLESS: [u32; 23] =
    [8, 13, 14, 31, 32, 37, 38, 43, 44, 45, 63, 66, 67, 68, 69, 92, 93, 94, 106, 107, 121, 137, 141];

/// How a GPU is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Healthy,
    /// It reported this XID and needs a reset: no context on it works, and none can be made, until it recovers.
    Xid(u32),
    /// It is gone from the bus: nothing about it can be read any more.
    Lost,
}

/// Something to happen to a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An XID. 79 also loses the GPU; those of applications leave it healthy.
    Xid(u32),
    /// Falls off the bus without a word.
    Lost,
    /// Works again, as after a reset.
    Recover,
}

/// Something that happened to a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The GPU's index.
    pub gpu: usize,
    /// What it was.
    pub kind: EventKind,
    /// When, by [`now_ns`].
    pub at_ns: u64,
}

/// The kinds of [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// An XID was reported.
    Xid(u32),
    /// The GPU fell off the bus.
    Lost,
    /// The GPU works again.
    Recovered,
}

/// Errors of a GPU's memory, and their repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryErrors {
    /// Uncorrected errors ever (XID 48, 94, 95).
    pub uncorrected: u64,
    /// Rows that were replaced (XID 63).
    pub rows_remapped: u32,
    /// A replacement takes effect at the next reset.
    pub remap_pending: bool,
    /// A replacement failed (XID 64): the board is worn out.
    pub remap_failed: bool,
}

/// A fault that cannot be made to happen.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// The words are none of a fault's.
    #[error("`{0}` is no fault: write `xid NUMBER`, `lost` or `recover`")]
    Syntax(String),
    /// The words before the fault name no GPU of this machine.
    #[error("there is no GPU `{0}` here: this machine has GPU 0 to {1}")]
    NoGpu(String, usize),
    /// The state cannot be locked.
    #[error("cannot lock the machine state: {0}")]
    Lock(#[from] io::Error),
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let words: Vec<_> = text.split_whitespace().collect();
        match words.as_slice() {
            ["lost"] => Ok(Fault::Lost),
            ["recover"] => Ok(Fault::Recover),
            ["xid", number] => {
                number.parse().ok().filter(|xid| *xid > 0).map(Fault::Xid).ok_or(FaultError::Syntax(text.to_owned()))
            }
            _ => Err(FaultError::Syntax(text.to_owned())),
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Health::Healthy => f.write_str("healthy"),
            Health::Xid(xid) => write!(f, "XID {xid}"),
            Health::Lost => f.write_str("lost"),
        }
    }
}

impl Gpu<'_> {
    /// How it is now.
    pub fn health(&self) -> Health {
        match self.record.health.load(Acquire) {
            0 => Health::Healthy,
            1 => Health::Xid(self.record.xid.load(Relaxed)),
            _ => Health::Lost,
        }
    }

    /// The last XID since the GPU was well, whatever became of it.
    pub fn last_xid(&self) -> Option<u32> {
        Some(self.record.xid.load(Relaxed)).filter(|xid| *xid != 0)
    }

    /// What became of its memory.
    pub fn memory_errors(&self) -> MemoryErrors {
        MemoryErrors {
            uncorrected: self.record.memory_errors.load(Relaxed),
            rows_remapped: self.record.rows_remapped.load(Relaxed),
            remap_pending: self.record.remap_pending.load(Relaxed) != 0,
            remap_failed: self.record.remap_failed.load(Relaxed) != 0,
        }
    }

    /// XIDs that come from memory leave their mark in its counters.
    fn note_memory_error(&self, xid: u32) {
        let record = self.record;
        match xid {
            48 | 94 | 95 => {
                record.memory_errors.fetch_add(1, Relaxed);
            }
            63 => {
                record.rows_remapped.fetch_add(1, Relaxed);
                record.remap_pending.store(1, Relaxed);
            }
            64 => record.remap_failed.store(1, Relaxed),
            _ => {}
        }
    }

    /// Changes with every fault and every recovery.
    pub fn generation(&self) -> u32 {
        self.record.generation.load(Acquire)
    }

    /// Changes whenever all contexts on the GPU die: one made under another epoch never works again.
    pub fn context_epoch(&self) -> u32 {
        self.record.context_epoch.load(Acquire)
    }

    /// Makes a fault happen, for all processes of the machine.
    ///
    /// # Errors
    /// The state cannot be locked.
    pub fn raise(&self, fault: Fault) -> Result<(), FaultError> {
        let machine = self.machine;
        // The lock keeps other processes away, the mutex our own threads, who share the lock's owner.
        let _local = machine.faulting.lock().unwrap_or_else(PoisonError::into_inner);
        lock::lock(&machine.mapping.file, Byte::Faults)?;
        let record = self.record;
        let end_contexts = |health| {
            record.health.store(health, Release);
            record.context_epoch.fetch_add(1, AcqRel);
        };
        let kind = match fault {
            Fault::Xid(xid) => {
                record.xids.fetch_add(1, Relaxed);
                record.xid.store(xid, Relaxed);
                self.note_memory_error(xid);
                match xid {
                    FALLEN_OFF_THE_BUS => end_contexts(2),
                    _ if HARMLESS.contains(&xid) || self.health() == Health::Lost => {}
                    _ => end_contexts(1),
                }
                EventKind::Xid(xid)
            }
            Fault::Lost => {
                end_contexts(2);
                EventKind::Lost
            }
            Fault::Recover => {
                record.health.store(0, Release);
                record.xid.store(0, Relaxed);
                record.remap_pending.store(0, Relaxed);
                EventKind::Recovered
            }
        };
        record.generation.fetch_add(1, AcqRel);
        machine.publish(self.facts.index, kind);
        lock::unlock(&machine.mapping.file, Byte::Faults)?;
        Ok(())
    }
}

impl Machine {
    /// Makes a line of the control file happen: `<GPU index or UUID> <fault>`.
    ///
    /// # Errors
    /// The line names no GPU or no fault.
    pub fn control(&self, line: &str) -> Result<(), FaultError> {
        let line = line.trim();
        let (gpu, fault) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        self.find(gpu)?.raise(fault.parse()?)
    }

    /// The GPU with this index or UUID.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, gpu: &str) -> Result<Gpu<'_>, FaultError> {
        self.gpus()
            .find(|candidate| candidate.facts.uuid == gpu || gpu.parse() == Ok(candidate.facts.index))
            .ok_or_else(|| FaultError::NoGpu(gpu.to_owned(), self.facts.len() - 1))
    }

    /// A mark after all events up to now, for [`Machine::wait_event`].
    pub fn event_cursor(&self) -> u64 {
        self.mapping.layout().header.events.load(Acquire)
    }

    /// The next event after `cursor`, which moves past it; nothing if none comes within `timeout`.
    pub fn wait_event(&self, cursor: &mut u64, timeout: Duration) -> Option<Event> {
        /// How often a sleeper looks at the control file, which wakes nobody by itself.
        const LOOK: Duration = Duration::from_millis(10);
        let until = Instant::now().checked_add(timeout);
        let header = &self.mapping.layout().header;
        loop {
            self.poll();
            let bell = header.bell.load(Acquire);
            if let Some(event) = self.next_event(cursor) {
                return Some(event);
            }
            let left = until.map_or(LOOK, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return None;
            }
            let wait = left.min(LOOK);
            let timespec = futex::Timespec { tv_sec: 0, tv_nsec: wait.as_nanos() as _ };
            // Woken, timed out, interrupted or too late to sleep: in each case the answer is to look again.
            let _look_again = futex::wait(&header.bell, futex::Flags::empty(), bell, Some(&timespec));
        }
    }

    fn next_event(&self, cursor: &mut u64) -> Option<Event> {
        let layout = self.mapping.layout();
        loop {
            let published = layout.header.events.load(Acquire);
            // A state that was made anew counts from the start again.
            *cursor = (*cursor).min(published).max(published.saturating_sub(EVENTS as u64 - 1));
            if *cursor == published {
                return None;
            }
            let record = &layout.events[*cursor as usize % EVENTS];
            let (gpu, kind) = (record.gpu.load(Relaxed) as usize, record.kind.load(Relaxed));
            let (data, at_ns) = (record.data.load(Relaxed), record.at_ns.load(Acquire));
            // Overwritten while we read?
            if layout.header.events.load(Acquire) - *cursor >= EVENTS as u64 {
                continue;
            }
            *cursor += 1;
            let kind = match kind {
                1 => EventKind::Xid(data as u32),
                2 => EventKind::Lost,
                _ => EventKind::Recovered,
            };
            return Some(Event { gpu, kind, at_ns });
        }
    }

    /// Called with the lock on faults held.
    fn publish(&self, gpu: usize, kind: EventKind) {
        let layout = self.mapping.layout();
        let number = layout.header.events.load(Acquire);
        let record = &layout.events[number as usize % EVENTS];
        let (kind, data) = match kind {
            EventKind::Xid(xid) => (1, u64::from(xid)),
            EventKind::Lost => (2, 0),
            EventKind::Recovered => (3, 0),
        };
        record.gpu.store(gpu as u32, Relaxed);
        record.kind.store(kind, Relaxed);
        record.data.store(data, Relaxed);
        record.at_ns.store(now_ns(), Release);
        layout.header.events.store(number + 1, Release);
        layout.header.bell.fetch_add(1, Release);
        // Sleepers look by themselves soon after; the wake-up only saves them the wait.
        let _woken = futex::wake(&layout.header.bell, futex::Flags::empty(), i32::MAX as u32);
    }

    /// `<state>.control`; nothing for a private machine.
    pub fn control_path(&self) -> Option<PathBuf> {
        self.path().map(control_path)
    }

    pub(super) fn apply_control(&self) {
        let Some(path) = self.control_path() else { return };
        let offset = &self.mapping.layout().header.control_offset;
        let Ok(length) = std::fs::metadata(&path).map(|file| file.len()) else { return };
        if length == offset.load(Acquire) {
            return;
        }
        let Ok(_local) = self.controlling.try_lock() else { return };
        if !lock::try_lock(&self.mapping.file, Byte::Control).unwrap_or(false) {
            return;
        }
        if let Err(error) = self.apply_lines(&path) {
            eprintln!("weft-sim: cannot read {}: {error}", path.display());
        }
        // If this fails, the lock stays until this process ends, and only it applies the file until then.
        let _kept = lock::unlock(&self.mapping.file, Byte::Control);
    }

    fn apply_lines(&self, path: &std::path::Path) -> io::Result<()> {
        let offset = &self.mapping.layout().header.control_offset;
        let file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        // Shorter than what was read: someone began the file anew.
        let from = Some(offset.load(Acquire)).filter(|from| *from <= length).unwrap_or(0);
        let mut new = vec![0; (length - from) as usize];
        file.read_exact_at(&mut new, from)?;
        let Some(end) = new.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        // Before the lines, not after: a fault must not happen twice, even if we are killed between two lines.
        offset.store(from + end as u64 + 1, Release);
        for line in String::from_utf8_lossy(&new[..end]).lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            if let Err(error) = self.control(line) {
                eprintln!("weft-sim: {}: `{line}`: {error}", path.display());
            }
        }
        Ok(())
    }
}
