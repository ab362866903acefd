//! What is to be placed: groups of equal workers that start together or not at all.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Level, NodeName, Resources};

/// The most workers of a gang: as many as a `GpuJob` can have, in 32 groups of 10,000.
pub const MOST_WORKERS: u64 = 320_000;

/// Groups of workers, placed all at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gang {
    /// The groups; ranks count through them in this order.
    pub groups: Vec<Group>,
    /// All workers must be in one domain of this level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<Level>,
    /// All workers should be in one domain of this level; the answer says whether they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred: Option<Level>,
    /// What groups want of each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relations: Vec<Relation>,
    /// Workers that run already and stay where they are. Their GPUs are claimed in the cluster; only the others are placed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub placed: Vec<Placed>,
}

impl Gang {
    /// How many workers all groups have, running ones included.
    pub fn workers(&self) -> u64 {
        self.groups.iter().map(|group| u64::from(group.replicas)).sum()
    }
}

/// Equal workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Group {
    /// Name, unique in the gang.
    pub name: String,
    /// How many workers.
    pub replicas: u32,
    /// How many are enough to start; none means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// GPUs of each worker.
    pub gpus: u32,
    /// What each worker asks for beside GPUs.
    #[serde(default)]
    pub resources: Resources,
    /// Only GPUs whose product name contains this, ignoring case: `H100`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Only MIG devices of this profile; none means whole GPUs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig_profile: Option<String>,
    /// What must join any two GPUs of a worker at least; none means that anything will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_by: Option<Joined>,
    /// All workers of this group must be in one domain of this level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<Level>,
    /// All workers of this group should be in one domain of this level; the answer says whether they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred: Option<Level>,
    /// Workers are to be spread evenly over the fewest domains of a level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balanced: Option<Balance>,
    /// Consecutive workers that must share a domain, outermost first; each size divides the one before and `replicas`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<Slice>,
}

impl Group {
    /// A group of `replicas` workers with `gpus` each and nothing else asked for.
    pub fn new(name: &str, replicas: u32, gpus: u32) -> Self {
        Self { name: name.to_owned(), replicas, gpus, ..Self::default() }
    }
}

/// What must join two GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Joined {
    /// A wire that does not leave the socket, or NVLink.
    Socket,
    /// NVLink, direct or through NVSwitch.
    Nvlink,
}

impl Joined {
    /// The least [`Wiring::grade`](crate::Wiring::grade).
    pub(crate) fn grade(self) -> u8 {
        match self {
            Self::Socket => 1,
            Self::Nvlink => 2,
        }
    }
}

impl fmt::Display for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socket => "within a socket",
            Self::Nvlink => "by NVLink",
        })
    }
}

/// An even spread over the fewest domains of `level` that hold the group: 24 workers on racks of 18 nodes go 12 + 12, not
/// 18 + 6, since the slowest domain sets the pace of all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Balance {
    /// The level over whose domains workers are spread.
    pub level: Level,
    /// The most workers in one of them, where fewer are sure to stay than have room: 16 of the 18 nodes of an NVL72 rack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u32>,
}

/// What groups want of each other. It holds, or there is no placement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind", deny_unknown_fields, expecting = "an object with `kind`")]
pub enum Relation {
    /// All workers of these groups are in one domain.
    Together {
        /// The groups, by name.
        groups: Vec<String>,
        /// Of which level.
        level: Level,
    },
    /// No domain holds workers of two of these groups.
    Apart {
        /// The groups, by name.
        groups: Vec<String>,
        /// Of which level.
        level: Level,
    },
    /// Each worker of `leader` shares a domain with its part of `workers`: of L leaders and W workers, leader *i* is with
    /// workers *i*·W/L … (*i*+1)·W/L − 1, which so are a slice.
    Leader {
        /// The group of leaders.
        leader: String,
        /// The group that they lead; the number of leaders divides its number.
        workers: String,
        /// The level of the shared domain.
        level: Level,
    },
}

/// In words: `"ps" and "worker" in different racks`.
impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |groups: &[String]| groups.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" and ");
        match self {
            Self::Together { groups, level } => write!(f, "{} in one {level}", names(groups)),
            Self::Apart { groups, level } => write!(f, "{} in different {level}s", names(groups)),
            Self::Leader { leader, workers, level } => write!(f, "each {leader:?} in one {level} with its {workers:?}"),
        }
    }
}

/// `size` consecutive workers (0 … size−1, size … 2·size−1, …) share one domain of `level`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Slice {
    /// The level of the shared domain.
    pub level: Level,
    /// How many workers.
    pub size: u32,
}

/// A worker that runs already.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placed {
    /// Its group.
    pub group: String,
    /// Its index in the group.
    pub index: u32,
    /// Where it runs.
    pub node: NodeName,
}

/// The gang contradicts itself or names what is not there; no cluster could hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(
    rename_all = "camelCase",
    tag = "kind",
    content = "what",
    deny_unknown_fields,
    expecting = "an object with `kind` and `what`"
)]
pub enum InvalidGang {
    /// Not a level of this cluster.
    #[error("level {level} is unknown: use one of {known}")]
    UnknownLevel {
        /// The level asked for.
        level: Level,
        /// The levels there are.
        known: String,
    },
    /// Nothing to place.
    #[error("the gang has no groups: give at least one")]
    NoGroups,
    /// Group names must differ.
    #[error("two groups are named {0:?}: give each its own name")]
    RepeatedGroup(String),
    /// A group without workers.
    #[error("group {0:?} has 0 replicas: ask for at least 1")]
    NoReplicas(String),
    /// More workers than can be listed.
    #[error("{0} workers are wanted and a gang has at most {MOST_WORKERS}: ask for fewer replicas")]
    TooManyWorkers(u64),
    /// The minimum is not within 1 … replicas.
    #[error("group {group:?} wants at least {min} of {replicas} replicas: the minimum lies between 1 and replicas")]
    MinOutOfRange {
        /// The group.
        group: String,
        /// Its minimum.
        min: u32,
        /// Its replicas.
        replicas: u32,
    },
    /// More GPUs per worker than any node can have.
    #[error("group {group:?} wants {gpus} GPUs per worker and a node has at most 64: use more workers")]
    TooManyGpus {
        /// The group.
        group: String,
        /// GPUs per worker.
        gpus: u32,
    },
    /// Slices must nest.
    #[error("slices of group {group:?} do not nest: {why}")]
    Slices {
        /// The group.
        group: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// A relation between groups cannot be kept by any placement.
    #[error("the relation {relation} cannot hold: {why}")]
    Relation {
        /// The relation, in words.
        relation: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// A balanced group allows no worker in a domain.
    #[error("group {0:?} is balanced with at most 0 workers in a domain: allow at least 1")]
    BalancedOnNothing(String),
    /// A placed worker contradicts the rest.
    #[error("worker {index} of group {group:?} is said to run on {node}, but {why}")]
    Placed {
        /// The group.
        group: String,
        /// The worker's index.
        index: u32,
        /// Its node.
        node: NodeName,
        /// What is wrong.
        why: String,
    },
}
