//! Runs a warp: picks the lanes that go next, follows branches and calls, and hands the rest to the instruction's own module.

use super::memory::Cache;
use super::warp::{LANES, Return, Warp, lanes};
use super::{Fault, Launch, convert, float, half, integer, sync};
use crate::ptx::inst::{File, Inst, Op, Reg, Ty};
use crate::ptx::lower::FUNCTION_ADDRESS;

/// Branches after which lanes give way to those that wait behind a divergence, and the warp to its block.
const PATIENCE: u32 = 1024;
/// Branches for which lanes that waited may run ahead.
const CATCH_UP: u32 = 64;

/// What a warp needs while it runs.
pub struct Core<'c, 'a> {
    pub launch: &'a Launch<'a>,
    pub shared: &'c mut Vec<u64>,
    pub arrived: &'c mut [u32; 16],
    pub cache: &'c mut Cache,
}

/// Lanes that stand at the same instruction.
struct Group {
    mask: u32,
    pc: u32,
    /// Where the next lanes wait with whom these will meet.
    meet: u32,
    patience: u32,
}

impl Core<'_, '_> {
    /// Runs until no lane can go on (false) or the warp should give way (true).
    pub fn run(&mut self, warp: &mut Warp) -> Result<bool, Fault> {
        while let Some(group) = pick(warp) {
            if self.run_group(warp, group)? {
                return Ok(true);
            }
            // Lanes that exited or arrived may have been the last that others waited for.
            if warp.runnable() == 0 && warp.at_sync != 0 && !sync::release(self.launch.kernel, warp) {
                return Ok(false);
            }
        }
        Ok(false)
    }

    fn run_group(&mut self, warp: &mut Warp, group: Group) -> Result<bool, Fault> {
        let kernel = self.launch.kernel;
        let Group { mask, mut pc, meet, mut patience } = group;
        let stay = |warp: &mut Warp, pc: u32| lanes(mask).for_each(|lane| warp.pc[lane] = pc);
        loop {
            if pc >= meet {
                stay(warp, pc);
                return Ok(false);
            }
            let inst = &kernel.code[pc as usize];
            let enabled = warp.guarded(inst, mask);
            match inst.op {
                Op::Branch => {
                    patience -= 1;
                    if enabled == mask {
                        pc = inst.target;
                    } else if enabled == 0 {
                        pc += 1;
                    } else {
                        stay(warp, pc + 1);
                        lanes(enabled).for_each(|lane| warp.pc[lane] = inst.target);
                        return Ok(false);
                    }
                    if patience == 0 {
                        stay(warp, pc);
                        warp.oldest_next = !warp.oldest_next && warp.runnable() != mask;
                        return Ok(true);
                    }
                    continue;
                }
                _ if enabled == 0 => {}
                Op::Exit => {
                    stay(warp, pc + 1);
                    warp.live &= !enabled;
                    return Ok(false);
                }
                Op::Return => {
                    stay(warp, pc + 1);
                    self.leave(warp, enabled);
                    return Ok(false);
                }
                Op::Call => {
                    stay(warp, pc + 1);
                    lanes(enabled).try_for_each(|lane| self.enter(warp, lane, pc, inst.target))?;
                    return Ok(false);
                }
                Op::CallIndirect => {
                    stay(warp, pc + 1);
                    for lane in lanes(enabled) {
                        let index = warp.value(inst.src[0], lane) ^ FUNCTION_ADDRESS;
                        if index >= kernel.callees.len() as u64 {
                            return Err(Fault::InvalidProgramCounter { line: inst.line });
                        }
                        self.enter(warp, lane, pc, index as u32)?;
                    }
                    return Ok(false);
                }
                Op::BranchIndexed => {
                    stay(warp, pc + 1);
                    for lane in lanes(enabled) {
                        let index = warp.value(inst.src[0], lane) as usize;
                        warp.pc[lane] =
                            *inst.targets.get(index).ok_or(Fault::InvalidProgramCounter { line: inst.line })?;
                    }
                    return Ok(false);
                }
                Op::Barrier { arrive: true } => {
                    let lane = enabled.trailing_zeros() as usize;
                    self.arrived[warp.value(inst.src[0], lane) as usize % 16] += enabled.count_ones();
                }
                Op::Barrier { .. } | Op::BarrierReduce(_) => {
                    stay(warp, pc + 1);
                    lanes(enabled).for_each(|lane| warp.pc[lane] = pc);
                    warp.at_barrier |= enabled;
                    return Ok(false);
                }
                Op::Shuffle(_)
                | Op::Vote { .. }
                | Op::MatchAny
                | Op::MatchAll
                | Op::Redux(_)
                | Op::WarpBarrier
                | Op::Elect => {
                    if !sync::together(warp, inst, enabled) {
                        stay(warp, pc + 1);
                        lanes(enabled).for_each(|lane| warp.pc[lane] = pc);
                        warp.at_sync |= enabled;
                        sync::release(kernel, warp);
                        return Ok(false);
                    }
                }
                Op::Yield => {
                    stay(warp, pc + 1);
                    warp.oldest_next = warp.runnable() != mask;
                    return Ok(true);
                }
                Op::Trap => return Err(Fault::Trap { line: inst.line }),
                Op::AssertFail => return Err(self.assertion(warp, inst, enabled)),
                _ => self.execute(warp, inst, enabled)?,
            }
            pc += 1;
        }
    }

