//! The driver of this process: which GPUs it has, and everything that C holds handles of.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::context::Context;
use super::error::{Answer, Error};
use super::memory::Table;
use super::module::{Function, LoadedModule};
use super::registry::Registry;
use super::stream::{Event, Stream};
use crate::profile::GpuFacts;
use crate::state::{self, Gpu, Machine, Process};

/// A GPU as CUDA counts them.
pub struct Device {
    /// CUDA's number.
    pub ordinal: usize,
    /// The machine's number.
    pub gpu: usize,
    primary: Mutex<Primary>,
    /// Bytes that the default memory pool keeps when it is empty; only remembered.
    pub pool_threshold: Mutex<u64>,
}

#[derive(Default)]
struct Primary {
    users: u32,
    flags: u32,
    context: Option<Arc<Context>>,
}

/// The driver after `cuInit`.
pub struct Driver {
    pub machine: &'static Machine,
    pub process: Process<'static>,
    pub devices: Vec<Device>,
    pub memory: Table,
    pub contexts: Registry<Context>,
    pub streams: Registry<Stream>,
    pub events: Registry<Event>,
    pub modules: Registry<LoadedModule>,
    pub functions: Registry<Function>,
    /// First error of work on any GPU of this process; 0 is none. See [`Driver::ruin`].
    ruined: AtomicI32,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

/// Starts the driver, as `cuInit` does.
///
/// # Errors
/// [`Error::NoDevice`] where there is no machine or this process sees none of its GPUs.
pub fn start() -> Answer<&'static Driver> {
    if let Some(driver) = DRIVER.get() {
        return Ok(driver);
    }
    let _one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(driver) = DRIVER.get() {
        return Ok(driver);
    }
    let machine = state::machine().map_err(|error| {
        if !matches!(error, state::OpenError::NoMachine) {
            eprintln!("weft-sim: {error}");
        }
        Error::NoDevice
    })?;
    machine.poll();
    let visible = if machine.reachable() { machine.cuda_visible() } else { Vec::new() };
    if visible.is_empty() {
        return Err(Error::NoDevice);
    }
    let process = machine.process().map_err(|error| {
        eprintln!("weft-sim: {error}");
        Error::Unknown
    })?;
    let device = |(ordinal, gpu)| Device { ordinal, gpu, primary: Mutex::default(), pool_threshold: Mutex::new(0) };
    let devices = visible.into_iter().enumerate().map(device).collect();
    // Handles look like the addresses that a driver gives, and those of different kinds differ.
    let driver = Driver {
        machine,
        process,
        devices,
        memory: Table::default(),
        contexts: Registry::new(0x5a01_0000_0000),
        streams: Registry::new(0x5a02_0000_0000),
        events: Registry::new(0x5a03_0000_0000),
        modules: Registry::new(0x5a04_0000_0000),
        functions: Registry::new(0x5a05_0000_0000),
        ruined: AtomicI32::new(0),
    };
    Ok(DRIVER.get_or_init(|| driver))
}

/// The driver.
///
/// # Errors
/// [`Error::NotInitialized`] before `cuInit`.
pub fn driver() -> Answer<&'static Driver> {
    let driver = DRIVER.get().ok_or(Error::NotInitialized)?;
    driver.machine.poll();
    Ok(driver)
}

impl Driver {
    /// The device with CUDA's number `ordinal`.
    ///
    /// # Errors
    /// [`Error::InvalidDevice`]
    pub fn device(&self, ordinal: i32) -> Answer<&Device> {
        usize::try_from(ordinal).ok().and_then(|at| self.devices.get(at)).ok_or(Error::InvalidDevice)
    }

    /// Ends CUDA for this process with an error of its own work; the first one stays.
    ///
    /// An illegal address "leaves the process in an inconsistent state": every call that needs a context then answers the
    /// same, on every GPU, and no context can be taken any more, reset or not. Seen with driver 580.159.04 on two H100 for
    /// 700, 710, 716 and 719. Other processes go on.
    pub fn ruin(&self, error: Error) {
        let _first = self.ruined.compare_exchange(0, error as i32, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether CUDA still works in this process.
    ///
    /// # Errors
    /// The error that ended it.
    pub fn check(&self) -> Answer {
        Error::from_code(self.ruined.load(Ordering::Acquire)).map_or(Ok(()), Err)
    }

    /// The device of a context.
    ///
    /// # Errors
    /// [`Error::InvalidDevice`]
    pub fn device_of(&self, context: &Context) -> Answer<&Device> {
        self.devices.get(context.ordinal).ok_or(Error::InvalidDevice)
    }
}

impl Device {
    /// The GPU's shared state.
    pub fn gpu<'d>(&self, driver: &'d Driver) -> Gpu<'d> {
        driver.machine.gpu(self.gpu)
    }

    /// What never changes about it.
    pub fn facts<'d>(&self, driver: &'d Driver) -> &'d GpuFacts {
        self.gpu(driver).facts()
    }

    fn primary(&self) -> MutexGuard<'_, Primary> {
        self.primary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more user of the primary context, which is made if there is none.
    ///
    /// # Errors
    /// As [`Context::create`].
    pub fn retain_primary(&self, driver: &'static Driver) -> Answer<Arc<Context>> {
        driver.check()?;
        let mut primary = self.primary();
        let context = match &primary.context {
            Some(context) => context.clone(),
            None => Context::create(driver, self, true)?,
        };
        primary.users += 1;
        primary.context = Some(context.clone());
        Ok(context)
    }

    /// One user less; the last takes the context along.
    ///
    /// # Errors
    /// [`Error::InvalidContext`] when nobody uses it.
    pub fn release_primary(&self, driver: &Driver) -> Answer {
        let mut primary = self.primary();
        primary.users = primary.users.checked_sub(1).ok_or(Error::InvalidContext)?;
        if primary.users == 0
            && let Some(context) = primary.context.take()
        {
            context.destroy(driver);
        }
        Ok(())
    }

    /// Destroys the primary context whoever uses it; the next retain makes a new one, unless CUDA has ended for this process.
    pub fn reset_primary(&self, driver: &Driver) {
        let mut primary = self.primary();
        primary.users = 0;
        if let Some(context) = primary.context.take() {
            context.destroy(driver);
        }
    }

    /// Flags of the primary context, and whether it is there.
    pub fn primary_state(&self) -> (u32, bool) {
        let primary = self.primary();
        (primary.flags, primary.context.is_some())
    }

    /// Sets the flags.
    pub fn set_primary_flags(&self, flags: u32) {
        self.primary().flags = flags;
    }
}
