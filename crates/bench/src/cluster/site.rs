//! The simulated cluster: its nodes, and which of their GPUs are in use. The one truth that all strategies are held to.

use anyhow::{Result, bail};
use weft_topology::{GpuSet, LevelLabel, Member, Node, NodeFacts, Resources, Standing, Wire};

use crate::machines::{bridged, hgx, machine, node_name};
use crate::rivals::{Ask, Host, View};

/// Levels above the node, outermost first; their names are their labels.
pub const LEVELS: [&str; 4] = ["zone", "block", "rack", "nvlink"];

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Eight H100 on an HGX baseboard, eight nodes a rack.
    Hgx,
    /// Four A100 PCIe cards, bridged in pairs, eight nodes a rack.
    Bridged,
    /// Four GB200 of an NVLink domain of 18 nodes, a rack.
    Nvl72,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Hgx, Self::Bridged, Self::Nvl72];

    pub fn bit(self) -> u8 {
        1 << self as u8
    }

    pub fn gpus(self) -> u32 {
        match self {
            Self::Hgx => 8,
            Self::Bridged | Self::Nvl72 => 4,
        }
    }

    fn node(self, name: &str) -> Result<Node> {
        match self {
            Self::Hgx => hgx(name),
            Self::Bridged => bridged(name, 4),
            Self::Nvl72 => machine(name, NVL72_PRODUCT, 4, |_, _, path| Wire::nvswitch(18, path)),
        }
    }
}

/// What a gang for NVLink domains asks for.
pub const NVL72_PRODUCT: &str = "NVIDIA GB200";

/// GPUs of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub host: usize,
    pub gpus: GpuSet,
}

/// A node and the state of its GPUs.
#[derive(Clone, Debug)]
pub struct SiteHost {
    pub kind: Kind,
    pub node: Node,
    /// Not in use.
    pub free: GpuSet,
    pub healthy: GpuSet,
    pub ready: bool,
    labels: Vec<(String, String)>,
}

impl SiteHost {
    /// GPUs that new work may use.
    pub fn usable(&self) -> GpuSet {
        if self.ready { self.free.intersection(self.healthy) } else { GpuSet::EMPTY }
    }

    fn able(&self) -> u32 {
        if self.ready { self.healthy.len() as u32 } else { 0 }
    }

    /// The node as Weft is told of it.
    pub fn member(&self) -> Member {
        let mut node = self.node.clone();
        for sick in node.all().difference(self.healthy).iter() {
            let uuid = node.gpus()[sick].uuid.clone();
            // The UUID comes from the node itself, so it has it.
            node = node.clone().with_health(uuid.as_str(), weft_topology::Health::unhealthy("failed")).unwrap_or(node);
        }
        Member {
            node,
            labels: self.labels.iter().cloned().collect(),
            standing: if self.ready { Standing::Ready } else { Standing::NotReady },
            allocatable: Resources::new(),
        }
    }
}

/// All nodes.
#[derive(Clone, Debug)]
pub struct Site {
    pub hosts: Vec<SiteHost>,
    /// The same in counts.
    pub view: View,
    /// Per kind: how many nodes have 0, 1, … 8 usable GPUs.
    by_free: [[u32; 9]; 3],
    /// GPUs that work, in use or not.
    able: u32,
}

impl Site {
    /// Of so many nodes: one in twenty with bridged PCIe cards, about one in eighteen in whole NVLink domains, the others HGX. Eight racks make a block, ten blocks a zone.
    pub fn new(nodes: usize) -> Result<Self> {
        Self::of(&kinds(nodes))
    }

    /// The same nodes named the other way round: HGX first, NVLink domains last.
    pub fn reversed(nodes: usize) -> Result<Self> {
        let mut kinds = kinds(nodes);
        kinds.reverse();
        Self::of(&kinds)
    }

