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

mod nodes;
mod pods;

pub use nodes::gpu_fault;
pub use pods::planned_claim;

use crate::facts::{NodeFacts, PodFacts, PodKey};
use crate::guard::Unreadable;
use crate::outage::Outages;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use weft_api::{GpuJob, GpuNode, GpuTopologySpec, names};
use weft_topology::{Claim, Cluster, LevelLabel};

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

/// A pod that is decided on and not seen yet.
#[derive(Clone, Debug)]
struct Assumed {
    job: JobKey,
    /// Of that job: a pod of an earlier one of the name is another pod.
    job_uid: String,
    node: String,
    claim: Claim,
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
    nodes: HashMap<String, NodeFacts>,
    reports: HashMap<String, Arc<GpuNode>>,
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
    assumed: HashMap<PodKey, Assumed>,
    /// Assumed pods by the job's name.
    awaited: HashMap<JobKey, BTreeSet<PodKey>>,
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
            nodes: HashMap::new(),
            reports: HashMap::new(),
            unreadable_reports: BTreeSet::new(),
            hosts: HashMap::new(),
            pods: HashMap::new(),
            workers: HashMap::new(),
            by_node: HashMap::new(),
            held: HashMap::new(),
            assumed: HashMap::new(),
            awaited: HashMap::new(),
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

    /// A job.
    pub fn job(&self, key: &JobKey) -> Option<&JobEntry> {
        self.jobs.get(key)
    }

    /// All jobs.
    pub fn jobs(&self) -> impl Iterator<Item = (&JobKey, &JobEntry)> {
        self.jobs.iter()
    }

    /// A job as it is now; `Err` holds why it cannot be read.
    pub fn apply_job(&mut self, key: JobKey, entry: JobEntry) -> Touched {
        let uid = entry.uid.clone();
        if self.jobs.insert(key.clone(), entry).is_some_and(|earlier| earlier.uid != uid) {
            self.forget_workers(&key);
        }
        Touched::job(key)
    }

    /// A job is gone.
    pub fn delete_job(&mut self, key: &JobKey) -> Touched {
        if self.jobs.remove(key).is_none() {
            return Touched::NOTHING;
        }
        self.forget_workers(key);
        Touched { jobs: [key.clone()].into(), room: true }
    }

    /// Takes back what is assumed for a job that is gone, and for no other whose name begins as its does.
    fn forget_workers(&mut self, key: &JobKey) {
        for pod in self.awaited.get(key).cloned().unwrap_or_default() {
            self.forget(&pod);
        }
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
}

/// The key of a job's own pods in its namespace.
pub fn worker_key(job: &JobKey, group: &str, index: u32) -> PodKey {
    PodKey::new(&job.namespace, &names::pod_name(&job.name, group, index))
}
