//! `GpuNode`: what one node's agent found, written only by that agent and only when a fact changed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_topology as topology;
use weft_topology::{Gpu, Link, Node, NodeError, NodeFacts, NotAWire};

/// Types of the conditions of a `GpuNode`.
pub mod condition {
    /// The agent reads the driver, and the node's GPUs can be asked for.
    pub const READY: &str = "Ready";
}

/// Nobody asks anything of a GpuNode: it reports. The object has the name of its node.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "GpuNode",
    plural = "gpunodes",
    shortname = "gn",
    category = "weft",
    status = "GpuNodeStatus",
    doc = "The GPUs of one node, their wires, health and holders, as the node's agent reports them.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Product", type_ = "string", json_path = ".status.gpus[0].product"),
    printcolumn(name = "GPUs", type_ = "string", json_path = ".status.summary", description = "healthy GPUs of all"),
    printcolumn(name = "Driver", type_ = "string", json_path = ".status.driverVersion"),
    printcolumn(name = "CUDA", type_ = "string", json_path = ".status.cudaVersion", priority = 1),
    printcolumn(name = "Domain", type_ = "string", json_path = ".status.nvlinkDomain", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GpuNodeSpec {}

/// What the agent found.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GpuNodeStatus {
    /// Healthy GPUs of all, as `7/8`.
    #[serde(default)]
    pub summary: String,
    /// One sentence when something is wrong: which GPU, what, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Version of the driver, such as `580.95.05`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_version: Option<String>,
    /// Newest CUDA version that the driver serves, such as `13.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda_version: Option<String>,
    /// NVLink domain that the node belongs to, where it spans nodes: cluster UUID and clique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvlink_domain: Option<String>,
    /// The kernel's name of the boot in which this was found: after a reboot, an agent does not take over faults of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// GPUs by index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuReport>,
    /// Wires between pairs of GPUs: one entry for each pair, the smaller index first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkReport>,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// One GPU.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GpuReport {
    /// NVML's index.
    pub index: u32,
    /// Such as `GPU-5f2c…`: the device id that the kubelet knows.
    pub uuid: String,
    /// Product name, such as `NVIDIA H100 80GB HBM3`.
    pub product: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// PCI address, such as `00000000:19:00.0`.
    #[serde(default)]
    pub pci_bus_id: String,
    /// NUMA node, where the machine has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa: Option<u32>,
    /// MIG profile such as `1g.10gb`; none for a whole GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig_profile: Option<String>,
    /// Whether pods may get it.
    #[serde(default)]
    pub health: Health,
    /// Why it is unhealthy: one sentence with the next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same in one word, such as `Xid79` or `GpuLost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Since when its health is what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// The container that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
}

/// Whether pods may get a GPU.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Yes.
    #[default]
    Healthy,
    /// No, and what runs on it is lost.
    Unhealthy,
}

/// The container that holds a GPU.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    pub namespace: String,
    pub pod: String,
    pub container: String,
}

/// The wire between two GPUs of the node.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LinkReport {
    /// Place of one GPU in `gpus`, from 0.
    pub a: u32,
    /// Place of the other.
    pub b: u32,
    /// What joins them, by the letters of `nvidia-smi topo -m`: a path (`SYS`, `NODE`, `PHB`, `PXB`, `PIX`, `PSB`), with
    /// NVLinks before it as `NV4+SYS` (from GPU to GPU) or `NVS18+NODE` (through NVSwitches).
    pub wire: String,
}

/// A report that the model cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum BadReport {
    /// A wire's text is none.
    #[error("GpuNode {node}, status.links: {error}")]
    Wire { node: String, error: NotAWire },
    /// The facts describe no machine.
    #[error("GpuNode {node}: {error}")]
    Node { node: String, error: NodeError },
}

impl GpuNode {
    /// The node as the model that all decisions are made on. A GpuNode without status is a node without GPUs.
    ///
    /// # Errors
    /// [`BadReport`] names the node and what is wrong in the report.
    pub fn model(&self) -> Result<Node, BadReport> {
        let node = self.metadata.name.clone().unwrap_or_default();
        let empty = GpuNodeStatus::default();
        let status = self.status.as_ref().unwrap_or(&empty);
        let link = |link: &LinkReport| match link.wire.parse() {
            Ok(wire) => Ok(Link { from: link.a, to: link.b, wire }),
            Err(error) => Err(BadReport::Wire { node: node.clone(), error }),
        };
        let facts = NodeFacts {
            name: node.clone(),
            gpus: status.gpus.iter().map(GpuReport::model).collect(),
            links: status.links.iter().map(link).collect::<Result<_, _>>()?,
            nvlink_domain: status.nvlink_domain.as_deref().map(Into::into),
            assumptions: Vec::new(),
        };
        Node::new(facts).map_err(|error| BadReport::Node { node, error })
    }
}

