use super::*;
use k8s_openapi::api::core::v1::Node;
use weft_operator::facts::NodeFacts;

use crate::cluster::NodesView;
use weft_api::GpuTopologySpec;

fn noon() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn view(gpu_nodes: &str, nodes: &str) -> NodesView {
    NodesView {
        gpu_nodes: serde_yaml_ng::from_str(gpu_nodes).unwrap(),
        nodes: serde_yaml_ng::from_str::<Vec<Node>>(nodes).unwrap().into_iter().map(NodeFacts::of).collect(),
        topology: GpuTopologySpec::fallback(),
    }
}

const A100: &str = r#"
- metadata: {name: node-3}
  spec: {}
  status:
    driverVersion: 580.95.05
    gpus:
      - {index: 0, uuid: GPU-0, product: NVIDIA A100, memoryBytes: 1, numa: 0}
      - {index: 1, uuid: GPU-1, product: NVIDIA A100, memoryBytes: 1, numa: 0, holder: {namespace: default, pod: pair-a-main-0, container: app}}
      - {index: 2, uuid: GPU-2, product: NVIDIA A100, memoryBytes: 1, numa: 1, health: Unhealthy, reason: "XID 79: reset the node", since: "2026-11-22T11:48:00Z"}
    links:
      - {a: 0, b: 1, wire: NV12+NODE}
      - {a: 0, b: 2, wire: SYS}
      - {a: 1, b: 2, wire: SYS}
- metadata: {name: node-1}
  spec: {}
  status:
    gpus: [{index: 0, uuid: GPU-h, product: NVIDIA H100, memoryBytes: 1}]
"#;
const NODES: &str = r#"
- metadata: {name: node-1, labels: {topology.weft.dev/rack: rack-a}}
- metadata: {name: node-3}
- metadata: {name: node-5}
"#;

#[test]
fn the_cluster_is_a_tree_of_labelled_levels_nodes_numa_and_gpus() {
    insta::assert_snapshot!(all(&view(A100, NODES), noon()));
}

#[test]
fn a_node_shows_its_wires_with_a_legend_of_those_that_there_are() {
    insta::assert_snapshot!(node(&view(A100, NODES), "node-3", noon()).unwrap());
}

#[test]
fn a_large_cluster_stops_at_the_nodes() {
    let many: String = (0..=NODES_WITH_GPUS)
        .map(|n| format!("- {{metadata: {{name: n{n}}}, spec: {{}}, status: {{gpus: [{{index: 0, uuid: g{n}, product: P, memoryBytes: 1}}]}}}}\n"))
        .collect();
    let text = all(&view(&many, "[]"), noon());
    assert!(text.contains("n0: 1 GPU, 1 free") && !text.contains("GPU 0"), "{text}");
    assert!(text.ends_with("kubectl weft topo NODE\n"));
}

#[test]
fn a_node_without_gpus_is_told_from_one_that_there_is_not() {
    let view = view(A100, NODES);
    assert!(node(&view, "node-5", noon()).unwrap_err().to_string().contains("is Weft's agent running there?"));
    assert!(node(&view, "node-9", noon()).unwrap_err().to_string().contains("has no node node-9"));
}
