//! What the operator reports about a job.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// Types of the conditions of a job.
pub mod condition {
    /// The job is well formed and its pod templates were accepted by the API server.
    pub const VALID: &str = "Valid";
    /// Every worker has a node and GPUs, and its pod is there.
    pub const PLACED: &str = "Placed";
    /// Every worker is ready.
    pub const READY: &str = "Ready";
    /// The job ended well.
    pub const SUCCEEDED: &str = "Succeeded";
    /// The job ended badly.
    pub const FAILED: &str = "Failed";
    /// The job is stopped by `spec.suspend`.
    pub const SUSPENDED: &str = "Suspended";
}

/// What the operator reports.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GpuJobStatus {
    /// Generation of the specification that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the job stands.
    #[serde(default)]
    pub phase: Phase,
    /// One sentence: what a person came to know.
    #[serde(default)]
    pub message: String,
    /// `Valid`, `Placed`, `Ready`, `Succeeded`, `Failed`, `Suspended`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Where the workers stand, in short: `rack rack-a: node-1, node-2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<String>,
    /// GPUs that all workers together ask for.
    #[serde(default)]
    pub gpus: u32,
    /// Ready or succeeded workers of all, as `1/2`.
    #[serde(default)]
    pub ready_summary: String,
    /// Workers that are ready.
    #[serde(default)]
    pub ready: u32,
    /// Workers that ended well.
    #[serde(default)]
    pub succeeded: u32,
    /// Workers that ended badly and are not yet replaced.
    #[serde(default)]
    pub failed: u32,
    /// Starts of workers after a failure of their own: counted against `failurePolicy.maxRestarts`.
    #[serde(default)]
    pub restarts: u32,
    /// Starts of workers after the loss of a GPU, a node or a pod: not counted against anything.
    #[serde(default)]
    pub replacements: u32,
    /// Groups with the number of workers that they started with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupStatus>,
    /// Workers by rank.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<WorkerStatus>,
    /// What was left out of this status because it would be too large, and where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<String>,
    /// When all workers' pods were there for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the job ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
}

/// One group.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// Name of the group.
    pub name: String,
    /// Workers that the group has now: between `minReplicas` and `replicas`.
    pub replicas: u32,
}

/// One worker.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkerStatus {
    /// Rank among all workers, from 0.
    pub rank: u32,
    /// Name of its group.
    pub group: String,
    /// Name of its pod.
    pub pod: String,
    /// Where it stands.
    #[serde(default)]
    pub phase: WorkerPhase,
    /// How often it was started before. A pod with a lower `weft.dev/attempt` is on its way out.
    #[serde(default)]
    pub attempt: u32,
    /// Starts in a row that ended before its containers ran, because the kubelet refused the pod.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: u32,
    /// Its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// UUIDs of the GPUs planned for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planned_gpus: Vec<String>,
    /// UUIDs of the GPUs that it really got, as its node reports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allocated_gpus: Vec<String>,
    /// When it may be started again after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// Why it waits, failed or was replaced last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What it reported at its end: for a program, steps, checks and saved arrays (`docs/contracts.md`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub result: Option<Map<String, Value>>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Where a job stands.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Waits for room, and holds nothing.
    #[default]
    Pending,
    /// Placed; not all workers run yet, or some are being replaced.
    Starting,
    /// All workers run or have ended well.
    Running,
    /// All workers ended well.
    Succeeded,
    /// Invalid, out of time, or failed once too often.
    Failed,
    /// Stopped by `spec.suspend`.
    Suspended,
}

impl Phase {
    /// Every phase, in the order of a job's life.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Starting, Self::Running, Self::Succeeded, Self::Failed, Self::Suspended];

    /// Whether the job has ended.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where a worker stands.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkerPhase {
    /// Has no pod.
    #[default]
    Pending,
    /// Its pod is made and its containers do not all run yet.
    Starting,
    /// Its containers run.
    Running,
    /// Its containers run and are ready.
    Ready,
    /// Its containers ended with 0.
    Succeeded,
    /// It failed, and is not replaced yet.
    Failed,
}

/// Why a condition is as it is: a closed set of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The job is well formed.
    Accepted,
    /// A field of the job is wrong; the message names it.
    Invalid,
    /// The operator is of another version and cannot read the job; the message names the field. Nothing is done about the job.
    Unreadable,
    /// The API server refuses the pods that the template describes; the message is its own.
    InvalidTemplate,
    /// `spec.topology` names a level that there is not.
    UnknownLevel,
    /// The gang does not fit; the message counts what excluded how many nodes.
    NoFit,
    /// All workers are placed.
    Placed,
    /// The API server refuses pods for now (quota, admission).
    PodsRefused,
    /// Workers are being started.
    Starting,
    /// All workers are ready.
    AllReady,
    /// Workers that failed are started again.
    Restarting,
    /// Workers that lost their GPU, node or pod are started elsewhere.
    Replacing,
    /// Most nodes are not ready: none is given up, and the workers on them are kept.
    NodesNotReady,
    /// All workers ended well.
    AllSucceeded,
    /// A worker failed once more than `failurePolicy.maxRestarts` allows.
    WorkerFailed,
    /// The kubelets refused the workers too often.
    RefusedByNodes,
    /// `spec.activeDeadlineSeconds` passed.
    DeadlineExceeded,
    /// `spec.suspend` is set.
    Suspended,
    /// `spec.suspend` is not set any more.
    Resumed,
    /// The job ended.
    Ended,
}

impl Reason {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Invalid => "Invalid",
            Self::Unreadable => "Unreadable",
            Self::InvalidTemplate => "InvalidTemplate",
            Self::UnknownLevel => "UnknownLevel",
            Self::NoFit => "NoFit",
            Self::Placed => "Placed",
            Self::PodsRefused => "PodsRefused",
            Self::Starting => "Starting",
            Self::AllReady => "AllReady",
            Self::Restarting => "Restarting",
            Self::Replacing => "Replacing",
            Self::NodesNotReady => "NodesNotReady",
            Self::AllSucceeded => "AllSucceeded",
            Self::WorkerFailed => "WorkerFailed",
            Self::RefusedByNodes => "RefusedByNodes",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::Suspended => "Suspended",
            Self::Resumed => "Resumed",
            Self::Ended => "Ended",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
