//! Choosing GPUs as NVIDIA's device plugin does it: by the best partition of all that is free.

use weft_topology::{GpuSet, Node};

/// The best partition of all free GPUs into sets of the size asked for, by enumeration, as go-gpuallocator does it (up
/// to 8 GPUs: beyond, it takes seconds); of the best one the best set.
pub fn best_partition(node: &Node, free: GpuSet, size: usize) -> GpuSet {
    let mut search = Search { node, size, sets: Vec::new(), best: (0, GpuSet::EMPTY) };
    if size > 0 && size <= free.len() {
        search.cut(free, free.len().next_multiple_of(size) - free.len());
    }
    search.best.1
}

struct Search<'a> {
    node: &'a Node,
    size: usize,
    /// The sets that were cut so far.
    sets: Vec<GpuSet>,
    /// The most wires of a partition, and its best set.
    best: (u32, GpuSet),
}

impl Search<'_> {
    /// Cuts `rest` in all ways into sets of the size, which together may be short of as many GPUs as there are to `spare`.
    fn cut(&mut self, rest: GpuSet, spare: usize) {
        let Some(lowest) = rest.lowest() else {
            return self.weigh();
        };
        let first = GpuSet::from_iter([lowest]);
        // One of the sets holds the lowest GPU: so many others go with it.
        let (most, least) = (self.size - 1, (self.size - 1).saturating_sub(spare));
        self.extend(first, rest, rest.difference(first), (least, most), spare);
    }

    /// Extends `set` in all ways by at least and at most so many of the `open` GPUs, in the order of their bits, then cuts
    /// what `rest` has beside it. No set is looked at that does not have the size.
    fn extend(&mut self, set: GpuSet, rest: GpuSet, open: GpuSet, (least, most): (usize, usize), spare: usize) {
        let highest = open.iter().last().filter(|_| most > 0);
        let Some(highest) = highest else {
            self.sets.push(set);
            self.cut(rest.difference(set), spare - (self.size - set.len()));
            self.sets.pop();
            return;
        };
        let highest = GpuSet::from_iter([highest]);
        let open = open.difference(highest);
        if open.len() >= least {
            self.extend(set, rest, open, (least, most), spare);
        }
        self.extend(set.union(highest), rest, open, (least.saturating_sub(1), most - 1), spare);
    }

    /// Keeps the partition if it is the first with so many wires.
    fn weigh(&mut self) {
        let within = |set: &GpuSet| self.node.wiring().within(*set);
        let total = self.sets.iter().map(within).sum();
        // The first of those with the most wires.
        let whole = self.sets.iter().rev().filter(|set| set.len() == self.size);
        if let Some(&top) = whole.max_by_key(|set| within(set))
            && (total > self.best.0 || self.best.1.is_empty())
        {
            self.best = (total, top);
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_topology::Wire;

    use super::*;
    use crate::machines::{bridged, machine};
    use crate::random::Random;

    #[test]
    fn two_gpus_of_a_bridged_machine_are_a_pair() {
        let node = bridged("n", 4).unwrap();
        let free = GpuSet::from_iter([0, 2, 3]);
        assert_eq!(best_partition(&node, free, 2), GpuSet::from_iter([2, 3]));
    }

    #[test]
    fn a_single_gpu_is_the_first_whatever_it_breaks() {
        let node = bridged("n", 4).unwrap();
        assert_eq!(best_partition(&node, GpuSet::from_iter([0, 1, 2]), 1), GpuSet::from_iter([0]));
    }

    /// The definition: each set of GPUs is tried in the order of its bits, and passed over if it is none of the partition.
    fn by_definition(
        node: &Node,
        rest: GpuSet,
        size: usize,
        spare: usize,
        sets: &mut Vec<GpuSet>,
        best: &mut (u32, GpuSet),
    ) {
        let Some(lowest) = rest.lowest() else {
            let total = sets.iter().map(|&set| node.wiring().within(set)).sum();
            let whole = sets.iter().rev().filter(|set| set.len() == size);
            if let Some(&top) = whole.max_by_key(|&&set| node.wiring().within(set))
                && (total > best.0 || best.1.is_empty())
            {
                *best = (total, top);
            }
            return;
        };
        for set in (0..=rest.bits()).map(GpuSet::from_bits) {
            let short = size.saturating_sub(set.len());
            if set.len() <= size && set.is_subset(rest) && set.contains(lowest) && short <= spare {
                sets.push(set);
                by_definition(node, rest.difference(set), size, spare - short, sets, best);
                sets.pop();
            }
        }
    }

    #[test]
    fn the_answer_is_that_of_trying_every_set_of_gpus_in_order() {
        let mut random = Random::new(11);
        for round in 0..12u64 {
            let mut draw = Random::new(round);
            let links = [(); 64].map(|()| draw.below(4) as u8);
            let wire = |a: u32, b: u32, path| match links[(a * 8 + b) as usize] {
                0 | 1 => Wire::over(path),
                links => Wire::nvlink(links, path),
            };
            // Every other machine is the regular one, where most partitions are equal and the order decides.
            let node = if round % 2 == 0 { bridged("n", 8) } else { machine("n", "A100", 8, wire) }.unwrap();
            for _ in 0..6 {
                let free = GpuSet::from_bits(random.bits() & 0xff);
                for size in 1..=free.len() {
                    let mut best = (0, GpuSet::EMPTY);
                    let spare = free.len().next_multiple_of(size) - free.len();
                    by_definition(&node, free, size, spare, &mut Vec::new(), &mut best);
                    assert_eq!(best_partition(&node, free, size), best.1, "{size} of {free} in round {round}");
                }
            }
        }
    }
}
