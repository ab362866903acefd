//! Opening the driver's management library, and saying in a sentence why that did not work.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use crate::raw;
use crate::root::DriverRoot;

const LIBRARY: &str = "libnvidia-ml.so.1";

/// Why there is no usable driver. Each message ends in what the person can do.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// No management library under the driver root.
    #[error(
        "no NVIDIA driver found: {LIBRARY} is not under {}; install the driver on this node, or set the chart's value \
         driver.root to the folder of the node that it is installed in (/run/nvidia/driver under NVIDIA's GPU operator); \
         without the chart, --driver-root-ctr-path is that folder as this process sees it", root.display()
    )]
    NotInstalled {
        /// Where it was looked for.
        root: PathBuf,
    },
    /// The library is there and cannot be loaded.
    #[error("{} cannot be loaded ({reason}); reinstall the NVIDIA driver on this node", library.display())]
    Unloadable {
        /// The file.
        library: PathBuf,
        /// What the dynamic loader said.
        reason: String,
    },
    /// The library is there, the kernel module is not.
    #[error(
        "the NVIDIA kernel module is not loaded; run `nvidia-smi` on the node, or look for `NVRM` in its kernel log"
    )]
    NotLoaded,
    /// The library and the kernel module are of different versions: a driver upgrade that was not finished.
    #[error(
        "the NVIDIA kernel module is of another version than {}; finish the driver upgrade by reloading the module or \
         rebooting the node", library.display()
    )]
    VersionMismatch {
        /// The file.
        library: PathBuf,
    },
    /// The device nodes may not be opened.
    #[error("no permission to talk to the NVIDIA driver; the agent must run privileged and see the host's /dev")]
    NoPermission,
    /// Anything else that the library answered at start.
    #[error("the NVIDIA driver in {} did not start: {source}; run `nvidia-smi` on the node", library.display())]
    Init {
        /// The file.
        library: PathBuf,
        /// What NVML said.
        source: NvmlError,
    },
    /// A call that concerns the whole machine failed.
    #[error("the NVIDIA driver failed at {call}: {source}; run `nvidia-smi` on the node")]
    Call {
        /// The NVML function.
        call: &'static str,
        /// What NVML said.
        source: NvmlError,
    },
}

impl DriverError {
    /// Why the library did not start.
    fn at_start(library: &Path, error: NvmlError) -> Self {
        let library = library.to_path_buf();
        match error {
            NvmlError::LibloadingError(_) | NvmlError::FailedToLoadSymbol(_) => {
                DriverError::Unloadable { library, reason: error.to_string() }
            }
            NvmlError::DriverNotLoaded => DriverError::NotLoaded,
            NvmlError::LibRmVersionMismatch => DriverError::VersionMismatch { library },
            NvmlError::NoPermission => DriverError::NoPermission,
            source => DriverError::Init { library, source },
        }
    }
}

/// An open management library.
///
/// The library stays loaded for the life of the process: devices and event sets borrow it from several threads, and
/// unloading a library that started threads of its own is not safe. A copy costs about 2 MB; a new one is opened only
/// when the driver's file was replaced (see [`Driver::was_replaced`]).
#[derive(Clone, Copy)]
pub struct Driver {
    pub(crate) nvml: &'static Nvml,
    library: &'static Path,
    file: Option<FileId>,
}

/// Which file a path named when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    modified: i64,
}

impl Driver {
    /// Loads the management library found under `root` and starts it.
    pub fn open(root: &DriverRoot) -> Result<Driver, DriverError> {
        let library = match root.find_library(LIBRARY) {
            Some(path) => path,
            // On a machine of its own the loader knows more places than we do (ld.so.conf, LD_LIBRARY_PATH).
            None if root.path() == Path::new("/") => PathBuf::from(LIBRARY),
            None => return Err(DriverError::NotInstalled { root: root.path().to_path_buf() }),
        };
        let file = file_id(&library);
        let nvml = Nvml::builder().lib_path(library.as_os_str()).init().map_err(|error| match error {
            NvmlError::LibloadingError(_) if file.is_none() => {
                DriverError::NotInstalled { root: root.path().to_path_buf() }
            }
            error => DriverError::at_start(&library, error),
        })?;
        Ok(Driver { nvml: Box::leak(Box::new(nvml)), library: Box::leak(library.into_boxed_path()), file })
    }

    /// The file that was loaded.
    pub fn library(&self) -> &Path {
        self.library
    }

    /// Starts the library again, for a kernel module that was reloaded or came up late.
    ///
    /// Only while nothing is watched: what was read before is no longer valid.
    pub fn restart(&self) -> Result<(), DriverError> {
        raw::restart(self.nvml).map_err(|error| DriverError::at_start(self.library, error))
    }

    /// Whether the driver's library under `root` is no longer the file that was loaded: the driver was upgraded or
    /// removed while this process ran.
    pub fn was_replaced(&self, root: &DriverRoot) -> bool {
        let Some(opened) = self.file else { return false };
        root.find_library(LIBRARY).and_then(|path| file_id(&path)) != Some(opened)
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Driver").field(&self.library).finish()
    }
}

fn file_id(path: &Path) -> Option<FileId> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(FileId { device: metadata.dev(), inode: metadata.ino(), modified: metadata.mtime() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_root_is_told_by_name_with_the_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let error = Driver::open(&DriverRoot::new(dir.path())).unwrap_err();
        assert!(matches!(error, DriverError::NotInstalled { .. }));
        let sentence = error.to_string();
        assert!(sentence.contains(&dir.path().display().to_string()), "{sentence}");
        assert!(sentence.contains("install the driver"), "{sentence}");
        let (value, flag) = (sentence.find("driver.root "), sentence.find("--driver-root-ctr-path"));
        assert!(value.is_some() && value < flag, "the chart's value first, its users see no flags: {sentence}");
    }

    #[test]
    fn a_file_that_is_no_library_is_unloadable() {
        let dir = tempfile::tempdir().unwrap();
        let lib = dir.path().join("usr/lib64");
        std::fs::create_dir_all(&lib).unwrap();
        std::fs::write(lib.join(LIBRARY), "not an ELF file").unwrap();
        let error = Driver::open(&DriverRoot::new(dir.path())).unwrap_err();
        assert!(matches!(error, DriverError::Unloadable { .. }), "{error}");
    }
}
