//! The newest measurements, for whoever scrapes. Written once a second, read at each scrape; nothing is kept of the past.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use weft_nvml::Sample;
use weft_topology::GpuUuid;

/// The newest measurements of all GPUs.
#[derive(Debug, Default)]
pub struct Samples {
    gpus: Mutex<BTreeMap<GpuUuid, Measured>>,
}

/// The newest measurements of one GPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Nothing while the GPU does not answer: an old value would look like a live one.
    pub sample: Option<Sample>,
    /// The last XID that the driver reported.
    pub last_xid: Option<u64>,
    /// How often each XID was reported since the agent started.
    pub xids: BTreeMap<u64, u64>,
}

impl Samples {
    /// Stores the measurements of one GPU.
    pub fn set(&self, uuid: &GpuUuid, sample: Sample) {
        self.lock().entry(uuid.clone()).or_default().sample = Some(sample);
    }

    /// The GPU has not answered: there are no measurements.
    pub fn forget(&self, uuid: &GpuUuid) {
        self.lock().entry(uuid.clone()).or_default().sample = None;
    }

    /// Counts an XID.
    pub fn xid(&self, uuid: &GpuUuid, xid: u64) {
        let mut gpus = self.lock();
        let measured = gpus.entry(uuid.clone()).or_default();
        measured.last_xid = Some(xid);
        *measured.xids.entry(xid).or_default() += 1;
    }

    /// All of it, as it is now.
    pub fn all(&self) -> BTreeMap<GpuUuid, Measured> {
        self.lock().clone()
    }

    /// A panic while holding it left a whole value of one second: still good.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<GpuUuid, Measured>> {
        self.gpus.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
