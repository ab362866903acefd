//! A set of GPUs of one node as a bit set: bit *p* is the GPU at position *p* of [`Node::gpus`](crate::Node::gpus).

use std::fmt;

use serde::{Deserialize, Serialize};

/// A set of GPU positions on one node. Positions are dense (0, 1, 2, …) even where NVML indices have a gap.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<u32>", into = "Vec<u32>")]
pub struct GpuSet(u64);

impl GpuSet {
    /// The most GPUs that a set, and so a node, can have.
    pub const CAPACITY: usize = 64;
    /// The empty set.
    pub const EMPTY: Self = Self(0);

    /// The set whose members are the one bits of `bits`.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The members as bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The set of positions 0 to `count − 1`; at most [`Self::CAPACITY`] of them.
    pub const fn first(count: usize) -> Self {
        if count >= Self::CAPACITY { Self(u64::MAX) } else { Self((1 << count) - 1) }
    }

    /// How many members.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is no member.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `position` is a member.
    pub const fn contains(self, position: usize) -> bool {
        position < Self::CAPACITY && self.0 >> position & 1 == 1
    }

    /// Whether every member of this set is a member of `other`.
    pub const fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Adds `position`; positions of [`Self::CAPACITY`] and above are ignored (no node has them).
    pub const fn insert(&mut self, position: usize) {
        if position < Self::CAPACITY {
            self.0 |= 1 << position;
        }
    }

    /// Takes `position` out.
    pub const fn remove(&mut self, position: usize) {
        if position < Self::CAPACITY {
            self.0 &= !(1 << position);
        }
    }

    /// Members of either.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Members of both.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Members of this one that are not in `other`.
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The lowest position.
    pub const fn lowest(self) -> Option<usize> {
        if self.0 == 0 { None } else { Some(self.0.trailing_zeros() as usize) }
    }

    /// Positions in ascending order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let position = Self(rest).lowest()?;
            rest &= rest - 1;
            Some(position)
        })
    }
}

impl FromIterator<usize> for GpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(positions: I) -> Self {
        let mut set = Self::EMPTY;
        for position in positions {
            set.insert(position);
        }
        set
    }
}

impl From<Vec<u32>> for GpuSet {
    fn from(positions: Vec<u32>) -> Self {
        positions.into_iter().map(|p| p as usize).collect()
    }
}

impl From<GpuSet> for Vec<u32> {
    fn from(set: GpuSet) -> Self {
        set.iter().map(|p| p as u32).collect()
    }
}

impl fmt::Debug for GpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// `0,1,4`; `none` when empty.
impl fmt::Display for GpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (nth, position) in self.iter().enumerate() {
            write!(f, "{}{position}", if nth == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}
