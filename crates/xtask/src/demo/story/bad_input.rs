//! Wrong GpuJobs: each is answered with a sentence that names the field or the line, and nothing crashes.

use std::time::Duration;

use anyhow::Result;

use super::Stage;
use crate::demo::{install, report::Checks, world::Look};

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
    let mut checks = Checks::default();
    let restarts = container_restarts(stage)?;
    for wrong in &WRONG {
        let manifest = format!(
            "{{apiVersion: weft.dev/v1alpha1, kind: GpuJob, metadata: {{name: {}}}, spec: {}}}",
            wrong.name, wrong.spec
        );
        let answer = match stage.world.apply(&manifest) {
            Err(refused) => refused.to_string(),
            Ok(_) => stage.world.wait(wrong.name, Duration::from_secs(60), || {
                let job = stage.world.job(wrong.name)?;
                let message = job["status"]["message"].as_str().unwrap_or_default().to_owned();
                Ok(if wrong.names.iter().all(|n| message.contains(n)) {
                    Look::Done(message)
                } else {
                    Look::Waiting(message)
                })
            })?,
        };
        let named = wrong.names.iter().all(|n| answer.contains(n));
        checks.that(wrong.name, named, answer.lines().next().unwrap_or_default());
    }
    let after = container_restarts(stage)?;
    checks.that(
        "nothing of Weft crashed on it",
        after == restarts,
        format!("{after} restarts of its containers, {restarts} before"),
    );
    checks.failures().map_or(Ok(()), |f| Err(anyhow::anyhow!(f)))
}

/// Restarts of all containers of Weft's own pods so far.
fn container_restarts(stage: &Stage<'_>) -> Result<u64> {
    let pods = stage.world.get(&format!("/api/v1/namespaces/{}/pods", install::NAMESPACE))?;
    let statuses =
        pods["items"].as_array().into_iter().flatten().flat_map(|p| p["status"]["containerStatuses"].as_array());
    Ok(statuses.flatten().filter_map(|c| c["restartCount"].as_u64()).sum())
}
