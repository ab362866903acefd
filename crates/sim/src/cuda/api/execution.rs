//! Launches, and how many blocks fit.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use crate::cuda::context::{Context, current};
use crate::cuda::device::limits;
use crate::cuda::driver::Driver;
use crate::cuda::error::{Answer, Error};
use crate::cuda::ffi::{In, Out, driver_api};
use crate::cuda::launch::{Shape, launch};
use crate::cuda::module::Function;
use crate::cuda::registry::Handle;
use crate::cuda::stream::stream;

/// `CU_LAUNCH_PARAM_BUFFER_POINTER` and `CU_LAUNCH_PARAM_BUFFER_SIZE`
const BUFFER_POINTER: u64 = 1;
const BUFFER_SIZE: u64 = 2;

/// `CUlaunchConfig`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    queue: Handle,
    attributes: u64,
    attribute_count: u32,
}

/// Arguments as the kernel's text lays them out, from one pointer each or from a buffer.
fn arguments(function: &Function, params: In<u64>, extra: In<u64>) -> Answer<Vec<u8>> {
    let kernel = &function.kernel;
    let mut bytes = vec![0u8; kernel.param_bytes as usize];
    if !params.is_null() {
        for (index, (at, size)) in kernel.params.iter().enumerate() {
            let value = In::<u8>::from_address(params.at(index)?).list(*size as usize)?;
            bytes[*at as usize..][..value.len()].copy_from_slice(&value);
        }
    } else if !extra.is_null() {
        let (mut pointer, mut size) = (0, 0usize);
        for index in (0..).step_by(2) {
            match extra.at(index)? {
                BUFFER_POINTER => pointer = extra.at(index + 1)?,
                BUFFER_SIZE => size = In::<usize>::from_address(extra.at(index + 1)?).get()?,
                _ => break,
            }
        }
        if size < bytes.len() {
            return Err(Error::InvalidValue);
        }
        bytes = In::<u8>::from_address(pointer).list(bytes.len())?;
    } else if !bytes.is_empty() {
        return Err(Error::InvalidValue);
    }
    Ok(bytes)
}

fn run(function: Handle, shape: Shape, queue: Handle, params: In<u64>, extra: In<u64>, cooperative: bool) -> Answer {
    let (driver, context) = current()?;
    let function = driver.functions.get(function).ok_or(Error::InvalidHandle)?;
    let queue = stream(driver, &context, queue)?;
    if cooperative {
        let blocks: u64 = shape.grid.iter().map(|n| u64::from(*n)).product();
        let threads = shape.block.iter().product::<u32>() as i32;
        let fits =
            blocks_per_multiprocessor(driver, &context, &function, threads, shape.dynamic_shared as usize)? as u64;
        if blocks > fits * u64::from(driver.machine.gpu(context.gpu).facts().board.multiprocessors) {
            return Err(Error::CooperativeLaunchTooLarge);
        }
    }
    let params = arguments(&function, params, extra)?;
    launch(driver, &context, &queue, &function, shape, params)
}

/// Blocks of this size that one multiprocessor holds at a time.
fn blocks_per_multiprocessor(
    driver: &Driver,
    context: &Context,
    function: &Function,
    threads: c_int,
    dynamic: usize,
) -> Answer<c_int> {
    if !(1..=1024).contains(&threads) {
        return Err(Error::InvalidValue);
    }
    let limits = limits(driver.machine.gpu(context.gpu).facts());
    let threads = (threads + 31) / 32 * 32;
    let by_threads = limits.threads_per_multiprocessor / threads;
    let by_registers = 65_536 / (function.registers() * threads);
    let shared = function.kernel.shared_bytes as usize + dynamic;
    let system = (limits.shared_per_multiprocessor - limits.shared_optin) as usize;
    if shared > limits.shared_optin as usize {
        return Ok(0);
    }
    let by_shared = limits.shared_per_multiprocessor / (shared + system).max(1) as c_int;
    Ok(by_threads.min(by_registers).min(by_shared).min(limits.blocks_per_multiprocessor))
}

fn occupancy(function: Handle, threads: c_int, dynamic: usize) -> Answer<c_int> {
    let (driver, context) = current()?;
    let function = driver.functions.get(function).ok_or(Error::InvalidHandle)?;
    blocks_per_multiprocessor(driver, &context, &function, threads, dynamic)
}

