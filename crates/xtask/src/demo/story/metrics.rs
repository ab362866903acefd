//! i: a real Prometheus scrapes the agents and knows whose GPU it is.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{JOB_LIMIT, Stage};
use crate::demo::{
    report::Checks,
    world::{Hold, Look},
};

pub fn name_the_pod(stage: &mut Stage<'_>) -> Result<()> {
    let (started, mut checks) = (Instant::now(), Checks::default());
    // For a few scrapes.
    stage.world.hold("scraped", Hold { replicas: 1, gpus: 1, seconds: 300 })?;
    stage.world.wait_phase("scraped", "Running", JOB_LIMIT)?;
    let query = format!(r#"DCGM_FI_DEV_GPU_TEMP{{pod="scraped-main-0",namespace="{}"}}"#, stage.world.namespace);
    let (world, own) = (stage.world, stage.own()?);
    let series = world.wait("Prometheus to have seen the job", Duration::from_secs(30), || {
        let series = own.prometheus.query(own.cluster, &query)?;
        Ok(if series.len() == 1 { Look::Done(series) } else { Look::Waiting(format!("{} series", series.len())) })
    })?;
    let labels = &series[0]["metric"];
    checks.that("one series for its GPU", series.len() == 1, labels.to_string());
    let named = ["UUID", "modelName", "hostname", "container"]
        .iter()
        .all(|l| labels[l].as_str().is_some_and(|v| !v.is_empty()));
    checks.that("with the exporter's usual labels", named, "");
    for metric in ["DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_POWER_USAGE"] {
        let found = own.prometheus.query(own.cluster, &query.replace("DCGM_FI_DEV_GPU_TEMP", metric))?.len();
        checks.that(metric, found == 1, format!("{found} series"));
    }
    stage.conclude("scraped", started, checks)?;
    stage.world.delete_job("scraped")
}
