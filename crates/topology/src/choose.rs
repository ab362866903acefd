//! Choosing GPUs of one node.
//!
//! # The score
//! A choice *S* out of the free GPUs *F* leaves *R = F \ S*. With *W(S)* the sum of the scores of all wires within *S*
//! ([`Wire::score`]), and *Pₖ(R)* the most that ⌊|R|/k⌋ disjoint sets of *k* GPUs out of *R* can have in wires together,
//!
//! > score(S) = 5/4 · W(S) + mean over k = 2 … |R| of Pₖ(R)
//!
//! The first term is what this request gets, the second what later requests of any size can still get. So a single GPU
//! is taken where it breaks least, a bridged pair is not split while an odd GPU is free, and sockets stay whole. Among
//! equals the set with the lowest positions wins, so that people can predict it.
//!
//! Why 5/4: this request is certain and later ones are not. With equal weights the one linked pair of a machine would be
//! worth as much kept as used, and a request for two could go without it. With a much higher weight (1.3 is enough) a
//! request for three would take that pair and a far third GPU where three on one PCIe switch are free.
//!
//! GPUs planned for others (`avoid`) do not count as free while there are enough others: neither in *S* nor in *R*. If
//! there are not enough, all others are taken and as few of the planned ones as needed.
//!
//! # Exactness
//! Up to [`EXACT_UP_TO`](crate::EXACT_UP_TO) GPUs a node's choices are exact: no other set scores higher. Of GPUs that
//! cannot be told from each other by their wires, only the lowest are tried. Beyond, the set is built by the method
//! of conditional expectations for *W(S) + W(R)* and then improved by swaps: never worse in it than the average set.

use std::fmt;

use crate::wiring::{Tables, each_subset};
use crate::{GpuSet, Node, NodeName, Wire, Wiring};

/// The chosen GPUs, and why these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The GPUs.
    pub gpus: GpuSet,
    /// The sum of the scores of the wires within them.
    pub wires: u32,
    /// The worst wire within them; none below two GPUs.
    pub weakest: Option<Wire>,
    /// Mean over all later request sizes of what can be packed into the rest (see the module's text).
    pub rest_worth: u32,
    /// GPUs among them that were to be avoided, since there was no way around.
    pub avoided: GpuSet,
    /// How many sets were to choose from.
    pub considered: u64,
    /// Whether it is proven that no other set scores higher.
    pub exact: bool,
}

impl Choice {
    /// The sentence for people; `node` is the one chosen on.
    pub fn explain<'a>(&'a self, node: &'a Node) -> impl fmt::Display + 'a {
        Explained { choice: self, node }
    }
}

struct Explained<'a> {
    choice: &'a Choice,
    node: &'a Node,
}

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { choice, node } = self;
        let count = choice.gpus.len();
        if count == 0 {
            return write!(f, "no GPU of {} was asked for", node.name());
        }
        write!(f, "GPU{} {} of {}", if count == 1 { "" } else { "s" }, node.indices(choice.gpus), node.name())?;
        match choice.weakest {
            Some(wire) if count == 2 => write!(f, ", joined by {}", wire.words())?,
            Some(wire) => write!(f, ", any two joined by at least {}", wire.words())?,
            None => {}
        }
        match (choice.considered, choice.exact) {
            (1, _) => f.write_str(": the only set there is")?,
            (n, true) if count == 1 => write!(f, ": of {n} free it breaks least of what later jobs need")?,
            (n, true) => write!(f, ": the best of {n} sets, counting what it leaves to later jobs")?,
            (n, false) => write!(f, ": a good one of {n} sets, too many to try all")?,
        }
        if !choice.avoided.is_empty() {
            write!(f, "; {} planned for another pod, for want of others", node.indices(choice.avoided))?;
        }
        Ok(())
    }
}

/// Why no set could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoChoice {
    /// Fewer GPUs are free and healthy than were asked for.
    #[error("{node} has {usable} of {count} GPUs: {total} in all, {taken} taken, {unhealthy} unhealthy")]
    TooFew {
        /// The node.
        node: NodeName,
        /// GPUs asked for.
        count: usize,
        /// GPUs free and healthy.
        usable: usize,
        /// GPUs of the node.
        total: usize,
        /// Healthy ones that are not free.
        taken: usize,
        /// Unhealthy ones, free or not.
        unhealthy: usize,
    },
    /// More GPUs must be in the answer than were asked for.
    #[error("{must} GPUs of {node} must be included, more than the {count} asked for: ask for at least {must}")]
    MustExceedsCount {
        /// The node.
        node: NodeName,
        /// GPUs asked for.
        count: usize,
        /// GPUs that must be included.
        must: usize,
    },
    /// GPUs that must be in the answer are taken, unhealthy or not there.
    #[error("GPUs {gpus} of {node} must be included but are taken or unhealthy: free or recover them first")]
    MustNotUsable {
        /// The node.
        node: NodeName,
        /// The GPUs, by position.
        gpus: GpuSet,
    },
}

