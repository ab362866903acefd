//! Every way to put several groups on a few nodes, and what the documentation says of each.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use weft_topology::*;

use super::{domains, is_nvlinked, sets_on_node};

/// Workers by group, then by node (as numbers).
pub type Counts = Vec<Vec<u32>>;

/// What workers on a node add to the objective and which GPUs they take, by node, free GPUs, GPUs of each, workers.
type OnNode = HashMap<(usize, u64, usize, usize), ([i64; 3], GpuSet)>;

/// A cluster and a gang, with what brute force asks again and again worked out once.
pub struct World<'a> {
    pub gang: &'a Gang,
    seats: Vec<&'a Seat>,
    /// By level, the host included: the domain of each node.
    domains: Vec<Vec<String>>,
    depth: HashMap<Level, usize>,
    pub missing: Vec<u32>,
    on_node: RefCell<OnNode>,
}

impl<'a> World<'a> {
    pub fn new(cluster: &'a Cluster, gang: &'a Gang) -> Self {
        let seats: Vec<&Seat> = cluster.nodes().collect();
        let levels = cluster.levels().len() + 1;
        let domains =
            (0..levels).map(|depth| seats.iter().map(|seat| domains(seat)[depth].clone()).collect()).collect();
        let names = cluster.levels().iter().map(|level| level.name.clone()).chain([Level::host()]);
        let depth = names.enumerate().map(|(depth, name)| (name, depth)).collect();
        let running = |group: &Group| gang.placed.iter().filter(|placed| placed.group == group.name).count() as u32;
        let missing = gang.groups.iter().map(|group| group.replicas - running(group)).collect();
        Self { gang, seats, domains, depth, missing, on_node: Default::default() }
    }

    pub fn group(&self, name: &str) -> usize {
        self.gang.groups.iter().position(|group| group.name == name).unwrap()
    }

    /// Running workers of a group: index and node.
    pub fn running(&self, group: usize) -> Vec<(u32, usize)> {
        let mine = self.gang.placed.iter().filter(|placed| placed.group == self.gang.groups[group].name);
        mine.map(|placed| (placed.index, self.seats.iter().position(|s| *s.name() == placed.node).unwrap())).collect()
    }

    /// Domains of a level where a group is, running workers included or not.
    pub fn at(&self, counts: &Counts, group: usize, depth: usize, with_running: bool) -> BTreeMap<&str, u32> {
        let mut at: BTreeMap<&str, u32> = BTreeMap::new();
        for (node, &workers) in counts[group].iter().enumerate().filter(|&(_, &workers)| workers > 0) {
            *at.entry(&self.domains[depth][node]).or_default() += workers;
        }
        for (_, node) in self.running(group).into_iter().filter(|_| with_running) {
            *at.entry(&self.domains[depth][node]).or_default() += 1;
        }
        at
    }

    /// Whether a node has what so many workers of each group need.
    pub fn fits(&self, node: usize, counts: &Counts) -> bool {
        let seat = self.seats[node];
        let here = |group: usize| counts[group][node];
        if (0..counts.len()).all(|group| here(group) == 0) {
            return true;
        }
        let gpus: u32 = self.gang.groups.iter().enumerate().map(|(nth, group)| group.gpus * here(nth)).sum();
        let cpu: u64 =
            self.gang.groups.iter().enumerate().map(|(n, g)| g.resources.get("cpu") * u64::from(here(n))).sum();
        let labelled = self.gang.groups.iter().enumerate().filter(|&(nth, _)| here(nth) > 0).all(|(_, group)| {
            let mut levels: Vec<&Level> = self.gang.required.iter().chain(&group.required).collect();
            levels.extend(group.slices.iter().map(|slice| &slice.level));
            levels.extend(group.balanced.iter().map(|balance| &balance.level));
            levels.extend(self.gang.relations.iter().filter_map(|relation| match relation {
                Relation::Together { groups, level } | Relation::Apart { groups, level } => {
                    groups.contains(&group.name).then_some(level)
                }
                Relation::Leader { leader, workers, level } => {
                    [leader, workers].contains(&&group.name).then_some(level)
                }
            }));
            levels.iter().all(|level| level.is_host() || seat.path[self.depth[*level]].is_some())
        });
        seat.member.standing == Standing::Ready && gpus <= seat.free_count() && cpu <= seat.spare.get("cpu") && labelled
    }

