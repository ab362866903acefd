//! g: a GPU falls off the bus under a running worker. Only that worker moves, and the GPU is used again once it is back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{JOB_LIMIT, Stage, gpus, pairs::gpu_list, worker_list};
use crate::demo::{
    cluster,
    install::allocatable_gpus,
    report::Checks,
    world::{Hold, Look},
};

const NAME: &str = "failing";

pub fn xid_79(stage: &mut Stage<'_>) -> Result<()> {
    let (started, mut checks) = (Instant::now(), Checks::default());
    stage.world.hold(NAME, Hold { replicas: 2, gpus: 2, seconds: 300 })?;
    let job = stage.world.wait_phase(NAME, "Running", JOB_LIMIT)?;
    let victim = worker_list(&job).into_iter().next().context("no worker in the status")?;
    let node = victim["node"].as_str().context("no node in the status")?.to_owned();
    let lost = gpus(&victim, "allocatedGpus").into_iter().next().context("no GPU in the status")?;
    let before = stage.world.pods(NAME)?;
    let index =
        super::pairs::index_of(&stage.world.gpu_node(&node)?, &lost).context("the GPU is not on its GpuNode")?;

    println!("      GPU {index} of {node} falls off the bus (XID 79)");
    let injected = Instant::now();
    cluster::fault(stage.own()?.cluster, &node, index, &["xid", "79"])?;
    let reason = stage.world.wait("the fault on GpuNode", Duration::from_secs(15), || {
        let gpu = gpu(&stage.world.gpu_node(&node)?, &lost);
        Ok(if gpu["health"] == "Unhealthy" {
            Look::Done(gpu["reason"].as_str().unwrap_or_default().to_owned())
        } else {
            Look::Waiting(gpu["health"].to_string())
        })
    })?;
    let seen = injected.elapsed();
    checks.that(
        "the GPU's record says why",
        reason.contains("79"),
        format!("after {:.2} s: {reason}", seen.as_secs_f64()),
    );

    let replaced = stage.world.wait("the worker to run elsewhere", JOB_LIMIT, || {
        let job = stage.world.job(NAME)?;
        let held = worker_list(&job).first().map(|w| gpus(w, "allocatedGpus")).unwrap_or_default();
        Ok(if job["status"]["phase"] == "Running" && held.len() == 2 && !held.contains(&lost) {
            Look::Done(job)
        } else {
            Look::Waiting(job["status"]["message"].to_string())
        })
    })?;
    let worker = worker_list(&replaced).into_iter().next().unwrap_or_default();
    checks.that("the worker was replaced", true, format!("now on {}", worker["node"].as_str().unwrap_or_default()));
    let after = stage.world.pods(NAME)?;
    let uid = |pods: &[Value], rank: usize| pods.get(rank).map(|p| p["metadata"]["uid"].clone()).unwrap_or_default();
    checks.that("by a new pod", uid(&before, 0) != uid(&after, 0), "");
    checks.that("the other worker was left alone", uid(&before, 1) == uid(&after, 1), "");
    let all = gpu_list(&stage.world.gpu_node(&node)?).count() as u64;
    let left = allocatable_gpus(stage.world, Some(&node))?;
    checks.that("the lost GPU is not allocatable", left == all - 1, format!("{left} of {all} on {node}"));

    println!("      GPU {index} of {node} recovers");
    cluster::fault(stage.own()?.cluster, &node, index, &["recover"])?;
    stage.world.wait("the GPU to be allocatable again", Duration::from_secs(60), || {
        let healthy = gpu(&stage.world.gpu_node(&node)?, &lost)["health"] == "Healthy";
        let n = allocatable_gpus(stage.world, Some(&node))?;
        Ok(if healthy && n == all {
            Look::Done(())
        } else {
            Look::Waiting(format!("healthy: {healthy}, {n} allocatable"))
        })
    })?;
    checks.that("it recovered and is allocatable again", true, format!("{all} of {all}"));
    stage.conclude(NAME, started, checks)?;
    stage.world.delete_job(NAME)
}

fn gpu(node: &Value, uuid: &str) -> Value {
    gpu_list(node).find(|g| g["uuid"] == uuid).cloned().unwrap_or_default()
}
