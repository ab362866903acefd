//! A small world for tests: nodes n1 and n2 in rack a, n3 in rack b, two H100 each.

use weft_api::GpuTopologySpec;

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
    World {
        nodes: serde_yaml_ng::from_str(&[node("n1", "a"), node("n2", "a"), node("n3", "b")].concat()).unwrap(),
        gpu_nodes: serde_yaml_ng::from_str(&["n1", "n2", "n3"].map(report).concat()).unwrap(),
        pods: serde_yaml_ng::from_str(if taken { pod } else { "[]" }).unwrap(),
        levels: GpuTopologySpec::fallback(),
    }
}
