//! One owner thread for each GPU.
//!
//! ```text
//!  any task ──call(closure)──▶ channel ──▶ owner thread: closure(&mut Device) ──▶ one-shot ──▶ the task
//!                                             │ sticky CUDA error, or an operation over its time
//!                                             └─▶ out of service: the process ends, kubelet starts a fresh one
//! ```
//!
//! Neither can be mended in place. After an illegal address, an assertion or a trap, CUDA answers the same error to all calls
//! of the process, on every GPU, and gives it no new context, reset or not (driver 580.159.04 on two H100). And CUDA has no
//! call that ends a kernel: only the end of its process does (on the same machine within a second, also by plain exit).

mod compare;
mod operations;
mod work;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub use compare::Comparison;
pub use operations::{Device, Operand, Place};

use work::Work;

use crate::Error;
use crate::driver::GpuInfo;

/// Requests that may wait for one GPU; more wait at their own caller's side.
const QUEUE_LENGTH: usize = 64;

/// Runs on the owner thread. Returns the error that ruined the context, if one did.
type Job = Box<dyn FnOnce(&mut Device) -> Option<Error> + Send>;

/// Whether a GPU can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Jobs are served.
    Serving,
    /// CUDA works no more; the sentence says why.
    OutOfService(String),
    /// An operation has run for longer than this, and nothing can stop it.
    Stuck(Duration),
}

/// How tasks reach a GPU's owner thread. Cheap to clone.
#[derive(Clone)]
pub struct DeviceHandle {
    info: Arc<GpuInfo>,
    jobs: mpsc::UnboundedSender<Job>,
    queue: Arc<Semaphore>,
    health: watch::Receiver<Health>,
    work: Arc<Work>,
}

impl DeviceHandle {
    /// Starts the owner thread of a GPU and waits until its context is there. A job that takes longer than `limit` puts the
    /// GPU out of service.
    ///
    /// # Errors
    /// What kept the context from being taken.
    pub async fn start(index: usize, limit: Option<Duration>) -> Result<Self, Error> {
        let (jobs, inbox) = mpsc::unbounded_channel();
        let (health_sender, health) = watch::channel(Health::Serving);
        let (health_sender, work) = (Arc::new(health_sender), Arc::new(Work::default()));
        let (ready, started) = oneshot::channel();
        let owner = Owner { index, inbox, health: health_sender.clone(), work: work.clone() };
        std::thread::Builder::new().name(format!("gpu-{index}")).spawn(move || owner.run(ready)).map_err(|error| {
            Error::OutOfService { gpu: index, reason: format!("its thread did not start: {error}") }
        })?;
        let ended = || Error::OutOfService { gpu: index, reason: "its thread ended while it started".into() };
        let info = started.await.map_err(|_| ended())??;
        if let Some(limit) = limit {
            tokio::spawn(work::watch(work.clone(), limit, health_sender));
        }
        Ok(Self { info: Arc::new(info), jobs, queue: Arc::new(Semaphore::new(QUEUE_LENGTH)), health, work })
    }

    /// What the driver says of this GPU.
    pub fn info(&self) -> &GpuInfo {
        &self.info
    }

    /// How long the owner thread has been at its present job; nothing while it waits for one.
    pub fn busy_for(&self) -> Option<Duration> {
        self.work.busy_for()
    }

    /// Jobs that the owner thread has before it, the present one included.
    pub fn queued(&self) -> usize {
        QUEUE_LENGTH - self.queue.available_permits().min(QUEUE_LENGTH)
    }

    /// Changes when the GPU goes out of service.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Runs `job` on the owner thread and waits for its answer. If the caller gives up, the job still runs to its end.
    ///
    /// # Errors
    /// Those of `job`; [`Error::Stuck`] when it takes too long; [`Error::OutOfService`] when the GPU serves no more.
    pub async fn call<T, F>(&self, job: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Device) -> Result<T, Error> + Send + 'static,
    {
        let began = Arc::new(AtomicBool::new(false));
        let begins = began.clone();
        let answered = async {
            let place = self.queue.clone().acquire_owned().await.map_err(|_| self.out_of_service())?;
            let (reply, answer) = oneshot::channel();
            let job: Job = Box::new(move |device| {
                begins.store(true, Ordering::Release);
                let (result, ruin) = run_guarded(device, job);
                // A caller that has gone away does not want the answer.
                let _unread = reply.send(result);
                drop(place);
                ruin
            });
            self.jobs.send(job).map_err(|_| self.out_of_service())?;
            answer.await.map_err(|_| self.out_of_service())?
        };
        let mut health = self.health.clone();
        tokio::select! {
            // The answer first: the job that ruined the context has one.
            biased;
            answer = answered => answer,
            stuck = health.wait_for(|health| matches!(health, Health::Stuck(_))) => match stuck.as_deref() {
                Ok(Health::Stuck(limit)) if began.load(Ordering::Acquire) => {
                    Err(Error::Stuck { gpu: self.info.index, limit: *limit })
                }
                _ => Err(self.out_of_service()),
            },
        }
    }

    /// Runs `job` on the owner thread, after everything that was asked before. For releasing: nobody waits, nothing refuses.
    pub fn post(&self, job: impl FnOnce(&mut Device) + Send + 'static) {
        let job: Job = Box::new(move |device| {
            let released = run_guarded(device, |device| {
                job(device);
                Ok(())
            });
            released.1
        });
        if self.jobs.send(job).is_err() {
            tracing::debug!(gpu = self.info.index, "nothing to release: the owner thread has ended");
        }
    }

    /// Why this GPU serves no more.
    pub fn out_of_service(&self) -> Error {
        let reason = match &*self.health.borrow() {
            Health::OutOfService(reason) => reason.clone(),
            Health::Stuck(limit) => {
                format!("an operation has run for more than {} s, and CUDA cannot stop it", limit.as_secs_f64())
            }
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
    health: Arc<watch::Sender<Health>>,
    work: Arc<Work>,
}

impl Owner {
    fn run(mut self, ready: oneshot::Sender<Result<GpuInfo, Error>>) {
        let built = catch_unwind(|| Device::new(self.index)).unwrap_or_else(|panic| Err(from_panic(&*panic)));
        let mut device = match built {
            Ok(device) => device,
            Err(error) => {
                let _unread = ready.send(Err(error));
                return;
            }
        };
        let _unread = ready.send(Ok(device.info().clone()));
        while let Some(job) = self.inbox.blocking_recv() {
            self.work.begin();
            let ruin = job(&mut device);
            self.work.end();
            let Some(ruin) = ruin else { continue };
            let reason = format!("CUDA works no more in this process after {ruin}");
            tracing::error!(gpu = self.index, reason, "GPU out of service");
            self.health.send_replace(Health::OutOfService(reason));
            // Nothing in a dead context can be released; the process ends with it.
            std::mem::forget(device);
            return;
        }
    }
}
