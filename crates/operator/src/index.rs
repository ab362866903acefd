//! The world as the watches tell it, kept so that every decision is made on one consistent picture.
//!
//! Changed by synchronous `apply` and `delete`, each of which says what the change touches ([`Touched`]), and by
//! [`Index::assume`] for pods that are about to be created: from the moment in which a placement is decided, the next decision
//! sees it. Tested without a cluster.
//!
//! ```text
//!  Node, GpuNode ─▶ Member ─┐
//!  GpuTopology ───▶ levels ─┼─▶ weft_topology::Cluster ─▶ place_where
//!  Pod, assumed ──▶ Claim ──┘
//! ```

use crate::facts::{NodeFacts, PodFacts, PodKey};
use crate::guard::Unreadable;
use crate::outage::Outages;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use weft_api::node::{GpuReport, Health};
use weft_api::{GpuJob, GpuNode, GpuTopologySpec, names};
use weft_topology::{Claim, Cluster, LevelLabel, Member, Node, NodeName, Resources};

/// Namespace and name of a GpuJob.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobKey {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a change touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Jobs whose own objects changed.
    pub jobs: BTreeSet<JobKey>,
    /// Whether there may be room where there was none: waiting jobs look again.
    pub room: bool,
}

impl Touched {
    const NOTHING: Self = Self { jobs: BTreeSet::new(), room: false };

    fn job(key: JobKey) -> Self {
        Self { jobs: [key].into(), room: false }
    }

    fn room() -> Self {
        Self { jobs: BTreeSet::new(), room: true }
    }
}

/// A job, or why it cannot be read.
#[derive(Clone, Debug)]
pub struct JobEntry {
    pub uid: String,
    pub generation: Option<i64>,
    pub job: Result<Arc<GpuJob>, Unreadable>,
}

/// The world as the watches tell it.
pub struct Index {
    levels: GpuTopologySpec,
    cluster: Cluster,
    nodes: BTreeMap<String, NodeFacts>,
    reports: BTreeMap<String, Arc<GpuNode>>,
    /// Nodes that have a report which cannot be read: another version of the agent wrote it.
    unreadable_reports: BTreeSet<String>,
    /// Node name by the host name label, by which workers are bound.
    hosts: HashMap<String, String>,
    /// Boxed: of 150,000 pods the empty places of the table alone would take 60 MB.
    pods: HashMap<PodKey, Box<PodFacts>>,
    /// Workers' pods by the job's name.
    workers: HashMap<JobKey, BTreeSet<PodKey>>,
    /// Pods by the node that they are bound or to be bound to.
    by_node: HashMap<String, BTreeSet<PodKey>>,
    /// Which GPUs a pod holds, as its node reports.
    held: HashMap<PodKey, Vec<String>>,
    assumed: HashMap<PodKey, (String, Claim)>,
    jobs: BTreeMap<JobKey, JobEntry>,
    outages: Outages,
    /// Nodes or reports came, went or changed since the outages were counted.
    nodes_changed: bool,
}

impl Default for Index {
    fn default() -> Self {
        let levels = GpuTopologySpec::fallback();
        Self {
            cluster: cluster_of(&levels).unwrap_or_else(|_| empty_cluster()),
            levels,
            nodes: BTreeMap::new(),
            reports: BTreeMap::new(),
            unreadable_reports: BTreeSet::new(),
            hosts: HashMap::new(),
            pods: HashMap::new(),
            workers: HashMap::new(),
            by_node: HashMap::new(),
            held: HashMap::new(),
            assumed: HashMap::new(),
            jobs: BTreeMap::new(),
            outages: Outages::default(),
            nodes_changed: false,
        }
    }
}

fn cluster_of(levels: &GpuTopologySpec) -> Result<Cluster, weft_topology::LevelsError> {
    Cluster::new(levels.levels.iter().map(|level| LevelLabel::new(&level.name, &level.node_label)).collect())
}

fn empty_cluster() -> Cluster {
    #[expect(clippy::expect_used, reason = "no level repeats another where there is none")]
    Cluster::new(Vec::new()).expect("a cluster without levels is valid")
}

