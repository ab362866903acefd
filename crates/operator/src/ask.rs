//! A job as the question that [`weft_topology::place_where`] answers: the operator acts on the answer, `kubectl weft` explains it.

use std::collections::HashMap;

use crate::facts::{NodeRules, requests_of};
use crate::index::Index;
use crate::worker_pod::{self, BadTemplate, RuntimeImage};
use weft_api::GpuJob;
use weft_topology::{Exclusion, Gang, Group, NodeName, Resources, Slice};

/// What the workers of each group of a job ask of a node.
pub struct Ask {
    groups: HashMap<String, (NodeRules, Resources)>,
}

impl Ask {
    /// Reads the job's templates.
    ///
    /// # Errors
    /// [`BadTemplate`] names the field that no worker can have.
    pub fn of(job: &GpuJob, runtime: &RuntimeImage) -> Result<Self, BadTemplate> {
        let groups = job.spec.groups.iter().enumerate().map(|(at, group)| {
            let spec = worker_pod::base_spec(job, at, runtime)?;
            Ok((group.name.clone(), (NodeRules::of(&spec), requests_of(&spec))))
        });
        Ok(Self { groups: groups.collect::<Result<_, _>>()? })
    }

    /// The whole gang, as if none of it had a place.
    pub fn gang(&self, job: &GpuJob) -> Gang {
        let groups = job.spec.groups.iter().map(|group| Group {
            name: group.name.clone(),
            replicas: group.replicas,
            min: group.min_replicas,
            gpus: group.gpus,
            // GPUs are among them too, as the kubelet advertises them: a node whose plugin is down takes no worker.
            resources: self.groups.get(&group.name).map(|(_, resources)| resources.clone()).unwrap_or_default(),
            product: group.product.clone(),
            slices: group.slices.iter().map(|s| Slice { level: s.level.as_str().into(), size: s.size }).collect(),
            ..Group::default()
        });
        let topology = job.spec.topology.as_ref();
        let level = |name: Option<&String>| name.map(|name| name.as_str().into());
        Gang {
            groups: groups.collect(),
            required: level(topology.and_then(|topology| topology.required.as_ref())),
            preferred: level(topology.and_then(|topology| topology.preferred.as_ref())),
            ..Gang::default()
        }
    }

    /// Whether a node may take workers of the group, room aside.
    ///
    /// # Errors
    /// The first reason why not.
    pub fn admits(&self, index: &Index, group: &Group, node: &NodeName) -> Result<(), Exclusion> {
        let Some(facts) = index.node(node.as_str()) else {
            return Err(Exclusion::Other { detail: "the node is gone".to_owned() });
        };
        self.groups.get(&group.name).map_or(Ok(()), |(rules, _)| rules.admit(facts))?;
        if group.gpus > 0 && !index.has_report(node.as_str()) {
            return Err(Exclusion::Other { detail: "no agent reports its GPUs".to_owned() });
        }
        Ok(())
    }
}
