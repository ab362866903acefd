use k8s_openapi::api::core::v1::Pod;
use weft_api::GpuJob;
use weft_operator::facts::PodFacts;

use super::*;
use crate::world::fixture::world;

fn job(name: &str, replicas: u32, required: &str) -> GpuJob {
    let text = format!(
        "
metadata: {{name: {name}, namespace: default, uid: {name}}}
spec:
  topology: {{required: {required}}}
  groups:
    - {{name: worker, replicas: {replicas}, gpus: 2, template: {{spec: {{containers: [{{name: app}}], nodeSelector: {{kubernetes.io/hostname: n2}}}}}}}}
"
    );
    let text = if name == "pinned" { text } else { text.replace(", nodeSelector: {kubernetes.io/hostname: n2}", "") };
    serde_yaml_ng::from_str(&text).unwrap()
}

/// What is said about `job` in the world with or without a stranger's pod on n2.
fn asked(job: &GpuJob, taken: bool) -> Situation {
    let mut situation = live::of(job, &[], &world(taken).index()).unwrap();
    situation.decide();
    situation
}

#[test]
fn a_job_that_fits_is_shown_where() {
    insta::assert_snapshot!(render(&asked(&job("gang", 2, "rack"), false), true));
}

#[test]
fn a_job_that_waits_for_others_is_told_what_would_help() {
    insta::assert_snapshot!(render(&asked(&job("gang", 2, "rack"), true), false));
}

#[test]
fn a_job_for_which_the_cluster_is_too_small_is_told_how_many_nodes_more_it_takes() {
    insta::assert_snapshot!(render(&asked(&job("gang", 4, "rack"), false), false));
}

#[test]
fn nodes_that_a_selector_rules_out_are_no_model_for_more() {
    insta::assert_snapshot!(render(&asked(&job("pinned", 1, "rack"), true), false));
}

#[test]
fn an_ended_job_makes_room_and_one_that_does_not_run_is_named() {
    // The other job's worker, as it would be seen: planned for all of n2.
    let other = job("other", 1, "rack");
    let mut world = world(false);
    let pod: Pod = serde_yaml_ng::from_str(
        "
metadata: {name: other-worker-0, namespace: default, uid: p, labels: {weft.dev/rank: '0'}, ownerReferences: [{apiVersion: weft.dev/v1alpha1, kind: GpuJob, name: other, uid: other, controller: true}]}
spec: {nodeName: n2, containers: [{name: c, resources: {limits: {nvidia.com/gpu: '2'}}}]}
status: {phase: Running}
",
    )
    .unwrap();
    world.pods.push(PodFacts::of(pod));
    let mut situation = live::of(&job("gang", 2, "rack"), &[other], &world.index()).unwrap();
    situation.decide();
    assert!(situation.asked[0].no_placement.is_some());
    let unknown = end(&mut situation, "default/gone").unwrap_err().to_string();
    assert_eq!(unknown, "--without default/gone: no job of that name holds GPUs (those are default/other)");
    end(&mut situation, "other").unwrap();
    situation.decide();
    assert!(situation.asked[0].placement.is_some());
    let unknown = end(&mut situation, "default/other").unwrap_err().to_string();
    assert!(unknown.ends_with("(no job runs)"), "{unknown}");
}

#[test]
fn a_saved_situation_says_the_same_without_the_cluster() {
    for taken in [false, true] {
        let live = asked(&job("gang", 2, "rack"), taken);
        let text = serde_yaml_ng::to_string(&live).unwrap();
        let mut saved = Situation::read(serde_yaml_ng::Deserializer::from_str(&text)).unwrap();
        saved.decide();
        assert_eq!(render(&saved, true), render(&live, true));
    }
}

#[test]
fn a_level_that_there_is_not_is_named_with_those_that_there_are() {
    let error = live::of(&job("gang", 1, "row"), &[], &world(false).index()).unwrap_err().to_string();
    assert!(error.starts_with("spec.topology.required: there is no level \"row\"; the levels"), "{error}");
}

#[test]
fn a_cordoned_node_is_a_model_for_nodes_that_are_not() {
    let mut world = world(true);
    for node in &mut world.nodes {
        node.standing = weft_topology::Standing::Cordoned;
    }
    let mut situation = live::of(&job("gang", 1, "rack"), &[], &world.index()).unwrap();
    situation.decide();
    let said = render(&situation, false);
    assert!(said.contains("1 more node like n1 (2 × NVIDIA H100) would make room"), "{said}");
}

#[test]
fn a_job_that_the_operator_would_refuse_is_refused() {
    let mut job = job("gang", 1, "rack");
    job.spec.groups[0].name = "g".repeat(60);
    job.spec.groups[0].replicas = 5000;
    let error = live::of(&job, &[], &world(false).index()).unwrap_err().to_string();
    assert!(error.starts_with("spec.groups: the host names of 5000 workers"), "{error}");
}
