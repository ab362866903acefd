//! Integers, bits and predicates.

use super::warp::{ALL, LANES, Lane, Warp, lanes};
use crate::ptx::inst::{Compare, Inst, Logic, Op, Part, PermuteMode, Ty};

/// Executes an instruction on integers, bits or predicates; false when it has no meaning for its type.
pub fn execute(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    match inst.op {
        Op::Nop => true,
        Op::Pack => pack(warp, inst, mask),
        Op::Unpack => unpack(warp, inst, mask),
        Op::SetPred { compare, unordered, with, negate } => {
            let yes = compare_all(warp, inst, compare, unordered);
            set_predicates(warp, inst, mask, yes, with, negate);
            true
        }
        Op::Set { compare, unordered, result } => {
            let yes = compare_all(warp, inst, compare, unordered);
            write_set(warp, inst, mask, yes, result);
            true
        }
        _ if inst.ty == Ty::Pred => predicates(warp, inst, mask),
        Op::Mov | Op::Select => select(warp, inst, mask),
        Op::SelectSign(by) => select_sign(warp, inst, mask, by),
        Op::AddCarry { .. } | Op::SubCarry { .. } | Op::MadCarry { .. } => carries(warp, inst, mask),
        Op::And | Op::Or | Op::Xor | Op::Not | Op::Cnot | Op::Shl | Op::Lop3(_) => {
            if inst.ty.bytes() == 8 {
                bits64(warp, inst, mask)
            } else {
                bits32(warp, inst, mask)
            }
        }
        Op::Popc | Op::Clz | Op::Brev | Op::Bfind { .. } | Op::Bfe | Op::Bfi => fields(warp, inst, mask),
        Op::FunnelLeft { wrap } => {
            let amount = move |c: u32| if wrap { c & 31 } else { c.min(32) };
            warp.ternary(inst, mask, |low: u32, high: u32, c: u32| ((wide(low, high) << amount(c)) >> 32) as u32);
            true
        }
        Op::FunnelRight { wrap } => {
            let amount = move |c: u32| if wrap { c & 31 } else { c.min(32) };
            warp.ternary(inst, mask, |low: u32, high: u32, c: u32| (wide(low, high) >> amount(c)) as u32);
            true
        }
        Op::Prmt(mode) => {
            warp.ternary(inst, mask, |a: u32, b: u32, c: u32| permute(mode, a, b, c));
            true
        }
        Op::Dp4a { left_signed } => {
            let right_signed = inst.ty.is_signed();
            warp.ternary(inst, mask, |a: u32, b: u32, c: u32| {
                let byte = |v: u32, i: usize, signed: bool| {
                    let byte = v.to_le_bytes()[i];
                    if signed { i32::from(byte as i8) } else { i32::from(byte) }
                };
                (0..4).fold(c, |sum, i| sum.wrapping_add((byte(a, i, left_signed) * byte(b, i, right_signed)) as u32))
            });
            true
        }
        Op::Dp2a { left_signed, high } => {
            let right_signed = inst.ty.is_signed();
            warp.ternary(inst, mask, |a: u32, b: u32, c: u32| {
                let half = |i: u32| {
                    let half = (a >> (16 * i)) as u16;
                    if left_signed { i32::from(half as i16) } else { i32::from(half) }
                };
                let byte = |i: u32| {
                    let byte = (b >> (8 * (i + 2 * u32::from(high)))) as u8;
                    if right_signed { i32::from(byte as i8) } else { i32::from(byte) }
                };
                (0..2).fold(c, |sum, i| sum.wrapping_add(half(i).wrapping_mul(byte(i)) as u32))
            });
            true
        }
        _ => match inst.ty {
            Ty::S16 => arithmetic::<i16>(warp, inst, mask),
            Ty::S32 => arithmetic::<i32>(warp, inst, mask),
            Ty::S64 => arithmetic::<i64>(warp, inst, mask),
            Ty::B16 | Ty::U16 => arithmetic::<u16>(warp, inst, mask),
            Ty::B32 | Ty::U32 => arithmetic::<u32>(warp, inst, mask),
            Ty::B64 | Ty::U64 => arithmetic::<u64>(warp, inst, mask),
            _ => false,
        },
    }
}

