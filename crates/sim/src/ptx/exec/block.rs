//! A block: its warps take turns, meet at barriers, and share memory.

use super::memory::Cache;
use super::run::Core;
use super::warp::{LANES, Warp, lanes};
use super::{Fault, Launch};
use crate::ptx::inst::{Logic, Op};
use crate::ptx::lower::Special;

/// Times that warps of a block give way before the block does.
const TURNS: u32 = 64;
/// Barriers of a block (PTX: sixteen).
const BARRIERS: usize = 16;

/// How a turn of a block ended.
pub enum Outcome {
    Finished,
    /// It has run for long; others should.
    GaveWay,
}

/// The state of one block.
pub struct Block<'a> {
    launch: &'a Launch<'a>,
    warps: Vec<Warp>,
    shared: Vec<u64>,
    /// Threads that arrived at each barrier without waiting.
    arrived: [u32; BARRIERS],
}

impl<'a> Block<'a> {
    /// A block's memory, to be used for one block after another.
    pub fn new(launch: &'a Launch<'a>) -> Self {
        let threads = launch.block.iter().product::<u32>();
        let warps = (0..threads.div_ceil(LANES as u32)).map(|index| Warp::new(launch.kernel, index, threads)).collect();
        let bytes = launch.kernel.shared_bytes as usize + launch.dynamic_shared as usize;
        Self { launch, warps, shared: vec![0; bytes.div_ceil(8)], arrived: [0; BARRIERS] }
    }

    /// Puts every thread at the start of block `index`, the `n`th of the grid.
    pub fn start(&mut self, n: u64, index: [u32; 3]) {
        let Launch { kernel, grid, block, dynamic_shared, multiprocessors, .. } = *self.launch;
        let warps = self.warps.len() as u32;
        self.arrived = [0; BARRIERS];
        for (warp_index, warp) in self.warps.iter_mut().enumerate() {
            warp.restart();
            warp.set_specials(kernel, |special, lane| {
                let thread = warp_index as u32 * LANES as u32 + lane;
                match special {
                    Special::Thread(0) => thread % block[0],
                    Special::Thread(1) => thread / block[0] % block[1],
                    Special::Thread(_) => thread / (block[0] * block[1]),
                    Special::BlockSize(axis) => block[axis as usize],
                    Special::Block(axis) => index[axis as usize],
                    Special::GridSize(axis) => grid[axis as usize],
                    Special::Lane => lane,
                    Special::Warp => warp_index as u32,
                    Special::Warps => warps,
                    Special::MaskEq => 1 << lane,
                    Special::MaskLt => (1 << lane) - 1,
                    Special::MaskLe => u32::MAX >> (31 - lane),
                    Special::MaskGt => !(u32::MAX >> (31 - lane)),
                    Special::MaskGe => u32::MAX << lane,
                    Special::Multiprocessor => (n % u64::from(multiprocessors.max(1))) as u32,
                    Special::Multiprocessors => multiprocessors,
                    Special::DynamicShared => dynamic_shared,
                    Special::DynamicSharedBase => kernel.shared_bytes,
                    Special::TotalShared => kernel.shared_bytes + dynamic_shared,
                    Special::Zero => 0,
                    Special::One => 1,
                }
            });
        }
    }

    /// Runs until the block ends or should give way.
    pub fn run(&mut self, cache: &mut Cache) -> Result<Outcome, Fault> {
        let mut turns = 0;
        loop {
            let mut progress = false;
            for warp in &mut self.warps {
                if warp.runnable() != 0 {
                    let mut core =
                        Core { launch: self.launch, shared: &mut self.shared, arrived: &mut self.arrived, cache };
                    turns += u32::from(core.run(warp)?);
                    progress = true;
                }
            }
            progress |= self.release_barriers();
            if self.warps.iter().all(|warp| warp.live == 0) {
                return Ok(Outcome::Finished);
            }
            if !progress {
                return Err(Fault::Deadlock);
            }
            if turns >= TURNS {
                return Ok(Outcome::GaveWay);
            }
        }
    }

    /// Lets threads go on whose barrier is complete; whether there were any.
    fn release_barriers(&mut self) -> bool {
        if self.warps.iter().all(|warp| warp.at_barrier == 0) {
            return false;
        }
        let code = &self.launch.kernel.code;
        let live: u32 = self.warps.iter().map(|warp| warp.live.count_ones()).sum();
        let mut waiting = [0u32; BARRIERS];
        let mut expected = [live; BARRIERS];
        let barrier = |warp: &Warp, lane: usize| {
            let inst = &code[warp.pc[lane] as usize];
            (warp.value(inst.src[0], lane) as usize % BARRIERS, inst)
        };
        for warp in &self.warps {
            for lane in lanes(warp.at_barrier) {
                let (id, inst) = barrier(warp, lane);
                waiting[id] += 1;
                let threads = warp.value(inst.src[1], lane) as u32;
                if threads != 0 {
                    expected[id] = threads;
                }
            }
        }
        let complete: Vec<bool> =
            (0..BARRIERS).map(|id| waiting[id] > 0 && waiting[id] + self.arrived[id] >= expected[id]).collect();
        if !complete.contains(&true) {
            return false;
        }
        // Reductions first: every waiting thread's predicate counts.
        let (mut yes, mut all) = ([0u32; BARRIERS], [0u32; BARRIERS]);
        for warp in &self.warps {
            for lane in lanes(warp.at_barrier) {
                let (id, inst) = barrier(warp, lane);
                let value = (warp.predicate(inst.src[2]) >> lane & 1 != 0) != inst.saturate;
                yes[id] += u32::from(value);
                all[id] += 1;
            }
        }
        for warp in &mut self.warps {
            for lane in lanes(warp.at_barrier) {
                let (id, inst) = barrier(warp, lane);
                if !complete[id] {
                    continue;
                }
                if let Op::BarrierReduce(logic) = inst.op {
                    let result = match logic {
                        None | Some(Logic::Xor) => yes[id],
                        Some(Logic::And) => u32::from(yes[id] == all[id]),
                        Some(Logic::Or) => u32::from(yes[id] > 0),
                    };
                    warp.write(inst.dst, 1 << lane, &[result; LANES]);
                }
                warp.at_barrier &= !(1 << lane);
                warp.pc[lane] += 1;
            }
        }
        for (arrived, complete) in self.arrived.iter_mut().zip(complete) {
            if complete {
                *arrived = 0;
            }
        }
        true
    }
}
