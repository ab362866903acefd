//! What to move so that a waiting gang fits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::movers::less;
use super::{Running, each_set, sets};
use crate::gang::{Gang, Group, Placed, Relation};
use crate::{Claim, Cluster, Exclusion, GpuUuid, Level, NoPlacement, NodeName, Owner, Placement, Worker, place_where};

/// Sets of movers that are tried to prove that no fewer do.
const MOST_ATTEMPTS: u64 = 2_000;

/// Whether a node may take workers of a group of a running job; of the waiting gang where there is no job.
pub type EligibilityOf<'a> = &'a dyn Fn(Option<&Running>, &Group, &NodeName) -> Result<(), Exclusion>;

/// One worker that moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Move {
    /// Its job.
    pub job: String,
    /// Its group.
    pub group: String,
    /// Its index.
    pub index: u32,
    /// The node that it leaves.
    pub from: NodeName,
    /// The node that it goes to; the same one if only its GPUs change.
    pub to: NodeName,
    /// Its GPUs there.
    pub gpus: Vec<GpuUuid>,
}

/// Idle domains of a level: what larger gangs need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gain {
    /// The level, `host` for whole nodes.
    pub level: Level,
    /// Idle before.
    pub before: u32,
    /// Idle once all has moved, before the waiting gang starts.
    pub after: u32,
}

/// Who moves where, and what that makes room for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Defragmentation {
    /// The moves; none if there is room already.
    pub moves: Vec<Move>,
    /// Where the waiting gang goes then.
    pub placement: Placement,
    /// GPUs that the moves put to work.
    pub gpus_started: u32,
    /// GPUs whose work is interrupted by moving.
    pub gpus_moved: u32,
    /// Idle domains before and after, level by level from the outermost.
    pub gains: Vec<Gain>,
    /// Whether it is proven that no fewer workers have to move.
    pub fewest: bool,
}

/// `moving default/a worker-0 from node-2 to node-1 (4 GPUs) makes room for 1 worker × 8 GPUs on node-2 …`.
impl fmt::Display for Defragmentation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.moves.is_empty() {
            return write!(f, "nothing has to move: {}", self.placement);
        }
        for (nth, one) in self.moves.iter().enumerate() {
            let Move { job, group, index, from, to, .. } = one;
            write!(f, "{}{job} {group}-{index} from {from} to {to}", if nth == 0 { "moving " } else { ", " })?;
        }
        write!(f, " ({} GPUs) starts {} GPUs: {}", self.gpus_moved, self.gpus_started, self.placement)?;
        f.write_str(if self.fewest { "; no fewer workers do" } else { "; fewer might do" })
    }
}

