//! Where the machine comes from.

use std::{
    env,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError, atomic::AtomicU64},
};

use super::{
    Machine,
    file::{Document, Mapping},
};
use crate::profile::{Profile, ProfileError};

/// Where a node's machine lies unless `WEFT_SIM_STATE` says otherwise.
pub const DEFAULT_STATE: &str = "/run/weft-sim/machine";

/// The seed of a private machine, which has no node to take one from.
const PRIVATE_SEED: &str = "private";

/// How it is decided which GPUs a process sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Isolation {
    /// All of them.
    Off = 0,
    /// Those whose device node it may open: the container's device list and device cgroup decide, as with a real GPU.
    Open = 1,
    /// Those whose device node is there: for a machine on which even the maker of the nodes may not open them.
    Exists = 2,
}

/// Why there is no machine to look at.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing names a machine: to the user of a driver, there is no driver.
    #[error(
        "there is no simulated machine: set WEFT_SIM_STATE or WEFT_SIM_PROFILE, or make {DEFAULT_STATE} with \
         `weft-sim init --profile h100x8`"
    )]
    NoMachine,
    /// The file cannot be opened.
    #[error("cannot open the machine state {path}: {source}", path = path.display())]
    Io {
        /// The state file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Some other file.
    #[error("{path} is not a machine state: make one with `weft-sim init --state {path}`", path = path.display())]
    NotAState {
        /// The file.
        path: PathBuf,
    },
    /// Written by another version of the simulator.
    #[error(
        "the machine state {path} has format {found}, this simulator reads format {expected}: end its processes and \
         make it again with `weft-sim init --replace --state {path}`",
        path = path.display()
    )]
    Format {
        /// The state file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The only format that this build reads.
        expected: u32,
    },
    /// The right format, but broken.
    #[error(
        "the machine state {path} is damaged ({why}): make it again with `weft-sim init --replace --state {path}`",
        path = path.display()
    )]
    Damaged {
        /// The state file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// The profile is wrong.
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

/// The machine of this process: `$WEFT_SIM_STATE`, else `/run/weft-sim/machine` if it is there, else a private one from
/// `$WEFT_SIM_PROFILE`. Opened once; a failure is tried again at the next call, as a driver may be loaded later.
///
/// # Errors
/// No machine is named, or the named one cannot be used.
pub fn machine() -> Result<&'static Machine, OpenError> {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    static OPENING: Mutex<()> = Mutex::new(());
    if let Some(machine) = MACHINE.get() {
        return Ok(machine);
    }
    let _one = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    if MACHINE.get().is_none() {
        let machine = Machine::from_environment()?;
        return Ok(MACHINE.get_or_init(|| machine));
    }
    MACHINE.get().ok_or(OpenError::NoMachine)
}

impl Machine {
    fn from_environment() -> Result<Machine, OpenError> {
        let named = |name| env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = named("WEFT_SIM_STATE") {
            return Self::open(Path::new(&path));
        }
        if Path::new(DEFAULT_STATE).exists() {
            return Self::open(Path::new(DEFAULT_STATE));
        }
        match named("WEFT_SIM_PROFILE") {
            Some(profile) => Self::private(Profile::load(&profile.to_string_lossy())?),
            None => Err(OpenError::NoMachine),
        }
    }

    /// Opens the state file at `path`.
    ///
    /// # Errors
    /// The file is missing, no state, of another format or damaged.
    pub fn open(path: &Path) -> Result<Machine, OpenError> {
        let (mapping, document) = Mapping::open(path)?;
        Self::new(mapping, document)
    }

    /// A machine that only this process sees.
    ///
    /// # Errors
    /// The system gives no memory file.
    pub fn private(profile: Profile) -> Result<Machine, OpenError> {
        let (mapping, document) = Mapping::private(&Document { seed: PRIVATE_SEED.to_owned(), profile })?;
        Self::new(mapping, document)
    }

    /// Makes the state file at `path` for others to open, in place of any that is there.
    ///
    /// # Errors
    /// The profile is impossible or the file cannot be written.
    pub fn create(path: &Path, profile: Profile, seed: &str, isolation: Isolation) -> Result<(), OpenError> {
        profile.facts(seed)?;
        Mapping::create(path, &Document { seed: seed.to_owned(), profile }, isolation)
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })
    }

    fn new(mapping: Mapping, document: Document) -> Result<Machine, OpenError> {
        let Document { seed, profile } = document;
        Ok(Machine {
            facts: profile.facts(&seed)?,
            cuda_version: profile.cuda_version()?,
            profile,
            seed,
            mapping,
            slot: OnceLock::new(),
            polled_ns: AtomicU64::new(0),
            slots: Mutex::new(()),
            working: Mutex::new(()),
            faulting: Mutex::new(()),
            controlling: Mutex::new(()),
        })
    }

    /// The seed from which the GPUs' identities follow.
    pub fn seed(&self) -> &str {
        &self.seed
    }

    /// Where the state lies; nothing for a private machine.
    pub fn path(&self) -> Option<&Path> {
        self.mapping.path.as_deref()
    }
}
