//! Contexts: what a process holds on a GPU, and the error that ends it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::driver::{Device, Driver, driver};
use super::error::{Answer, Error};
use super::registry::Handle;
use super::stream::Stream;
use crate::state::Health;

/// GPU memory that a context takes before anything is allocated, bytes (order of what H100 drivers show).
const CONTEXT_BYTES: u64 = 448 << 20;
/// XIDs of memory errors that cannot be corrected (NVIDIA's XID catalogue).
const MEMORY_XIDS: [u32; 4] = [48, 63, 64, 95];
/// XID of NVLink errors.
const NVLINK_XID: u32 = 74;

/// A context.
pub struct Context {
    pub handle: Handle,
    /// CUDA's number of its device.
    pub ordinal: usize,
    /// The machine's number of its GPU.
    pub gpu: usize,
    pub is_primary: bool,
    /// The stream that every context has.
    null_stream: OnceLock<Arc<Stream>>,
    /// The error that ended it; every later call answers it.
    sticky: AtomicI32,
    /// GPUs whose memory its kernels may touch.
    peers: RwLock<BTreeSet<usize>>,
    /// The GPU's context epoch when this was made.
    epoch: u32,
    /// Limits by their number in the header; only remembered.
    pub limits: [AtomicUsize; 8],
}

thread_local! {
    static CURRENT: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

fn failure(health: Health, last_xid: Option<u32>) -> Error {
    match (health, last_xid) {
        (Health::Lost, _) => Error::Unknown,
        (_, Some(xid)) if MEMORY_XIDS.contains(&xid) => Error::EccUncorrectable,
        (_, Some(NVLINK_XID)) => Error::NvlinkUncorrectable,
        _ => Error::LaunchFailed,
    }
}

impl Context {
    /// A new context on `device`.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`] on a GPU that needs a reset, [`Error::Unknown`] on one that is gone, [`Error::OutOfMemory`],
    /// and the error that ended CUDA for this process.
    pub fn create(driver: &'static Driver, device: &Device, is_primary: bool) -> Answer<Arc<Self>> {
        driver.check()?;
        let gpu = device.gpu(driver);
        match gpu.health() {
            Health::Healthy => {}
            Health::Lost => return Err(Error::Unknown),
            Health::Xid(_) => return Err(Error::DeviceUnavailable),
        }
        driver.process.allocate(device.gpu, CONTEXT_BYTES).map_err(|_| Error::OutOfMemory)?;
        driver.process.context_created(device.gpu);
        let handle = driver.contexts.reserve();
        let context = Arc::new(Self {
            handle,
            ordinal: device.ordinal,
            gpu: device.gpu,
            is_primary,
            null_stream: OnceLock::new(),
            sticky: AtomicI32::new(0),
            peers: RwLock::default(),
            epoch: gpu.context_epoch(),
            // Stack, printf buffer, heap, launch depth, pending launches, L2 granularity, persisting L2: the driver's defaults.
            limits: [1024, 7 << 20, 8 << 20, 2, 2048, 64, 0, 0].map(AtomicUsize::new),
        });
        let _first = context.null_stream.set(Stream::new(driver, &context, 0, 0));
        driver.contexts.insert_at(handle, context.clone());
        Ok(context)
    }

    /// Ends it and everything made in it.
    pub fn destroy(&self, driver: &Driver) {
        if driver.contexts.remove(self.handle).is_none() {
            return;
        }
        driver.memory.remove_context(self.handle);
        driver.streams.remove_where(|stream| stream.context() == self.handle);
        driver.events.remove_where(|event| event.context == self.handle);
        driver.functions.remove_where(|function| function.context == self.handle);
        driver.modules.remove_where(|module| module.context == self.handle);
        driver.process.context_destroyed(self.gpu);
        driver.process.free(self.gpu, CONTEXT_BYTES);
    }

    /// The stream of handle 0.
    ///
    /// # Errors
    /// [`Error::InvalidContext`] cannot happen after [`Context::create`].
    pub fn null_stream(&self) -> Answer<Arc<Stream>> {
        self.null_stream.get().cloned().ok_or(Error::InvalidContext)
    }

    /// The error that ended it, if one has: its own, one of this process, or its GPU's.
    ///
    /// # Errors
    /// That error.
    pub fn check(&self, driver: &Driver) -> Answer {
        if let Some(error) = Error::from_code(self.sticky.load(Ordering::Acquire)) {
            return Err(error);
        }
        driver.check()?;
        let gpu = driver.machine.gpu(self.gpu);
        if gpu.context_epoch() == self.epoch {
            return Ok(());
        }
        Err(self.fail(failure(gpu.health(), gpu.last_xid())))
    }

    /// Ends the context with `error`; the first one stays.
    pub fn fail(&self, error: Error) -> Error {
        let first = self.sticky.compare_exchange(0, error as i32, Ordering::AcqRel, Ordering::Acquire);
        first.err().and_then(Error::from_code).unwrap_or(error)
    }

    /// Lets its kernels touch the memory of `gpu`, or no more.
    ///
    /// # Errors
    /// [`Error::PeerAccessAlreadyEnabled`], [`Error::PeerAccessNotEnabled`]
    pub fn set_peer(&self, gpu: usize, allowed: bool) -> Answer {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        match (allowed, if allowed { peers.insert(gpu) } else { peers.remove(&gpu) }) {
            (_, true) => Ok(()),
            (true, false) => Err(Error::PeerAccessAlreadyEnabled),
            (false, false) => Err(Error::PeerAccessNotEnabled),
        }
    }

    /// Whether its kernels may touch memory of `gpu`.
    pub fn reaches(&self, gpu: usize) -> bool {
        gpu == self.gpu || self.peers.read().unwrap_or_else(PoisonError::into_inner).contains(&gpu)
    }

    /// Waits for all work of all its streams.
    ///
    /// # Errors
    /// The error of that work.
    pub fn synchronize(&self, driver: &Driver) -> Answer {
        for stream in driver.streams.all().into_iter().filter(|stream| stream.context() == self.handle) {
            stream.wait_all();
        }
        self.null_stream()?.wait_all();
        self.check(driver)
    }
}

/// The calling thread's context, whatever its state.
///
/// # Errors
/// [`Error::NotInitialized`], [`Error::InvalidContext`] when none is current, [`Error::ContextIsDestroyed`].
pub fn current_unchecked() -> Answer<(&'static Driver, Arc<Context>)> {
    let driver = driver()?;
    let handle = current_handle().ok_or(Error::InvalidContext)?;
    Ok((driver, driver.contexts.get(handle).ok_or(Error::ContextIsDestroyed)?))
}

/// The calling thread's context.
///
/// # Errors
/// As [`current_unchecked`], and the error that ended the context.
pub fn current() -> Answer<(&'static Driver, Arc<Context>)> {
    let (driver, context) = current_unchecked()?;
    context.check(driver)?;
    Ok((driver, context))
}

/// Handle of the calling thread's context.
pub fn current_handle() -> Option<Handle> {
    CURRENT.with_borrow(|stack| stack.last().copied())
}

/// Replaces the calling thread's context; 0 takes it away.
pub fn set_current(handle: Handle) {
    CURRENT.with_borrow_mut(|stack| {
        stack.pop();
        if handle != 0 {
            stack.push(handle);
        }
    });
}

/// Puts a context on the calling thread's stack.
pub fn push_current(handle: Handle) {
    CURRENT.with_borrow_mut(|stack| stack.push(handle));
}

/// Takes the top of the calling thread's stack.
pub fn pop_current() -> Option<Handle> {
    CURRENT.with_borrow_mut(Vec::pop)
}
