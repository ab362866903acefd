//! Why a gang has no place: what every level has room for, and what excluded the other nodes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::gang::{InvalidGang, Joined};
use crate::{DomainName, Level, NodeName};

/// Why a node can take no worker of a group.
///
/// Of several reasons the first in the order below is given; for GPUs it is the one without which they would suffice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "reason", deny_unknown_fields, expecting = "an object with `reason`")]
pub enum Exclusion {
    /// The node's labels do not match the node selector or affinity.
    Selector {
        /// What does not match: `gpu-class=a100`.
        detail: String,
    },
    /// A taint is not tolerated.
    Taint {
        /// The taint: `maintenance:NoSchedule`.
        detail: String,
    },
    /// The node is not ready.
    NotReady,
    /// The node is marked unschedulable.
    Cordoned,
    /// The label of a level that the gang needs is missing.
    LevelLabelMissing {
        /// The level.
        level: Level,
    },
    /// None of its GPUs is of the product or MIG profile asked for.
    WrongProduct {
        /// What it has.
        has: String,
    },
    /// It has too few such GPUs, even when all are free.
    TooFewGpus {
        /// How many it has.
        has: u32,
        /// How many a worker needs.
        needs: u32,
    },
    /// Too many of its GPUs are unhealthy.
    GpusUnhealthy {
        /// How many are healthy.
        healthy: u32,
        /// How many a worker needs.
        needs: u32,
    },
    /// Too many of its GPUs are held by pods.
    GpusTaken {
        /// How many are left.
        free: u32,
        /// How many a worker needs.
        needs: u32,
    },
    /// Too many of its free GPUs are planned for other pods.
    PlannedForAnother {
        /// How many are left.
        free: u32,
        /// How many a worker needs.
        needs: u32,
    },
    /// Enough of its GPUs are free, but wires join too few of them.
    Wires {
        /// What must join them.
        joined: Joined,
        /// How many are so joined at most.
        has: u32,
        /// How many a worker needs.
        needs: u32,
    },
    /// Another resource runs short.
    Resource {
        /// Its name.
        name: String,
        /// How much is left.
        free: u64,
        /// How much a worker needs.
        needs: u64,
    },
    /// Something only the caller knows.
    Other {
        /// What it is.
        detail: String,
    },
}

impl Exclusion {
    /// The closed set of words by which reasons are counted, in metrics too.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Selector { .. } => "selector",
            Self::Taint { .. } => "taint",
            Self::NotReady => "not ready",
            Self::Cordoned => "cordoned",
            Self::LevelLabelMissing { .. } => "level label missing",
            Self::WrongProduct { .. } => "wrong product",
            Self::TooFewGpus { .. } => "too few GPUs",
            Self::GpusUnhealthy { .. } => "GPUs unhealthy",
            Self::GpusTaken { .. } => "GPUs taken",
            Self::PlannedForAnother { .. } => "planned for another",
            Self::Wires { .. } => "wires",
            Self::Resource { .. } => "other resource",
            Self::Other { .. } => "other",
        }
    }
}

/// As it stands behind a count of nodes: `GPUs taken (2 of 8 left)`.
impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        match self {
            Self::NotReady | Self::Cordoned => Ok(()),
            Self::Selector { detail } | Self::Taint { detail } | Self::Other { detail } => write!(f, " ({detail})"),
            Self::LevelLabelMissing { level } => write!(f, " ({level})"),
            Self::WrongProduct { has } => write!(f, " ({has})"),
            Self::TooFewGpus { has, needs } => write!(f, " ({has} of {needs})"),
            Self::GpusUnhealthy { healthy, needs } => write!(f, " ({healthy} of {needs} healthy)"),
            Self::GpusTaken { free, needs } => write!(f, " ({free} of {needs} left)"),
            Self::PlannedForAnother { free, needs } => write!(f, " ({free} of {needs} left)"),
            Self::Wires { joined, has, needs } => write!(f, " ({has} of {needs} joined {joined})"),
            Self::Resource { name, free, needs } => write!(f, " ({name}: {free} of {needs} left)"),
        }
    }
}

/// Nodes excluded for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Excluded {
    /// The group that they cannot take a worker of.
    pub group: String,
    /// The reason; where nodes differ in its numbers, those of the first node by name.
    pub reason: Exclusion,
    /// How many nodes.
    pub nodes: u32,
    /// The first of them by name.
    pub example: NodeName,
    /// The domain that all of them are in, at the level that the gang is bound to; none if they are in several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<DomainName>,
}

/// The domain of a level with room for the most workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Best {
    /// The level; none for the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// The domain; none for the whole cluster, or if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<DomainName>,
    /// How many of the gang's workers that are not yet placed fit there.
    pub fits: u32,
    /// How many domains there are at this level.
    pub domains: u32,
}

