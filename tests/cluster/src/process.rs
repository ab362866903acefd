//! Processes that outlive the command which started them, remembered as *pid and start time* so that a pid which the
//! kernel has given to somebody else is never taken for ours.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Doing, Error, Result, write};

/// How often a dying process is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// One process of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its pid as the machine (not the node) counts.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks after boot.
    started: u64,
}

impl Process {
    /// The process that has this pid now; `None` when there is none, or only a zombie.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name is in parentheses and may hold anything: the fields begin after the last one.
        let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        // A process whose first thread has ended is a zombie while its other threads still do: its files, and so its ports, are
        // closed by the last of them.
        let ended = match state {
            "X" => true,
            "Z" => fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) <= 1,
            _ => false,
        };
        (!ended).then_some(Self { pid, started })
    }

    /// The process noted in a file by [`Process::save`], if it still runs.
    pub fn load(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let noted = Self { pid: pid.parse().ok()?, started: started.parse().ok()? };
        noted.runs().then_some(noted)
    }

    /// Notes the process in a file.
    pub fn save(&self, path: &Path) -> Result<()> {
        write(path, format!("{} {}\n", self.pid, self.started))
    }

    /// Whether it is still there.
    pub fn runs(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Sends a signal. A process that is already gone is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.runs() {
            return Ok(());
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        match kill_process(pid, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => other.doing(|| format!("sending {signal:?} to process {}", self.pid)),
        }
    }

    /// Waits until it is gone.
    pub fn wait_gone(&self, at_most: Duration) -> Result<()> {
        let end = Instant::now() + at_most;
        while self.runs() {
            if Instant::now() > end {
                return Err(Error::State(format!("process {} did not end within {at_most:?}", self.pid)));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_gone(Duration::from_secs(20))
    }
}

/// The machine's pid of the process that is number `inner` in the pid namespace of `member`.
pub fn from_namespace(member: Process, inner: i32) -> Option<Process> {
    let namespace = fs::read_link(format!("/proc/{}/ns/pid", member.pid)).ok()?;
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids {
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let innermost = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:")?.split_ascii_whitespace().last()?.parse::<i32>().ok());
        if innermost == Some(inner) && fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|link| link == namespace)
        {
            return Process::of(pid);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_with_another_start_time_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("me");
        let me = Process::of(std::process::id() as i32).unwrap();
        me.save(&file).unwrap();
        assert_eq!(Process::load(&file), Some(me));
        Process { started: me.started + 1, ..me }.save(&file).unwrap();
        assert_eq!(Process::load(&file), None);
    }

    #[test]
    fn a_killed_child_is_gone_even_as_a_zombie() {
        let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::of(child.id() as i32).unwrap();
        process.kill().unwrap();
        assert!(!process.runs());
        let mut child = child;
        child.wait().unwrap();
    }

    #[test]
    fn a_process_is_found_by_its_number_in_its_namespace() {
        let me = Process::of(std::process::id() as i32).unwrap();
        assert_eq!(from_namespace(me, me.pid), Some(me));
    }
}
