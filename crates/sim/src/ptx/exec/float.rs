//! Single and double precision.
//!
//! Approximate instructions (`ex2.approx`, `rcp.approx`, …) are computed in full precision here: closer to the true value than the
//! hardware is, and so not equal to it bit for bit.

use super::integer;
use super::warp::{LANES, Lane, Warp};
use crate::ptx::inst::{Approx, Inst, Op, Part, Round, Ty};

/// Zero for a subnormal number, with its sign.
pub fn flushed(value: f32) -> f32 {
    if value.is_subnormal() { 0f32.copysign(value) } else { value }
}

/// Executes an instruction on single or double precision; false when it has no meaning for them.
pub fn execute(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    match inst.op {
        Op::Mov | Op::Select | Op::SelectSign(_) | Op::Pack | Op::Unpack | Op::SetPred { .. } | Op::Set { .. } => {
            return bits(warp, inst, mask);
        }
        _ => {}
    }
    if inst.ty == Ty::F64 { double(warp, inst, mask) } else { single(warp, inst, mask) }
}

/// What does not look at the value: the integer module's work on the same bits.
fn bits(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    integer::execute(warp, inst, mask)
}

/// The nearest value of type `T` on the asked side of the exact result, which is `nearest` plus `error`'s sign.
macro_rules! directed {
    ($round:expr, $nearest:expr, $error:expr) => {{
        let (nearest, error) = ($nearest, $error);
        match $round {
            Round::Down if error < 0.0 => nearest.next_down(),
            Round::Up if error > 0.0 => nearest.next_up(),
            Round::Zero if error < 0.0 && nearest > 0.0 => nearest.next_down(),
            Round::Zero if error > 0.0 && nearest < 0.0 => nearest.next_up(),
            _ => nearest,
        }
    }};
}

/// Exact sum of two doubles as a rounded sum and its error (Knuth, TAOCP 4.2.2, theorem B).
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let part = sum - a;
    (sum, (a - (sum - part)) + (b - part))
}

fn fma_directed32(round: Round, a: f32, b: f32, c: f32) -> f32 {
    let nearest = a.mul_add(b, c);
    if !nearest.is_finite() {
        return nearest;
    }
    // The product of two singles is exact in double precision.
    let (sum, error) = two_sum(f64::from(a) * f64::from(b), f64::from(c));
    directed!(round, nearest, (sum - f64::from(nearest)) + error)
}

fn fma_directed64(round: Round, a: f64, b: f64, c: f64) -> f64 {
    let nearest = a.mul_add(b, c);
    if !nearest.is_finite() {
        return nearest;
    }
    let product = a * b;
    let product_error = a.mul_add(b, -product);
    let (sum, sum_error) = two_sum(product, c);
    directed!(round, nearest, (sum - nearest) + (sum_error + product_error))
}

fn div_directed32(round: Round, a: f32, b: f32) -> f32 {
    let nearest = a / b;
    if !nearest.is_finite() || b == 0.0 {
        return nearest;
    }
    let rest = f64::from(a) - f64::from(nearest) * f64::from(b);
    directed!(round, nearest, rest * f64::from(b).signum())
}

fn div_directed64(round: Round, a: f64, b: f64) -> f64 {
    let nearest = a / b;
    if !nearest.is_finite() || b == 0.0 {
        return nearest;
    }
    directed!(round, nearest, (-nearest).mul_add(b, a) * b.signum())
}

fn is_directed(round: Round) -> bool {
    matches!(round, Round::Zero | Round::Down | Round::Up)
}

/// `min` and `max`: a number wins over what is none unless `nan` is asked; -0 is less than +0.
fn least<T: PartialOrd + Copy>(a: T, b: T, nan: bool, a_nan: bool, b_nan: bool, a_negative: bool) -> T {
    match (a_nan, b_nan) {
        (true, true) => a,
        (true, false) => {
            if nan {
                a
            } else {
                b
            }
        }
        (false, true) => {
            if nan {
                b
            } else {
                a
            }
        }
        _ if a == b => {
            if a_negative {
                a
            } else {
                b
            }
        }
        _ => {
            if a < b {
                a
            } else {
                b
            }
        }
    }
}