/// Picks the `count` GPUs out of `free` that are wired best together and leave the best to later pods, under the score
/// that this module describes.
///
/// Unhealthy GPUs are never chosen, also where `free` contains them. The answer contains `must`, has exactly `count`
/// members, and contains GPUs of `avoid` only where there is no way around. The same input gives the same answer.
///
/// # Errors
/// [`NoChoice`] says which of the ways in which it cannot be it was, with the counts.
pub fn choose(node: &Node, free: GpuSet, must: GpuSet, avoid: GpuSet, count: usize) -> Result<Choice, NoChoice> {
    let usable = usable(node, free, must, count)?;
    let question = Question::new(usable, must, avoid, count);
    let wiring = node.wiring();
    let (gpus, exact) = match wiring.tables() {
        Some(tables) => (question.best(tables), true),
        None => (question.good(wiring), question.pick == question.pool.len() || question.pick == 0),
    };
    let rest_worth = worth(wiring, question.rest(gpus));
    Ok(Choice {
        gpus,
        wires: wiring.within(gpus),
        weakest: wiring.weakest(gpus),
        rest_worth,
        avoided: gpus.intersection(avoid),
        considered: binomial(question.pool.len(), question.pick),
        exact,
    })
}

/// The free GPUs on which work may be put, if `count` of them can be had with `must` among them.
pub(crate) fn usable(node: &Node, free: GpuSet, must: GpuSet, count: usize) -> Result<GpuSet, NoChoice> {
    let usable = free.intersection(node.healthy());
    if !must.is_subset(usable) {
        return Err(NoChoice::MustNotUsable { node: node.name().clone(), gpus: must.difference(usable) });
    }
    if must.len() > count {
        return Err(NoChoice::MustExceedsCount { node: node.name().clone(), count, must: must.len() });
    }
    if usable.len() < count {
        return Err(NoChoice::TooFew {
            node: node.name().clone(),
            count,
            usable: usable.len(),
            total: node.gpus().len(),
            taken: node.healthy().difference(free).len(),
            unhealthy: node.gpus().len() - node.healthy().len(),
        });
    }
    Ok(usable)
}

/// The mean over k = 2 … of what sets of k out of `rest` can have in wires; beyond the tables, the wires within `rest`.
pub(crate) fn worth(wiring: &Wiring, rest: GpuSet) -> u32 {
    match wiring.tables() {
        Some(tables) => mean(u64::from(tables.worth[rest.bits() as usize]), rest),
        None => wiring.within(rest),
    }
}

/// The score of a set with `wires` that leaves `worth` summed over `sizes` request sizes; times 4·`sizes`, to be exact.
fn weigh(wires: u32, sizes: u32, worth: u32) -> u32 {
    5 * wires * sizes + 4 * worth
}

fn mean(sum: u64, rest: GpuSet) -> u32 {
    (sum / sizes(rest)) as u32
}

/// How many request sizes of two and more `rest` can serve; 1 where there is none, to divide by.
fn sizes(rest: GpuSet) -> u64 {
    rest.len().saturating_sub(1).max(1) as u64
}

/// A request in its simplest form: `fixed` is in the answer, `pick` more come out of `pool`, `kept` is what the rest is
/// counted from.
pub(crate) struct Question {
    pub(crate) fixed: GpuSet,
    pub(crate) pool: GpuSet,
    pub(crate) pick: usize,
    kept: GpuSet,
}

impl Question {
    pub(crate) fn new(usable: GpuSet, must: GpuSet, avoid: GpuSet, count: usize) -> Self {
        let open = usable.difference(avoid).difference(must);
        let pick = count - must.len();
        if open.len() >= pick {
            Self { fixed: must, pool: open, pick, kept: usable.difference(avoid) }
        } else {
            let fixed = must.union(open);
            Self { fixed, pool: usable.difference(fixed), pick: pick - open.len(), kept: usable }
        }
    }

