//! Placing a gang on a cluster.
//!
//! # The objective
//! Required levels and slices hold, or there is no placement. Among the placements that there are, the best is the one
//! that is smallest in these terms, the first that differs deciding:
//!
//! 1. **domains used**, level by level from the outermost to the node: a gang is kept together. Domains in which workers
//!    of the gang run already cost nothing.
//! 2. **weak workers**: per worker 0 if any two of its GPUs share NVLinks, 1 if none of its wires leaves the socket,
//!    2 otherwise ([`Wiring::grade`](crate::Wiring::grade)).
//! 3. **NVLink domains opened**: those of several nodes that nobody used before and that are not filled either.
//! 4. **GPUs left over** in the domains used, level by level from the node outwards: the fullest node that has room, of
//!    such nodes the one in the fullest rack, and so on. After each level, **domains opened** of it: of two that leave as
//!    much over, the one that somebody uses already. Whole nodes and racks are kept for gangs that need them.
//! 5. **wires**: the sum of [`Wire::score`](crate::Wire::score) within the workers, more being better, and after it the
//!    worth of what remains on each node ([`choose`](crate::choose())).
//! 6. the order of domain and node names, so that people can predict the answer.
//!
//! On a node the workers of a group get the GPUs that one request for all of them would get, cut into the sets that have
//! the most in wires.
//!
//! Ranks follow the tree: workers next to each other in rank are on the same node, else in the same innermost domain,
//! and so on.

mod ask;
mod explain;
mod fewest;
mod greedy;
mod joined;
mod joint;
mod knapsack;
pub(crate) mod moves;
mod narrow;
mod pack;
mod ranks;
mod relations;
pub mod rings;
mod room;
mod several;
mod solve;
mod table;
mod terms;
mod vacancy;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::gang::{Gang, Group, InvalidGang};
use crate::why::{Exclusion, NoPlacement};
use crate::{Cluster, GpuUuid, Level, NodeName};

/// Whether a node may take workers of a group, as only the caller can tell: selectors, affinity, taints.
pub type Eligibility<'a> = &'a dyn Fn(&Group, &NodeName) -> Result<(), Exclusion>;

/// One worker and its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Worker {
    /// Its group.
    pub group: String,
    /// Its index in the group.
    pub index: u32,
    /// Its rank among all workers of the gang, running ones included.
    pub rank: u32,
    /// Its node.
    pub node: NodeName,
    /// Its GPUs on that node.
    pub gpus: Vec<GpuUuid>,
}

/// One term of the objective.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Term {
    /// What is counted: `racks used`.
    pub name: String,
    /// How much of it; less is better.
    pub value: i64,
}

/// What a group preferred, and what it got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preference {
    /// The group.
    pub group: String,
    /// The level of which one domain was to hold it.
    pub level: Level,
    /// In how many it is; 1 is what was preferred.
    pub domains: u32,
}

/// A place for every worker that had none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placement {
    /// The newly placed workers by rank. Those of [`Gang::placed`] stay and are not repeated.
    pub workers: Vec<Worker>,
    /// The value of the objective, in order of importance.
    pub terms: Vec<Term>,
    /// Workers of groups with a minimum for which there was no room.
    pub left_out: u32,
    /// The preferred level, if there was one, and whether all workers are in one domain of it.
    pub preferred: Option<(Level, bool)>,
    /// What single groups preferred, and what they got.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preferences: Vec<Preference>,
    /// Whether it is proven that no placement is better; if not, the search was bounded.
    pub exact: bool,
    /// What was placed, in words: `2 workers × 8 GPUs`.
    pub wanted: String,
}

