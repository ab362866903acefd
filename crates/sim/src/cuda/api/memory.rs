//! Allocation, page-locked memory, pools, and questions about pointers.

use std::ffi::{c_int, c_void};
use std::sync::PoisonError;

use crate::cuda::context::{current, current_unchecked};
use crate::cuda::driver::driver;
use crate::cuda::error::{Answer, Error};
use crate::cuda::ffi::{In, Out, driver_api};
use crate::cuda::memory::{Allocation, Kind};
use crate::cuda::registry::Handle;
use crate::cuda::stream::stream;

/// Handles of the devices' default pools begin here.
const POOLS: Handle = 0x5a06_0000_0000;
/// `CU_MEMPOOL_ATTR_RELEASE_THRESHOLD`
const RELEASE_THRESHOLD: c_int = 4;
/// `CU_MEMPOOL_ATTR_USED_MEM_CURRENT` and its like count what the GPU's processes hold.
const POOL_SIZES: std::ops::RangeInclusive<c_int> = 5..=8;

fn allocate(kind: Kind, bytes: usize) -> Answer<u64> {
    let (driver, context) = current()?;
    let allocation = Allocation::new(kind, bytes, driver.process, context.gpu, context.handle)?;
    Ok(driver.memory.insert(allocation))
}

/// Frees after everything queued is done, as the synchronous functions do.
fn free(address: u64, kinds: &[Kind]) -> Answer {
    let (driver, context) = current_unchecked()?;
    if address == 0 {
        return Ok(());
    }
    let waited = context.synchronize(driver);
    let freed = driver.memory.remove(address, kinds);
    waited?;
    freed.map(drop).ok_or(Error::InvalidValue)
}

fn pool_device(pool: Handle) -> Answer<&'static crate::cuda::driver::Device> {
    driver()?.device(pool.checked_sub(POOLS).and_then(|at| c_int::try_from(at / 16).ok()).ok_or(Error::InvalidValue)?)
}

