//! The folder under which the node's driver is installed, as this process sees it.
//!
//! In a container the host's root is mounted somewhere (`/driver-root`), so an absolute symbolic link inside it means
//! a place under the mount, not in the container. Distributions do use such links (Debian's alternatives), so every
//! link is resolved here by hand.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Where drivers put their libraries, in the order of preference, relative to the root.
const LIBRARY_DIRS: [&str; 11] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/local/nvidia/lib64",
    "run/opengl-driver/lib",
    "opt/lib",
    "lib",
];

/// A chain of links longer than this is a loop (Linux stops at the same number).
const MAX_LINKS: usize = 40;

/// The folder under which a driver is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverRoot {
    path: PathBuf,
}

impl DriverRoot {
    /// A driver installed under `path`; `/` for a driver installed in the ordinary way on this machine.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        DriverRoot { path: path.into() }
    }

    /// The folder, as this process sees it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The library folders that exist, each once, as this process sees them.
    pub fn library_dirs(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = Vec::new();
        for dir in LIBRARY_DIRS {
            if let Some(dir) = self.resolve(Path::new(dir))
                && dir.is_dir()
                && !found.contains(&dir)
            {
                found.push(dir);
            }
        }
        found
    }

    /// The first library of this name (`libnvidia-ml.so.1`), with links followed, as this process sees it.
    pub fn find_library(&self, name: &str) -> Option<PathBuf> {
        LIBRARY_DIRS.iter().find_map(|dir| self.resolve(&Path::new(dir).join(name)).filter(|path| path.is_file()))
    }

    /// Follows every link of `path`, which is taken relative to the root, without leaving the root.
    ///
    /// `None` if something on the way does not exist or the links form a loop. The answer is a path that this process
    /// can open.
    pub fn resolve(&self, path: &Path) -> Option<PathBuf> {
        // What is still to be walked, last component first.
        let mut todo: Vec<PathBuf> = components(path);
        let mut walked = PathBuf::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part.as_os_str() == ".." {
                walked.pop();
                continue;
            }
            let next = walked.join(&part);
            let metadata = fs::symlink_metadata(self.path.join(&next)).ok()?;
            if !metadata.is_symlink() {
                walked = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return None;
            }
            let target = fs::read_link(self.path.join(&next)).ok()?;
            if target.is_absolute() {
                walked.clear();
            }
            todo.extend(components(&target));
        }
        Some(self.path.join(walked))
    }

    /// The same place as the host names it, given the root's own path on the host.
    pub fn on_host(&self, path: &Path, host_root: &Path) -> PathBuf {
        match path.strip_prefix(&self.path) {
            Ok(inside) => host_root.join(inside),
            Err(_) => path.to_path_buf(),
        }
    }
}

/// The named components of a path and its `..`, last first.
fn components(path: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<PathBuf> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(PathBuf::from(name)),
            Component::ParentDir => Some(PathBuf::from("..")),
            _ => None,
        })
        .collect();
    parts.reverse();
    parts
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_absolute_link_stays_under_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let lib = dir.path().join("usr/lib/x86_64-linux-gnu");
        fs::create_dir_all(&lib).unwrap();
        fs::create_dir_all(dir.path().join("etc/alternatives")).unwrap();
        fs::write(lib.join("libnvidia-ml.so.580.1"), "").unwrap();
        symlink("/etc/alternatives/ml", lib.join("libnvidia-ml.so.1")).unwrap();
        symlink("../../usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.1", dir.path().join("etc/alternatives/ml"))
            .unwrap();
        let root = DriverRoot::new(dir.path());
        assert_eq!(root.find_library("libnvidia-ml.so.1"), Some(lib.join("libnvidia-ml.so.580.1")));
    }

    #[test]
    fn a_loop_of_links_is_no_library() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert_eq!(DriverRoot::new(dir.path()).resolve(Path::new("a")), None);
    }

    #[test]
    fn dots_do_not_climb_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("inside"), "").unwrap();
        let root = DriverRoot::new(dir.path());
        assert_eq!(root.resolve(Path::new("../../../inside")), Some(dir.path().join("inside")));
    }

    #[test]
    fn a_path_is_told_as_the_host_names_it() {
        let root = DriverRoot::new("/driver-root");
        let seen = Path::new("/driver-root/usr/lib64/libcuda.so.1");
        assert_eq!(root.on_host(seen, Path::new("/")), Path::new("/usr/lib64/libcuda.so.1"));
        assert_eq!(root.on_host(seen, Path::new("/opt/drv")), Path::new("/opt/drv/usr/lib64/libcuda.so.1"));
    }
}
