//! The demo's own cluster: which machines are in it, and what the story does to them.

use std::path::PathBuf;

use anyhow::{Context, Result};
use weft_cluster::{Cluster, Component, NodeSpec, Options, Progress};

use crate::process;

/// The name of the demo's cluster, unless `--name` says otherwise.
pub const NAME: &str = crate::cluster::DEFAULT_NAME;
/// Where a simulated node keeps the state of its GPUs.
const SIM_STATE: &str = "/run/weft-sim/machine";

/// The node label of the level `rack`.
const RACK: &str = "topology.weft.dev/rack";

fn h100(name: &str) -> NodeSpec {
    NodeSpec::new(name).label(RACK, "rack-a").profile("h100x8")
}

/// Two H100 nodes in one rack, an A100 node with boards bridged in pairs in another.
pub fn up(name: &str, images: Vec<PathBuf>, simulator: PathBuf, progress: &dyn Progress) -> Result<Cluster> {
    let nodes = vec![h100("node-1"), h100("node-2"), NodeSpec::new("node-3").label(RACK, "rack-b").profile("a100x4")];
    let options = Options { nodes, images, simulator: Some(simulator), ..Options::new(name) };
    Ok(Cluster::up(options, progress)?)
}

/// One node with the machine's own GPUs.
pub fn up_on_this_machines_gpus(name: &str, images: Vec<PathBuf>, progress: &dyn Progress) -> Result<Cluster> {
    let nodes = vec![NodeSpec::new("node-1").label(RACK, "rack-a").machine_gpus()];
    Ok(Cluster::up(Options { nodes, images, ..Options::new(name) }, progress)?)
}

/// One H100 node more, in the rack of the first two.
pub fn add_late_node(cluster: &mut Cluster, images: &[PathBuf], progress: &dyn Progress) -> Result<()> {
    cluster.add_node(h100("node-4"), images, None, progress).map(drop).context("adding node-4")
}

/// GPUs in all nodes together, by their profiles.
pub fn gpus(cluster: &Cluster) -> u64 {
    let of = |node: &NodeSpec| if node.profile.as_deref() == Some("a100x4") { 4 } else { 8 };
    cluster.nodes().iter().map(of).sum()
}

/// Does something to a GPU of a simulated node: `["xid", "79"]`, `["recover"]`.
pub fn fault(cluster: &Cluster, node: &str, gpu: u64, what: &[&str]) -> Result<()> {
    let gpu = gpu.to_string();
    let args: Vec<&str> = ["fault", "--state", SIM_STATE, "--gpu", &gpu].iter().chain(what).copied().collect();
    cluster.exec_in_node(index(cluster, node)?, "weft-sim", &args)?;
    Ok(())
}

/// Kills a component as a crash does, and starts it again as a service manager would.
pub fn crash(cluster: &Cluster, component: Component) -> Result<()> {
    cluster.kill(component)?;
    Ok(cluster.start(component)?)
}

/// The kubelet of a node.
pub fn kubelet(cluster: &Cluster, node: &str) -> Result<Component> {
    Ok(Component::Kubelet(index(cluster, node)?))
}

/// Kills every process of this name in the pods of every node; kubelet starts their containers again. Returns how many there were.
pub fn kill_in_pods(cluster: &Cluster, name: &str) -> Result<usize> {
    let mut killed = 0;
    for node in 1..=cluster.nodes().len() {
        // pkill ends with 1 where there is none; it sees this node's processes only (its pid namespace).
        let mut command = cluster.node_command(node, "pkill")?;
        if let Ok(count) = process::output(command.args(["-KILL", "--count", "--exact", name])) {
            killed += count.trim().parse::<usize>().unwrap_or(0);
        }
    }
    Ok(killed)
}

/// Nodes are counted from 1.
fn index(cluster: &Cluster, node: &str) -> Result<usize> {
    let place = cluster.nodes().iter().position(|n| n.name == node);
    Ok(place.with_context(|| format!("there is no {node}"))? + 1)
}
