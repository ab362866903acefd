//! Who decides where a job goes: Weft, and three that others use.

use std::collections::HashMap;

use anyhow::{Context, Result};
use weft_topology::{Claim, Cluster, Exclusion, Gang, GpuSet, Group, NodeName, Owner, Placed, place, place_where};

use super::site::{Kind, LEVELS, NVL72_PRODUCT, Seat, Site};
use crate::machines::node_name;
use crate::random::Random;
use crate::rivals::partition::best_partition;
use crate::rivals::{Ask, Split, View, best_fit};

/// Workers of a job by index.
pub type Seats = Vec<(u32, Seat)>;

/// What happened at the site.
pub enum Change<'a> {
    Taken {
        job: usize,
        worker: u32,
        seat: Seat,
    },
    Freed {
        job: usize,
        worker: u32,
    },
    /// A node, or a GPU of it, failed or was repaired.
    Host {
        host: usize,
        site: &'a Site,
    },
}

/// Decides where workers go.
pub trait Strategy {
    fn name(&self) -> &'static str;

    /// Places the workers of `ask` that are not among those that run already; all of them or none.
    fn place(&mut self, site: &Site, ask: &Ask, running: &Seats) -> Option<Seats>;

    /// Takes note of what happened.
    fn note(&mut self, change: Change<'_>);
}

/// All of them, Weft first.
///
/// # Errors
/// If the site is none that Weft's model can hold.
pub fn all(site: &Site, seed: u64) -> Result<Vec<Box<dyn Strategy>>> {
    Ok(vec![
        Box::new(Weft::new(site)?),
        Box::new(ByCounts { name: "best fit by counts", split: |view, ask| best_fit::place(view, ask), random: None }),
        Box::new(ByCounts { name: "most allocated", split: most_allocated, random: None }),
        Box::new(ByCounts { name: "random", split: |_, _| None, random: Some(Random::new(seed)) }),
    ])
}

/// The decisions of `crates/topology`, on a cluster that is kept up to date as the operator keeps it.
pub struct Weft {
    cluster: Cluster,
    hosts: HashMap<NodeName, usize>,
}

impl Weft {
    pub fn new(site: &Site) -> Result<Self> {
        let mut cluster = Cluster::new(Site::levels()).context("the levels of the site")?;
        let mut hosts = HashMap::new();
        for (n, host) in site.hosts.iter().enumerate() {
            cluster.upsert(host.member());
            hosts.insert(host.node.name().clone(), n);
        }
        Ok(Self { cluster, hosts })
    }

    fn owner(job: usize, worker: u32) -> Owner {
        format!("job-{job}/w-{worker}").into()
    }
}

impl Strategy for Weft {
    fn name(&self) -> &'static str {
        "Weft"
    }

    fn place(&mut self, site: &Site, ask: &Ask, running: &Seats) -> Option<Seats> {
        let mut group = Group::new("w", ask.workers, ask.gpus);
        group.product = ask.is_for_nvl72().then(|| NVL72_PRODUCT.to_owned());
        let node = |seat: &Seat| site.hosts[seat.host].node.name().clone();
        let placed = |(index, seat): &(u32, Seat)| Placed { group: "w".to_owned(), index: *index, node: node(seat) };
        let gang = Gang {
            groups: vec![group],
            required: ask.required.map(|level| LEVELS[level].into()),
            placed: running.iter().map(placed).collect(),
            ..Gang::default()
        };
        // A product says which nodes a gang for NVL72 is for; other jobs are kept off nodes as taints do it.
        let keeps_off = !ask.is_for_nvl72() && ask.kinds != Ask::of_job(ask.workers, ask.gpus, None).kinds;
        let eligible = |_: &Group, node: &NodeName| match self.hosts.get(node) {
            Some(&host) if site.hosts[host].kind.bit() & ask.kinds != 0 => Ok(()),
            _ => Err(Exclusion::Taint { detail: "nvl72:NoSchedule".to_owned() }),
        };
        let placement =
            if keeps_off { place_where(&self.cluster, &gang, &eligible) } else { place(&self.cluster, &gang) };
        let placement = placement.ok()?;
        let seat = |worker: weft_topology::Worker| {
            let host = *self.hosts.get(&worker.node)?;
            let gpus = site.hosts[host].node.set_of(worker.gpus.iter().map(weft_topology::GpuUuid::as_str)).ok()?;
            Some((worker.index, Seat { host, gpus }))
        };
        placement.workers.into_iter().map(seat).collect()
    }

