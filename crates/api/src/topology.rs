//! `GpuTopology`: the levels outside the node, as node-label keys.

use crate::names;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// The cluster's levels from the widest to the narrowest, each a node label. Only the object named `default` is used.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "GpuTopology",
    plural = "gputopologies",
    shortname = "gt",
    category = "weft",
    doc = "The levels of the cluster outside the node (zone, rack, NVLink domain), as node-label keys.",
    derive = "PartialEq",
    printcolumn(name = "Levels", type_ = "string", json_path = ".spec.levels[*].name"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name == 'default'")
        .message("metadata.name: only the GpuTopology named \"default\" is used")
)]
#[serde(rename_all = "camelCase")]
pub struct GpuTopologySpec {
    /// Levels from the widest to the narrowest. The level `host` (the node) follows by itself and is not listed.
    #[schemars(length(max = 16))]
    #[x_kube(
        validation = Rule::new("self.all(l, self.exists_one(m, m.name == l.name))")
            .message("spec.levels: level names must be unique"),
        validation = Rule::new("self.all(l, self.exists_one(m, m.nodeLabel == l.nodeLabel))")
            .message("spec.levels: node labels must be unique")
    )]
    pub levels: Vec<TopologyLevel>,
}

/// One level of the cluster.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TopologyLevel {
    /// Name by which jobs ask for the level, such as `rack`.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    #[x_kube(validation = Rule::new("self != 'host'").message("levels[].name: \"host\" is always the last level and is not listed"))]
    pub name: String,
    /// Node label whose value is the domain of a node at this level, such as `topology.weft.dev/rack`.
    #[schemars(length(min = 1, max = 316))]
    pub node_label: String,
}

impl GpuTopologySpec {
    /// The levels used while no `GpuTopology` named `default` exists: zone and rack.
    pub fn fallback() -> Self {
        let level = |name: &str, node_label: &str| TopologyLevel { name: name.into(), node_label: node_label.into() };
        Self { levels: vec![level("zone", "topology.kubernetes.io/zone"), level("rack", "topology.weft.dev/rack")] }
    }

    /// Names of all levels from the widest to the narrowest, `host` last.
    pub fn level_names(&self) -> Vec<&str> {
        self.levels.iter().map(|level| level.name.as_str()).chain([names::LEVEL_HOST]).collect()
    }
}
