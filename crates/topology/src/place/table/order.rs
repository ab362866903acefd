//! The order of the tree as numbers: of two places the one that comes first has the smaller number.

use crate::tree::Tree;

/// Bits of a level where the tree has few levels: no domain has a million children.
const BITS: u32 = 20;

/// How the nth child on each level comes into the number of a place, the root's places first.
pub(in crate::place) enum Order {
    /// The same for each level.
    Few,
    /// As many bits for each as the domain with the most children needs.
    Many(Vec<u32>),
}

impl Order {
    /// For a tree with so many levels, the node level included.
    pub(in crate::place) fn of(tree: &Tree, levels: usize) -> Self {
        if (levels as u32 + 1) * BITS <= u128::BITS {
            return Self::Few;
        }
        // What the search begins with is all places of a level at most.
        let mut most = vec![1; levels + 1];
        most[0] = tree.domain_bound().max(tree.seat_bound());
        for domain in (0..tree.domain_bound()).map(|id| tree.domain(id as u32)) {
            let below = &mut most[domain.depth.map_or(1, |depth| depth + 2)];
            *below = domain.children.len().max(domain.seats.len()).max(*below);
        }
        Self::Many(most.into_iter().map(|most| usize::BITS - most.leading_zeros()).collect())
    }

    /// How far a level's number is shifted, and its bits. Where all are more than there are, which takes 2¹²⁸ places, the
    /// innermost share the last ones.
    fn at(&self, level: usize) -> (u32, u32) {
        let (above, bits) = match self {
            Self::Few => (level as u32 * BITS, BITS),
            Self::Many(bits) => (bits[..level].iter().sum(), bits[level]),
        };
        (u128::BITS.saturating_sub(above + bits), bits)
    }

    /// The number of the nth child of a place, which is of this level.
    pub(in crate::place) fn ranked(&self, parent: u128, level: usize, nth: usize) -> u128 {
        parent | (nth as u128) << self.at(level).0
    }

    /// The number of the nth child of the domain that a place of this level is in.
    pub(in crate::place) fn beside(&self, place: u128, level: usize, nth: usize) -> u128 {
        let (shift, bits) = self.at(level);
        self.ranked(place & !(((1 << bits) - 1) << shift), level, nth)
    }
}
