//! Control groups: one branch per cluster, `<prefix>/control-plane` and `<prefix>/<node>`, in every hierarchy of the
//! machine. They limit nothing. They say which process belongs to which cluster, so that `down` finds all of them even
//! if every pid file is lost.
//!
//! Both layouts are known: the old one (a hierarchy per controller, maybe with an empty unified one) and the unified
//! one, where a group with processes in it cannot hand controllers on to kubelet's groups, so a node's own processes
//! live in its child `system`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::{Doing, Error, Result},
    process::Process,
};

/// Where the machine has its hierarchies.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";
/// The group of a node's own processes on a machine with one unified hierarchy.
const SYSTEM: &str = "system";

/// Whether the machine has the one unified hierarchy.
pub(crate) fn unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The roots of the hierarchies: one folder if unified, else one per controller (links such as `cpu -> cpu,cpuacct`
/// left out).
pub(crate) fn hierarchies() -> Result<Vec<PathBuf>> {
    if unified() {
        return Ok(vec![PathBuf::from(ROOT)]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(ROOT).doing(|| format!("reading {ROOT}"))? {
        let entry = entry.doing(|| format!("reading {ROOT}"))?;
        let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if folder && entry.path().join("cgroup.procs").exists() {
            found.push(entry.path());
        }
    }
    if found.is_empty() {
        return Err(Error::Prerequisite(format!(
            "no control groups are mounted at {ROOT}: kubelet and runc need them"
        )));
    }
    found.sort();
    Ok(found)
}

/// Moves the calling process into `group` (such as `weft-demo/node-1`), making it in every hierarchy.
pub(crate) fn join(group: &Path) -> Result<()> {
    for hierarchy in hierarchies()? {
        let mut folder = hierarchy.clone();
        for part in group {
            let above = folder.clone();
            folder.push(part);
            match fs::create_dir(&folder) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                other => other.doing(|| format!("making the control group {}", folder.display()))?,
            }
            // The old cpuset starts empty, and a process cannot join an empty set.
            for set in ["cpuset.cpus", "cpuset.mems"] {
                let own = folder.join(set);
                if !unified() && own.exists() {
                    let allowed = crate::error::read(&above.join(set))?;
                    fs::write(&own, allowed.trim()).doing(|| format!("filling {}", own.display()))?;
                }
            }
        }
        let members = folder.join("cgroup.procs");
        fs::write(&members, "0").doing(|| format!("joining {}", members.display()))?;
    }
    Ok(())
}

/// The group in which a node's daemons run, below the node's own.
pub(crate) fn of_daemons(node: &Path) -> PathBuf {
    if unified() { node.join(SYSTEM) } else { node.to_owned() }
}

/// On a unified machine: hands every controller from the root down to `group`, whose processes must be in a child of it
/// by now.
pub(crate) fn delegate(group: &Path) -> Result<()> {
    if !unified() {
        return Ok(());
    }
    let mut folder = PathBuf::from(ROOT);
    for part in std::iter::once(None).chain(group.iter().map(Some)) {
        folder.extend(part);
        let controllers = crate::error::read(&folder.join("cgroup.controllers"))?;
        let all: Vec<String> = controllers.split_ascii_whitespace().map(|name| format!("+{name}")).collect();
        let to = folder.join("cgroup.subtree_control");
        fs::write(&to, all.join(" ")).doing(|| format!("handing controllers on in {}", to.display()))?;
    }
    Ok(())
}

/// Every process in a branch.
pub(crate) fn members(branch: &Path) -> Vec<Process> {
    let mut pids = BTreeSet::new();
    for hierarchy in hierarchies().unwrap_or_default() {
        for folder in below(&hierarchy.join(branch)) {
            let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            pids.extend(members.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
    }
    pids.into_iter().filter_map(Process::of).collect()
}

/// Whether any hierarchy has the branch.
pub(crate) fn exists(branch: &Path) -> bool {
    hierarchies().unwrap_or_default().iter().any(|hierarchy| hierarchy.join(branch).exists())
}

/// Kills what is in a branch and removes it from every hierarchy.
pub(crate) fn remove(branch: &Path) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        for process in members(branch) {
            process.signal(rustix::process::Signal::KILL)?;
        }
        // Children first; a group empties a moment after its last process has ended.
        let mut last = None;
        for hierarchy in hierarchies()? {
            for folder in below(&hierarchy.join(branch)).iter().rev() {
                last = fs::remove_dir(folder).err().or(last);
            }
        }
        if !exists(branch) {
            return Ok(());
        }
        if Instant::now() > end {
            let cause = last.unwrap_or_else(|| std::io::Error::other("it is still there"));
            return Err(Error::Io { what: format!("removing the control group {}", branch.display()), cause });
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A folder and all folders below it, parents first; empty if it is not there.
fn below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut all = vec![folder.to_owned()];
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        all.extend(below(&entry.path()));
    }
    all
}