/// Which workers of `jobs` to move so that `waiting` fits: as few as possible, of those the ones with the fewest GPUs, and of
/// those the ones that place the waiting gang best. Whoever moves has a place again, by the rules of its own gang.
///
/// First a set that does is found, by letting all movable workers go and bringing back as many as possible; then all smaller
/// sets are tried, if they are at most 2,000, which proves the number ([`Defragmentation::fewest`]).
///
/// # Errors
/// [`NoPlacement`] if the gang had no place even without all that may move, or if no plan was found (then it is not proven
/// that there is none).
pub fn defragment(
    cluster: &Cluster,
    jobs: &[Running],
    waiting: &Gang,
    eligible: EligibilityOf<'_>,
) -> Result<Defragmentation, NoPlacement> {
    let mut search = Search { cluster, jobs, waiting, eligible, unproven: false };
    let why = match search.place_waiting(cluster) {
        Ok(placement) => return Ok(search.plan(Vec::new(), placement, true)),
        Err(NoPlacement::NoRoom(why)) => why,
        Err(invalid) => return Err(invalid),
    };
    let mut movable: Vec<Mover> = Vec::new();
    for (job, running) in jobs.iter().enumerate().filter(|(_, running)| !running.fixed) {
        let known = |at: &usize| running.owners.get(*at).is_some_and(|owner| cluster.claim_of(owner).is_some());
        movable.extend((0..running.gang.placed.len()).filter(known).map(|at| Mover { job, at }));
    }
    search.place_waiting(&search.rest(&movable))?;
    let gave_up = || {
        let mut why = why.clone();
        why.proven = false;
        NoPlacement::NoRoom(why)
    };
    let first = search.found(&movable);
    // Without a first plan, everything that is small enough is tried.
    let most = first.as_ref().map_or(movable.len(), |(movers, ..)| movers.len());
    let mut best = first;
    let mut left = MOST_ATTEMPTS;
    let mut fewest = true;
    for size in 1..=most {
        if best.as_ref().is_some_and(|(movers, ..)| movers.len() < size) {
            break;
        }
        let count = sets(movable.len(), size, left + 1);
        if count > left {
            fewest &= best.as_ref().is_some_and(|(movers, ..)| movers.len() <= size);
            break;
        }
        left -= count;
        each_set(movable.len(), size, &mut |set| {
            let movers: Vec<Mover> = set.iter().map(|&at| movable[at]).collect();
            if let Some((moves, placement)) = search.attempt(&movers) {
                let rank = |search: &Search<'_>, movers: &[Mover], placement: &Placement| {
                    let terms = placement.terms.iter().map(|term| term.value).collect::<Vec<_>>();
                    (movers.len(), search.gpus(movers), terms)
                };
                let new = rank(&search, &movers, &placement);
                if best.as_ref().is_none_or(|(movers, _, placement)| new < rank(&search, movers, placement)) {
                    best = Some((movers, moves, placement));
                }
            }
            true
        });
    }
    let (_, moves, placement) = best.ok_or_else(gave_up)?;
    let fewest = fewest && !search.unproven;
    Ok(search.plan(moves, placement, fewest))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mover {
    job: usize,
    /// Its position in the job's [`Gang::placed`].
    at: usize,
}

struct Search<'s> {
    cluster: &'s Cluster,
    jobs: &'s [Running],
    waiting: &'s Gang,
    eligible: EligibilityOf<'s>,
    /// Whether some attempt failed without proof.
    unproven: bool,
}

