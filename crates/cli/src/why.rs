//! Why a job that waits does not fit, level by level: asked of the function that the operator decides with, on the world as it is now. The sentence in
//! the job's status is the operator's own; this is its long form.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use weft_api::GpuJob;
use weft_api::job::{Reason, condition};
use weft_operator::ask::Ask;
use weft_topology::{Group, NodeName, place_where};

use crate::world::{World, any_image};

/// Whether there is anything to ask: the whole job waits, and for room.
pub fn waits(job: &GpuJob) -> bool {
    let Some(status) = &job.status else { return false };
    let no_fit =
        |c: &Condition| c.type_ == condition::PLACED && c.status == "False" && c.reason == Reason::NoFit.as_str();
    status.conditions.iter().any(no_fit) && status.workers.iter().all(|worker| worker.node.is_none())
}

/// The reason as lines, or the place that it has by now. None when the job itself cannot be placed anywhere, which its message says.
pub fn explain(job: &GpuJob, world: World) -> Option<String> {
    let index = world.index();
    let ask = Ask::of(job, &any_image()).ok()?;
    let eligible = |group: &Group, node: &NodeName| ask.admits(&index, group, node);
    Some(match place_where(index.cluster(), &ask.gang(job), &eligible) {
        Err(why) => why.tree(),
        Ok(placement) => format!("it fits by now: {placement}; the operator starts it within seconds"),
    })
}

#[cfg(test)]
mod tests;
