//! What binds numbers of workers to domains: levels that hold a group whole, slices, leaders, groups together or apart,
//! balance. Each is a condition on how many workers of each group a domain holds, so a split over the tree can be checked
//! domain by domain, and a search can drop what no domain may hold.
//!
//! Numbers are enough: workers of a group are equal, so where the numbers are right, indices can be given to them
//! ([`super::ranks`]).

use std::collections::BTreeMap;

use super::ask::depth;
use super::ranks::Place;
use super::room::{Ask, Led};
use crate::gang::{Gang, InvalidGang, Relation};
use crate::tree::Tree;
use crate::{Cluster, Level};

/// All conditions of a gang.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    whole: Vec<Whole>,
    apart: Vec<Apart>,
    units: Vec<Unit>,
    pub(super) balanced: Vec<Counted>,
    pub(super) preferred: Vec<Counted>,
    /// Whether there is more than what a group asks for itself, so that its split depends on others or on balance.
    pub(super) relate: bool,
}

/// A domain of the level holds all workers of the groups, or none.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    pub(super) depth: usize,
    pub(super) groups: Vec<usize>,
    /// Where workers of them run.
    pub(super) bound: Option<Place>,
}

/// A domain of the level holds workers of one of the groups at most.
#[derive(Clone, Debug)]
pub(super) struct Apart {
    pub(super) depth: usize,
    pub(super) groups: Vec<usize>,
    /// The groups of which workers run, by domain.
    pub(super) running: BTreeMap<Place, Vec<usize>>,
}

/// A domain of the level holds whole units, each of so many workers of each part, beside the gaps of units begun.
#[derive(Clone, Debug)]
struct Unit {
    depth: usize,
    parts: Vec<(usize, u32)>,
    /// What units begun in a domain lack, by part.
    gaps: BTreeMap<Place, Vec<u32>>,
}

/// Workers of one group, counted by the domains of one level.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    pub(super) depth: usize,
    pub(super) group: usize,
    pub(super) most: Option<u32>,
    /// Workers that run, by domain.
    running: BTreeMap<Place, u32>,
}

impl Counted {
    fn new(tree: &Tree, ask: &Ask<'_>, group: usize, depth: usize, most: Option<u32>) -> Self {
        let mut running = BTreeMap::new();
        for &seat in ask.running.values() {
            *running.entry(Place::of(tree, seat, depth)).or_default() += 1;
        }
        Self { depth, group, most, running }
    }

    /// Workers of the group that run at a place.
    pub(super) fn running(&self, place: Place) -> u32 {
        self.running.get(&place).copied().unwrap_or(0)
    }
}

