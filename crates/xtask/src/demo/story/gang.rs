//! c: two workers of eight GPUs, in one rack, both or none.

use std::time::Instant;

use anyhow::Result;

use super::{JOB_LIMIT, Stage, gpus, worker_list};
use crate::demo::report::Checks;

pub fn starts_together(stage: &mut Stage<'_>) -> Result<()> {
    let (started, mut checks) = (Instant::now(), Checks::default());
    stage.world.apply_example("gang.yaml")?;
    let job = stage.world.wait_phase("gang", "Succeeded", JOB_LIMIT)?;
    check_ring(&worker_list(&job), 2, &mut checks);
    let mut nodes: Vec<_> = worker_list(&job).iter().filter_map(|w| w["node"].as_str().map(str::to_owned)).collect();
    nodes.sort();
    checks.that("the two H100 nodes of rack-a", nodes == ["node-1", "node-2"], nodes.join(", "));
    stage.conclude("gang", started, checks)
}

/// What `ring.py` must have seen in every worker: the same world, every peer, eight GPUs, those that were planned.
pub fn check_ring(workers: &[serde_json::Value], size: usize, checks: &mut Checks) {
    checks.that("every worker is there", workers.len() == size, format!("{} of {size}", workers.len()));
    for (rank, w) in workers.iter().enumerate() {
        let result = &w["result"];
        let right = result["ok"] == true && result["rank"] == rank && result["worldSize"] == size;
        checks.that(
            &format!("rank {rank} met all its peers"),
            right,
            if right { String::new() } else { result.to_string() },
        );
        let (planned, actual) = (gpus(w, "plannedGpus"), gpus(w, "allocatedGpus"));
        checks.that(
            &format!("rank {rank} holds the planned GPUs"),
            !planned.is_empty() && planned == actual,
            format!("{} GPUs on {}", actual.len(), w["node"].as_str().unwrap_or("no node")),
        );
    }
}
