use super::*;
use crate::world::fixture::world;

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
