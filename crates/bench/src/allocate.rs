//! Choosing GPUs of a node: the tables of a machine, then single choices, against the enumeration of all partitions.

use anyhow::Result;
use weft_topology::{GpuSet, choose};

use crate::machines::bridged;
use crate::measure::{Against, Line, Printer, measure};
use crate::rivals::partition::best_partition;

pub fn run(print: Printer) -> Result<()> {
    let none = GpuSet::EMPTY;
    for n in [4u32, 8, 16] {
        let nodes: Vec<_> = (0..6).map(|_| bridged("n", n)).collect::<Result<_>>()?;
        let mut fresh = nodes.iter().cycle().cloned();
        // A clone shares its tables with the node it was cloned from, so each is asked once.
        let tables = measure(5, || fresh.next().map(|node| choose(&node, node.all(), none, none, 1)));
        let line = |case, ours, against, theirs| Line { bench: "allocate", case, ours, against, theirs, extra: vec![] };
        print.line(&line(format!("n={n},tables"), tables, "nothing", None));
        let node = &nodes[0];
        for k in 1..n as usize {
            let free = node.all();
            let ours = measure(2_000, || choose(node, free, none, none, k));
            let case = format!("n={n},k={k}");
            if n > 8 {
                print.line(&line(case, ours, "partition enumeration takes seconds here", None));
                continue;
            }
            let measured = measure(20, || best_partition(node, free, k));
            let value = |set: GpuSet| {
                let rest = free.difference(set);
                f64::from(node.wiring().within(set)) + f64::from(node.wiring().within(rest))
            };
            let choice = choose(node, free, none, none, k)?;
            // More wires are better, so here it is ours over theirs.
            let objective = Some(value(choice.gpus) / value(best_partition(node, free, k)).max(1.0));
            print.line(&line(case, ours, "partition enumeration", Some(Against { measured, objective })));
        }
    }
    Ok(())
}
