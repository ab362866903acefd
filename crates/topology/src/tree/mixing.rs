//! Numbers that tell what looks alike, and a hasher for them.

/// Spreads the bits of a number so that sums of such numbers tell what was summed (SplitMix64's finish).
pub(crate) fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// A hasher for keys that are signatures or small numbers, where nobody can choose them to clash.
#[derive(Clone, Copy, Default)]
pub(crate) struct Mixing(u64);

pub(crate) type BuildMixing = std::hash::BuildHasherDefault<Mixing>;

impl std::hash::Hasher for Mixing {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let word = chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
            self.write_u64(word);
        }
    }
    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = mix(self.0 ^ number);
    }
    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }
}
