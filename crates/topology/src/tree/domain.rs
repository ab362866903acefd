//! One domain, with what is known of all below it.

use std::sync::Arc;

use crate::stock::Stocks;
use crate::{DomainName, NodeName};

/// One domain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Domain {
    pub(crate) key: Key,
    pub(crate) parent: u32,
    /// Level of this domain, 0 for the outermost; the root has none.
    pub(crate) depth: Option<usize>,
    /// Domains one level below, by key; empty at the innermost level.
    pub(crate) children: Vec<u32>,
    /// Nodes by name; only at the innermost level.
    pub(crate) seats: Vec<u32>,
    /// Whole GPUs that each of these nodes has for new work, so that those without need not be looked up.
    pub(crate) whole: Vec<u8>,
    /// Nodes below.
    pub(crate) nodes: u32,
    /// GPUs below that can be given away.
    pub(crate) free: u32,
    /// Nodes below of which a GPU is held or planned.
    pub(crate) busy: u32,
    /// Nodes below that are part of an NVLink domain of several nodes.
    pub(crate) nvlinked: u32,
    /// How many nodes below have so many whole GPUs for new work, by that number; not longer than needed.
    pub(crate) by_free: Vec<u32>,
    /// How many nodes below there are of each kind of stock.
    pub(crate) stocks: Stocks,
    /// Products of GPUs, and how many nodes below have some.
    pub(crate) products: Vec<(Arc<str>, u32)>,
    /// Room for workers of one, two, … whole GPUs each, as [`Self::room`] says it.
    pub(super) rooms: [u32; SUMMED],
    /// For nodes of one, two, … free whole GPUs, where they are tightest, as [`Self::tightest`] says it.
    pub(super) tight: Vec<Tight>,
    /// For workers of one, two, … whole GPUs, the most room of one domain, as [`Self::roomiest`] says it.
    pub(super) roomy: Vec<Roomy>,
    /// Sum over what is right below, so equal for domains that hold the same in any order. (Different ones are equal with a
    /// chance of 2⁻⁶⁴.)
    pub(crate) signature: u64,
}

/// Sizes of workers for which each domain keeps the sum of the room: those that machines of eight GPUs can take.
pub(super) const SUMMED: usize = 8;

/// Levels between a domain and its nodes for which it knows where nodes are tightest; of more the innermost.
pub(super) const LEVELS: usize = 4;

/// The least free GPUs of the domains that hold a node, from the innermost outwards, compared in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tight {
    pub(super) free: [u32; LEVELS],
    /// The domain right below that this is of.
    pub(super) child: u32,
}

impl Tight {
    pub(super) const NOWHERE: Self = Self { free: [u32::MAX; LEVELS], child: u32::MAX };
}

/// The most room in one of the domains below, by level, the innermost first, and the domain right below that it is in.
pub(super) type Roomy = [(u32, u32); LEVELS];

impl Domain {
    /// The most room for workers of so many whole GPUs in one domain below, `between` levels above the innermost; none where
    /// that is not known.
    pub(crate) fn roomiest(&self, gpus: u32, between: usize) -> Option<u32> {
        Some(self.roomy.get((gpus as usize).checked_sub(1)?)?.get(between)?.0)
    }

    /// Of the nodes below with just so many free whole GPUs, the one whose domains have the least free GPUs: those of each
    /// level in between, the innermost first. None where that is not known.
    pub(crate) fn tightest(&self, free: u32) -> Option<&[u32]> {
        let tight = self.tight.get((free as usize).checked_sub(1)?)?;
        Some(tight.free.as_slice()).filter(|_| tight.child != u32::MAX)
    }

    /// Whether it holds nodes of an NVLink domain, and nodes only: the rack of an NVL72, or its part of a larger one.
    pub(crate) fn is_nvlink(&self) -> bool {
        self.nvlinked > 0 && self.children.is_empty()
    }

    /// Room for workers of so many whole GPUs each that ask for nothing else.
    pub(crate) fn room(&self, gpus: u32) -> u32 {
        let gpus = gpus.max(1);
        if let Some(&room) = self.rooms.get(gpus as usize - 1) {
            return room;
        }
        let from = self.by_free.iter().enumerate().skip(gpus as usize);
        from.map(|(free, &nodes)| nodes.saturating_mul(free as u32 / gpus)).fold(0, u32::saturating_add)
    }
}

/// What tells a domain from its siblings.
///
/// Nodes whose label is missing share a domain if they have a label further in: a cluster without zone labels has one
/// unnamed zone with its racks. A node without any further label is alone: nothing says that it is near another.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) name: Option<DomainName>,
    pub(super) alone: Option<NodeName>,
}
