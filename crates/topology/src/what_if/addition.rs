//! The fewest nodes that make room for a gang, and where: what an autoscaler is asked for.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::gang::Relation;
use crate::{
    Cluster, DomainName, Eligibility, Gang, GpuSet, Group, Level, Member, NoPlacement, NoRoom, Node, NodeFacts,
    NodeName, Placement, place, place_where,
};

/// What the names of nodes that are only imagined start with.
pub const ADDED: &str = "added-node-";

/// The most nodes that are told: twice as many as Kubernetes supports in a cluster.
pub const MOST_ADDED: u32 = 10_000;

/// Nodes imagined in all attempts together. Each costs 45 µs in a build that is not optimised, with placing on it.
const MOST_IMAGINED: u32 = 100_000;

/// Placements tried beyond those into a single domain.
const MOST_ATTEMPTS: u32 = 300;

/// The fewest nodes that make room for a gang.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Addition {
    /// How many nodes; none if there is room already.
    pub nodes: u32,
    /// The level at which it matters where they are; none if anywhere will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// What the first of them looks like: the model given, labelled for the domain that it has to be in.
    pub member: Member,
    /// How many go where. One entry if all are alike.
    pub parts: Vec<Added>,
    /// How the gang is placed then; the names of added nodes start with [`ADDED`].
    pub placement: Placement,
    /// Whether it is proven that no fewer nodes like the model do, in the domains that there are and in the model's own.
    pub fewest: bool,
}

/// Nodes to add in one domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Added {
    /// How many.
    pub nodes: u32,
    /// The domain of [`Addition::level`]; none if the level does not matter or the model has no label for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<DomainName>,
    /// What they look like.
    pub member: Member,
}

/// There is no number of nodes to tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddition {
    /// Not even one more node per worker makes room.
    #[error(transparent)]
    NoPlacement(#[from] NoPlacement),
    /// [`MOST_ADDED`] more nodes do not make room, and no more are looked at.
    #[error("{MOST_ADDED} more nodes like {0} do not make room, and more are not looked at: ask for fewer workers")]
    TooMany(NodeName),
    /// Not all ways to add nodes were tried, and none that was makes room.
    #[error("no number of nodes like {0} was found that makes room, and not all ways to add them were tried")]
    GaveUp(NodeName),
}

