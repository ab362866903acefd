//! Launches: checks what the hardware would refuse, then queues the kernel.

use std::io::Write;
use std::sync::Arc;

use super::context::Context;
use super::device::{self, Limits};
use super::driver::Driver;
use super::error::{Answer, Error};
use super::memory::{Allocation, Kind};
use super::module::Function;
use super::stream::Stream;
use crate::ptx::exec::{Fault, GlobalMemory, Launch, Region};

/// Threads of a grid from which it is worth waking a second thread of this machine.
const PARALLEL_FROM: u64 = 4096;

/// Grid, block and shared memory of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
}

/// Memory as the kernels of one context see it.
struct View {
    driver: &'static Driver,
    context: Arc<Context>,
}

impl GlobalMemory for View {
    fn find(&self, address: u64) -> Option<Region> {
        let allocation = self.driver.memory.find(address)?;
        let reachable = match allocation.kind {
            Kind::Device => self.context.reaches(allocation.gpu),
            _ => true,
        };
        reachable.then(|| allocation.region())
    }

    fn print(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // A closed standard output loses what kernels print, as it does with a GPU.
        let _closed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    fn malloc(&self, bytes: u64) -> u64 {
        let Context { gpu, handle, .. } = *self.context;
        let new = usize::try_from(bytes)
            .ok()
            .and_then(|n| Allocation::new(Kind::Device, n, self.driver.process, gpu, handle).ok());
        new.map_or(0, |allocation| self.driver.memory.insert(allocation))
    }

    fn free(&self, address: u64) {
        self.driver.memory.remove(address, &[Kind::Device]);
    }
}

/// The driver's error for a fault.
fn error_of(fault: &Fault) -> Error {
    match fault {
        Fault::IllegalAddress { .. } => Error::IllegalAddress,
        Fault::Misaligned { .. } => Error::MisalignedAddress,
        // A trap instruction is an unspecified failure; an instruction that does not exist is an illegal one.
        Fault::Trap { .. } => Error::LaunchFailed,
        Fault::Assert { .. } => Error::Assert,
        Fault::Deadlock => Error::LaunchTimeout,
        Fault::StackOverflow { .. } => Error::HardwareStackError,
        Fault::InvalidProgramCounter { .. } => Error::InvalidPc,
        Fault::IllegalInstruction { .. } => Error::IllegalInstruction,
    }
}

/// Whether a shape is possible for a function on its GPU.
///
/// # Errors
/// [`Error::InvalidValue`], [`Error::LaunchOutOfResources`]
pub fn check(limits: &Limits, function: &Function, shape: &Shape) -> Answer {
    let [x, y, z] = shape.block;
    let threads = u64::from(x) * u64::from(y) * u64::from(z);
    let grid_fits = shape.grid.iter().zip([i32::MAX as u32, 65_535, 65_535]).all(|(n, most)| *n > 0 && *n <= most);
    let block_fits = shape.block.iter().zip([1024, 1024, 64]).all(|(n, most)| *n > 0 && *n <= most) && threads <= 1024;
    if !grid_fits || !block_fits || shape.dynamic_shared as i64 > i64::from(function.dynamic_limit()) {
        return Err(Error::InvalidValue);
    }
    if threads > function.max_threads() as u64 {
        return Err(if function.kernel.max_threads > 0 { Error::InvalidValue } else { Error::LaunchOutOfResources });
    }
    if u64::from(function.kernel.shared_bytes) + u64::from(shape.dynamic_shared) > limits.shared_optin as u64 {
        return Err(Error::InvalidValue);
    }
    Ok(())
}

/// Queues a launch with its parameters already laid out.
///
/// # Errors
/// As [`check`], and those of the stream.
pub fn launch(
    driver: &'static Driver,
    context: &Arc<Context>,
    stream: &Stream,
    function: &Function,
    shape: Shape,
    params: Vec<u8>,
) -> Answer {
    let facts = driver.machine.gpu(context.gpu).facts();
    check(&device::limits(facts), function, &shape)?;
    let (kernel, context) = (function.kernel.clone(), context.clone());
    let multiprocessors = facts.board.multiprocessors;
    stream.submit(move || {
        let gpu = context.gpu;
        driver.process.launched(gpu);
        let _busy = driver.process.busy(gpu);
        let view = View { driver, context };
        let threads: u64 = shape.grid.iter().chain(&shape.block).map(|n| u64::from(*n)).product();
        let workers =
            if threads < PARALLEL_FROM { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
        // Parameters are read with their own alignment: from 8-byte words.
        let mut words = vec![0u64; params.len().div_ceil(8)];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        bytes[..params.len()].copy_from_slice(&params);
        let launch = Launch {
            kernel: &kernel,
            grid: shape.grid,
            block: shape.block,
            dynamic_shared: shape.dynamic_shared,
            params: &bytes[..params.len()],
            memory: &view,
            multiprocessors,
            workers,
        };
        launch.run().map_err(|fault| {
            if std::env::var_os("WEFT_SIM_TRACE").is_some() {
                eprintln!("weft-sim: kernel {}: {fault}", kernel.name);
            }
            error_of(&fault)
        })
    })
}
