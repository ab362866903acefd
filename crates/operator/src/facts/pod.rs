//! A pod: whose worker it is, what it holds, and where it stands in its life.

use crate::quantity;
use crate::revision::Revision;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus};
use std::fmt;
use weft_api::names;
use weft_topology::{Owner, Resources};

/// Namespace and name of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    pub namespace: String,
    pub name: String,
}

impl PodKey {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The name under which the pod's GPUs are noted in the cluster model.
    pub fn owner(&self) -> Owner {
        self.to_string().into()
    }

    /// The name under which those of the pod are noted that is to come under this name, beside one that may be there.
    pub fn awaited_owner(&self) -> Owner {
        format!("{self} (awaited)").into()
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Which worker of which job a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerRef {
    pub job: String,
    /// Identity of the job that owns the pod: an earlier job of the same name is another job.
    pub job_uid: String,
    pub rank: u32,
    pub attempt: u32,
    /// What it was made of; none if an operator made it that did not say so yet.
    pub revision: Option<Revision>,
}

/// Where a pod stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodLife {
    /// Not all containers run yet.
    Waiting,
    Running {
        ready: bool,
    },
    Succeeded,
    Failed(Failure),
}

/// How a pod ended badly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// The kubelet's or controller's word, such as `UnexpectedAdmissionError` or `Evicted`.
    pub reason: Option<String>,
    pub message: Option<String>,
    /// Ended by the cluster (eviction, preemption, shutdown), not by itself.
    pub disrupted: bool,
    /// The container that ended badly first in the list.
    pub exit: Option<Exit>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    pub container: String,
    pub code: i32,
    /// Such as `Error` or `OOMKilled`.
    pub reason: Option<String>,
}

/// What matters of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    pub key: PodKey,
    pub uid: String,
    /// Set for a worker of a GpuJob.
    pub worker: Option<WorkerRef>,
    /// The node that it is bound to.
    pub node: Option<String>,
    /// The host name that it is to be bound to (a worker's node selector).
    pub planned_host: Option<String>,
    /// The GPUs planned for it.
    pub planned_gpus: Vec<String>,
    /// Number of GPUs that it asks for.
    pub gpus: u32,
    /// Everything it asks for, GPUs and itself (`pods`) too.
    pub requests: Resources,
    /// Scheduling gates that are left.
    pub gates: Vec<String>,
    pub life: PodLife,
    /// Whether any of its containers ever ran.
    pub started: bool,
    /// When its deletion is due (deletion time plus grace), once it was asked for.
    pub deletion_due: Option<Timestamp>,
    /// What the worker's container said at its end.
    pub termination: Option<String>,
    /// Why a container does not start, such as `ImagePullBackOff: …`.
    pub waiting: Option<String>,
    /// Since when the scheduler finds no room for it, and why.
    pub unschedulable: Option<(Timestamp, String)>,
}

impl PodFacts {
    /// Reads a pod. Of one that is no worker only what it holds and whether it has ended is kept: there may be 150,000 of them,
    /// and what their kubelets say of them changes all the time.
    pub fn of(pod: Pod) -> Self {
        let mut facts = Self::read(pod);
        if facts.worker.is_none() {
            facts.gates.clear();
            facts.termination = None;
            facts.waiting = None;
            facts.unschedulable = None;
            facts.deletion_due = None;
            facts.life = match facts.life {
                PodLife::Failed(_) => PodLife::Failed(Failure::default()),
                PodLife::Running { .. } => PodLife::Running { ready: false },
                other => other,
            };
        }
        facts
    }

