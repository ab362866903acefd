//! Choosing GPUs of a node: the tables of a machine, then single choices on free and on partly taken machines, against the
//! enumeration of all partitions.

use anyhow::Result;
use weft_topology::{Choice, GpuSet, Node, choose};

use crate::machines::bridged;
use crate::measure::{Against, Line, Measured, Printer, Samples, measure, sample};
use crate::random::Random;
use crate::rivals::partition::best_partition;

/// More free GPUs than these take the enumeration of partitions seconds.
const ENUMERATED: usize = 8;

/// So many sets of taken GPUs are drawn for a case.
const DRAWS: usize = 100;

/// GPUs of a machine and how many of them others hold, beside none.
const TAKEN: [(u32, &[usize]); 3] = [(4, &[1, 2]), (8, &[1, 2, 3, 4, 5]), (16, &[3, 8, 11])];

pub fn run(print: Printer) -> Result<()> {
    let none = GpuSet::EMPTY;
    for n in [4u32, 8, 16] {
        let nodes: Vec<_> = (0..6).map(|_| bridged("n", n)).collect::<Result<_>>()?;
        let mut fresh = nodes.iter().cycle().cloned();
        // A clone shares its tables with the node it was cloned from, so each is asked once.
        let tables = measure(5, || fresh.next().map(|node| choose(&node, node.all(), none, none, 1)));
        print.line(&line(format!("n={n},tables"), tables, "nothing", None, vec![]));
        let node = &nodes[0];
        for k in 1..n as usize {
            print.line(&case(format!("n={n},k={k}"), node, &[node.all()], k)?);
        }
        for &taken in TAKEN.iter().filter(|(of, _)| *of == n).flat_map(|(_, taken)| *taken) {
            let free = partly_free(node, taken);
            for k in 1..=node.all().len() - taken {
                print.line(&case(format!("n={n},k={k},taken={taken}"), node, &free, k)?);
            }
        }
    }
    Ok(())
}

fn line<'a>(
    case: String,
    ours: Measured,
    against: &'a str,
    theirs: Option<Against>,
    extra: Vec<(&'a str, f64)>,
) -> Line<'a> {
    Line { bench: "allocate", case, ours, against, theirs, extra }
}

/// What is free on the machine while others hold so many GPUs of it, wherever they happen to be.
fn partly_free(node: &Node, taken: usize) -> Vec<GpuSet> {
    let mut random = Random::new(taken as u64);
    let draw = |_| {
        let mut free: Vec<usize> = node.all().iter().collect();
        for _ in 0..taken {
            free.swap_remove(random.below(free.len()));
        }
        free.into_iter().collect()
    };
    (0..DRAWS).map(draw).collect()
}

/// Choosing `k` GPUs out of each of `free`: the times of all, and who gets how much of the score of docs/placement.md.
fn case(case: String, node: &Node, free: &[GpuSet], k: usize) -> Result<Line<'static>> {
    let none = GpuSet::EMPTY;
    let repeats = |all: usize| (all / free.len()).max(2);
    let mut ours = Samples::default();
    for &free in free {
        ours.append(sample(repeats(2_000), || choose(node, free, none, none, k)));
    }
    if free.iter().any(|free| free.len() > ENUMERATED) {
        return Ok(line(case, ours.measured(), "partition enumeration takes seconds here", None, vec![]));
    }
    let mut times = Samples::default();
    let mut sums = Sums::default();
    for &free in free {
        times.append(sample(repeats(20), || best_partition(node, free, k)));
        let mine = choose(node, free, none, none, k)?;
        // With the whole set prescribed, the choice says what the rival's set is worth.
        let theirs = choose(node, free, best_partition(node, free, k), none, k)?;
        sums.add(&mine, &theirs);
    }
    let theirs = Some(Against { measured: times.measured(), objective: sums.objective() });
    let against = "partition enumeration; 5/4 wires chosen + worth of the rest";
    Ok(line(case, ours.measured(), against, theirs, sums.extra(free.len())))
}

/// What a set of GPUs scores: what this request gets and what later ones can still get, as docs/placement.md defines it.
fn score(choice: &Choice) -> f64 {
    1.25 * f64::from(choice.wires) + f64::from(choice.rest_worth)
}

/// Sums over the sets of free GPUs; of pairs, the first is ours.
#[derive(Default)]
struct Sums {
    score: (f64, f64),
    wires: (f64, f64),
    rest: (f64, f64),
    /// On how many sets Weft scores higher.
    better: u32,
}

impl Sums {
    fn add(&mut self, mine: &Choice, theirs: &Choice) {
        let both = |sums: &mut (f64, f64), of: &dyn Fn(&Choice) -> f64| {
            sums.0 += of(mine);
            sums.1 += of(theirs);
        };
        both(&mut self.score, &score);
        both(&mut self.wires, &|choice| choice.wires.into());
        both(&mut self.rest, &|choice| choice.rest_worth.into());
        self.better += u32::from(score(mine) > score(theirs));
    }

    /// More is better, so here it is ours over theirs. None where there is nothing to get, such as one GPU of the last one.
    fn objective(&self) -> Option<f64> {
        ratio(self.score)
    }

    /// The two parts of the score: Weft weighs them itself, so the whole alone would say little.
    fn extra(&self, sets: usize) -> Vec<(&'static str, f64)> {
        let parts = [("ratio_wires_chosen", ratio(self.wires)), ("ratio_worth_of_rest", ratio(self.rest))];
        let parts = parts.into_iter().filter_map(|(name, ratio)| Some((name, ratio?)));
        parts.chain([("share_of_sets_better", f64::from(self.better) / sets as f64)]).collect()
    }
}

fn ratio((mine, theirs): (f64, f64)) -> Option<f64> {
    (theirs > 0.0).then(|| mine / theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_gpu_beside_a_broken_pair_leaves_more_than_the_first_one() {
        let node = bridged("n", 4).unwrap();
        // The pair 0, 1 is free, and 3 without its neighbour: the enumeration takes 0 and breaks the pair.
        let line = case("n=4,k=1,taken=1".into(), &node, &[GpuSet::from_iter([0, 1, 3])], 1).unwrap();
        assert!(line.theirs.unwrap().objective.unwrap() > 1.5, "{line:?}");
        assert!(line.extra.contains(&("share_of_sets_better", 1.0)), "{line:?}");
        // On a free machine every single GPU breaks a pair.
        let line = case("n=4,k=1".into(), &node, &[node.all()], 1).unwrap();
        assert_eq!(line.theirs.unwrap().objective, Some(1.0));
        assert!(line.extra.contains(&("share_of_sets_better", 0.0)), "{line:?}");
    }

    #[test]
    fn so_many_gpus_are_taken_and_not_always_the_same() {
        let node = bridged("n", 8).unwrap();
        let free = partly_free(&node, 3);
        assert_eq!(free.len(), DRAWS);
        assert!(free.iter().all(|free| free.len() == 5 && free.is_subset(node.all())));
        assert!(free.iter().any(|other| *other != free[0]));
        assert_eq!(free, partly_free(&node, 3));
    }
}