driver_api! {
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let (driver, context) = current()?;
        let memory = driver.machine.gpu(context.gpu).memory();
        free.set(memory.free_bytes as usize)?;
        total.set((memory.total_bytes - memory.reserved_bytes) as usize)
    }

    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        if address.is_null() {
            return Err(Error::InvalidValue);
        }
        address.set(allocate(Kind::Device, bytes)?)
    }

    fn cuMemAllocPitch_v2(address: Out<u64>, pitch: Out<usize>, width: usize, height: usize, _element: u32) {
        let row = width.checked_next_multiple_of(512).ok_or(Error::InvalidValue)?;
        address.set(allocate(Kind::Device, row.checked_mul(height).ok_or(Error::OutOfMemory)?)?)?;
        pitch.set(row)
    }

    fn cuMemAllocManaged(address: Out<u64>, bytes: usize, _flags: u32) {
        address.set(allocate(Kind::Managed, bytes)?)
    }

    fn cuMemFree_v2(address: u64) {
        free(address, &[Kind::Device, Kind::Managed])
    }

    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, queue: Handle) {
        let (driver, context) = current()?;
        stream(driver, &context, queue)?;
        address.set(allocate(Kind::Device, bytes)?)
    }

    fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: Handle, queue: Handle) {
        let (driver, context) = current()?;
        stream(driver, &context, queue)?;
        pool_device(pool)?;
        address.set(allocate(Kind::Device, bytes)?)
    }

    fn cuMemFreeAsync(address: u64, queue: Handle) {
        let (driver, context) = current()?;
        if address == 0 {
            return Ok(());
        }
        let queue = stream(driver, &context, queue)?;
        if driver.memory.find(address).is_none_or(|allocation| allocation.base != address) {
            return Err(Error::InvalidValue);
        }
        queue.submit_always(move |_, driver| {
            driver.memory.remove(address, &[Kind::Device]);
        })
    }

    fn cuMemHostAlloc(pointer: Out<u64>, bytes: usize, _flags: u32) {
        pointer.set(allocate(Kind::Pinned, bytes)?)
    }

    fn cuMemAllocHost_v2(pointer: Out<u64>, bytes: usize) {
        pointer.set(allocate(Kind::Pinned, bytes)?)
    }

    fn cuMemFreeHost(pointer: u64) {
        free(pointer, &[Kind::Pinned])
    }

    fn cuMemHostRegister_v2(pointer: u64, bytes: usize, _flags: u32) {
        let (driver, context) = current()?;
        if pointer == 0 || bytes == 0 {
            return Err(Error::InvalidValue);
        }
        if driver.memory.overlaps(pointer, bytes) {
            return Err(Error::HostMemoryAlreadyRegistered);
        }
        driver.memory.insert(Allocation::registered(pointer, bytes, context.gpu, context.handle));
        Ok(())
    }

    fn cuMemHostUnregister(pointer: u64) {
        match free(pointer, &[Kind::Registered]) {
            Err(Error::InvalidValue) => Err(Error::HostMemoryNotRegistered),
            other => other,
        }
    }

    fn cuMemHostGetDevicePointer_v2(address: Out<u64>, pointer: u64, _flags: u32) {
        let (driver, _) = current()?;
        let found = driver.memory.find(pointer).filter(|allocation| allocation.on_host());
        address.set(found.map(|_| pointer).ok_or(Error::InvalidValue)?)
    }

    fn cuMemHostGetFlags(flags: Out<u32>, pointer: u64) {
        let (driver, _) = current()?;
        driver.memory.find(pointer).filter(|allocation| allocation.on_host()).ok_or(Error::InvalidValue)?;
        // Portable and mapped.
        flags.set(3)
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) {
        let (driver, _) = current()?;
        let found = driver.memory.find(address).ok_or(Error::NotFound)?;
        base.set_if_wanted(found.base);
        bytes.set_if_wanted(found.bytes);
        Ok(())
    }

    fn cuPointerGetAttribute(data: Out<c_void>, attribute: c_int, pointer: u64) {
        let driver = driver()?;
        let found = driver.memory.find(pointer).ok_or(Error::InvalidValue)?;
        match attribute {
            // Context, memory type (1 host, 2 device), device pointer, host pointer.
            1 => data.cast::<u64>().set(found.context),
            2 => data.cast::<u32>().set(if matches!(found.kind, Kind::Device | Kind::Managed) { 2 } else { 1 }),
            3 => data.cast::<u64>().set(pointer),
            4 if found.on_host() => data.cast::<u64>().set(pointer),
            // Synchronous operations, a number of its own, managed, device ordinal, mapped.
            6 => data.cast::<u8>().set(0),
            7 => data.cast::<u64>().set(found.base),
            8 => data.cast::<u8>().set(u8::from(found.kind == Kind::Managed)),
            9 => {
                let ordinal = driver.devices.iter().find(|device| device.gpu == found.gpu).map_or(-1, |d| d.ordinal as c_int);
                data.cast::<c_int>().set(ordinal)
            }
            // Start and size of the range.
            11 => data.cast::<u64>().set(found.base),
            12 => data.cast::<usize>().set(found.bytes),
            13 => data.cast::<u8>().set(1),
            _ => Err(Error::InvalidValue),
        }
    }

    fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: c_int) {
        driver()?.device(device)?;
        pool.set(POOLS + device as u64 * 16)
    }

    fn cuDeviceGetMemPool(pool: Out<Handle>, device: c_int) {
        driver()?.device(device)?;
        pool.set(POOLS + device as u64 * 16)
    }

    fn cuDeviceSetMemPool(device: c_int, pool: Handle) {
        driver()?.device(device)?;
        pool_device(pool).map(drop)
    }

    fn cuMemPoolGetAttribute(pool: Handle, attribute: c_int, value: Out<u64>) {
        let (driver, device) = (driver()?, pool_device(pool)?);
        match attribute {
            RELEASE_THRESHOLD => value.set(*device.pool_threshold.lock().unwrap_or_else(PoisonError::into_inner)),
            number if POOL_SIZES.contains(&number) => value.set(device.gpu(driver).memory().used_bytes),
            // The reuse policies are 32-bit switches.
            1..=3 => value.cast::<c_int>().set(1),
            _ => Err(Error::InvalidValue),
        }
    }

    fn cuMemPoolSetAttribute(pool: Handle, attribute: c_int, value: In<u64>) {
        let device = pool_device(pool)?;
        match attribute {
            RELEASE_THRESHOLD => {
                *device.pool_threshold.lock().unwrap_or_else(PoisonError::into_inner) = value.get()?;
                Ok(())
            }
            1..=3 | 6 | 8 => Ok(()),
            _ => Err(Error::InvalidValue),
        }
    }

    fn cuMemPoolTrimTo(pool: Handle, _keep: usize) {
        pool_device(pool).map(drop)
    }

    fn cuMemAdvise_v2(address: u64, _bytes: usize, _advice: c_int, _kind_and_id: u64) {
        current()?.0.memory.find(address).map(drop).ok_or(Error::InvalidValue)
    }

    fn cuMemPrefetchAsync_v2(address: u64, _bytes: usize, _kind_and_id: u64, _flags: u32, _queue: Handle) {
        current()?.0.memory.find(address).map(drop).ok_or(Error::InvalidValue)
    }

    fn cuStreamAttachMemAsync(_queue: Handle, address: u64, _bytes: usize, _flags: u32) {
        current()?.0.memory.find(address).map(drop).ok_or(Error::InvalidValue)
    }
}