fn wide(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// What arithmetic needs of an integer type.
trait Integer: Lane + Ord {
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// The upper half of the product.
    fn mul_high(self, other: Self) -> Self;
    /// Both halves of the product, as bits; for types of at most 32 bits.
    fn mul_wide(self, other: Self) -> u64;
    fn add_saturating(self, other: Self) -> Self;
    fn sub_saturating(self, other: Self) -> Self;
    /// Division by zero gives all ones, as the hardware's routine does.
    fn div(self, other: Self) -> Self;
    fn rem(self, other: Self) -> Self;
    fn shr(self, by: u32) -> Self;
    fn negate(self) -> Self;
    fn abs(self) -> Self;
    fn difference(self, other: Self) -> Self;
}

macro_rules! integers {
    ($($ty:ident, $wide:ty, |$v:ident| $negative:expr, $abs:expr);*) => {$(
        impl Integer for $ty {
            #[inline(always)]
            fn add(self, other: Self) -> Self { self.wrapping_add(other) }
            #[inline(always)]
            fn sub(self, other: Self) -> Self { self.wrapping_sub(other) }
            #[inline(always)]
            fn mul(self, other: Self) -> Self { self.wrapping_mul(other) }
            #[inline(always)]
            fn mul_high(self, other: Self) -> Self { ((self as $wide * other as $wide) >> $ty::BITS) as Self }
            #[inline(always)]
            fn mul_wide(self, other: Self) -> u64 { (self as $wide).wrapping_mul(other as $wide) as u64 }
            #[inline(always)]
            fn add_saturating(self, other: Self) -> Self { self.saturating_add(other) }
            #[inline(always)]
            fn sub_saturating(self, other: Self) -> Self { self.saturating_sub(other) }
            #[inline(always)]
            fn div(self, other: Self) -> Self { if other == 0 { !0 } else { self.wrapping_div(other) } }
            #[inline(always)]
            fn rem(self, other: Self) -> Self { if other == 0 { self } else { self.wrapping_rem(other) } }
            #[inline(always)]
            fn shr(self, by: u32) -> Self {
                if by < $ty::BITS { self >> by } else { let $v = self; if $negative { !0 } else { 0 } }
            }
            #[inline(always)]
            fn negate(self) -> Self { self.wrapping_neg() }
            #[inline(always)]
            fn abs(self) -> Self { let $v = self; $abs }
            #[inline(always)]
            fn difference(self, other: Self) -> Self { self.abs_diff(other) as Self }
        }
    )*};
}
integers!(
    i16, i32, |v| v < 0, v.wrapping_abs();
    i32, i64, |v| v < 0, v.wrapping_abs();
    i64, i128, |v| v < 0, v.wrapping_abs();
    u16, u32, |_v| false, _v;
    u32, u64, |_v| false, _v;
    u64, u128, |_v| false, _v
);

fn arithmetic<T: Integer>(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    match inst.op {
        Op::Add if inst.saturate => warp.binary(inst, mask, T::add_saturating),
        Op::Sub if inst.saturate => warp.binary(inst, mask, T::sub_saturating),
        Op::Add => warp.binary(inst, mask, T::add),
        Op::Sub => warp.binary(inst, mask, T::sub),
        Op::Mul(Part::Low) => warp.binary(inst, mask, T::mul),
        Op::Mul(Part::High) => warp.binary(inst, mask, T::mul_high),
        Op::Mul(Part::Wide) => warp.binary(inst, mask, T::mul_wide),
        Op::Mad(Part::Low) => warp.ternary(inst, mask, |a: T, b: T, c: T| a.mul(b).add(c)),
        Op::Mad(Part::High) if inst.saturate => {
            warp.ternary(inst, mask, |a: T, b: T, c: T| a.mul_high(b).add_saturating(c))
        }
        Op::Mad(Part::High) => warp.ternary(inst, mask, |a: T, b: T, c: T| a.mul_high(b).add(c)),
        Op::Mad(Part::Wide) => warp.ternary(inst, mask, |a: T, b: T, c: u64| a.mul_wide(b).wrapping_add(c)),
        Op::Div => divide(warp, inst, mask, T::div),
        Op::Rem => divide(warp, inst, mask, T::rem),
        Op::Min => warp.binary(inst, mask, |a: T, b: T| a.min(b)),
        Op::Max => warp.binary(inst, mask, |a: T, b: T| a.max(b)),
        Op::Neg => warp.unary(inst, mask, T::negate),
        Op::Abs => warp.unary(inst, mask, T::abs),
        Op::Sad => warp.ternary(inst, mask, |a: T, b: T, c: T| a.difference(b).add(c)),
        Op::Shr => warp.binary(inst, mask, |a: T, by: u32| a.shr(by)),
        _ => return false,
    }
    true
}

/// Division is slow on the host: only the lanes that ask for it do it.
fn divide<T: Integer>(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(T, T) -> T) {
    let (a, b) = (warp.read::<T>(inst.src[0]), warp.read::<T>(inst.src[1]));
    let mut out = [T::default(); LANES];
    for lane in lanes(mask) {
        out[lane] = f(a[lane], b[lane]);
    }
    warp.write(inst.dst, mask, &out);
}

/// Carry chains: the flag is one bit a lane.
fn carries(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    let bits = inst.ty.bytes() as u32 * 8;
    let low = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    let signed = inst.ty.is_signed();
    let (a, b, c) = (warp.read::<u64>(inst.src[0]), warp.read::<u64>(inst.src[1]), warp.read::<u64>(inst.src[2]));
    let (mut out, mut carry) = ([0u64; LANES], 0u32);
    let writes = match inst.op {
        Op::AddCarry { writes, .. } | Op::SubCarry { writes, .. } | Op::MadCarry { writes, .. } => writes,
        _ => return false,
    };
    for lane in lanes(mask) {
        let (a, b, c) = (a[lane] & low, b[lane] & low, c[lane] & low);
        let flag = u128::from(warp.carry >> lane & 1);
        let total = match inst.op {
            Op::AddCarry { reads, .. } => u128::from(a) + u128::from(b) + if reads { flag } else { 0 },
            // The flag is the borrow: set when the difference would be negative.
            Op::SubCarry { reads, .. } => {
                let take = u128::from(b) + if reads { flag } else { 0 };
                let borrow = u128::from(a) < take;
                (u128::from(a).wrapping_sub(take) & u128::from(low)) | u128::from(borrow) << bits
            }
            Op::MadCarry { part, reads, .. } => {
                let product = match (signed, bits) {
                    (true, 64) => (i128::from(a as i64) * i128::from(b as i64)) as u128,
                    (true, _) => (i64::from(a as i32) * i64::from(b as i32)) as u64 as u128,
                    (false, _) => u128::from(a) * u128::from(b),
                };
                let part = if part == Part::High { product >> bits } else { product };
                (part & u128::from(low)) + u128::from(c) + if reads { flag } else { 0 }
            }
            _ => 0,
        };
        out[lane] = total as u64 & low;
        carry |= u32::from(total >> bits & 1 != 0) << lane;
    }
    if writes {
        warp.carry = (warp.carry & !mask) | (carry & mask);
    }
    warp.write(inst.dst, mask, &out);
    true
}

fn bits32(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    let narrow = inst.ty.bytes() == 2;
    match inst.op {
        Op::And => warp.binary(inst, mask, |a: u32, b: u32| a & b),
        Op::Or => warp.binary(inst, mask, |a: u32, b: u32| a | b),
        Op::Xor => warp.binary(inst, mask, |a: u32, b: u32| a ^ b),
        Op::Not => warp.unary(inst, mask, |a: u32| !a),
        Op::Cnot if narrow => warp.unary(inst, mask, |a: u16| u32::from(a == 0)),
        Op::Cnot => warp.unary(inst, mask, |a: u32| u32::from(a == 0)),
        Op::Shl => warp.binary(inst, mask, |a: u32, by: u32| if by > 31 { 0 } else { a << by }),
        Op::Lop3(table) => warp.ternary(inst, mask, |a: u32, b: u32, c: u32| lop3(table, a, b, c)),
        _ => return false,
    }
    true
}

fn bits64(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    match inst.op {
        Op::And => warp.binary(inst, mask, |a: u64, b: u64| a & b),
        Op::Or => warp.binary(inst, mask, |a: u64, b: u64| a | b),
        Op::Xor => warp.binary(inst, mask, |a: u64, b: u64| a ^ b),
        Op::Not => warp.unary(inst, mask, |a: u64| !a),
        Op::Cnot => warp.unary(inst, mask, |a: u64| u64::from(a == 0)),
        Op::Shl => warp.binary(inst, mask, |a: u64, by: u32| if by > 63 { 0 } else { a << by }),
        _ => return false,
    }
    true
}

/// Any function of three bits, by its table of eight results.
fn lop3(table: u8, a: u32, b: u32, c: u32) -> u32 {
    let term = |bit: u32| {
        if table >> bit & 1 == 0 {
            return 0;
        }
        let pick = |value: u32, set: bool| if set { value } else { !value };
        pick(a, bit & 4 != 0) & pick(b, bit & 2 != 0) & pick(c, bit & 1 != 0)
    };
    (0..8).fold(0, |sum, bit| sum | term(bit))
}

fn fields(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    let eight = inst.ty.bytes() == 8;
    let signed = inst.ty.is_signed();
    let bits = if eight { 64u32 } else { 32 };
    match inst.op {
        Op::Popc if eight => warp.unary(inst, mask, |a: u64| a.count_ones()),
        Op::Popc => warp.unary(inst, mask, |a: u32| a.count_ones()),
        Op::Clz if eight => warp.unary(inst, mask, |a: u64| a.leading_zeros()),
        Op::Clz => warp.unary(inst, mask, |a: u32| a.leading_zeros()),
        Op::Brev if eight => warp.unary(inst, mask, |a: u64| a.reverse_bits()),
        Op::Brev => warp.unary(inst, mask, |a: u32| a.reverse_bits()),
        Op::Bfind { shift } => {
            let find = move |value: u64, negative: bool| {
                let value = if negative { !value } else { value };
                let value = if eight { value } else { value & 0xffff_ffff };
                match value.checked_ilog2() {
                    None => u32::MAX,
                    Some(bit) if shift => bits - 1 - bit,
                    Some(bit) => bit,
                }
            };
            if eight {
                warp.unary(inst, mask, |a: u64| find(a, signed && (a as i64) < 0));
            } else {
                warp.unary(inst, mask, |a: u32| find(u64::from(a), signed && (a as i32) < 0));
            }
        }
        Op::Bfe => {
            let extract = move |a: u64, at: u32, length: u32| {
                let (at, length) = (at & 255, length & 255);
                let sign_at = (at + length).saturating_sub(1).min(bits - 1);
                let fill = signed && length > 0 && a >> sign_at & 1 != 0;
                let length = length.min(64);
                let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
                let whole = if eight || !fill { a } else { a | 0xffff_ffff << 32 };
                let shifted = if at < 64 {
                    if fill { ((whole as i64) >> at) as u64 } else { whole >> at }
                } else if fill {
                    u64::MAX
                } else {
                    0
                };
                if fill { (shifted & ones) | !ones } else { shifted & ones }
            };
            if eight {
                warp.ternary(inst, mask, extract);
            } else {
                warp.ternary(inst, mask, |a: u32, at: u32, length: u32| extract(u64::from(a), at, length) as u32);
            }
        }
        Op::Bfi => {
            let (a, b) = (warp.read::<u64>(inst.src[0]), warp.read::<u64>(inst.src[1]));
            let (at, length) = (warp.read::<u32>(inst.src[2]), warp.read::<u32>(inst.src[3]));
            let mut out = [0u64; LANES];
            for lane in 0..LANES {
                let (at, length) = (at[lane] & 255, length[lane] & 255);
                let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
                let (field, value) = if at >= bits { (0, 0) } else { (ones << at, a[lane] << at) };
                out[lane] = (b[lane] & !field) | (value & field);
            }
            warp.write(inst.dst, mask, &out);
        }
        _ => return false,
    }
    true
}

/// `prmt`: each nibble of the selector picks one of eight bytes, and may spread its sign.
fn permute(mode: PermuteMode, a: u32, b: u32, c: u32) -> u32 {
    let bytes = wide(a, b).to_le_bytes();
    let low = (c & 3) as usize;
    let picks: [usize; 4] = match mode {
        PermuteMode::Index => {
            return (0..4).fold(0, |out, i| {
                let pick = c >> (4 * i);
                let byte = bytes[(pick & 7) as usize];
                let byte = if pick & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
                out | u32::from(byte) << (8 * i)
            });
        }
        PermuteMode::Forward4 => std::array::from_fn(|i| (low + i) & 7),
        PermuteMode::Backward4 => std::array::from_fn(|i| (low + 8 - i) & 7),
        PermuteMode::Replicate8 => [low; 4],
        PermuteMode::EdgeLeft => std::array::from_fn(|i| i.max(low)),
        PermuteMode::EdgeRight => std::array::from_fn(|i| i.min(low)),
        PermuteMode::Replicate16 => std::array::from_fn(|i| (low & 1) * 2 + (i & 1)),
    };
    u32::from_le_bytes(picks.map(|pick| bytes[pick]))
}

fn select(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    if inst.op == Op::Mov {
        if inst.ty.bytes() == 8 {
            warp.unary(inst, mask, |a: u64| a);
        } else {
            warp.unary(inst, mask, |a: u32| a);
        }
        return true;
    }
    let yes = warp.predicate(inst.src[2]);
    let (a, b) = (warp.read::<u64>(inst.src[0]), warp.read::<u64>(inst.src[1]));
    let mut out = [0u64; LANES];
    for lane in 0..LANES {
        out[lane] = if yes >> lane & 1 != 0 { a[lane] } else { b[lane] };
    }
    warp.write(inst.dst, mask, &out);
    true
}

fn select_sign(warp: &mut Warp, inst: &Inst, mask: u32, by: Ty) -> bool {
    let first: [bool; LANES] = if by == Ty::F32 {
        warp.read::<f32>(inst.src[2]).map(|v| v >= 0.0)
    } else {
        warp.read::<i32>(inst.src[2]).map(|v| v >= 0)
    };
    let (a, b) = (warp.read::<u64>(inst.src[0]), warp.read::<u64>(inst.src[1]));
    let mut out = [0u64; LANES];
    for lane in 0..LANES {
        out[lane] = if first[lane] { a[lane] } else { b[lane] };
    }
    warp.write(inst.dst, mask, &out);
    true
}

fn pack(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    let bits = inst.ty.bytes() * 8 / inst.list.len().max(1);
    let ones = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
    let mut out = [0u64; LANES];
    for (part, reg) in inst.list.iter().enumerate() {
        let values = warp.read::<u64>(*reg);
        for lane in 0..LANES {
            out[lane] |= (values[lane] & ones) << (part * bits);
        }
    }
    warp.write(inst.dst, mask, &out);
    true
}

fn unpack(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    let bits = inst.ty.bytes() * 8 / inst.list.len().max(1);
    let ones = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
    let values = warp.read::<u64>(inst.src[0]);
    for (part, reg) in inst.list.iter().enumerate() {
        let out = values.map(|value| value >> (part * bits) & ones);
        warp.write(*reg, mask, &out);
    }
    true
}

fn predicates(warp: &mut Warp, inst: &Inst, mask: u32) -> bool {
    let (a, b) = (warp.predicate(inst.src[0]), warp.predicate(inst.src[1]));
    let value = match inst.op {
        Op::Mov => a,
        Op::Not => !a,
        Op::And => a & b,
        Op::Or => a | b,
        Op::Xor => a ^ b,
        Op::Select => {
            let yes = warp.predicate(inst.src[2]);
            (a & yes) | (b & !yes)
        }
        _ => return false,
    };
    warp.set_predicate(inst.dst, mask, value);
    true
}

/// Lanes in which a comparison of any type holds.
fn compare_all(warp: &Warp, inst: &Inst, compare: Compare, unordered: bool) -> u32 {
    match inst.ty {
        Ty::F32 if inst.flush => {
            let flush = |v: [f32; LANES]| v.map(super::float::flushed);
            compared(flush(warp.read(inst.src[0])), flush(warp.read(inst.src[1])), compare, unordered)
        }
        Ty::F32 => pairs::<f32>(warp, inst, compare, unordered),
        Ty::F64 => pairs::<f64>(warp, inst, compare, unordered),
        Ty::F16 => pairs::<half::f16>(warp, inst, compare, unordered),
        Ty::Bf16 => pairs::<half::bf16>(warp, inst, compare, unordered),
        Ty::S16 => pairs::<i16>(warp, inst, compare, unordered),
        Ty::S32 => pairs::<i32>(warp, inst, compare, unordered),
        Ty::S64 => pairs::<i64>(warp, inst, compare, unordered),
        Ty::B16 | Ty::U16 => pairs::<u16>(warp, inst, compare, unordered),
        Ty::B64 | Ty::U64 => pairs::<u64>(warp, inst, compare, unordered),
        _ => pairs::<u32>(warp, inst, compare, unordered),
    }
}

fn pairs<T: Lane + PartialOrd>(warp: &Warp, inst: &Inst, compare: Compare, unordered: bool) -> u32 {
    compared::<T>(warp.read(inst.src[0]), warp.read(inst.src[1]), compare, unordered)
}

#[allow(clippy::eq_op, reason = "a value that is not equal to itself is not a number")]
fn compared<T: PartialOrd + Copy>(a: [T; LANES], b: [T; LANES], compare: Compare, unordered: bool) -> u32 {
    let each = |f: fn(T, T) -> bool| (0..LANES).fold(0, |m, lane| m | u32::from(f(a[lane], b[lane])) << lane);
    let nan = || each(|x, y| x != x || y != y);
    let ordered = match compare {
        Compare::Num => return !nan(),
        Compare::Nan => return nan(),
        Compare::Eq => each(|x, y| x == y),
        // Not equal, and both are numbers.
        Compare::Ne => each(|x, y| x.partial_cmp(&y).is_some_and(std::cmp::Ordering::is_ne)),
        Compare::Lt => each(|x, y| x < y),
        Compare::Le => each(|x, y| x <= y),
        Compare::Gt => each(|x, y| x > y),
        Compare::Ge => each(|x, y| x >= y),
    };
    if unordered { ordered | nan() } else { ordered }
}

/// Writes what `setp` says: the combination of the comparison with its third operand, and of its opposite.
pub fn set_predicates(warp: &mut Warp, inst: &Inst, mask: u32, yes: u32, with: Option<Logic>, negate: bool) {
    let third = warp.predicate(inst.src[2]) ^ if negate { ALL } else { 0 };
    let combine = |value: u32| match with {
        None => value,
        Some(Logic::And) => value & third,
        Some(Logic::Or) => value | third,
        Some(Logic::Xor) => value ^ third,
    };
    warp.set_predicate(inst.dst, mask, combine(yes));
    warp.set_predicate(inst.dst2, mask, combine(!yes));
}

fn write_set(warp: &mut Warp, inst: &Inst, mask: u32, yes: u32, result: Ty) {
    let one = match result {
        Ty::F32 => 1f32.to_bits(),
        Ty::F16 => u32::from(half::f16::ONE.to_bits()),
        Ty::Bf16 => u32::from(half::bf16::ONE.to_bits()),
        _ => u32::MAX,
    };
    let out: [u32; LANES] = std::array::from_fn(|lane| if yes >> lane & 1 != 0 { one } else { 0 });
    warp.write(inst.dst, mask, &out);
}
