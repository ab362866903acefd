//! Replacing failed workers: without moving the others where that is possible, else by moving as few as possible.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Running, each_set, sets};
use crate::place::moves::{Counts, most_that_stay};
use crate::{Cluster, Eligibility, Gang, NoPlacement, Placed, Placement, Relation, place_where};

/// Placements tried when the fewest movers have to be found by trying.
const MOST_ATTEMPTS: u64 = 2_000;

/// Places for workers that have none, and who moves for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Replacement {
    /// Workers that have to leave their place; most often none.
    pub movers: Vec<Placed>,
    /// The new places of the failed workers and of the movers.
    pub placement: Placement,
    /// Whether it is proven that no fewer movers do.
    pub fewest: bool,
}

impl std::fmt::Display for Replacement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.placement)?;
        if self.movers.is_empty() {
            return f.write_str("; nobody else moves");
        }
        f.write_str("; for want of room ")?;
        for (nth, mover) in self.movers.iter().enumerate() {
            write!(f, "{}{}-{} of {}", if nth == 0 { "" } else { ", " }, mover.group, mover.index, mover.node)?;
        }
        f.write_str(if self.movers.len() == 1 { " moves" } else { " move" })?;
        f.write_str(if self.fewest { ", the fewest that do" } else { "; fewer might do" })
    }
}

/// Finds places for all workers of `running` that have none, at once; the others stay if there is any way, else as many as
/// can. Of equally many movers those are taken with which the placement is best.
///
/// Exact where workers have no indices to keep together (no slices, at most one leader a group) and within the bounds of the
/// joint search; else by trying up to 2,000 sets, fewest first. `fewest` says whether that proved it.
///
/// # Errors
/// [`NoPlacement`] if there is no place even when all move.
pub fn replace(cluster: &Cluster, running: &Running, eligible: Eligibility<'_>) -> Result<Replacement, NoPlacement> {
    let gang = &running.gang;
    // Whether it is proven that no set of up to `tried` movers does.
    let (mut proven, mut tried) = match place_where(cluster, gang, eligible) {
        Ok(placement) => return Ok(Replacement { movers: Vec::new(), placement, fewest: true }),
        Err(NoPlacement::NoRoom(why)) => (why.proven, 0),
        Err(invalid) => return Err(invalid),
    };
    let count = gang.placed.len();
    let everyone: Vec<usize> = (0..count).collect();
    let attempt = |movers: &[usize]| without(cluster, running, eligible, movers);
    let by_index = gang.groups.iter().any(|group| !group.slices.is_empty() || group.min.is_some())
        || gang.relations.iter().any(|relation| matches!(relation, Relation::Leader { .. }));
    if !by_index && let Some(movers) = counted(cluster, running, eligible) {
        let movers = movers.unwrap_or_else(|| everyone.clone());
        if let Ok(placement) = attempt(&movers) {
            return Ok(Replacement { movers: named(gang, &movers), placement, fewest: true });
        }
    }
    let mut left = MOST_ATTEMPTS;
    for size in 1..count {
        let size_sets = sets(count, size, left + 1);
        if size_sets > left {
            break;
        }
        left -= size_sets;
        let mut best: Option<(Vec<usize>, Placement)> = None;
        // What is not known of sets of this size matters only if a larger one is taken.
        let mut all_refused = true;
        each_set(count, size, &mut |movers| {
            match attempt(movers) {
                Ok(placement) if best.as_ref().is_none_or(|(_, best)| better(&placement, best)) => {
                    best = Some((movers.to_vec(), placement));
                }
                Ok(_) => {}
                Err(NoPlacement::NoRoom(why)) => all_refused &= why.proven,
                Err(_) => {}
            }
            true
        });
        if let Some((movers, placement)) = best {
            return Ok(Replacement { movers: named(gang, &movers), placement, fewest: proven });
        }
        proven &= all_refused;
        tried = size;
    }
    // Everyone may move; where that is not already the next number to try, let those stay again who can, one after the other.
    let mut best = attempt(&everyone)?;
    let mut movers = everyone;
    if tried + 1 < count && count <= MOST_ATTEMPTS as usize / 4 {
        for worker in 0..count {
            let fewer: Vec<usize> = movers.iter().copied().filter(|&mover| mover != worker).collect();
            if let Ok(placement) = attempt(&fewer) {
                (movers, best) = (fewer, placement);
            }
        }
    }
    let fewest = proven && movers.len() <= tried + 1;
    Ok(Replacement { movers: named(gang, &movers), placement: best, fewest })
}

fn better(a: &Placement, b: &Placement) -> bool {
    let values = |placement: &Placement| placement.terms.iter().map(|term| term.value).collect::<Vec<_>>();
    values(a) < values(b)
}

fn named(gang: &Gang, movers: &[usize]) -> Vec<Placed> {
    movers.iter().map(|&at| gang.placed[at].clone()).collect()
}

/// Places the gang as if the workers at these positions of [`Gang::placed`] ran no more.
pub(super) fn without(
    cluster: &Cluster,
    running: &Running,
    eligible: Eligibility<'_>,
    movers: &[usize],
) -> Result<Placement, NoPlacement> {
    let rest = cluster.without(movers.iter().filter_map(|&at| running.owners.get(at)));
    place_where(&rest, &less(&running.gang, movers), eligible)
}

/// A gang of which the workers at these positions of [`Gang::placed`] do not run.
pub(super) fn less(gang: &Gang, movers: &[usize]) -> Gang {
    let movers: BTreeSet<usize> = movers.iter().copied().collect();
    let mut gang = gang.clone();
    let mut at = 0;
    gang.placed.retain(|_| {
        at += 1;
        !movers.contains(&(at - 1))
    });
    gang
}

/// The fewest movers by number alone, as positions in [`Gang::placed`]; none inside if there is no way at all, none outside
/// if it could not be found out.
fn counted(cluster: &Cluster, running: &Running, eligible: Eligibility<'_>) -> Option<Option<Vec<usize>>> {
    let gang = &running.gang;
    if running.owners.len() != gang.placed.len() {
        return None;
    }
    let mut here: BTreeMap<(usize, crate::NodeName), Vec<usize>> = BTreeMap::new();
    for (at, placed) in gang.placed.iter().enumerate() {
        let group = gang.groups.iter().position(|group| group.name == placed.group)?;
        here.entry((group, placed.node.clone())).or_default().push(at);
    }
    let counts: Counts = here.iter().map(|(key, workers)| (key.clone(), workers.len() as u32)).collect();
    let empty = cluster.without(&running.owners);
    let nothing_placed = Gang { placed: Vec::new(), ..gang.clone() };
    let Some(stay) = most_that_stay(&empty, &nothing_placed, eligible, &counts)? else { return Some(None) };
    let mut movers = Vec::new();
    for (key, mut workers) in here {
        // Those with the lowest indices stay.
        workers.sort_by_key(|&at| gang.placed[at].index);
        movers.extend(workers.into_iter().skip(stay.get(&key).copied().unwrap_or(0) as usize));
    }
    movers.sort_unstable();
    Some(Some(movers))
}
