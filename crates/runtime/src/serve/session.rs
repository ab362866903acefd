//! What one connection holds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::metrics::Metrics;
use super::region::Region;
use crate::Error;
use crate::device::{Device, DeviceHandle};

/// Sessions and handles are numbered across the whole process: a number of another connection is simply unknown. So is one
/// of a runtime that ended, since numbers begin with the time: a client's channel connects again by itself.
static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    AtomicU64::new((now.as_nanos() as u64).max(1))
});

/// A fresh number.
pub(super) fn next_number() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A buffer or module on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Device memory of this many bytes.
    Buffer { gpu: usize, bytes: usize },
    /// Loaded code.
    Module { gpu: usize },
}

/// One connection. Dropping it releases everything, behind whatever is still running: the queue of a GPU keeps order.
pub(super) struct Session {
    number: u64,
    devices: Arc<[DeviceHandle]>,
    held: Mutex<HashMap<u64, Held>>,
    regions: Mutex<HashMap<u64, Arc<Region>>>,
    metrics: Arc<Metrics>,
}

impl Session {
    pub(super) fn new(devices: Arc<[DeviceHandle]>, metrics: Arc<Metrics>) -> Self {
        metrics.clients.inc();
        let number = next_number();
        tracing::debug!(session = number, "client connected");
        Self { number, devices, held: Mutex::default(), regions: Mutex::default(), metrics }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    fn device(&self, gpu: usize) -> Result<&DeviceHandle, Error> {
        self.devices.get(gpu).ok_or_else(|| Error::NoSuchGpu {
            asked: u32::try_from(gpu).unwrap_or(u32::MAX),
            count: self.devices.len(),
        })
    }

    /// Runs `job` on a GPU's thread.
    pub(super) async fn call<T, F>(&self, gpu: usize, job: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Device) -> Result<T, Error> + Send + 'static,
    {
        self.device(gpu)?.call(job).await
    }

    /// The GPU on whose thread regions are pinned. The pinning holds for all GPUs.
    pub(super) fn home(&self) -> Result<&DeviceHandle, Error> {
        self.device(0)
    }

    pub(super) fn hold(&self, handle: u64, held: Held) {
        lock(&self.held).insert(handle, held);
    }

    pub(super) fn held(&self, kind: &'static str, handle: u64) -> Result<Held, Error> {
        let held = lock(&self.held).get(&handle).copied();
        match (kind, held) {
            ("buffer", Some(held @ Held::Buffer { .. })) | ("module", Some(held @ Held::Module { .. })) => Ok(held),
            _ => Err(Error::UnknownHandle { kind, handle }),
        }
    }

    pub(super) fn forget(&self, handle: u64) {
        lock(&self.held).remove(&handle);
    }

    pub(super) fn add_region(&self, region: Arc<Region>) {
        lock(&self.regions).insert(region.number(), region);
    }

    pub(super) fn region(&self, handle: u64) -> Result<Arc<Region>, Error> {
        lock(&self.regions).get(&handle).cloned().ok_or(Error::UnknownHandle { kind: "region", handle })
    }

    pub(super) fn close_region(&self, handle: u64) -> Result<(), Error> {
        let closed = lock(&self.regions).remove(&handle);
        closed.map(drop).ok_or(Error::UnknownHandle { kind: "region", handle })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let number = self.number;
        for device in self.devices.iter() {
            device.post(move |device| device.end_session(number));
        }
        self.metrics.clients.dec();
        tracing::debug!(session = number, "client gone, its objects are released");
    }
}

/// The maps are consistent after every statement, so a panic of another holder spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