    fn rest(&self, chosen: GpuSet) -> GpuSet {
        self.kept.difference(chosen)
    }

    /// The best set, by trying all; the first one found is the one with the lowest positions.
    fn best(&self, tables: &Tables) -> GpuSet {
        let kept = self.kept.bits() as usize;
        let left = self
            .kept
            .difference(self.fixed)
            .len()
            .saturating_sub(self.pick.min(self.pool.intersection(self.kept).len()));
        // At most 120 wires of 25,560 (255 NVLinks) and 15 sizes: all of it fits into 32 bits.
        let sizes = sizes(GpuSet::first(left)) as u32;
        let (mut highest, mut best) = (0, None);
        each_subset(
            self.pool.bits() as usize,
            self.pick,
            self.fixed.bits() as usize,
            Some(&tables.twins),
            &mut |set| {
                let score = weigh(tables.within[set], sizes, tables.worth[kept & !set]);
                if score > highest || best.is_none() {
                    (highest, best) = (score, Some(set));
                }
            },
        );
        GpuSet::from_bits(best.map_or(self.fixed.bits(), |set| set as u64))
    }

    /// A set that is good in W(S) + W(R): the wires that are not cut. See `conditional` for the bound.
    fn good(&self, wiring: &Wiring) -> GpuSet {
        let mut chosen = self.conditional(wiring);
        let all = self.kept.union(chosen);
        // A swap strictly increases an integer that is bounded, so this ends; the limit bounds its time as well.
        for _ in 0..GpuSet::CAPACITY {
            let rest = all.difference(chosen);
            let gain = |gpu: usize, to: GpuSet, from: GpuSet| {
                i64::from(wiring.towards(gpu, to)) - i64::from(wiring.towards(gpu, from))
            };
            let swaps = chosen.difference(self.fixed).iter().flat_map(|out| {
                rest.intersection(self.pool).iter().map(move |into| {
                    let value =
                        gain(out, rest, chosen) + gain(into, chosen, rest) - 2 * i64::from(wiring.pair(out, into));
                    (value, out, into)
                })
            });
            let best = swaps.max_by_key(|&(value, out, into)| (value, std::cmp::Reverse(into), std::cmp::Reverse(out)));
            match best {
                Some((value, out, into)) if value > 0 => {
                    chosen.remove(out);
                    chosen.insert(into);
                }
                _ => break,
            }
        }
        chosen
    }

    /// Decides GPU by GPU, in or out, whichever leaves the higher expected W(S) + W(R) if all undecided ones were drawn
    /// at random. One of the two is never below the expectation before, which starts as the average over all sets.
    fn conditional(&self, wiring: &Wiring) -> GpuSet {
        let mut chosen = self.fixed;
        let mut open = self.pool;
        let mut out = self.kept.difference(self.fixed).difference(self.pool);
        while let Some(gpu) = open.lowest() {
            open.remove(gpu);
            let needed = self.pick - chosen.difference(self.fixed).len();
            let take = if needed == 0 {
                false
            } else if needed > open.len() {
                true
            } else {
                let (mut with, mut without) = (chosen, out);
                with.insert(gpu);
                without.insert(gpu);
                // Both over the same denominators, cross-multiplied by `expected`.
                expected(wiring, with, out, open, needed - 1) >= expected(wiring, chosen, without, open, needed)
            };
            if take { chosen.insert(gpu) } else { out.insert(gpu) }
        }
        chosen
    }
}

/// The expectation of W(S) + W(R), times |open|·(|open|−1), when `needed` of `open` are drawn into S and the others into R.
fn expected(wiring: &Wiring, chosen: GpuSet, out: GpuSet, open: GpuSet, needed: usize) -> u64 {
    let (n, k) = (open.len() as u64, needed as u64);
    let scale = (n * n.saturating_sub(1)).max(1);
    let sure = u64::from(wiring.within(chosen)) + u64::from(wiring.within(out));
    let to = |set: GpuSet| open.iter().map(|gpu| u64::from(wiring.towards(gpu, set))).sum::<u64>();
    let single = if n == 0 { 0 } else { (to(chosen) * k + to(out) * (n - k)) * (scale / n) };
    let both = if n < 2 {
        0
    } else {
        u64::from(wiring.within(open)) * (k * k.saturating_sub(1) + (n - k) * (n - k).saturating_sub(1))
    };
    sure * scale + single + both
}