/// `CUoccupancyB2DSize`: dynamic shared memory for a block of so many threads.
type SharedOf = Option<extern "C" fn(c_int) -> usize>;

/// The block size that fills a multiprocessor best, and the fewest blocks that fill the GPU.
fn best_block(function: Handle, shared_of: SharedOf, dynamic: usize, most: c_int) -> Answer<(c_int, c_int)> {
    let (driver, context) = current()?;
    let object: Arc<Function> = driver.functions.get(function).ok_or(Error::InvalidHandle)?;
    let most = if most > 0 { most.min(object.max_threads()) } else { object.max_threads() };
    let mut best = (0, 0, 0);
    for threads in (32..=most).rev().step_by(32) {
        let dynamic = shared_of.map_or(dynamic, |shared_of| shared_of(threads));
        let blocks = blocks_per_multiprocessor(driver, &context, &object, threads, dynamic)?;
        if blocks * threads > best.0 {
            best = (blocks * threads, threads, blocks);
        }
    }
    let multiprocessors = driver.machine.gpu(context.gpu).facts().board.multiprocessors as c_int;
    Ok((best.2 * multiprocessors, best.1))
}

driver_api! {
    fn cuLaunchKernel(
        function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared: u32, queue: Handle, params: In<u64>, extra: In<u64>,
    ) {
        let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic_shared };
        run(function, shape, queue, params, extra, false)
    }

    fn cuLaunchCooperativeKernel(
        function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared: u32, queue: Handle, params: In<u64>,
    ) {
        let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic_shared };
        run(function, shape, queue, params, In::from_address(0), true)
    }

    fn cuLaunchKernelEx(config: In<LaunchConfig>, function: Handle, params: In<u64>, extra: In<u64>) {
        let LaunchConfig { grid, block, dynamic_shared, queue, .. } = config.get()?;
        run(function, Shape { grid, block, dynamic_shared }, queue, params, extra, false)
    }

    fn cuLaunchHostFunc(queue: Handle, call: Option<extern "C" fn(*mut c_void)>, data: u64) {
        let (driver, context) = current()?;
        let call = call.ok_or(Error::InvalidValue)?;
        stream(driver, &context, queue)?.submit(move || {
            call(data as *mut c_void);
            Ok(())
        })
    }

    fn cuStreamAddCallback(queue: Handle, call: Option<extern "C" fn(Handle, c_int, *mut c_void)>, data: u64, _flags: u32) {
        let (driver, context) = current()?;
        let call = call.ok_or(Error::InvalidValue)?;
        stream(driver, &context, queue)?.submit_always(move |context, driver| {
            let status = context.check(driver).map_or_else(|error| error as c_int, |()| 0);
            call(queue, status, data as *mut c_void);
        })
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: Out<c_int>, function: Handle, threads: c_int, dynamic: usize) {
        blocks.set(occupancy(function, threads, dynamic)?)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<c_int>, function: Handle, threads: c_int, dynamic: usize, _flags: u32,
    ) {
        blocks.set(occupancy(function, threads, dynamic)?)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        blocks: Out<c_int>, threads: Out<c_int>, function: Handle, shared_of: SharedOf, dynamic: usize, most: c_int,
    ) {
        let (grid, block) = best_block(function, shared_of, dynamic, most)?;
        blocks.set(grid)?;
        threads.set(block)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        blocks: Out<c_int>, threads: Out<c_int>, function: Handle, shared_of: SharedOf, dynamic: usize, most: c_int, _flags: u32,
    ) {
        let (grid, block) = best_block(function, shared_of, dynamic, most)?;
        blocks.set(grid)?;
        threads.set(block)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: Out<usize>, function: Handle, blocks: c_int, _threads: c_int) {
        let (driver, context) = current()?;
        let function = driver.functions.get(function).ok_or(Error::InvalidHandle)?;
        if blocks < 1 {
            return Err(Error::InvalidValue);
        }
        let limits = limits(driver.machine.gpu(context.gpu).facts());
        let system = limits.shared_per_multiprocessor - limits.shared_optin;
        let each = limits.shared_per_multiprocessor / blocks - system - function.kernel.shared_bytes as c_int;
        bytes.set(each.clamp(0, limits.shared_optin) as usize)
    }
}
