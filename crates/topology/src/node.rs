//! One machine: its GPUs and how they are wired, made from facts that may be missing or contradict each other.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Gpu, GpuSet, GpuUuid, NodeName, Path, Wire, Wiring};

/// One direction of the wire between two GPUs, as the machine reported it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Link {
    /// Where the question was asked: a place in [`NodeFacts::gpus`].
    pub from: u32,
    /// The other GPU: a place in [`NodeFacts::gpus`].
    pub to: u32,
    /// What was answered.
    pub wire: Wire,
}

/// What an agent could find out about its machine: the input of [`Node::new`] and the form in which a node is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeFacts {
    /// The Kubernetes node's name.
    pub name: String,
    /// GPUs in any order. A GPU that answers nothing at all is simply not here.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
    /// Wires, one entry per direction where both are known. Pairs may be missing.
    #[serde(default)]
    pub links: Vec<Link>,
    /// The NVLink domain outside the node that these GPUs belong to, as NVIDIA labels it: `<cluster UUID>.<clique>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvlink_domain: Option<Arc<str>>,
    /// What earlier readers of these facts already had to assume.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assumptions: Vec<Assumption>,
}

/// A gap or a contradiction in the facts, and what the model took instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind", deny_unknown_fields, expecting = "an object with `kind`")]
pub enum Assumption {
    /// No wire was reported in either direction.
    MissingLink {
        /// One GPU.
        a: GpuUuid,
        /// The other.
        b: GpuUuid,
        /// What was inferred from PCI place and NUMA node.
        used: Wire,
    },
    /// Several reports, the two directions for instance, differ; the worst was taken.
    ContradictoryLink {
        /// One GPU.
        a: GpuUuid,
        /// The other.
        b: GpuUuid,
        /// The worst that was reported.
        used: Wire,
        /// The best that was reported.
        instead_of: Wire,
    },
    /// A GPU was reported more than once; the first report was taken.
    RepeatedGpu {
        /// The GPU.
        uuid: GpuUuid,
    },
    /// A link names a GPU that is not there, or a GPU with itself; it was left out.
    DanglingLink {
        /// Its one end.
        from: u32,
        /// Its other end.
        to: u32,
    },
}

impl fmt::Display for Assumption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingLink { a, b, used } => {
                write!(f, "no link between {a} and {b} was reported; assumed {}", used.words())
            }
            Self::ContradictoryLink { a, b, used, instead_of } => write!(
                f,
                "the link between {a} and {b} was reported both as {} and as {}; assumed the worse, {}",
                instead_of.words(),
                used.words(),
                used.words()
            ),
            Self::RepeatedGpu { uuid } => write!(f, "{uuid} was reported more than once; took the first report"),
            Self::DanglingLink { from, to } => {
                write!(f, "a link between the {from}th and the {to}th GPU joins no two GPUs; left it out")
            }
        }
    }
}

/// The facts describe no machine that the model can hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// A node has at most [`GpuSet::CAPACITY`] devices.
    #[error("node {node} reports {count} GPU devices and at most 64 are supported: use larger MIG profiles")]
    TooManyGpus {
        /// The node.
        node: NodeName,
        /// Devices reported.
        count: usize,
    },
    /// GPUs were named that the node does not have.
    #[error("node {node} has no GPU {uuid}: it may have been lost or the node's facts are old")]
    UnknownGpu {
        /// The node.
        node: NodeName,
        /// The GPU.
        uuid: GpuUuid,
    },
}

/// A machine with its GPUs, in the order of their index, and their wiring.
///
/// What is free or taken is not part of it: [`choose`](fn@crate::choose) is told, and a [`Cluster`](crate::Cluster)
/// keeps count. Nodes with equal wiring share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NodeFacts", into = "NodeFacts")]
pub struct Node {
    name: NodeName,
    gpus: Box<[Gpu]>,
    wiring: Arc<Wiring>,
    nvlink_domain: Option<Arc<str>>,
    assumptions: Box<[Assumption]>,
}

