//! Why a job that waits does not fit, level by level: asked of the function that the operator decides with, on the world as it is now. The sentence in
//! the job's status is the operator's own; this is its long form.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use weft_api::job::{Reason, condition};
use weft_api::{GpuJob, GpuNode, GpuTopologySpec};
use weft_operator::facts::{NodeFacts, NodeRules, PodFacts, requests_of};
use weft_operator::index::Index;
use weft_operator::worker_pod::{self, RuntimeImage};
use weft_topology::{Exclusion, Gang, Group, NodeName, Slice, place_where};

/// All that a placement depends on.
pub struct World {
    pub nodes: Vec<Node>,
    pub gpu_nodes: Vec<GpuNode>,
    pub pods: Vec<Pod>,
    pub levels: GpuTopologySpec,
}

/// Whether there is anything to ask: the whole job waits, and for room.
pub fn waits(job: &GpuJob) -> bool {
    let Some(status) = &job.status else { return false };
    let no_fit =
        |c: &Condition| c.type_ == condition::PLACED && c.status == "False" && c.reason == Reason::NoFit.as_str();
    status.conditions.iter().any(no_fit) && status.workers.iter().all(|worker| worker.node.is_none())
}

/// The reason as lines, or the place that it has by now. None when the job itself cannot be placed anywhere, which its message says.
pub fn explain(job: &GpuJob, world: World) -> Option<String> {
    let mut index = Index::default();
    index.apply_levels(Some(world.levels));
    for node in world.nodes {
        index.apply_node(NodeFacts::of(node));
    }
    for report in world.gpu_nodes {
        index.apply_report(report);
    }
    for pod in world.pods {
        index.apply_pod(PodFacts::of(pod));
    }
    // Only what the pod asks of its node counts here, and no image does.
    let image = RuntimeImage { image: String::new(), pull_policy: None };
    let mut rules = HashMap::new();
    let mut groups = Vec::new();
    for (at, group) in job.spec.groups.iter().enumerate() {
        let spec = worker_pod::base_spec(job, at, &image).ok()?;
        rules.insert(group.name.clone(), NodeRules::of(&spec));
        groups.push(Group {
            name: group.name.clone(),
            replicas: group.replicas,
            min: group.min_replicas,
            gpus: group.gpus,
            resources: requests_of(&spec),
            product: group.product.clone(),
            slices: group.slices.iter().map(|s| Slice { level: s.level.as_str().into(), size: s.size }).collect(),
            ..Group::default()
        });
    }
    let topology = job.spec.topology.clone().unwrap_or_default();
    let level = |name: Option<String>| name.map(|name| name.as_str().into());
    let gang =
        Gang { groups, required: level(topology.required), preferred: level(topology.preferred), ..Gang::default() };
    let eligible = |group: &Group, node: &NodeName| {
        let Some(facts) = index.node(node.as_str()) else {
            return Err(Exclusion::Other { detail: "the node is gone".to_owned() });
        };
        rules.get(&group.name).map_or(Ok(()), |rules| rules.admit(facts))?;
        if group.gpus > 0 && !index.has_report(node.as_str()) {
            return Err(Exclusion::Other { detail: "no agent reports its GPUs".to_owned() });
        }
        Ok(())
    };
    Some(match place_where(index.cluster(), &gang, &eligible) {
        Err(why) => why.tree(),
        Ok(placement) => format!("it fits by now: {placement}; the operator starts it within seconds"),
    })
}

#[cfg(test)]
mod tests;
