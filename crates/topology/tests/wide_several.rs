//! Placing two or three groups on clusters of up to thirty nodes and five levels: as good as the plain dynamic programme over the
//! tree, in which every domain is told every number of workers of each group and nothing is left out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod brute;
mod machines;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use brute::world::check_relations;
use brute::{check, domains, is_as_good_as_it_says, is_nvlinked, sets_on_node, wide_clusters};
use proptest::prelude::*;
use weft_topology::*;

/// Workers of each group.
type Counts = Vec<u32>;

/// The objective, by how many workers of each group.
type Table = BTreeMap<Counts, Vec<i64>>;

/// Wiring, free GPUs, GPUs of each worker, workers.
type OnNode = (Arc<Wiring>, u64, usize, usize);

/// What they add to the objective, and which GPUs they take.
type Seated = ([i64; 3], GpuSet);

/// Worked out once.
static ON_NODE: Mutex<Option<HashMap<OnNode, Seated>>> = Mutex::new(None);

/// The plain programme.
struct Plain<'a> {
    cluster: &'a Cluster,
    gang: &'a Gang,
    full: Counts,
}

impl<'a> Plain<'a> {
    fn new(cluster: &'a Cluster, gang: &'a Gang) -> Self {
        Self { cluster, gang, full: gang.groups.iter().map(|group| group.replicas).collect() }
    }

    fn levels(&self) -> usize {
        self.cluster.levels().len() + 1
    }

    fn at(&self, level: &Level, depth: usize) -> bool {
        self.cluster.depth(level).unwrap() == depth
    }

    fn group(&self, name: &str) -> usize {
        self.gang.groups.iter().position(|group| group.name == name).unwrap()
    }

    /// Whether a place of a level may hold so many.
    fn allows(&self, depth: usize, counts: &Counts) -> bool {
        let whole = |groups: &[usize]| {
            groups.iter().all(|&g| counts[g] == 0) || groups.iter().all(|&g| counts[g] == self.full[g])
        };
        let all: Vec<usize> = (0..counts.len()).collect();
        let here = |level: &Option<Level>| level.as_ref().is_some_and(|level| self.at(level, depth));
        (!here(&self.gang.required) || whole(&all))
            && self.gang.groups.iter().enumerate().all(|(g, group)| {
                (!here(&group.required) || whole(&[g]))
                    && group.slices.iter().all(|s| !self.at(&s.level, depth) || counts[g].is_multiple_of(s.size))
                    && group.balanced.as_ref().is_none_or(|balance| {
                        !self.at(&balance.level, depth) || balance.most.is_none_or(|most| counts[g] <= most)
                    })
            })
            && self.gang.relations.iter().all(|relation| match relation {
                Relation::Together { groups, level } => {
                    !self.at(level, depth) || whole(&groups.iter().map(|name| self.group(name)).collect::<Vec<_>>())
                }
                Relation::Apart { groups, level } => {
                    !self.at(level, depth) || groups.iter().filter(|name| counts[self.group(name)] > 0).count() <= 1
                }
                Relation::Leader { leader, workers, level } => {
                    let (leader, workers) = (self.group(leader), self.group(workers));
                    !self.at(level, depth) || counts[workers] * self.full[leader] == counts[leader] * self.full[workers]
                }
            })
    }

    /// Terms of a domain or a node: those of each level in turn, then the ones that come after all levels.
    fn own(&self, depth: usize, counts: &Counts, free: u32, idle: bool, nvlink: bool) -> Vec<i64> {
        let mut terms = Vec::new();
        for level in 0..self.levels() {
            let here = |of: &Level| level == depth && self.at(of, depth);
            for (group, &count) in self.gang.groups.iter().zip(counts) {
                if let Some(preferred) = &group.preferred
                    && self.at(preferred, level)
                {
                    terms.push(i64::from(here(preferred) && count > 0));
                }
            }
            terms.push(i64::from(level == depth));
            for (group, &count) in self.gang.groups.iter().zip(counts) {
                if let Some(Balance { level: of, .. }) = &group.balanced
                    && self.at(of, level)
                {
                    terms.push(if here(of) { i64::from(count * count) } else { 0 });
                }
            }
        }
        let gpus: u32 = self.gang.groups.iter().zip(counts).map(|(group, count)| group.gpus * count).sum();
        let left = i64::from(free) - i64::from(gpus);
        let opened = i64::from(idle && left > 0 && gpus > 0);
        terms.extend([0, if nvlink { opened } else { 0 }]);
        for level in (0..self.levels()).rev() {
            terms.extend(if level == depth { [left, opened] } else { [0, 0] });
        }
        terms.extend([0, 0]);
        terms
    }

