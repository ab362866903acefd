use super::*;
use weft_api::{GpuJob, GpuNode};

fn view(job: &str, gpu_nodes: &str, events: &str) -> JobView {
    JobView {
        job: serde_yaml_ng::from_str::<GpuJob>(job).unwrap(),
        gpu_nodes: serde_yaml_ng::from_str::<Vec<GpuNode>>(gpu_nodes).unwrap(),
        events: serde_yaml_ng::from_str(events).unwrap(),
        why: None,
    }
}

fn noon() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

const SPEC: &str = r#"
apiVersion: weft.dev/v1alpha1
kind: GpuJob
metadata: {name: gang, namespace: default, generation: 1, creationTimestamp: "2026-11-22T11:50:00Z"}
spec:
  topology: {required: rack}
  groups:
    - {name: worker, replicas: 2, gpus: 4, template: {spec: {containers: [{name: app}]}}}
"#;

#[test]
fn a_job_that_waits_says_why_before_anything_else() {
    let status = r#"
status:
  observedGeneration: 1
  phase: Pending
  message: needs 2 workers × 4 GPUs in one rack; best is rack-a with room for 1 of 2
  conditions:
    - {type: Valid, status: "True", reason: Accepted, message: "", lastTransitionTime: "2026-11-22T11:50:01Z"}
    - {type: Placed, status: "False", reason: NoFit, message: needs 2 workers, lastTransitionTime: "2026-11-22T11:55:00Z"}
"#;
    let events = r#"
- metadata: {}
  involvedObject: {kind: GpuJob, name: gang}
  type: Normal
  reason: NoFit
  message: needs 2 workers
  eventTime: "2026-11-22T11:50:02.000000Z"
  series: {count: 3, lastObservedTime: "2026-11-22T11:58:30.000000Z"}
"#;
    let mut view = view(&format!("{SPEC}{status}"), "[]", events);
    view.why = Some("needs 2 workers × 4 GPUs in one rack\n└ cluster of 2 nodes: room for 1 of 2".to_owned());
    insta::assert_snapshot!(render(&view, noon()));
}

#[test]
fn running_workers_show_indices_and_a_plan_that_was_not_kept() {
    let status = r#"
status:
  observedGeneration: 1
  phase: Running
  message: 2 of 2 workers ready
  placement: "rack rack-a: node-1, node-2"
  replacements: 1
  workers:
    - {rank: 0, group: worker, pod: gang-worker-0, phase: Ready, node: node-1, plannedGpus: [GPU-a, GPU-b], allocatedGpus: [GPU-b, GPU-a]}
    - {rank: 1, group: worker, pod: gang-worker-1, phase: Ready, node: node-1, attempt: 1, plannedGpus: [GPU-c], allocatedGpus: [GPU-d], message: GPU 2 failed}
    - {rank: 2, group: worker, pod: gang-worker-2, phase: Starting, node: node-9, plannedGpus: [GPU-x]}
"#;
    let node = r"
- metadata: {name: node-1}
  spec: {}
  status:
    gpus:
      - {index: 0, uuid: GPU-a, product: H100, memoryBytes: 1}
      - {index: 1, uuid: GPU-b, product: H100, memoryBytes: 1}
      - {index: 2, uuid: GPU-c, product: H100, memoryBytes: 1}
      - {index: 3, uuid: GPU-d, product: H100, memoryBytes: 1}
";
    insta::assert_snapshot!(render(&view(&format!("{SPEC}{status}"), node, "[]"), noon()));
}

#[test]
fn a_program_shows_its_steps_its_rates_and_its_failed_check() {
    let status = r#"
status:
  observedGeneration: 1
  phase: Failed
  message: "check \"y is 2x+1\" failed"
  workers:
    - rank: 0
      group: main
      pod: saxpy-main-0
      phase: Failed
      result:
        ok: false
        error: null
        gpus: [GPU-a]
        steps: [{name: saxpy, kind: launch, seconds: 0.0000213, rate: {value: 590.7, unit: GB/s}}, {name: c, kind: copy, seconds: 1.5, rate: null}]
        checks: [{name: y is 2x+1, ok: false, message: element 17 is 3 and should be 35}]
        saved: []
"#;
    insta::assert_snapshot!(render(&view(&format!("{SPEC}{status}"), "[]", "[]"), noon()));
}

#[test]
fn a_job_that_the_operator_has_not_seen_points_at_the_operator() {
    assert!(render(&view(SPEC, "[]", "[]"), noon()).contains("Does it run?"));
    let newer = SPEC.replace("generation: 1", "generation: 2");
    let text =
        render(&view(&format!("{newer}\nstatus: {{observedGeneration: 1, phase: Running}}"), "[]", "[]"), noon());
    assert!(text.contains("has not yet seen the latest change"), "{text}");
}
