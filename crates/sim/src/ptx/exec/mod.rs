//! Executes kernels: a warp at a time, its 32 lanes in step where they agree.
//!
//! ```text
//!  Launch ── workers (threads of this machine) ── resident blocks ── warps ── lanes, each with its own program counter
//! ```
//! - **Lanes** that stand at the same instruction run together; among several such groups the one furthest behind runs, so that
//!   lanes meet again by themselves. A group that has jumped often while others wait gives way (independent thread scheduling:
//!   "CUDA C++ Programming Guide", *Volta and later*), so a spin lock between lanes of one warp ends.
//! - **Warps and blocks** give way in the same manner: a block that waits for another block lets it start.
//! - **Memory** that other threads can see is only touched by relaxed atomics of the access's width, so that what is a race in the
//!   kernel is a race here too, and not undefined behaviour of the interpreter.

mod block;
mod convert;
mod float;
mod half;
mod integer;
mod memory;
mod run;
mod sync;
mod system;
mod warp;

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use self::block::{Block, Outcome};
use super::module::Kernel;

/// Blocks that one worker keeps unfinished at the same time.
const RESIDENT_BLOCKS: usize = 256;

/// Memory that holds an address.
pub struct Region {
    /// First device address.
    pub base: u64,
    /// One past the last device address.
    pub end: u64,
    /// Where `base` lies in this process.
    pub host: *mut u8,
    /// Keeps the memory mapped.
    pub keep: Arc<dyn Any + Send + Sync>,
}

/// Device memory, as kernels see it.
pub trait GlobalMemory: Sync {
    /// The memory that holds `address`, when a kernel may touch it.
    fn find(&self, address: u64) -> Option<Region>;
    /// Takes what a kernel printed.
    fn print(&self, text: &str);
    /// Memory for a kernel's `malloc`; 0 when there is none.
    fn malloc(&self, bytes: u64) -> u64;
    /// Returns memory of a kernel's `malloc`.
    fn free(&self, address: u64);
}

/// Why a kernel stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("illegal address {address:#x} at PTX line {line}")]
    IllegalAddress { address: u64, line: u32 },
    #[error("misaligned address {address:#x} at PTX line {line}")]
    Misaligned { address: u64, line: u32 },
    #[error("trap at PTX line {line}")]
    Trap { line: u32 },
    #[error("assertion failed: {message}")]
    Assert { message: String },
    #[error("threads wait for each other for ever")]
    Deadlock,
    #[error("a thread's stack overflowed at PTX line {line}")]
    StackOverflow { line: u32 },
    #[error("call through a pointer that is no function at PTX line {line}")]
    InvalidProgramCounter { line: u32 },
    #[error("instruction at PTX line {line} has no meaning for its type")]
    IllegalInstruction { line: u32 },
}

/// A kernel with its grid and arguments.
pub struct Launch<'a> {
    pub kernel: &'a Kernel,
    /// Blocks by axis.
    pub grid: [u32; 3],
    /// Threads of a block by axis.
    pub block: [u32; 3],
    /// Bytes of shared memory beyond the kernel's own.
    pub dynamic_shared: u32,
    /// The kernel's parameters, laid out as its text says.
    pub params: &'a [u8],
    pub memory: &'a dyn GlobalMemory,
    /// Multiprocessors, for `%nsmid`.
    pub multiprocessors: u32,
    /// Threads of this machine to use at most.
    pub workers: usize,
}

impl Launch<'_> {
    /// Runs the whole grid.
    pub fn run(&self) -> Result<(), Fault> {
        let blocks: u64 = self.grid.iter().map(|n| u64::from(*n)).product();
        let grid = Grid { launch: self, blocks, next: AtomicU64::new(0), stop: AtomicBool::new(false) };
        let workers = (self.workers as u64).min(blocks) as usize;
        if workers <= 1 {
            return grid.work();
        }
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..workers).map(|_| scope.spawn(|| grid.work())).collect();
            let mut result = grid.work();
            for other in others {
                let theirs = other.join().unwrap_or(Err(Fault::IllegalInstruction { line: 0 }));
                result = result.and(theirs);
            }
            result
        })
    }

    fn block_index(&self, n: u64) -> [u32; 3] {
        let (x, y) = (u64::from(self.grid[0]), u64::from(self.grid[1]));
        [(n % x) as u32, (n / x % y) as u32, (n / (x * y)) as u32]
    }
}

struct Grid<'a> {
    launch: &'a Launch<'a>,
    blocks: u64,
    next: AtomicU64,
    stop: AtomicBool,
}

impl Grid<'_> {
    /// One worker: takes blocks until none is left.
    fn work(&self) -> Result<(), Fault> {
        let mut resident: VecDeque<Block<'_>> = VecDeque::new();
        let mut spare: Vec<Block<'_>> = Vec::new();
        let mut cache = memory::Cache::default();
        let mut admit = true;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            if resident.is_empty() || (admit && resident.len() < RESIDENT_BLOCKS) {
                let n = self.next.fetch_add(1, Ordering::Relaxed);
                if n < self.blocks {
                    let mut block = spare.pop().unwrap_or_else(|| Block::new(self.launch));
                    block.start(n, self.launch.block_index(n));
                    resident.push_front(block);
                }
            }
            let Some(mut block) = resident.pop_front() else {
                return Ok(());
            };
            match block.run(&mut cache) {
                Ok(Outcome::Finished) => {
                    admit = resident.is_empty();
                    spare.push(block);
                }
                // It may wait for a block that has not started: let another in, and come back to this one.
                Ok(Outcome::GaveWay) => {
                    admit = true;
                    resident.push_back(block);
                }
                Err(fault) => {
                    self.stop.store(true, Ordering::Relaxed);
                    return Err(fault);
                }
            }
        }
    }
}
