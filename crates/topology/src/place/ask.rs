//! Checks a gang against itself and the cluster's levels, and works out which workers have no place.

use std::collections::{BTreeMap, BTreeSet};

use super::ranks::Place;
use super::relations::Rules;
use super::room::Ask;
use crate::gang::{Gang, Group, InvalidGang, MOST_WORKERS};
use crate::{Cluster, GpuSet, Level};

/// A gang in terms of the cluster's tree.
pub(super) struct Question<'a> {
    /// The gang asked about.
    pub(super) gang: &'a Gang,
    /// One per group, in the gang's order.
    pub(super) asks: Vec<Ask<'a>>,
    /// The level that binds all groups.
    pub(super) required: Option<usize>,
    /// The domain of that level where workers run already.
    pub(super) bound_to: Option<Place>,
    /// All that binds numbers of workers to domains.
    pub(super) rules: Rules,
}

impl Question<'_> {
    /// GPUs of so many workers of each group.
    pub(super) fn gpus(&self, workers: &[u32]) -> u64 {
        self.asks.iter().zip(workers).map(|(ask, &count)| u64::from(ask.group.gpus) * u64::from(count)).sum()
    }
}

/// # Errors
/// [`InvalidGang`] names what no cluster could satisfy.
pub(super) fn question<'a>(cluster: &Cluster, gang: &'a Gang) -> Result<Question<'a>, InvalidGang> {
    let required = gang.required.as_ref().map(|level| depth(cluster, level)).transpose()?;
    if let Some(level) = &gang.preferred {
        depth(cluster, level)?;
    }
    if gang.groups.is_empty() {
        return Err(InvalidGang::NoGroups);
    }
    if gang.workers() > MOST_WORKERS {
        return Err(InvalidGang::TooManyWorkers(gang.workers()));
    }
    let mut asks: Vec<Ask<'a>> = Vec::with_capacity(gang.groups.len());
    for group in &gang.groups {
        if asks.iter().any(|ask| ask.group.name == group.name) {
            return Err(InvalidGang::RepeatedGroup(group.name.clone()));
        }
        asks.push(ask(cluster, group, gang.required.as_ref())?);
    }
    let mut bound_to = None;
    for placed in &gang.placed {
        let wrong = |why: &str| InvalidGang::Placed {
            group: placed.group.clone(),
            index: placed.index,
            node: placed.node.clone(),
            why: why.to_owned(),
        };
        let ask = asks.iter_mut().find(|ask| ask.group.name == placed.group);
        let ask = ask.ok_or_else(|| wrong("there is no such group"))?;
        if placed.index >= ask.group.replicas {
            return Err(wrong("the group has no worker of that index"));
        }
        let seat = cluster.tree().seat_id(&placed.node);
        let seat = seat.ok_or_else(|| wrong("the node is not there: count the worker as failed"))?;
        if ask.running.insert(placed.index, seat).is_some() {
            return Err(wrong("that worker is listed twice"));
        }
        for (required, bound_to) in [(required, &mut bound_to), (ask.required, &mut ask.bound_to)] {
            let Some(depth) = required else { continue };
            let at = Place::of(cluster.tree(), seat, depth);
            if *bound_to.get_or_insert(at) != at {
                return Err(wrong("other workers are in another domain of the required level"));
            }
        }
    }
    for ask in &mut asks {
        ask.missing = (0..ask.group.replicas).filter(|index| !ask.running.contains_key(index)).collect();
    }
    let rules = Rules::new(cluster, gang, &mut asks, required, bound_to)?;
    Ok(Question { gang, asks, required, bound_to, rules })
}

fn ask<'a>(cluster: &Cluster, group: &'a Group, gang_level: Option<&Level>) -> Result<Ask<'a>, InvalidGang> {
    let Group { replicas, gpus, .. } = *group;
    let name = || group.name.clone();
    if replicas == 0 {
        return Err(InvalidGang::NoReplicas(name()));
    }
    if let Some(min) = group.min.filter(|min| !(1..=replicas).contains(min)) {
        return Err(InvalidGang::MinOutOfRange { group: name(), min, replicas });
    }
    if gpus as usize > GpuSet::CAPACITY {
        return Err(InvalidGang::TooManyGpus { group: name(), gpus });
    }
    let required = group.required.as_ref().map(|level| depth(cluster, level)).transpose()?;
    let mut slices: Vec<(usize, u32)> = Vec::with_capacity(group.slices.len());
    for slice in &group.slices {
        let wrong = |why: String| InvalidGang::Slices { group: name(), why };
        let depth = depth(cluster, &slice.level)?;
        let (outer, outer_size) = slices.last().map_or((None, replicas), |&(depth, size)| (Some(depth), size));
        if outer.is_some_and(|outer| outer >= depth) {
            return Err(wrong(format!(
                "level {} is not below the slice before it: list the outermost first",
                slice.level
            )));
        }
        if slice.size == 0 || !outer_size.is_multiple_of(slice.size) {
            return Err(wrong(format!("size {} does not divide {outer_size}: choose one that does", slice.size)));
        }
        slices.push((depth, slice.size));
    }
    if let Some(level) = &group.preferred {
        depth(cluster, level)?;
    }
    if group.balanced.as_ref().is_some_and(|balance| balance.most == Some(0)) {
        return Err(InvalidGang::BalancedOnNothing(name()));
    }
    let levels = gang_level.into_iter().chain(&group.required).chain(group.slices.iter().map(|slice| &slice.level));
    let levels = levels.chain(group.balanced.iter().map(|balance| &balance.level));
    let mut labels: Vec<(usize, Level)> = Vec::new();
    for level in levels.filter(|level| !level.is_host()) {
        labels.push((depth(cluster, level)?, level.clone()));
    }
    labels.sort_unstable();
    labels.dedup();
    Ok(Ask {
        group,
        missing: Vec::new(),
        running: BTreeMap::new(),
        required,
        bound_to: None,
        slices,
        labels,
        led: None,
    })
}

pub(super) fn depth(cluster: &Cluster, level: &Level) -> Result<usize, InvalidGang> {
    cluster.depth(level).ok_or_else(|| {
        let known: BTreeSet<_> = cluster.levels().iter().map(|level| level.name.as_str()).collect();
        let known: Vec<_> = known.into_iter().chain(["host"]).collect();
        InvalidGang::UnknownLevel { level: level.clone(), known: known.join(", ") }
    })
}