    fn note(&mut self, change: Change<'_>) {
        match change {
            Change::Taken { job, worker, seat } => {
                let name = NodeName::from(node_name(seat.host));
                let Some(node) = self.cluster.node(&name) else { return };
                let claim = Claim { gpus: node.member.node.uuids(seat.gpus), ..Claim::default() };
                self.cluster.claim(&name, Self::owner(job, worker), claim);
            }
            Change::Freed { job, worker } => {
                self.cluster.release(&Self::owner(job, worker));
            }
            Change::Host { host, site } => self.cluster.upsert(site.hosts[host].member()),
        }
    }
}

/// A strategy that sees counts only. Which GPUs of a node a worker gets is then for the device plugin: the best partition
/// where cards are wired unequally, the first ones where all are behind NVSwitches.
struct ByCounts {
    name: &'static str,
    split: fn(&View, &Ask) -> Option<Split>,
    /// Set if nodes and GPUs are drawn at random.
    random: Option<Random>,
}

impl Strategy for ByCounts {
    fn name(&self) -> &'static str {
        self.name
    }

    fn place(&mut self, site: &Site, ask: &Ask, running: &Seats) -> Option<Seats> {
        let missing: Vec<u32> = (0..ask.workers).filter(|n| running.iter().all(|(index, _)| index != n)).collect();
        let rest = Ask { workers: missing.len() as u32, ..*ask };
        let split = match (ask.required, running.first()) {
            // Others of the gang bind it to their domain.
            (Some(level), Some((_, seat))) => {
                let bound = site.view.hosts[seat.host].domains[level];
                let mut view = site.view.clone();
                view.hosts.iter_mut().filter(|host| host.domains[level] != bound).for_each(|host| host.free = 0);
                self.split(&view, &rest)?
            }
            _ => self.split(&site.view, &rest)?,
        };
        let mut seats = Seats::new();
        let mut missing = missing.into_iter();
        for (host, workers) in split {
            let mut free = site.hosts[host].usable();
            for index in missing.by_ref().take(workers as usize) {
                let gpus = self.gpus(site, host, free, ask.gpus as usize);
                free = free.difference(gpus);
                seats.push((index, Seat { host, gpus }));
            }
        }
        Some(seats)
    }

    fn note(&mut self, _: Change<'_>) {}
}

impl ByCounts {
    fn split(&mut self, view: &View, ask: &Ask) -> Option<Split> {
        match &mut self.random {
            Some(random) => by_pod(view, ask, |hosts| hosts.get(random.below(hosts.len())).copied()),
            None => (self.split)(view, ask),
        }
    }

    fn gpus(&mut self, site: &Site, host: usize, free: GpuSet, count: usize) -> GpuSet {
        let host = &site.hosts[host];
        match &mut self.random {
            Some(random) => {
                let mut rest: Vec<usize> = free.iter().collect();
                (0..count.min(rest.len())).map(|_| rest.swap_remove(random.below(rest.len()))).collect()
            }
            None if host.kind == Kind::Bridged => best_partition(&host.node, free, count),
            None => free.iter().take(count).collect(),
        }
    }
}

/// kube-scheduler's bin packing (NodeResourcesFit, MostAllocated): pod by pod the node that is then the fullest, in whole
/// per cent; of equals the first.
fn most_allocated(view: &View, ask: &Ask) -> Option<Split> {
    by_pod(view, ask, |hosts| {
        let score = |&(host, free): &(usize, u32)| {
            let gpus = view.hosts[host].gpus;
            (gpus - free + ask.gpus) * 100 / gpus
        };
        hosts.iter().copied().rev().max_by_key(score)
    })
}

