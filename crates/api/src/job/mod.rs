//! `GpuJob`: groups of identical workers that start together.

mod status;

pub use status::{GpuJobStatus, GroupStatus, Phase, Reason, WorkerPhase, WorkerStatus, condition};

use crate::names;
use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use weft_program::Program;

/// What a person asks for.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "GpuJob",
    plural = "gpujobs",
    shortname = "gj",
    category = "weft",
    namespaced,
    status = "GpuJobStatus",
    doc = "A job of one or more groups of identical workers that start together on the best-wired GPUs, or wait and say why.",
    derive = "PartialEq",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.readySummary", description = "ready or succeeded workers of all"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".status.gpus", description = "GPUs that all workers together ask for"),
    printcolumn(name = "Placement", type_ = "string", json_path = ".status.placement"),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restarts", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name: must start with a letter and hold only lower-case letters, digits and '-', since the job's service is named after it"),
    validation = Rule::new("!has(self.spec.groups) || self.spec.groups.all(g, size(self.metadata.name) + size(g.name) + size(string(g.replicas - 1)) + 2 <= 63)")
        .message("metadata.name: too long; a worker's host name <job>-<group>-<index> has at most 63 characters"),
    // Of a gang that runs, some workers would be of the old kind and some of the new.
    validation = Rule::new(unless_it_may_run("self.spec.groups == oldSelf.spec.groups"))
        .message("spec.groups: cannot be changed while the job may run; set spec.suspend to true with the change, and to false after it")
        .field_path(".spec.groups"),
    validation = Rule::new(unless_it_may_run("(has(self.spec.runtime) == has(oldSelf.spec.runtime) && (!has(self.spec.runtime) || self.spec.runtime == oldSelf.spec.runtime))"))
        .message("spec.runtime: cannot be changed while the job may run; set spec.suspend to true with the change, and to false after it")
        .field_path(".spec.runtime")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.program) || self.groups.all(g, !has(g.template))")
        .message("spec.groups[].template: leave it out when spec.program is given; the runtime image runs the program"),
    validation = Rule::new("has(self.program) || self.groups.all(g, has(g.template))")
        .message("spec.groups[].template: required, unless spec.program says what to run"),
    validation = Rule::new("!has(self.program) || self.groups.all(g, g.gpus >= 1)")
        .message("spec.groups[].gpus: a program needs at least 1 GPU"),
    // Its ConfigMap is made once.
    validation = Rule::new("has(self.program) == has(oldSelf.program) && (!has(self.program) || self.program == oldSelf.program)")
        .message("spec.program: cannot be changed; delete the job and create it anew")
)]
pub struct GpuJobSpec {
    /// Groups of identical workers. All workers of all groups start together, or none does.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("self.all(g, self.exists_one(h, h.name == g.name))")
        .message("spec.groups: group names must be unique"))]
    pub groups: Vec<Group>,
    /// How near to each other the workers must or should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<TopologyRequest>,
    /// The runtime sidecar, which owns the worker's GPUs and serves them to the other containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeRequest>,
    /// Kernels and library calls that the runtime image itself runs: no container image of one's own is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Program>,
    /// What happens when a worker fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_policy: Option<FailurePolicy>,
    /// Stops the job, and keeps it so: its workers are deleted and hold nothing. Set back to false, the job starts again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// Seconds that the job may be active, counted from its first start; then it fails with reason DeadlineExceeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub active_deadline_seconds: Option<i64>,
    /// Seconds after the job's end at which it is deleted together with its pods. Without it, it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: Option<i64>,
    /// Priority class of the workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// A rule that holds for jobs which may run: neither suspended, nor ended because they were refused. Such jobs have no workers,
/// and the operator looks again at a refused one when it changes.
fn unless_it_may_run(rule: &str) -> String {
    let suspended = "(has(self.spec.suspend) && self.spec.suspend)";
    let refused = "(has(oldSelf.status) && has(oldSelf.status.conditions) && oldSelf.status.conditions.exists(c, c.type == 'Failed' && c.status == 'True' && c.reason in ['Invalid', 'InvalidTemplate']))";
    format!("{suspended} || {refused} || {rule}")
}

/// Identical workers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.minReplicas) || self.minReplicas <= self.replicas")
    .message("spec.groups[].minReplicas: must not exceed replicas"),
    validation = Rule::new("!has(self.slices) || self.slices.all(s, self.replicas % s.size == 0)")
        .message("spec.groups[].slices[].size: must divide replicas"),
    validation = Rule::new("!has(self.slices) || self.slices.size() == 0 || !has(self.minReplicas)")
        .message("spec.groups[].minReplicas: cannot be combined with slices, which need all workers"))]
