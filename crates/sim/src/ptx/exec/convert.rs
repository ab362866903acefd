//! `cvt` between all types.

use half::{bf16, f16};

use super::float::flushed;
use super::warp::{LANES, Warp, lanes};
use crate::ptx::inst::{Inst, Op, Round, Ty};

/// Executes a conversion; false when it has no meaning for its types.
pub fn execute(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    match inst.op {
        Op::ConvertPair => pair(warp, inst, mask),
        Op::Convert { from, relu } => {
            // The commonest, without a detour.
            match (from, inst.ty) {
                (Ty::U32, Ty::U64 | Ty::S64) => {
                    warp.unary(inst, mask, |a: u32| u64::from(a));
                    return true;
                }
                (Ty::S32, Ty::S64) => {
                    warp.unary(inst, mask, |a: i32| i64::from(a));
                    return true;
                }
                (Ty::S32, Ty::F32) if inst.round == Round::Nearest => {
                    warp.unary(inst, mask, |a: i32| a as f32);
                    return true;
                }
                _ => {}
            }
            let values = warp.read::<u64>(inst.src[0]);
            let mut out = [0u64; LANES];
            for lane in lanes(mask) {
                let exact = decode(values[lane], from, inst.flush);
                let exact = match exact {
                    Number::Float(v) if relu => Number::Float(if v > 0.0 { v } else { 0.0 }),
                    other => other,
                };
                out[lane] = encode(exact, inst);
            }
            warp.write(inst.dst, mask, &out);
            true
        }
        _ => false,
    }
}

/// A value without loss.
#[derive(Clone, Copy)]
enum Number {
    Integer(i128),
    Float(f64),
}

fn decode(bits: u64, ty: Ty, flush: bool) -> Number {
    match ty {
        Ty::S8 => Number::Integer(i128::from(bits as i8)),
        Ty::S16 => Number::Integer(i128::from(bits as i16)),
        Ty::S32 => Number::Integer(i128::from(bits as i32)),
        Ty::S64 => Number::Integer(i128::from(bits as i64)),
        Ty::U8 | Ty::B8 | Ty::Pred => Number::Integer(i128::from(bits as u8)),
        Ty::U16 | Ty::B16 => Number::Integer(i128::from(bits as u16)),
        Ty::U32 | Ty::B32 => Number::Integer(i128::from(bits as u32)),
        Ty::U64 | Ty::B64 => Number::Integer(i128::from(bits)),
        Ty::F16 | Ty::F16x2 => Number::Float(f16::from_bits(bits as u16).to_f64()),
        Ty::Bf16 | Ty::Bf16x2 => Number::Float(bf16::from_bits(bits as u16).to_f64()),
        Ty::F32 => {
            let value = f32::from_bits(bits as u32);
            Number::Float(f64::from(if flush { flushed(value) } else { value }))
        }
        Ty::F64 => Number::Float(f64::from_bits(bits)),
    }
}

/// To an integer, as asked; a conversion to an integer type truncates by itself.
fn integral(value: f64, round: Round) -> f64 {
    match round {
        Round::IntegerNearest => value.round_ties_even(),
        Round::IntegerDown => value.floor(),
        Round::IntegerUp => value.ceil(),
        Round::IntegerZero => value.trunc(),
        _ => value,
    }
}

fn encode(number: Number, inst: &Inst) -> u64 {
    let (round, ty) = (inst.round, inst.ty);
    if ty.is_float() {
        let saturated = |v: f64| match inst.saturate {
            true if v.is_nan() => 0.0,
            true => v.clamp(0.0, 1.0),
            false => v,
        };
        return match number {
            Number::Float(value) => float_bits(saturated(integral(value, round)), 0, ty, round, inst.flush),
            Number::Integer(value) => {
                let nearest = value as f64;
                // What double precision cannot hold of a 64-bit integer decides a directed rounding.
                let rest = value - nearest as i128;
                float_bits(nearest, rest.signum() as i32, ty, round, false)
            }
        };
    }
    let (low, high) = range(ty);
    match number {
        Number::Float(value) => {
            // Out of range is the nearest end, and not a number is zero, as the hardware does.
            let whole = integral(value, round).trunc();
            let value = if whole.is_nan() { 0 } else { (whole as i128).clamp(low, high) };
            value as u64
        }
        Number::Integer(value) if inst.saturate => value.clamp(low, high) as u64,
        // Truncation, then the sign of the destination's type fills wider registers.
        Number::Integer(value) => match ty {
            Ty::S8 => value as i8 as i64 as u64,
            Ty::S16 => value as i16 as i64 as u64,
            Ty::S32 => value as i32 as i64 as u64,
            Ty::U8 | Ty::B8 => u64::from(value as u8),
            Ty::U16 | Ty::B16 => u64::from(value as u16),
            Ty::U32 | Ty::B32 => u64::from(value as u32),
            _ => value as u64,
        },
    }
}

fn range(ty: Ty) -> (i128, i128) {
    let bits = ty.bytes() as u32 * 8;
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// Bits of `value` (plus a rest of sign `rest`) in a float type.
fn float_bits(value: f64, rest: i32, ty: Ty, round: Round, flush: bool) -> u64 {
    match ty {
        Ty::F64 => {
            let value = match round {
                Round::Down if rest < 0 => value.next_down(),
                Round::Up if rest > 0 => value.next_up(),
                Round::Zero if rest < 0 && value > 0.0 => value.next_down(),
                Round::Zero if rest > 0 && value < 0.0 => value.next_up(),
                _ => value,
            };
            value.to_bits()
        }
        Ty::F32 => {
            let nearest = value as f32;
            let error = match value - f64::from(nearest) {
                0.0 => f64::from(rest),
                error => error,
            };
            let out = match round {
                Round::Down if error < 0.0 => nearest.next_down(),
                Round::Up if error > 0.0 => nearest.next_up(),
                Round::Zero if error < 0.0 && value > 0.0 => nearest.next_down(),
                Round::Zero if error > 0.0 && value < 0.0 => nearest.next_up(),
                _ => nearest,
            };
            u64::from((if flush { flushed(out) } else { out }).to_bits())
        }
        Ty::F16 | Ty::F16x2 => {
            let nearest = f16::from_f64(value);
            u64::from(toward(nearest.to_bits(), value - nearest.to_f64(), value, round))
        }
        _ => {
            let nearest = bf16::from_f64(value);
            u64::from(toward(nearest.to_bits(), value - nearest.to_f64(), value, round))
        }
    }
}

/// The neighbour of a 16-bit float on the asked side; `error` is the exact value minus the float.
fn toward(bits: u16, error: f64, value: f64, round: Round) -> u16 {
    let (up, down) = match round {
        Round::Up => (error > 0.0, false),
        Round::Down => (false, error < 0.0),
        Round::Zero => (error > 0.0 && value < 0.0, error < 0.0 && value > 0.0),
        _ => (false, false),
    };
    let negative = bits & 0x8000 != 0;
    match (up, down) {
        (false, false) => bits,
        _ if bits & 0x7fff == 0 => {
            if up {
                1
            } else {
                0x8001
            }
        }
        // Magnitudes are ordered as their bits are.
        (up, _) if up != negative => bits + 1,
        _ => bits - 1,
    }
}

/// `cvt.rn.f16x2.f32 d, high, low`
fn pair(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    warp.binary(inst, mask, |high: f32, low: f32| {
        let half = |v: f32| float_bits(f64::from(v), 0, inst.ty, inst.round, false) as u32;
        half(high) << 16 | half(low)
    });
    true
}
