//! Streams and events: work happens later, in order, on a thread of the stream's own.
//!
//! A call returns when its work is queued, as with a GPU: a program that forgets to synchronise sees it here. The null stream and
//! the streams that were not made non-blocking wait for each other ("CUDA Driver API", *Stream synchronization behavior*).

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use super::context::Context;
use super::driver::Driver;
use super::error::{Answer, Error};
use super::registry::Handle;

/// `CU_STREAM_NON_BLOCKING`
pub const NON_BLOCKING: u32 = 1;
/// `CU_EVENT_DISABLE_TIMING`
pub const DISABLE_TIMING: u32 = 2;

type Work = Box<dyn FnOnce() + Send>;

/// How far a stream's queue has come.
#[derive(Default)]
struct Progress {
    submitted: u64,
    completed: u64,
}

#[derive(Default)]
struct Counter {
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Counter {
    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, ticket: u64) {
        let progress = self.lock();
        let done = self.changed.wait_while(progress, |progress| progress.completed < ticket);
        drop(done.unwrap_or_else(PoisonError::into_inner));
    }
}

/// A stream.
pub struct Stream {
    pub handle: Handle,
    pub flags: u32,
    pub priority: i32,
    driver: &'static Driver,
    context: Weak<Context>,
    context_handle: Handle,
    is_null: bool,
    counter: Arc<Counter>,
    /// Started by the first work, ends with the stream.
    worker: OnceLock<Mutex<Sender<Work>>>,
}

/// A point in a stream that others can wait for.
#[derive(Clone)]
struct Ticket {
    counter: Arc<Counter>,
    number: u64,
}

impl Stream {
    /// A stream of `context`; the null stream has no handle.
    pub fn new(driver: &'static Driver, context: &Arc<Context>, flags: u32, priority: i32) -> Arc<Self> {
        let is_null = context.null_stream().is_err();
        let handle = if is_null { 0 } else { driver.streams.reserve() };
        let stream = Arc::new(Self {
            handle,
            flags,
            priority,
            driver,
            context: Arc::downgrade(context),
            context_handle: context.handle,
            is_null,
            counter: Arc::default(),
            worker: OnceLock::new(),
        });
        if !is_null {
            driver.streams.insert_at(handle, stream.clone());
        }
        stream
    }

    /// Handle of its context.
    pub fn context(&self) -> Handle {
        self.context_handle
    }

    fn now(&self) -> Ticket {
        Ticket { counter: self.counter.clone(), number: self.counter.lock().submitted }
    }

    /// What must be done before work that is submitted now.
    fn dependencies(&self, context: &Context) -> Vec<Ticket> {
        if self.is_null {
            let blocking =
                |stream: &Arc<Stream>| stream.context_handle == self.context_handle && stream.flags & NON_BLOCKING == 0;
            return self
                .driver
                .streams
                .all()
                .iter()
                .filter(|stream| blocking(stream))
                .map(|stream| stream.now())
                .collect();
        }
        if self.flags & NON_BLOCKING != 0 {
            return Vec::new();
        }
        context.null_stream().map(|null| null.now()).into_iter().collect()
    }

    /// Queues `work`. Its error ends CUDA for this process; after an error nothing runs any more.
    ///
    /// # Errors
    /// [`Error::ContextIsDestroyed`]
    pub fn submit(&self, work: impl FnOnce() -> Answer + Send + 'static) -> Answer {
        self.submit_always(move |context, driver| {
            if context.check(driver).is_ok()
                && let Err(error) = work()
            {
                driver.ruin(error);
            }
        })
    }

    /// Queues `work` that runs even after an error.
    ///
    /// # Errors
    /// [`Error::ContextIsDestroyed`]
    pub fn submit_always(&self, work: impl FnOnce(&Context, &Driver) + Send + 'static) -> Answer {
        let context = self.context.upgrade().ok_or(Error::ContextIsDestroyed)?;
        let before = self.dependencies(&context);
        let (driver, counter) = (self.driver, self.counter.clone());
        let done = Done(counter);
        let sender =
            self.worker.get_or_init(|| Mutex::new(start_worker())).lock().unwrap_or_else(PoisonError::into_inner);
        self.counter.lock().submitted += 1;
        let job: Work = Box::new(move || {
            // Counts also when the work panics.
            let _done = done;
            for ticket in before {
                ticket.counter.wait(ticket.number);
            }
            work(&context, driver);
        });
        sender.send(job).map_err(|_| Error::Unknown)
    }

    /// Waits until everything submitted so far is done.
    pub fn wait_all(&self) {
        let ticket = self.now();
        ticket.counter.wait(ticket.number);
    }