/// The fewest nodes like `model` to add, and where.
///
/// Where the gang is bound to domains of a level, each domain there is, and the one that `model` is labelled for, is tried
/// for all nodes; where it is bound in parts (slices, relations), so is spreading them over several. The model itself is
/// taken as eligible. Of equally many nodes the first domain wins, the model's own first.
///
/// # Errors
/// The reason why the gang has no place even with one node like `model` per worker, or with [`MOST_ADDED`] if those are fewer;
/// [`NoAddition::GaveUp`] should there be too many domains for so many nodes, or too many ways to spread them.
pub fn smallest_addition(
    cluster: &Cluster,
    gang: &Gang,
    eligible: Eligibility<'_>,
    model: &Member,
) -> Result<Addition, NoAddition> {
    let (depth, parts) = binding(cluster, gang);
    let models = models(cluster, depth, model);
    let imagined = MOST_IMAGINED;
    let mut search = Search { cluster, gang, eligible, models: &models, depth, imagined, unproven: false };
    let none = match search.attempt(&[(0, 0)]) {
        Ok(placement) => return Ok(search.addition(&[(0, 0)], placement, true)),
        Err(NoPlacement::NoRoom(why)) => why,
        Err(invalid) => return Err(invalid.into()),
    };
    let Some(guess) = guess(cluster, gang, model, &none) else {
        // Of whatever number of such nodes none would be used.
        let placement = search.attempt(&[(0, 1)])?;
        return Ok(search.addition(&[(0, 1)], placement, !search.unproven));
    };
    let least = gpus_missing(cluster, gang).div_ceil((model.node.gpus().len() as u64).max(1));
    let Some(least) = u32::try_from(least).ok().filter(|&least| least <= MOST_ADDED) else {
        return Err(NoAddition::TooMany(model.node.name().clone()));
    };
    let workers = gang.workers() - gang.placed.len() as u64;
    let most = u32::try_from(workers).unwrap_or(u32::MAX).min(MOST_ADDED);
    let mut best: Option<(u32, usize, Placement)> = None;
    let mut why = None;
    let mut complete = true;
    for nth in 0..models.len() {
        let below = best.as_ref().map_or(most + 1, |&(nodes, _, _)| nodes);
        if below <= 1 {
            break;
        }
        // Most domains after the first do not do with less, which one attempt tells.
        match search.fewest(nth, if nth == 0 { guess } else { below - 1 }, below - 1) {
            Some(Ok((nodes, placement))) => best = Some((nodes, nth, placement)),
            Some(Err(reason)) => why = why.or(Some(reason)),
            None => {
                complete = false;
                break;
            }
        }
    }
    let single = best.map(|(nodes, nth, placement)| (vec![(nth, nodes)], placement));
    let limit = single.as_ref().map_or(most, |(parts, _)| parts[0].1 - 1);
    let mut found = single;
    if parts && models.len() > 1 {
        let mut attempts = MOST_ATTEMPTS;
        'sizes: for nodes in least.max(2)..=limit {
            let mut spread = vec![0u32; models.len()];
            spread[0] = nodes;
            loop {
                if spread.iter().filter(|&&nodes| nodes > 0).count() > 1 {
                    if attempts == 0 || !search.affords(nodes) {
                        complete = false;
                        break 'sizes;
                    }
                    attempts -= 1;
                    let parts: Vec<(usize, u32)> =
                        spread.iter().copied().enumerate().filter(|part| part.1 > 0).collect();
                    if let Ok(placement) = search.attempt(&parts) {
                        found = Some((parts, placement));
                        break 'sizes;
                    }
                }
                if !next_spread(&mut spread) {
                    break;
                }
            }
        }
    }
    match found {
        Some((parts, placement)) => {
            let fewest = complete && !search.unproven;
            Ok(search.addition(&parts, placement, fewest))
        }
        None if workers > u64::from(most) => Err(NoAddition::TooMany(model.node.name().clone())),
        None if !complete => Err(NoAddition::GaveUp(model.node.name().clone())),
        None => Err(why.unwrap_or(NoPlacement::NoRoom(none)).into()),
    }
}

/// About how many nodes it will take: what the workers that lack a place need of empty ones. None if no worker of any group
/// fits on one.
fn guess(cluster: &Cluster, gang: &Gang, model: &Member, none: &NoRoom) -> Option<u32> {
    let nodes = gang.groups.iter().filter_map(|group| {
        let room = NonZeroU64::new(room(cluster, group, model))?;
        Some(missing(gang, group).div_ceil(room.get()))
    });
    let nodes = nodes.reduce(|all, more| all + more)?;
    let bound = none.best.iter().find(|best| best.level == none.required);
    let workers = u64::from(none.workers).max(1);
    let lacking = workers.saturating_sub(bound.map_or(0, |best| u64::from(best.fits)));
    Some(u32::try_from((nodes * lacking).div_ceil(workers)).unwrap_or(u32::MAX).max(1))
}

/// Workers of a group that have to find a place.
fn missing(gang: &Gang, group: &Group) -> u64 {
    let running = gang.placed.iter().filter(|placed| placed.group == group.name).count();
    u64::from(group.min.unwrap_or(group.replicas)).saturating_sub(running as u64)
}

/// GPUs that are wanted beyond all that there are, were they free.
fn gpus_missing(cluster: &Cluster, gang: &Gang) -> u64 {
    let wanted: u64 = gang.groups.iter().map(|group| missing(gang, group) * u64::from(group.gpus)).sum();
    wanted.saturating_sub(cluster.nodes().map(|seat| seat.member.node.gpus().len() as u64).sum())
}

