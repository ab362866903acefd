//! Amounts of what a pod asks for beside GPUs.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Amounts by resource name, in whole units that the caller fixes once: by convention millicores for `cpu`, bytes for
/// `memory`, and 1 for countable ones such as `pods`. GPUs are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Resources(BTreeMap<Arc<str>, u64>);

impl Resources {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// With `amount` of `name`, in place of what was there.
    #[must_use]
    pub fn with(mut self, name: &str, amount: u64) -> Self {
        self.0.insert(name.into(), amount);
        self
    }

    /// How much of `name`; nothing if it is not mentioned.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Names and amounts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, &amount)| (name.as_ref(), amount))
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.values().all(|&amount| amount == 0)
    }

    /// Adds `other`, name by name.
    pub fn add(&mut self, other: &Self) {
        for (name, &amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            *sum = sum.saturating_add(amount);
        }
    }

    /// Takes `other` away, name by name, not below nothing. Names that are not here stay away.
    pub fn subtract(&mut self, other: &Self) {
        for (name, &amount) in &other.0 {
            if let Some(left) = self.0.get_mut(name) {
                *left = left.saturating_sub(amount);
            }
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
        Self(amounts.into_iter().map(|(name, amount)| (name.into(), amount)).collect())
    }
}
