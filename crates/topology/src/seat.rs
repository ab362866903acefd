//! A node in the cluster, with what follows from the claims on it.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::cluster::Claims;
use crate::tree::mix;
use crate::{DomainName, GpuSet, Member, NodeName, Resources, Standing};

/// A node, its place in the levels and what of it is left.
#[derive(Clone, Debug, PartialEq)]
pub struct Seat {
    /// The node. Its labels are not kept here: `path` says what they said, and
    /// [`Cluster::member`](crate::Cluster::member) gives both.
    pub member: Member,
    /// Its domain at each level above the node, outermost first; none where the label is missing.
    pub path: Box<[Option<DomainName>]>,
    /// GPUs that pods hold.
    pub taken: GpuSet,
    /// GPUs planned for pods and not yet held.
    pub planned: GpuSet,
    /// GPUs that pods hold without it being known which.
    pub unidentified: u32,
    /// What is left beside GPUs.
    pub spare: Resources,
    /// GPUs on which work may be put.
    pub(crate) healthy: GpuSet,
    /// Whole GPUs, as against MIG devices.
    pub(crate) whole: GpuSet,
    /// Healthy GPUs that nobody is known to hold or plan.
    free: GpuSet,
    /// How many whole GPUs can still be given away to new work.
    free_whole: u32,
    /// What the hardware adds to the signature.
    hardware: u64,
    /// Equal for nodes on which every gang finds the same.
    pub(crate) signature: u64,
}

impl Seat {
    pub(crate) fn new(member: Member, path: Box<[Option<DomainName>]>, claims: Option<&Claims>) -> Self {
        let (taken, planned, spare) = (GpuSet::EMPTY, GpuSet::EMPTY, Resources::new());
        let whole = member.node.positions(|gpu| gpu.mig_profile.is_none());
        let mut hasher = DefaultHasher::new();
        member.node.wiring().hash(&mut hasher);
        member.node.nvlink_domain().is_some().hash(&mut hasher);
        for gpu in member.node.gpus() {
            (&gpu.product, &gpu.mig_profile).hash(&mut hasher);
        }
        let hardware = hasher.finish();
        let healthy = member.node.healthy();
        let mut seat = Self {
            member,
            path,
            taken,
            planned,
            unidentified: 0,
            spare,
            healthy,
            whole,
            free: GpuSet::EMPTY,
            free_whole: 0,
            hardware,
            signature: 0,
        };
        seat.count(claims);
        seat
    }

    /// The node's name.
    pub fn name(&self) -> &NodeName {
        self.member.node.name()
    }

    /// Healthy GPUs that nobody is known to hold or plan.
    pub fn free(&self) -> GpuSet {
        self.free
    }

    /// How many GPUs can still be given away: the free ones less those held without it being known which.
    pub fn free_count(&self) -> u32 {
        (self.free.len() as u32).saturating_sub(self.unidentified)
    }

    /// How many whole GPUs can still be given away to new work.
    pub(crate) fn free_whole(&self) -> u32 {
        self.free_whole
    }

    /// Room for workers of so many whole GPUs each that ask for nothing else.
    pub(crate) fn room(&self, gpus: u32) -> u32 {
        self.free_whole() / gpus.max(1)
    }

    /// Whether nobody holds or plans a GPU here.
    pub fn is_idle(&self) -> bool {
        self.taken.is_empty() && self.planned.is_empty() && self.unidentified == 0
    }

    pub(crate) fn count(&mut self, claims: Option<&Claims>) {
        self.taken = GpuSet::EMPTY;
        self.planned = GpuSet::EMPTY;
        self.unidentified = 0;
        self.spare = self.member.allocatable.clone();
        for (_, claim) in claims.into_iter().flat_map(Claims::iter) {
            // A GPU that the node no longer has is not there to be counted.
            let gpus: GpuSet = claim.gpus.iter().filter_map(|uuid| self.member.node.position(uuid.as_str())).collect();
            if claim.planned {
                self.planned = self.planned.union(gpus);
            } else {
                self.taken = self.taken.union(gpus);
            }
            self.unidentified = self.unidentified.saturating_add(claim.unidentified_gpus);
            self.spare.subtract(&claim.resources);
        }
        self.planned = self.planned.difference(self.taken);
        self.free = self.healthy.difference(self.taken).difference(self.planned);
        self.free_whole = match self.member.standing {
            Standing::Ready => (self.free.intersection(self.whole).len() as u32).saturating_sub(self.unidentified),
            Standing::NotReady | Standing::Cordoned => 0,
        };
        let state = u64::from(self.unidentified) << 2 | u64::from(self.is_idle()) << 1;
        let state = state | u64::from(self.member.standing == Standing::Ready);
        self.signature = mix(self.hardware ^ mix(self.free().bits() ^ mix(state)));
    }
}
