//! The story, step by step; each step is a file and ends with the checks of the jobs it ran.

mod bad_input;
mod failure;
mod gang;
mod kills;
mod metrics;
mod pairs;
mod pending;
mod programs;
mod sidecar;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;
use weft_cluster::Cluster;

use super::{
    prometheus::Prometheus,
    report::{Checks, Job, Report, Step, seconds},
    world::{World, worker_list},
};
use crate::progress::Console;

/// A job on a warm cluster takes seconds; this is for a machine that is busy with something else.
const JOB_LIMIT: Duration = Duration::from_secs(120);

/// What the steps share.
pub struct Stage<'a> {
    pub world: &'a World,
    /// The demo's own cluster, where the steps may add nodes and kill processes; `None` on somebody else's.
    pub own: Option<Own<'a>>,
    pub report: &'a mut Report,
}

/// A cluster on this machine.
pub struct Own<'a> {
    pub cluster: &'a mut Cluster,
    /// Images for nodes that join.
    pub archives: &'a [PathBuf],
    pub prometheus: &'a Prometheus,
    pub progress: &'a Console,
    /// The folder with all unoptimised programs, where they were built.
    pub programs: Option<PathBuf>,
}

type Act = fn(&mut Stage<'_>) -> Result<()>;

/// What a step needs beyond a cluster with Weft on it.
#[derive(Clone, Copy, PartialEq)]
enum Needs {
    Anything,
    /// A cluster of the demo's own, whose network it can reach.
    OwnCluster,
    /// And in it the simulated machines that the step speaks of, which can be made to fail.
    SimulatedNodes,
}

const STORY: [(&str, Needs, Act); 9] = [
    ("a: a program from CUDA C on one GPU", Needs::Anything, programs::saxpy),
    ("b: library calls, checked against a CPU reference", Needs::Anything, programs::libraries),
    ("c: a gang of 2 workers × 8 GPUs in one rack", Needs::SimulatedNodes, gang::starts_together),
    ("d: an application without CUDA uses the sidecar", Needs::Anything, sidecar::product),
    ("e: two 2-GPU jobs get the two bridged pairs", Needs::SimulatedNodes, pairs::never_broken),
    ("f: too big: waits, says why, starts when a node joins", Needs::SimulatedNodes, pending::until_a_node_joins),
    ("g: a GPU fails under a worker, is replaced, recovers", Needs::SimulatedNodes, failure::xid_79),
    ("h: kubelet, agent, operator and API server are killed", Needs::OwnCluster, kills::nothing_is_lost),
    ("i: Prometheus names the pod of a running job", Needs::OwnCluster, metrics::name_the_pod),
];

const MISUSE: [(&str, Needs, Act); 1] = [("bad input is answered with a sentence", Needs::Anything, bad_input::all)];

/// What each step is about, after its letter.
pub fn titles() -> impl Iterator<Item = &'static str> {
    STORY.iter().map(|(title, ..)| *title)
}

/// Plays the steps; one that fails does not stop the others, so that one run shows all that is wrong.
pub fn play(stage: &mut Stage<'_>, letters: Option<&str>, with_misuse: bool) {
    let chosen = |name: &str| letters.is_none_or(|l| name.chars().next().is_some_and(|first| l.contains(first)));
    let steps = STORY.iter().filter(|(name, ..)| chosen(name)).chain(MISUSE.iter().filter(|_| with_misuse));
    for (name, needs, act) in steps {
        println!("\n  {name}");
        let started = Instant::now();
        let (ok, error, skipped) = if let Some(why) = stage.obstacle(*needs) {
            (None, None, Some(why.to_owned()))
        } else {
            match act(stage) {
                Ok(()) => (Some(true), None, None),
                Err(e) => (Some(false), Some(format!("{e:#}")), None),
            }
        };
        if let Some(e) = &error {
            println!("      ✗ {e}");
        }
        stage.report.steps.push(Step {
            name: (*name).to_owned(),
            ok,
            seconds: seconds(started.elapsed()),
            error,
            skipped,
        });
    }
}

impl<'a> Stage<'a> {
    /// The demo's own cluster; steps that need it are only played where there is one.
    fn own(&mut self) -> Result<&mut Own<'a>> {
        self.own.as_mut().context("this step needs a cluster of the demo's own")
    }

    /// Whether the nodes are the simulated machines that the story speaks of.
    fn is_simulated(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.cluster.nodes().iter().all(|node| !node.machine_gpus))
    }

    /// Why a step cannot be played here.
    fn obstacle(&self, needs: Needs) -> Option<&'static str> {
        match needs {
            Needs::Anything => None,
            _ if self.own.is_none() => Some("needs a cluster of the demo's own: run without --kubeconfig"),
            Needs::SimulatedNodes if !self.is_simulated() => Some("needs several known machines: run with --simulated"),
            Needs::OwnCluster | Needs::SimulatedNodes => None,
        }
    }

    /// Records a job as it ended and fails if one of its checks did.
    fn conclude(&mut self, name: &str, started: Instant, checks: Checks) -> Result<()> {
        let job = self.world.job(name)?;
        let failures = checks.failures();
        self.report.jobs.push(Job {
            name: name.to_owned(),
            phase: job["status"]["phase"].as_str().unwrap_or_default().to_owned(),
            placement: placement(&job),
            checks: checks.0,
            seconds: seconds(started.elapsed()),
        });
        failures.map_or(Ok(()), |f| Err(anyhow::anyhow!("{name}: {f}")))
    }
}

/// Rank, node and GPUs of each worker, as the report shows them.
fn placement(job: &Value) -> Value {
    worker_list(job)
        .iter()
        .map(|w| serde_json::json!({"rank": w["rank"], "node": w["node"], "gpus": gpus(w, "allocatedGpus")}))
        .collect()
}

/// A worker's list of GPU UUIDs under `key`, sorted.
fn gpus(worker: &Value, key: &str) -> Vec<String> {
    let mut list: Vec<String> =
        worker[key].as_array().into_iter().flatten().filter_map(|g| g.as_str().map(str::to_owned)).collect();
    list.sort();
    list
}
