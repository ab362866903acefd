//! d: NumPy in an image without CUDA; the sidecar has the GPU.

use std::time::Instant;

use anyhow::Result;

use super::{JOB_LIMIT, Stage, worker_list};
use crate::demo::report::Checks;

pub fn product(stage: &mut Stage<'_>) -> Result<()> {
    let (started, mut checks) = (Instant::now(), Checks::default());
    stage.world.apply_example("app-without-cuda.yaml")?;
    let job = stage.world.wait_phase("app-without-cuda", "Succeeded", JOB_LIMIT)?;
    let result = worker_list(&job).first().map(|w| w["result"].clone()).unwrap_or_default();
    checks.that("the product equals NumPy's", result["ok"] == true, result.to_string());
    let pod = stage.world.pods("app-without-cuda")?.into_iter().next().unwrap_or_default();
    let asked = pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"].is_null();
    checks.that("the application's container asks for no GPU", asked, "");
    let sidecar = pod["spec"]["initContainers"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|c| c["name"] == "weft-runtime" && c["resources"]["limits"]["nvidia.com/gpu"] == "1");
    checks.that("the sidecar holds it", sidecar, "");
    stage.conclude("app-without-cuda", started, checks)
}