    /// Of nodes of these kinds; equal ones that follow each other share racks.
    pub fn of(kinds: &[Kind]) -> Result<Self> {
        let mut hosts: Vec<SiteHost> = Vec::with_capacity(kinds.len());
        let (mut rack, mut in_rack) = (0u32, 0);
        let mut counted: Vec<Host> = Vec::with_capacity(kinds.len());
        for (n, &kind) in kinds.iter().enumerate() {
            let full = if kind == Kind::Nvl72 { 18 } else { 8 };
            if n > 0 && (in_rack == full || kinds[n - 1] != kind) {
                (rack, in_rack) = (rack + 1, 0);
            }
            in_rack += 1;
            let (block, zone) = (rack / 8, rack / 80);
            let mut labels: Vec<(String, String)> = [("zone", zone), ("block", block), ("rack", rack)]
                .map(|(level, number)| (level.to_owned(), format!("{level}-{number:04}")))
                .into();
            // A node whose NVLinks end in it is an NVLink domain of its own: no label.
            let nvlink = if kind == Kind::Nvl72 {
                labels.push(("nvlink".to_owned(), format!("nvlink-{rack:04}")));
                (kinds.len() as u32) + rack
            } else {
                n as u32
            };
            let mut facts = NodeFacts::from(kind.node(&node_name(n))?);
            facts.nvlink_domain = (kind == Kind::Nvl72).then(|| format!("fabric.{rack}").into());
            let node = Node::new(facts)?;
            let all = node.all();
            hosts.push(SiteHost { kind, node, free: all, healthy: all, ready: true, labels });
            let gpus = all.len() as u32;
            counted.push(Host { free: gpus, gpus, kind: kind.bit(), domains: vec![zone, block, rack, nvlink] });
        }
        let mut by_free = [[0; 9]; 3];
        for host in &counted {
            by_free[host.kind.trailing_zeros() as usize][host.free as usize] += 1;
        }
        let able = counted.iter().map(|host| host.gpus).sum();
        Ok(Self { hosts, view: View::new(counted), by_free, able })
    }

    pub fn levels() -> Vec<LevelLabel> {
        LEVELS.iter().map(|level| LevelLabel::new(level, level)).collect()
    }

    /// GPUs of all nodes.
    pub fn gpus(&self) -> u32 {
        self.view.hosts.iter().map(|host| host.gpus).sum()
    }

    pub fn share_of_nvl72(&self) -> f64 {
        let of = |kind: Kind| self.hosts.iter().filter(|host| host.kind == kind).count() as u32 * kind.gpus();
        f64::from(of(Kind::Nvl72)) / f64::from(self.gpus())
    }

    /// Usable GPUs on nodes of these kinds.
    pub fn idle(&self, kinds: u8) -> u32 {
        self.sum(kinds, |free, nodes| free * nodes)
    }

    /// GPUs that work, in use or not, and those of them that are idle.
    pub fn able_and_idle(&self) -> (u32, u32) {
        (self.able, self.idle(u8::MAX))
    }

    /// Whether the request has a place: as workers are equal, that is a matter of counting.
    pub fn has_room(&self, ask: &Ask) -> bool {
        let everywhere = self.sum(ask.kinds, |free, nodes| free / ask.gpus.max(1) * nodes);
        match ask.required {
            _ if everywhere < ask.workers => false,
            None => true,
            Some(level) => {
                let mut rooms = vec![0; self.view.children[level].len()];
                self.view.hosts.iter().for_each(|host| rooms[host.domains[level] as usize] += host.room(ask));
                rooms.into_iter().any(|room| room >= ask.workers)
            }
        }
    }

    fn sum(&self, kinds: u8, of: impl Fn(u32, u32) -> u32) -> u32 {
        let wanted = self.by_free.iter().enumerate().filter(|(kind, _)| kinds >> kind & 1 == 1);
        wanted.flat_map(|(_, counts)| counts.iter().enumerate()).map(|(free, &nodes)| of(free as u32, nodes)).sum()
    }

