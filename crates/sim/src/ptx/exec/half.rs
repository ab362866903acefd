//! Half precision and bfloat16, alone and in pairs. Computed in wider precision and rounded once.

use half::{bf16, f16};

use super::integer;
use super::warp::{LANES, Lane, Warp};
use crate::ptx::inst::{Approx, Compare, Inst, Op, Part, Ty};

/// A 16-bit float.
trait Short: Lane {
    fn exact(self) -> f64;
    fn narrow(value: f64) -> Self;
    fn bits(self) -> u16;
    fn of_bits(bits: u16) -> Self;
}

macro_rules! shorts {
    ($($ty:ty),*) => {$(
        impl Short for $ty {
            fn exact(self) -> f64 { self.to_f64() }
            // One rounding from the exact value: sums and products of two are exact in double precision.
            fn narrow(value: f64) -> Self { <$ty>::from_f64(value) }
            fn bits(self) -> u16 { self.to_bits() }
            fn of_bits(bits: u16) -> Self { <$ty>::from_bits(bits) }
        }
    )*};
}
shorts!(f16, bf16);

/// Executes an instruction on 16-bit floats; false when it has no meaning for them.
pub fn execute(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    match (inst.op, inst.ty) {
        (Op::SetPred { compare, unordered, with, negate }, Ty::F16x2 | Ty::Bf16x2) => {
            // Two predicates: of the low halves and of the high halves.
            let yes = compare_pairs(warp, inst, compare, unordered);
            let (dst, dst2) = (inst.dst, inst.dst2);
            for (half, reg) in [dst, dst2].into_iter().enumerate() {
                let mut one = inst.clone();
                one.dst = reg;
                one.dst2 = crate::ptx::inst::Reg::default();
                integer::set_predicates(warp, &one, mask, yes[half], with, negate);
            }
            true
        }
        (Op::Set { compare, unordered, result }, Ty::F16x2 | Ty::Bf16x2) => {
            let yes = compare_pairs(warp, inst, compare, unordered);
            let one = match result {
                Ty::F16x2 => f16::ONE.to_bits(),
                Ty::Bf16x2 => bf16::ONE.to_bits(),
                _ => u16::MAX,
            };
            let half = |half: usize, lane: usize| if yes[half] >> lane & 1 != 0 { u32::from(one) } else { 0 };
            let out: [u32; LANES] = std::array::from_fn(|lane| half(0, lane) | half(1, lane) << 16);
            warp.write(inst.dst, mask, &out);
            true
        }
        (Op::SetPred { .. } | Op::Set { .. } | Op::Mov | Op::Select | Op::Pack | Op::Unpack, _) => {
            integer::execute(warp, inst, mask)
        }
        (_, Ty::F16 | Ty::F16x2) => arithmetic::<f16>(warp, inst, mask),
        _ => arithmetic::<bf16>(warp, inst, mask),
    }
}

fn arithmetic<T: Short>(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    let (saturate, nan) = (inst.saturate, inst.nan);
    let round = move |value: f64| {
        T::narrow(match saturate {
            true if value.is_nan() => 0.0,
            true => value.clamp(0.0, 1.0),
            false => value,
        })
    };
    match inst.op {
        Op::Add => apply(warp, inst, mask, |a: T, b, _| round(a.exact() + b.exact())),
        Op::Sub => apply(warp, inst, mask, |a: T, b, _| round(a.exact() - b.exact())),
        Op::Mul(Part::Low) => apply(warp, inst, mask, |a: T, b, _| round(a.exact() * b.exact())),
        Op::Fma => apply(warp, inst, mask, |a: T, b, c| round(a.exact().mul_add(b.exact(), c.exact()))),
        Op::Min => apply(warp, inst, mask, |a: T, b, _| if least(a, b, nan) { a } else { b }),
        Op::Max => apply(warp, inst, mask, |a: T, b, _| if greatest(a, b, nan) { a } else { b }),
        Op::Neg => apply(warp, inst, mask, |a: T, _, _| T::of_bits(a.bits() ^ 0x8000)),
        Op::Abs => apply(warp, inst, mask, |a: T, _, _| T::of_bits(a.bits() & 0x7fff)),
        Op::Approx(Approx::Exp2) => apply(warp, inst, mask, |a: T, _, _| T::narrow(a.exact().exp2())),
        Op::Approx(Approx::Tanh) => apply(warp, inst, mask, |a: T, _, _| T::narrow(a.exact().tanh())),
        _ => return false,
    }
    true
}

fn least<T: Short>(a: T, b: T, nan: bool) -> bool {
    let (x, y) = (a.exact(), b.exact());
    if x.is_nan() || y.is_nan() { x.is_nan() == nan } else { x < y || (x == y && x.is_sign_negative()) }
}

fn greatest<T: Short>(a: T, b: T, nan: bool) -> bool {
    let (x, y) = (a.exact(), b.exact());
    if x.is_nan() || y.is_nan() { x.is_nan() == nan } else { x > y || (x == y && x.is_sign_positive()) }
}

/// Applies `f` to one value, or to both halves of a pair.
fn apply<T: Short>(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(T, T, T) -> T) {
    let pair = matches!(inst.ty, Ty::F16x2 | Ty::Bf16x2);
    warp.ternary(inst, mask, |a: u32, b: u32, c: u32| {
        let half = |at: u32| {
            let part = |v: u32| T::of_bits((v >> at) as u16);
            u32::from(f(part(a), part(b), part(c)).bits()) << at
        };
        if pair { half(0) | half(16) } else { half(0) }
    });
}

fn compare_pairs(warp: &Warp, inst: &Inst, compare: Compare, unordered: bool) -> [u32; 2] {
    let (a, b) = (warp.read::<u32>(inst.src[0]), warp.read::<u32>(inst.src[1]));
    let value =
        |bits: u16| if inst.ty == Ty::F16x2 { f16::from_bits(bits).to_f64() } else { bf16::from_bits(bits).to_f64() };
    let holds = |x: f64, y: f64| {
        let nan = x.is_nan() || y.is_nan();
        match compare {
            Compare::Num => !nan,
            Compare::Nan => nan,
            _ if nan => unordered,
            Compare::Eq => x == y,
            Compare::Ne => x != y,
            Compare::Lt => x < y,
            Compare::Le => x <= y,
            Compare::Gt => x > y,
            Compare::Ge => x >= y,
        }
    };
    [0, 16].map(|at| {
        (0..LANES).fold(0, |m, lane| {
            m | u32::from(holds(value((a[lane] >> at) as u16), value((b[lane] >> at) as u16))) << lane
        })
    })
}
