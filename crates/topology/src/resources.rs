//! Amounts of what a pod asks for beside GPUs.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Amounts by resource name, in whole units that the caller fixes once: by convention millicores for `cpu`, bytes for
/// `memory`, and 1 for countable ones such as `pods`. GPUs are not in it.
///
/// Kept as a list by name: a pod or node mentions a handful, and a cluster holds two of these for each node and one for each
/// pod, where a map would take four times the memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources(Box<[(Arc<str>, u64)]>);

impl Resources {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// With `amount` of `name`, in place of what was there.
    #[must_use]
    pub fn with(mut self, name: &str, amount: u64) -> Self {
        match self.position(name) {
            Ok(at) => self.0[at].1 = amount,
            Err(at) => self.insert(at, name.into(), amount),
        }
        self
    }

    /// How much of `name`; nothing if it is not mentioned.
    pub fn get(&self, name: &str) -> u64 {
        self.position(name).map_or(0, |at| self.0[at].1)
    }

    /// Names and amounts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, amount)| (name.as_ref(), *amount))
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&(_, amount)| amount == 0)
    }

    /// Adds `other`, name by name.
    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            match self.position(name) {
                Ok(at) => self.0[at].1 = self.0[at].1.saturating_add(*amount),
                Err(at) => self.insert(at, name.clone(), *amount),
            }
        }
    }

    /// Takes `other` away, name by name, not below nothing. Names that are not here stay away.
    pub fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            if let Ok(at) = self.position(name) {
                self.0[at].1 = self.0[at].1.saturating_sub(*amount);
            }
        }
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.as_ref().cmp(name))
    }

    fn insert(&mut self, at: usize, name: Arc<str>, amount: u64) {
        let mut all = std::mem::take(&mut self.0).into_vec();
        all.insert(at, (name, amount));
        self.0 = all.into();
    }

    /// Has its names share memory with those that `shared` gives for them.
    pub(crate) fn share_names(&mut self, mut shared: impl FnMut(&str) -> Arc<str>) {
        for (name, _) in &mut self.0 {
            *name = shared(name);
        }
    }

    /// How many times `request` fits, and the resource that runs out first; none if nothing is asked for.
    pub fn times<'a>(&self, request: &'a Self) -> Option<(u64, &'a str)> {
        let asked = request.iter().filter(|&(_, amount)| amount > 0);
        asked.map(|(name, amount)| (self.get(name) / amount, name)).min()
    }
}

impl<N: Into<Arc<str>>> FromIterator<(N, u64)> for Resources {
    fn from_iter<I: IntoIterator<Item = (N, u64)>>(amounts: I) -> Self {
        // The last amount of a name counts.
        let by_name: BTreeMap<Arc<str>, u64> =
            amounts.into_iter().map(|(name, amount)| (name.into(), amount)).collect();
        Self(by_name.into_iter().collect())
    }
}

impl Serialize for Resources {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Resources {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(BTreeMap::<Arc<str>, u64>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_found_by_name_in_whatever_order_they_came() {
        let mut all = Resources::new().with("pods", 3).with("cpu", 8_000).with("pods", 4);
        assert_eq!(all.iter().collect::<Vec<_>>(), [("cpu", 8_000), ("pods", 4)]);
        all.add(&Resources::from_iter([("memory", 1), ("cpu", 500), ("memory", 7)]));
        assert_eq!(all.iter().collect::<Vec<_>>(), [("cpu", 8_500), ("memory", 7), ("pods", 4)]);
        all.subtract(&Resources::new().with("pods", 9).with("ephemeral-storage", 1));
        assert_eq!((all.get("pods"), all.get("ephemeral-storage"), all.get("memory")), (0, 0, 7));
        assert_eq!(all.times(&Resources::new().with("cpu", 4_000).with("memory", 2)), Some((2, "cpu")));
    }
}
