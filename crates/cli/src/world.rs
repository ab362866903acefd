//! All that a placement depends on, as the operator sees it.

use weft_api::{GpuNode, GpuTopologySpec};
use weft_operator::facts::{NodeFacts, PodFacts};
use weft_operator::index::Index;
use weft_operator::worker_pod::RuntimeImage;

/// What the API server knows of nodes, GPUs and pods.
pub struct World {
    pub nodes: Vec<NodeFacts>,
    pub gpu_nodes: Vec<GpuNode>,
    pub pods: Vec<PodFacts>,
    pub levels: GpuTopologySpec,
}

impl World {
    /// The same, in the shape that decisions are made on.
    pub fn index(self) -> Index {
        let mut index = Index::default();
        index.apply_levels(Some(self.levels));
        for node in self.nodes {
            index.apply_node(node);
        }
        for report in self.gpu_nodes {
            index.apply_report(report);
        }
        for pod in self.pods {
            index.apply_pod(pod);
        }
        index
    }
}

#[cfg(test)]
pub mod fixture;

/// In place of the operator's image: only what a pod asks of its node counts here, and no image does.
pub fn any_image() -> RuntimeImage {
    RuntimeImage { image: String::new(), pull_policy: None }
}
