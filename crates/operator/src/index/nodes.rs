//! Nodes and what their agents report: names, readiness, GPUs, and the model's members.

use super::{Index, JobKey, Touched};
use crate::facts::{NodeFacts, PodKey};
use crate::outage::Outages;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use std::sync::Arc;
use weft_api::GpuNode;
use weft_api::node::{GpuReport, Health};
use weft_topology::{Member, Node};

impl Index {
    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeFacts> {
        self.nodes.get(name)
    }

    /// The name of the node with this host name.
    pub fn node_of_host<'a>(&'a self, host: &'a str) -> &'a str {
        self.hosts.get(host).map_or(host, String::as_str)
    }

    /// Whether a node's agent has reported, and can be read.
    pub fn has_report(&self, node: &str) -> bool {
        self.reports.contains_key(node)
    }

    /// Whether a node is one with GPUs: its agent reports, readably or not.
    fn has_gpus(&self, node: &str) -> bool {
        self.has_report(node) || self.unreadable_reports.contains(node)
    }

    /// A GPU as its node reports it; `Err` when the node reports GPUs, but not this one.
    pub fn gpu(&self, node: &str, uuid: &str) -> Option<Result<&GpuReport, ()>> {
        let status = self.reports.get(node)?.status.as_ref()?;
        if status.gpus.is_empty() {
            return None;
        }
        Some(status.gpus.iter().find(|gpu| gpu.uuid == uuid).ok_or(()))
    }

    /// A node as it is now.
    pub fn apply_node(&mut self, node: NodeFacts) -> Touched {
        if self.nodes.get(&node.name) == Some(&node) {
            return Touched::NOTHING;
        }
        let name = node.name.clone();
        self.unlink_host(&name);
        if let Some(host) = node.hostname() {
            self.hosts.insert(host.to_owned(), name.clone());
        }
        self.nodes.insert(name.clone(), node);
        self.renew_member(&name);
        self.touched_on(&name)
    }

    /// A node is gone.
    pub fn delete_node(&mut self, name: &str) -> Touched {
        self.unlink_host(name);
        if self.nodes.remove(name).is_none() {
            return Touched::NOTHING;
        }
        self.cluster.remove(&name.into());
        self.touched_on(name)
    }

    /// What a node's agent reports now.
    pub fn apply_report(&mut self, report: GpuNode) -> Touched {
        let name = report.name_any();
        if self.reports.get(&name).is_some_and(|old| old.status == report.status) {
            return Touched::NOTHING;
        }
        self.reports.insert(name.clone(), Arc::new(report));
        self.unreadable_reports.remove(&name);
        self.renew_member(&name);
        self.renew_held(&name);
        self.touched_on(&name)
    }

    /// A node's report cannot be read any more: as none, but its node is still one with GPUs.
    pub fn apply_unreadable_report(&mut self, name: &str) -> Touched {
        let is_new = self.unreadable_reports.insert(name.to_owned());
        self.nodes_changed |= is_new;
        self.forget_report(name)
    }

    /// A node's report is gone.
    pub fn delete_report(&mut self, name: &str) -> Touched {
        self.nodes_changed |= self.unreadable_reports.remove(name);
        self.forget_report(name)
    }

    fn forget_report(&mut self, name: &str) -> Touched {
        if self.reports.remove(name).is_none() {
            return Touched::NOTHING;
        }
        self.renew_member(name);
        self.renew_held(name);
        self.touched_on(name)
    }

    /// Every node name.
    pub fn node_names(&self) -> impl Iterator<Item = &String> {
        self.nodes.keys()
    }

    /// Every node that has a report, readable or not.
    pub fn report_names(&self) -> impl Iterator<Item = &String> {
        self.reports.keys().chain(&self.unreadable_reports)
    }

