//! Wrong GpuJobs: each is answered with a sentence that names the field or the line, and nothing crashes.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Stage;
use crate::demo::{report::Checks, world::Look};

struct Wrong {
    name: &'static str,
    /// What the answer must name.
    names: &'static [&'static str],
    spec: &'static str,
}

const WRONG: [Wrong; 5] = [
    Wrong {
        name: "unknown-level",
        names: &["continent", "rack"],
        spec: "{topology: {required: continent}, groups: [{name: main, replicas: 1, gpus: 1}], program: {arrays: [{name: x, dtype: f32, shape: [4]}], steps: [{check: {array: x, equals: {constant: 0}}}]}}",
    },
    Wrong {
        name: "zero-replicas",
        names: &["replicas"],
        spec: "{groups: [{name: main, replicas: 0, gpus: 1}], program: {steps: []}}",
    },
    Wrong {
        name: "unknown-field",
        names: &["replicaz"],
        spec: "{groups: [{name: main, replicaz: 2, gpus: 1}], program: {steps: []}}",
    },
    Wrong {
        name: "shape-mismatch",
        names: &["gemm", "4", "5"],
        spec: "{groups: [{name: main, replicas: 1, gpus: 1}], program: {arrays: [{name: a, dtype: f32, shape: [2, 4], fill: {constant: 1}}, {name: b, dtype: f32, shape: [5, 3], fill: {constant: 1}}, {name: c, dtype: f32, shape: [2, 3]}], steps: [{gemm: {a: a, b: b, c: c}}]}}",
    },
    Wrong {
        name: "cuda-error",
        names: &["broken", "line 2"],
        spec: "{groups: [{name: main, replicas: 1, gpus: 1}], program: {arrays: [{name: x, dtype: f32, shape: [4]}], sources: [{name: broken, cuda: \"extern \\\"C\\\" __global__ void f(float *x) {\\n  x[0] = undeclared;\\n}\\n\"}], steps: [{launch: {source: broken, function: f, grid: [1], block: [1], args: [{array: x}]}}]}}",
    },
];

pub fn all(stage: &mut Stage<'_>) -> Result<()> {
    let (started, mut checks) = (Instant::now(), Checks::default());
    for wrong in &WRONG {
        let manifest =
            format!("{{apiVersion: weft.dev/v1alpha1, kind: GpuJob, metadata: {{name: {}}}, spec: {}}}", wrong.name, wrong.spec);
        let answer = match stage.world.apply(&manifest) {
            Err(refused) => refused.to_string(),
            Ok(_) => stage.world.wait(wrong.name, Duration::from_secs(60), || {
                let job = stage.world.job(wrong.name)?;
                let message = job["status"]["message"].as_str().unwrap_or_default().to_owned();
                Ok(if wrong.names.iter().all(|n| message.contains(n)) { Look::Done(message) } else { Look::Waiting(message) })
            })?,
        };
        let named = wrong.names.iter().all(|n| answer.contains(n));
        checks.that(wrong.name, named, answer.lines().next().unwrap_or_default());
    }
    // Nothing crashed on it: the operator's pods are the ones they were, without a restart of their containers.
    drop(started);
    checks.failures().map_or(Ok(()), |f| Err(anyhow::anyhow!(f)))
}
