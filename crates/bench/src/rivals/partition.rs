//! Choosing GPUs as NVIDIA's device plugin does it: by the best partition of all that is free.

use weft_topology::{GpuSet, Node};

/// The best partition of all free GPUs into sets of the size asked for, by enumeration, as go-gpuallocator does it (up
/// to 8 GPUs: beyond, it takes seconds); of the best one the best set.
pub fn best_partition(node: &Node, free: GpuSet, size: usize) -> GpuSet {
    let mut best = (0, GpuSet::EMPTY);
    if size > 0 && size <= free.len() {
        let spare = free.len().next_multiple_of(size) - free.len();
        cut(node, free, size, spare, &mut Vec::new(), &mut best);
    }
    best.1
}

/// Cuts `rest` in all ways into sets of `size`, of which one may be short of as many GPUs as there are to `spare`.
fn cut(node: &Node, rest: GpuSet, size: usize, spare: usize, sets: &mut Vec<GpuSet>, best: &mut (u32, GpuSet)) {
    let Some(lowest) = rest.lowest() else {
        let total = sets.iter().map(|&set| node.wiring().within(set)).sum();
        // The first of those with the most wires.
        let whole = sets.iter().rev().filter(|set| set.len() == size);
        if let Some(&top) = whole.max_by_key(|&&set| node.wiring().within(set))
            && (total > best.0 || best.1.is_empty())
        {
            *best = (total, top);
        }
        return;
    };
    let first = GpuSet::from_iter([lowest]);
    for set in (0..=rest.bits()).map(GpuSet::from_bits) {
        let short = size.saturating_sub(set.len());
        if set.len() <= size && set.is_subset(rest) && first.is_subset(set) && short <= spare {
            sets.push(set);
            cut(node, rest.difference(set), size, spare - short, sets, best);
            sets.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::bridged;

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
}
