//! Works out why a gang has no place, for people.

mod counted;
mod looked;

use super::Eligibility;
use super::ask::Question;
use super::ranks::Place;
use super::room::Ask;
use crate::gang::Gang;
use crate::tree::{ROOT, Tree};
use crate::why::{Best, Excluded, Exclusion, NoRoom};
use crate::{Cluster, Level};

/// What is asked for, in words: `2 workers × 8 GPUs`; groups are named where there are several.
pub(super) fn wanted(gang: &Gang, workers: &[u32]) -> String {
    let groups = gang.groups.iter().zip(workers).filter(|&(_, &workers)| workers > 0);
    let parts: Vec<String> = groups
        .map(|(group, &workers)| {
            let s = |n: u32| if n == 1 { "" } else { "s" };
            let what = match group.gpus {
                0 => String::new(),
                n => format!(" × {n} GPU{}", s(n)),
            };
            let kind = match (&group.product, &group.mig_profile) {
                (product, Some(profile)) => {
                    format!(" ({}{profile} slices)", product.as_ref().map(|p| format!("{p} ")).unwrap_or_default())
                }
                (Some(product), None) => format!(" ({product})"),
                (None, None) => String::new(),
            };
            let name = if gang.groups.len() > 1 { format!(" {:?}", group.name) } else { String::new() };
            format!("{workers} worker{}{name}{what}{kind}", s(workers))
        })
        .collect();
    if parts.is_empty() { "no workers".to_owned() } else { parts.join(" + ") }
}

/// What binds groups beyond their own level, in words.
fn relations(gang: &Gang) -> Vec<String> {
    let balanced = gang.groups.iter().filter_map(|group| {
        let crate::gang::Balance { level, most } = group.balanced.as_ref()?;
        Some(format!("at most {} of {:?} in one {level}", (*most)?, group.name))
    });
    gang.relations.iter().map(ToString::to_string).chain(balanced).collect()
}

/// Workers of a group that have to find a place, or there is none.
fn least(ask: &Ask<'_>) -> u32 {
    let running = ask.running.len() as u32;
    ask.group.min.map_or(ask.missing.len() as u32, |min| min.saturating_sub(running))
}

/// What has room for the gang, and what excludes the nodes that have not.
struct Found {
    /// By level, the whole cluster first: the most workers that fit in one place, and the first place with that room.
    best: Vec<(u32, Option<Place>)>,
    excluded: Vec<Counted>,
}

/// Nodes excluded for one reason.
struct Counted {
    group: usize,
    /// That of the first of them in the order of the tree, which is `first`.
    reason: Exclusion,
    first: u32,
    nodes: u32,
    /// The domain of the level that the gang is bound to, if all of them are in one.
    domain: Option<u32>,
}

pub(super) fn no_room(
    cluster: &Cluster,
    gang: &Gang,
    question: &Question<'_>,
    eligible: Option<Eligibility<'_>>,
    proven: bool,
) -> NoRoom {
    let tree = cluster.tree();
    let found = match eligible {
        None => counted::found(cluster, question),
        Some(_) => None,
    };
    let Found { best, excluded } = found.unwrap_or_else(|| looked::found(cluster, gang, question, eligible));

    let levels = cluster.levels().iter().map(|level| level.name.clone()).chain([Level::host()]);
    let best = [None].into_iter().chain(levels.map(Some)).zip(best).enumerate();
    let best = best.map(|(nth, (level, (fits, place)))| {
        let domain = place.filter(|_| level.is_some() && fits > 0).and_then(|place| match place {
            Place::Domain(id) => tree.domain(id).key.name.clone(),
            Place::Seat(id) => tree.seat(id).map(|seat| seat.name().as_str().into()),
        });
        Best { level, domain, fits, domains: nth.checked_sub(1).map_or(1, |depth| domains_at(tree, depth)) }
    });
    let best = best.collect();

    let mut excluded: Vec<Excluded> = excluded
        .into_iter()
        .filter_map(|one| {
            Some(Excluded {
                group: gang.groups[one.group].name.clone(),
                reason: one.reason,
                nodes: one.nodes,
                example: tree.seat(one.first)?.name().clone(),
                domain: one.domain.and_then(|id| tree.domain(id).key.name.clone()),
            })
        })
        .collect();
    excluded.sort_by(|a, b| b.nodes.cmp(&a.nodes).then_with(|| a.reason.cmp(&b.reason)));
    let workers: Vec<u32> = question.asks.iter().map(least).collect();
    NoRoom {
        wanted: wanted(gang, &workers),
        workers: workers.iter().sum(),
        required: bound_level(cluster, question),
        relations: relations(gang),
        best,
        excluded,
        nodes: tree.domain(ROOT).nodes,
        proven,
    }
}

/// How many domains, or nodes, there are at a level.
fn domains_at(tree: &Tree, depth: usize) -> u32 {
    tree.level(depth).map_or(tree.domain(ROOT).nodes, |level| level.domains)
}

/// The depth of the level of which one domain has to hold all workers: the gang's, or that of its only group.
fn bound_to_one(question: &Question<'_>) -> Option<usize> {
    match question.asks.as_slice() {
        [ask] => question.required.max(ask.required),
        _ => question.required,
    }
}

fn bound_level(cluster: &Cluster, question: &Question<'_>) -> Option<Level> {
    let depth = bound_to_one(question)?;
    Some(cluster.levels().get(depth).map_or_else(Level::host, |level| level.name.clone()))
}

/// The same above the node.
fn bound_depth(tree: &Tree, question: &Question<'_>) -> Option<usize> {
    bound_to_one(question).filter(|&depth| tree.level(depth).is_some())
}
