//! `topo`: levels, nodes, NUMA nodes and GPUs as a tree; the wires of one node as a matrix.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use anyhow::{Result, bail};
use jiff::Timestamp;
use kube::ResourceExt;
use weft_api::GpuNode;
use weft_api::node::{GpuReport, Health};
use weft_topology::Wire;

use crate::cluster::NodesView;
use crate::span::since;
use crate::tree::Tree;

/// With more nodes than this the GPUs are left out: a tree is for one screen, or two.
const NODES_WITH_GPUS: usize = 8;

/// The whole cluster as a tree.
pub fn all(view: &NodesView, now: Timestamp) -> String {
    if view.gpu_nodes.is_empty() {
        return "No node reports GPUs: are the agents running? See `kubectl get daemonsets --all-namespaces -l \
                app.kubernetes.io/name=weft` and their logs.\n"
            .to_owned();
    }
    let detailed = view.gpu_nodes.len() <= NODES_WITH_GPUS;
    let mut nodes: Vec<&GpuNode> = view.gpu_nodes.iter().collect();
    nodes.sort_by_key(|node| node.name_any());
    let levels: Vec<_> = view.topology.levels.iter().map(|l| (l.name.as_str(), l.node_label.as_str())).collect();
    let labels: BTreeMap<String, &BTreeMap<String, String>> =
        view.nodes.iter().map(|node| (node.name.clone(), &node.labels)).collect();
    let branches = domains(&nodes, &levels, &labels, detailed, now);
    let mut text = Tree::new(format!("cluster: {}", count(&nodes)), branches).to_string();
    if !detailed {
        text += "Name a node to see its GPUs: kubectl weft topo NODE\n";
    }
    text
}

/// The domains of the first of `levels` and what is in them; a level that no node is labelled for is passed over.
fn domains(
    nodes: &[&GpuNode],
    levels: &[(&str, &str)],
    labels: &BTreeMap<String, &BTreeMap<String, String>>,
    detailed: bool,
    now: Timestamp,
) -> Vec<Tree> {
    let Some(((level, label), narrower)) = levels.split_first() else {
        return nodes.iter().map(|node| host(node, detailed, now)).collect();
    };
    let mut by_domain: BTreeMap<Option<&str>, Vec<&GpuNode>> = BTreeMap::new();
    for &node in nodes {
        let domain = labels.get(&node.name_any()).and_then(|labels| labels.get(*label)).map(String::as_str);
        by_domain.entry(domain).or_default().push(node);
    }
    if by_domain.keys().all(Option::is_none) {
        return domains(nodes, narrower, labels, detailed, now);
    }
    let (unlabelled, labelled): (Vec<_>, Vec<_>) = by_domain.into_iter().partition(|(domain, _)| domain.is_none());
    let branch = |(domain, nodes): (Option<&str>, Vec<&GpuNode>)| {
        let name =
            domain.map_or_else(|| format!("no {level} (label {label} is missing)"), |name| format!("{level} {name}"));
        Tree::new(format!("{name}: {}", count(&nodes)), domains(&nodes, narrower, labels, detailed, now))
    };
    labelled.into_iter().chain(unlabelled).map(branch).collect()
}

/// `2 nodes, 16 GPUs, 3 free, 1 unhealthy`.
fn count(nodes: &[&GpuNode]) -> String {
    let gpus: Vec<_> = nodes.iter().flat_map(|node| reports(node)).collect();
    format!("{} node{}, {}", nodes.len(), if nodes.len() == 1 { "" } else { "s" }, count_gpus(&gpus))
}

fn count_gpus(gpus: &[&GpuReport]) -> String {
    let unhealthy = gpus.iter().filter(|gpu| gpu.health == Health::Unhealthy).count();
    let free = gpus.iter().filter(|gpu| gpu.health == Health::Healthy && gpu.holder.is_none()).count();
    let mut text = format!("{} GPU{}, {free} free", gpus.len(), if gpus.len() == 1 { "" } else { "s" });
    if unhealthy > 0 {
        let _ = write!(text, ", {unhealthy} unhealthy");
    }
    text
}

fn reports(node: &GpuNode) -> &[GpuReport] {
    node.status.as_ref().map_or(&[], |status| &status.gpus)
}

