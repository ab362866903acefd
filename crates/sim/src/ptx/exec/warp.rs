//! The state of a warp, and reading and writing its registers as arrays of 32 lanes.

use half::{bf16, f16};

use crate::ptx::inst::{File, Inst, Reg};
use crate::ptx::lower::Special;
use crate::ptx::module::Kernel;

/// Lanes in a warp.
pub const LANES: usize = 32;
/// Every lane.
pub const ALL: u32 = u32::MAX;

/// Lanes of a mask, lowest first.
pub fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let lane = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            lane
        })
    })
}

/// Where a call returns to.
#[derive(Clone, Debug, Default)]
pub struct Return {
    /// The call instruction.
    pub call: u32,
    pub callee: u32,
    /// The caller's frame.
    pub frame: u32,
    /// Registers of a recursive callee as they were: predicates and words, then wides.
    pub words: Vec<u32>,
    pub wides: Vec<u64>,
}

/// 32 threads that run in step.
pub struct Warp {
    pub pred: Vec<u32>,
    pub word: Vec<[u32; LANES]>,
    pub wide: Vec<[u64; LANES]>,
    /// Carry flag of each lane.
    pub carry: u32,
    pub pc: [u32; LANES],
    /// Lanes that have not exited.
    pub live: u32,
    /// Lanes that wait at a barrier of the block; their pc is that of the barrier.
    pub at_barrier: u32,
    /// Lanes that wait for others of this warp; their pc is that of the instruction.
    pub at_sync: u32,
    /// Offset of each lane's frame in its local memory.
    pub frame: [u32; LANES],
    pub calls: Vec<Vec<Return>>,
    /// Local memory, `local_bytes` a lane.
    pub local: Vec<u64>,
    /// When each lane last ran, in picks.
    pub last_run: [u64; LANES],
    pub picks: u64,
    /// Whether the lanes that waited longest run next, rather than those furthest behind.
    pub oldest_next: bool,
    /// Lanes that exist.
    pub members: u32,
}

impl Warp {
    /// Warp `index` of a block of `threads` threads.
    pub fn new(kernel: &Kernel, index: u32, threads: u32) -> Self {
        let left = threads - index * LANES as u32;
        let mut warp = Self {
            pred: vec![0; kernel.counts[0] as usize],
            word: vec![[0; LANES]; kernel.counts[1] as usize],
            wide: vec![[0; LANES]; kernel.counts[2] as usize],
            carry: 0,
            pc: [0; LANES],
            live: 0,
            at_barrier: 0,
            at_sync: 0,
            frame: [0; LANES],
            calls: vec![Vec::new(); LANES],
            local: vec![0; kernel.local_bytes as usize / 8 * LANES],
            last_run: [0; LANES],
            picks: 0,
            oldest_next: false,
            members: if left >= LANES as u32 { ALL } else { (1 << left) - 1 },
        };
        for (reg, value) in &kernel.constants {
            match reg.file {
                File::Pred => warp.pred[reg.index as usize] = if *value == 0 { 0 } else { ALL },
                File::Word => warp.word[reg.index as usize] = [*value as u32; LANES],
                File::Wide => warp.wide[reg.index as usize] = [*value; LANES],
                File::None => {}
            }
        }
        warp
    }

    /// Sets the special registers by `value(special, lane)`.
    pub fn set_specials(&mut self, kernel: &Kernel, value: impl Fn(Special, u32) -> u32) {
        for (reg, special) in &kernel.specials {
            for (lane, slot) in self.word[reg.index as usize].iter_mut().enumerate() {
                *slot = value(*special, lane as u32);
            }
        }
    }

    /// Makes every thread start at the kernel's first instruction.
    pub fn restart(&mut self) {
        self.pc = [0; LANES];
        self.live = self.members;
        self.at_barrier = 0;
        self.at_sync = 0;
        self.frame = [0; LANES];
        self.oldest_next = false;
        for calls in &mut self.calls {
            calls.clear();
        }
    }

    /// Lanes that can run now.
    pub fn runnable(&self) -> u32 {
        self.live & !self.at_barrier & !self.at_sync
    }

    /// Lanes of `mask` in which the instruction's guard holds.
    #[inline(always)]
    pub fn guarded(&self, inst: &Inst, mask: u32) -> u32 {
        match inst.guard {
            None => mask,
            Some((index, negated)) => {
                let value = self.pred[index as usize];
                mask & if negated { !value } else { value }
            }
        }
    }

    /// A predicate register as a mask of lanes.
    pub fn predicate(&self, reg: Reg) -> u32 {
        match reg.file {
            File::Pred => self.pred[reg.index as usize],
            _ => 0,
        }
    }

    /// Writes a predicate register in the lanes of `mask`.
    pub fn set_predicate(&mut self, reg: Reg, mask: u32, value: u32) {
        if reg.file == File::Pred {
            let slot = &mut self.pred[reg.index as usize];
            *slot = (*slot & !mask) | (value & mask);
        }
    }

