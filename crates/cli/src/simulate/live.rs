//! The situation of a live cluster, with one job asked about.

use anyhow::{Result, anyhow};
use kube::ResourceExt;
use serde_json::Value;
use weft_api::GpuJob;
use weft_operator::ask::Ask;
use weft_operator::index::{Index, JobKey, worker_key};
use weft_operator::validate;
use weft_topology::what_if::Running;
use weft_topology::{Asked, Placed, Situation, Verdict};

use super::named;
use crate::cluster::Cluster;
use crate::world::any_image;

/// Asks the API server whether the job is well formed, and for all that its place depends on.
pub async fn situation(cluster: &Cluster, manifest: Value) -> Result<Situation> {
    let job = cluster.judge(manifest).await?;
    let (jobs, world) = tokio::try_join!(cluster.jobs(), cluster.world())?;
    of(&job, &jobs, &world.index())
}

/// The situation in which `job` is asked about.
pub(super) fn of(job: &GpuJob, jobs: &[GpuJob], index: &Index) -> Result<Situation> {
    let name = named(&job.namespace().unwrap_or_default(), &job.name_any());
    if let Some(why) = validate::job(job, &any_image()) {
        return Err(anyhow!(why));
    }
    if let Some(why) = validate::levels(job, index.levels()) {
        return Err(anyhow!(why));
    }
    let ask = Ask::of(job, &any_image())?;
    let mut situation = Situation::of(index.cluster().clone());
    situation.jobs = jobs.iter().filter_map(|job| running(job, index)).collect();
    let mut asked = Asked::new(&name, ask.gang(job));
    for group in &asked.gang.groups {
        let ruled_out = index.cluster().nodes().filter_map(|seat| {
            let exclusion = ask.admits(index, group, seat.name()).err()?;
            Some(Verdict { group: Some(group.name.clone()), node: seat.name().clone(), exclusion })
        });
        asked.verdicts.extend(ruled_out);
    }
    situation.asked.push(asked);
    Ok(situation)
}

/// A job with the workers that hold something.
fn running(job: &GpuJob, index: &Index) -> Option<Running> {
    let key = JobKey { namespace: job.namespace()?, name: job.name_any() };
    let mut gang = Ask::of(job, &any_image()).ok()?.gang(job);
    let mut owners = Vec::new();
    for group in &job.spec.groups {
        for worker in 0..group.replicas {
            let owner = worker_key(&key, &group.name, worker).owner();
            if let Some((node, _)) = index.cluster().claim_of(&owner) {
                gang.placed.push(Placed { group: group.name.clone(), index: worker, node: node.clone() });
                owners.push(owner);
            }
        }
    }
    let name = named(&key.namespace, &key.name);
    (!owners.is_empty()).then_some(Running { name, gang, owners, fixed: false })
}
