//! Loads, stores, atomics and address conversions, with every access checked.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use half::{bf16, f16};

use super::run::Core;
use super::warp::{LANES, Warp, lanes};
use super::{Fault, Region};
use crate::ptx::inst::{Atomic, File, Inst, Op, Ty};
use crate::ptx::syntax::Space;

/// Generic addresses of a block's shared memory begin here.
const SHARED_WINDOW: u64 = 0x00e0_0000_0000_0000;
/// Generic addresses of a thread's local memory begin here.
const LOCAL_WINDOW: u64 = 0x00e1_0000_0000_0000;
/// Generic addresses of the kernel's parameters begin here.
const PARAM_WINDOW: u64 = 0x00e2_0000_0000_0000;
const WINDOW_BYTES: u64 = 1 << 32;

/// The regions that a worker used last, so that it need not ask for each access.
#[derive(Default)]
pub struct Cache {
    regions: [Option<Region>; 4],
    next: usize,
}

/// Where an address lies in this process: `host` for `start`, and how far the same address of the next lane is.
#[derive(Clone, Copy)]
struct Place {
    host: *mut u8,
    start: u64,
    lane_bytes: usize,
}

impl Place {
    fn at(self, address: u64, lane: usize) -> *mut u8 {
        self.host.wrapping_add((address - self.start) as usize + lane * self.lane_bytes)
    }
}

/// Reads `bytes` (1, 2, 4 or 8), zero-extended.
///
/// # Safety
/// `at` must be aligned to `bytes` and lie in memory that lives, and that nothing touches but by atomics while kernels run.
unsafe fn read(at: *mut u8, bytes: usize) -> u64 {
    // SAFETY: passed on to the caller.
    unsafe {
        match bytes {
            1 => u64::from(AtomicU8::from_ptr(at).load(Relaxed)),
            2 => u64::from(AtomicU16::from_ptr(at.cast()).load(Relaxed)),
            4 => u64::from(AtomicU32::from_ptr(at.cast()).load(Relaxed)),
            _ => AtomicU64::from_ptr(at.cast()).load(Relaxed),
        }
    }
}

/// Writes the low `bytes` of `value`.
///
/// # Safety
/// As [`read`].
unsafe fn write(at: *mut u8, bytes: usize, value: u64) {
    // SAFETY: passed on to the caller.
    unsafe {
        match bytes {
            1 => AtomicU8::from_ptr(at).store(value as u8, Relaxed),
            2 => AtomicU16::from_ptr(at.cast()).store(value as u16, Relaxed),
            4 => AtomicU32::from_ptr(at.cast()).store(value as u32, Relaxed),
            _ => AtomicU64::from_ptr(at.cast()).store(value, Relaxed),
        }
    }
}

fn extend(value: u64, ty: Ty) -> u64 {
    match ty {
        Ty::S8 => value as i8 as i64 as u64,
        Ty::S16 => value as i16 as i64 as u64,
        Ty::S32 => value as i32 as i64 as u64,
        _ => value,
    }
}

impl Core<'_, '_> {
    /// The memory that holds all of `[first, last + bytes)`.
    fn place(&mut self, warp: &mut Warp, space: Space, first: u64, last: u64, bytes: u64) -> Option<Place> {
        let end = last.checked_add(bytes)?;
        let small = |host: *mut u8, start: u64, size: usize, lane_bytes: usize| {
            (first >= start && end <= start + size as u64).then_some(Place { host, start, lane_bytes })
        };
        let local_bytes = self.launch.kernel.local_bytes as usize;
        let window = if space == Space::Generic { first & !(WINDOW_BYTES - 1) } else { 0 };
        match (space, window) {
            (Space::Shared, _) | (Space::Generic, SHARED_WINDOW) => {
                small(self.shared.as_mut_ptr().cast(), window, self.shared.len() * 8, 0)
            }
            (Space::Local, _) | (Space::Generic, LOCAL_WINDOW) => {
                small(warp.local.as_mut_ptr().cast(), window, local_bytes, local_bytes)
            }
            // Nothing writes through this pointer: `store` and `atomic` refuse parameters.
            (Space::Param, _) | (Space::Generic, PARAM_WINDOW) => {
                small(self.launch.params.as_ptr().cast_mut(), window, self.launch.params.len(), 0)
            }
            _ => self.global(first, end),
        }
    }

