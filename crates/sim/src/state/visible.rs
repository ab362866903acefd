//! Which GPUs this process sees.
//!
//! A container is given a GPU by being given its device node, `/dev/nvidia<minor>`, and the right to open it. That is all
//! that stands between a real process and a real GPU, so it is what counts here.

use std::{
    env, fs,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{Isolation, Machine};

/// Major number of NVIDIA's character devices.
pub const MAJOR: u32 = 195;
/// Minor number of `/dev/nvidiactl`.
pub const CONTROL_MINOR: u32 = 255;

impl Machine {
    /// Whether processes see only the GPUs whose device nodes they were given.
    pub fn isolation(&self) -> Isolation {
        match self.mapping.layout().header.isolation.load(std::sync::atomic::Ordering::Relaxed) {
            0 => Isolation::Off,
            1 => Isolation::Open,
            _ => Isolation::Exists,
        }
    }

    /// Indices of the GPUs that this process sees, in the order of their minor numbers. Looks at the device nodes anew at
    /// each call; a driver does it once, at initialisation.
    pub fn visible(&self) -> Vec<usize> {
        let dev = Dev::from_environment();
        (0..self.facts.len())
            .filter(|index| dev.permits(&format!("nvidia{index}"), *index as u32, self.isolation()))
            .collect()
    }

    /// Whether this process may talk to the driver at all, which needs `/dev/nvidiactl`.
    pub fn reachable(&self) -> bool {
        Dev::from_environment().permits("nvidiactl", CONTROL_MINOR, self.isolation())
    }

    /// [`Machine::visible`] as `CUDA_VISIBLE_DEVICES` narrows and orders it: what CUDA's ordinals count. NVML does not
    /// look at that variable.
    pub fn cuda_visible(&self) -> Vec<usize> {
        match env::var("CUDA_VISIBLE_DEVICES") {
            Ok(list) => self.narrow(&self.visible(), &list),
            Err(env::VarError::NotPresent) => self.visible(),
            Err(env::VarError::NotUnicode(_)) => Vec::new(),
        }
    }

    /// The rule of the CUDA programming guide, "CUDA environment variables": indices or beginnings of UUIDs; the list
    /// ends at the first entry that names no device. One device named twice leaves none.
    pub(super) fn narrow(&self, visible: &[usize], list: &str) -> Vec<usize> {
        let mut chosen = Vec::new();
        for entry in list.split(',').map(str::trim) {
            let named = match entry.parse::<i64>() {
                Ok(ordinal) => usize::try_from(ordinal).ok().and_then(|ordinal| visible.get(ordinal)).copied(),
                Err(_) if entry.starts_with("GPU-") => {
                    let mut matching = visible.iter().filter(|index| self.facts[**index].uuid.starts_with(entry));
                    matching.next().copied().filter(|_| matching.next().is_none())
                }
                Err(_) => None,
            };
            let Some(index) = named else { break };
            if chosen.contains(&index) {
                return Vec::new();
            }
            chosen.push(index);
        }
        chosen
    }
}

/// The folder of device nodes: `/dev`, or `WEFT_SIM_DEV` in tests, where any file will do for a node.
struct Dev {
    folder: PathBuf,
    any_file: bool,
}

impl Dev {
    fn from_environment() -> Dev {
        match env::var_os("WEFT_SIM_DEV") {
            Some(folder) => Dev { folder: folder.into(), any_file: true },
            None => Dev { folder: "/dev".into(), any_file: false },
        }
    }

    fn permits(&self, name: &str, minor: u32, isolation: Isolation) -> bool {
        let path = self.folder.join(name);
        match isolation {
            Isolation::Off => true,
            Isolation::Exists => self.is_node(&path, minor),
            Isolation::Open => self.is_node(&path, minor) && may_open(&path),
        }
    }

    fn is_node(&self, path: &Path, minor: u32) -> bool {
        fs::metadata(path).is_ok_and(|node| {
            let device = node.rdev();
            self.any_file
                || node.file_type().is_char_device()
                    && rustix::fs::major(device) == MAJOR
                    && rustix::fs::minor(device) == minor
        })
    }
}

/// Whether the device cgroup and the permissions let us open the node. Without the module behind it, a permitted open ends
/// in ENXIO or ENODEV; a forbidden one in EPERM or EACCES.
pub fn may_open(path: &Path) -> bool {
    match fs::File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path) {
        Ok(_) => true,
        Err(error) => matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)),
    }
}