    /// Whether units of these parts (group, workers of each unit) can be made of what is where.
    pub fn units(&self, counts: &Counts, depth: usize, parts: &[(usize, u32)]) -> bool {
        let mut begun: BTreeMap<u32, &str> = BTreeMap::new();
        for &(group, size) in parts {
            for (index, node) in self.running(group) {
                begun.entry(index / size).or_insert(&self.domains[depth][node]);
            }
        }
        let new: Vec<BTreeMap<&str, u32>> =
            parts.iter().map(|&(group, _)| self.at(counts, group, depth, false)).collect();
        let all: BTreeSet<&str> = new.iter().flat_map(|at| at.keys().copied()).chain(begun.values().copied()).collect();
        all.iter().all(|domain| {
            let units: BTreeSet<Option<u32>> = parts
                .iter()
                .zip(&new)
                .map(|(&(group, size), at)| {
                    let mine = begun.iter().filter(|(_, at)| *at == domain).map(|(unit, _)| *unit);
                    let running = self.running(group);
                    let gap: u32 = mine
                        .map(|unit| size - running.iter().filter(|(index, _)| index / size == unit).count() as u32)
                        .sum();
                    let more = at.get(domain).copied().unwrap_or(0).checked_sub(gap)?;
                    more.is_multiple_of(size).then_some(more / size)
                })
                .collect();
            units.len() == 1 && !units.contains(&None)
        })
    }

    pub fn holds(&self, counts: &Counts) -> bool {
        let one = |groups: &[usize], level: &Level| {
            let at = |&group: &usize| self.at(counts, group, self.depth[level], true).into_keys();
            groups.iter().flat_map(at).collect::<BTreeSet<_>>().len() <= 1
        };
        let all: Vec<usize> = (0..counts.len()).collect();
        self.gang.required.as_ref().is_none_or(|level| one(&all, level))
            && self.gang.groups.iter().enumerate().all(|(nth, group)| {
                group.required.as_ref().is_none_or(|level| one(&[nth], level))
                    && group.slices.iter().all(|s| self.units(counts, self.depth[&s.level], &[(nth, s.size)]))
                    && group.balanced.as_ref().is_none_or(|balance| {
                        let depth = self.depth[&balance.level];
                        let new = self.at(counts, nth, depth, false);
                        let there = self.at(counts, nth, depth, true);
                        balance.most.is_none_or(|most| new.keys().all(|domain| there[domain] <= most))
                    })
            })
            && self.gang.relations.iter().all(|relation| match relation {
                Relation::Together { groups, level } => {
                    one(&groups.iter().map(|group| self.group(group)).collect::<Vec<_>>(), level)
                }
                Relation::Apart { groups, level } => {
                    let at = |group: &String| {
                        self.at(counts, self.group(group), self.depth[level], true).into_keys().collect::<BTreeSet<_>>()
                    };
                    let at: Vec<_> = groups.iter().map(at).collect();
                    (0..at.len()).all(|i| at[i + 1..].iter().all(|other| at[i].is_disjoint(other)))
                }
                Relation::Leader { leader, workers, level } => {
                    let (leader, workers) = (self.group(leader), self.group(workers));
                    let size = self.gang.groups[workers].replicas / self.gang.groups[leader].replicas;
                    if self.gang.groups[leader].replicas == 1 {
                        return one(&[leader, workers], level);
                    }
                    // The workers of one leader are a slice, with its leader or alone.
                    self.units(counts, self.depth[level], &[(leader, 1), (workers, size)])
                }
            })
    }

