//! h: kubelet, agent, operator and API server are each killed once, with `SIGKILL`, while a job runs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use weft_cluster::Component;

use super::{JOB_LIMIT, Stage, gpus, worker_list};
use crate::demo::{
    cluster,
    install::allocatable_gpus,
    report::Checks,
    world::{Hold, Look},
};

const NAME: &str = "survivor";

pub fn nothing_is_lost(stage: &mut Stage<'_>) -> Result<()> {
    let (started, mut checks) = (Instant::now(), Checks::default());
    let all_gpus = allocatable_gpus(stage.world, None)?;
    // Whole machines where they are known, which leaves the operator no second choice; a machine of somebody's has one GPU at least.
    let hold = if stage.is_simulated() {
        Hold { replicas: 2, gpus: 8, seconds: 25 }
    } else {
        Hold { replicas: 1, gpus: 1, seconds: 25 }
    };
    stage.world.hold(NAME, hold)?;
    let before = stage.world.wait_phase(NAME, "Running", JOB_LIMIT)?;
    let pods = stage.world.pods(NAME)?;
    let node = worker_list(&before).first().and_then(|w| w["node"].as_str().map(str::to_owned)).context("no node")?;

    for victim in ["kubelet", "weft-agent", "weft-operator", "kube-apiserver"] {
        println!("      kill -9 {victim}");
        let own = &*stage.own()?.cluster;
        match victim {
            "kubelet" => cluster::crash(own, cluster::kubelet(own, &node)?)?,
            "kube-apiserver" => cluster::crash(own, Component::ApiServer)?,
            process => {
                let killed = cluster::kill_in_pods(own, process)?;
                checks.that(&format!("{process} was killed"), killed > 0, format!("{killed} of them, on every node"));
            }
        }
    }
    let after = stage.world.wait_phase(NAME, "Succeeded", JOB_LIMIT)?;
    let uids = |pods: &[Value]| pods.iter().map(|p| p["metadata"]["uid"].to_string()).collect::<Vec<_>>();
    checks.that("the same pods ran to their end", uids(&pods) == uids(&stage.world.pods(NAME)?), "");
    let restarts = after["status"]["restarts"].as_u64().unwrap_or(0);
    checks.that("nothing was restarted", restarts == 0, format!("{restarts} restarts"));
    let held = |job: &Value| worker_list(job).iter().map(|w| gpus(w, "allocatedGpus")).collect::<Vec<_>>();
    checks.that("the record of who held which GPU is the same", held(&before) == held(&after), "");
    stage.world.wait("every GPU to be allocatable again", Duration::from_secs(60), || {
        let total = allocatable_gpus(stage.world, None)?;
        Ok(if total == all_gpus { Look::Done(()) } else { Look::Waiting(format!("{total} of {all_gpus}")) })
    })?;
    checks.that("every GPU is allocatable", true, "");
    // The operator that took over must still place jobs.
    stage.world.hold("afterwards", Hold { replicas: 1, gpus: 1, seconds: 0 })?;
    stage.world.wait_phase("afterwards", "Succeeded", JOB_LIMIT)?;
    checks.that("a job applied afterwards runs", true, "");
    stage.conclude(NAME, started, checks)
}