/// A gang for which there is no room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NoRoom {
    /// What was asked for, in words: `3 workers × 8 GPUs`.
    pub wanted: String,
    /// How many workers were to be placed.
    pub workers: u32,
    /// The level of which one domain has to hold them all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<Level>,
    /// What groups want of each other, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relations: Vec<String>,
    /// By level, outermost (the whole cluster) first.
    pub best: Vec<Best>,
    /// What excluded nodes, most nodes first.
    pub excluded: Vec<Excluded>,
    /// Nodes looked at.
    pub nodes: u32,
    /// Whether it is proven that there is no place. If not, the search gave up.
    pub proven: bool,
}

/// There is no place for the gang.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(
    rename_all = "camelCase",
    tag = "kind",
    content = "what",
    deny_unknown_fields,
    expecting = "an object with `kind` and `what`"
)]
pub enum NoPlacement {
    /// There is none in any cluster with these levels.
    #[error(transparent)]
    Invalid(#[from] InvalidGang),
    /// There is none now.
    #[error("{0}")]
    NoRoom(Box<NoRoom>),
}

/// The sentence for people.
impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "needs {}", self.wanted)?;
        if let Some(level) = &self.required {
            write!(f, " {} one {level}", if level.is_host() { "on" } else { "in" })?;
        }
        for relation in &self.relations {
            write!(f, ", {relation}")?;
        }
        let bound = self.best.iter().find(|best| best.level == self.required);
        match bound {
            _ if self.nodes == 0 => f.write_str("; the cluster has no nodes")?,
            Some(Best { fits: 0, .. }) => f.write_str("; no node has room for any")?,
            Some(Best { domain, fits, .. }) if *fits >= self.workers => {
                let place = domain.as_ref().map_or("the cluster", |domain| domain.as_str());
                write!(f, "; {place} has room for each group alone, but not for all as they are to be placed")?;
            }
            Some(Best { domain: Some(domain), fits, .. }) => {
                write!(f, "; best is {domain} with room for {fits} of {}", self.workers)?;
            }
            Some(Best { fits, .. }) => write!(f, "; the cluster has room for {fits} of {}", self.workers)?,
            None => {}
        }
        for (nth, excluded) in self.excluded.iter().enumerate() {
            f.write_str(if nth == 0 { "; excluded: " } else { ", " })?;
            write!(f, "{} node{}", excluded.nodes, if excluded.nodes == 1 { "" } else { "s" })?;
            if let Some(domain) = &excluded.domain {
                write!(f, " in {domain}")?;
            }
            write!(f, ": {}", excluded.reason)?;
        }
        if !self.proven {
            f.write_str("; not proven impossible, the search gave up")?;
        }
        Ok(())
    }
}

impl NoRoom {
    /// The same as lines, level by level.
    pub fn tree(&self) -> String {
        let mut lines = vec![match &self.required {
            Some(level) => format!("needs {} in one {level}", self.wanted),
            None => format!("needs {}", self.wanted),
        }];
        lines.extend(self.relations.iter().map(|relation| format!("  with {relation}")));
        for (depth, best) in self.best.iter().enumerate() {
            let indent = "  ".repeat(depth);
            let of = self.workers;
            lines.push(match (&best.level, &best.domain) {
                (None, _) => {
                    let nodes = if self.nodes == 1 { "node" } else { "nodes" };
                    format!("└ cluster of {} {nodes}: room for {} of {of}", self.nodes, best.fits)
                }
                (Some(level), Some(domain)) => {
                    format!("{indent}└ best {level} of {}: {domain}, room for {} of {of}", best.domains, best.fits)
                }
                (Some(level), None) if best.fits > 0 => {
                    format!(
                        "{indent}└ best {level} of {}: without a name, room for {} of {of}",
                        best.domains, best.fits
                    )
                }
                (Some(level), None) => format!("{indent}└ no {level} has room for any (of {})", best.domains),
            });
        }
        for excluded in &self.excluded {
            let domain = excluded.domain.as_ref().map(|domain| format!(" in {domain}")).unwrap_or_default();
            let group = &excluded.group;
            lines.push(format!(
                "✗ {} node{}{domain} for group {group}: {}, such as {}",
                excluded.nodes,
                if excluded.nodes == 1 { "" } else { "s" },
                excluded.reason,
                excluded.example
            ));
        }
        if !self.proven {
            lines.push("? not proven impossible, the search gave up".to_owned());
        }
        lines.join("\n")
    }
}

impl NoPlacement {
    /// The reason as lines, level by level.
    pub fn tree(&self) -> String {
        match self {
            Self::Invalid(invalid) => invalid.to_string(),
            Self::NoRoom(room) => room.tree(),
        }
    }
}
