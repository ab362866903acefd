//! A cluster of plain data around the operator's controller: it keeps what the controller writes, plays kubelet and scheduler
//! one step at a time, and feeds the changes back as the watches would.

mod time;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use weft_api::node::{GpuReport, Health, LinkReport};
use weft_api::{GpuJob, GpuNode, GpuNodeSpec, GpuNodeStatus};
use weft_operator::controller::Controller;
use weft_operator::facts::{NodeFacts, PodFacts, PodKey, PodLife};
use weft_operator::guard::Unreadable;
use weft_operator::index::{JobEntry, JobKey};
use weft_operator::metrics::Metrics;
use weft_operator::reconcile::{Action, Settings};
use weft_operator::watch::{Change, Kind, Seen};
use weft_operator::worker_pod::RuntimeImage;
use weft_operator::write::Outcome;

pub struct World {
    controller: Controller,
    pub now: Timestamp,
    pub pods: BTreeMap<PodKey, Pod>,
    pub jobs: BTreeMap<JobKey, GpuJob>,
    nodes: BTreeMap<String, Node>,
    reports: BTreeMap<String, GpuNode>,
    /// What the API server answers to the creation of pods, if it refuses them.
    pub refuse_pods: Option<String>,
    /// As invalid, and not for want of something.
    pub refuses_as_invalid: bool,
    /// What it says about templates, if it refuses them.
    pub refuse_templates: Option<String>,
    /// Somebody corrects the templates just when the API server was asked about them.
    pub is_corrected_while_asked: bool,
    /// Batches of which only the first so many actions still go through: then the operator is dead.
    pub die_after: Option<usize>,
    /// The agents are behind: what a pod held stays in the report when the pod is gone.
    pub keep_holders: bool,
    /// Garbage collection is behind: pods stay when their job is gone.
    pub keep_garbage: bool,
    /// Jobs that this version of the operator cannot read, and why.
    unreadable: BTreeMap<JobKey, String>,
    /// How often that was written into a job.
    pub said_unreadable: usize,
    /// The watch of pods lags: changes are kept here until [`Self::catch_up`].
    lagging: Option<Vec<Change>>,
    /// GPUs may fail between the plan and the kubelet, which then refuses the pod. Elsewhere that is a mistake of the operator.
    pub refuses_failed_gpus: bool,
    /// What becomes of the next writes; after that all go well.
    pub answers: VecDeque<Answer>,
    /// What became of batches that the operator has not heard of yet.
    unheard: VecDeque<Outcome>,
    /// Statuses that the operator wrote, by the job's name.
    pub statuses: Vec<(String, weft_api::GpuJobStatus)>,
    /// Writes that the operator sent.
    pub sent: Vec<Action>,
    /// Every pass of the controller ends after one job, as if that had taken all of its time.
    pub short_passes: bool,
    next_uid: u32,
    /// The next batch is carried out though its job is gone by now.
    late: bool,
    /// Creations never get there, and nobody says so.
    pub creations_vanish: bool,
    /// The API server does not answer what it says about templates.
    pub probe_fails: bool,
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    Done,
    /// It is done, and the answer comes too late.
    Lost,
    /// It never gets there.
    NotDone,
}

fn settings() -> Settings {
    let runtime = RuntimeImage { image: "weft-runtime".into(), pull_policy: None };
    Settings { runtime, node_lost_after: SignedDuration::from_secs(10) }
}

fn key(name: &str) -> JobKey {
    JobKey { namespace: "default".into(), name: name.into() }
}

impl World {
    /// The demo's nodes: two of eight H100 in rack-a, one of four A100 in bridged pairs in rack-b.
    pub fn demo() -> Self {
        let mut world = Self {
            controller: Controller::new(settings(), Metrics::default()),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            pods: BTreeMap::new(),
            jobs: BTreeMap::new(),
            nodes: BTreeMap::new(),
            reports: BTreeMap::new(),
            refuse_pods: None,
            refuses_as_invalid: false,
            refuse_templates: None,
            is_corrected_while_asked: false,
            die_after: None,
            keep_holders: false,
            keep_garbage: false,
            unreadable: BTreeMap::new(),
            said_unreadable: 0,
            lagging: None,
            refuses_failed_gpus: false,
            answers: VecDeque::new(),
            unheard: VecDeque::new(),
            statuses: Vec::new(),
            sent: Vec::new(),
            short_passes: false,
            next_uid: 0,
            late: false,
            creations_vanish: false,
            probe_fails: false,
        };
        world.restart_operator();
        world.add_node("node-1", "rack-a", 8);
        world.add_node("node-2", "rack-a", 8);
        world.add_node("node-3", "rack-b", 4);
        world
    }