impl Node {
    /// Builds the model from the facts, noting every assumption that gaps and contradictions made necessary.
    ///
    /// * A wire reported differently (by its two ends, or twice) counts as the worst report: a job is never promised a
    ///   link that may not be there.
    /// * A wire nobody reported is inferred: same PCI device ⇒ same board; NUMA nodes known ⇒ same NUMA or cross socket;
    ///   else unknown.
    ///
    /// # Errors
    /// [`NodeError::TooManyGpus`] beyond 64 devices.
    pub fn new(facts: NodeFacts) -> Result<Self, NodeError> {
        let name = NodeName::from(facts.name);
        let mut assumptions = facts.assumptions;

        // `place[i]` is where the i-th reported GPU ends up, once repeated ones are dropped and the rest is sorted.
        let mut seen = HashSet::new();
        let mut order: Vec<usize> = Vec::with_capacity(facts.gpus.len());
        for (i, gpu) in facts.gpus.iter().enumerate() {
            if seen.insert(&gpu.uuid) {
                order.push(i);
            } else {
                let repeated = Assumption::RepeatedGpu { uuid: gpu.uuid.clone() };
                if !assumptions.contains(&repeated) {
                    assumptions.push(repeated);
                }
            }
        }
        if order.len() > GpuSet::CAPACITY {
            return Err(NodeError::TooManyGpus { node: name, count: order.len() });
        }
        order.sort_by(|&a, &b| {
            let (a, b) = (&facts.gpus[a], &facts.gpus[b]);
            (a.index, &a.uuid).cmp(&(b.index, &b.uuid))
        });
        let mut place = vec![None; facts.gpus.len()];
        for (position, &i) in order.iter().enumerate() {
            place[i] = Some(position);
        }
        for (i, gpu) in facts.gpus.iter().enumerate() {
            if place[i].is_none() {
                place[i] = order.iter().position(|&kept| facts.gpus[kept].uuid == gpu.uuid);
            }
        }
        let gpus: Box<[Gpu]> = order.iter().map(|&i| facts.gpus[i].clone()).collect();
        let n = gpus.len();

        let mut worst: Vec<Option<Wire>> = vec![None; n * n];
        let mut best: Vec<Option<Wire>> = vec![None; n * n];
        for link in &facts.links {
            let end = |i: u32| place.get(i as usize).copied().flatten();
            match (end(link.from), end(link.to)) {
                (Some(a), Some(b)) if a != b => {
                    let at = a.min(b) * n + a.max(b);
                    worst[at] = Some(
                        worst[at].map_or(link.wire, |w| if link.wire.score() < w.score() { link.wire } else { w }),
                    );
                    best[at] =
                        Some(best[at].map_or(link.wire, |w| if link.wire.score() > w.score() { link.wire } else { w }));
                }
                _ => assumptions.push(Assumption::DanglingLink { from: link.from, to: link.to }),
            }
        }
        let mut wires = vec![Wire::default(); n * n];
        for a in 0..n {
            for b in a + 1..n {
                let at = a * n + b;
                let used = worst[at].unwrap_or_else(|| infer(&gpus[a], &gpus[b]));
                let (a_uuid, b_uuid) = (&gpus[a].uuid, &gpus[b].uuid);
                match best[at] {
                    None => assumptions.push(Assumption::MissingLink { a: a_uuid.clone(), b: b_uuid.clone(), used }),
                    Some(instead_of) if instead_of != used => assumptions.push(Assumption::ContradictoryLink {
                        a: a_uuid.clone(),
                        b: b_uuid.clone(),
                        used,
                        instead_of,
                    }),
                    Some(_) => {}
                }
                wires[at] = used;
                wires[b * n + a] = used;
            }
        }
        let wiring = Arc::new(Wiring::new(n, wires));
        Ok(Self { name, gpus, wiring, nvlink_domain: facts.nvlink_domain, assumptions: assumptions.into() })
    }

    /// The node's name.
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// GPUs by index; a [`GpuSet`] counts in this order.
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// The wires between each two GPUs.
    pub fn wiring(&self) -> &Arc<Wiring> {
        &self.wiring
    }

    /// The NVLink domain outside the node, `<cluster UUID>.<clique>`, if the node is part of one.
    pub fn nvlink_domain(&self) -> Option<&str> {
        self.nvlink_domain.as_deref()
    }

    /// What the model had to assume, in no order of importance.
    pub fn assumptions(&self) -> &[Assumption] {
        &self.assumptions
    }

    /// All GPUs.
    pub fn all(&self) -> GpuSet {
        GpuSet::first(self.gpus.len())
    }

