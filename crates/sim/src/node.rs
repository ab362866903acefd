//! Making a simulated node: its state file and its device nodes.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::{
    profile::Profile,
    state::{
        Isolation, Machine, OpenError,
        visible::{CONTROL_MINOR, MAJOR, may_open},
    },
};

/// Minor numbers of the nodes that every GPU program opens beside its GPUs'. The real unified-memory nodes have a major
/// number of their own, given out at each start; here they are free minors of the same.
const SHARED_NODES: [(&str, u32); 3] = [("nvidiactl", CONTROL_MINOR), ("nvidia-uvm", 253), ("nvidia-uvm-tools", 252)];

/// What a node is to be.
pub struct NodeSpec {
    /// Its machine.
    pub profile: Profile,
    /// From which its GPUs' identities follow.
    pub seed: String,
    /// Where its state lies.
    pub state: PathBuf,
    /// Its folder of device nodes. With one, processes see only the GPUs whose nodes they have; without, all.
    pub dev: Option<PathBuf>,
    /// Begin anew even if there is a state already.
    pub replace: bool,
}

/// Why a node could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Opening or writing the state.
    #[error(transparent)]
    State(#[from] OpenError),
    /// There is a state, but not this one.
    #[error("{state} is another machine already ({what}): give --replace to end it and begin anew", state = state.display())]
    Other {
        /// The state file.
        state: PathBuf,
        /// What differs.
        what: String,
    },
    /// A device node could not be made.
    #[error("cannot make the device node {path}: {source}; run as root with CAP_MKNOD, or without --dev for no isolation", path = path.display())]
    Node {
        /// The node.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else has the node's name.
    #[error("{path} exists and is not character device {MAJOR}:{minor}: remove it first", path = path.display())]
    NotANode {
        /// What has the name.
        path: PathBuf,
        /// The minor number that it should have.
        minor: u32,
    },
    /// The folder of the state could not be made.
    #[error("cannot make the folder {path}: {source}", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What [`init`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// A new machine.
    New,
    /// Nothing: the same machine was there, with its processes and faults.
    Kept,
}

/// Makes a node, or completes one that was begun: running it again changes nothing.
///
/// # Errors
/// Another machine is there, or the file or a device node cannot be made.
pub fn init(spec: &NodeSpec) -> Result<Made, InitError> {
    let isolation = match &spec.dev {
        Some(dev) => make_nodes(dev, spec.profile.gpus.len() as u32)?,
        None => Isolation::Off,
    };
    if spec.state.exists() && !spec.replace {
        let there = Machine::open(&spec.state)?;
        let differs = |what: String| InitError::Other { state: spec.state.clone(), what };
        if there.profile() != &spec.profile {
            return Err(differs(format!("profile {}", there.profile().name)));
        }
        if there.seed() != spec.seed {
            return Err(differs(format!("seed {}", there.seed())));
        }
        if (there.isolation() == Isolation::Off) != (isolation == Isolation::Off) {
            return Err(differs("with another --dev".to_owned()));
        }
        return Ok(Made::Kept);
    }
    if let Some(folder) = spec.state.parent() {
        fs::create_dir_all(folder).map_err(|source| InitError::Folder { path: folder.to_owned(), source })?;
    }
    Machine::create(&spec.state, spec.profile.clone(), &spec.seed, isolation)?;
    Ok(Made::New)
}

/// Makes the device nodes and finds out how a process's right to a GPU shows.
fn make_nodes(dev: &Path, gpus: u32) -> Result<Isolation, InitError> {
    fs::create_dir_all(dev).map_err(|source| InitError::Folder { path: dev.to_owned(), source })?;
    let own: Vec<_> = (0..gpus).map(|minor| (format!("nvidia{minor}"), minor)).collect();
    for (name, minor) in own.iter().map(|(name, minor)| (name.as_str(), *minor)).chain(SHARED_NODES) {
        make_node(&dev.join(name), minor)?;
    }
    // Where not even we may open what we made (a machine that is a container itself), nobody's right shows by opening.
    Ok(if may_open(&dev.join("nvidiactl")) { Isolation::Open } else { Isolation::Exists })
}

fn make_node(path: &Path, minor: u32) -> Result<(), InitError> {
    let device = makedev(MAJOR, minor);
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_char_device() && there.rdev() == device => return Ok(()),
        Ok(_) => return Err(InitError::NotANode { path: path.to_owned(), minor }),
        Err(_) => {}
    }
    let failed = |source| InitError::Node { path: path.to_owned(), source };
    mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device).map_err(|e| failed(e.into()))?;
    // The mask of new files took some of the rights away again.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(failed)
}