/// Workers of a group that fit on an empty node like `model`, counted up to as many as a node can have GPUs.
fn room(cluster: &Cluster, group: &Group, model: &Member) -> u64 {
    let (replicas, min) = (group.replicas.min(GpuSet::CAPACITY as u32), Some(1));
    let (required, preferred, balanced, slices) = (None, None, None, Vec::new());
    let group = Group { replicas, min, required, preferred, balanced, slices, ..group.clone() };
    // The levels come from a cluster, so they make one again.
    let Ok(mut alone) = Cluster::new(cluster.levels().to_vec()) else { return 0 };
    alone.upsert(model.clone());
    place(&alone, &Gang { groups: vec![group], ..Gang::default() })
        .map_or(0, |placement| placement.workers.len() as u64)
}

struct Search<'s> {
    cluster: &'s Cluster,
    gang: &'s Gang,
    eligible: Eligibility<'s>,
    models: &'s [Member],
    depth: Option<usize>,
    /// What is left of the nodes to imagine.
    imagined: u32,
    /// Whether some attempt failed without proof, or was left out.
    unproven: bool,
}

impl Search<'_> {
    /// The fewest nodes like a model that do, of at most `most`, looked for from `guess` on. None if there is nothing left to
    /// imagine them with.
    fn fewest(&mut self, nth: usize, guess: u32, most: u32) -> Option<Result<(u32, Placement), NoPlacement>> {
        // Room does not go away as nodes are added, so between a number that fails and one that fits lies the fewest.
        let (mut fails, mut fits) = (0, None);
        let guess = guess.min(most);
        for nodes in [guess, most] {
            if fits.is_none() && nodes > fails {
                if !self.affords(nodes) {
                    return None;
                }
                match self.attempt(&[(nth, nodes)]) {
                    Ok(placement) => fits = Some((nodes, placement)),
                    Err(why) if nodes == most => return Some(Err(why)),
                    Err(_) => fails = nodes,
                }
            }
        }
        let (mut fits, mut placement) = fits?;
        let down = fits == guess;
        let mut step = 1;
        while fits - fails > 1 {
            // Away from the guess in steps that double, and by halving once that is less.
            let half = fails.midpoint(fits);
            let nodes = if down { half.max(fits.saturating_sub(step)) } else { half.min(fails.saturating_add(step)) };
            step = step.saturating_mul(2);
            if !self.affords(nodes) {
                break;
            }
            match self.attempt(&[(nth, nodes)]) {
                Ok(fewer) => (fits, placement) = (nodes, fewer),
                Err(_) => fails = nodes,
            }
        }
        Some(Ok((fits, placement)))
    }

    /// Whether so many more nodes can be imagined; if not, nothing is proven any more.
    fn affords(&mut self, nodes: u32) -> bool {
        let left = self.imagined.checked_sub(nodes);
        self.unproven |= left.is_none();
        self.imagined = left.unwrap_or(self.imagined);
        left.is_some()
    }

    /// Places the gang with so many more nodes like each model.
    fn attempt(&mut self, parts: &[(usize, u32)]) -> Result<Placement, NoPlacement> {
        let eligible = |group: &Group, node: &NodeName| {
            if node.as_str().starts_with(ADDED) { Ok(()) } else { (self.eligible)(group, node) }
        };
        let mut larger = self.cluster.clone();
        let mut number = 0;
        for &(model, nodes) in parts {
            for _ in 0..nodes {
                let member = &self.models[model];
                larger.upsert(Member { node: renamed(&member.node, number), ..member.clone() });
                number += 1;
            }
        }
        let placed = place_where(&larger, self.gang, &eligible);
        if let Err(NoPlacement::NoRoom(why)) = &placed {
            self.unproven |= !why.proven;
        }
        placed
    }

    fn addition(&self, parts: &[(usize, u32)], placement: Placement, fewest: bool) -> Addition {
        let level = self.depth.map(|depth| self.cluster.levels()[depth].clone());
        let part = |&(model, nodes): &(usize, u32)| {
            let member = self.models[model].clone();
            let domain = level.as_ref().and_then(|level| member.labels.get(&level.label));
            Added { nodes, domain: domain.map(|domain| domain.as_str().into()), member }
        };
        let parts: Vec<Added> = parts.iter().map(part).collect();
        let nodes = parts.iter().map(|part| part.nodes).sum();
        let member = parts[0].member.clone();
        let level = level.map(|level| level.name);
        Addition { nodes, level, member, parts, placement, fewest }
    }
}