impl GpuNodeStatus {
    /// What the model knows of a machine, as a report. Versions, holders, times and conditions are the agent's to add.
    pub fn of(node: &Node) -> Self {
        let n = node.gpus().len();
        let pairs = (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b)));
        let wiring = node.wiring();
        let links =
            pairs.map(|(a, b)| LinkReport { a: a as u32, b: b as u32, wire: wiring.wire(a, b).to_string() }).collect();
        let healthy = node.gpus().iter().filter(|gpu| gpu.health.is_healthy()).count();
        Self {
            summary: format!("{healthy}/{n}"),
            nvlink_domain: NodeFacts::from(node.clone()).nvlink_domain.as_deref().map(Into::into),
            gpus: node.gpus().iter().map(GpuReport::of).collect(),
            links,
            ..Self::default()
        }
    }
}

impl GpuReport {
    /// What the model says of a GPU; not how long that has been so, nor who holds it.
    pub fn of(gpu: &Gpu) -> Self {
        let (health, reason) = match &gpu.health {
            topology::Health::Healthy => (Health::Healthy, None),
            topology::Health::Unhealthy { reason } => (Health::Unhealthy, Some(reason.to_string())),
        };
        Self {
            index: gpu.index,
            uuid: gpu.uuid.to_string(),
            product: gpu.product.to_string(),
            memory_bytes: gpu.memory_bytes,
            pci_bus_id: gpu.pci_bus_id.to_string(),
            numa: gpu.numa,
            mig_profile: gpu.mig_profile.as_deref().map(Into::into),
            health,
            reason,
            fault: None,
            since: None,
            holder: None,
        }
    }

    fn model(&self) -> Gpu {
        Gpu {
            uuid: self.uuid.as_str().into(),
            index: self.index,
            product: self.product.as_str().into(),
            memory_bytes: self.memory_bytes,
            pci_bus_id: self.pci_bus_id.as_str().into(),
            numa: self.numa,
            health: match self.health {
                Health::Healthy => topology::Health::Healthy,
                Health::Unhealthy => topology::Health::unhealthy(self.reason.as_deref().unwrap_or("unhealthy")),
            },
            mig_profile: self.mig_profile.as_deref().map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_survives_its_report() {
        let gpu = |index: u32| Gpu {
            uuid: format!("GPU-{index}").into(),
            index,
            product: "NVIDIA A100 80GB PCIe".into(),
            memory_bytes: 80 << 30,
            pci_bus_id: format!("00000000:{index:02X}:00.0").into(),
            numa: Some(index / 2),
            health: if index == 1 {
                topology::Health::unhealthy("fell off the bus (XID 79)")
            } else {
                Default::default()
            },
            mig_profile: None,
        };
        let wire = |text: &str| text.parse().unwrap();
        let links = vec![
            Link { from: 0, to: 1, wire: wire("NV12+NODE") },
            Link { from: 0, to: 2, wire: wire("SYS") },
            Link { from: 1, to: 2, wire: wire("SYS") },
        ];
        let facts = NodeFacts { name: "node-3".into(), gpus: (0..3).map(gpu).collect(), links, ..Default::default() };
        let node = Node::new(facts).unwrap();
        let mut report = GpuNode::new("node-3", GpuNodeSpec {});
        report.status = Some(GpuNodeStatus::of(&node));
        assert_eq!(report.status.as_ref().unwrap().summary, "2/3");
        assert_eq!(report.model().unwrap(), node);
    }

    #[test]
    fn a_wrong_wire_is_named_with_its_node() {
        let mut report = GpuNode::new("node-3", GpuNodeSpec {});
        let links = vec![LinkReport { a: 0, b: 1, wire: "XX".into() }];
        report.status = Some(GpuNodeStatus { links, ..Default::default() });
        let message = report.model().unwrap_err().to_string();
        assert!(message.contains("node-3") && message.contains("\"XX\""), "{message}");
    }
}