/// Binomial coefficient, saturating.
pub(crate) fn binomial(n: usize, k: usize) -> u64 {
    let mut value = 1u128;
    for i in 0..k.min(n.saturating_sub(k)) {
        value = value * (n - i) as u128 / (i + 1) as u128;
        if value > u128::from(u64::MAX) {
            return u64::MAX;
        }
    }
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wiring::tests::wiring;

    #[test]
    fn the_expectation_is_the_mean_over_all_draws() {
        const GPUS: usize = 6;
        for seed in 1..4 {
            let wiring = wiring(GPUS, seed);
            // Each GPU is chosen, out, open or none of these.
            for roles in 0..4usize.pow(GPUS as u32) {
                let with = |role: usize| (0..GPUS).filter(|&gpu| roles / 4usize.pow(gpu as u32) % 4 == role).collect();
                let (chosen, out, open): (GpuSet, GpuSet, GpuSet) = (with(0), with(1), with(2));
                let scale = (open.len() * open.len().saturating_sub(1)).max(1) as u64;
                for needed in 0..=open.len() {
                    let mut sum = 0;
                    each_subset(open.bits() as usize, needed, 0, None, &mut |drawn| {
                        let drawn = GpuSet::from_bits(drawn as u64);
                        let rest = out.union(open.difference(drawn));
                        sum += u64::from(wiring.within(chosen.union(drawn)) + wiring.within(rest));
                    });
                    let draws = binomial(open.len(), needed);
                    assert_eq!(expected(&wiring, chosen, out, open, needed) * draws, sum * scale);
                }
            }
        }
    }

    #[test]
    fn each_gpu_goes_where_more_is_still_to_be_expected() {
        // GPU 0 has as much to gain on either side with GPU 1 drawn, and goes in: of equals the lowest are taken.
        let wiring = Wiring::new(18, vec![Wire::over(crate::Path::SameNuma); 18 * 18]);
        let all = GpuSet::first(18);
        let question = |fixed: GpuSet, pick| Question { fixed, pool: all.difference(fixed), pick, kept: all };
        assert_eq!(question(GpuSet::EMPTY, 9).conditional(&wiring), GpuSet::first(9));
        // One pair is linked: whether one half is in already or not, the other joins it.
        let mut wires = vec![Wire::over(crate::Path::CrossSocket); 18 * 18];
        (wires[2 * 18 + 7], wires[7 * 18 + 2]) =
            (Wire::nvlink(4, crate::Path::SameNuma), Wire::nvlink(4, crate::Path::SameNuma));
        let wiring = Wiring::new(18, wires);
        let linked: GpuSet = [2, 7].into_iter().collect();
        let fixed: GpuSet = [7].into_iter().collect();
        assert_eq!(question(fixed, 1).conditional(&wiring), linked);
        // With three to pick it comes in or stays out as a whole.
        let chosen = question(GpuSet::EMPTY, 3).conditional(&wiring);
        assert!(linked.is_subset(chosen) || linked.intersection(chosen).is_empty(), "{chosen}");
    }

    #[test]
    fn what_is_decided_one_by_one_is_no_worse_than_the_mean() {
        for (n, seed) in [(5, 1), (6, 2), (7, 3), (8, 4), (8, 5), (9, 6), (9, 7)] {
            let (wiring, all) = (wiring(n, seed), GpuSet::first(n));
            for fixed in (0..1 << 3).map(GpuSet::from_bits) {
                let pool = all.difference(fixed);
                for pick in 0..=pool.len() {
                    let chosen = Question { fixed, pool, pick, kept: all }.conditional(&wiring);
                    assert!(fixed.is_subset(chosen) && chosen.len() == fixed.len() + pick);
                    let kept = u64::from(wiring.within(chosen) + wiring.within(all.difference(chosen)));
                    let scale = (pool.len() * pool.len().saturating_sub(1)).max(1) as u64;
                    assert!(kept * scale >= expected(&wiring, fixed, GpuSet::EMPTY, pool, pick));
                }
            }
        }
    }

    #[test]
    fn binomial_coefficients_are_exact_up_to_what_fits_in_64_bits() {
        assert_eq!((0..=5).map(|k| binomial(5, k)).collect::<Vec<_>>(), [1, 5, 10, 10, 5, 1]);
        assert_eq!((binomial(64, 32), binomial(67, 33)), (1_832_624_140_942_590_534, 14_226_520_737_620_288_370));
        assert_eq!(binomial(70, 35), u64::MAX);
    }
}