    /// Reads a register in all lanes.
    #[inline(always)]
    pub fn read<T: Lane>(&self, reg: Reg) -> [T; LANES] {
        let mut out = [T::default(); LANES];
        match reg.file {
            File::Word => {
                let row = &self.word[reg.index as usize];
                for lane in 0..LANES {
                    out[lane] = T::from_word(row[lane]);
                }
            }
            File::Wide => {
                let row = &self.wide[reg.index as usize];
                for lane in 0..LANES {
                    out[lane] = T::from_wide(row[lane]);
                }
            }
            File::Pred => {
                let mask = self.pred[reg.index as usize];
                for (lane, slot) in out.iter_mut().enumerate() {
                    *slot = T::from_word(mask >> lane & 1);
                }
            }
            File::None => {}
        }
        out
    }

    /// One lane of a register, as bits.
    pub fn value(&self, reg: Reg, lane: usize) -> u64 {
        match reg.file {
            File::Word => u64::from(self.word[reg.index as usize][lane]),
            File::Wide => self.wide[reg.index as usize][lane],
            File::Pred => u64::from(self.pred[reg.index as usize] >> lane & 1),
            File::None => 0,
        }
    }

    /// Writes a register in the lanes of `mask`; a register wider than the type is filled by its sign.
    #[inline(always)]
    pub fn write<T: Lane>(&mut self, reg: Reg, mask: u32, values: &[T; LANES]) {
        match reg.file {
            File::Word => {
                let row = &mut self.word[reg.index as usize];
                for lane in 0..LANES {
                    row[lane] = if mask >> lane & 1 != 0 { values[lane].word() } else { row[lane] };
                }
            }
            File::Wide => {
                let row = &mut self.wide[reg.index as usize];
                for lane in 0..LANES {
                    row[lane] = if mask >> lane & 1 != 0 { values[lane].wide() } else { row[lane] };
                }
            }
            File::Pred => {
                let mut bits = 0;
                for (lane, value) in values.iter().enumerate() {
                    bits |= u32::from(value.word() != 0) << lane;
                }
                self.set_predicate(reg, mask, bits);
            }
            File::None => {}
        }
    }

    /// `dst = f(a)` in the lanes of `mask`.
    #[inline(always)]
    pub fn unary<T: Lane, R: Lane>(&mut self, inst: &Inst, mask: u32, f: impl Fn(T) -> R) {
        let a = self.read::<T>(inst.src[0]);
        let mut out = [R::default(); LANES];
        for lane in 0..LANES {
            out[lane] = f(a[lane]);
        }
        self.write(inst.dst, mask, &out);
    }

    /// `dst = f(a, b)` in the lanes of `mask`.
    #[inline(always)]
    pub fn binary<T: Lane, U: Lane, R: Lane>(&mut self, inst: &Inst, mask: u32, f: impl Fn(T, U) -> R) {
        let (a, b) = (self.read::<T>(inst.src[0]), self.read::<U>(inst.src[1]));
        let mut out = [R::default(); LANES];
        for lane in 0..LANES {
            out[lane] = f(a[lane], b[lane]);
        }
        self.write(inst.dst, mask, &out);
    }

    /// `dst = f(a, b, c)` in the lanes of `mask`.
    #[inline(always)]
    pub fn ternary<T: Lane, U: Lane, V: Lane, R: Lane>(&mut self, inst: &Inst, mask: u32, f: impl Fn(T, U, V) -> R) {
        let (a, b, c) = (self.read::<T>(inst.src[0]), self.read::<U>(inst.src[1]), self.read::<V>(inst.src[2]));
        let mut out = [R::default(); LANES];
        for lane in 0..LANES {
            out[lane] = f(a[lane], b[lane], c[lane]);
        }
        self.write(inst.dst, mask, &out);
    }
}

/// A type as it lies in a register.
pub trait Lane: Copy + Default {
    fn from_word(bits: u32) -> Self;
    fn from_wide(bits: u64) -> Self;
    fn word(self) -> u32;
    fn wide(self) -> u64;
}

macro_rules! integer_lanes {
    ($($ty:ty => $wide:ty),*) => {$(
        impl Lane for $ty {
            #[inline(always)]
            fn from_word(bits: u32) -> Self { bits as $ty }
            #[inline(always)]
            fn from_wide(bits: u64) -> Self { bits as $ty }
            #[inline(always)]
            fn word(self) -> u32 { self as u32 }
            #[inline(always)]
            fn wide(self) -> u64 { self as $wide as u64 }
        }
    )*};
}
integer_lanes!(u8 => u64, u16 => u64, u32 => u64, u64 => u64, i8 => i64, i16 => i64, i32 => i64, i64 => i64);

macro_rules! float_lanes {
    ($($ty:ty, $bits:ty);*) => {$(
        impl Lane for $ty {
            #[inline(always)]
            fn from_word(bits: u32) -> Self { <$ty>::from_bits(bits as $bits) }
            #[inline(always)]
            fn from_wide(bits: u64) -> Self { <$ty>::from_bits(bits as $bits) }
            #[inline(always)]
            fn word(self) -> u32 { self.to_bits() as u32 }
            #[inline(always)]
            fn wide(self) -> u64 { self.to_bits() as u64 }
        }
    )*};
}
float_lanes!(f32, u32; f64, u64; f16, u16; bf16, u16);
