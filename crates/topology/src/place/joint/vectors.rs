//! Numbers of workers by group as keys, and the best splits by them.

use crate::place::ranks::Place;

/// The most vectors that a domain can be asked about: the product of all (workers + 1).
const MOST_VECTORS: usize = 20_000;

/// Not in the table.
pub(super) const NOWHERE: u32 = u32::MAX;

/// Vectors as numbers: packed with a guard bit each, so that one subtraction tells whether any exceeds its bound; and
/// counted through.
pub(super) struct Vectors {
    shifts: Vec<u32>,
    strides: Vec<u32>,
    bounds: u64,
    guards: u64,
    /// How many there are; none if they are too many to search.
    pub(super) count: Option<usize>,
}

impl Vectors {
    pub(super) fn new(full: &[u32]) -> Self {
        let mut vectors = Self { shifts: Vec::new(), strides: Vec::new(), bounds: 0, guards: 0, count: None };
        let (mut shift, mut count) = (0u32, 1usize);
        for &most in full {
            let bits = u32::BITS - most.leading_zeros();
            let more = count.checked_mul(most as usize + 1).filter(|&count| count <= MOST_VECTORS);
            let (true, Some(more)) = (shift + bits < u64::BITS, more) else { return vectors };
            vectors.shifts.push(shift);
            vectors.strides.push(count as u32);
            vectors.bounds |= u64::from(most) << shift | 1 << (shift + bits);
            vectors.guards |= 1 << (shift + bits);
            shift += bits + 1;
            count = more;
        }
        vectors.count = Some(count);
        vectors
    }

    pub(super) fn pack(&self, counts: &[u32]) -> u64 {
        counts.iter().zip(&self.shifts).map(|(&count, &shift)| u64::from(count) << shift).sum()
    }

    pub(super) fn number(&self, counts: &[u32]) -> u32 {
        counts.iter().zip(&self.strides).map(|(&count, &stride)| count * stride).sum()
    }

    pub(super) fn unpack(&self, key: u64, counts: &mut [u32]) {
        for (at, count) in counts.iter_mut().enumerate() {
            let above = self.shifts.get(at + 1).copied().unwrap_or(u64::BITS);
            let width = above - self.shifts[at];
            let mask = if width >= u64::BITS { u64::MAX } else { (1 << width) - 1 };
            *count = (key >> self.shifts[at] & mask) as u32;
        }
    }

    pub(super) fn within_bounds(&self, key: u64) -> bool {
        (self.bounds - key) & self.guards == self.guards
    }
}

/// *f(d, ·)* of one place, for the vectors that it can hold, and how each came about.
#[derive(Default)]
pub(super) struct Table {
    pub(super) keys: Vec<u64>,
    pub(super) numbers: Vec<u32>,
    pub(super) costs: Vec<i64>,
    pub(super) parts: Vec<Part>,
}

/// A child, and for each vector up to and with it the child's share.
pub(super) struct Part {
    pub(super) place: Place,
    pub(super) table: Table,
    /// Vector and row of `table`, by vector.
    pub(super) shares: Vec<(u64, u32)>,
}

impl Table {
    pub(super) fn push(&mut self, key: u64, number: u32, cost: &[i64]) {
        self.keys.push(key);
        self.numbers.push(number);
        self.costs.extend_from_slice(cost);
    }

    pub(super) fn holds_nothing(&self) -> bool {
        self.keys == [0]
    }
}
