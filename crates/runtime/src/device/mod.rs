//! One owner thread for each GPU.
//!
//! ```text
//!  any task ──call(closure)──▶ channel ──▶ owner thread: closure(&mut Device) ──▶ one-shot ──▶ the task
//!                                             │ sticky CUDA error
//!                                             └─▶ drop everything, reset the context, build it again, next generation
//! ```
//!
//! What a session made on a GPU is kept under the session's id and dies with it, or with the context. A session from before a
//! reset learns so from its next call, because the generation it was opened in is no longer the device's.
//!
//! Not every driver gives a process a second context: driver 580 on an H200 answers error 700 to the taking of a new one after
//! an illegal address, reset or not. The GPU is then out of service for this process, which ends with a sentence, and kubelet
//! starts a fresh one.

mod compare;
mod operations;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub use compare::Comparison;
pub use operations::{Device, Operand, Place};

use crate::Error;
use crate::driver::{Context, GpuInfo};

/// Requests that may wait for one GPU; more wait at their own caller's side.
const QUEUE_LENGTH: usize = 64;

/// Runs on the owner thread. Returns the error that ruined the context, if one did.
type Job = Box<dyn FnOnce(&mut Device) -> Option<Error> + Send>;

/// Whether a GPU can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Jobs are served.
    Serving,
    /// The context could not be built again; the sentence says why.
    OutOfService(String),
}

/// How tasks reach a GPU's owner thread. Cheap to clone.
#[derive(Clone)]
pub struct DeviceHandle {
    info: Arc<GpuInfo>,
    jobs: mpsc::UnboundedSender<Job>,
    queue: Arc<Semaphore>,
    health: watch::Receiver<Health>,
    generation: Arc<AtomicU64>,
}

impl DeviceHandle {
    /// Starts the owner thread of a GPU and waits until its context is there.
    ///
    /// # Errors
    /// What kept the context from being taken.
    pub async fn start(index: usize) -> Result<Self, Error> {
        let (jobs, inbox) = mpsc::unbounded_channel();
        let (health_sender, health) = watch::channel(Health::Serving);
        let generation = Arc::new(AtomicU64::new(0));
        let (ready, started) = oneshot::channel();
        let owner = Owner { index, inbox, health: health_sender };
        std::thread::Builder::new().name(format!("gpu-{index}")).spawn(move || owner.run(ready)).map_err(|error| {
            Error::OutOfService { gpu: index, reason: format!("its thread did not start: {error}") }
        })?;
        let ended = || Error::OutOfService { gpu: index, reason: "its thread ended while it started".into() };
        let info = started.await.map_err(|_| ended())??;
        Ok(Self { info: Arc::new(info), jobs, queue: Arc::new(Semaphore::new(QUEUE_LENGTH)), health, generation })
    }

    /// What the driver says of this GPU.
    pub fn info(&self) -> &GpuInfo {
        &self.info
    }

    /// How often the context has been built again.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Changes when the GPU goes out of service.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Runs `job` on the owner thread and waits for its answer. If the caller gives up, the job still runs to its end.
    ///
    /// # Errors
    /// Those of `job`; [`Error::OutOfService`] when there is no thread any more.
    pub async fn call<T, F>(&self, job: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Device) -> Result<T, Error> + Send + 'static,
    {
        let place = self.queue.clone().acquire_owned().await.map_err(|_| self.out_of_service())?;
        let (reply, answer) = oneshot::channel();
        let generation = self.generation.clone();
        let job: Job = Box::new(move |device| {
            let (result, ruin) = run_guarded(device, job);
            if ruin.is_some() {
                // Before the answer: whoever connects because of it belongs to the context that is built next.
                generation.fetch_add(1, Ordering::Release);
            }
            // A caller that has gone away does not want the answer.
            let _unread = reply.send(result);
            drop(place);
            ruin
        });
        self.jobs.send(job).map_err(|_| self.out_of_service())?;
        answer.await.map_err(|_| self.out_of_service())?
    }

