//! Placing one group on clusters of up to sixty nodes and five levels: as good as the plain dynamic programme over the tree, in
//! which every domain is told every number of workers and nothing is left out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod brute;
mod machines;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use brute::{PROFILE, check, domains, is_as_good_as_it_says, is_nvlinked, on_node, terms, wide_clusters};
use machines::{member, nvswitch8};
use proptest::prelude::*;
use weft_topology::*;

/// The objective with so many workers, by their number; none where they do not fit.
type Table = Vec<Option<Vec<i64>>>;

/// The plain programme, for workers of so many GPUs on nodes that have the room.
struct Plain<'a> {
    levels: usize,
    gpus: u32,
    most: u32,
    room: &'a dyn Fn(&Seat) -> u32,
    /// Free GPUs of a node that a worker may get.
    free: &'a dyn Fn(&Seat) -> GpuSet,
    /// Domains and nodes where workers of the gang run.
    running: &'a BTreeSet<String>,
    /// Sizes of the slices, by the depth of their level.
    slices: &'a BTreeMap<usize, u32>,
}

/// Wiring, free GPUs, GPUs of each worker, workers.
type OnNode = (Arc<Wiring>, u64, u32, u32);

/// Weak workers, wires and worth of workers on a node, worked out once.
static ON_NODE: Mutex<Option<HashMap<OnNode, [i64; 3]>>> = Mutex::new(None);

impl Plain<'_> {
    fn width(&self) -> usize {
        3 * self.levels + 4
    }

    /// Terms of a domain, or a node, of which `left` GPUs are left over.
    fn own(&self, name: &str, depth: usize, left: i64, idle: bool, nvlink: bool) -> Vec<i64> {
        let opened = i64::from(idle && left > 0 && self.gpus > 0);
        let mut terms = vec![0; self.width()];
        let outwards = self.levels + 2 + 2 * (self.levels - 1 - depth);
        let used = i64::from(!self.running.contains(name));
        (terms[depth], terms[outwards], terms[outwards + 1]) = (used, left, opened);
        terms[self.levels + 1] = if nvlink { opened } else { 0 };
        terms
    }

    /// Whether a place of a level may hold so many workers as far as slices go.
    fn whole(&self, depth: usize, workers: u32) -> bool {
        self.slices.get(&depth).is_none_or(|&size| workers.is_multiple_of(size))
    }

    fn seat(&self, seat: &Seat) -> Table {
        let room = (self.room)(seat).min(self.most);
        let name = domains(seat).pop().unwrap();
        let place = |workers: u32| {
            let left = i64::from(seat.free_count()) - i64::from(workers * self.gpus);
            let mut terms = self.own(&name, self.levels - 1, left, seat.is_idle(), false);
            if self.gpus == 0 {
                return terms;
            }
            let free = (self.free)(seat);
            let key = (seat.member.node.wiring().clone(), free.bits(), self.gpus, workers);
            let mut known = ON_NODE.lock().unwrap();
            let [weak, wires, worth] = *known
                .get_or_insert_default()
                .entry(key)
                .or_insert_with(|| on_node(&seat.member.node, free, self.gpus as usize, workers as usize));
            terms[self.levels] = weak;
            (terms[3 * self.levels + 2], terms[3 * self.levels + 3]) = (wires, worth);
            terms
        };
        (0..=self.most)
            .map(|workers| match workers {
                0 => Some(vec![0; self.width()]),
                _ => (workers <= room && self.whole(self.levels - 1, workers)).then(|| place(workers)),
            })
            .collect()
    }

    /// What lies below a domain of the level before `depth`.
    fn below(&self, seats: &[&Seat], depth: usize) -> Table {
        let mut sums: Table = vec![None; self.most as usize + 1];
        sums[0] = Some(vec![0; self.width()]);
        let mut add = |table: Table| {
            let mut more = vec![None; sums.len()];
            for (a, one) in sums.iter().enumerate() {
                for (b, other) in table.iter().enumerate().take(sums.len() - a) {
                    let (Some(one), Some(other)) = (one, other) else { continue };
                    let sum: Vec<i64> = one.iter().zip(other).map(|(x, y)| x + y).collect();
                    if more[a + b].as_ref().is_none_or(|best| sum < *best) {
                        more[a + b] = Some(sum);
                    }
                }
            }
            sums = more;
        };
        if depth + 1 == self.levels {
            seats.iter().for_each(|seat| add(self.seat(seat)));
            return sums;
        }
        let mut children: BTreeMap<String, Vec<&Seat>> = BTreeMap::new();
        for &seat in seats {
            children.entry(domains(seat)[depth].clone()).or_default().push(seat);
        }
        for (name, seats) in &children {
            let mut table = self.below(seats, depth + 1);
            let free = i64::from(seats.iter().map(|seat| seat.free_count()).sum::<u32>());
            let idle = seats.iter().all(|seat| seat.is_idle());
            let nvlink = depth + 2 == self.levels && seats.iter().any(|seat| is_nvlinked(seat));
            for (workers, terms) in table.iter_mut().enumerate().skip(1) {
                if !self.whole(depth, workers as u32) {
                    *terms = None;
                }
                let own = self.own(name, depth, free - workers as i64 * i64::from(self.gpus), idle, nvlink);
                terms.iter_mut().for_each(|terms| terms.iter_mut().zip(&own).for_each(|(sum, term)| *sum += term));
            }
            add(table);
        }
        sums
    }
}

