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
