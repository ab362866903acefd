//! What equal nodes share: their wiring with its tables, and the texts that repeat from node to node.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::{Member, Wiring};

/// Below so many texts none is looked for that nobody uses any more.
const FEW: usize = 1_024;

/// Wirings and texts of a cluster, each once. A clone shares them all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    wirings: Arc<HashMap<u64, Vec<Arc<Wiring>>>>,
    texts: Arc<HashSet<Arc<str>>>,
    /// How many texts there were when those without users were last thrown out.
    in_use: usize,
}

impl Shared {
    /// Gives a node the wiring, and its names the memory, of earlier nodes that are equal.
    pub(crate) fn share(&mut self, member: &mut Member) {
        let mut hasher = DefaultHasher::new();
        member.node.wiring().hash(&mut hasher);
        let hash = hasher.finish();
        let alike = self.wirings.get(&hash).into_iter().flatten();
        match alike.into_iter().find(|wiring| *wiring == member.node.wiring()) {
            Some(shared) => member.node.share_wiring(shared.clone()),
            None => Arc::make_mut(&mut self.wirings).entry(hash).or_default().push(member.node.wiring().clone()),
        }
        member.node.share_texts(|text| self.text(text));
        member.allocatable.share_names(|name| self.text(name));
    }

    /// A text, in the memory of the first one like it.
    pub(crate) fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let texts = Arc::make_mut(&mut self.texts);
        if texts.len() > FEW.max(2 * self.in_use) {
            texts.retain(|text| Arc::strong_count(text) > 1);
            self.in_use = texts.len();
        }
        let text: Arc<str> = text.into();
        texts.insert(text.clone());
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is the test's own message")]
mod tests {
    use super::*;
    use crate::{Gpu, Health, Node, NodeFacts, Resources, Standing};

    fn member(name: &str) -> Member {
        let gpu = |index: u32| Gpu {
            uuid: format!("{name}-{index}").into(),
            index,
            product: "GPU".into(),
            memory_bytes: 1,
            pci_bus_id: format!("00000000:{index:02X}:00.0").into(),
            numa: None,
            health: Health::Healthy,
            mig_profile: Some("1g.10gb".into()),
        };
        let gpus = (0..2).map(gpu).collect();
        let facts =
            NodeFacts { name: name.into(), gpus, nvlink_domain: Some("fabric.1".into()), ..NodeFacts::default() };
        Member {
            node: Node::new(facts).unwrap(),
            labels: Default::default(),
            standing: Standing::Ready,
            allocatable: Resources::new().with("cpu", 1),
        }
    }

    #[test]
    fn equal_nodes_have_their_wiring_and_their_texts_from_one_memory() {
        let mut shared = Shared::default();
        let (mut first, mut second) = (member("a"), member("b"));
        shared.share(&mut first);
        shared.share(&mut second);
        assert!(Arc::ptr_eq(first.node.wiring(), second.node.wiring()));
        for (one, other) in first.node.gpus().iter().zip(second.node.gpus()) {
            assert!(Arc::ptr_eq(&one.product, &other.product) && Arc::ptr_eq(&one.pci_bus_id, &other.pci_bus_id));
            assert!(Arc::ptr_eq(one.mig_profile.as_ref().unwrap(), other.mig_profile.as_ref().unwrap()));
        }
        let same = |one: &str, other: &str| std::ptr::eq(one, other);
        assert!(same(first.node.nvlink_domain().unwrap(), second.node.nvlink_domain().unwrap()));
        assert!(same(first.allocatable.iter().next().unwrap().0, second.allocatable.iter().next().unwrap().0));
    }

    #[test]
    fn texts_that_nobody_uses_any_more_are_thrown_out() {
        let mut shared = Shared::default();
        let used: Vec<Arc<str>> = (0..600).map(|n| shared.text(&format!("used {n}"))).collect();
        let mut most = 0;
        for n in 0..20_000 {
            shared.text(&format!("passing {n}"));
            most = most.max(shared.texts.len());
        }
        assert!(most > FEW, "not after each one: that would cost time");
        assert!(most <= 2 * 600 + 2, "{most} texts are kept for the 600 in use");
        assert!(used.iter().all(|text| Arc::ptr_eq(&shared.text(text), text)));
    }
}
