//! e: on boards bridged in pairs, a 2-GPU job gets a bridge, and so does the second one.

use std::{collections::BTreeSet, time::Instant};

use anyhow::Result;
use serde_json::Value;

use super::{JOB_LIMIT, Stage, gpus, worker_list};
use crate::demo::report::Checks;

pub fn never_broken(stage: &mut Stage<'_>) -> Result<()> {
    let started = Instant::now();
    stage.world.apply_example("pair-a.yaml")?;
    stage.world.apply_example("pair-b.yaml")?;
    let node = stage.world.gpu_node("node-3")?;
    for name in ["pair-a", "pair-b"] {
        let mut checks = Checks::default();
        let job = stage.world.wait_phase(name, "Succeeded", JOB_LIMIT)?;
        let held = gpus(worker_list(&job).first().unwrap_or(&Value::Null), "allocatedGpus");
        let indices: BTreeSet<u64> = held.iter().filter_map(|uuid| index_of(&node, uuid)).collect();
        let pair: Vec<_> = indices.iter().copied().collect();
        checks.that("a bridged pair", pair == [0, 1] || pair == [2, 3], format!("GPUs {pair:?} of node-3"));
        stage.conclude(name, started, checks)?;
    }
    Ok(())
}

/// The index of a GPU on its node.
pub fn index_of(node: &Value, uuid: &str) -> Option<u64> {
    gpu_list(node).find(|g| g["uuid"] == uuid)?["index"].as_u64()
}

/// The GPUs of a GpuNode.
pub fn gpu_list(node: &Value) -> impl Iterator<Item = &Value> {
    node["status"]["gpus"].as_array().into_iter().flatten()
}
