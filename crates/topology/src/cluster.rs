//! All machines, the levels above them and who holds what: kept up to date event by event.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::shared::Shared;
use crate::tree::Tree;
use crate::trie::Trie;
use crate::{GpuUuid, Level, Node, NodeName, Owner, Resources, Seat};

/// One level above the node: its name in jobs and the node label whose value says which domain a node is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LevelLabel {
    /// As people write it: `rack`.
    pub name: Level,
    /// The node label: `topology.weft.dev/rack`.
    pub label: String,
}

impl LevelLabel {
    /// A level by name and node label.
    pub fn new(name: &str, label: &str) -> Self {
        Self { name: name.into(), label: label.to_owned() }
    }
}

/// Whether new work may be put on a node at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state", deny_unknown_fields, expecting = "an object with `state`")]
pub enum Standing {
    /// It may.
    #[default]
    Ready,
    /// The node does not answer, or says that it is not ready.
    NotReady,
    /// Marked unschedulable: running work stays, new work goes elsewhere.
    Cordoned,
}

/// A node as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Member {
    /// Its GPUs and wires; without GPUs for a node that has none.
    pub node: Node,
    /// Its labels; only those of levels are looked at.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether new work may be put on it.
    #[serde(default)]
    pub standing: Standing,
    /// What it offers beside GPUs. A resource that a group asks for and that is not mentioned here is not there.
    #[serde(default)]
    pub allocatable: Resources,
}

/// What one pod holds, or is to hold, on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Claim {
    /// The GPUs, where it is known which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuUuid>,
    /// GPUs of which only the number is known: another scheduler bound the pod and kubelet has not yet told which.
    #[serde(default)]
    pub unidentified_gpus: u32,
    /// What it asks for beside GPUs.
    #[serde(default)]
    pub resources: Resources,
    /// Whether this is only a plan, not yet allocated.
    #[serde(default)]
    pub planned: bool,
}

/// The levels make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelsError {
    /// Two levels with one name or one label.
    #[error("level {0} is there twice (by name or by label {1:?}): name each level and label once")]
    Repeated(Level, String),
    /// The node level is always there.
    #[error("level host is always the last and must not be given")]
    Host,
}

/// What is claimed on one node, by owner. A list, for a node has few claims and a cluster has many nodes: a map would take
/// 280 bytes for the first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims(Box<[(Owner, Claim)]>);

impl Claims {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Owner, &Claim)> {
        self.0.iter().map(|(owner, claim)| (owner, claim))
    }

    fn get(&self, owner: &Owner) -> Option<&Claim> {
        self.position(owner).ok().map(|at| &self.0[at].1)
    }

    fn insert(&mut self, owner: Owner, claim: Claim) {
        match self.position(&owner) {
            Ok(at) => self.0[at].1 = claim,
            Err(at) => self.change(|all| all.insert(at, (owner, claim))),
        }
    }

    fn remove(&mut self, owner: &Owner) {
        if let Ok(at) = self.position(owner) {
            self.change(|all| drop(all.remove(at)));
        }
    }

    fn position(&self, owner: &Owner) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.cmp(owner))
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<(Owner, Claim)>)) {
        let mut all = std::mem::take(&mut self.0).into_vec();
        all.reserve_exact(1);
        change(&mut all);
        self.0 = all.into();
    }
}

/// The cluster: a tree of domains with nodes as leaves, and the claims on each node.
///
/// Changes are single events and cost time in proportion to the depth of the tree and the claims on one node. A clone is
/// a snapshot for what-if questions: both share all that neither changes, so it costs nothing, and an event after it copies
/// a few kilobytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "ClusterState", into = "ClusterState")]
pub struct Cluster {
    levels: Arc<[LevelLabel]>,
    tree: Tree,
    /// Every claim, also of nodes that are not (or no longer) there: pods and nodes are told of in any order.
    claims: Trie<Owner, NodeName>,
    by_node: Trie<NodeName, Arc<Claims>>,
    shared: Shared,
}

impl Cluster {
    /// An empty cluster. `levels` are those above the node, outermost first.
    ///
    /// # Errors
    /// [`LevelsError`] if a name or label is there twice, or `host` is given.
    pub fn new(levels: Vec<LevelLabel>) -> Result<Self, LevelsError> {
        for (i, level) in levels.iter().enumerate() {
            if level.name.is_host() {
                return Err(LevelsError::Host);
            }
            if levels[..i].iter().any(|l| l.name == level.name || l.label == level.label) {
                return Err(LevelsError::Repeated(level.name.clone(), level.label.clone()));
            }
        }
        let tree = Tree::new(levels.len());
        Ok(Self { levels: levels.into(), tree, claims: Trie::new(), by_node: Trie::new(), shared: Shared::default() })
    }

    /// The levels above the node, outermost first.
    pub fn levels(&self) -> &[LevelLabel] {
        &self.levels
    }

    /// How deep a level lies: 0 for the outermost, the number of [`Self::levels`] for [`Level::host`]; none if there is
    /// no such level.
    pub fn depth(&self, level: &Level) -> Option<usize> {
        if level.is_host() { Some(self.levels.len()) } else { self.levels.iter().position(|l| l.name == *level) }
    }

    /// Adds a node or replaces what is known of it: facts, labels, standing. Claims on it stay.
    ///
    /// Of the labels only those of levels are kept, as [`Seat::path`].
    pub fn upsert(&mut self, mut member: Member) {
        self.shared.share(&mut member);
        let labels = std::mem::take(&mut member.labels);
        let value = |level: &LevelLabel| labels.get(&level.label).filter(|value| !value.is_empty());
        let path = self.levels.iter().map(|level| value(level).map(|value| self.shared.text(value).into())).collect();
        let claims = self.by_node.get(member.node.name()).map(Arc::as_ref);
        self.tree.insert(Seat::new(member, path, claims));
    }