impl Search<'_> {
    fn owner(&self, mover: Mover) -> &Owner {
        &self.jobs[mover.job].owners[mover.at]
    }

    fn rest(&self, movers: &[Mover]) -> Cluster {
        self.cluster.without(movers.iter().map(|&mover| self.owner(mover)))
    }

    fn gpus(&self, movers: &[Mover]) -> u32 {
        let of = |&mover: &Mover| {
            self.cluster
                .claim_of(self.owner(mover))
                .map_or(0, |(_, claim)| claim.gpus.len() as u32 + claim.unidentified_gpus)
        };
        movers.iter().map(of).sum()
    }

    fn place_waiting(&self, cluster: &Cluster) -> Result<Placement, NoPlacement> {
        place_where(cluster, self.waiting, &|group, node| (self.eligible)(None, group, node))
    }

    /// A set of movers that does, from which nobody can be taken out: halves of it are brought back, then quarters, and so on.
    fn found(&mut self, movable: &[Mover]) -> Option<(Vec<Mover>, Vec<Move>, Placement)> {
        // Nodes that are nearly full come back first: they are the dearest to empty.
        let mut on: BTreeMap<&NodeName, usize> = BTreeMap::new();
        let node = |mover: &Mover| &self.jobs[mover.job].gang.placed[mover.at].node;
        movable.iter().for_each(|mover| *on.entry(node(mover)).or_default() += 1);
        let mut all = movable.to_vec();
        all.sort_by_key(|mover| (std::cmp::Reverse(on[node(mover)]), node(mover).clone(), *mover));
        let room_only = reduced(all.clone(), &mut |movers| self.place_waiting(&self.rest(movers)).is_ok());
        if let Some((moves, placement)) = self.attempt(&room_only) {
            return Some((room_only, moves, placement));
        }
        // What makes room has no place itself: look for a set that has.
        if all.len() > 64 || self.attempt(&all).is_none() {
            return None;
        }
        let movers = reduced(all, &mut |movers| self.attempt(movers).is_some());
        let (moves, placement) = self.attempt(&movers)?;
        Some((movers, moves, placement))
    }

    /// Places for the waiting gang and for these movers, if there are any: one gang after the other, else all at once.
    fn attempt(&mut self, movers: &[Mover]) -> Option<(Vec<Move>, Placement)> {
        let mut rest = self.rest(movers);
        let placement = match self.place_waiting(&rest) {
            Ok(placement) => placement,
            Err(why) => {
                self.note(&why);
                return None;
            }
        };
        let mut by_job: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        movers.iter().for_each(|mover| by_job.entry(mover.job).or_default().push(mover.at));
        plan(&mut rest, "waiting", self.waiting, &placement);
        let mut moves = Vec::new();
        for (&job, positions) in &by_job {
            let running = &self.jobs[job];
            let gang = held(running, positions);
            let eligible = |group: &Group, node: &NodeName| (self.eligible)(Some(running), group, node);
            let Ok(moved) = place_where(&rest, &gang, &eligible) else { return self.at_once(&by_job, movers) };
            plan(&mut rest, &format!("moved-{job}"), &gang, &moved);
            moves.extend(moved.workers.into_iter().map(|worker| self.moved(job, worker)));
        }
        Some((moves, placement))
    }

    fn note(&mut self, why: &NoPlacement) {
        self.unproven |= matches!(why, NoPlacement::NoRoom(why) if !why.proven);
    }

    fn moved(&self, job: usize, worker: Worker) -> Move {
        let running = &self.jobs[job];
        let was = running.gang.placed.iter().find(|p| p.group == worker.group && p.index == worker.index);
        let from = was.map_or_else(|| worker.node.clone(), |placed| placed.node.clone());
        Move {
            job: running.name.clone(),
            group: worker.group,
            index: worker.index,
            from,
            to: worker.node,
            gpus: worker.gpus,
        }
    }

    /// All gangs concerned as one of many groups, each bound as in its own gang.
    fn at_once(&mut self, by_job: &BTreeMap<usize, Vec<usize>>, movers: &[Mover]) -> Option<(Vec<Move>, Placement)> {
        let mut all = Gang::default();
        let mut from: BTreeMap<String, (Option<usize>, &Group)> = BTreeMap::new();
        let gangs: Vec<(Option<usize>, Gang)> = std::iter::once((None, self.waiting.clone()))
            .chain(by_job.iter().map(|(&job, positions)| (Some(job), held(&self.jobs[job], positions))))
            .collect();
        for (job, gang) in &gangs {
            let name = |group: &str| format!("{}/{group}", job.map_or(0, |job| job + 1));
            let originals = job.map_or(self.waiting, |job| &self.jobs[job].gang);
            for (group, original) in gang.groups.iter().zip(&originals.groups) {
                let mut group = group.clone();
                group.name = name(&group.name);
                if gang.groups.len() == 1 {
                    // One domain of the inner level is in one domain of the outer one.
                    let levels = group.required.iter().chain(&gang.required);
                    group.required = levels.max_by_key(|level| self.cluster.depth(level)).cloned();
                }
                from.insert(group.name.clone(), (*job, original));
                all.groups.push(group);
            }
            if let Some(level) = gang.required.clone().filter(|_| gang.groups.len() > 1) {
                let groups = gang.groups.iter().map(|group| name(&group.name)).collect();
                all.relations.push(Relation::Together { groups, level });
            }
            let names = |groups: &[String]| groups.iter().map(|group| name(group)).collect();
            all.relations.extend(gang.relations.iter().map(|relation| match relation {
                Relation::Together { groups, level } => {
                    Relation::Together { groups: names(groups), level: level.clone() }
                }
                Relation::Apart { groups, level } => Relation::Apart { groups: names(groups), level: level.clone() },
                Relation::Leader { leader, workers, level } => {
                    Relation::Leader { leader: name(leader), workers: name(workers), level: level.clone() }
                }
            }));
            let placed = |placed: &Placed| Placed { group: name(&placed.group), ..placed.clone() };
            all.placed.extend(gang.placed.iter().map(placed));
        }
        let eligible = |group: &Group, node: &NodeName| match from.get(&group.name) {
            Some(&(job, original)) => (self.eligible)(job.map(|job| &self.jobs[job]), original, node),
            None => Ok(()),
        };
        let placed = match place_where(&self.rest(movers), &all, &eligible) {
            Ok(placed) => placed,
            Err(why) => {
                self.note(&why);
                return None;
            }
        };
        let mut rest = self.rest(movers);
        let mut moves = Vec::new();
        for mut worker in placed.workers {
            let Some(&(job, original)) = from.get(&worker.group) else { continue };
            worker.group = original.name.clone();
            if let Some(job) = job {
                let claim = Claim {
                    gpus: worker.gpus.clone(),
                    planned: true,
                    resources: original.resources.clone(),
                    ..Claim::default()
                };
                rest.claim(
                    &worker.node.clone(),
                    format!("moved-{job}-{}-{}", worker.group, worker.index).as_str().into(),
                    claim,
                );
                moves.push(self.moved(job, worker));
            }
        }
        // With the movers out of the way, the waiting gang gets the best place that is left: there is one.
        let placement = self.place_waiting(&rest).ok()?;
        Some((moves, placement))
    }

    fn plan(&self, moves: Vec<Move>, placement: Placement, fewest: bool) -> Defragmentation {
        let gone: Vec<Owner> = moves.iter().filter_map(|one| self.owner_of(one)).collect();
        let mut after = self.cluster.without(&gone);
        for one in &moves {
            let claim = Claim { gpus: one.gpus.clone(), ..Claim::default() };
            after.claim(&one.to, format!("moved-{}-{}-{}", one.job, one.group, one.index).as_str().into(), claim);
        }
        let levels = self.cluster.levels().iter().map(|level| level.name.clone()).chain([Level::host()]);
        let gain = |(depth, level)| Gain { level, before: idle(self.cluster, depth), after: idle(&after, depth) };
        let gains = levels.enumerate().map(gain).collect();
        let gpus_started = placement.workers.iter().map(|worker| worker.gpus.len() as u32).sum();
        let gpus_moved = moves.iter().map(|one| one.gpus.len() as u32).sum();
        Defragmentation { moves, placement, gpus_started, gpus_moved, gains, fewest }
    }

    fn owner_of(&self, one: &Move) -> Option<Owner> {
        let running = self.jobs.iter().find(|running| running.name == one.job)?;
        let at = running.gang.placed.iter().position(|p| p.group == one.group && p.index == one.index)?;
        running.owners.get(at).cloned()
    }
}