    /// Runs `job` on the owner thread, after everything that was asked before. For releasing: nobody waits, nothing refuses.
    pub fn post(&self, job: impl FnOnce(&mut Device) + Send + 'static) {
        let generation = self.generation.clone();
        let job: Job = Box::new(move |device| {
            let released = run_guarded(device, |device| {
                job(device);
                Ok(())
            });
            if released.1.is_some() {
                generation.fetch_add(1, Ordering::Release);
            }
            released.1
        });
        if self.jobs.send(job).is_err() {
            tracing::debug!(gpu = self.info.index, "nothing to release: the owner thread has ended");
        }
    }

    fn out_of_service(&self) -> Error {
        let reason = match &*self.health.borrow() {
            Health::OutOfService(reason) => reason.clone(),
            Health::Serving => "its thread has ended".to_owned(),
        };
        Error::OutOfService { gpu: self.info.index, reason }
    }
}

/// Runs a job, turns a panic into an error, and looks for errors that had no one to answer to.
fn run_guarded<T>(
    device: &mut Device,
    job: impl FnOnce(&mut Device) -> Result<T, Error>,
) -> (Result<T, Error>, Option<Error>) {
    // The device may be halfway through a change when a job panics, but all it holds are caches and owners of GPU objects:
    // at worst an object lives until its session ends.
    let result = catch_unwind(AssertUnwindSafe(|| job(device))).unwrap_or_else(|panic| Err(from_panic(&*panic)));
    // A job that failed halfway may have left copies on the stream: nothing that they touch may be released before they end.
    let ended = if result.is_err() { device.context().synchronize("ending a failed request") } else { Ok(()) };
    let deferred = device.context().take_deferred_error();
    let errors = [result.as_ref().err(), ended.as_ref().err(), deferred.as_ref().err()];
    let ruin = errors.into_iter().flatten().find(|error| error.is_sticky());
    let ruin = ruin.cloned();
    if let (Err(error), None) = (&deferred, &ruin) {
        tracing::warn!(gpu = device.info().index, %error, "an object was not released cleanly");
    }
    (result, ruin)
}

/// cudarc panics when a library lacks a symbol, and says which.
fn from_panic(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("a CUDA call failed without saying why");
    Error::MissingSymbol(text.trim_end_matches(": dlsym failed").to_owned())
}

struct Owner {
    index: usize,
    inbox: mpsc::UnboundedReceiver<Job>,
    health: watch::Sender<Health>,
}

impl Owner {
    fn run(mut self, ready: oneshot::Sender<Result<GpuInfo, Error>>) {
        let built = catch_unwind(|| Device::new(self.index, 0)).unwrap_or_else(|panic| Err(from_panic(&*panic)));
        let mut device = match built {
            Ok(device) => device,
            Err(error) => {
                let _unread = ready.send(Err(error));
                return;
            }
        };
        let _unread = ready.send(Ok(device.info().clone()));
        while let Some(job) = self.inbox.blocking_recv() {
            let Some(ruin) = job(&mut device) else { continue };
            let generation = device.generation() + 1;
            tracing::error!(gpu = self.index, error = %ruin, generation, "the context is ruined and is built again");
            device = match self.rebuild(device, generation, &ruin) {
                Ok(device) => device,
                Err(error) => {
                    let reason = format!("after {ruin} its context could not be built again ({error})");
                    tracing::error!(gpu = self.index, reason, "GPU out of service");
                    self.health.send_replace(Health::OutOfService(reason));
                    return;
                }
            };
        }
    }

    fn rebuild(&self, ruined: Device, generation: u64, ruin: &Error) -> Result<Device, Error> {
        let built = catch_unwind(AssertUnwindSafe(|| {
            drop(ruined);
            Context::reset(self.index)?;
            let mut device = Device::new(self.index, generation)?;
            device.remember_reset(ruin.to_string());
            // A context that was taken but does not work is worse than none.
            let probe = device.context().upload(&[1, 2, 3, 4])?;
            match device.context().read(&probe)?[..] {
                [1, 2, 3, 4] => Ok(device),
                _ => {
                    Err(Error::OutOfService { gpu: self.index, reason: "memory does not keep what is written".into() })
                }
            }
        }));
        built.unwrap_or_else(|panic| Err(from_panic(&*panic)))
    }
}
