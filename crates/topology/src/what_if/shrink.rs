//! Shrinking a running gang: which workers to give up so that the rest is best.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Running, each_set, sets};
use crate::choose::worth;
use crate::tree::ROOT;
use crate::{Cluster, GpuSet, Placed, Relation, Term};

/// So many sets are compared one by one; beyond, units are given up one after the other and then swapped.
const MOST_SETS: u64 = 5_000;

/// Workers to give up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shrinking {
    /// Who goes, in the order of [`Gang::placed`](crate::Gang::placed).
    pub given_up: Vec<Placed>,
    /// The objective of the rest, as if it were placed so on the cluster without the gang.
    pub terms: Vec<Term>,
    /// Whether it is proven that no other choice leaves a better rest.
    pub exact: bool,
}

/// `gives up worker-6, worker-7 of node-4; racks used 1, hosts used 3 by the rest`.
impl fmt::Display for Shrinking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.given_up.is_empty() { "gives up nobody" } else { "gives up " })?;
        for (nth, placed) in self.given_up.iter().enumerate() {
            write!(f, "{}{}-{} on {}", if nth == 0 { "" } else { ", " }, placed.group, placed.index, placed.node)?;
        }
        for (nth, term) in self.terms.iter().filter(|term| term.name.ends_with("used")).enumerate() {
            write!(f, "{} {} {}", if nth == 0 { "; the rest:" } else { "," }, term.name, term.value)?;
        }
        f.write_str(if self.exact { "" } else { "; not proven best" })
    }
}

/// The gang cannot be made smaller so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoShrinking {
    /// No such group.
    #[error("job {job} has no group {group:?}: name one of its groups")]
    UnknownGroup {
        /// The job.
        job: String,
        /// The group.
        group: String,
    },
    /// Not whole slices.
    #[error(
        "group {group:?} of job {job} shrinks by whole slices of {unit} workers and not by {workers}: give up a multiple"
    )]
    PartOfASlice {
        /// The job.
        job: String,
        /// The group.
        group: String,
        /// Workers of a slice.
        unit: u32,
        /// Workers to give up.
        workers: u32,
    },
    /// Too few would be left.
    #[error("group {group:?} of job {job} has {running} workers and needs {least}: give up {} at most", running.saturating_sub(*least))]
    TooFewLeft {
        /// The job.
        job: String,
        /// The group.
        group: String,
        /// Workers that run.
        running: u32,
        /// Its minimum.
        least: u32,
    },
    /// A claim or node of the gang is not in the cluster.
    #[error("worker {index} of group {group:?} of job {job} holds nothing in the cluster: name its owner")]
    UnknownOwner {
        /// The job.
        job: String,
        /// The group.
        group: String,
        /// The worker's index.
        index: u32,
    },
}