    /// Puts GPUs to use.
    ///
    /// # Errors
    /// If one of them is in use or failed already: a strategy that gives a GPU away twice is wrong.
    pub fn take(&mut self, seat: Seat) -> Result<()> {
        let host = &mut self.hosts[seat.host];
        if seat.gpus.is_empty() || !seat.gpus.is_subset(host.usable()) {
            bail!("GPUs {} of {} were given away and are in use, or failed", seat.gpus, host.node.name());
        }
        host.free = host.free.difference(seat.gpus);
        self.recount(seat.host);
        Ok(())
    }

    /// Ends the use of GPUs.
    pub fn give(&mut self, seat: Seat) {
        let host = &mut self.hosts[seat.host];
        host.free = host.free.union(seat.gpus);
        self.recount(seat.host);
    }

    /// A node, or one GPU of it, fails or is repaired.
    pub fn set_failed(&mut self, host: usize, gpu: Option<usize>, failed: bool) {
        let at = &mut self.hosts[host];
        self.able -= at.able();
        match gpu {
            None => at.ready = !failed,
            Some(gpu) if failed => at.healthy.remove(gpu),
            Some(gpu) => at.healthy.insert(gpu),
        }
        self.able += at.able();
        self.recount(host);
    }

    fn recount(&mut self, host: usize) {
        let free = self.hosts[host].usable().len() as u32;
        let counts = &mut self.by_free[self.hosts[host].kind as usize];
        counts[self.view.hosts[host].free as usize] -= 1;
        counts[free as usize] += 1;
        self.view.hosts[host].free = free;
    }
}

fn kinds(nodes: usize) -> Vec<Kind> {
    let nvl72 = if nodes >= 180 { (nodes / 18).div_ceil(18) * 18 } else { 0 };
    let bridged = nodes / 20;
    let mut kinds = vec![Kind::Nvl72; nvl72];
    kinds.extend(vec![Kind::Bridged; bridged]);
    kinds.resize(nodes.max(kinds.len()), Kind::Hgx);
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_not_given_away_twice_and_not_when_it_failed() {
        let mut site = Site::of(&[Kind::Hgx]).unwrap();
        let seat = |gpus: &[usize]| Seat { host: 0, gpus: gpus.iter().copied().collect() };
        site.take(seat(&[0, 1])).unwrap();
        assert!(site.take(seat(&[1, 2])).is_err());
        site.set_failed(0, Some(3), true);
        assert!(site.take(seat(&[3])).is_err());
        assert_eq!(site.idle(7), 5);
        site.give(seat(&[0, 1]));
        site.set_failed(0, Some(3), false);
        assert_eq!(site.idle(7), 8);
        site.set_failed(0, None, true);
        assert_eq!(site.idle(7), 0);
    }

    #[test]
    fn room_is_counted_by_kind_and_within_a_required_level() {
        let mut site = Site::of(&[vec![Kind::Bridged; 2], vec![Kind::Hgx; 16]].concat()).unwrap();
        assert_eq!((site.gpus(), site.idle(Kind::Bridged.bit())), (136, 8));
        assert!(site.has_room(&Ask::of_job(16, 8, None)));
        assert!(!site.has_room(&Ask::of_job(17, 8, None)));
        assert!(site.has_room(&Ask::of_job(8, 8, Some(2))));
        assert!(!site.has_room(&Ask::of_job(9, 8, Some(2))));
        site.take(Seat { host: 2, gpus: GpuSet::first(1) }).unwrap();
        assert!(site.has_room(&Ask::of_job(8, 8, Some(2))));
        site.take(Seat { host: 17, gpus: GpuSet::first(1) }).unwrap();
        assert!(!site.has_room(&Ask::of_job(8, 8, Some(2))));
    }

    #[test]
    fn the_kinds_of_nodes_are_mixed_as_documented() {
        let site = Site::new(640).unwrap();
        let count = |kind| site.hosts.iter().filter(|host| host.kind == kind).count();
        assert_eq!(Kind::ALL.map(count), [572, 32, 36]);
        let reversed = Site::reversed(640).unwrap();
        assert!(site.hosts.iter().map(|host| host.kind).eq(reversed.hosts.iter().rev().map(|host| host.kind)));
        assert_eq!(reversed.hosts[0].kind, Kind::Hgx);
    }
}
