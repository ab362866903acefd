//! A map that snapshots share: a clone costs nothing, and a change after it copies one path of the trie, a kilobyte at most.
//!
//! Four bits of a key's hash choose the way at each branching; a leaf holds a few entries and becomes a branching
//! when it grows beyond that. The hash is the same in every process, so the order of iteration only depends on the keys.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Entries that a leaf holds at most, except at the end of the hash.
const LEAF: usize = 24;
const WAYS: usize = 16;
const BITS_PER_WAY: u32 = WAYS.trailing_zeros();

/// A hash map, copied on write.
#[derive(Clone, Debug)]
pub(crate) struct Trie<K, V> {
    root: Arc<Knot<K, V>>,
}

#[derive(Clone, Debug)]
enum Knot<K, V> {
    Leaf(Vec<Entry<K, V>>),
    /// Boxed, since most knots are leaves and would be as large.
    Branch(Box<[Arc<Knot<K, V>>; WAYS]>),
}

#[derive(Clone, Debug)]
struct Entry<K, V> {
    hash: u64,
    key: K,
    value: V,
}

fn hash_of<K: Hash>(key: &K) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

fn way(hash: u64, depth: u32) -> usize {
    (hash >> (depth * BITS_PER_WAY)) as usize % WAYS
}

impl<K: Hash + Eq + Clone, V: Clone> Trie<K, V> {
    pub(crate) fn new() -> Self {
        Self { root: Arc::new(Knot::Leaf(Vec::new())) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let hash = hash_of(key);
        let mut knot = &self.root;
        let mut depth = 0;
        loop {
            match knot.as_ref() {
                Knot::Leaf(entries) => return Some(&entries[position(entries, hash, key)?].value),
                Knot::Branch(ways) => knot = &ways[way(hash, depth)],
            }
            depth += 1;
        }
    }

    /// Changes the value of a key in place, `default` where there is none yet.
    pub(crate) fn entry(&mut self, key: &K, default: impl FnOnce() -> V) -> &mut V {
        let hash = hash_of(key);
        let mut knot = &mut self.root;
        let mut depth = 0;
        // A leaf that is full becomes a branching first, so that the way down ends in a leaf with room for one more.
        loop {
            let inner = Arc::make_mut(knot);
            if let Knot::Leaf(entries) = inner
                && entries.len() >= LEAF
                && depth < u64::BITS / BITS_PER_WAY
            {
                *inner = branching(std::mem::take(entries), depth);
            }
            match inner {
                Knot::Branch(ways) => knot = &mut ways[way(hash, depth)],
                Knot::Leaf(entries) => {
                    let at = position(entries, hash, key).unwrap_or_else(|| {
                        // Leaves are most of the memory: none of it is for entries that may come.
                        entries.reserve_exact(1);
                        entries.push(Entry { hash, key: key.clone(), value: default() });
                        entries.len() - 1
                    });
                    return &mut entries[at].value;
                }
            }
            depth += 1;
        }
    }

    /// Sets the value of a key.
    pub(crate) fn insert(&mut self, key: &K, value: V) {
        let slot = self.entry(key, || value.clone());
        *slot = value;
    }

    /// Takes a key out. Branchings stay, for the next keys: they take no more than the map once needed.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.get(key)?;
        let hash = hash_of(key);
        let mut knot = &mut self.root;
        let mut depth = 0;
        loop {
            match Arc::make_mut(knot) {
                Knot::Branch(ways) => knot = &mut ways[way(hash, depth)],
                Knot::Leaf(entries) => {
                    let at = position(entries, hash, key)?;
                    return Some(entries.swap_remove(at).value);
                }
            }
            depth += 1;
        }
    }

    /// Keys and values in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let mut open = vec![self.root.as_ref()];
        let leaves = std::iter::from_fn(move || {
            loop {
                match open.pop()? {
                    Knot::Leaf(entries) => return Some(entries),
                    Knot::Branch(ways) => open.extend(ways.iter().map(Arc::as_ref)),
                }
            }
        });
        leaves.flatten().map(|entry| (&entry.key, &entry.value))
    }
}

fn position<K: Eq, V>(entries: &[Entry<K, V>], hash: u64, key: &K) -> Option<usize> {
    entries.iter().position(|entry| entry.hash == hash && entry.key == *key)
}

fn branching<K: Clone, V: Clone>(entries: Vec<Entry<K, V>>, depth: u32) -> Knot<K, V> {
    let mut ways: [Vec<Entry<K, V>>; WAYS] = std::array::from_fn(|_| Vec::new());
    for entry in entries {
        let entries = &mut ways[way(entry.hash, depth)];
        entries.reserve_exact(1);
        entries.push(entry);
    }
    Knot::Branch(Box::new(ways.map(|entries| Arc::new(Knot::Leaf(entries)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// A key whose hash is the same for many, so that leaves at the end of the hash are met too.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Clashing(u16);

    impl Hash for Clashing {
        fn hash<H: Hasher>(&self, state: &mut H) {
            (self.0 % 3).hash(state);
        }
    }

    fn agrees<K: Hash + Eq + Clone + std::fmt::Debug>(changes: &[(K, bool)]) {
        let (mut trie, mut plain) = (Trie::new(), HashMap::new());
        let mut snapshots = Vec::new();
        for (nth, (key, insert)) in changes.iter().enumerate() {
            if nth % 16 == 0 {
                snapshots.push((trie.clone(), plain.clone()));
            }
            if *insert {
                trie.insert(key, nth);
                plain.insert(key.clone(), nth);
            } else {
                assert_eq!(trie.remove(key), plain.remove(key));
            }
            assert_eq!(trie.get(key), plain.get(key));
        }
        snapshots.push((trie, plain));
        for (trie, plain) in snapshots {
            assert_eq!(trie.iter().map(|(key, at)| (key.clone(), *at)).collect::<HashMap<_, _>>(), plain);
            assert_eq!(trie.iter().count(), plain.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_trie_and_its_snapshots_hold_what_a_plain_map_holds(
            changes in prop::collection::vec((0u16..400, prop::bool::weighted(0.7)), 1_000),
        ) {
            agrees(&changes);
            let clashing: Vec<_> = changes.iter().take(200).map(|&(key, insert)| (Clashing(key), insert)).collect();
            agrees(&clashing);
        }
    }
}