fn single(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    let (flush, saturate, round, nan) = (inst.flush, inst.saturate, inst.round, inst.nan);
    let directed = is_directed(round);
    let plain = !flush && !saturate;
    let enter = move |v: f32| if flush { flushed(v) } else { v };
    let leave = move |v: f32| {
        let v = if flush { flushed(v) } else { v };
        match saturate {
            true if v.is_nan() => 0.0,
            true => v.clamp(0.0, 1.0),
            false => v,
        }
    };
    macro_rules! unary {
        (|$a:ident| $value:expr) => {
            warp.unary(inst, mask, |$a: f32| {
                let $a = enter($a);
                leave($value)
            })
        };
    }
    macro_rules! binary {
        (|$a:ident, $b:ident| $value:expr) => {
            warp.binary(inst, mask, |$a: f32, $b: f32| {
                let ($a, $b) = (enter($a), enter($b));
                leave($value)
            })
        };
    }
    match inst.op {
        Op::Add if plain && !directed => warp.binary(inst, mask, |a: f32, b: f32| a + b),
        Op::Sub if plain && !directed => warp.binary(inst, mask, |a: f32, b: f32| a - b),
        Op::Mul(Part::Low) if plain && !directed => warp.binary(inst, mask, |a: f32, b: f32| a * b),
        Op::Fma if plain && !directed => fma32(warp, inst, mask),
        Op::Add => binary!(|a, b| fma_directed32(round, a, 1.0, b)),
        Op::Sub => binary!(|a, b| fma_directed32(round, a, 1.0, -b)),
        // Minus zero: adding it changes no product, not even the sign of a zero.
        Op::Mul(_) => binary!(|a, b| fma_directed32(round, a, b, -0.0)),
        Op::Fma => warp
            .ternary(inst, mask, |a: f32, b: f32, c: f32| leave(fma_directed32(round, enter(a), enter(b), enter(c)))),
        Op::Div => binary!(|a, b| div_directed32(round, a, b)),
        Op::Min => binary!(|a, b| least(a, b, nan, a.is_nan(), b.is_nan(), a.is_sign_negative())),
        Op::Max => binary!(|a, b| -least(-a, -b, nan, a.is_nan(), b.is_nan(), a.is_sign_positive())),
        Op::Neg => unary!(|a| -a),
        Op::Abs => unary!(|a| a.abs()),
        Op::Copysign => warp.binary(inst, mask, |sign: f32, size: f32| size.copysign(sign)),
        Op::Approx(function) => unary!(|a| match function {
            Approx::Exp2 => f64::from(a).exp2() as f32,
            Approx::Log2 => f64::from(a).log2() as f32,
            Approx::Reciprocal => div_directed32(round, 1.0, a),
            Approx::Sqrt => sqrt32(round, a),
            Approx::ReciprocalSqrt => (1.0 / f64::from(a).sqrt()) as f32,
            Approx::Sin => a.sin(),
            Approx::Cos => a.cos(),
            Approx::Tanh => a.tanh(),
        }),
        _ => return tests::<f32>(warp, inst, mask),
    }
    true
}

fn double(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    let (round, nan) = (inst.round, inst.nan);
    let directed = is_directed(round);
    match inst.op {
        Op::Add if directed => warp.binary(inst, mask, |a: f64, b: f64| fma_directed64(round, a, 1.0, b)),
        Op::Sub if directed => warp.binary(inst, mask, |a: f64, b: f64| fma_directed64(round, a, 1.0, -b)),
        Op::Mul(_) if directed => warp.binary(inst, mask, |a: f64, b: f64| fma_directed64(round, a, b, -0.0)),
        Op::Fma if directed => warp.ternary(inst, mask, |a: f64, b: f64, c: f64| fma_directed64(round, a, b, c)),
        Op::Add => warp.binary(inst, mask, |a: f64, b: f64| a + b),
        Op::Sub => warp.binary(inst, mask, |a: f64, b: f64| a - b),
        Op::Mul(_) => warp.binary(inst, mask, |a: f64, b: f64| a * b),
        Op::Fma => fma64(warp, inst, mask),
        Op::Div => warp.binary(inst, mask, |a: f64, b: f64| div_directed64(round, a, b)),
        Op::Min => {
            warp.binary(inst, mask, |a: f64, b: f64| least(a, b, nan, a.is_nan(), b.is_nan(), a.is_sign_negative()));
        }
        Op::Max => {
            warp.binary(inst, mask, |a: f64, b: f64| -least(-a, -b, nan, a.is_nan(), b.is_nan(), a.is_sign_positive()));
        }
        Op::Neg => warp.unary(inst, mask, |a: f64| -a),
        Op::Abs => warp.unary(inst, mask, f64::abs),
        Op::Copysign => warp.binary(inst, mask, |sign: f64, size: f64| size.copysign(sign)),
        Op::Approx(Approx::Reciprocal) => warp.unary(inst, mask, |a: f64| div_directed64(round, 1.0, a)),
        Op::Approx(Approx::Sqrt) => warp.unary(inst, mask, |a: f64| sqrt64(round, a)),
        Op::Approx(Approx::ReciprocalSqrt) => warp.unary(inst, mask, |a: f64| 1.0 / a.sqrt()),
        _ => return tests::<f64>(warp, inst, mask),
    }
    true
}

