//! What others do, written from their documentation.
//!
//! They see a cluster as counts: so many GPUs free on each node, and the domains that it is in. That view is kept for
//! them ready-made and is not part of their time, although they build it anew in each cycle.

pub mod best_fit;
pub mod partition;

use std::collections::BTreeMap;

use weft_topology::{Cluster, DomainName};

/// A node in counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// GPUs that new work may use.
    pub free: u32,
    /// GPUs that nobody holds, of those that it has.
    pub gpus: u32,
    /// Which of the kinds of nodes it is: a bit.
    pub kind: u8,
    /// Its domain at each level above the node, outermost first.
    pub domains: Vec<u32>,
}

impl Host {
    /// Workers of a request for which there is room.
    pub fn room(&self, ask: &Ask) -> u32 {
        if self.kind & ask.kinds == 0 { 0 } else { self.free / ask.gpus.max(1) }
    }

    /// Whether nobody holds a GPU of it.
    pub fn is_idle(&self) -> bool {
        self.free == self.gpus
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ask {
    pub workers: u32,
    /// Of each worker.
    pub gpus: u32,
    /// The kinds of nodes that will do, as bits.
    pub kinds: u8,
    /// The level of which one domain has to hold all workers, by depth.
    pub required: Option<usize>,
    /// The level of which one domain should hold all workers.
    pub preferred: Option<usize>,
}

/// Workers by node, in the order in which they were placed.
pub type Split = Vec<(usize, u32)>;

/// A cluster in counts.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub hosts: Vec<Host>,
    /// For each level above the node and each domain of it: its children, domains or at the innermost level hosts.
    pub children: Vec<Vec<Vec<u32>>>,
}

impl View {
    /// Of hosts whose domains are numbered from 0 at each level.
    pub fn new(hosts: Vec<Host>) -> Self {
        let levels = hosts.first().map_or(0, |host| host.domains.len());
        let mut children: Vec<Vec<Vec<u32>>> = vec![Vec::new(); levels];
        for (n, host) in hosts.iter().enumerate() {
            for (depth, &domain) in host.domains.iter().enumerate() {
                let child = host.domains.get(depth + 1).map_or(n as u32, |&inner| inner);
                let at = domain as usize;
                if children[depth].len() <= at {
                    children[depth].resize(at + 1, Vec::new());
                }
                if children[depth][at].last() != Some(&child) {
                    children[depth][at].push(child);
                }
            }
        }
        Self { hosts, children }
    }

    /// Of a cluster's nodes in the order of their names, all of one kind. A node without a level's label is alone there.
    pub fn of(cluster: &Cluster) -> Self {
        let levels = cluster.levels().len();
        let mut numbers: Vec<BTreeMap<Vec<Option<DomainName>>, u32>> = vec![BTreeMap::new(); levels];
        let hosts = cluster.nodes().map(|seat| {
            let domains = (0..levels).map(|depth| {
                let next = numbers[depth].len() as u32;
                *numbers[depth].entry(seat.path[..=depth].to_vec()).or_insert(next)
            });
            let domains = domains.collect();
            Host { free: seat.free_count(), gpus: seat.member.node.gpus().len() as u32, kind: 1, domains }
        });
        Self::new(hosts.collect())
    }

    /// Domains used at a level (a host is the level below the last).
    pub fn used(&self, split: &Split, depth: usize) -> usize {
        let place = |&(host, _): &(usize, u32)| self.hosts[host].domains.get(depth).map_or(host, |&d| d as usize);
        let mut places: Vec<usize> = split.iter().map(place).collect();
        places.sort_unstable();
        places.dedup();
        places.len()
    }

    /// Idle nodes of which the split takes a part.
    pub fn opened(&self, split: &Split, gpus: u32) -> usize {
        let broken =
            |&&(host, workers): &&(usize, u32)| self.hosts[host].is_idle() && workers * gpus < self.hosts[host].free;
        split.iter().filter(broken).count()
    }
}
