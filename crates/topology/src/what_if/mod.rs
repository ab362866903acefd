//! Questions about clusters that are not there (yet): emptied, without some jobs, with nodes added or workers moved.
//!
//! Nothing here changes a cluster: each question is asked of a snapshot.

mod addition;
mod defragment;
mod movers;
mod shrink;

use serde::{Deserialize, Serialize};

pub use addition::{ADDED, Added, Addition, MOST_ADDED, NoAddition, smallest_addition};
pub use defragment::{Defragmentation, EligibilityOf, Gain, Move, defragment};
pub use movers::{Replacement, replace};
pub use shrink::{NoShrinking, Shrinking, shrink};

use crate::{Cluster, Eligibility, Gang, NoPlacement, Owner, Placed, Placement, Worker, place_where};

/// A gang that runs, and who holds its GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Running {
    /// The job's name: `namespace/name`.
    pub name: String,
    /// What it asks for; [`Gang::placed`] says where its workers are.
    pub gang: Gang,
    /// Who holds the claim of each worker of [`Gang::placed`] in the cluster, in the same order.
    #[serde(default)]
    pub owners: Vec<Owner>,
    /// Whether its workers must not be moved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fixed: bool,
}

impl Running {
    /// A gang as it is once `placement` has come true; `owner` names who holds the claim of each worker.
    pub fn started(name: &str, gang: &Gang, placement: &Placement, owner: impl Fn(&Worker) -> Owner) -> Self {
        let mut running = Self { name: name.to_owned(), gang: gang.clone(), owners: Vec::new(), fixed: false };
        for worker in &placement.workers {
            let Worker { group, index, node, .. } = worker.clone();
            running.gang.placed.push(Placed { group, index, node });
            running.owners.push(owner(worker));
        }
        running
    }
}

/// Places `gang` as if the claims of `gone` were not there: jobs that ended, or victims that the caller has in mind.
///
/// # Errors
/// [`NoPlacement`] if that does not make room either.
pub fn place_without<'a>(
    cluster: &Cluster,
    gang: &Gang,
    eligible: Eligibility<'_>,
    gone: impl IntoIterator<Item = &'a Owner>,
) -> Result<Placement, NoPlacement> {
    place_where(&cluster.without(gone), gang, eligible)
}

/// Places `gang`, all of it, as if nothing else were in the cluster: whether waiting can help at all.
///
/// # Errors
/// [`NoPlacement`] if the gang is too large for the cluster as it is built.
pub fn place_on_empty(cluster: &Cluster, gang: &Gang, eligible: Eligibility<'_>) -> Result<Placement, NoPlacement> {
    let gang = Gang { placed: Vec::new(), ..gang.clone() };
    place_where(&cluster.emptied(), &gang, eligible)
}

impl Cluster {
    /// The same cluster with nothing held or planned.
    #[must_use]
    pub fn emptied(&self) -> Self {
        let mut empty = self.clone();
        let owners: Vec<Owner> = self.owners().cloned().collect();
        for owner in &owners {
            empty.release(owner);
        }
        empty
    }

    /// The same cluster without what `gone` hold or plan.
    #[must_use]
    pub fn without<'a>(&self, gone: impl IntoIterator<Item = &'a Owner>) -> Self {
        let mut rest = self.clone();
        for owner in gone {
            rest.release(owner);
        }
        rest
    }
}

/// Calls `visit` with every set of `size` of `count` numbers in order, until it says stop (false). False if it did.
fn each_set(count: usize, size: usize, visit: &mut impl FnMut(&[usize]) -> bool) -> bool {
    let mut set: Vec<usize> = (0..size).collect();
    if size > count {
        return true;
    }
    loop {
        if !visit(&set) {
            return false;
        }
        let Some(at) = (0..size).rev().find(|&at| set[at] < count - size + at) else { return true };
        set[at] += 1;
        for next in at + 1..size {
            set[next] = set[next - 1] + 1;
        }
    }
}

/// How many sets of `size` there are of `count`; stops counting at `limit`.
fn sets(count: usize, size: usize, limit: u64) -> u64 {
    let mut sets = 1u64;
    for at in 0..size.min(count) {
        sets = sets.saturating_mul((count - at) as u64) / (at as u64 + 1);
        if sets > limit {
            return limit;
        }
    }
    if size > count { 0 } else { sets }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_of_a_size_comes_once_and_in_order() {
        for count in 0..7 {
            for size in 0..9 {
                let mut found = Vec::new();
                assert!(each_set(count, size, &mut |set| {
                    found.push(set.to_vec());
                    true
                }));
                let all = (0u32..1 << count).filter(|bits| bits.count_ones() as usize == size);
                let mut all: Vec<Vec<usize>> =
                    all.map(|bits| (0..count).filter(|at| bits >> at & 1 == 1).collect()).collect();
                all.sort();
                assert_eq!(found, all, "{size} of {count}");
                assert_eq!(sets(count, size, 1_000), all.len() as u64, "{size} of {count}");
            }
        }
        let mut seen = 0;
        let mut second = |_: &[usize]| {
            seen += 1;
            seen < 2
        };
        assert!(!each_set(5, 2, &mut second));
        assert_eq!(seen, 2, "it was told to stop");
    }

    #[test]
    fn sets_are_counted_up_to_a_limit() {
        assert_eq!((sets(10, 3, 119), sets(10, 3, 120), sets(10, 3, 121)), (119, 120, 120));
        assert_eq!(sets(10_000, 5_000, 77), 77, "the number itself is larger than can be written down");
        // 20 of 40 are counted over numbers that never are more than their own.
        assert_eq!(sets(40, 20, u64::MAX), 137_846_528_820);
    }
}