/// One node, with its NUMA nodes and GPUs if `detailed`.
fn host(node: &GpuNode, detailed: bool, now: Timestamp) -> Tree {
    let gpus: Vec<&GpuReport> = reports(node).iter().collect();
    let products: BTreeSet<_> = gpus.iter().map(|gpu| gpu.product.as_str()).collect();
    let mut line = format!("{}: {}", node.name_any(), count_gpus(&gpus));
    if !products.is_empty() {
        let _ = write!(line, " · {}", products.into_iter().collect::<Vec<_>>().join(" and "));
    }
    if let Some(status) = &node.status {
        if let Some(domain) = &status.nvlink_domain {
            let _ = write!(line, " · NVLink domain {domain}");
        }
        if let Some(message) = &status.message {
            let _ = write!(line, " · {message}");
        }
    }
    if !detailed {
        return Tree::leaf(line);
    }
    let mut by_numa: BTreeMap<Option<u32>, Vec<&GpuReport>> = BTreeMap::new();
    for gpu in gpus {
        by_numa.entry(gpu.numa).or_default().push(gpu);
    }
    let only_unknown = by_numa.keys().all(Option::is_none);
    let branches = by_numa.into_iter().flat_map(|(numa, gpus)| {
        let leaves: Vec<_> = gpus.iter().map(|gpu| Tree::leaf(describe(gpu, now))).collect();
        match numa {
            Some(numa) => vec![Tree::new(format!("NUMA {numa}"), leaves)],
            None if only_unknown => leaves,
            None => vec![Tree::new("NUMA node unknown", leaves)],
        }
    });
    Tree::new(line, branches.collect())
}

/// `GPU 3  GPU-5f2…  free` or who holds it, or why it is unhealthy and since when.
fn describe(gpu: &GpuReport, now: Timestamp) -> String {
    let holder =
        gpu.holder.as_ref().map(|holder| format!("{}/{} ({})", holder.namespace, holder.pod, holder.container));
    let state = match (gpu.health, &holder) {
        (Health::Healthy, None) => "free".to_owned(),
        (Health::Healthy, Some(holder)) => holder.clone(),
        (Health::Unhealthy, holder) => {
            let mut text = "UNHEALTHY".to_owned();
            if let Some(then) = &gpu.since {
                let _ = write!(text, " for {}", since(then.0, now));
            }
            if let Some(reason) = &gpu.reason {
                let _ = write!(text, ": {reason}");
            }
            if let Some(holder) = holder {
                let _ = write!(text, " (held by {holder})");
            }
            text
        }
    };
    format!("GPU {}  {}  {state}", gpu.index, gpu.uuid)
}

/// One node: the matrix of its wires, then its tree.
///
/// # Errors
/// When no agent reports a node of this name, with whether the cluster has it at all; or when its report makes no sense.
pub fn node(view: &NodesView, name: &str, now: Timestamp) -> Result<String> {
    let Some(node) = view.gpu_nodes.iter().find(|node| node.name_any() == name) else {
        if view.nodes.iter().any(|node| node.name == name) {
            bail!(
                "node {name} reports no GPUs: is Weft's agent running there? `kubectl get pods --all-namespaces -l app.kubernetes.io/component=agent --field-selector spec.nodeName={name}`"
            );
        }
        bail!("the cluster has no node {name}: `kubectl get gpunodes` lists those with GPUs");
    };
    let mut text = matrix(node)?;
    if !text.is_empty() {
        text.push('\n');
    }
    text += &host(node, true, now).to_string();
    Ok(text)
}

/// The wires between each two GPUs, by the letters of `nvidia-smi topo -m`, and what the letters mean.
fn matrix(node: &GpuNode) -> Result<String> {
    let model = node.model()?;
    let gpus = model.gpus();
    if gpus.len() < 2 {
        return Ok(String::new());
    }
    let mut legend: Vec<Wire> = Vec::new();
    let mut text = format!("{:<7}", "");
    for gpu in gpus {
        let _ = write!(text, "{:<6}", format!("GPU{}", gpu.index));
    }
    text += "NUMA\n";
    for (row, gpu) in gpus.iter().enumerate() {
        let _ = write!(text, "{:<7}", format!("GPU{}", gpu.index));
        for column in 0..gpus.len() {
            let wire = model.wiring().wire(row, column);
            let cell = if row == column { "X".to_owned() } else { wire.short() };
            let _ = write!(text, "{cell:<6}");
            if row != column && !legend.iter().any(|known| known.short() == wire.short()) {
                legend.push(wire);
            }
        }
        text += &gpu.numa.map_or_else(|| "-".to_owned(), |numa| numa.to_string());
        text.push('\n');
    }
    legend.sort_by_key(|wire| std::cmp::Reverse(wire.score()));
    text.push('\n');
    for wire in legend {
        let _ = writeln!(text, "  {:<5} {}", wire.short(), wire.words());
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
