//! Copies and fills.

use std::sync::Arc;

use crate::cuda::context::{Context, current};
use crate::cuda::driver::Driver;
use crate::cuda::error::{Answer, Error};
use crate::cuda::ffi::{In, driver_api};
use crate::cuda::memory::{Allocation, DEVICE_BIT, Kind};
use crate::cuda::registry::Handle;
use crate::cuda::stream::{Stream, stream};

/// One end of a copy, kept alive until the copy is done.
struct End {
    host: *mut u8,
    allocation: Option<Arc<Allocation>>,
}

// SAFETY: the pointer is used by the one thread that does the copy; what it points to is kept by `allocation`, or by the caller, who
// promises by the API's contract to keep it until the copy is done.
unsafe impl Send for End {}

impl End {
    /// The memory at `address`: known to the driver, or the program's own.
    fn new(driver: &Driver, address: u64, bytes: usize) -> Answer<Self> {
        match driver.memory.find(address) {
            Some(found) if found.holds(address, bytes) => {
                Ok(Self { host: found.host(address), allocation: Some(found) })
            }
            Some(_) => Err(Error::InvalidValue),
            None if address & DEVICE_BIT != 0 || address == 0 => Err(Error::InvalidValue),
            None => Ok(Self { host: address as *mut u8, allocation: None }),
        }
    }

    fn known(driver: &Driver, address: u64, bytes: usize) -> Answer<Self> {
        let end = Self::new(driver, address, bytes)?;
        if end.allocation.is_some() { Ok(end) } else { Err(Error::InvalidValue) }
    }

    /// GPU on which it lies.
    fn gpu(&self) -> Option<usize> {
        self.allocation.as_ref().filter(|a| matches!(a.kind, Kind::Device | Kind::Managed)).map(|a| a.gpu)
    }
}

fn count(driver: &Driver, to: Option<usize>, from: Option<usize>, bytes: u64) {
    match (to, from) {
        (Some(to), Some(from)) if to != from => driver.process.copied_between(from, to, bytes),
        (Some(gpu), None) => driver.process.copied_to_gpu(gpu, bytes),
        (None, Some(gpu)) => driver.process.copied_to_host(gpu, bytes),
        _ => {}
    }
}

/// Queues a copy. Returns when the program may touch its own memory again: a source that is not page-locked is read at once, a
/// target that is not page-locked is waited for ("API synchronization behavior").
fn copy(driver: &'static Driver, queue: &Stream, to: End, from: End, bytes: usize) -> Answer {
    if bytes == 0 {
        return Ok(());
    }
    count(driver, to.gpu(), from.gpu(), bytes as u64);
    let wait = to.allocation.is_none();
    if from.allocation.is_none() {
        let mut staged = vec![0u8; bytes];
        // SAFETY: the caller's memory is readable for `bytes` by the API's contract.
        unsafe { std::ptr::copy_nonoverlapping(from.host, staged.as_mut_ptr(), bytes) };
        queue.submit(move || {
            let to = to;
            // SAFETY: `End` checked that the target holds `bytes`, and keeps it.
            unsafe { std::ptr::copy(staged.as_ptr(), to.host, bytes) };
            Ok(())
        })?;
    } else {
        queue.submit(move || {
            let (to, from) = (to, from);
            // SAFETY: as above, for both ends; they may overlap.
            unsafe { std::ptr::copy(from.host, to.host, bytes) };
            Ok(())
        })?;
    }
    if wait {
        queue.wait_all();
    }
    Ok(())
}

enum Direction {
    ToDevice,
    ToHost,
    Inside,
    Any,
}

/// One of the copy functions; without a queue it is done when the function returns.
fn run(direction: &Direction, to: u64, from: u64, bytes: usize, queue: Option<Handle>) -> Answer {
    let (driver, context) = current()?;
    let queue_object = stream(driver, &context, queue.unwrap_or(0))?;
    if bytes == 0 {
        return Ok(());
    }
    let (to_known, from_known) = match direction {
        Direction::ToDevice => (true, false),
        Direction::ToHost => (false, true),
        Direction::Inside => (true, true),
        Direction::Any => (false, false),
    };
    let end = |known: bool, address: u64| {
        if known { End::known(driver, address, bytes) } else { End::new(driver, address, bytes) }
    };
    copy(driver, &queue_object, end(to_known, to)?, end(from_known, from)?, bytes)?;
    if queue.is_none() { queue_object.synchronize() } else { Ok(()) }
}

/// Queues a fill of `rows` rows of `count` values, `pitch` bytes apart.
fn fill<T: Copy + Send + 'static>(
    address: u64,
    pitch: usize,
    value: T,
    count: usize,
    rows: usize,
    queue: Option<Handle>,
) -> Answer {
    let (driver, context) = current()?;
    let queue_object = stream(driver, &context, queue.unwrap_or(0))?;
    if count == 0 || rows == 0 {
        return Ok(());
    }
    let row = count.checked_mul(size_of::<T>()).ok_or(Error::InvalidValue)?;
    let whole = pitch.checked_mul(rows - 1).and_then(|n| n.checked_add(row)).ok_or(Error::InvalidValue)?;
    let to = End::known(driver, address, whole)?;
    if !address.is_multiple_of(size_of::<T>() as u64) || (rows > 1 && pitch < row) {
        return Err(Error::InvalidValue);
    }
    queue_object.submit(move || {
        let to = to;
        for at in 0..rows {
            for index in 0..count {
                // SAFETY: `End` checked that the allocation holds all rows, and keeps it.
                unsafe { to.host.add(at * pitch).cast::<T>().add(index).write_unaligned(value) };
            }
        }
        Ok(())
    })?;
    if queue.is_none() { queue_object.synchronize() } else { Ok(()) }
}