    fn seat(&self, seat: &Seat) -> Table {
        let host = self.levels() - 1;
        let mut table = Table::new();
        for counts in vectors(&self.full) {
            let sum = |of: &dyn Fn(&Group) -> u64| {
                self.gang.groups.iter().zip(&counts).map(|(group, &count)| of(group) * u64::from(count)).sum::<u64>()
            };
            if counts.iter().all(|&count| count == 0) {
                table.insert(counts, Vec::new());
                continue;
            }
            let fits = sum(&|group| group.gpus.into()) <= seat.free_count().into()
                && sum(&|group| group.resources.get("cpu")) <= seat.spare.get("cpu");
            if !fits || seat.member.standing != Standing::Ready || !self.allows(host, &counts) {
                continue;
            }
            let mut terms = self.own(host, &counts, seat.free_count(), seat.is_idle(), false);
            let mut order: Vec<usize> =
                (0..counts.len()).filter(|&g| counts[g] * self.gang.groups[g].gpus > 0).collect();
            order.sort_by_key(|&g| std::cmp::Reverse(self.gang.groups[g].gpus));
            let mut free = seat.free();
            for g in order {
                let (each, workers) = (self.gang.groups[g].gpus as usize, counts[g] as usize);
                let node = &seat.member.node;
                let key = (node.wiring().clone(), free.bits(), each, workers);
                let mut known = ON_NODE.lock().unwrap();
                let make = || sets_on_node(node, free, each, workers);
                let ([weak, wires, worth], gpus) = *known.get_or_insert_default().entry(key).or_insert_with(make);
                let width = terms.len();
                let weak_at = width - 2 - 2 * self.levels() - 2;
                terms[weak_at] += weak;
                terms[width - 2] += wires;
                terms[width - 1] += worth;
                free = free.difference(gpus);
            }
            table.insert(counts, terms);
        }
        table
    }

    /// What lies below a domain of the level before `depth`.
    fn below(&self, seats: &[&Seat], depth: usize) -> Table {
        let mut sums = Table::from([(vec![0; self.full.len()], Vec::new())]);
        let mut add = |table: Table| {
            let mut more = Table::new();
            for (a, one) in &sums {
                for (b, other) in &table {
                    let counts: Counts = a.iter().zip(b).map(|(a, b)| a + b).collect();
                    if counts.iter().zip(&self.full).any(|(count, full)| count > full) {
                        continue;
                    }
                    let terms = sum(one, other);
                    match more.get_mut(&counts) {
                        Some(best) if *best <= terms => {}
                        Some(best) => *best = terms,
                        None => {
                            more.insert(counts, terms);
                        }
                    }
                }
            }
            sums = more;
        };
        if depth + 1 == self.levels() {
            seats.iter().for_each(|seat| add(self.seat(seat)));
            return sums;
        }
        let mut children: BTreeMap<String, Vec<&Seat>> = BTreeMap::new();
        for &seat in seats {
            children.entry(domains(seat)[depth].clone()).or_default().push(seat);
        }
        for seats in children.values() {
            let free = seats.iter().map(|seat| seat.free_count()).sum();
            let idle = seats.iter().all(|seat| seat.is_idle());
            let nvlink = depth + 2 == self.levels() && seats.iter().any(|seat| is_nvlinked(seat));
            let mut table = self.below(seats, depth + 1);
            table.retain(|counts, terms| {
                if counts.iter().any(|&count| count > 0) {
                    *terms = sum(terms, &self.own(depth, counts, free, idle, nvlink));
                    return self.allows(depth, counts);
                }
                true
            });
            add(table);
        }
        sums
    }
}