/// Pod by pod, each on a node of those that have room (with their free GPUs). kube-scheduler knows no levels, so where one
/// is required its domains are tried one after the other.
fn by_pod(view: &View, ask: &Ask, mut pick: impl FnMut(&[(usize, u32)]) -> Option<(usize, u32)>) -> Option<Split> {
    let mut within = |inside: &dyn Fn(usize) -> bool| {
        let mut free: Vec<(usize, u32)> = (0..view.hosts.len())
            .filter(|&n| inside(n) && view.hosts[n].room(ask) > 0)
            .map(|n| (n, view.hosts[n].free))
            .collect();
        let mut split = Split::new();
        for _ in 0..ask.workers {
            let (host, left) = pick(&free)?;
            // The list is in the order of hosts.
            let at = free.binary_search_by_key(&host, |&(host, _)| host).ok()?;
            free[at].1 = left - ask.gpus;
            if free[at].1 < ask.gpus {
                free.remove(at);
            }
            split.push((host, 1));
        }
        Some(split)
    };
    match ask.required {
        None => within(&|_| true),
        Some(level) => (0..view.children[level].len() as u32)
            .find_map(|domain| within(&|host| view.hosts[host].domains.get(level).is_none_or(|&at| at == domain))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Site {
        Site::of(&[vec![Kind::Bridged; 2], vec![Kind::Hgx; 10]].concat()).unwrap()
    }

    #[test]
    fn every_strategy_places_all_workers_on_gpus_that_are_free() {
        for ask in
            [Ask::of_job(1, 1, None), Ask::of_job(1, 3, None), Ask::of_job(9, 8, None), Ask::of_job(8, 8, Some(2))]
        {
            let mut site = site();
            for strategy in &mut all(&site, 1).unwrap() {
                let seats = strategy.place(&site, &ask, &Seats::new()).unwrap();
                assert_eq!(seats.len(), ask.workers as usize, "{}", strategy.name());
                for &(_, seat) in &seats {
                    assert_eq!(seat.gpus.len(), ask.gpus as usize, "{}", strategy.name());
                    site.take(seat).unwrap();
                }
                seats.iter().for_each(|&(_, seat)| site.give(seat));
            }
        }
    }

    #[test]
    fn a_replacement_keeps_the_others_and_stays_in_the_required_domain() {
        let mut site = site();
        let ask = Ask::of_job(2, 8, Some(2));
        let running = vec![(1, Seat { host: 10, gpus: GpuSet::first(8) })];
        site.take(running[0].1).unwrap();
        for strategy in &mut all(&site, 1).unwrap() {
            strategy.note(Change::Taken { job: 0, worker: 1, seat: running[0].1 });
            // Hosts 10 and 11 are the second rack of HGX nodes.
            let seats = strategy.place(&site, &ask, &running).unwrap();
            assert_eq!(seats, [(0, Seat { host: 11, gpus: GpuSet::first(8) })], "{}", strategy.name());
        }
    }

    #[test]
    fn most_allocated_takes_the_fullest_node_that_has_room() {
        let mut site = site();
        site.take(Seat { host: 5, gpus: GpuSet::first(6) }).unwrap();
        site.take(Seat { host: 6, gpus: GpuSet::first(5) }).unwrap();
        assert_eq!(most_allocated(&site.view, &Ask::of_job(1, 2, None)), Some(vec![(5, 1)]));
        assert_eq!(most_allocated(&site.view, &Ask::of_job(1, 3, None)), Some(vec![(6, 1)]));
    }

    #[test]
    fn weft_is_told_of_failures() {
        let mut site = site();
        let mut weft = Weft::new(&site).unwrap();
        site.set_failed(2, Some(0), true);
        site.set_failed(3, None, true);
        (2..4).for_each(|host| weft.note(Change::Host { host, site: &site }));
        let seats = weft.place(&site, &Ask::of_job(8, 8, None), &Seats::new()).unwrap();
        assert!(seats.iter().all(|(_, seat)| seat.host > 3));
        assert_eq!(weft.place(&site, &Ask::of_job(9, 8, None), &Seats::new()), None);
    }
}
