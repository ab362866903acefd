//! Watches GPUs from threads of their own: one that waits for events, one that looks every second.
//!
//! ```text
//!   GPU 0 ── events thread ── XID ───────────────┐
//!         └─ look thread ──── sample + probe ────┤
//!   GPU 1 ── events thread ── XID ───────────────┼──▶ sink(uuid, Observation)
//!         └─ look thread ──── sample + probe ────┘
//! ```
//!
//! Each GPU has its own event set and its own threads, because a call about a GPU that hangs does not come back for
//! seconds, and because waiting on a set that holds a lost GPU fails for all that are in it. An event wakes the look
//! thread, so what the driver asks for after an XID is known at once and not a second later.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use nvml_wrapper::Device;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper_sys::bindings::{nvmlEventTypeGpuRecoveryAction, nvmlEventTypeXidCriticalError};
use weft_topology::GpuUuid;

use crate::driver::Driver;
use crate::health::{Probe, Unanswered};
use crate::raw;
use crate::sample::{Sample, sample, verdict};

/// NVML's unknown XID.
const XID: u64 = nvmlEventTypeXidCriticalError as u64;
const RECOVERY_ACTION: u64 = nvmlEventTypeGpuRecoveryAction as u64;

/// How long one wait lasts: an event ends it at once, so this only bounds how long a stopped monitor lingers.
const WAIT_MS: u32 = 500;

/// How long to leave a GPU alone whose events cannot be waited for.
const BACKOFF: Duration = Duration::from_secs(1);

/// What was seen of a GPU.
#[derive(Clone, Debug)]
pub enum Observation {
    /// The driver reported this XID.
    Xid(u64),
    /// The look of this second.
    Looked {
        /// Its measurements.
        sample: Box<Sample>,
        /// Whether it answered.
        probe: Probe,
    },
}

/// Called from the monitor's threads for every observation. It must not block.
pub type Sink = Arc<dyn Fn(&GpuUuid, Observation) + Send + Sync>;

/// Running threads. They end within a second after this is dropped (a GPU that hangs keeps its thread until it answers).
#[derive(Debug)]
pub struct Monitor {
    stop: Arc<AtomicBool>,
}

impl Monitor {
    /// Starts to watch these GPUs, looking at each every `interval`.
    pub fn start(driver: Driver, gpus: &[GpuUuid], interval: Duration, sink: &Sink) -> io::Result<Monitor> {
        let monitor = Monitor { stop: Arc::new(AtomicBool::new(false)) };
        for (number, uuid) in gpus.iter().enumerate() {
            let watch = Watch { driver, uuid: uuid.clone(), stop: Arc::clone(&monitor.stop), sink: Arc::clone(sink) };
            let look = watch.clone();
            let looker =
                thread::Builder::new().name(format!("gpu-look-{number}")).spawn(move || look.look(interval))?;
            let wake = looker.thread().clone();
            thread::Builder::new().name(format!("gpu-events-{number}")).spawn(move || watch.events(&wake))?;
        }
        Ok(monitor)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One GPU's watch, as both of its threads have it.
#[derive(Clone)]
struct Watch {
    driver: Driver,
    uuid: GpuUuid,
    stop: Arc<AtomicBool>,
    sink: Sink,
}

impl Watch {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn device(&self) -> Result<Device<'static>, NvmlError> {
        self.driver.nvml.device_by_uuid(self.uuid.as_str())
    }

    fn look(&self, interval: Duration) {
        let mut device = None;
        while !self.stopped() {
            let started = Instant::now();
            let (sample, probe) = match device.take().map_or_else(|| self.device(), Ok) {
                Ok(found) => {
                    let looked = sample(self.driver, &found);
                    // After a reset the old handle may be dead while a new one works.
                    if matches!(looked.1, Probe::Answered(_)) {
                        device = Some(found);
                    }
                    looked
                }
                Err(NvmlError::NotFound) => (Sample::default(), Probe::Unanswered(Unanswered::Lost)),
                Err(error) => {
                    let why = verdict(&error).unwrap_or(Unanswered::Error);
                    (Sample::default(), Probe::Unanswered(why))
                }
            };
            (self.sink)(&self.uuid, Observation::Looked { sample: Box::new(sample), probe });
            thread::park_timeout(interval.saturating_sub(started.elapsed()));
        }
    }

    fn events(&self, looker: &Thread) {
        let mut told = false;
        while !self.stopped() {
            let ended = self.wait_for_events(looker);
            if self.stopped() {
                break;
            }
            match ended {
                NvmlError::NotSupported => {
                    tracing::warn!(gpu = %self.uuid, "this GPU reports no events; its health is known from looking only");
                    return;
                }
                error => {
                    if !told {
                        tracing::warn!(gpu = %self.uuid, %error, "cannot wait for this GPU's events; trying every second");
                        told = true;
                    }
                }
            }
            looker.unpark();
            thread::park_timeout(BACKOFF);
        }
    }

    /// Delivers events until there is an error or the monitor is stopped.
    fn wait_for_events(&self, looker: &Thread) -> NvmlError {
        let nvml = self.driver.nvml;
        let prepared = self.device().and_then(|device| {
            let supported = raw::supported_events(nvml, &device)?;
            if supported & XID == 0 {
                return Err(NvmlError::NotSupported);
            }
            let set = nvml.create_event_set()?;
            raw::register_events(nvml, &device, supported & (XID | RECOVERY_ACTION), &set)?;
            Ok(set)
        });
        let set = match prepared {
            Ok(set) => set,
            Err(error) => return error,
        };
        while !self.stopped() {
            match raw::wait(nvml, &set, WAIT_MS) {
                Ok(event) => {
                    if event.kind & XID != 0 {
                        (self.sink)(&self.uuid, Observation::Xid(event.data));
                    }
                    looker.unpark();
                }
                Err(NvmlError::Timeout) => {}
                Err(error) => return error,
            }
        }
        NvmlError::Timeout
    }
}