/// The best objective that there is. `suits` says which nodes may be used.
fn best(cluster: &Cluster, gang: &Gang, suits: &dyn Fn(&Seat) -> bool) -> Option<Vec<i64>> {
    let group = &gang.groups[0];
    let seats: Vec<&Seat> = cluster.nodes().collect();
    let running = gang.placed.iter().flat_map(|placed| domains(cluster.node(&placed.node).unwrap())).collect();
    let most = group.replicas - gang.placed.len() as u32;
    let slices = group.slices.iter().map(|slice| (cluster.depth(&slice.level).unwrap(), slice.size)).collect();
    let wanted = group.product.as_deref().map(str::to_ascii_lowercase);
    let free = |seat: &Seat| {
        let suits = |gpu: &Gpu| {
            let product = gpu.product.to_ascii_lowercase();
            gpu.mig_profile.as_deref() == group.mig_profile.as_deref()
                && wanted.as_ref().is_none_or(|wanted| product.contains(wanted.as_str()))
        };
        seat.member.node.positions(suits).intersection(seat.free())
    };
    let within = |domain: Option<(usize, &str)>| {
        let room = |seat: &Seat| {
            let inside = domain.is_none_or(|(depth, name)| domains(seat)[depth] == name);
            let ready = seat.member.standing == Standing::Ready;
            if !(inside && ready && suits(seat)) {
                return 0;
            }
            match group.gpus {
                0 => (seat.spare.get("cpu") / group.resources.get("cpu")) as u32,
                gpus => (free(seat).len() as u32).saturating_sub(seat.unidentified) / gpus,
            }
        };
        let plain = Plain {
            levels: cluster.levels().len() + 1,
            gpus: group.gpus,
            most,
            room: &room,
            free: &free,
            running: &running,
            slices: &slices,
        };
        plain.below(&seats, 0).pop().unwrap()
    };
    let Some(level) = &gang.required else { return within(None) };
    let depth = cluster.depth(level).unwrap();
    if let Some(placed) = gang.placed.first() {
        return within(Some((depth, &domains(cluster.node(&placed.node).unwrap())[depth])));
    }
    let names: BTreeSet<String> = seats.iter().map(|seat| domains(seat)[depth].clone()).collect();
    names.iter().filter_map(|name| within(Some((depth, name)))).min()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_group_is_placed_as_the_plain_programme_places_it(
        cluster in wide_clusters(4..60, true), replicas in 1u32..=14, gpus in 0u32..=4, mig in prop::bool::weighted(0.3),
        required in prop::option::weighted(0.3, 0usize..5), product in prop::option::weighted(0.4, any::<bool>()),
        off in prop::option::weighted(0.3, any::<u64>()), running in prop::collection::vec(0usize..60, 0..=3),
        slices in prop::option::weighted(0.3, (0usize..5, 2u32..=3, prop::option::of(1usize..4))),
    ) {
        let mut group = Group::new("worker", replicas, gpus);
        if gpus == 0 {
            group.resources = Resources::new().with("cpu", 32_000);
        }
        group.mig_profile = mig.then(|| PROFILE.into());
        group.product = product.map(|a100| if a100 { "a100".to_owned() } else { "H100".to_owned() });
        let levels = cluster.levels();
        let level = |depth: usize| levels.get(depth).map_or(Level::host(), |level| level.name.clone());
        if let Some((depth, size, outer)) = slices {
            // A slice of that many, and around two of them another one further out.
            let outer = outer.and_then(|outer| depth.min(levels.len()).checked_sub(outer));
            group.slices = outer.map(|outer| Slice { level: level(outer), size: 2 * size }).into_iter().collect();
            group.slices.push(Slice { level: level(depth), size });
            group.replicas = replicas.next_multiple_of(group.slices[0].size);
        }
        // With slices and running workers, numbers are not enough: those are compared on fewer nodes.
        let running = if group.slices.is_empty() { running } else { Vec::new() };
        let mut gang = Gang { groups: vec![group], required: required.map(level), ..Default::default() };
        let nodes: Vec<&Seat> = cluster.nodes().collect();
        for (index, node) in running.into_iter().enumerate().take(replicas as usize - 1) {
            let at = |seat: &Seat| gang.required.as_ref().map(|level| domains(seat)[cluster.depth(level).unwrap()].clone());
            let seat = nodes[node % nodes.len()];
            if gang.placed.first().is_none_or(|first| at(cluster.node(&first.node).unwrap()) == at(seat)) {
                let (group, index, node) = ("worker".into(), index as u32, seat.name().clone());
                gang.placed.push(Placed { group, index, node });
            }
        }
        let number = |node: &NodeName| node.as_str()[1..].parse::<u32>().unwrap();
        let may = |node: &NodeName| off.is_none_or(|off| off >> (number(node) % 64) & 1 == 0);
        let levels_needed = || gang.required.iter().chain(gang.groups[0].slices.iter().map(|slice| &slice.level));
        let suits = |seat: &Seat| {
            let labelled =
                |level: &Level| level.is_host() || seat.path[cluster.depth(level).unwrap()].is_some();
            may(seat.name()) && levels_needed().all(labelled)
        };
        let eligible = |_: &Group, node: &NodeName| match may(node) {
            true => Ok(()),
            false => Err(Exclusion::Selector { detail: "x=y".into() }),
        };
        let found = if off.is_some() { place_where(&cluster, &gang, &eligible) } else { place(&cluster, &gang) };
        match (found, best(&cluster, &gang, &suits)) {
            (Ok(placement), Some(best)) => {
                check(&cluster, &gang, &placement);
                is_as_good_as_it_says(&placement, &best)?;
            }
            (Err(NoPlacement::NoRoom(why)), None) => prop_assert!(why.proven),
            (found, best) => prop_assert!(false, "found {found:?}, the plain programme {best:?}"),
        }
    }
}