    /// A new operator that knows nothing lists the world.
    pub fn restart_operator(&mut self) {
        self.controller = Controller::new(settings(), Metrics::default());
        self.die_after = None;
        self.lagging = None;
        self.unheard.clear();
        let nodes = self.nodes.values().map(|node| Seen::Node(NodeFacts::of(node.clone()))).collect();
        let reports = self.reports.values().map(|report| Seen::Report(report.clone())).collect();
        let pods = self.pods.values().map(|pod| Seen::Pod(Box::new(PodFacts::of(pod.clone())))).collect();
        let jobs = self.jobs.values().map(|job| self.seen(job)).collect();
        let lists: [(Kind, Vec<Seen>); 5] = [
            (Kind::Levels, vec![]),
            (Kind::Node, nodes),
            (Kind::Report, reports),
            (Kind::Pod, pods),
            (Kind::Job, jobs),
        ];
        for (kind, list) in lists {
            self.controller.apply(Change { kind, event: Event::Init });
            for seen in list {
                self.controller.apply(Change { kind, event: Event::InitApply(seen) });
            }
            self.controller.apply(Change { kind, event: Event::InitDone });
        }
    }

    pub fn add_node(&mut self, name: &str, rack: &str, gpus: u32) {
        let node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.weft.dev/rack": rack}},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "allocatable": {"cpu": "64", "memory": "1Ti", "pods": "110", "nvidia.com/gpu": gpus.to_string()},
            },
        });
        self.set_node(serde_json::from_value(node).unwrap());
        let gpu = |index: u32| GpuReport {
            index,
            uuid: format!("GPU-{name}-{index}"),
            product: if gpus == 8 { "NVIDIA H100 80GB HBM3" } else { "NVIDIA A100 80GB PCIe" }.into(),
            memory_bytes: 80 << 30,
            numa: Some(index * 2 / gpus),
            ..GpuReport::default()
        };
        let wire = |a: u32, b: u32| match (gpus, a / 2 == b / 2) {
            (8, _) => "NVS18+NODE",
            (_, true) => "NV12+NODE",
            (_, false) => "SYS",
        };
        let pairs = (0..gpus).flat_map(|a| (a + 1..gpus).map(move |b| (a, b)));
        let links = pairs.map(|(a, b)| LinkReport { a, b, wire: wire(a, b).into() }).collect();
        let mut report = GpuNode::new(name, GpuNodeSpec {});
        report.status = Some(GpuNodeStatus { gpus: (0..gpus).map(gpu).collect(), links, ..GpuNodeStatus::default() });
        self.set_report(report);
    }

    /// The levels of `GpuTopology` `default`: name and node label.
    pub fn set_levels(&mut self, levels: &[(&str, &str)]) {
        let levels: Vec<Value> = levels.iter().map(|(name, label)| json!({"name": name, "nodeLabel": label})).collect();
        let topology = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "GpuTopology", "metadata": {"name": "default"}, "spec": {"levels": levels},
        });
        let seen = Seen::Levels(serde_json::from_value(topology).unwrap());
        self.controller.apply(Change { kind: Kind::Levels, event: Event::Apply(seen) });
    }

    pub fn change_node(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::to_value(&self.nodes[name]).unwrap();
        change(&mut value);
        self.set_node(serde_json::from_value(value).unwrap());
    }

    /// The node's kubelet answers from now on, or no more.
    pub fn set_ready(&mut self, name: &str, ready: bool) {
        let status = if ready { "True" } else { "Unknown" };
        if self.nodes[name].status.as_ref().unwrap().conditions.as_ref().unwrap()[0].status == status {
            return;
        }
        let now = self.now.to_string();
        self.change_node(name, |node| {
            node["status"]["conditions"] = json!([{"type": "Ready", "status": status, "lastTransitionTime": now}]);
        });
    }

    /// Whether a container of the pod runs.
    pub fn is_running(&self, pod: &str) -> bool {
        let pod = PodFacts::of(self.pods[&PodKey::new("default", pod)].clone());
        matches!(pod.life, PodLife::Running { .. })
    }

    pub fn remove_node(&mut self, name: &str) {
        let node = self.nodes.remove(name).unwrap();
        self.controller.apply(Change { kind: Kind::Node, event: Event::Delete(Seen::Node(NodeFacts::of(node))) });
    }

    fn set_node(&mut self, node: Node) {
        self.nodes.insert(node.name_any(), node.clone());
        self.controller.apply(Change { kind: Kind::Node, event: Event::Apply(Seen::Node(NodeFacts::of(node))) });
    }

    fn set_report(&mut self, report: GpuNode) {
        self.reports.insert(report.name_any(), report.clone());
        self.controller.apply(Change { kind: Kind::Report, event: Event::Apply(Seen::Report(report)) });
    }

    /// The agent of `node` reports that a GPU failed, or recovered.
    pub fn set_health(&mut self, node: &str, gpu: usize, reason: Option<&str>) {
        let mut report = self.reports[node].clone();
        let gpu = &mut report.status.as_mut().unwrap().gpus[gpu];
        gpu.health = if reason.is_some() { Health::Unhealthy } else { Health::Healthy };
        gpu.reason = reason.map(str::to_owned);
        self.set_report(report);
    }

    /// The agent of `node` is gone, and its report with it.
    pub fn remove_report(&mut self, node: &str) {
        let seen = self.reports.remove(node).map_or_else(|| Seen::Unreadable(node.to_owned()), Seen::Report);
        self.controller.apply(Change { kind: Kind::Report, event: Event::Delete(seen) });
    }

    /// The operator can read the report of `node` no more.
    pub fn set_unreadable_report(&mut self, node: &str) {
        self.reports.remove(node);
        let seen = Seen::Unreadable(node.to_owned());
        self.controller.apply(Change { kind: Kind::Report, event: Event::Apply(seen) });
    }

    pub fn submit(&mut self, name: &str, spec: Value) {
        self.next_uid += 1;
        let value = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "GpuJob", "spec": spec,
            "metadata": {
                "name": name, "namespace": "default", "uid": format!("job-{}", self.next_uid), "generation": 1,
                "creationTimestamp": Time(self.now + SignedDuration::from_millis(i64::from(self.next_uid))),
            },
        });
        self.set_job(serde_json::from_value(value).unwrap());
    }

    pub fn change_job(&mut self, name: &str, change: impl FnOnce(&mut GpuJob)) {
        let mut job = self.jobs[&key(name)].clone();
        change(&mut job);
        job.metadata.generation = job.metadata.generation.map(|generation| generation + 1);
        self.set_job(job);
    }

    pub fn delete_job(&mut self, name: &str) {
        let job = self.jobs.remove(&key(name)).unwrap();
        self.controller.apply(Change { kind: Kind::Job, event: Event::Delete(self.seen(&job)) });
        let uid = job.uid().unwrap();
        if self.keep_garbage {
            return;
        }
        let owned = |pod: &Pod| pod.owner_references().iter().any(|owner| owner.uid == uid);
        let pods: Vec<PodKey> = self.pods.iter().filter(|(_, pod)| owned(pod)).map(|(key, _)| key.clone()).collect();
        pods.iter().for_each(|pod| self.remove_pod(pod));
    }

    /// The job is deleted, and the operator does not see it.
    pub fn delete_job_unseen(&mut self, name: &str) {
        self.jobs.remove(&key(name)).unwrap();
    }

    fn set_job(&mut self, mut job: GpuJob) {
        self.next_uid += 1;
        job.metadata.resource_version = Some(self.next_uid.to_string());
        self.jobs.insert(key(&job.name_any()), job.clone());
        self.controller.apply(Change { kind: Kind::Job, event: Event::Apply(self.seen(&job)) });
    }

    /// From now on the operator can read a job no more, or again.
    pub fn set_unreadable(&mut self, name: &str, error: Option<&str>) {
        self.unreadable.remove(&key(name));
        if let Some(error) = error {
            self.unreadable.insert(key(name), error.to_owned());
        }
        if let Some(job) = self.jobs.get(&key(name)) {
            self.set_job(job.clone());
        }
    }

    fn seen(&self, job: &GpuJob) -> Seen {
        let key = key(&job.name_any());
        let read = match self.unreadable.get(&key) {
            None => Ok(Arc::new(job.clone())),
            Some(error) => Err(Unreadable {
                error: error.clone(),
                resource_version: job.resource_version(),
                has_status: job.status.is_some(),
                conditions: job.status.clone().unwrap_or_default().conditions,
            }),
        };
        Seen::Job(key, JobEntry { uid: job.uid().unwrap(), generation: job.metadata.generation, job: read })
    }

    fn set_pod(&mut self, pod: Pod) {
        let facts = PodFacts::of(pod.clone());
        self.pods.insert(facts.key.clone(), pod);
        self.tell(Event::Apply(Seen::Pod(Box::new(facts))));
    }

    fn tell(&mut self, event: Event<Seen>) {
        let change = Change { kind: Kind::Pod, event };
        match &mut self.lagging {
            Some(later) => later.push(change),
            None => self.controller.apply(change),
        }
    }

    /// From now on the operator sees nothing of pods.
    pub fn lag(&mut self) {
        self.lagging.get_or_insert_default();
    }

    /// The operator sees what it missed.
    pub fn catch_up(&mut self) {
        self.lagging.take().into_iter().flatten().for_each(|change| self.controller.apply(change));
    }

    /// The operator sees a pod as it is, and goes on to lag with the others.
    pub fn show(&mut self, pod: &str) {
        let facts = PodFacts::of(self.pods[&PodKey::new("default", pod)].clone());
        self.controller.apply(Change { kind: Kind::Pod, event: Event::Apply(Seen::Pod(Box::new(facts))) });
    }

    /// The operator sees the next changes of pods, and goes on to lag.
    pub fn catch_up_with(&mut self, changes: usize) {
        let Some(later) = &mut self.lagging else { return };
        for change in later.drain(..changes.min(later.len())) {
            self.controller.apply(change);
        }
    }

    pub fn remove_pod(&mut self, pod: &PodKey) {
        let Some(pod) = self.pods.remove(pod) else { return };
        self.release(&pod);
        self.tell(Event::Delete(Seen::Pod(Box::new(PodFacts::of(pod)))));
    }

    pub fn change_pod(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::to_value(&self.pods[&PodKey::new("default", name)]).unwrap();
        change(&mut value);
        self.set_pod(serde_json::from_value(value).unwrap());
    }

    /// Somebody deletes a pod, with so much grace.
    pub fn delete_pod(&mut self, name: &str, grace_seconds: i64) {
        let due = self.now + SignedDuration::from_secs(grace_seconds);
        self.change_pod(name, |pod| pod["metadata"]["deletionTimestamp"] = json!(due.to_string()));
    }

    /// A pod that Weft did not make.
    pub fn foreign_pod(&mut self, name: &str, node: &str, gpus: u32) {
        let limits = json!({"limits": {"nvidia.com/gpu": gpus.to_string()}});
        let pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "resources": limits}]}, "status": {"phase": "Running"},
        });
        self.set_pod(serde_json::from_value(pod).unwrap());
    }

    /// Ends a worker's container with this code and last message.
    pub fn end(&mut self, pod: &str, code: i32, message: &str) {
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        self.change_pod(pod, |pod| {
            let ended = json!({"terminated": {"exitCode": code, "reason": "Error", "message": message}});
            let container = json!({"name": pod["spec"]["containers"][0]["name"], "state": ended, "ready": false, "restartCount": 0, "image": "", "imageID": ""});
            pod["status"] = json!({"phase": phase, "containerStatuses": [container]});
        });
        let pod = self.pods[&PodKey::new("default", pod)].clone();
        self.release(&pod);
    }

    /// The status of a job.
    pub fn status(&self, name: &str) -> weft_api::GpuJobStatus {
        self.jobs[&key(name)].status.clone().unwrap_or_default()
    }

    /// Nodes of a job's workers by rank.
    pub fn nodes_of(&self, name: &str) -> Vec<String> {
        self.status(name).workers.iter().map(|worker| worker.node.clone().unwrap_or_default()).collect()
    }
}

/// A job of `replicas` workers with `gpus` each, with more fields of the specification in `more`.
pub fn gang(replicas: u32, gpus: u32, more: Value) -> Value {
    let template = json!({"spec": {"containers": [{"name": "app", "image": "i"}]}});
    let mut spec = json!({"groups": [{"name": "w", "replicas": replicas, "gpus": gpus, "template": template}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}