    /// The documented objective.
    pub fn objective(&self, counts: &Counts) -> Vec<i64> {
        let mut value = Vec::new();
        let (mut outwards, mut nvlink) = (Vec::new(), 0);
        for depth in 0..self.domains.len() {
            let at_level = |level: &Option<Level>| level.as_ref().is_some_and(|level| self.depth[level] == depth);
            let new_of = |group: usize| {
                let running: BTreeSet<&str> =
                    self.running(group).iter().map(|&(_, n)| self.domains[depth][n].as_str()).collect();
                self.at(counts, group, depth, false).into_keys().filter(|domain| !running.contains(domain)).count()
                    as i64
            };
            for (nth, group) in self.gang.groups.iter().enumerate() {
                if at_level(&group.preferred) {
                    value.push(new_of(nth));
                }
            }
            let mut gpus: BTreeMap<&str, u32> = BTreeMap::new();
            for (nth, group) in self.gang.groups.iter().enumerate() {
                for (domain, workers) in self.at(counts, nth, depth, false) {
                    *gpus.entry(domain).or_default() += workers * group.gpus;
                }
            }
            let running: BTreeSet<&str> =
                (0..counts.len()).flat_map(|g| self.running(g)).map(|(_, n)| self.domains[depth][n].as_str()).collect();
            value.push(gpus.keys().filter(|domain| !running.contains(*domain)).count() as i64);
            for (nth, group) in self.gang.groups.iter().enumerate() {
                if at_level(&group.balanced.as_ref().map(|balance| balance.level.clone())) {
                    let there = self.at(counts, nth, depth, true);
                    let new = self.at(counts, nth, depth, false);
                    let square = |(domain, &new): (&&str, &u32)| {
                        let (all, before) = (i64::from(there[domain]), i64::from(there[domain] - new));
                        all * all - before * before
                    };
                    value.push(new.iter().map(square).sum());
                }
            }
            let (mut new, mut rest) = (0, 0);
            for (domain, gpus) in gpus {
                let seats =
                    || self.seats.iter().enumerate().filter(|&(n, _)| self.domains[depth][n] == domain).map(|(_, s)| s);
                let free = i64::from(seats().map(|seat| seat.free_count()).sum::<u32>()) - i64::from(gpus);
                let idle = i64::from(seats().all(|seat| seat.is_idle()) && free > 0 && gpus > 0);
                new += idle;
                rest += free;
                nvlink +=
                    if depth + 2 == self.domains.len() && seats().any(|seat| is_nvlinked(seat)) { idle } else { 0 };
            }
            outwards.push([rest, new]);
        }
        let mut inside = [0; 3];
        // On a node, those with the most GPUs are served first.
        let mut order: Vec<usize> = (0..counts.len()).filter(|&group| self.gang.groups[group].gpus > 0).collect();
        order.sort_by_key(|&group| std::cmp::Reverse(self.gang.groups[group].gpus));
        for (node, seat) in self.seats.iter().enumerate() {
            let mut free = seat.free();
            for &group in order.iter().filter(|&&group| counts[group][node] > 0) {
                let (each, workers) = (self.gang.groups[group].gpus as usize, counts[group][node] as usize);
                let mut known = self.on_node.borrow_mut();
                let make = || sets_on_node(&seat.member.node, free, each, workers);
                let (terms, gpus) = *known.entry((node, free.bits(), each, workers)).or_insert_with(make);
                inside = std::array::from_fn(|i| inside[i] + terms[i]);
                free = free.difference(gpus);
            }
        }
        outwards.reverse();
        [value, vec![inside[0], nvlink], outwards.concat(), inside[1..].to_vec()].concat()
    }

    /// Visits every way to put all missing workers on nodes that have what they need, until told to stop.
    pub fn each(&self, visit: &mut impl FnMut(&Counts) -> bool) {
        let mut counts = vec![vec![0; self.seats.len()]; self.missing.len()];
        self.each_from(0, 0, self.missing[0], &mut counts, visit);
    }

    fn each_from(
        &self,
        group: usize,
        node: usize,
        rest: u32,
        counts: &mut Counts,
        visit: &mut impl FnMut(&Counts) -> bool,
    ) -> bool {
        if rest == 0 {
            return match self.missing.get(group + 1) {
                Some(&next) => self.each_from(group + 1, 0, next, counts, visit),
                None => visit(counts),
            };
        }
        if node == self.seats.len() {
            return true;
        }
        for workers in 0..=rest {
            counts[group][node] = workers;
            if !self.fits(node, counts) {
                break;
            }
            if !self.each_from(group, node + 1, rest - workers, counts, visit) {
                return false;
            }
        }
        counts[group][node] = 0;
        true
    }