/// Nodes of eight GPUs on levels level-0, level-1, …: the domains of each, outermost first, and how many GPUs are free.
fn cluster_of(nodes: &[(&[&str], u64)]) -> Cluster {
    let names: Vec<String> = (0..nodes[0].0.len()).map(|depth| format!("level-{depth}")).collect();
    let mut cluster = Cluster::new(names.iter().map(|name| LevelLabel::new(name, name)).collect()).unwrap();
    for (i, (path, free)) in nodes.iter().enumerate() {
        let machine = nvswitch8(&format!("n{i:02}"), 18);
        let gpus = machine.uuids(GpuSet::from_bits(0xff >> free));
        let labels: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(path.iter().copied()).collect();
        let name = machine.name().clone();
        cluster.upsert(member(machine, &labels));
        cluster.claim(&name, name.as_str().into(), Claim { gpus, ..Default::default() });
    }
    cluster
}

#[test]
fn a_node_that_will_not_do_says_nothing_of_what_other_zones_leave_over() {
    let (a, b, c) = (["r", "z0", "b0", "k0"], ["r", "z0", "b0", "k1"], ["r", "z1", "b1", "k2"]);
    // The first node could take both workers, with ten GPUs left over in its rack. In k1 eight are left over, in k2 seven.
    let nodes: [(&[&str], u64); 15] = [
        (&a, 8),
        (&a, 4),
        (&a, 4),
        (&b, 3),
        (&b, 3),
        (&b, 2),
        (&b, 2),
        (&b, 2),
        (&b, 2),
        (&c, 3),
        (&c, 3),
        (&c, 2),
        (&c, 2),
        (&c, 2),
        (&c, 1),
    ];
    let cluster = cluster_of(&nodes);
    let gang = Gang { groups: vec![Group::new("worker", 2, 3)], ..Default::default() };
    let cordoned = |node: &NodeName| node.as_str() == "n00";
    let eligible = |_: &Group, node: &NodeName| match cordoned(node) {
        true => Err(Exclusion::Selector { detail: "x=y".into() }),
        false => Ok(()),
    };
    let found = place_where(&cluster, &gang, &eligible).unwrap();
    assert_eq!(Some(terms(&found)), best(&cluster, &gang, &|seat| !cordoned(seat.name())), "{}", found.tree());
    let nodes: Vec<&str> = found.workers.iter().map(|worker| worker.node.as_str()).collect();
    assert_eq!(nodes, ["n09", "n10"]);
}

#[test]
fn of_racks_that_look_alike_the_one_in_the_fullest_zone_is_taken_on_many_levels_too() {
    for levels in 1..=8 {
        // Two outermost domains that hold the same rack of one idle node, and another node of which five GPUs or two are free.
        let path = |name: &'static str, rack: &'static str| [vec![name; levels - 1], vec![rack]].concat();
        let (a, b) = (path("a", "r0"), path("b", "r0"));
        let (more, less) = (path("a", "r1"), path("b", "r1"));
        let cluster = cluster_of(&[(&a, 8), (&more, 5), (&b, 8), (&less, 2)]);
        let gang = Gang { groups: vec![Group::new("worker", 1, 8)], ..Default::default() };
        let found = place(&cluster, &gang).unwrap();
        assert_eq!(Some(terms(&found)), best(&cluster, &gang, &|_| true), "{levels} levels: {}", found.tree());
    }
}