    fn read(pod: Pod) -> Self {
        let metadata = pod.metadata;
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let labels = metadata.labels.unwrap_or_default();
        let owner = metadata.owner_references.unwrap_or_default().into_iter().find(|owner| {
            owner.controller == Some(true) && owner.kind == "GpuJob" && owner.api_version.starts_with("weft.dev/")
        });
        let number = |label: &str| labels.get(label).and_then(|text| text.parse().ok());
        let annotations = metadata.annotations.unwrap_or_default();
        let worker = owner.zip(number(names::LABEL_RANK)).map(|(owner, rank)| WorkerRef {
            job: owner.name,
            job_uid: owner.uid,
            rank,
            attempt: number(names::LABEL_ATTEMPT).unwrap_or(0),
            // One that this operator cannot read is another version's, and that worker is left alone, too.
            revision: annotations.get(names::ANNOTATION_REVISION).and_then(|text| text.parse().ok()),
        });
        let planned = annotations.get(names::ANNOTATION_GPUS).map(String::as_str).unwrap_or_default();
        let requests = requests_of(&spec);
        let containers = || status.container_statuses.iter().flatten();
        let started = containers().any(has_run)
            || status.init_container_statuses.iter().flatten().any(|init| init.started == Some(true));
        Self {
            key: PodKey { namespace: metadata.namespace.unwrap_or_default(), name: metadata.name.unwrap_or_default() },
            uid: metadata.uid.unwrap_or_default(),
            planned_host: worker
                .is_some()
                .then(|| spec.node_selector.as_ref()?.get(names::LABEL_HOSTNAME).cloned())
                .flatten(),
            worker,
            node: spec.node_name.filter(|node| !node.is_empty()),
            planned_gpus: planned.split(',').filter(|uuid| !uuid.is_empty()).map(str::to_owned).collect(),
            gpus: u32::try_from(requests.get(names::GPU_RESOURCE)).unwrap_or(u32::MAX),
            requests,
            gates: spec.scheduling_gates.unwrap_or_default().into_iter().map(|gate| gate.name).collect(),
            life: life_of(&status),
            started,
            deletion_due: metadata.deletion_timestamp.map(|time| time.0),
            termination: termination_of(&status),
            waiting: containers().chain(status.init_container_statuses.iter().flatten()).find_map(waiting_of),
            unschedulable: status.conditions.iter().flatten().find_map(|condition| {
                let refused = condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable");
                let since = condition.last_transition_time.as_ref()?.0;
                refused.then(|| (since, condition.message.clone().unwrap_or_default()))
            }),
        }
    }

    /// Whether the pod has ended: the kubelet has taken back what it held.
    pub fn is_over(&self) -> bool {
        matches!(self.life, PodLife::Succeeded | PodLife::Failed(_))
    }

    /// Whether it still carries Weft's gate.
    pub fn is_gated(&self) -> bool {
        self.gates.iter().any(|gate| gate == names::GATE_PLACEMENT)
    }
}

fn has_run(status: &ContainerStatus) -> bool {
    let state = status.state.as_ref();
    state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

fn life_of(status: &PodStatus) -> PodLife {
    let condition = |type_: &str| status.conditions.iter().flatten().any(|c| c.type_ == type_ && c.status == "True");
    match status.phase.as_deref() {
        Some("Running") => PodLife::Running { ready: condition("Ready") },
        Some("Succeeded") => PodLife::Succeeded,
        Some("Failed") => PodLife::Failed(Failure {
            reason: status.reason.clone().filter(|reason| !reason.is_empty()),
            message: status.message.clone().filter(|message| !message.is_empty()),
            disrupted: condition("DisruptionTarget"),
            exit: status
                .container_statuses
                .iter()
                .flatten()
                .chain(status.init_container_statuses.iter().flatten())
                .find_map(bad_exit),
        }),
        _ => PodLife::Waiting,
    }
}

fn bad_exit(status: &ContainerStatus) -> Option<Exit> {
    let ended = status.state.as_ref()?.terminated.as_ref()?;
    let exit = || Exit { container: status.name.clone(), code: ended.exit_code, reason: ended.reason.clone() };
    (ended.exit_code != 0).then(exit)
}

/// The message of the runtime's container if it ran a program, else of the first container that left one.
fn termination_of(status: &PodStatus) -> Option<String> {
    let ended = status.container_statuses.iter().flatten().filter_map(|container| {
        let message = container.state.as_ref()?.terminated.as_ref()?.message.clone()?;
        (!message.is_empty()).then_some((container.name != names::RUNTIME, message))
    });
    ended.min_by_key(|(other, _)| *other).map(|(_, message)| message)
}

/// Reasons that are part of every start are none.
fn waiting_of(status: &ContainerStatus) -> Option<String> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    if matches!(reason, "ContainerCreating" | "PodInitializing") {
        return None;
    }
    let message = waiting.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
    Some(format!("container {}: {reason}{message}", status.name))
}

/// What the scheduler counts for a pod: the larger of all long-running containers together and of each step of the start,
/// plus overhead, plus the pod itself (KEP-753 for sidecars).
pub fn requests_of(spec: &PodSpec) -> Resources {
    let mut sidecars = Resources::new();
    let mut steps = Resources::new();
    for init in spec.init_containers.iter().flatten() {
        let mut step = sidecars.clone();
        step.add(&container_requests(init));
        if init.restart_policy.as_deref() == Some("Always") {
            sidecars = step.clone();
        }
        steps = larger(&steps, &step);
    }
    let mut main = sidecars;
    for container in &spec.containers {
        main.add(&container_requests(container));
    }
    let mut total = larger(&steps, &main);
    total.add(&quantity::resources(spec.overhead.iter().flatten()));
    total.with("pods", 1)
}

