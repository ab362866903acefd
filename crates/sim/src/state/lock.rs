//! Advisory locks on single bytes of the state file.
//!
//! They are open-file-description locks: they belong to the one descriptor that a process keeps of the file, so the
//! kernel drops them when the process ends, however it ends.

use std::{fs::File, io, os::fd::AsRawFd};

/// A byte of the file that stands for something. The bytes lie far behind the file's end: locks need no data.
#[derive(Debug, Clone, Copy)]
pub enum Byte {
    /// Held by the process that owns this slot, as long as it lives.
    Slot(usize),
    /// Held by the same process in the older, per-process kind of lock, which tells a reader the owner's PID in the
    /// reader's own PID namespace.
    Pid(usize),
    /// Held while faults are written.
    Faults,
    /// Held while the control file is applied.
    Control,
}

const BASE: i64 = 1 << 40;

impl Byte {
    fn offset(self) -> i64 {
        BASE + match self {
            Byte::Faults => 0,
            Byte::Control => 1,
            Byte::Slot(slot) => 0x1000 + slot as i64,
            Byte::Pid(slot) => 0x2000 + slot as i64,
        }
    }

    fn flock(self, kind: i32) -> libc::flock {
        libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: self.offset(), l_len: 1, l_pid: 0 }
    }
}

fn fcntl(file: &File, command: i32, lock: &mut libc::flock) -> io::Result<()> {
    loop {
        // SAFETY: the descriptor is open for as long as `file` is borrowed, and `lock` is a valid flock that the
        // kernel reads and, for the GETLK commands, writes.
        if unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) } != -1 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Takes the lock if no other process holds it.
pub fn try_lock(file: &File, byte: Byte) -> io::Result<bool> {
    match fcntl(file, libc::F_OFD_SETLK, &mut byte.flock(libc::F_WRLCK)) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the lock, waiting for another process that holds it.
pub fn lock(file: &File, byte: Byte) -> io::Result<()> {
    fcntl(file, libc::F_OFD_SETLKW, &mut byte.flock(libc::F_WRLCK))
}

/// Gives the lock back.
pub fn unlock(file: &File, byte: Byte) -> io::Result<()> {
    fcntl(file, libc::F_OFD_SETLK, &mut byte.flock(libc::F_UNLCK))
}

/// Whether another process holds the lock.
pub fn held_by_other(file: &File, byte: Byte) -> io::Result<bool> {
    let mut lock = byte.flock(libc::F_WRLCK);
    fcntl(file, libc::F_OFD_GETLK, &mut lock)?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// Marks the byte as this process's, for [`pid_of`].
pub fn mark_pid(file: &File, byte: Byte) -> io::Result<()> {
    fcntl(file, libc::F_SETLK, &mut byte.flock(libc::F_WRLCK))
}

/// The PID, in the caller's namespace, of the process that marked the byte; nothing if it is not visible from here.
pub fn pid_of(file: &File, byte: Byte) -> Option<i32> {
    let mut lock = byte.flock(libc::F_WRLCK);
    fcntl(file, libc::F_GETLK, &mut lock).ok()?;
    (i32::from(lock.l_type) != libc::F_UNLCK && lock.l_pid > 0).then_some(lock.l_pid)
}
