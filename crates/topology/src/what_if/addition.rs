//! The fewest nodes that make room for a gang, and where: what an autoscaler is asked for.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::gang::Relation;
use crate::{
    Cluster, DomainName, Eligibility, Gang, Group, Level, Member, NoPlacement, Node, NodeFacts, NodeName, Placement,
    place_where,
};

/// What the names of nodes that are only imagined start with.
pub const ADDED: &str = "added-node-";

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

/// The fewest nodes like `model` to add, and where.
///
/// Where the gang is bound to domains of a level, each domain there is, and the one that `model` is labelled for, is tried
/// for all nodes; where it is bound in parts (slices, relations), so is spreading them over several. The model itself is
/// taken as eligible. Of equally many nodes the first domain wins, the model's own first.
///
/// # Errors
/// The reason why the gang has no place even with one node like `model` per worker.
pub fn smallest_addition(
    cluster: &Cluster,
    gang: &Gang,
    eligible: Eligibility<'_>,
    model: &Member,
) -> Result<Addition, NoPlacement> {
    let (depth, parts) = binding(cluster, gang);
    let models = models(cluster, depth, model);
    let mut search = Search { cluster, gang, eligible, models: &models, depth, unproven: false };
    let most = gang.groups.iter().map(|group| group.replicas).sum::<u32>() - gang.placed.len() as u32;
    let mut best = match search.attempt(&[(0, 0)]) {
        Ok(placement) => return Ok(search.addition(&[(0, 0)], placement, true)),
        Err(invalid @ NoPlacement::Invalid(_)) => return Err(invalid),
        Err(NoPlacement::NoRoom(_)) => None,
    };
    let mut why = None;
    for nth in 0..models.len() {
        let below = best.as_ref().map_or(most + 1, |&(nodes, _, _)| nodes);
        if below <= 1 {
            break;
        }
        match search.attempt(&[(nth, below - 1)]) {
            Ok(placement) => best = Some((below - 1, nth, placement)),
            Err(reason) => {
                why.get_or_insert(reason);
                continue;
            }
        }
        // Room does not go away as nodes are added, so the fewest that do can be found by halving.
        let (mut fails, mut fits) = (0, below - 1);
        while fits - fails > 1 {
            let middle = fails.midpoint(fits);
            match search.attempt(&[(nth, middle)]) {
                Ok(placement) => {
                    fits = middle;
                    best = Some((fits, nth, placement));
                }
                Err(_) => fails = middle,
            }
        }
    }
    let single = best.map(|(nodes, nth, placement)| (vec![(nth, nodes)], placement));
    let limit = single.as_ref().map_or(most, |(parts, _)| parts[0].1 - 1);
    let mut found = single;
    let mut complete = true;
    if parts && models.len() > 1 {
        let mut attempts = MOST_ATTEMPTS;
        'sizes: for nodes in 2..=limit {
            let mut spread = vec![0u32; models.len()];
            spread[0] = nodes;
            loop {
                if spread.iter().filter(|&&nodes| nodes > 0).count() > 1 {
                    if attempts == 0 {
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
    match (found, why) {
        (Some((parts, placement)), _) => {
            let fewest = complete && !search.unproven;
            Ok(search.addition(&parts, placement, fewest))
        }
        (None, Some(why)) => Err(why),
        (None, None) => {
            let parts = [(0, most)];
            search.attempt(&parts).map(|placement| search.addition(&parts, placement, false))
        }
    }
}

struct Search<'s> {
    cluster: &'s Cluster,
    gang: &'s Gang,
    eligible: Eligibility<'s>,
    models: &'s [Member],
    depth: Option<usize>,
    /// Whether some attempt failed without proof.
    unproven: bool,
}

impl Search<'_> {
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