    pub fn best(&self) -> Option<Vec<i64>> {
        let mut best: Option<Vec<i64>> = None;
        self.each(&mut |counts| {
            if self.holds(counts) {
                let value = self.objective(counts);
                if best.as_ref().is_none_or(|best| value < *best) {
                    best = Some(value);
                }
            }
            true
        });
        best
    }

    pub fn is_feasible(&self) -> bool {
        let mut found = false;
        self.each(&mut |counts| {
            found = self.holds(counts);
            !found
        });
        found
    }
}

/// What a placement promises about relations, looked at worker by worker.
pub fn check_relations(cluster: &Cluster, gang: &Gang, placement: &Placement) {
    let placed = gang.placed.iter().map(|p| (p.group.as_str(), p.index, &p.node));
    let all: Vec<_> = placed.chain(placement.workers.iter().map(|w| (w.group.as_str(), w.index, &w.node))).collect();
    let domain =
        |node: &NodeName, level: &Level| domains(cluster.node(node).unwrap())[cluster.depth(level).unwrap()].clone();
    let of = |group: &str, level: &Level| -> BTreeSet<String> {
        all.iter().filter(|worker| worker.0 == group).map(|worker| domain(worker.2, level)).collect()
    };
    for relation in &gang.relations {
        match relation {
            Relation::Together { groups, level } => {
                let at: BTreeSet<String> = groups.iter().flat_map(|group| of(group, level)).collect();
                assert!(at.len() <= 1, "{relation}: {at:?}");
            }
            Relation::Apart { groups, level } => {
                let at: Vec<_> = groups.iter().map(|group| of(group, level)).collect();
                assert!((0..at.len()).all(|i| at[i + 1..].iter().all(|other| at[i].is_disjoint(other))), "{relation}");
            }
            Relation::Leader { leader, workers, level } => {
                let count = |name: &str| gang.groups.iter().find(|group| group.name == name).unwrap().replicas;
                let size = count(workers) / count(leader);
                for &(_, index, node) in all.iter().filter(|worker| worker.0 == workers) {
                    let mine = all.iter().find(|other| other.0 == leader && other.1 == index / size).unwrap();
                    assert_eq!(domain(node, level), domain(mine.2, level), "{relation}: worker {index}");
                }
            }
        }
    }
    for group in &gang.groups {
        if let Some(Balance { level, most: Some(most) }) = &group.balanced {
            let mut at: BTreeMap<String, u32> = BTreeMap::new();
            all.iter().filter(|w| w.0 == group.name).for_each(|w| *at.entry(domain(w.2, level)).or_default() += 1);
            let new: BTreeSet<String> =
                placement.workers.iter().filter(|w| w.group == group.name).map(|w| domain(&w.node, level)).collect();
            assert!(at.iter().all(|(domain, count)| count <= most || !new.contains(domain)), "{at:?}");
        }
    }
}

/// Slices and leaders' parts of running workers that are torn already are nobody's to mend.
pub fn is_torn(world: &World<'_>) -> bool {
    let torn = |group: usize, size: u32, depth: usize, with: &[(usize, u32)]| {
        let mut at: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
        for &(group, size) in [(group, size)].iter().chain(with) {
            for (index, node) in world.running(group) {
                at.entry(index / size).or_default().insert(&world.domains[depth][node]);
            }
        }
        at.values().any(|domains| domains.len() > 1)
    };
    world
        .gang
        .groups
        .iter()
        .enumerate()
        .any(|(nth, group)| group.slices.iter().any(|slice| torn(nth, slice.size, world.depth[&slice.level], &[])))
        || world.gang.relations.iter().any(|relation| match relation {
            Relation::Leader { leader, workers, level } => {
                let (leader, workers) = (world.group(leader), world.group(workers));
                let size = (world.gang.groups[workers].replicas / world.gang.groups[leader].replicas).max(1);
                torn(workers, size, world.depth[level], &[(leader, 1)])
            }
            _ => false,
        })
}
