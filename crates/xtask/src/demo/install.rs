//! `helm install`, and the moment from which jobs can be applied.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};

use super::world::{Images, Look, World};
use crate::{process, tools};

/// The release and its namespace.
const RELEASE: &str = "weft";
pub const NAMESPACE: &str = "weft-system";
/// Where the stand-in driver lies on a simulated node.
const SIMULATED_DRIVER: &str = "/opt/weft-sim";

/// Values for nodes whose GPUs are simulated: where the stand-in driver and its state lie.
pub fn on_simulated_nodes() -> Vec<String> {
    [
        format!("driver.root={SIMULATED_DRIVER}").as_str(),
        "driver.extraMounts[0].hostPath=/run/weft-sim",
        "driver.extraMounts[0].containerPath=/run/weft-sim",
        "driver.extraMounts[0].readOnly=false",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Values for nodes with a driver of their own.
pub fn on_real_nodes() -> Vec<String> {
    vec!["driver.root=/".to_owned()]
}

/// Where the images of a Weft come from that is installed already; `None` if there is none.
pub fn found(world: &World) -> Result<Option<Images>> {
    let Some(operator) = world.find(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/weft-operator"))? else {
        return Ok(None);
    };
    let image = operator["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
    let parts = image.split_once("/weft-operator:").map(|(registry, tag)| (registry.to_owned(), tag.to_owned()));
    let (registry, tag) =
        parts.with_context(|| format!("the operator's image {image:?} is not <registry>/weft-operator:<tag>"))?;
    Ok(Some(Images { registry, tag }))
}

/// Whether the agents were told to read the stand-in driver.
pub fn is_simulated(world: &World) -> Result<bool> {
    let agents = world.get(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/weft-agent"))?;
    Ok(agents.to_string().contains(SIMULATED_DRIVER))
}

/// Checks the rendered manifests against the API server and installs them.
pub fn chart(world: &World, helm: &Path, values: &[String]) -> Result<()> {
    println!("\nInstalling the chart");
    let chart = tools::workspace_root().join("charts/weft");
    let with_values = |verb: &[&str]| {
        let mut c = Command::new(helm);
        c.env("KUBECONFIG", world.kubeconfig()).args(verb).arg(RELEASE).arg(&chart).args(["--namespace", NAMESPACE]);
        for value in world.images.values().iter().chain(values) {
            c.arg("--set").arg(value);
        }
        c
    };
    process::run(
        "helm",
        with_values(&["upgrade", "--install"]).args(["--create-namespace", "--hide-notes", "--timeout", "3m"]),
    )
}

/// Waits until every agent has published its node, kubelet knows the GPUs, and an operator leads.
pub fn wait_until_ready(world: &World, nodes: usize, gpus: Option<u64>) -> Result<()> {
    world
        .wait("agents and operator to be ready", Duration::from_secs(180), || {
            let published = world.get("/apis/weft.dev/v1alpha1/gpunodes")?["items"].as_array().map_or(0, Vec::len);
            let total = allocatable_gpus(world, None)?;
            let operator = world.get(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/weft-operator"))?;
            let operators = operator["status"]["readyReplicas"].as_u64().unwrap_or(0);
            let ready = published >= nodes && gpus.map_or(total > 0, |g| total == g) && operators >= 1;
            let seen = format!("{published} GpuNodes, {total} GPUs allocatable, {operators} operators ready");
            Ok(if ready {
                println!("    {seen}");
                Look::Done(())
            } else {
                Look::Waiting(seen)
            })
        })
        .context("`kubectl -n weft-system get pods` and the logs there say more")
}

/// `nvidia.com/gpu` that kubelets say pods may have, on one node or on all together.
pub fn allocatable_gpus(world: &World, node: Option<&str>) -> Result<u64> {
    let nodes = world.get("/api/v1/nodes")?;
    let wanted = |found: &&serde_json::Value| node.is_none_or(|name| found["metadata"]["name"] == name);
    let of = |node: &serde_json::Value| node["status"]["allocatable"]["nvidia.com/gpu"].as_str()?.parse::<u64>().ok();
    Ok(nodes["items"].as_array().into_iter().flatten().filter(wanted).filter_map(of).sum())
}