impl Rules {
    /// Compiles what a gang asks for; adds to each group of `asks` what relations make of it: labels that nodes need, and
    /// the slices that several leaders cut their workers into.
    ///
    /// # Errors
    /// [`InvalidGang`] names a relation that nothing could satisfy.
    pub(super) fn new(
        cluster: &Cluster,
        gang: &Gang,
        asks: &mut [Ask<'_>],
        required: Option<usize>,
        bound_to: Option<Place>,
    ) -> Result<Self, InvalidGang> {
        let tree = cluster.tree();
        let mut rules = Self::default();
        if let Some(depth) = required {
            rules.whole.push(Whole { depth, groups: (0..asks.len()).collect(), bound: bound_to });
        }
        for (group, ask) in asks.iter().enumerate() {
            if let Some(depth) = ask.required {
                rules.whole.push(Whole { depth, groups: vec![group], bound: ask.bound_to });
            }
            if let Some(balance) = &ask.group.balanced {
                let depth = depth(cluster, &balance.level)?;
                rules.balanced.push(Counted::new(tree, ask, group, depth, balance.most));
            }
            if let Some(level) = &ask.group.preferred {
                rules.preferred.push(Counted::new(tree, ask, group, depth(cluster, level)?, None));
            }
        }
        for relation in &gang.relations {
            rules.relate(cluster, asks, relation)?;
        }
        for (group, ask) in asks.iter().enumerate() {
            for &(depth, size) in &ask.slices {
                rules.units.push(Unit::new(tree, asks, depth, vec![(group, size)]));
            }
            if let Some(led) = &ask.led {
                rules.units.push(Unit::new(tree, asks, led.depth, vec![(led.by, 1), (group, led.size)]));
            }
        }
        rules.relate = !gang.relations.is_empty() || !rules.balanced.is_empty();
        Ok(rules)
    }

    fn relate(&mut self, cluster: &Cluster, asks: &mut [Ask<'_>], relation: &Relation) -> Result<(), InvalidGang> {
        let wrong = |why: String| InvalidGang::Relation { relation: relation.to_string(), why };
        let find = |asks: &[Ask<'_>], name: &str| {
            let unknown = || wrong(format!("there is no group {name:?}: name one of the gang's"));
            asks.iter().position(|ask| ask.group.name == name).ok_or_else(unknown)
        };
        let several = |asks: &[Ask<'_>], names: &[String]| {
            let mut groups = names.iter().map(|name| find(asks, name)).collect::<Result<Vec<_>, _>>()?;
            groups.sort_unstable();
            groups.dedup();
            if groups.len() < 2 || groups.len() < names.len() {
                return Err(wrong("it takes two groups or more, each named once".to_owned()));
            }
            Ok(groups)
        };
        let tree = cluster.tree();
        match relation {
            Relation::Together { groups, level } => {
                let groups = several(asks, groups)?;
                let depth = label(cluster, asks, &groups, level)?;
                self.together(tree, asks, groups, depth).map_err(wrong)
            }
            Relation::Apart { groups, level } => {
                let groups = several(asks, groups)?;
                let depth = label(cluster, asks, &groups, level)?;
                let mut running: BTreeMap<Place, Vec<usize>> = BTreeMap::new();
                for &group in &groups {
                    for &seat in asks[group].running.values() {
                        let there = running.entry(Place::of(tree, seat, depth)).or_default();
                        there.push(group);
                        there.dedup();
                    }
                }
                if running.values().any(|groups| groups.len() > 1) {
                    return Err(wrong("workers of two of them run in one already: count some as failed".to_owned()));
                }
                self.apart.push(Apart { depth, groups, running });
                Ok(())
            }
            Relation::Leader { leader, workers, level } => {
                let (leader, workers) = (find(asks, leader)?, find(asks, workers)?);
                let (leaders, led) = (asks[leader].group, asks[workers].group);
                if leader == workers {
                    return Err(wrong("a group does not lead itself: name two".to_owned()));
                }
                let depth = label(cluster, asks, &[leader, workers], level)?;
                if leaders.replicas == 1 {
                    let mut groups = vec![leader, workers];
                    groups.sort_unstable();
                    return self.together(tree, asks, groups, depth).map_err(wrong);
                }
                if !led.replicas.is_multiple_of(leaders.replicas) {
                    let (leaders, workers) = (leaders.replicas, led.replicas);
                    return Err(wrong(format!(
                        "{leaders} leaders do not divide {workers} workers: choose numbers that do"
                    )));
                }
                if leaders.min.is_some() || led.min.is_some() {
                    return Err(wrong(
                        "with several leaders no group can be elastic: leave the minimum out".to_owned(),
                    ));
                }
                if !asks[leader].slices.is_empty() || asks[leader].led.is_some() {
                    return Err(wrong("leaders have no slices and no leaders of their own".to_owned()));
                }
                if asks
                    .iter()
                    .any(|ask| ask.led.as_ref().is_some_and(|other| other.by == leader || other.by == workers))
                    || asks[workers].led.is_some()
                {
                    return Err(wrong("with several leaders each leads one group, and is led by none".to_owned()));
                }
                let size = led.replicas / leaders.replicas;
                nest(&mut asks[workers].slices, depth, size).map_err(wrong)?;
                let running = asks[leader].running.clone();
                asks[workers].led = Some(Led { by: leader, depth, size, running });
                Ok(())
            }
        }
    }

    fn together(&mut self, tree: &Tree, asks: &[Ask<'_>], groups: Vec<usize>, depth: usize) -> Result<(), String> {
        let seats = groups.iter().flat_map(|&group| asks[group].running.values());
        let mut bound = None;
        for &seat in seats {
            let at = Place::of(tree, seat, depth);
            if *bound.get_or_insert(at) != at {
                return Err("workers of them run in two already: count some as failed".to_owned());
            }
        }
        self.whole.push(Whole { depth, groups, bound });
        Ok(())
    }

    /// Whether a domain of the level at `depth` may hold so many new workers of each group, out of `full` in all.
    pub(super) fn allow(&self, place: Place, depth: usize, counts: &[u32], full: &[u32]) -> bool {
        let whole = self.whole.iter().filter(|rule| rule.depth == depth).all(|rule| {
            let here = rule.groups.iter().any(|&group| counts[group] > 0);
            let all = rule.groups.iter().all(|&group| counts[group] == full[group]);
            match rule.bound {
                Some(bound) if bound == place => all,
                Some(_) => !here,
                None => !here || all,
            }
        });
        whole
            && self.apart.iter().filter(|rule| rule.depth == depth).all(|rule| {
                let running = rule.running.get(&place);
                let is_here =
                    |group: &usize| counts[*group] > 0 || running.is_some_and(|running| running.contains(group));
                rule.groups.iter().filter(|group| is_here(group)).count() <= 1
            })
            && self.units.iter().filter(|rule| rule.depth == depth).all(|rule| rule.allow(place, counts))
            && self.balanced.iter().filter(|rule| rule.depth == depth).all(|rule| {
                let here = counts[rule.group];
                here == 0 || rule.most.is_none_or(|most| here + rule.running(place) <= most)
            })
    }

    /// Levels of which one domain holds a group whole, outermost first, with the groups that share it.
    pub(super) fn wholes(&self, group: usize) -> Vec<&Whole> {
        let mut rules: Vec<&Whole> = self.whole.iter().filter(|rule| rule.groups.contains(&group)).collect();
        rules.sort_by_key(|rule| rule.depth);
        rules
    }

    /// What keeps a group away from others.
    pub(super) fn aparts(&self, group: usize) -> impl Iterator<Item = &Apart> {
        self.apart.iter().filter(move |rule| rule.groups.contains(&group))
    }

    /// The places where units were begun that lack workers, or that groups are bound to.
    pub(super) fn due(&self) -> Vec<(Place, usize)> {
        let gaps = self.units.iter().flat_map(|unit| unit.gaps.keys().map(|&place| (place, unit.depth)));
        let mut due: Vec<_> =
            gaps.chain(self.whole.iter().filter_map(|rule| Some((rule.bound?, rule.depth)))).collect();
        due.sort_unstable();
        due.dedup();
        due
    }
}

impl Unit {
    fn new(tree: &Tree, asks: &[Ask<'_>], depth: usize, parts: Vec<(usize, u32)>) -> Self {
        let mut begun: BTreeMap<u32, u32> = BTreeMap::new();
        for &(group, size) in &parts {
            for (&index, &seat) in &asks[group].running {
                begun.entry(index / size).or_insert(seat);
            }
            // A leader that runs says where its workers go, and so the slices around them.
            if let Some(led) = asks[group].led.as_ref().filter(|led| parts.len() == 1 && depth <= led.depth) {
                for (&leader, &seat) in &led.running {
                    begun.entry(leader * led.size / size).or_insert(seat);
                }
            }
        }
        let mut gaps: BTreeMap<Place, Vec<u32>> = BTreeMap::new();
        for (unit, seat) in begun {
            let lacks = |&(group, size): &(usize, u32)| {
                asks[group].missing.iter().filter(|&&index| index / size == unit).count() as u32
            };
            let lacks: Vec<u32> = parts.iter().map(lacks).collect();
            if lacks.iter().any(|&lacks| lacks > 0) {
                let gap = gaps.entry(Place::of(tree, seat, depth)).or_insert_with(|| vec![0; parts.len()]);
                gap.iter_mut().zip(lacks).for_each(|(gap, lacks)| *gap += lacks);
            }
        }
        Self { depth, parts, gaps }
    }

    fn allow(&self, place: Place, counts: &[u32]) -> bool {
        let gap = self.gaps.get(&place);
        let mut units = None;
        self.parts.iter().enumerate().all(|(nth, &(group, size))| {
            let Some(more) = counts[group].checked_sub(gap.map_or(0, |gap| gap[nth])) else { return false };
            more.is_multiple_of(size) && *units.get_or_insert(more / size) == more / size
        })
    }
}

/// Adds the label of `level` to what nodes need for these groups.
fn label(cluster: &Cluster, asks: &mut [Ask<'_>], groups: &[usize], level: &Level) -> Result<usize, InvalidGang> {
    let depth = depth(cluster, level)?;
    if !level.is_host() {
        for &group in groups {
            let labels = &mut asks[group].labels;
            labels.push((depth, level.clone()));
            labels.sort_unstable();
            labels.dedup();
        }
    }
    Ok(depth)
}

/// Adds a slice of `size` at `depth` to slices that nest.
fn nest(slices: &mut Vec<(usize, u32)>, depth: usize, size: u32) -> Result<(), String> {
    for slice in slices.iter_mut() {
        let fits = match slice.0.cmp(&depth) {
            std::cmp::Ordering::Less => slice.1.is_multiple_of(size),
            std::cmp::Ordering::Greater => size.is_multiple_of(slice.1),
            std::cmp::Ordering::Equal => slice.1.is_multiple_of(size) || size.is_multiple_of(slice.1),
        };
        if !fits {
            return Err(format!(
                "each leads {size} workers, which do not nest with slices of {}: choose a multiple",
                slice.1
            ));
        }
    }
    match slices.iter_mut().find(|slice| slice.0 == depth) {
        Some(slice) => slice.1 = slice.1.max(size),
        None => {
            slices.push((depth, size));
            slices.sort_unstable();
        }
    }
    Ok(())
}