/// A gang with the number of workers that it runs with, without those that move.
fn held(running: &Running, movers: &[usize]) -> Gang {
    let mut gang = less(&running.gang, movers);
    let mut absent: BTreeSet<(&str, u32)> = BTreeSet::new();
    for placed in &running.gang.placed {
        absent.insert((&placed.group, placed.index));
    }
    for group in &mut gang.groups {
        // Workers that it lacks anyhow are not looked for here: only indices up to the last that runs count.
        let last = absent.iter().filter(|(name, _)| *name == group.name).map(|&(_, index)| index + 1).max();
        let unit = group.slices.first().map_or(1, |slice| slice.size);
        group.replicas = last.unwrap_or(0).next_multiple_of(unit).clamp(1, group.replicas.max(1));
        group.min = None;
    }
    gang
}

/// Claims all that was placed.
fn plan(cluster: &mut Cluster, name: &str, gang: &Gang, placement: &Placement) {
    for worker in &placement.workers {
        let group = gang.groups.iter().find(|group| group.name == worker.group);
        let resources = group.map(|group| group.resources.clone()).unwrap_or_default();
        let claim = Claim { gpus: worker.gpus.clone(), planned: true, resources, ..Claim::default() };
        cluster.claim(&worker.node, format!("{name}-{}-{}", worker.group, worker.index).as_str().into(), claim);
    }
}

/// Drops as many of `set` as `enough` lets, larger parts first.
fn reduced<T: Clone>(mut set: Vec<T>, enough: &mut impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut part = set.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        while at < set.len() {
            let mut fewer = set[..at].to_vec();
            fewer.extend_from_slice(&set[(at + part).min(set.len())..]);
            if enough(&fewer) {
                set = fewer;
            } else {
                at += part;
            }
        }
        part /= 2;
    }
    set
}

/// Domains of a level of which nobody has a GPU.
fn idle(cluster: &Cluster, depth: usize) -> u32 {
    let tree = cluster.tree();
    if depth == cluster.levels().len() {
        return cluster.nodes().filter(|seat| seat.is_idle()).count() as u32;
    }
    tree.domains_at(depth).into_iter().filter(|&id| tree.domain(id).busy == 0).count() as u32
}
