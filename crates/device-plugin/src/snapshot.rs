//! What the agent knows of its machine at one moment. Everything that leaves the agent is derived from this value.

use std::collections::BTreeMap;
use std::time::SystemTime;

use weft_nvml::{Board, DriverInfo, Fault, State};
use weft_topology::{GpuUuid, Health, Node, NodeError, NodeFacts};

/// The machine and its health.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// GPUs, wires and health.
    pub node: Node,
    /// The driver; none while there is no usable one.
    pub driver: Option<DriverInfo>,
    /// Facts for device nodes and people, by GPU.
    pub boards: BTreeMap<GpuUuid, Board>,
    /// Health with its time, by GPU.
    pub standing: BTreeMap<GpuUuid, Standing>,
    /// GPUs that the driver counts, that were never read, and so have no identity: a sentence for each.
    pub unreadable: Vec<String>,
    /// What is wrong with the machine as a whole.
    pub problem: Option<Problem>,
}

/// Whether a GPU may be used, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What is wrong; nothing if healthy.
    pub fault: Option<Fault>,
    /// Since when.
    pub since: SystemTime,
}

impl Standing {
    /// As the health state machine has it; `healthy_since` is the time of the last recovery or first sight.
    pub fn new(state: State, healthy_since: SystemTime) -> Self {
        match state {
            State::Healthy => Standing { fault: None, since: healthy_since },
            State::Unhealthy { fault, since } => Standing { fault: Some(fault), since },
        }
    }
}

/// Why a machine offers no GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// In one word, for the condition.
    pub reason: &'static str,
    /// In one sentence, with the next step.
    pub message: String,
}

impl Snapshot {
    /// A node of which only the name is known.
    pub fn empty(node_name: &str, problem: Option<Problem>) -> Result<Self, NodeError> {
        let facts = NodeFacts { name: node_name.to_owned(), ..NodeFacts::default() };
        Ok(Snapshot {
            node: Node::new(facts)?,
            driver: None,
            boards: BTreeMap::new(),
            standing: BTreeMap::new(),
            unreadable: Vec::new(),
            problem,
        })
    }

    /// Whether there is anything to advertise.
    pub fn has_gpus(&self) -> bool {
        !self.node.gpus().is_empty()
    }

    /// The GPUs that are not healthy, each in a sentence.
    pub fn complaints(&self) -> Vec<String> {
        let unhealthy = self.node.gpus().iter().filter_map(|gpu| match &gpu.health {
            Health::Healthy => None,
            Health::Unhealthy { reason } => Some(format!("GPU {} ({}) {reason}", gpu.index, gpu.uuid)),
        });
        unhealthy.chain(self.unreadable.iter().cloned()).collect()
    }

    /// The same machine with a driver that does not work: no GPU of it can be used.
    pub fn without_driver(mut self, problem: Problem, now: SystemTime) -> Self {
        for gpu in self.node.gpus().to_vec() {
            let reason = Health::unhealthy("cannot be used: the node's driver does not work");
            if gpu.health.is_healthy()
                && let Ok(node) = self.node.clone().with_health(gpu.uuid.as_str(), reason)
            {
                self.node = node;
                self.standing.insert(gpu.uuid, Standing { fault: Some(Fault::Silent), since: now });
            }
        }
        self.problem = Some(problem);
        self
    }
}
