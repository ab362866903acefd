//! A choice of GPUs as a tree: which, and what joins them.

use crate::{Choice, Node};

impl Choice {
    /// The sentence, then every chosen GPU with what joins it to those after it.
    pub fn tree(&self, node: &Node) -> String {
        let mut lines = vec![self.explain(node).to_string()];
        let gpus: Vec<usize> = self.gpus.iter().collect();
        for (nth, &at) in gpus.iter().enumerate() {
            let Some(gpu) = node.gpus().get(at) else { continue };
            let wires = gpus[nth + 1..].iter().filter_map(|&other| {
                let wire = node.wiring().wire(at, other);
                Some(format!("{} by {}", node.gpus().get(other)?.index, wire.words()))
            });
            let wires: Vec<String> = wires.collect();
            let numa = gpu.numa.map_or_else(String::new, |numa| format!(", NUMA node {numa}"));
            let to = if wires.is_empty() { String::new() } else { format!(": to {}", wires.join(", to ")) };
            lines.push(format!("  └ GPU {} ({}{numa}){to}", gpu.index, gpu.uuid));
        }
        lines.push(format!("  wires within: {}; worth of what remains: {}", self.wires, self.rest_worth));
        lines.join("\n")
    }
}
