//! The objective of several groups as a vector: where each term is, and what it is called.

use super::Term;
use super::relations::Rules;
use crate::Cluster;
use crate::gang::Gang;

/// Positions of the terms, in the order in which they are compared.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Workers that do not stay where they are, when the question is who has to move.
    pub(super) moved: Option<usize>,
    /// Domains of a preferred level in use by its group: with the rule's number.
    pub(super) preferred: Vec<(usize, usize)>,
    /// Domains in use, by level.
    pub(super) used: Vec<usize>,
    /// Unevenness of balanced groups: with the rule's number.
    pub(super) balanced: Vec<(usize, usize)>,
    pub(super) weak: usize,
    /// NVLink domains opened.
    pub(super) nvlink: usize,
    pub(super) left: Vec<usize>,
    pub(super) opened: Vec<usize>,
    pub(super) wires: usize,
    pub(super) worth: usize,
    pub(super) width: usize,
}

impl Layout {
    /// Level by level from the outermost: what groups prefer of it, how many domains are used, how evenly. So a preference
    /// never spreads the gang over more domains of a level further out.
    pub(super) fn new(levels: usize, rules: &Rules, moving: bool) -> Self {
        let mut width = 0;
        let mut next = || {
            width += 1;
            width - 1
        };
        let moved = moving.then(&mut next);
        let (mut preferred, mut used, mut balanced) = (Vec::new(), Vec::new(), Vec::new());
        for depth in 0..levels {
            for (nth, _) in rules.preferred.iter().enumerate().filter(|(_, rule)| rule.depth == depth) {
                preferred.push((nth, next()));
            }
            used.push(next());
            for (nth, _) in rules.balanced.iter().enumerate().filter(|(_, rule)| rule.depth == depth) {
                balanced.push((nth, next()));
            }
        }
        let (weak, nvlink) = (next(), next());
        let (mut left, mut opened) = (vec![0; levels], vec![0; levels]);
        for depth in (0..levels).rev() {
            (left[depth], opened[depth]) = (next(), next());
        }
        let (wires, worth) = (next(), next());
        Self { moved, preferred, used, balanced, weak, nvlink, left, opened, wires, worth, width }
    }

    /// The terms of a cost vector by name.
    pub(super) fn named(&self, cluster: &Cluster, gang: &Gang, rules: &Rules, cost: &[i64]) -> Vec<Term> {
        let levels: Vec<&str> = cluster.levels().iter().map(|level| level.name.as_str()).chain(["host"]).collect();
        let mut names = vec![String::new(); self.width];
        if let Some(at) = self.moved {
            names[at] = "workers that stay (negated)".to_owned();
        }
        for &(nth, at) in &self.preferred {
            let rule = &rules.preferred[nth];
            names[at] = format!("{}s used by {:?}", levels[rule.depth], gang.groups[rule.group].name);
        }
        for &(nth, at) in &self.balanced {
            let rule = &rules.balanced[nth];
            let name = &gang.groups[rule.group].name;
            names[at] = format!("unevenness of {name:?} over {}s (sum of squares)", levels[rule.depth]);
        }
        for (depth, level) in levels.iter().enumerate() {
            names[self.used[depth]] = format!("{level}s used");
            names[self.opened[depth]] = format!("{level}s opened");
            names[self.left[depth]] = format!("GPUs left over by {level}");
        }
        names[self.nvlink] = "NVLink domains opened".to_owned();
        names[self.weak] = "weak workers".to_owned();
        names[self.wires] = "wires (negated)".to_owned();
        names[self.worth] = "worth lost to later jobs".to_owned();
        names.into_iter().zip(cost).map(|(name, &value)| Term { name, value }).collect()
    }
}