    fn global(&mut self, first: u64, end: u64) -> Option<Place> {
        let fits = |region: &Region| first >= region.base && end <= region.end;
        let found = self.cache.regions.iter().flatten().find(|region| fits(region)).map(|r| (r.host, r.base));
        let (host, start) = match found {
            Some(found) => found,
            None => {
                let region = self.launch.memory.find(first).filter(fits)?;
                let found = (region.host, region.base);
                self.cache.regions[self.cache.next] = Some(region);
                self.cache.next = (self.cache.next + 1) % self.cache.regions.len();
                found
            }
        };
        Some(Place { host, start, lane_bytes: 0 })
    }

    /// Address of each lane.
    fn addresses(&self, warp: &Warp, inst: &Inst, space: Space) -> [u64; LANES] {
        let mut addresses = warp.read::<u64>(inst.src[0]);
        if inst.src[0].file == File::None && space == Space::Local {
            addresses = warp.frame.map(u64::from);
        }
        for address in &mut addresses {
            *address = address.wrapping_add_signed(inst.offset);
        }
        addresses
    }

    /// A place for each lane of `mask`: one for all where the accesses lie in one region, else each by itself.
    fn places(
        &mut self,
        warp: &mut Warp,
        inst: &Inst,
        mask: u32,
        space: Space,
        bytes: usize,
    ) -> Result<([u64; LANES], [*mut u8; LANES]), Fault> {
        let addresses = self.addresses(warp, inst, space);
        let (mut first, mut last, mut bits) = (u64::MAX, 0, 0);
        for lane in lanes(mask) {
            first = first.min(addresses[lane]);
            last = last.max(addresses[lane]);
            bits |= addresses[lane];
        }
        if bits & (bytes as u64 - 1) != 0 {
            let wrong = lanes(mask).map(|lane| addresses[lane]).find(|address| address & (bytes as u64 - 1) != 0);
            return Err(Fault::Misaligned { address: wrong.unwrap_or(bits), line: inst.line });
        }
        let mut out = [std::ptr::null_mut(); LANES];
        if let Some(place) = self.place(warp, space, first, last, bytes as u64) {
            for lane in lanes(mask) {
                out[lane] = place.at(addresses[lane], lane);
            }
            return Ok((addresses, out));
        }
        for lane in lanes(mask) {
            let address = addresses[lane];
            let illegal = Fault::IllegalAddress { address, line: inst.line };
            out[lane] = self.place(warp, space, address, address, bytes as u64).ok_or(illegal)?.at(address, lane);
        }
        Ok((addresses, out))
    }

    pub(super) fn load(&mut self, warp: &mut Warp, inst: &Inst, mask: u32, space: Space) -> Result<(), Fault> {
        let bytes = inst.ty.bytes();
        let (_, places) = self.places(warp, inst, mask, space, bytes * inst.list.len())?;
        for (element, reg) in inst.list.iter().enumerate() {
            let mut values = [0u64; LANES];
            for lane in lanes(mask) {
                // SAFETY: `places` checked that the whole vector is aligned and lies in memory that the cache or the block keeps.
                values[lane] = extend(unsafe { read(places[lane].add(element * bytes), bytes) }, inst.ty);
            }
            warp.write(*reg, mask, &values);
        }
        Ok(())
    }

    pub(super) fn store(&mut self, warp: &mut Warp, inst: &Inst, mask: u32, space: Space) -> Result<(), Fault> {
        let bytes = inst.ty.bytes();
        let (addresses, places) = self.places(warp, inst, mask, space, bytes * inst.list.len())?;
        refuse_parameters(&addresses, inst, mask, space)?;
        for (element, reg) in inst.list.iter().enumerate() {
            let values = warp.read::<u64>(*reg);
            for lane in lanes(mask) {
                // SAFETY: as in `load`; constants and parameters were refused above.
                unsafe { write(places[lane].add(element * bytes), bytes, values[lane]) };
            }
        }
        Ok(())
    }

