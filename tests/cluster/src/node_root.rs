//! What a node sees as its file system: the machine's root read through an overlay, with an own `/dev`, `/run`,
//! `/proc`, `/sys` and, on real disk, what kubelet and containerd keep.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, unmount},
};
use serde::{Deserialize, Serialize};

use crate::{
    cgroup,
    error::{Doing, Result, make_folder, write},
};

/// Everything that `build` needs to know of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeRoot {
    pub hostname: String,
    /// The node's own folder of the machine: `disk/` in it outlives a power cut.
    pub folder: PathBuf,
    /// Folders of the machine that the node sees live, at the same path.
    pub shared: Vec<PathBuf>,
    /// Folders of the machine that the node sees at another path (the key).
    pub mounted: BTreeMap<PathBuf, PathBuf>,
    /// Device nodes of the machine that the node has too.
    pub devices: Vec<PathBuf>,
    /// Files that differ from the machine's, such as `/etc/hosts`.
    pub files: BTreeMap<PathBuf, String>,
}

/// Needs a real disk: images are overlays themselves, and volumes and logs are big.
const ON_DISK: [&str; 4] = ["var/lib/containerd", "var/lib/kubelet", "var/log/pods", "var/log/containers"];

/// Builds the file system of the calling process, which must be alone in its mount namespace, and makes it its root.
pub(crate) fn build(node: &NodeRoot) -> Result<()> {
    rustix::system::sethostname(node.hostname.as_bytes()).doing(|| "setting the host name".to_owned())?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .doing(|| "cutting the node's mounts off from the machine's".to_owned())?;

    // Writes go to memory: an overlay's upper folder must not lie within its lower one, and these writes are few.
    let scratch = node.folder.join("overlay");
    make_folder(&scratch)?;
    mount_new("tmpfs", &scratch, MountFlags::empty(), "mode=755")?;
    let [root, upper, work] = ["root", "upper", "work"].map(|name| scratch.join(name));
    for folder in [&root, &upper, &work] {
        make_folder(folder)?;
    }
    let options = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    mount_new("overlay", &root, MountFlags::empty(), &options)?;
    let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));

    for folder in &node.shared {
        bind(folder, &inside(folder))?;
    }
    for (at, folder) in &node.mounted {
        bind(folder, &inside(at))?;
    }
    for name in ON_DISK {
        let folder = node.folder.join("disk").join(name);
        make_folder(&folder)?;
        bind(&folder, &root.join(name))?;
    }
    mount_new("proc", &root.join("proc"), MountFlags::empty(), "")?;
    mount_new("sysfs", &root.join("sys"), MountFlags::empty(), "")?;
    mount_control_groups(&root.join("sys/fs/cgroup"))?;
    mount_new("tmpfs", &root.join("run"), MountFlags::empty(), "mode=755")?;
    for folder in ["run/lock", "run/cdi", "etc/cdi", "etc/cni/net.d"] {
        make_folder(&root.join(folder))?;
    }
    make_devices(&root.join("dev"))?;
    for device in &node.devices {
        copy_device(device, &inside(device))?;
    }
    for (path, content) in &node.files {
        write(&inside(path), content)?;
    }

    std::env::set_current_dir(&root).doing(|| "entering the node's root".to_owned())?;
    rustix::process::pivot_root(".", ".").doing(|| "changing to the node's root".to_owned())?;
    unmount(".", UnmountFlags::DETACH).doing(|| "leaving the machine's root".to_owned())?;
    std::env::set_current_dir("/").doing(|| "entering the new root".to_owned())?;
    // kubelet and containerd expect what an ordinary machine has: mounts made in a pod with bidirectional propagation
    // reach the node.
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)
        .doing(|| "sharing the node's mounts with its pods".to_owned())
}

/// An own `/dev`, so that device nodes made for one node's GPUs are seen by that node only.
fn make_devices(dev: &Path) -> Result<()> {
    mount_new("tmpfs", dev, MountFlags::empty(), "mode=755")?;
    let devices = [
        ("null", 1, 3, 0o666),
        ("zero", 1, 5, 0o666),
        ("full", 1, 7, 0o666),
        ("random", 1, 8, 0o666),
        ("urandom", 1, 9, 0o666),
        ("kmsg", 1, 11, 0o644),
        ("tty", 5, 0, 0o666),
        ("fuse", 10, 229, 0o666),
    ];
    for (name, major, minor, mode) in devices {
        let path = dev.join(name);
        let making = || format!("making {}", path.display());
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(mode), makedev(major, minor))
            .doing(making)?;
        // The umask took its share.
        rustix::fs::chmod(&path, Mode::from_raw_mode(mode)).doing(making)?;
    }
    for folder in ["pts", "shm", "mqueue"] {
        make_folder(&dev.join(folder))?;
    }
    mount_new("devpts", &dev.join("pts"), MountFlags::empty(), "newinstance,ptmxmode=666,mode=620,gid=5")?;
    mount_new("tmpfs", &dev.join("shm"), MountFlags::empty(), "mode=1777")?;
    mount_new("mqueue", &dev.join("mqueue"), MountFlags::empty(), "")?;
    let links = [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    for (name, target) in links {
        symlink(target, dev.join(name)).doing(|| format!("linking /dev/{name}"))?;
    }
    Ok(())
}

/// The same device under the same name.
fn copy_device(from: &Path, to: &Path) -> Result<()> {
    let copying = || format!("making {}", to.display());
    let device = rustix::fs::stat(from).doing(copying)?.st_rdev;
    if let Some(folder) = to.parent() {
        make_folder(folder)?;
    }
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, to, FileType::CharacterDevice, mode, device).doing(copying)?;
    // The umask took its share.
    rustix::fs::chmod(to, mode).doing(copying)
}

/// The machine's hierarchies again: in the node's cgroup namespace each shows the node's group as its root.
fn mount_control_groups(at: &Path) -> Result<()> {
    if cgroup::unified() {
        return mount_new("cgroup2", at, MountFlags::empty(), "");
    }
    mount_new("tmpfs", at, MountFlags::empty(), "mode=755")?;
    for hierarchy in cgroup::hierarchies()? {
        let Some(name) = hierarchy.file_name().and_then(|name| name.to_str()) else { continue };
        let folder = at.join(name);
        make_folder(&folder)?;
        match name {
            "unified" => mount_new("cgroup2", &folder, MountFlags::empty(), "")?,
            "systemd" => mount_new("cgroup", &folder, MountFlags::empty(), "none,name=systemd")?,
            controllers => mount_new("cgroup", &folder, MountFlags::empty(), controllers)?,
        }
        // `cpu` and `cpuacct` are usually links to the hierarchy that has both.
        for controller in name.split(',').filter(|_| name.contains(',')) {
            symlink(name, at.join(controller)).doing(|| format!("linking the hierarchy {controller}"))?;
        }
    }
    Ok(())
}

fn mount_new(kind: &str, at: &Path, flags: MountFlags, options: &str) -> Result<()> {
    let mounting = || format!("mounting {kind} at {}", at.display());
    let options = CString::new(options).map_err(std::io::Error::from).doing(mounting)?;
    mount(kind, at, kind, flags, options.as_c_str()).doing(mounting)
}

fn bind(from: &Path, at: &Path) -> Result<()> {
    fs::create_dir_all(at).doing(|| format!("making {}", at.display()))?;
    mount_bind_recursive(from, at).doing(|| format!("binding {} to {}", from.display(), at.display()))
}
