//! One GPU, or one MIG device, as the node's agent saw it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::GpuUuid;

/// Whether work may be put on a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state", deny_unknown_fields, expecting = "an object with `state`")]
pub enum Health {
    /// Usable.
    #[default]
    Healthy,
    /// Not usable now; it may recover.
    Unhealthy {
        /// Why, for people: `fell off the bus (XID 79)`.
        reason: Arc<str>,
    },
}

impl Health {
    /// Unhealthy for `reason`.
    pub fn unhealthy(reason: impl Into<Arc<str>>) -> Self {
        Self::Unhealthy { reason: reason.into() }
    }

    /// Whether work may be put here.
    pub fn is_healthy(&self) -> bool {
        matches!(self, Self::Healthy)
    }
}

/// A GPU, or a MIG device (then `mig_profile` is set, and devices of one physical GPU share its `pci_bus_id`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gpu {
    /// Identity; also the device id towards kubelet.
    pub uuid: GpuUuid,
    /// NVML's index, the number that people see in `nvidia-smi`.
    pub index: u32,
    /// The product's name as NVML gives it: `NVIDIA H100 80GB HBM3`.
    pub product: Arc<str>,
    /// Total memory in bytes.
    pub memory_bytes: u64,
    /// PCI bus id as NVML writes it: `00000000:1A:00.0`.
    pub pci_bus_id: Arc<str>,
    /// NUMA node, where the machine says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa: Option<u32>,
    /// Whether work may be put here.
    #[serde(default)]
    pub health: Health,
    /// MIG profile such as `1g.10gb`; none for a whole GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig_profile: Option<Arc<str>>,
}
