//! a, b: programs from YAML, no image and no CUDA toolkit.

use std::time::Instant;

use anyhow::Result;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{JOB_LIMIT, Stage, worker_list};
use crate::demo::report::Checks;

/// Elements of `x` and `y` in `saxpy.yaml`.
const ELEMENTS: u32 = 1 << 20;

pub fn saxpy(stage: &mut Stage<'_>) -> Result<()> {
    let (started, mut checks) = (Instant::now(), Checks::default());
    let result = run(stage, "saxpy", &mut checks)?;
    // Once more, here, from what the worker says it saved: y = 2x + 1 for x = 0, 1, 2 …, as little-endian f32.
    let mut hash = Sha256::new();
    for i in 0..ELEMENTS {
        hash.update((2.0f32 * i as f32 + 1.0).to_le_bytes());
    }
    let expected: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    let saved = result["saved"][0]["sha256"].as_str().unwrap_or_default();
    checks.that(
        "all 1,048,576 elements are 2x + 1",
        saved == expected,
        format!("sha256 {}", saved.get(..12).unwrap_or("missing")),
    );
    stage.conclude("saxpy", started, checks)
}

pub fn libraries(stage: &mut Stage<'_>) -> Result<()> {
    let (started, mut checks) = (Instant::now(), Checks::default());
    let result = run(stage, "gemm-fft-spmv", &mut checks)?;
    let count = result["checks"].as_array().map_or(0, Vec::len);
    checks.that("product, transform and stencil were each compared", count == 3, format!("{count} comparisons"));
    stage.conclude("gemm-fft-spmv", started, checks)
}

/// Applies the example, waits for its end and returns the result of its only worker.
fn run(stage: &mut Stage<'_>, name: &str, checks: &mut Checks) -> Result<Value> {
    stage.world.apply_example(&format!("{name}.yaml"))?;
    let job = stage.world.wait_phase(name, "Succeeded", JOB_LIMIT)?;
    let worker = worker_list(&job).into_iter().next().unwrap_or_default();
    let held = super::gpus(&worker, "allocatedGpus").len();
    checks.that("one GPU was held", held == 1, format!("{held} on {}", worker["node"].as_str().unwrap_or("no node")));
    let result = worker["result"].clone();
    checks.that(
        "the program says that it is right",
        result["ok"] == true,
        result["error"].as_str().unwrap_or_default(),
    );
    for check in result["checks"].as_array().into_iter().flatten() {
        let name = check["name"].as_str().unwrap_or("check");
        checks.that(&format!("in the job: {name}"), check["ok"] == true, check["message"].as_str().unwrap_or_default());
    }
    Ok(result)
}