    pub(super) fn atomic(
        &mut self,
        warp: &mut Warp,
        inst: &Inst,
        mask: u32,
        space: Space,
        operation: Atomic,
    ) -> Result<(), Fault> {
        let bytes = inst.ty.bytes();
        let (addresses, places) = self.places(warp, inst, mask, space, bytes)?;
        refuse_parameters(&addresses, inst, mask, space)?;
        let (a, b) = (warp.read::<u64>(inst.src[1]), warp.read::<u64>(inst.src[2]));
        let mut old = [0u64; LANES];
        for lane in lanes(mask) {
            let change = |now: u64| combine(operation, inst.ty, now, a[lane], b[lane]);
            // SAFETY: as in `store`.
            old[lane] = unsafe { update(places[lane], bytes, change) };
        }
        warp.write(inst.dst, mask, &old);
        Ok(())
    }

    /// `cp.async`: copies what is given and fills the rest with zeros.
    pub(super) fn copy_async(&mut self, warp: &mut Warp, inst: &Inst, mask: u32) -> Result<(), Fault> {
        let bytes = inst.bytes as usize;
        let given = warp.read::<u32>(inst.src[2]);
        let mut to = inst.clone();
        to.src[0] = inst.src[1];
        to.offset = 0;
        let (_, targets) = self.places(warp, &to, mask, Space::Shared, bytes)?;
        let (_, sources) = self.places(warp, inst, mask, Space::Global, bytes)?;
        for lane in lanes(mask) {
            for at in (0..bytes).step_by(4) {
                let whole = at + 4 <= given[lane] as usize;
                // SAFETY: both ends were checked for the whole copy, whose size is 4, 8 or 16 bytes.
                unsafe {
                    let value = if whole { read(sources[lane].add(at), 4) } else { 0 };
                    write(targets[lane].add(at), 4, value);
                }
            }
        }
        Ok(())
    }

    /// Conversions between generic addresses and those of a space.
    pub(super) fn address(&mut self, warp: &mut Warp, inst: &Inst, mask: u32) {
        let window = |space| match space {
            Space::Shared => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            Space::Param => PARAM_WINDOW,
            _ => 0,
        };
        match inst.op {
            Op::ToGeneric(space) => {
                let base = window(space);
                warp.unary(inst, mask, |at: u64| if base == 0 { at } else { (at & (WINDOW_BYTES - 1)) | base });
            }
            Op::FromGeneric(space) => {
                let base = window(space);
                warp.unary(inst, mask, |at: u64| if base == 0 { at } else { at.wrapping_sub(base) });
            }
            Op::IsSpace(space) => {
                let base = window(space);
                let known = [SHARED_WINDOW, LOCAL_WINDOW, PARAM_WINDOW];
                warp.unary(inst, mask, |at: u64| {
                    let at = at & !(WINDOW_BYTES - 1);
                    u32::from(if base == 0 { !known.contains(&at) } else { at == base })
                });
            }
            _ => {
                let mut out = warp.frame.map(u64::from);
                for at in &mut out {
                    *at = at.wrapping_add_signed(inst.offset);
                }
                warp.write(inst.dst, mask, &out);
            }
        }
    }