    /// Counts the nodes that are not ready, as of now; whether that began or ended an outage of many.
    pub fn count_outages(&mut self, now: Timestamp) -> bool {
        if !std::mem::take(&mut self.nodes_changed) && !self.outages.are_on() {
            return false;
        }
        let mut outages = std::mem::take(&mut self.outages);
        let news = outages.count(self.nodes.values().map(|node| (self.has_gpus(&node.name), node)), now);
        self.outages = outages;
        news
    }

    /// The outages of many nodes at once.
    pub fn outages(&self) -> &Outages {
        &self.outages
    }

    /// When a node that is not ready is given up, after `grace`; none while it is not to be: it is ready, or so many others are
    /// not either that the nodes are hardly to blame.
    pub fn given_up_at(&self, node: &NodeFacts, grace: SignedDuration) -> Option<Timestamp> {
        if node.out_of_service {
            return Some(Timestamp::UNIX_EPOCH);
        }
        let since = self.outages.patience_from(self.has_gpus(&node.name), node.not_ready_since?)?;
        Some(since.saturating_add(grace).unwrap_or(Timestamp::MAX))
    }

    /// Jobs with pods on a node, and room, since a node's change may give some.
    pub(super) fn touched_on(&mut self, node: &str) -> Touched {
        self.nodes_changed = true;
        let pods = self.by_node.get(node).into_iter().flatten();
        let job = |key: &PodKey| {
            let worker = self.pods.get(key)?.worker.as_ref()?;
            Some(JobKey { namespace: key.namespace.clone(), name: worker.job.clone() })
        };
        Touched { jobs: pods.filter_map(job).collect(), ..Touched::room() }
    }

    /// Forgets a node's host name, unless it is another node's by now.
    fn unlink_host(&mut self, name: &str) {
        let host = self.nodes.get(name).and_then(|node| node.hostname());
        if let Some(host) = host
            && self.hosts.get(host).is_some_and(|node| node == name)
        {
            self.hosts.remove(host);
        }
    }

    pub(super) fn renew_member(&mut self, name: &str) {
        let Some(facts) = self.nodes.get(name) else { return };
        let model = self.reports.get(name).map(|report| report.model());
        let node = match model {
            Some(Ok(node)) => Ok(node),
            Some(Err(error)) => {
                tracing::warn!(node = name, %error, "cannot use the node's GPU report, counting it as a node without GPUs");
                Node::new(weft_topology::NodeFacts { name: name.to_owned(), ..Default::default() })
            }
            None => Node::new(weft_topology::NodeFacts { name: name.to_owned(), ..Default::default() }),
        };
        let Ok(node) = node else { return };
        self.cluster.upsert(Member {
            node,
            labels: facts.labels.clone(),
            standing: facts.standing.clone(),
            allocatable: facts.allocatable.clone(),
        });
    }
}

/// Why a GPU cannot be worked on, if it cannot.
pub fn gpu_fault(index: &Index, node: &str, uuid: &str) -> Option<String> {
    match index.gpu(node, uuid)? {
        Ok(gpu) if gpu.health == Health::Healthy => None,
        Ok(gpu) => {
            let reason = gpu.reason.as_deref().unwrap_or("unhealthy");
            Some(format!("GPU {} ({uuid}) of {node} failed: {reason}", gpu.index))
        }
        Err(()) => Some(format!("GPU {uuid} is gone from {node}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, host: &str) -> NodeFacts {
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": host}}});
        NodeFacts::of(serde_json::from_value(node).unwrap())
    }

    #[test]
    fn a_host_name_that_changed_or_moved_to_another_node_leads_to_the_right_one() {
        let mut index = Index::default();
        index.apply_node(node("a", "host"));
        index.apply_node(node("b", "host"));
        index.delete_node("a");
        assert_eq!(index.node_of_host("host"), "b", "it is not the deleted node's any more");
        index.apply_node(node("b", "other"));
        assert_eq!((index.node_of_host("host"), index.node_of_host("other")), ("host", "b"));
        index.delete_node("b");
        assert!(index.hosts.is_empty());
    }
}