/// Chooses `workers` workers of `group` to give up, so that the rest of the gang is best by the objective of placing, as if it
/// were placed so on the cluster without it. Whole slices go; a leader goes with its workers. Of equally good rests the
/// one with the lower indices stays.
///
/// # Errors
/// [`NoShrinking`] if fewer than the minimum would be left, or a part of a slice.
pub fn shrink(cluster: &Cluster, running: &Running, group: &str, workers: u32) -> Result<Shrinking, NoShrinking> {
    let job = || running.name.clone();
    let gang = &running.gang;
    let asked = gang.groups.iter().find(|other| other.name == group);
    let asked = asked.ok_or_else(|| NoShrinking::UnknownGroup { job: job(), group: group.to_owned() })?;
    let leader = gang.relations.iter().find_map(|relation| match relation {
        Relation::Leader { leader, workers, .. } if workers == group => {
            let leaders = gang.groups.iter().find(|other| other.name == *leader)?.replicas;
            (leaders > 1).then_some((leader, asked.replicas / leaders))
        }
        _ => None,
    });
    let slice = asked.slices.first().map_or(1, |slice| slice.size);
    let unit = slice.max(leader.map_or(1, |(_, size)| size)).max(1);
    if !workers.is_multiple_of(unit) {
        return Err(NoShrinking::PartOfASlice { job: job(), group: group.to_owned(), unit, workers });
    }
    let mut units: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (at, placed) in gang.placed.iter().enumerate() {
        if placed.group == group {
            units.entry(placed.index / unit).or_default().push(at);
        }
        if let Some((_, size)) = leader.filter(|(leader, _)| placed.group == **leader) {
            units.entry(placed.index * size / unit).or_default().push(at);
        }
    }
    let count = gang.placed.iter().filter(|placed| placed.group == group).count() as u32;
    let least = asked.min.unwrap_or(1).max(1);
    if count < workers + least {
        return Err(NoShrinking::TooFewLeft { job: job(), group: group.to_owned(), running: count, least });
    }
    // The last units first: among equals the lower indices stay.
    let units: Vec<Vec<usize>> = units.into_values().rev().collect();
    let size = (workers / unit) as usize;
    let rest = Rest::new(cluster, running)?;
    let flat = |set: &[usize]| set.iter().flat_map(|&unit| units[unit].iter().copied()).collect::<Vec<usize>>();
    let mut best: Option<(Vec<i64>, Vec<usize>)> = None;
    let exact = sets(units.len(), size, MOST_SETS + 1) <= MOST_SETS;
    if exact {
        each_set(units.len(), size, &mut |set| {
            let value = rest.value(&flat(set));
            if best.as_ref().is_none_or(|best| value < best.0) {
                best = Some((value, set.to_vec()));
            }
            true
        });
    } else {
        best = Some(rest.step_by_step(units.len(), size, &flat));
    }
    let (value, set) = best.unwrap_or_else(|| (rest.value(&[]), Vec::new()));
    let mut positions = flat(&set);
    positions.sort_unstable();
    let given_up = positions.into_iter().map(|at| gang.placed[at].clone()).collect();
    let terms = rest.names().into_iter().zip(value).map(|(name, value)| Term { name, value }).collect();
    Ok(Shrinking { given_up, terms, exact })
}

/// What is needed to judge any rest of a gang.
struct Rest<'a> {
    cluster: &'a Cluster,
    /// The cluster without the gang.
    empty: Cluster,
    /// By worker: seat, GPUs held there, and how many where it is not known which.
    workers: Vec<(u32, GpuSet, u32)>,
    /// Levels over which groups are balanced, with the workers of each.
    balanced: Vec<(usize, Vec<usize>)>,
}

impl<'a> Rest<'a> {
    fn new(cluster: &'a Cluster, running: &Running) -> Result<Self, NoShrinking> {
        let gang = &running.gang;
        let empty = cluster.without(&running.owners);
        let mut workers = Vec::with_capacity(gang.placed.len());
        for (at, placed) in gang.placed.iter().enumerate() {
            let claim = running.owners.get(at).and_then(|owner| cluster.claim_of(owner));
            let seat = empty.tree().seat_id(&placed.node);
            let (Some((_, claim)), Some(id)) = (claim, seat) else {
                let Placed { group, index, .. } = placed.clone();
                return Err(NoShrinking::UnknownOwner { job: running.name.clone(), group, index });
            };
            let node = &empty.tree().seat(id).map(|seat| &seat.member.node);
            let position = |gpu: &crate::GpuUuid| node.and_then(|node| node.position(gpu.as_str()));
            workers.push((id, claim.gpus.iter().filter_map(position).collect(), claim.unidentified_gpus));
        }
        let balanced = gang.groups.iter().filter_map(|group| {
            let depth = cluster.depth(&group.balanced.as_ref()?.level)?;
            let mine = gang.placed.iter().enumerate().filter(|(_, placed)| placed.group == group.name);
            Some((depth, mine.map(|(at, _)| at).collect()))
        });
        Ok(Self { cluster, empty: empty.clone(), workers, balanced: balanced.collect() })
    }

