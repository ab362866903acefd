//! Many nodes that are not ready at once: then not the nodes are to blame, but what tells of them.
//!
//! A control plane that was away, a network that is cut or a kubelet configuration gone wrong make most nodes look dead while
//! their workers run on. Whoever then starts all of them elsewhere turns an outage of minutes into the loss of every run. So no
//! node is given up while most of its kind are not ready, as Kubernetes' own node-lifecycle controller stops evictions; and when
//! the outage ends, those that are still not ready get their whole grace again, since they come back one by one.
//!
//! Nodes with GPUs and nodes without are counted apart: ten GPU nodes behind one broken switch are an outage, however many
//! other nodes a cluster has.

use crate::facts::NodeFacts;
use jiff::Timestamp;

/// The share of nodes that must not be ready: kube-controller-manager's `--unhealthy-zone-threshold`.
const SHARE: f64 = 0.55;
/// So many nodes are never an outage, unless they are all: of three nodes two may fail by themselves, and Kubernetes' own
/// controller counts a zone as partly disrupted from three on.
const FEW: usize = 2;

/// What the counts of the nodes of one kind say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kind {
    nodes: usize,
    not_ready: usize,
    /// Whether there is an outage now.
    on: bool,
    /// When an outage was last seen, or could have been: at the first count it is not known what there was before, since the
    /// leader of then may have seen one.
    last: Option<Timestamp>,
    /// Whether it was counted before.
    counted: bool,
}

/// Outages of the nodes with GPUs and of those without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outages {
    kinds: [Kind; 2],
}

impl Outages {
    /// Counts the nodes, each with whether it has GPUs. Whether an outage began or ended with that.
    pub fn count<'a>(&mut self, nodes: impl Iterator<Item = (bool, &'a NodeFacts)>, now: Timestamp) -> bool {
        let mut counted = [(0, 0); 2];
        for (has_gpus, node) in nodes {
            let (all, not_ready) = &mut counted[usize::from(has_gpus)];
            *all += 1;
            // A node that is known to be off is no riddle.
            *not_ready += usize::from(node.not_ready_since.is_some() && !node.out_of_service);
        }
        let mut news = false;
        for (kind, (nodes, not_ready)) in self.kinds.iter_mut().zip(counted) {
            let on = is_outage(nodes, not_ready);
            news |= on != kind.on;
            // Also when it ends: it may have been counted last some seconds ago, and was on until now.
            let last = if on || kind.on || !kind.counted { Some(now) } else { kind.last };
            *kind = Kind { nodes, not_ready, on, last, counted: true };
        }
        news
    }

    /// From when on a node that is not ready since `since` is waited for; none while there is an outage of its kind.
    pub fn patience_from(&self, has_gpus: bool, since: Timestamp) -> Option<Timestamp> {
        let kind = self.kinds[usize::from(has_gpus)];
        (!kind.on).then(|| kind.last.map_or(since, |last| last.max(since)))
    }

    /// Whether nodes are kept though they are not ready.
    pub fn are_on(&self) -> bool {
        self.kinds.iter().any(|kind| kind.on)
    }

    /// Nodes that are not ready.
    pub fn not_ready(&self) -> usize {
        self.kinds.iter().map(|kind| kind.not_ready).sum()
    }

    /// All nodes.
    pub fn nodes(&self) -> usize {
        self.kinds.iter().map(|kind| kind.nodes).sum()
    }
}

/// Where none is ready there is no other place either.
#[expect(clippy::cast_precision_loss, reason = "numbers of nodes are small")]
fn is_outage(nodes: usize, not_ready: usize) -> bool {
    nodes > 0 && (not_ready == nodes || (not_ready > FEW && not_ready as f64 / nodes as f64 >= SHARE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_three_nodes_is_replaced_and_most_of_many_are_kept() {
        for (nodes, not_ready, expected) in [
            (0, 0, false),
            (1, 0, false),
            (1, 1, true),
            (3, 1, false),
            (3, 2, false),
            (3, 3, true),
            (4, 3, true),
            (10, 5, false),
            (10, 6, true),
            (1000, 549, false),
            (1000, 550, true),
        ] {
            assert_eq!(is_outage(nodes, not_ready), expected, "{not_ready} of {nodes}");
        }
    }

    #[test]
    fn patience_begins_anew_when_an_outage_ends() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let node = |name: usize, since: Option<i64>| NodeFacts {
            name: name.to_string(),
            not_ready_since: since.map(at),
            ..NodeFacts::default()
        };
        let mut outages = Outages::default();
        let mut nodes: Vec<NodeFacts> = (0..10).map(|n| node(n, (n < 6).then_some(100))).collect();
        assert!(outages.count(nodes.iter().map(|node| (true, node)), at(110)), "it begins");
        assert_eq!(outages.patience_from(true, at(100)), None);
        assert_eq!(outages.patience_from(false, at(120)), Some(at(120)), "other nodes are not concerned");
        assert!(!outages.count(nodes.iter().map(|node| (true, node)), at(200)), "it goes on");
        nodes[0].not_ready_since = None;
        assert!(outages.count(nodes.iter().map(|node| (true, node)), at(300)), "it ends");
        assert_eq!(outages.patience_from(true, at(100)), Some(at(300)));
        assert_eq!(outages.patience_from(true, at(350)), Some(at(350)), "what fails later is waited for as ever");
    }

    #[test]
    fn a_new_leader_gives_every_node_its_whole_grace() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut outages = Outages::default();
        let silent = NodeFacts { not_ready_since: Some(at(100)), ..NodeFacts::default() };
        let nodes = [silent, NodeFacts::default(), NodeFacts::default()];
        let count = |outages: &mut Outages, now| outages.count(nodes.iter().map(|node| (true, node)), at(now));
        assert!(!count(&mut outages, 1_900));
        assert_eq!(
            outages.patience_from(true, at(100)),
            Some(at(1_900)),
            "an outage may have ended under the leader before"
        );
        assert!(!count(&mut outages, 1_950));
        assert_eq!(outages.patience_from(true, at(100)), Some(at(1_900)));
    }
}