fn sqrt32(round: Round, a: f32) -> f32 {
    let nearest = a.sqrt();
    if !nearest.is_finite() {
        return nearest;
    }
    directed!(round, nearest, f64::from(a) - f64::from(nearest) * f64::from(nearest))
}

fn sqrt64(round: Round, a: f64) -> f64 {
    let nearest = a.sqrt();
    if !nearest.is_finite() {
        return nearest;
    }
    directed!(round, nearest, (-nearest).mul_add(nearest, a))
}

trait Class: Lane {
    fn class(self) -> std::num::FpCategory;
}
impl Class for f32 {
    fn class(self) -> std::num::FpCategory {
        self.classify()
    }
}
impl Class for f64 {
    fn class(self) -> std::num::FpCategory {
        self.classify()
    }
}

/// `testp`.
fn tests<T: Class>(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    use std::num::FpCategory::{Infinite, Nan, Normal, Subnormal};
    let test: fn(std::num::FpCategory) -> bool = match inst.op {
        Op::TestFinite => |class| !matches!(class, Infinite | Nan),
        Op::TestInfinite => |class| class == Infinite,
        Op::TestNumber => |class| class != Nan,
        Op::TestNan => |class| class == Nan,
        Op::TestNormal => |class| class == Normal,
        Op::TestSubnormal => |class| class == Subnormal,
        _ => return false,
    };
    warp.unary(inst, mask, |a: T| u32::from(test(a.class())));
    true
}

/// Fused multiply-add, the heart of most kernels: with the machine's own instruction where it has one.
fn fma32(warp: &mut Warp, inst: &Inst, mask: u32) {
    let (a, b, c) = (warp.read::<f32>(inst.src[0]), warp.read::<f32>(inst.src[1]), warp.read::<f32>(inst.src[2]));
    let mut out = [0f32; LANES];
    #[cfg(target_arch = "x86_64")]
    if has_fma() {
        // SAFETY: the processor has the features, as `has_fma` says.
        unsafe { fused32(&a, &b, &c, &mut out) };
        warp.write(inst.dst, mask, &out);
        return;
    }
    for lane in 0..LANES {
        out[lane] = a[lane].mul_add(b[lane], c[lane]);
    }
    warp.write(inst.dst, mask, &out);
}

fn fma64(warp: &mut Warp, inst: &Inst, mask: u32) {
    let (a, b, c) = (warp.read::<f64>(inst.src[0]), warp.read::<f64>(inst.src[1]), warp.read::<f64>(inst.src[2]));
    let mut out = [0f64; LANES];
    #[cfg(target_arch = "x86_64")]
    if has_fma() {
        // SAFETY: the processor has the features, as `has_fma` says.
        unsafe { fused64(&a, &b, &c, &mut out) };
        warp.write(inst.dst, mask, &out);
        return;
    }
    for lane in 0..LANES {
        out[lane] = a[lane].mul_add(b[lane], c[lane]);
    }
    warp.write(inst.dst, mask, &out);
}

#[cfg(target_arch = "x86_64")]
fn has_fma() -> bool {
    std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fused32(a: &[f32; LANES], b: &[f32; LANES], c: &[f32; LANES], out: &mut [f32; LANES]) {
    for lane in 0..LANES {
        out[lane] = a[lane].mul_add(b[lane], c[lane]);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fused64(a: &[f64; LANES], b: &[f64; LANES], c: &[f64; LANES], out: &mut [f64; LANES]) {
    for lane in 0..LANES {
        out[lane] = a[lane].mul_add(b[lane], c[lane]);
    }
}