/// Requests, with limits where only those are given (as the API server defaults them).
fn container_requests(container: &Container) -> Resources {
    let Some(resources) = &container.resources else { return Resources::new() };
    let limits = resources.limits.iter().flatten();
    quantity::resources(limits.chain(resources.requests.iter().flatten()))
}

fn larger(a: &Resources, b: &Resources) -> Resources {
    a.iter().chain(b.iter()).fold(Resources::new(), |all, (name, _)| all.with(name, a.get(name).max(b.get(name))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts(pod: serde_json::Value) -> PodFacts {
        PodFacts::of(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn sidecars_count_with_the_containers_and_init_steps_only_while_they_run() {
        let gpu = |n: &str| json!({"limits": {"nvidia.com/gpu": n}});
        let cpu = |n: &str| json!({"requests": {"cpu": n}});
        let spec = json!({
            "initContainers": [
                {"name": "weft-runtime", "restartPolicy": "Always", "resources": gpu("2")},
                {"name": "fetch", "resources": cpu("3")},
            ],
            "containers": [{"name": "a", "resources": cpu("1")}, {"name": "b", "resources": cpu("500m")}],
        });
        let requests = requests_of(&serde_json::from_value(spec).unwrap());
        assert_eq!((requests.get("cpu"), requests.get("nvidia.com/gpu"), requests.get("pods")), (3_000, 2, 1));
    }

    #[test]
    fn a_worker_is_known_by_its_owner_and_labels() {
        let owner = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "GpuJob", "name": "gang", "uid": "u1", "controller": true});
        let pod = facts(json!({
            "metadata": {
                "name": "gang-worker-1", "namespace": "default", "uid": "p1", "ownerReferences": [owner],
                "labels": {"weft.dev/rank": "1", "weft.dev/attempt": "2"}, "annotations": {"weft.dev/gpus": "GPU-a,GPU-b"},
            },
            "spec": {
                "containers": [{"name": "app", "resources": {"limits": {"nvidia.com/gpu": "2"}}}],
                "nodeSelector": {"kubernetes.io/hostname": "node-1"}, "schedulingGates": [{"name": "weft.dev/placement"}],
            },
        }));
        assert_eq!(
            pod.worker,
            Some(WorkerRef { job: "gang".into(), job_uid: "u1".into(), rank: 1, attempt: 2, revision: None })
        );
        assert_eq!((pod.planned_gpus.len(), pod.gpus, pod.planned_host.as_deref()), (2, 2, Some("node-1")));
        assert!(pod.is_gated() && !pod.started && pod.life == PodLife::Waiting);
    }

    #[test]
    fn of_a_pod_that_is_no_worker_only_what_it_holds_is_kept() {
        let pod = |ready: &str, why: &str| {
            let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": why}});
            facts(json!({
                "metadata": {"name": "p"},
                "spec": {"nodeName": "n", "containers": [{"name": "app", "resources": {"limits": {"nvidia.com/gpu": "2"}}}]},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}], "containerStatuses": [
                    {"name": "app", "state": waiting, "ready": false, "restartCount": 0, "image": "", "imageID": ""},
                ]},
            }))
        };
        let first = pod("True", "back-off 10s");
        assert_eq!((first.gpus, first.node.as_deref(), first.is_over()), (2, Some("n"), false));
        assert_eq!(first, pod("False", "back-off 20s"), "an event that changes nothing of it is dropped");
    }

    #[test]
    fn a_bad_end_is_told_with_container_code_and_last_words() {
        let ended =
            |code: i32, message: &str| json!({"terminated": {"exitCode": code, "reason": "Error", "message": message}});
        let status = |name: &str, state: serde_json::Value| json!({"name": name, "state": state, "ready": false, "restartCount": 0, "image": "", "imageID": ""});
        let owner = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "GpuJob", "name": "gang", "uid": "u1", "controller": true});
        let pod = facts(json!({
            "metadata": {"name": "p", "labels": {"weft.dev/rank": "0"}, "ownerReferences": [owner]}, "spec": {"containers": []},
            "status": {"phase": "Failed", "containerStatuses": [
                status("app", ended(0, "fine")), status("weft-runtime", ended(3, "{\"ok\":false}")),
            ]},
        }));
        let exit = Exit { container: "weft-runtime".into(), code: 3, reason: Some("Error".into()) };
        assert_eq!(pod.life, PodLife::Failed(Failure { exit: Some(exit), ..Failure::default() }));
        assert_eq!(pod.termination.as_deref(), Some("{\"ok\":false}"));
        assert!(pod.started);
    }
}
