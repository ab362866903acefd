//! Which files of the driver a container needs, found by name under the driver root.
//!
//! The list follows NVIDIA's container toolkit: user-space libraries and a few tools. Left out on purpose:
//! sockets of daemons (a socket that went away with its daemon would keep containers from starting), and the device
//! nodes that allow MIG to be reconfigured.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use weft_nvml::DriverRoot;

/// A library of the driver starts like this; what follows is a version or `.so`.
const LIBRARIES: [&str; 10] = [
    "libcuda.so",
    "libcudadebugger.so",
    "libnvcuvid.so",
    "libnvoptix.so",
    "libnvidia-",
    "libGLX_nvidia.so",
    "libEGL_nvidia.so",
    "libGLESv1_CM_nvidia.so",
    "libGLESv2_nvidia.so",
    "libvdpau_nvidia.so",
];

/// Libraries that start like a driver's and are of the container toolkit.
const NOT_LIBRARIES: [&str; 1] = ["libnvidia-container"];

/// Tools of the driver.
const BINARIES: [&str; 4] = ["nvidia-smi", "nvidia-debugdump", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"];

/// A file of the driver: its name in a container, and where it is for this process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriverFile {
    /// `libcuda.so.1`.
    pub name: String,
    /// With every link followed, since a container does not see what a link points to.
    pub path: PathBuf,
}

/// The driver's libraries under every name that a program or another library may load them by.
///
/// Those are the names with a version (`libcuda.so.1`, the SONAME; `libcuda.so.580.95.05`), not the bare `.so` that only
/// linkers use. Any other name of a driver's file counts too: a driver that is one file under many names.
pub fn libraries(root: &DriverRoot) -> Vec<DriverFile> {
    // By the file behind it: the names that it has. The first folder that has a name wins, as for the loader.
    let mut names: BTreeMap<String, PathBuf> = BTreeMap::new();
    for dir in root.library_dirs() {
        for name in entries(&dir) {
            if !is_versioned(&name) || names.contains_key(&name) {
                continue;
            }
            let inside = dir.strip_prefix(root.path()).unwrap_or(&dir).join(&name);
            if let Some(path) = root.resolve(&inside).filter(|path| path.is_file()) {
                names.insert(name, path);
            }
        }
    }
    let driver: Vec<&PathBuf> = names.iter().filter(|(name, _)| is_library(name)).map(|(_, path)| path).collect();
    names
        .iter()
        .filter(|(name, path)| is_library(name) || driver.contains(path))
        .map(|(name, path)| DriverFile { name: name.clone(), path: path.clone() })
        .collect()
}

/// The driver's tools.
pub fn binaries(root: &DriverRoot) -> Vec<DriverFile> {
    let find = |name: &str| {
        let dirs = ["usr/bin", "usr/local/bin", "usr/local/nvidia/bin", "opt/bin", "bin"];
        let path =
            dirs.iter().find_map(|dir| root.resolve(&Path::new(dir).join(name)).filter(|path| path.is_file()))?;
        Some(DriverFile { name: name.to_owned(), path })
    };
    BINARIES.iter().filter_map(|name| find(name)).collect()
}

fn entries(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// `libx.so.1`, but not `libx.so` or `libx.so.1.bak`.
fn is_versioned(name: &str) -> bool {
    name.split_once(".so.").is_some_and(|(_, version)| {
        version.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

fn is_library(name: &str) -> bool {
    LIBRARIES.iter().any(|start| name.starts_with(start)) && !NOT_LIBRARIES.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> (tempfile::TempDir, DriverRoot) {
        let dir = tempfile::tempdir().unwrap();
        let lib = dir.path().join("usr/lib64");
        fs::create_dir_all(&lib).unwrap();
        let root = DriverRoot::new(dir.path());
        (dir, root)
    }

    #[test]
    fn a_library_is_found_under_its_soname_and_its_version_and_not_under_the_linkers_name() {
        let (dir, root) = root();
        let lib = dir.path().join("usr/lib64");
        let real = lib.join("libcuda.so.580.95.05");
        for name in ["libcuda.so.580.95.05", "libc.so.6", "libnvidia-container.so.1", "libnvidia-ml.so.1.bak"] {
            fs::write(lib.join(name), name).unwrap();
        }
        symlink("libcuda.so.580.95.05", lib.join("libcuda.so.1")).unwrap();
        symlink("libcuda.so.1", lib.join("libcuda.so")).unwrap();
        let file = |name: &str| DriverFile { name: name.into(), path: real.clone() };
        assert_eq!(libraries(&root), [file("libcuda.so.1"), file("libcuda.so.580.95.05")]);
    }

    #[test]
    fn another_name_of_a_drivers_file_counts_and_another_file_does_not() {
        let (dir, root) = root();
        let lib = dir.path().join("usr/lib64");
        fs::write(lib.join("libcuda.so.1"), "").unwrap();
        fs::write(lib.join("libcufft.so.12"), "").unwrap();
        symlink("libcuda.so.1", lib.join("libcublas.so.13")).unwrap();
        let names: Vec<String> = libraries(&root).into_iter().map(|file| file.name).collect();
        assert_eq!(names, ["libcublas.so.13", "libcuda.so.1"]);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_no_file() {
        let (dir, root) = root();
        symlink("gone", dir.path().join("usr/lib64/libcuda.so.1")).unwrap();
        assert_eq!(libraries(&root), []);
    }
}
