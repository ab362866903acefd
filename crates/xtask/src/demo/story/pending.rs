//! f: more than the cluster has. It waits, holds nothing, says what is missing, and starts when a node joins.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{JOB_LIMIT, Stage, gang::check_ring, pairs::gpu_list, worker_list};
use crate::demo::{cluster, report::Checks, world::Look};
use crate::tools::workspace_root;

pub fn until_a_node_joins(stage: &mut Stage<'_>) -> Result<()> {
    let (started, mut checks) = (Instant::now(), Checks::default());
    stage.world.apply_example("too-big.yaml")?;
    let message = stage.world.wait("too-big to say why it waits", Duration::from_secs(30), || {
        let job = stage.world.job("too-big")?;
        let message = job["status"]["message"].as_str().unwrap_or_default().to_owned();
        // Pending comes first, with another message, while the job is being checked: the answer is there once the operator has judged.
        let conditions = job["status"]["conditions"].as_array();
        let judged = conditions.into_iter().flatten().any(|c| c["type"] == "Placed" && c["reason"] == "NoFit");
        Ok(if judged { Look::Done(message) } else { Look::Waiting(message) })
    })?;
    let exact = message.contains("2 of 3") && message.contains("rack");
    checks.that("the status says exactly what is missing", exact, &*message);
    let bound = stage.world.pods("too-big")?.iter().filter(|p| !p["spec"]["nodeName"].is_null()).count();
    let mut held = 0;
    for name in ["node-1", "node-2", "node-3"] {
        let node = stage.world.gpu_node(name)?;
        held += gpu_list(&node).filter(|g| !g["holder"].is_null()).count();
    }
    checks.that("it holds nothing", bound == 0 && held == 0, format!("{bound} pods bound, {held} GPUs held"));

    let before = simulated(stage)?;
    println!("      node-4, an H100 node, joins rack-a");
    let own = stage.own()?;
    cluster::add_late_node(own.cluster, own.archives, own.progress)?;
    let job = stage.world.wait_phase("too-big", "Succeeded", JOB_LIMIT)?;
    if let Some((exit, said)) = before {
        let foreseen = said.contains("1 more node like node-1") && said.contains("1 in rack rack-a");
        checks.that(
            "`kubectl weft simulate` foresaw that node",
            exit == Some(3) && foreseen,
            said.lines().last().unwrap_or_default(),
        );
        let (exit, said) = simulated(stage)?.unwrap_or_default();
        checks.that("and says that the job fits now", exit == Some(0), said.lines().next().unwrap_or_default());
    }
    check_ring(&worker_list(&job), 3, &mut checks);
    stage.conclude("too-big", started, checks)
}

/// How `kubectl weft simulate` ends for the job and what it says; none where it was not built.
fn simulated(stage: &Stage<'_>) -> Result<Option<(Option<i32>, String)>> {
    let Some(programs) = stage.own.as_ref().and_then(|own| own.programs.as_ref()) else { return Ok(None) };
    let job = workspace_root().join("deploy/examples/too-big.yaml");
    let mut command = Command::new(programs.join("kubectl-weft"));
    command.arg("simulate").arg(job).arg("--kubeconfig").arg(stage.world.kubeconfig());
    let output = command.output().context("cannot start kubectl-weft")?;
    let said = [output.stdout, output.stderr].concat();
    Ok(Some((output.status.code(), String::from_utf8_lossy(&said).into_owned())))
}