/// The sentence for people: `2 workers × 8 GPUs on node-1, node-2; zones used 1, racks used 1, hosts used 2`.
impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut nodes: Vec<&str> = self.workers.iter().map(|worker| worker.node.as_str()).collect();
        nodes.dedup();
        write!(f, "{} on ", self.wanted)?;
        const SHOWN: usize = 8;
        for (nth, node) in nodes.iter().take(SHOWN).enumerate() {
            write!(f, "{}{node}", if nth == 0 { "" } else { ", " })?;
        }
        if nodes.len() > SHOWN {
            write!(f, " and {} more", nodes.len() - SHOWN)?;
        }
        for (nth, term) in self.terms.iter().filter(|term| term.name.ends_with("used")).enumerate() {
            write!(f, "{} {} {}", if nth == 0 { ";" } else { "," }, term.name, term.value)?;
        }
        match &self.preferred {
            Some((level, true)) => write!(f, "; all in one {level}, as preferred")?,
            Some((level, false)) => write!(f, "; not all in one {level}, though preferred: none has the room")?,
            None => {}
        }
        for Preference { group, level, domains } in &self.preferences {
            match domains {
                0 | 1 => write!(f, "; {group:?} in one {level}, as preferred")?,
                n => write!(f, "; {group:?} in {n} {level}s, though one was preferred")?,
            }
        }
        match self.left_out {
            0 => {}
            1 => f.write_str("; 1 worker beyond the minimum has no room")?,
            n => write!(f, "; {n} workers beyond the minimum have no room")?,
        }
        if !self.exact {
            f.write_str("; a better placement is not ruled out")?;
        }
        Ok(())
    }
}

impl Placement {
    /// The same as lines: terms, then workers by rank. [`Self::tree_on`] sets them into the levels of the cluster.
    pub fn tree(&self) -> String {
        let mut lines = vec![self.to_string()];
        lines.extend(self.terms.iter().map(|term| format!("  {}: {}", term.name, term.value)));
        for worker in &self.workers {
            let gpus: Vec<&str> = worker.gpus.iter().map(GpuUuid::as_str).collect();
            lines.push(format!(
                "  rank {} {}-{} on {}: {}",
                worker.rank,
                worker.group,
                worker.index,
                worker.node,
                gpus.join(",")
            ));
        }
        lines.join("\n")
    }
}

impl Placement {
    /// The sentence, and the workers under the domains and nodes that they are in.
    pub fn tree_on(&self, cluster: &Cluster) -> String {
        let mut lines = vec![self.to_string()];
        let mut before: Vec<String> = Vec::new();
        let tree = cluster.tree();
        for worker in &self.workers {
            let Some(seat) = tree.seat_id(&worker.node) else { continue };
            let mut path: Vec<String> = Vec::new();
            for (depth, level) in cluster.levels().iter().enumerate() {
                let name = tree.domain_of_seat(seat, depth).and_then(|id| tree.domain(id).key.name.clone());
                path.push(format!("{} {}", level.name, name.as_ref().map_or("without a name", |name| name.as_str())));
            }
            path.push(format!("host {}", worker.node));
            // From where this path leaves the one before.
            let same = path.iter().zip(&before).take_while(|(a, b)| a == b).count();
            for (depth, part) in path.iter().enumerate().skip(same) {
                lines.push(format!("{}└ {part}", "  ".repeat(depth)));
            }
            let gpus: Vec<&str> = worker.gpus.iter().map(GpuUuid::as_str).collect();
            let indent = "  ".repeat(path.len());
            lines.push(format!("{indent}└ rank {} {}-{}: {}", worker.rank, worker.group, worker.index, gpus.join(",")));
            before = path;
        }
        lines.join("\n")
    }
}

/// Places the workers of `gang` that do not run yet; any node may take them.
///
/// # Errors
/// [`NoPlacement`] says what is missing, level by level.
pub fn place(cluster: &Cluster, gang: &Gang) -> Result<Placement, NoPlacement> {
    solve::solve(cluster, gang, None)
}

/// Places the workers of `gang` that do not run yet, on nodes for which `eligible` has no objection.
///
/// # Errors
/// [`NoPlacement`] says what is missing, level by level.
pub fn place_where(cluster: &Cluster, gang: &Gang, eligible: Eligibility<'_>) -> Result<Placement, NoPlacement> {
    solve::solve(cluster, gang, Some(eligible))
}

/// The same for a caller that asks again and again and tells people only now and then why there is no room: none if there
/// is none, without looking at every node for the reason.
///
/// # Errors
/// [`InvalidGang`] names the contradiction.
pub fn place_if_room(
    cluster: &Cluster,
    gang: &Gang,
    eligible: Eligibility<'_>,
) -> Result<Option<Placement>, InvalidGang> {
    solve::solve_if_room(cluster, gang, Some(eligible))
}