    /// Takes a node out; claims on it are remembered, in case it comes back. False if there was none.
    pub fn remove(&mut self, node: &NodeName) -> bool {
        self.tree.remove(node)
    }

    /// Notes what `owner` holds or plans on `node`, in place of what was noted of it before, there or elsewhere.
    ///
    /// The node need not be known yet, nor the GPUs: a claim counts from when they are.
    pub fn claim(&mut self, node: &NodeName, owner: Owner, mut claim: Claim) {
        // The node's own copies of what is named, so that these need no memory of their own.
        if let Some(seat) = self.tree.seat_named(node) {
            let gpus = &seat.member.node;
            for uuid in &mut claim.gpus {
                if let Some(position) = gpus.position(uuid.as_str()) {
                    *uuid = gpus.gpus()[position].uuid.clone();
                }
            }
        }
        claim.gpus.shrink_to_fit();
        claim.resources.share_names(|name| self.shared.text(name));
        if self.claims.get(&owner).is_some_and(|before| before != node) {
            self.release(&owner);
        }
        self.claims.insert(&owner, node.clone());
        Arc::make_mut(self.by_node.entry(node, Arc::default)).insert(owner, claim);
        self.recount(node);
    }

    /// Forgets what `owner` holds or plans. False if nothing was noted.
    pub fn release(&mut self, owner: &Owner) -> bool {
        let Some(node) = self.claims.remove(owner) else { return false };
        let claims = Arc::make_mut(self.by_node.entry(&node, Arc::default));
        claims.remove(owner);
        if claims.0.is_empty() {
            self.by_node.remove(&node);
        }
        self.recount(&node);
        true
    }

    /// A node, with what is taken and planned on it.
    pub fn node(&self, name: &NodeName) -> Option<&Seat> {
        self.tree.seat_named(name)
    }

    /// A node as it was told of, with the labels of its levels: what to change and [`upsert`](Self::upsert) again.
    pub fn member(&self, name: &NodeName) -> Option<Member> {
        self.node(name).map(|seat| self.labelled(seat))
    }

    /// All nodes by name; sorted anew each time.
    pub fn nodes(&self) -> impl Iterator<Item = &Seat> {
        self.tree.seats_by_name()
    }

    /// What is claimed on a node, by owner, whether or not the node is there.
    pub fn claims_on(&self, node: &NodeName) -> impl Iterator<Item = (&Owner, &Claim)> {
        self.by_node.get(node).into_iter().flat_map(|claims| claims.iter())
    }

    /// Where `owner` holds or plans something.
    pub fn claim_of(&self, owner: &Owner) -> Option<(&NodeName, &Claim)> {
        let node = self.claims.get(owner)?;
        let claim = self.by_node.get(node)?.get(owner)?;
        Some((node, claim))
    }

    /// All who hold or plan something, in no order.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.claims.iter().map(|(owner, _)| owner)
    }

    /// The domains and nodes.
    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    fn labelled(&self, seat: &Seat) -> Member {
        let values = self.levels.iter().zip(&seat.path);
        let labels =
            values.filter_map(|(level, value)| Some((level.label.clone(), value.as_ref()?.as_str().to_owned())));
        Member { labels: labels.collect(), ..seat.member.clone() }
    }

    fn recount(&mut self, node: &NodeName) {
        let claims = self.by_node.get(node).map(Arc::as_ref);
        self.tree.change(node, |seat| seat.count(claims));
    }
}

/// The stored form of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClusterState {
    levels: Vec<LevelLabel>,
    #[serde(default)]
    nodes: Vec<Member>,
    #[serde(default)]
    claims: Vec<StoredClaim>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StoredClaim {
    node: NodeName,
    owner: Owner,
    // The fields of a claim, written out: flattened ones cannot be told from unknown ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gpus: Vec<GpuUuid>,
    #[serde(default)]
    unidentified_gpus: u32,
    #[serde(default)]
    resources: Resources,
    #[serde(default)]
    planned: bool,
}

impl TryFrom<ClusterState> for Cluster {
    type Error = LevelsError;

    fn try_from(state: ClusterState) -> Result<Self, LevelsError> {
        let mut cluster = Self::new(state.levels)?;
        for member in state.nodes {
            cluster.upsert(member);
        }
        for StoredClaim { node, owner, gpus, unidentified_gpus, resources, planned } in state.claims {
            cluster.claim(&node, owner, Claim { gpus, unidentified_gpus, resources, planned });
        }
        Ok(cluster)
    }
}

impl From<Cluster> for ClusterState {
    fn from(cluster: Cluster) -> Self {
        let mut claims: Vec<StoredClaim> = cluster
            .by_node
            .iter()
            .flat_map(|(node, claims)| claims.iter().map(move |(owner, claim)| (node, owner, claim)))
            .map(|(node, owner, claim)| {
                let Claim { gpus, unidentified_gpus, resources, planned } = claim.clone();
                StoredClaim { node: node.clone(), owner: owner.clone(), gpus, unidentified_gpus, resources, planned }
            })
            .collect();
        claims.sort_by(|a, b| (&a.node, &a.owner).cmp(&(&b.node, &b.owner)));
        Self {
            levels: cluster.levels.to_vec(),
            nodes: cluster.nodes().map(|seat| cluster.labelled(seat)).collect(),
            claims,
        }
    }
}