pub struct Group {
    /// Name of the group: part of the pods' names.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Number of workers.
    #[schemars(range(min = 1, max = 10000))]
    pub replicas: u32,
    /// The smallest number of workers with which the group may start when not all fit. Without it: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub min_replicas: Option<u32>,
    /// GPUs of each worker.
    #[serde(default)]
    #[schemars(range(min = 0, max = 64))]
    pub gpus: u32,
    /// Only GPUs whose product name contains this, ignoring case, such as `H100`. Without it: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub product: Option<String>,
    /// Runs of consecutive workers that share a domain, widest level first: with `{level: rack, size: 4}` workers 0-3
    /// stand in one rack, 4-7 in one rack, and so on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub slices: Vec<Slice>,
    /// Pod template of the workers. GPUs are not named in it: `gpus` says how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<PodTemplate>,
}

/// A run of consecutive workers that share a domain.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Slice {
    /// Level of the shared domain.
    #[schemars(length(min = 1, max = 63))]
    pub level: String,
    /// Number of workers in a run; it divides `replicas`.
    #[schemars(range(min = 1, max = 10000))]
    pub size: u32,
}

/// A pod template: labels and annotations to keep, and the pod's specification.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels and annotations that the pods get besides Weft's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<PodTemplateMetadata>,
    /// The pod's specification, as in every Kubernetes workload. The API server's own rules are asked before the job starts;
    /// what it refuses is in the job's message, with the field's name.
    #[schemars(schema_with = "pod_spec_schema")]
    pub spec: Map<String, Value>,
}

/// Labels and annotations of a pod template.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplateMetadata {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A pod specification is not spelled out in the definition (it would be half a megabyte, and of one Kubernetes version): its
/// containers must be there, everything else is checked by a dry run of the pod.
fn pod_spec_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "required": ["containers"],
        "properties": {
            "containers": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": true,
                    "required": ["name"],
                    "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 63}}
                }
            }
        }
    })
}

/// Where the workers may stand, by the levels of the `GpuTopology` named `default` (and `host`, the node).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.required) || has(self.preferred)")
    .message("spec.topology: give required or preferred"))]
pub struct TopologyRequest {
    /// All workers stand in one domain of this level, or the job waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub required: Option<String>,
    /// All workers stand in one domain of this level if there is room, else in the next wider one that has room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub preferred: Option<String>,
}

/// The runtime sidecar.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeRequest {
    /// Whether workers get the sidecar. It then holds the GPUs, and the other containers none.
    #[serde(default)]
    pub enabled: bool,
    /// Image of the sidecar, instead of the operator's `--runtime-image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// Seconds that one request of an application may keep a GPU of the sidecar (600; 0: for ever). CUDA cannot stop a kernel:
    /// the request fails, and the sidecar is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 604_800))]
    pub operation_timeout_seconds: Option<u32>,
    /// CPU and memory of the sidecar, or of the container that runs a program. GPUs are added to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// What happens when a worker fails by itself (its process ends with an error). GPUs, nodes and pods that are lost under a
/// worker are replaced without counting.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FailurePolicy {
    /// Who is started again: only the workers that failed, or the whole gang (the default).
    #[serde(default)]
    pub replace: Replace,
    /// How often workers that fail by themselves are started again before the job fails (0).
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub max_restarts: u32,
    /// What becomes of workers on a node from which nothing is heard any more: it may be off, or only cut off and at work.
    #[serde(default)]
    pub on_unreachable_node: Unreachable,
    /// Seconds before the first such restart; doubled for each further one, at most 300 (1).
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 300))]
    pub backoff_seconds: u32,
}

fn one() -> u32 {
    1
}

/// Who is started again after a failure.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replace {
    /// Only the failed workers: for programs whose other workers can wait or go on.
    FailedWorkers,
    /// All workers, as one: for programs that cannot go on without each other.
    #[default]
    WholeGang,
}

/// What becomes of workers on a node from which nothing is heard any more.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unreachable {
    /// They are started elsewhere after the operator's grace, as those of a Kubernetes Job. If the node was only cut off, the
    /// old worker runs beside its replacement until the node is heard again.
    #[default]
    Replace,
    /// They stay until the node is heard again, its Node object is deleted or it is tainted
    /// `node.kubernetes.io/out-of-service`, as those of a StatefulSet: no rank ever runs twice.
    Wait,
}

impl GpuJobSpec {
    /// Workers of all groups together.
    pub fn workers(&self) -> u32 {
        self.groups.iter().map(|group| group.replicas).sum()
    }

    /// GPUs that all workers together ask for.
    pub fn gpus(&self) -> u32 {
        self.groups.iter().map(|group| group.replicas.saturating_mul(group.gpus)).sum()
    }

    /// Whether the workers carry the runtime as a sidecar (a program's workers *are* the runtime).
    pub fn has_sidecar(&self) -> bool {
        self.program.is_none() && self.runtime.as_ref().is_some_and(|runtime| runtime.enabled)
    }

    /// The failure policy, or the default one.
    pub fn failure_policy(&self) -> FailurePolicy {
        self.failure_policy.clone().unwrap_or(FailurePolicy { backoff_seconds: one(), ..FailurePolicy::default() })
    }
}

impl GpuJob {
    /// Pod name of one worker.
    pub fn pod_name(&self, group: &str, index: u32) -> String {
        names::pod_name(self.metadata.name.as_deref().unwrap_or_default(), group, index)
    }
}