impl Index {
    /// The model that placements are decided on.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The levels outside the node.
    pub fn levels(&self) -> &GpuTopologySpec {
        &self.levels
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeFacts> {
        self.nodes.get(name)
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

    /// Whether a node is one with GPUs: its agent reports, readably or not.
    fn has_gpus(&self, node: &str) -> bool {
        self.has_report(node) || self.unreadable_reports.contains(node)
    }

    /// Whether a node's agent has reported, and can be read.
    pub fn has_report(&self, node: &str) -> bool {
        self.reports.contains_key(node)
    }

    /// A GPU as its node reports it; `Err` when the node reports GPUs, but not this one.
    pub fn gpu(&self, node: &str, uuid: &str) -> Option<Result<&GpuReport, ()>> {
        let status = self.reports.get(node)?.status.as_ref()?;
        if status.gpus.is_empty() {
            return None;
        }
        Some(status.gpus.iter().find(|gpu| gpu.uuid == uuid).ok_or(()))
    }

    /// The GPUs that a pod holds, as its node reports.
    pub fn held_by(&self, pod: &PodKey) -> &[String] {
        self.held.get(pod).map(Vec::as_slice).unwrap_or_default()
    }

    /// The name of the node with this host name.
    pub fn node_of_host<'a>(&'a self, host: &'a str) -> &'a str {
        self.hosts.get(host).map_or(host, String::as_str)
    }

    /// A job.
    pub fn job(&self, key: &JobKey) -> Option<&JobEntry> {
        self.jobs.get(key)
    }

    /// All jobs.
    pub fn jobs(&self) -> impl Iterator<Item = (&JobKey, &JobEntry)> {
        self.jobs.iter()
    }

    /// The pods of a job, of this very job and not of an earlier one of the same name.
    pub fn pods_of<'a>(&'a self, key: &JobKey, uid: &'a str) -> impl Iterator<Item = &'a PodFacts> {
        let keys = self.workers.get(key).into_iter().flatten();
        let pods = keys.filter_map(|pod| self.pod(pod));
        pods.filter(move |pod| pod.worker.as_ref().is_some_and(|worker| worker.job_uid == uid))
    }

    /// The pods of earlier jobs of this name: those jobs are gone, and garbage collection comes for the pods.
    pub fn pods_of_earlier<'a>(&'a self, key: &JobKey, uid: &'a str) -> impl Iterator<Item = &'a PodFacts> {
        let keys = self.workers.get(key).into_iter().flatten();
        let pods = keys.filter_map(|pod| self.pod(pod));
        pods.filter(move |pod| pod.worker.as_ref().is_some_and(|worker| worker.job_uid != uid))
    }

    /// A pod.
    pub fn pod(&self, key: &PodKey) -> Option<&PodFacts> {
        self.pods.get(key).map(Box::as_ref)
    }

    /// Node and claim of a pod that is decided on and not seen yet.
    pub fn assumed(&self, pod: &PodKey) -> Option<(&str, &Claim)> {
        self.assumed.get(pod).map(|(node, claim)| (node.as_str(), claim))
    }

    /// Notes a pod that is about to be created: its claim counts from now, until the pod itself is seen or [`Self::forget`].
    pub fn assume(&mut self, pod: PodKey, node: String, claim: Claim) {
        self.assumed.insert(pod.clone(), (node, claim));
        self.reclaim(&pod);
    }

    /// Takes an assumption back, because the pod will not be created. False if there was none.
    pub fn forget(&mut self, pod: &PodKey) -> bool {
        let there = self.assumed.remove(pod).is_some();
        if there {
            self.reclaim(pod);
        }
        there
    }

    /// A job as it is now; `Err` holds why it cannot be read.
    pub fn apply_job(&mut self, key: JobKey, entry: JobEntry) -> Touched {
        let uid = entry.uid.clone();
        if let Some(earlier) = self.jobs.insert(key.clone(), entry).filter(|earlier| earlier.uid != uid) {
            self.forget_workers(&key, &earlier);
        }
        Touched::job(key)
    }

    /// A job is gone.
    pub fn delete_job(&mut self, key: &JobKey) -> Touched {
        let Some(gone) = self.jobs.remove(key) else { return Touched::NOTHING };
        self.forget_workers(key, &gone);
        Touched { jobs: [key.clone()].into(), room: true }
    }

    /// Takes back what is assumed for a job that is gone, and for no other whose name begins as its does.
    fn forget_workers(&mut self, key: &JobKey, gone: &JobEntry) {
        let Ok(job) = &gone.job else { return };
        for group in &job.spec.groups {
            for index in 0..group.replicas {
                self.forget(&worker_key(key, &group.name, index));
            }
        }
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

    /// The levels as they are now; none when no `GpuTopology` named `default` exists. A specification that contradicts itself
    /// is refused, and the old levels stay.
    pub fn apply_levels(&mut self, levels: Option<GpuTopologySpec>) -> Touched {
        let levels = levels.unwrap_or_else(GpuTopologySpec::fallback);
        if levels == self.levels {
            return Touched::NOTHING;
        }
        match cluster_of(&levels) {
            Ok(cluster) => self.cluster = cluster,
            Err(error) => {
                tracing::warn!(%error, "GpuTopology default is not usable, keeping the levels as they were");
                return Touched::NOTHING;
            }
        }
        self.levels = levels;
        for name in self.nodes.keys().cloned().collect::<Vec<_>>() {
            self.renew_member(&name);
        }
        for pod in self.pods.keys().chain(self.assumed.keys()).cloned().collect::<Vec<_>>() {
            self.reclaim(&pod);
        }
        Touched { jobs: self.jobs.keys().cloned().collect(), room: true }
    }

    /// A pod as it is now.
    pub fn apply_pod(&mut self, pod: PodFacts) -> Touched {
        let key = pod.key.clone();
        let was_assumed = self.assumed.remove(&key).is_some();
        if self.pod(&key) == Some(&pod) && !was_assumed {
            return Touched::NOTHING;
        }
        let before = self.pods.remove(&key);
        let mut touched_too = None;
        let frees = before.as_ref().is_some_and(|before| !before.is_over() && pod.is_over());
        let job =
            pod.worker.as_ref().map(|worker| JobKey { namespace: key.namespace.clone(), name: worker.job.clone() });
        if let Some(node) = before.as_ref().and_then(|before| self.node_of(before)) {
            self.unlink(&node, &key);
        }
        if let Some(node) = self.node_of(&pod) {
            self.by_node.entry(node).or_default().insert(key.clone());
        }
        // Under one name there may be another job's worker now, if the deletion of the first was never seen.
        let worker = before.as_ref().and_then(|before| before.worker.as_ref());
        if let Some(earlier) =
            worker.map(|worker| JobKey { namespace: key.namespace.clone(), name: worker.job.clone() })
            && job.as_ref() != Some(&earlier)
        {
            self.unlink_worker(&earlier, &key);
            touched_too = Some(earlier);
        }
        if let Some(job) = &job {
            self.workers.entry(job.clone()).or_default().insert(key.clone());
        }
        let is_new = before.is_none_or(|before| before.uid != pod.uid);
        if is_new {
            self.held.remove(&key);
        }
        if !self.held.contains_key(&key)
            && let Some(gpus) = pod.node.as_deref().and_then(|node| self.holders(node).remove(&key))
        {
            // The report came before this pod's event: it means this pod if it runs already when it is first seen (after a
            // restart of the operator), or if it has what was planned for it.
            let as_planned =
                gpus.len() == pod.planned_gpus.len() && gpus.iter().all(|uuid| pod.planned_gpus.contains(uuid));
            if as_planned || (is_new && pod.started) {
                self.held.insert(key.clone(), gpus);
            }
        }
        self.pods.insert(key.clone(), Box::new(pod));
        self.reclaim(&key);
        Touched { jobs: job.into_iter().chain(touched_too).collect(), room: frees }
    }

    /// A pod is gone.
    pub fn delete_pod(&mut self, key: &PodKey) -> Touched {
        let Some(pod) = self.pods.remove(key) else { return Touched::NOTHING };
        self.held.remove(key);
        if let Some(node) = self.node_of(&pod) {
            self.unlink(&node, key);
        }
        let job = pod.worker.map(|worker| JobKey { namespace: key.namespace.clone(), name: worker.job });
        if let Some(job) = &job {
            self.unlink_worker(job, key);
        }
        self.reclaim(key);
        Touched { jobs: job.into_iter().collect(), room: true }
    }

    /// Every pod key: after a new list, those that were not in it are gone.
    pub fn pod_keys(&self) -> impl Iterator<Item = &PodKey> {
        self.pods.keys()
    }

    /// Every node name.
    pub fn node_names(&self) -> impl Iterator<Item = &String> {
        self.nodes.keys()
    }

    /// Every node that has a report, readable or not.
    pub fn report_names(&self) -> impl Iterator<Item = &String> {
        self.reports.keys().chain(&self.unreadable_reports)
    }

    /// Jobs with pods on a node, and room, since a node's change may give some.
    fn touched_on(&mut self, node: &str) -> Touched {
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

    /// Forgets that a pod is a job's.
    fn unlink_worker(&mut self, job: &JobKey, pod: &PodKey) {
        if let Some(pods) = self.workers.get_mut(job) {
            pods.remove(pod);
            if pods.is_empty() {
                self.workers.remove(job);
            }
        }
    }

    fn unlink(&mut self, node: &str, pod: &PodKey) {
        if let Some(pods) = self.by_node.get_mut(node) {
            pods.remove(pod);
            if pods.is_empty() {
                self.by_node.remove(node);
            }
        }
    }

    /// The node that a pod is bound to, or that it waits for.
    fn node_of(&self, pod: &PodFacts) -> Option<String> {
        let planned = || pod.planned_host.as_deref().map(|host| self.node_of_host(host).to_owned());
        pod.node.clone().or_else(planned)
    }

    fn renew_member(&mut self, name: &str) {
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

    /// Reads again who holds the GPUs of a node.
    ///
    /// A report names pods, not their UIDs, and may be a second old: it is believed of a pod that was bound to the node when
    /// the report came, not of one that came later under the same name.
    fn renew_held(&mut self, node: &str) {
        let holders = self.holders(node);
        for pod in self.by_node.get(node).cloned().unwrap_or_default() {
            let bound = self.pods.get(&pod).is_some_and(|pod| pod.node.as_deref() == Some(node));
            let now = holders.get(&pod).filter(|_| bound);
            if self.held.get(&pod) != now {
                match now {
                    Some(gpus) => self.held.insert(pod.clone(), gpus.clone()),
                    None => self.held.remove(&pod),
                };
                self.reclaim(&pod);
            }
        }
    }

    /// The GPUs of a node by the pod that holds them, as last reported.
    fn holders(&self, node: &str) -> HashMap<PodKey, Vec<String>> {
        let status = self.reports.get(node).and_then(|report| report.status.as_ref());
        let mut holders: HashMap<PodKey, Vec<String>> = HashMap::new();
        for gpu in status.into_iter().flat_map(|status| &status.gpus) {
            if let Some(holder) = &gpu.holder {
                holders.entry(PodKey::new(&holder.namespace, &holder.pod)).or_default().push(gpu.uuid.clone());
            }
        }
        holders
    }

    /// Notes in the model what a pod claims now, in place of what it claimed before.
    fn reclaim(&mut self, key: &PodKey) {
        let pod = self.pod(key);
        let claim = match (self.assumed.get(key), pod) {
            (Some((node, claim)), _) => Some((node.clone(), claim.clone())),
            // What has ended holds nothing: the kubelet gives its devices to the next pod that asks.
            (None, Some(pod)) if !pod.is_over() => self.node_of(pod).map(|node| (node, self.claim_of(pod))),
            _ => None,
        };
        match claim {
            Some((node, claim)) => self.cluster.claim(&NodeName::from(node), key.owner(), claim),
            None => {
                self.cluster.release(&key.owner());
            }
        }
    }

    /// GPUs by what the node reports, else by the plan, else by number only.
    fn claim_of(&self, pod: &PodFacts) -> Claim {
        let held = self.held.get(&pod.key);
        let gpus = held.unwrap_or(&pod.planned_gpus);
        let identified = u32::try_from(gpus.len()).unwrap_or(u32::MAX);
        Claim {
            gpus: gpus.iter().map(|uuid| uuid.as_str().into()).collect(),
            unidentified_gpus: pod.gpus.saturating_sub(identified),
            resources: pod.requests.clone(),
            planned: held.is_none() && !pod.started,
        }
    }
}

/// What an assumed worker claims.
pub fn planned_claim(gpus: &[String], requests: &Resources) -> Claim {
    Claim {
        gpus: gpus.iter().map(|uuid| uuid.as_str().into()).collect(),
        unidentified_gpus: 0,
        resources: requests.clone(),
        planned: true,
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

/// The key of a job's own pods in its namespace.
pub fn worker_key(job: &JobKey, group: &str, index: u32) -> PodKey {
    PodKey::new(&job.namespace, &names::pod_name(&job.name, group, index))
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

    #[test]
    fn a_pod_whose_name_went_to_another_jobs_worker_is_not_kept_for_the_first() {
        let worker = |job: &str, uid: &str| {
            let owner = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "GpuJob", "name": job, "uid": job, "controller": true});
            let metadata = json!({"name": "a-b-c-0", "namespace": "n", "uid": uid, "labels": {"weft.dev/rank": "0"}, "ownerReferences": [owner]});
            PodFacts::of(serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": []}})).unwrap())
        };
        let mut index = Index::default();
        index.apply_pod(worker("a", "1"));
        let touched = index.apply_pod(worker("a-b", "2"));
        assert_eq!(touched.jobs.len(), 2, "both look again");
        index.delete_pod(&PodKey::new("n", "a-b-c-0"));
        assert!(index.workers.is_empty());
    }
}