/// Makes kernels' view of peers not matter for copies: any context's memory can be copied.
fn context_exists(driver: &Driver, context: Handle) -> Answer<Arc<Context>> {
    driver.contexts.get(context).ok_or(Error::InvalidContext)
}

/// `CUDA_MEMCPY2D`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy2D {
    src_x: usize,
    src_y: usize,
    src_type: u32,
    src_host: u64,
    src_device: u64,
    src_array: u64,
    src_pitch: usize,
    dst_x: usize,
    dst_y: usize,
    dst_type: u32,
    dst_host: u64,
    dst_device: u64,
    dst_array: u64,
    dst_pitch: usize,
    width: usize,
    height: usize,
}

fn copy_2d(all: Copy2D, queue: Option<Handle>) -> Answer {
    // CU_MEMORYTYPE_HOST is 1, DEVICE 2, ARRAY 3, UNIFIED 4.
    let base = |kind: u32, host: u64, device: u64| match kind {
        1 => Ok(host),
        2 | 4 => Ok(device),
        _ => Err(Error::NotSupported),
    };
    let from = base(all.src_type, all.src_host, all.src_device)?;
    let to = base(all.dst_type, all.dst_host, all.dst_device)?;
    for row in 0..all.height {
        let at = |base: u64, pitch: usize, x: usize, y: usize| base + ((y + row) * pitch + x) as u64;
        let (to, from) = (at(to, all.dst_pitch, all.dst_x, all.dst_y), at(from, all.src_pitch, all.src_x, all.src_y));
        run(&Direction::Any, to, from, all.width, queue)?;
    }
    Ok(())
}

driver_api! {
    fn cuMemcpy(to: u64, from: u64, bytes: usize) {
        run(&Direction::Any, to, from, bytes, None)
    }
    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, queue: Handle) {
        run(&Direction::Any, to, from, bytes, Some(queue))
    }
    fn cuMemcpyHtoD_v2(to: u64, from: u64, bytes: usize) {
        run(&Direction::ToDevice, to, from, bytes, None)
    }
    fn cuMemcpyHtoDAsync_v2(to: u64, from: u64, bytes: usize, queue: Handle) {
        run(&Direction::ToDevice, to, from, bytes, Some(queue))
    }
    fn cuMemcpyDtoH_v2(to: u64, from: u64, bytes: usize) {
        run(&Direction::ToHost, to, from, bytes, None)
    }
    fn cuMemcpyDtoHAsync_v2(to: u64, from: u64, bytes: usize, queue: Handle) {
        run(&Direction::ToHost, to, from, bytes, Some(queue))
    }
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        run(&Direction::Inside, to, from, bytes, None)
    }
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, queue: Handle) {
        run(&Direction::Inside, to, from, bytes, Some(queue))
    }
    fn cuMemcpyPeer(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize) {
        let (driver, _) = current()?;
        context_exists(driver, to_context)?;
        context_exists(driver, from_context)?;
        run(&Direction::Inside, to, from, bytes, None)
    }
    fn cuMemcpyPeerAsync(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize, queue: Handle) {
        let (driver, _) = current()?;
        context_exists(driver, to_context)?;
        context_exists(driver, from_context)?;
        run(&Direction::Inside, to, from, bytes, Some(queue))
    }
    fn cuMemcpy2D_v2(all: In<Copy2D>) {
        copy_2d(all.get()?, None)
    }
    fn cuMemcpy2DUnaligned_v2(all: In<Copy2D>) {
        copy_2d(all.get()?, None)
    }
    fn cuMemcpy2DAsync_v2(all: In<Copy2D>, queue: Handle) {
        copy_2d(all.get()?, Some(queue))
    }
    fn cuMemsetD8_v2(address: u64, value: u8, count: usize) {
        fill(address, 0, value, count, 1, None)
    }
    fn cuMemsetD16_v2(address: u64, value: u16, count: usize) {
        fill(address, 0, value, count, 1, None)
    }
    fn cuMemsetD32_v2(address: u64, value: u32, count: usize) {
        fill(address, 0, value, count, 1, None)
    }
    fn cuMemsetD8Async(address: u64, value: u8, count: usize, queue: Handle) {
        fill(address, 0, value, count, 1, Some(queue))
    }
    fn cuMemsetD16Async(address: u64, value: u16, count: usize, queue: Handle) {
        fill(address, 0, value, count, 1, Some(queue))
    }
    fn cuMemsetD32Async(address: u64, value: u32, count: usize, queue: Handle) {
        fill(address, 0, value, count, 1, Some(queue))
    }
    fn cuMemsetD2D8_v2(address: u64, pitch: usize, value: u8, width: usize, height: usize) {
        fill(address, pitch, value, width, height, None)
    }
    fn cuMemsetD2D16_v2(address: u64, pitch: usize, value: u16, width: usize, height: usize) {
        fill(address, pitch, value, width, height, None)
    }
    fn cuMemsetD2D32_v2(address: u64, pitch: usize, value: u32, width: usize, height: usize) {
        fill(address, pitch, value, width, height, None)
    }
}