fn sum(a: &[i64], b: &[i64]) -> Vec<i64> {
    match (a, b) {
        ([], sum) | (sum, []) => sum.to_vec(),
        _ => a.iter().zip(b).map(|(a, b)| a + b).collect(),
    }
}

/// All numbers up to these.
fn vectors(full: &[u32]) -> Vec<Counts> {
    full.iter().fold(vec![Vec::new()], |all, &most| {
        all.iter().flat_map(|counts| (0..=most).map(move |count| [counts.as_slice(), &[count]].concat())).collect()
    })
}

/// Replicas, GPUs, required, preferred, balanced, slice, whether it needs much processor.
type Drawn = (u32, u32, Option<usize>, Option<usize>, Option<(usize, Option<u32>)>, Option<usize>, bool);

fn drawn() -> impl Strategy<Value = Drawn> {
    let rarely = || prop::option::weighted(0.15, 0usize..6);
    (
        1u32..=4,
        0u32..=4,
        rarely(),
        rarely(),
        prop::option::weighted(0.15, (0usize..6, prop::option::of(1u32..=2))),
        rarely(),
        prop::bool::weighted(0.15),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_global_rejects: 200_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn several_groups_are_placed_as_the_plain_programme_places_them(
        cluster in wide_clusters(4..30, false),
        groups in prop::collection::vec(drawn(), 2..=3),
        required in prop::option::weighted(0.3, 0usize..6),
        relations in prop::collection::vec((0u8..3, 0usize..6), 0..=2),
    ) {
        let levels = cluster.levels();
        let level = |depth: usize| levels.get(depth).map_or(Level::host(), |level| level.name.clone());
        let make = |(nth, drawn): (usize, Drawn)| {
            let (replicas, gpus, required, preferred, balanced, slice, hungry) = drawn;
            let mut group = Group::new(["a", "b", "c"][nth], replicas, gpus);
            (group.required, group.preferred) = (required.map(level), preferred.map(level));
            group.balanced = balanced.map(|(depth, most)| Balance { level: level(depth), most });
            if let Some(depth) = slice.filter(|_| replicas > 1) {
                group.slices = vec![Slice { level: level(depth), size: if replicas == 4 { 2 } else { replicas } }];
            }
            if hungry {
                group.resources = Resources::new().with("cpu", 24_000);
            }
            group
        };
        let groups: Vec<Group> = groups.into_iter().enumerate().map(make).collect();
        let pair = || vec!["a".to_owned(), "b".to_owned()];
        let relation = |(kind, depth)| match kind {
            0 => Relation::Together { groups: pair(), level: level(depth) },
            1 => Relation::Apart { groups: pair(), level: level(depth) },
            _ => Relation::Leader { leader: "b".into(), workers: "a".into(), level: level(depth) },
        };
        let relations = relations.into_iter().map(relation).collect();
        let gang = Gang { groups, required: required.map(level), relations, ..Default::default() };
        let found = place(&cluster, &gang);
        prop_assume!(!matches!(found, Err(NoPlacement::Invalid(_))));
        let plain = Plain::new(&cluster, &gang);
        let seats: Vec<&Seat> = cluster.nodes().collect();
        let best = plain.below(&seats, 0).remove(&plain.full);
        match (found, best) {
            (Ok(placement), Some(best)) => {
                check_relations(&cluster, &gang, &placement);
                check(&cluster, &gang, &placement);
                is_as_good_as_it_says(&placement, &best)?;
            }
            (Err(NoPlacement::NoRoom(_)), None) => {}
            (Err(NoPlacement::NoRoom(why)), Some(_)) => prop_assert!(!why.proven, "{}", why.tree()),
            (found, best) => prop_assert!(false, "found {found:?}, the plain programme {best:?}"),
        }
    }
}