    /// An instruction that goes on to the next.
    fn execute(&mut self, warp: &mut Warp, inst: &Inst, mask: u32) -> Result<(), Fault> {
        let done = match inst.op {
            Op::Load(space) => return self.load(warp, inst, mask, space),
            Op::Store(space) => return self.store(warp, inst, mask, space),
            Op::Atomic(space, operation) => return self.atomic(warp, inst, mask, space, operation),
            Op::CopyAsync => return self.copy_async(warp, inst, mask),
            Op::ToGeneric(_) | Op::FromGeneric(_) | Op::IsSpace(_) | Op::FrameAddress => {
                self.address(warp, inst, mask);
                true
            }
            Op::Fence => {
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                true
            }
            Op::Printf | Op::Malloc | Op::Free => return self.system_call(warp, inst, mask),
            Op::ActiveMask => {
                warp.write(inst.dst, mask, &[mask; LANES]);
                true
            }
            Op::Clock => {
                let ticks = warp.picks.wrapping_mul(64);
                warp.write(inst.dst, mask, &[ticks; LANES]);
                true
            }
            Op::Convert { .. } | Op::ConvertPair => convert::execute(warp, inst, mask),
            _ => match inst.ty {
                Ty::F32 | Ty::F64 => float::execute(warp, inst, mask),
                Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 => half::execute(warp, inst, mask),
                _ => integer::execute(warp, inst, mask),
            },
        };
        if done { Ok(()) } else { Err(Fault::IllegalInstruction { line: inst.line }) }
    }

    /// Calls `callee` in one lane: its arguments are copied into a new frame.
    fn enter(&self, warp: &mut Warp, lane: usize, call: u32, callee: u32) -> Result<(), Fault> {
        let kernel = self.launch.kernel;
        let inst = &kernel.code[call as usize];
        let function = &kernel.callees[callee as usize];
        let frame = warp.frame[lane];
        // A frame begins where the caller's ends.
        let size =
            warp.calls[lane].last().map_or(kernel.frame, |current| kernel.callees[current.callee as usize].frame);
        let new = frame + size;
        if new + function.frame > kernel.local_bytes {
            return Err(Fault::StackOverflow { line: inst.line });
        }
        if let Some(slots) = &inst.call {
            for ((from, bytes), (to, room)) in slots.arguments.iter().zip(&function.params) {
                self.copy_local(warp, lane, frame + from, new + to, *bytes.min(room));
            }
        }
        let mut back = Return { call, callee, frame, ..Return::default() };
        if function.recursive {
            let [preds, words, wides] = function.registers;
            back.words.extend(registers(File::Pred, preds).map(|reg| warp.value(reg, lane) as u32));
            back.words.extend(registers(File::Word, words).map(|reg| warp.value(reg, lane) as u32));
            back.wides.extend(registers(File::Wide, wides).map(|reg| warp.value(reg, lane)));
        }
        warp.calls[lane].push(back);
        warp.frame[lane] = new;
        warp.pc[lane] = function.entry;
        Ok(())
    }

    /// Returns from the function each lane is in; from the kernel itself, the lane exits.
    fn leave(&self, warp: &mut Warp, mask: u32) {
        let kernel = self.launch.kernel;
        for lane in lanes(mask) {
            let Some(back) = warp.calls[lane].pop() else {
                warp.live &= !(1 << lane);
                continue;
            };
            let function = &kernel.callees[back.callee as usize];
            let frame = warp.frame[lane];
            if let Some(slots) = &kernel.code[back.call as usize].call {
                for ((to, bytes), (from, room)) in slots.results.iter().zip(&function.results) {
                    self.copy_local(warp, lane, frame + from, back.frame + to, *bytes.min(room));
                }
            }
            if function.recursive {
                let [preds, words, wides] = function.registers;
                let narrow = registers(File::Pred, preds).chain(registers(File::Word, words));
                for (reg, value) in narrow.zip(&back.words) {
                    warp.write(reg, 1 << lane, &[*value; LANES]);
                }
                for (reg, value) in registers(File::Wide, wides).zip(&back.wides) {
                    warp.write(reg, 1 << lane, &[*value; LANES]);
                }
            }
            warp.frame[lane] = back.frame;
            warp.pc[lane] = back.call + 1;
        }
    }

    fn copy_local(&self, warp: &mut Warp, lane: usize, from: u32, to: u32, bytes: u32) {
        let start = lane * self.launch.kernel.local_bytes as usize;
        let local: &mut [u8] = bytemuck::cast_slice_mut(&mut warp.local);
        let lane = &mut local[start..start + self.launch.kernel.local_bytes as usize];
        lane.copy_within(from as usize..(from + bytes) as usize, to as usize);
    }
}

fn registers(file: File, (first, count): (u32, u32)) -> impl Iterator<Item = Reg> {
    (first..first + count).map(move |index| Reg { file, index })
}

/// The lanes to run next: those furthest behind, or, every other time after these used up their patience, those that waited longest.
fn pick(warp: &mut Warp) -> Option<Group> {
    let runnable = warp.runnable();
    if runnable == 0 {
        return None;
    }
    let oldest = std::mem::take(&mut warp.oldest_next);
    let pc = if oldest {
        let lane = lanes(runnable).min_by_key(|lane| warp.last_run[*lane])?;
        warp.pc[lane]
    } else {
        lanes(runnable).map(|lane| warp.pc[lane]).min()?
    };
    warp.picks += 1;
    let (mut mask, mut meet) = (0u32, u32::MAX);
    for lane in lanes(runnable) {
        if warp.pc[lane] == pc {
            mask |= 1 << lane;
            warp.last_run[lane] = warp.picks;
        } else if !oldest {
            meet = meet.min(warp.pc[lane]);
        }
    }
    // Lanes that catch up run past the others, and hand back soon.
    let patience = if oldest { CATCH_UP } else { PATIENCE };
    warp.oldest_next = false;
    Some(Group { mask, pc, meet, patience })
}