/// The next way to write the same sum, in reverse order of the digits. False after the last.
fn next_spread(spread: &mut [u32]) -> bool {
    let last = spread.len() - 1;
    let Some(from) = spread[..last].iter().rposition(|&nodes| nodes > 0) else { return false };
    let rest = std::mem::take(&mut spread[last]);
    spread[from] -= 1;
    spread[from + 1] = rest + 1;
    true
}

/// The innermost level above the node that binds workers of the gang to domains, and whether it binds parts of them rather
/// than all.
fn binding(cluster: &Cluster, gang: &Gang) -> (Option<usize>, bool) {
    let required = gang.required.as_ref().and_then(|level| cluster.depth(level));
    let required = required.filter(|&depth| depth < cluster.levels().len());
    let groups = gang.groups.iter().flat_map(|group| {
        let slices = group.slices.iter().map(|slice| &slice.level);
        slices.chain(&group.required).chain(group.balanced.iter().map(|balance| &balance.level))
    });
    let relations = gang.relations.iter().map(|relation| match relation {
        Relation::Together { level, .. } | Relation::Apart { level, .. } | Relation::Leader { level, .. } => level,
    });
    let inner = groups.chain(relations).filter_map(|level| cluster.depth(level));
    let inner = inner.filter(|&depth| depth < cluster.levels().len()).max();
    let parts = inner > required;
    (inner.max(required), parts)
}

/// The model, labelled as it is and for each other domain of a level.
fn models(cluster: &Cluster, depth: Option<usize>, model: &Member) -> Vec<Member> {
    let mut models = vec![model.clone()];
    let Some(depth) = depth else { return models };
    let mut seen = BTreeSet::new();
    for seat in cluster.nodes() {
        let path = &seat.path[..=depth];
        if path[depth].is_none() || !seen.insert(path) {
            continue;
        }
        let mut member = model.clone();
        for (level, name) in cluster.levels().iter().zip(path) {
            match name {
                Some(name) => member.labels.insert(level.label.clone(), name.as_str().to_owned()),
                None => member.labels.remove(&level.label),
            };
        }
        if member.labels != model.labels {
            models.push(member);
        }
    }
    models
}

/// The same machine under another name, with GPUs of its own.
fn renamed(node: &Node, nth: u32) -> Node {
    let mut facts = NodeFacts::from(node.clone());
    facts.name = format!("{ADDED}{nth}");
    for gpu in &mut facts.gpus {
        gpu.uuid = format!("{}-{nth}", gpu.uuid).into();
    }
    // The facts come from a node, so they make one again.
    Node::new(facts).unwrap_or_else(|_| node.clone())
}

#[cfg(test)]
mod tests {
    use super::next_spread;

    #[test]
    fn every_way_to_spread_nodes_comes_once() {
        let mut spread = vec![3, 0, 0];
        let mut all = vec![spread.clone()];
        while next_spread(&mut spread) {
            all.push(spread.clone());
        }
        let expected: Vec<Vec<u32>> = (0..=3u32)
            .rev()
            .flat_map(|first| (0..=3 - first).rev().map(move |second| vec![first, second, 3 - first - second]))
            .collect();
        assert_eq!(all, expected);
        assert!(!next_spread(&mut [4]), "one domain takes them all");
    }
}