    /// Waits as the stream's user does: the null stream waits for the blocking ones too.
    ///
    /// # Errors
    /// The error that ended the context.
    pub fn synchronize(&self) -> Answer {
        let context = self.context.upgrade().ok_or(Error::ContextIsDestroyed)?;
        for ticket in self.dependencies(&context) {
            ticket.counter.wait(ticket.number);
        }
        self.wait_all();
        context.check(self.driver)
    }

    /// Whether everything submitted is done.
    ///
    /// # Errors
    /// [`Error::NotReady`], or the error that ended the context.
    pub fn query(&self) -> Answer {
        let context = self.context.upgrade().ok_or(Error::ContextIsDestroyed)?;
        context.check(self.driver)?;
        let progress = self.counter.lock();
        if progress.completed < progress.submitted { Err(Error::NotReady) } else { Ok(()) }
    }
}

struct Done(Arc<Counter>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.lock().completed += 1;
        self.0.changed.notify_all();
    }
}

fn start_worker() -> Sender<Work> {
    let (sender, receiver) = channel::<Work>();
    let run = move || {
        for work in receiver {
            // A panic is reported by its hook and must not end the stream.
            let _panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        }
    };
    // If the thread cannot be started, the channel closes, and submissions answer an error.
    let _thread = std::thread::Builder::new().name("weft-sim-stream".into()).spawn(run);
    sender
}

/// The stream of a handle: 0 and 1 are the null stream, 2 stands for it too (one default stream for all threads).
///
/// # Errors
/// [`Error::InvalidHandle`]
pub fn stream(driver: &'static Driver, context: &Arc<Context>, handle: Handle) -> Answer<Arc<Stream>> {
    match handle {
        0..=2 => context.null_stream(),
        _ => driver.streams.get(handle).ok_or(Error::InvalidHandle),
    }
}

#[derive(Default)]
struct Record {
    /// Recordings asked for.
    recorded: u64,
    /// Recordings reached.
    reached: u64,
    at: Option<Instant>,
}

/// An event.
pub struct Event {
    pub context: Handle,
    pub flags: u32,
    record: Mutex<Record>,
    changed: Condvar,
}

impl Event {
    /// An event that was never recorded.
    pub fn new(context: Handle, flags: u32) -> Arc<Self> {
        Arc::new(Self { context, flags, record: Mutex::default(), changed: Condvar::new() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the present end of a stream.
    ///
    /// # Errors
    /// As [`Stream::submit_always`].
    pub fn record(self: &Arc<Self>, stream: &Stream) -> Answer {
        let number = {
            let mut record = self.lock();
            record.recorded += 1;
            record.recorded
        };
        let event = self.clone();
        stream.submit_always(move |_, _| {
            let mut record = event.lock();
            record.reached = record.reached.max(number);
            record.at = Some(Instant::now());
            event.changed.notify_all();
        })
    }

    /// Makes what a stream is given next wait for the latest recording.
    ///
    /// # Errors
    /// As [`Stream::submit_always`].
    pub fn hold(self: &Arc<Self>, stream: &Stream) -> Answer {
        let (number, event) = (self.lock().recorded, self.clone());
        stream.submit_always(move |_, _| event.wait_for(number))
    }

    fn wait_for(&self, number: u64) {
        let record = self.lock();
        drop(self.changed.wait_while(record, |record| record.reached < number).unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits for the latest recording.
    pub fn wait(&self) {
        let number = self.lock().recorded;
        self.wait_for(number);
    }

    /// Whether the latest recording was reached.
    pub fn is_done(&self) -> bool {
        let record = self.lock();
        record.reached >= record.recorded
    }

    /// Milliseconds from this event to `end`.
    ///
    /// # Errors
    /// [`Error::InvalidHandle`] without a recording or without timing, [`Error::NotReady`] before both were reached.
    pub fn milliseconds_to(&self, end: &Self) -> Answer<f32> {
        if (self.flags | end.flags) & DISABLE_TIMING != 0 || self.lock().recorded == 0 || end.lock().recorded == 0 {
            return Err(Error::InvalidHandle);
        }
        if !self.is_done() || !end.is_done() {
            return Err(Error::NotReady);
        }
        let (start, end) = (self.lock().at, end.lock().at);
        let (Some(start), Some(end)) = (start, end) else {
            return Err(Error::NotReady);
        };
        let forward = end.saturating_duration_since(start).as_secs_f32();
        let backward = start.saturating_duration_since(end).as_secs_f32();
        Ok((forward - backward) * 1e3)
    }
}