    /// Bytes at a generic address as far as they are readable, for messages; ends at a zero byte.
    pub(super) fn text(&mut self, warp: &mut Warp, mut address: u64, lane: usize) -> String {
        let mut bytes = Vec::new();
        while let Some(place) = self.place(warp, Space::Generic, address, address, 1) {
            // SAFETY: `place` checked this one byte.
            match unsafe { read(place.at(address, lane), 1) } {
                0 => break,
                byte => bytes.push(byte as u8),
            }
            address += 1;
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A value at a generic address.
    pub(super) fn peek(&mut self, warp: &mut Warp, address: u64, lane: usize, bytes: usize) -> Option<u64> {
        let place = self.place(warp, Space::Generic, address, address, bytes as u64)?;
        // SAFETY: `place` checked the range; alignment is checked here.
        address.is_multiple_of(bytes as u64).then(|| unsafe { read(place.at(address, lane), bytes) })
    }

    /// A value in the lane's own frame.
    pub(super) fn frame_value(&mut self, warp: &mut Warp, slot: (u32, u32), lane: usize) -> u64 {
        let address = LOCAL_WINDOW + u64::from(warp.frame[lane] + slot.0);
        self.peek(warp, address, lane, slot.1.clamp(1, 8) as usize).unwrap_or(0)
    }

    /// Stores into the lane's own frame.
    pub(super) fn set_frame_value(&mut self, warp: &mut Warp, slot: (u32, u32), lane: usize, value: u64) {
        let address = u64::from(warp.frame[lane] + slot.0);
        let bytes = slot.1.clamp(1, 8) as usize;
        if let Some(place) = self.place(warp, Space::Local, address, address, bytes as u64) {
            // SAFETY: `place` checked the range, and slots are aligned to their size.
            unsafe { write(place.at(address, lane), bytes, value) };
        }
    }
}

fn refuse_parameters(addresses: &[u64; LANES], inst: &Inst, mask: u32, space: Space) -> Result<(), Fault> {
    let refused = |address: u64| match space {
        Space::Param | Space::Const => true,
        Space::Generic => address & !(WINDOW_BYTES - 1) == PARAM_WINDOW,
        _ => false,
    };
    match lanes(mask).map(|lane| addresses[lane]).find(|address| refused(*address)) {
        Some(address) => Err(Fault::IllegalAddress { address, line: inst.line }),
        None => Ok(()),
    }
}

/// Applies `change` atomically; returns what was there.
///
/// # Safety
/// As [`read`].
unsafe fn update(at: *mut u8, bytes: usize, change: impl Fn(u64) -> u64) -> u64 {
    macro_rules! update {
        ($atomic:ty, $ty:ty) => {{
            // SAFETY: passed on to the caller.
            let cell = unsafe { <$atomic>::from_ptr(at.cast()) };
            let mut old = cell.load(Relaxed);
            // One total order over everything that kernels exchange by atomics: stronger than PTX asks, and simple.
            while let Err(now) = cell.compare_exchange_weak(
                old,
                change(u64::from(old)) as $ty,
                std::sync::atomic::Ordering::SeqCst,
                Relaxed,
            ) {
                old = now;
            }
            u64::from(old)
        }};
    }
    match bytes {
        1 => update!(AtomicU8, u8),
        2 => update!(AtomicU16, u16),
        4 => update!(AtomicU32, u32),
        _ => update!(AtomicU64, u64),
    }
}

fn combine(operation: Atomic, ty: Ty, now: u64, a: u64, b: u64) -> u64 {
    let pairs = |f: fn(u16, u16) -> u16| {
        let low = f(now as u16, a as u16);
        let high = f((now >> 16) as u16, (a >> 16) as u16);
        u64::from(low) | u64::from(high) << 16
    };
    let add_f16 = |x, y| (f16::from_bits(x) + f16::from_bits(y)).to_bits();
    let add_bf16 = |x, y| (bf16::from_bits(x) + bf16::from_bits(y)).to_bits();
    let mask = if ty.bytes() == 8 { u64::MAX } else { (1 << (ty.bytes() * 8)) - 1 };
    let a = a & mask;
    match (operation, ty) {
        (Atomic::Add, Ty::F32) => u64::from((f32::from_bits(now as u32) + f32::from_bits(a as u32)).to_bits()),
        (Atomic::Add, Ty::F64) => (f64::from_bits(now) + f64::from_bits(a)).to_bits(),
        (Atomic::Add, Ty::F16) => u64::from(add_f16(now as u16, a as u16)),
        (Atomic::Add, Ty::Bf16) => u64::from(add_bf16(now as u16, a as u16)),
        (Atomic::Add, Ty::F16x2) => pairs(add_f16),
        (Atomic::Add, Ty::Bf16x2) => pairs(add_bf16),
        (Atomic::Add, _) => now.wrapping_add(a) & mask,
        (Atomic::Min, Ty::S32) => (now as i32).min(a as i32) as u32 as u64,
        (Atomic::Max, Ty::S32) => (now as i32).max(a as i32) as u32 as u64,
        (Atomic::Min, Ty::S64) => (now as i64).min(a as i64) as u64,
        (Atomic::Max, Ty::S64) => (now as i64).max(a as i64) as u64,
        (Atomic::Min, _) => now.min(a),
        (Atomic::Max, _) => now.max(a),
        (Atomic::And, _) => now & a,
        (Atomic::Or, _) => now | a,
        (Atomic::Xor, _) => now ^ a,
        (Atomic::Exchange, _) => a,
        (Atomic::CompareSwap, _) => {
            if now == a {
                b & mask
            } else {
                now
            }
        }
        (Atomic::Increment, _) => {
            if now >= a {
                0
            } else {
                now + 1
            }
        }
        (Atomic::Decrement, _) => {
            if now == 0 || now > a {
                a
            } else {
                now - 1
            }
        }
    }
}