    /// The objective of the gang without the workers at these positions.
    fn value(&self, gone: &[usize]) -> Vec<i64> {
        let tree = self.empty.tree();
        let levels = self.cluster.levels().len() + 1;
        let stays = |at: usize| !gone.contains(&at);
        let mut seats: BTreeMap<u32, (GpuSet, u32)> = BTreeMap::new();
        let (mut weak, mut wires, mut lost) = (0, 0, 0);
        for (at, &(id, set, unidentified)) in self.workers.iter().enumerate().filter(|&(at, _)| stays(at)) {
            let _ = at;
            let entry = seats.entry(id).or_default();
            *entry = (entry.0.union(set), entry.1 + unidentified);
            if let Some(seat) = tree.seat(id) {
                weak += i64::from(2 - seat.member.node.wiring().grade(set));
                wires += i64::from(seat.member.node.wiring().within(set));
            }
        }
        let (mut used, mut opened, mut left) = (vec![0; levels], vec![0; levels], vec![0; levels]);
        let mut nvlink = 0;
        let mut domains: BTreeMap<u32, i64> = BTreeMap::new();
        for (&id, &(set, unidentified)) in &seats {
            let Some(seat) = tree.seat(id) else { continue };
            let gpus = set.len() as i64 + i64::from(unidentified);
            let rest = i64::from(seat.free_count()) - gpus;
            used[levels - 1] += 1;
            opened[levels - 1] += i64::from(seat.is_idle() && rest > 0 && gpus > 0);
            left[levels - 1] += rest;
            let wiring = seat.member.node.wiring();
            lost += i64::from(worth(wiring, seat.free())) - i64::from(worth(wiring, seat.free().difference(set)));
            for domain in tree.ancestors(tree.parent_of_seat(id)).filter(|&id| id != ROOT) {
                *domains.entry(domain).or_default() += gpus;
            }
        }
        for (&id, &gpus) in &domains {
            let domain = tree.domain(id);
            let Some(depth) = domain.depth else { continue };
            let rest = i64::from(domain.free) - gpus;
            used[depth] += 1;
            let idle = i64::from(domain.busy == 0 && rest > 0 && gpus > 0);
            nvlink += if domain.is_nvlink() { idle } else { 0 };
            opened[depth] += idle;
            left[depth] += rest;
        }
        let mut value = Vec::with_capacity(3 * levels + 4);
        for (depth, used) in used.into_iter().enumerate() {
            value.push(used);
            for (_, workers) in self.balanced.iter().filter(|(at, _)| *at == depth) {
                let mut counts: BTreeMap<Option<u32>, i64> = BTreeMap::new();
                for &at in workers.iter().filter(|&&at| stays(at)) {
                    let seat = self.workers[at].0;
                    let domain = tree.domain_of_seat(seat, depth);
                    *counts.entry(domain.or(Some(u32::MAX - seat))).or_default() += 1;
                }
                value.push(counts.values().map(|count| count * count).sum());
            }
        }
        value.extend([weak, nvlink]);
        value.extend((0..levels).rev().flat_map(|depth| [left[depth], opened[depth]]));
        value.extend([-wires, lost]);
        value
    }

    fn names(&self) -> Vec<String> {
        let levels: Vec<&str> = self.cluster.levels().iter().map(|level| level.name.as_str()).chain(["host"]).collect();
        let mut names = Vec::new();
        for (depth, level) in levels.iter().enumerate() {
            names.push(format!("{level}s used"));
            let balanced = self.balanced.iter().filter(|(at, _)| *at == depth);
            names.extend(balanced.map(|_| format!("unevenness over {level}s (sum of squares)")));
        }
        names.extend(["weak workers".to_owned(), "NVLink domains opened".to_owned()]);
        let left = |level| [format!("GPUs left over by {level}"), format!("{level}s opened")];
        names.extend(levels.iter().rev().flat_map(left));
        names.extend(["wires (negated)".to_owned(), "worth lost to later jobs".to_owned()]);
        names
    }

    /// The best unit to give up next, again and again; then swaps as long as one helps.
    fn step_by_step(
        &self,
        units: usize,
        size: usize,
        flat: &impl Fn(&[usize]) -> Vec<usize>,
    ) -> (Vec<i64>, Vec<usize>) {
        let mut set: Vec<usize> = Vec::new();
        let mut value = self.value(&[]);
        while set.len() < size {
            let open = (0..units).filter(|unit| !set.contains(unit));
            let next = open.map(|unit| {
                let more: Vec<usize> = set.iter().copied().chain([unit]).collect();
                (self.value(&flat(&more)), unit)
            });
            let Some((best, unit)) = next.min() else { break };
            value = best;
            set.push(unit);
        }
        let mut improved = true;
        while improved {
            improved = false;
            for at in 0..set.len() {
                for unit in (0..units).filter(|unit| !set.contains(unit)).collect::<Vec<_>>() {
                    let before = std::mem::replace(&mut set[at], unit);
                    let swapped = self.value(&flat(&set));
                    if swapped < value {
                        (value, improved) = (swapped, true);
                        break;
                    }
                    set[at] = before;
                }
            }
        }
        (value, set)
    }
}
