//! A small world for tests: nodes n1 and n2 in rack a, n3 in rack b, two H100 each.

use k8s_openapi::api::core::v1::{Node, Pod};
use weft_api::GpuTopologySpec;
use weft_operator::facts::{NodeFacts, PodFacts};

use super::World;

/// With `taken`, a pod holds a GPU of n2.
pub fn world(taken: bool) -> World {
    let node = |name: &str, rack: &str| {
        format!(
            r#"
- metadata: {{name: {name}, labels: {{kubernetes.io/hostname: {name}, topology.weft.dev/rack: {rack}}}}}
  status:
    allocatable: {{nvidia.com/gpu: "2", pods: "10"}}
    conditions: [{{type: Ready, status: "True"}}]
"#
        )
    };
    let report = |name: &str| {
        format!(
            r#"
- metadata: {{name: {name}}}
  spec: {{}}
  status:
    gpus:
      - {{index: 0, uuid: {name}-0, product: NVIDIA H100, memoryBytes: 1}}
      - {{index: 1, uuid: {name}-1, product: NVIDIA H100, memoryBytes: 1}}
    links: [{{a: 0, b: 1, wire: NVS18+SYS}}]
"#
        )
    };
    let pod = r#"
- metadata: {name: other, namespace: default}
  spec:
    nodeName: n2
    containers: [{name: c, resources: {limits: {nvidia.com/gpu: "1"}}}]
  status: {phase: Running}
"#;
    let nodes = [node("n1", "a"), node("n2", "a"), node("n3", "b")].concat();
    let nodes: Vec<Node> = serde_yaml_ng::from_str(&nodes).unwrap();
    let pods: Vec<Pod> = serde_yaml_ng::from_str(if taken { pod } else { "[]" }).unwrap();
    World {
        nodes: nodes.into_iter().map(NodeFacts::of).collect(),
        gpu_nodes: serde_yaml_ng::from_str(&["n1", "n2", "n3"].map(report).concat()).unwrap(),
        pods: pods.into_iter().map(PodFacts::of).collect(),
        levels: GpuTopologySpec::fallback(),
    }
}
