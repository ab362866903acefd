//! Streams and events.

use std::ffi::c_int;

use crate::cuda::context::{current, current_unchecked};
use crate::cuda::driver::driver;
use crate::cuda::error::{Answer, Error};
use crate::cuda::ffi::{Out, driver_api};
use crate::cuda::registry::Handle;
use crate::cuda::stream::{Event, Stream, stream};

/// Highest priority of a stream; the lowest is 0.
const HIGHEST_PRIORITY: c_int = -5;

fn event(handle: Handle) -> Answer<std::sync::Arc<Event>> {
    driver()?.events.get(handle).ok_or(Error::InvalidHandle)
}

fn create(to: Out<Handle>, flags: u32, priority: c_int) -> Answer {
    let (driver, context) = current()?;
    if flags > 1 || to.is_null() {
        return Err(Error::InvalidValue);
    }
    to.set(Stream::new(driver, &context, flags, priority.clamp(HIGHEST_PRIORITY, 0)).handle)
}

fn elapsed(milliseconds: Out<f32>, start: Handle, end: Handle) -> Answer {
    current()?;
    milliseconds.set(event(start)?.milliseconds_to(&*event(end)?)?)
}

driver_api! {
    fn cuStreamCreate(to: Out<Handle>, flags: u32) {
        create(to, flags, 0)
    }

    fn cuStreamCreateWithPriority(to: Out<Handle>, flags: u32, priority: c_int) {
        create(to, flags, priority)
    }

    fn cuStreamDestroy_v2(queue: Handle) {
        // What is queued still runs: its worker ends when the queue is empty.
        let driver = driver()?;
        driver.streams.remove(queue).map(drop).ok_or(Error::InvalidHandle)?;
        driver.check()
    }

    fn cuStreamSynchronize(queue: Handle) {
        let (driver, context) = current_unchecked()?;
        stream(driver, &context, queue)?.synchronize()
    }

    fn cuStreamQuery(queue: Handle) {
        let (driver, context) = current_unchecked()?;
        stream(driver, &context, queue)?.query()
    }

    fn cuStreamWaitEvent(queue: Handle, handle: Handle, _flags: u32) {
        let (driver, context) = current()?;
        event(handle)?.hold(&*stream(driver, &context, queue)?)
    }

    fn cuStreamGetFlags(queue: Handle, flags: Out<u32>) {
        let (driver, context) = current()?;
        flags.set(stream(driver, &context, queue)?.flags)
    }

    fn cuStreamGetPriority(queue: Handle, priority: Out<c_int>) {
        let (driver, context) = current()?;
        priority.set(stream(driver, &context, queue)?.priority)
    }

    fn cuStreamGetCtx(queue: Handle, to: Out<Handle>) {
        let (driver, context) = current()?;
        to.set(stream(driver, &context, queue)?.context())
    }

    fn cuStreamGetId(queue: Handle, id: Out<u64>) {
        let (driver, context) = current()?;
        id.set(stream(driver, &context, queue)?.handle)
    }

    // Capture into graphs is not simulated: a stream never captures.
    fn cuStreamIsCapturing(queue: Handle, status: Out<c_int>) {
        let (driver, context) = current()?;
        stream(driver, &context, queue)?;
        status.set(0)
    }

    fn cuStreamBeginCapture_v2(queue: Handle, _mode: c_int) {
        let (driver, context) = current()?;
        stream(driver, &context, queue)?;
        Err(Error::NotSupported)
    }

    fn cuStreamEndCapture(_queue: Handle, _graph: Out<Handle>) {
        current()?;
        Err(Error::IllegalState)
    }

    fn cuEventCreate(to: Out<Handle>, flags: u32) {
        let (driver, context) = current()?;
        if flags > 7 {
            return Err(Error::InvalidValue);
        }
        to.set(driver.events.insert(Event::new(context.handle, flags)))
    }

    fn cuEventDestroy_v2(handle: Handle) {
        let driver = driver()?;
        driver.events.remove(handle).map(drop).ok_or(Error::InvalidHandle)?;
        driver.check()
    }

    fn cuEventRecord(handle: Handle, queue: Handle) {
        let (driver, context) = current()?;
        event(handle)?.record(&*stream(driver, &context, queue)?)
    }

    fn cuEventRecordWithFlags(handle: Handle, queue: Handle, _flags: u32) {
        let (driver, context) = current()?;
        event(handle)?.record(&*stream(driver, &context, queue)?)
    }

    fn cuEventQuery(handle: Handle) {
        let (driver, context) = current_unchecked()?;
        context.check(driver)?;
        if event(handle)?.is_done() { Ok(()) } else { Err(Error::NotReady) }
    }

    fn cuEventSynchronize(handle: Handle) {
        let (driver, context) = current_unchecked()?;
        event(handle)?.wait();
        context.check(driver)
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(milliseconds, start, end)
    }
}
