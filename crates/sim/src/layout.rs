//! Laying out the stand-in library under the names that programs load.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// The one library behind all names.
pub const LIBRARY: &str = "libweft_sim.so";

/// What programs load: each is a link to [`LIBRARY`], so that the loader maps it once and all share one state.
pub const NAMES: [&str; 6] = [
    "libnvidia-ml.so.1",
    "libcuda.so.1",
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcufft.so.12",
    "libcusparse.so.12",
];

/// Where a driver root keeps its libraries, on the architecture that this is built for.
pub const LIBRARY_FOLDER: &str =
    if cfg!(target_arch = "aarch64") { "usr/lib/aarch64-linux-gnu" } else { "usr/lib/x86_64-linux-gnu" };

/// Why the libraries could not be laid out.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The library is not where it is built.
    #[error("there is no {LIBRARY} beside {beside}: build it with `cargo build -p weft-sim`, or give --library", beside = beside.display())]
    NoLibrary {
        /// The folder that was looked at.
        beside: PathBuf,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The library as cargo builds it: beside this program, or among the dependencies, where a test lies and where it is built
/// for others. The newest of them is the one of the last build.
///
/// # Errors
/// It is nowhere there.
pub fn built_library() -> Result<PathBuf, LayoutError> {
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.parent().unwrap_or(Path::new(".")).to_owned();
    [beside.join(LIBRARY), beside.join("deps").join(LIBRARY)]
        .into_iter()
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
        .ok_or(LayoutError::NoLibrary { beside })
}

/// Puts `library` and its names into `folder`, replacing what is there, also under running programs.
///
/// # Errors
/// A file cannot be written.
pub fn lay_out(library: &Path, folder: &Path) -> Result<(), LayoutError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| LayoutError::Write { path, source }
    };
    fs::create_dir_all(folder).map_err(at(folder))?;
    let replace = |name: &str, make: &dyn Fn(&Path) -> io::Result<()>| {
        let new = folder.join(format!(".{name}.new-{}", std::process::id()));
        let target = folder.join(name);
        make(&new).and_then(|()| fs::rename(&new, &target)).map_err(at(&target))
    };
    replace(LIBRARY, &|new| fs::copy(library, new).map(|_| ()))?;
    for name in NAMES {
        replace(name, &|new| symlink(LIBRARY, new))?;
    }
    Ok(())
}
