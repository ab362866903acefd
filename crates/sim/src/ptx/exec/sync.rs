//! Instructions across the lanes of a warp: every lane that the member mask names waits for the others.

use super::warp::{ALL, LANES, Lane, Warp, lanes};
use crate::ptx::inst::{Atomic, Inst, Op, Shuffle, Ty, Vote};
use crate::ptx::module::Kernel;

/// Executes at once when the lanes of `mask` are all that the instruction waits for; whether it did.
pub fn together(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    let lane = mask.trailing_zeros() as usize;
    let wanted = warp.value(inst.src[3], lane) as u32;
    if wanted & warp.live & !mask != 0 || mask & !wanted != 0 {
        return false;
    }
    let members = warp.read::<u32>(inst.src[3]);
    if lanes(mask).any(|lane| members[lane] != wanted) {
        return false;
    }
    execute(warp, mask, |_| inst);
    true
}

/// Lets waiting lanes go on whose partners have all arrived, at this instruction or at its twin in another branch; whether there were any.
pub fn release(kernel: &Kernel, warp: &mut Warp) -> bool {
    let (mut left, mut any) = (warp.at_sync & warp.live, false);
    while left != 0 {
        let first = left.trailing_zeros() as usize;
        let at = |warp: &Warp, lane: usize| &kernel.code[warp.pc[lane] as usize];
        let (op, ty) = (at(warp, first).op, at(warp, first).ty);
        let wanted = warp.value(at(warp, first).src[3], first) as u32;
        let mut here = 0;
        for lane in lanes(left) {
            let inst = at(warp, lane);
            if inst.op == op && inst.ty == ty && warp.value(inst.src[3], lane) as u32 == wanted {
                here |= 1 << lane;
            }
        }
        left &= !here;
        if wanted & warp.live & !here == 0 {
            let pcs = warp.pc;
            execute(warp, here, |lane| &kernel.code[pcs[lane] as usize]);
            lanes(here).for_each(|lane| warp.pc[lane] += 1);
            warp.at_sync &= !here;
            any = true;
        }
    }
    any
}

/// One source gathered over lanes that may stand at different instructions.
fn gather<'i>(warp: &Warp, mask: u32, inst: &impl Fn(usize) -> &'i Inst, source: usize) -> [u64; LANES] {
    let mut out = [0; LANES];
    for lane in lanes(mask) {
        out[lane] = warp.value(inst(lane).src[source], lane);
    }
    out
}

fn scatter<'i, T: Lane>(warp: &mut Warp, mask: u32, inst: &impl Fn(usize) -> &'i Inst, values: &[T; LANES]) {
    for lane in lanes(mask) {
        warp.write(inst(lane).dst, 1 << lane, values);
    }
}

fn execute<'i>(warp: &mut Warp, mask: u32, inst: impl Fn(usize) -> &'i Inst) {
    let first = inst(mask.trailing_zeros() as usize);
    match first.op {
        Op::Shuffle(mode) => shuffle(warp, mask, &inst, mode),
        Op::Vote { vote, .. } => {
            let mut yes = 0;
            for lane in lanes(mask) {
                let Op::Vote { negate, .. } = inst(lane).op else { continue };
                let value = warp.value(inst(lane).src[0], lane) != 0;
                yes |= u32::from(value != negate) << lane;
            }
            let result = match vote {
                Vote::Any => u32::from(yes != 0),
                Vote::All => u32::from(yes == mask),
                Vote::Uniform => u32::from(yes == mask || yes == 0),
                Vote::Ballot => yes,
            };
            scatter(warp, mask, &inst, &[result; LANES]);
        }
        Op::MatchAny => {
            let values = gather(warp, mask, &inst, 0);
            let mut out = [0u32; LANES];
            for lane in lanes(mask) {
                out[lane] =
                    lanes(mask).filter(|other| values[*other] == values[lane]).fold(0, |m, other| m | 1 << other);
            }
            scatter(warp, mask, &inst, &out);
        }
        Op::MatchAll => {
            let values = gather(warp, mask, &inst, 0);
            let first = values[mask.trailing_zeros() as usize];
            let same = lanes(mask).all(|lane| values[lane] == first);
            scatter(warp, mask, &inst, &[if same { mask } else { 0 }; LANES]);
            for lane in lanes(mask) {
                warp.set_predicate(inst(lane).dst2, 1 << lane, if same { ALL } else { 0 });
            }
        }
        Op::Redux(operation) => {
            let values = gather(warp, mask, &inst, 0);
            let signed = first.ty == Ty::S32;
            let result = lanes(mask).map(|lane| values[lane] as u32).reduce(|a, b| match operation {
                Atomic::Add => a.wrapping_add(b),
                Atomic::Min if signed => (a as i32).min(b as i32) as u32,
                Atomic::Max if signed => (a as i32).max(b as i32) as u32,
                Atomic::Min => a.min(b),
                Atomic::Max => a.max(b),
                Atomic::And => a & b,
                Atomic::Or => a | b,
                _ => a ^ b,
            });
            scatter(warp, mask, &inst, &[result.unwrap_or(0); LANES]);
        }
        Op::Elect => {
            let leader = mask.trailing_zeros();
            scatter(warp, mask, &inst, &[leader; LANES]);
            for lane in lanes(mask) {
                warp.set_predicate(inst(lane).dst2, 1 << lane, 1 << leader);
            }
        }
        _ => {}
    }
}

/// `shfl.sync`: see its pseudo-code in the PTX ISA; the third source packs the clamp (low 5 bits) and the segment mask (bits 8 to 12).
fn shuffle<'i>(warp: &mut Warp, mask: u32, inst: &impl Fn(usize) -> &'i Inst, mode: Shuffle) {
    let values = gather(warp, mask, inst, 0);
    let (by, packed) = (gather(warp, mask, inst, 1), gather(warp, mask, inst, 2));
    let mut out = [0u32; LANES];
    let mut valid = 0u32;
    for lane in lanes(mask) {
        let (this, by) = (lane as i32, (by[lane] & 31) as i32);
        let (clamp, segment) = ((packed[lane] & 31) as i32, (packed[lane] >> 8 & 31) as i32);
        let (highest, lowest) = ((this & segment) | (clamp & !segment), this & segment);
        let (from, inside) = match mode {
            Shuffle::Up => (this - by, this - by >= highest),
            Shuffle::Down => (this + by, this + by <= highest),
            Shuffle::Butterfly => (this ^ by, this ^ by <= highest),
            Shuffle::Index => {
                let from = lowest | (by & !segment);
                (from, from <= highest)
            }
        };
        valid |= u32::from(inside) << lane;
        out[lane] = values[if inside { from as usize & 31 } else { lane }] as u32;
    }
    scatter(warp, mask, inst, &out);
    for lane in lanes(mask) {
        warp.set_predicate(inst(lane).dst2, 1 << lane, valid);
    }
}
