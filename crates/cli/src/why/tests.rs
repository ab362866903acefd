use super::*;

const JOB: &str = r#"
apiVersion: weft.dev/v1alpha1
kind: GpuJob
metadata: {name: gang, namespace: default}
spec:
  topology: {required: rack}
  groups:
    - {name: worker, replicas: 2, gpus: 2, template: {spec: {containers: [{name: app}]}}}
status: {phase: Pending, conditions: [{type: Placed, status: 'False', reason: NoFit, message: '', lastTransitionTime: '2026-11-22T11:50:01Z'}]}
"#;

fn world(taken: bool) -> World {
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

#[test]
fn the_reason_is_counted_level_by_level() {
    let job = serde_yaml_ng::from_str(JOB).unwrap();
    assert!(waits(&job));
    insta::assert_snapshot!(explain(&job, world(true)).unwrap());
}

#[test]
fn a_job_that_fits_by_now_is_told_so() {
    let job = serde_yaml_ng::from_str(JOB).unwrap();
    let text = explain(&job, world(false)).unwrap();
    assert!(text.starts_with("it fits by now: ") && text.contains("n1, n2"), "{text}");
}

#[test]
fn only_a_job_that_waits_for_room_is_asked_about() {
    for (from, to) in [
        ("NoFit", "PodsRefused"),
        ("'False'", "'True'"),
        ("status: {", "status: {workers: [{rank: 0, group: g, pod: p, node: n}], "),
    ] {
        assert!(!waits(&serde_yaml_ng::from_str(&JOB.replace(from, to)).unwrap()), "{from} → {to}");
    }
}