    /// The GPUs on which work may be put.
    pub fn healthy(&self) -> GpuSet {
        self.positions(|gpu| gpu.health.is_healthy())
    }

    /// The GPUs for which `wanted` holds.
    pub fn positions(&self, wanted: impl Fn(&Gpu) -> bool) -> GpuSet {
        self.gpus.iter().enumerate().filter(|(_, gpu)| wanted(gpu)).map(|(position, _)| position).collect()
    }

    /// The position of a GPU.
    pub fn position(&self, uuid: &str) -> Option<usize> {
        self.gpus.iter().position(|gpu| gpu.uuid.as_str() == uuid)
    }

    /// The set of the GPUs so named.
    ///
    /// # Errors
    /// [`NodeError::UnknownGpu`] names the first that the node does not have.
    pub fn set_of<'a>(&self, uuids: impl IntoIterator<Item = &'a str>) -> Result<GpuSet, NodeError> {
        let find = |uuid: &'a str| {
            let unknown = || NodeError::UnknownGpu { node: self.name.clone(), uuid: uuid.into() };
            self.position(uuid).ok_or_else(unknown)
        };
        uuids.into_iter().map(find).collect()
    }

    /// The UUIDs of `set`, in order.
    pub fn uuids(&self, set: GpuSet) -> Vec<GpuUuid> {
        set.iter().filter_map(|position| self.gpus.get(position)).map(|gpu| gpu.uuid.clone()).collect()
    }

    /// The indices of `set` as `nvidia-smi` shows them: `0,1,4`.
    pub fn indices(&self, set: GpuSet) -> String {
        let indices: Vec<String> =
            set.iter().filter_map(|p| self.gpus.get(p)).map(|gpu| gpu.index.to_string()).collect();
        indices.join(",")
    }

    /// The same node with another GPU's health.
    ///
    /// # Errors
    /// [`NodeError::UnknownGpu`] if the node has no such GPU.
    pub fn with_health(mut self, uuid: &str, health: crate::Health) -> Result<Self, NodeError> {
        let unknown = NodeError::UnknownGpu { node: self.name.clone(), uuid: uuid.into() };
        let position = self.position(uuid).ok_or(unknown)?;
        self.gpus[position].health = health;
        Ok(self)
    }

    /// Has texts that repeat from node to node share memory with those that `shared` gives for them.
    pub(crate) fn share_texts(&mut self, mut shared: impl FnMut(&str) -> Arc<str>) {
        for gpu in &mut self.gpus {
            gpu.product = shared(&gpu.product);
            gpu.pci_bus_id = shared(&gpu.pci_bus_id);
            gpu.mig_profile = gpu.mig_profile.as_deref().map(&mut shared);
        }
        self.nvlink_domain = self.nvlink_domain.as_deref().map(&mut shared);
    }

    /// Replaces the wiring by an equal one that others share.
    pub(crate) fn share_wiring(&mut self, shared: Arc<Wiring>) {
        debug_assert_eq!(self.wiring, shared);
        self.wiring = shared;
    }
}

/// The wire between two GPUs of which nobody said anything.
fn infer(a: &Gpu, b: &Gpu) -> Wire {
    let path = match (a.numa, b.numa) {
        _ if !a.pci_bus_id.is_empty() && a.pci_bus_id == b.pci_bus_id => Path::SameBoard,
        (Some(a), Some(b)) if a == b => Path::SameNuma,
        (Some(_), Some(_)) => Path::CrossSocket,
        _ => Path::Unknown,
    };
    Wire::over(path)
}

impl TryFrom<NodeFacts> for Node {
    type Error = NodeError;

    fn try_from(facts: NodeFacts) -> Result<Self, NodeError> {
        Self::new(facts)
    }
}

impl From<Node> for NodeFacts {
    fn from(node: Node) -> Self {
        let n = node.gpus.len();
        let pairs = (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b)));
        let links = pairs.map(|(a, b)| Link { from: a as u32, to: b as u32, wire: node.wiring.wire(a, b) }).collect();
        Self {
            name: node.name.into(),
            gpus: node.gpus.into_vec(),
            links,
            nvlink_domain: node.nvlink_domain,
            assumptions: node.assumptions.into_vec(),
        }
    }
}
