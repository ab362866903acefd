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

/// Two nodes of one GPU each, and what a test puts beside them.
fn file(more: Value) -> Value {
    let node = |name: &str, gpu: &str| serde_json::json!({"node": {"name": name, "gpus": [{"uuid": gpu, "index": 0, "product": "H100", "memoryBytes": 1, "pciBusId": "0"}]}});
    let mut file = serde_json::json!({
        "version": 1,
        "cluster": {"levels": [], "nodes": [node("n1", "GPU-1"), node("n2", "GPU-2")]},
        "asked": [{"name": "demo/g", "gang": {"groups": [{"name": "w", "replicas": 2, "gpus": 1}]}}],
    });
    for (at, value) in more.as_object().unwrap() {
        match file.pointer_mut(at).unwrap() {
            Value::Array(list) => list.push(value.clone()),
            Value::Object(object) => object.extend(value.as_object().unwrap().clone()),
            other => *other = value.clone(),
        }
    }
    file
}

#[test]
fn what_contradicts_itself_in_a_file_is_said_and_taken_as_it_stands() {
    let said = |more: Value| {
        let file = file(more);
        let mut situation = saved(&file, &file.to_string()).unwrap();
        situation.decide();
        (notes::on(&file), situation.asked[0].placement.is_some())
    };
    let claim = |node: &str, owner: &str, gpu: &str| serde_json::json!({"node": node, "owner": owner, "gpus": [gpu]});
    let claims = |claims: Value| serde_json::json!({"/cluster": {"claims": claims}});
    let none: Vec<String> = Vec::new();
    assert_eq!(said(serde_json::json!({})), (none, true));
    assert_eq!(
        said(claims(serde_json::json!([claim("n3", "a", "GPU-1"), claim("n1", "b", "GPU-2")]))),
        (
            vec![
                "the claim of \"a\" is on node \"n3\", which is not among cluster.nodes: it takes nothing".to_owned(),
                "the claim of \"b\" is on GPU \"GPU-2\", which node \"n1\" does not have: that takes nothing"
                    .to_owned(),
            ],
            true
        )
    );
    assert_eq!(
        said(claims(serde_json::json!([
            claim("n1", "a", "GPU-1"),
            claim("n2", "a", "GPU-2"),
            claim("n2", "b", "GPU-2")
        ]))),
        (
            vec![
                "\"a\" has two claims; the last one counts".into(),
                "GPU \"GPU-2\" is claimed by \"a\" and by \"b\"".into()
            ],
            false
        )
    );
    let again = serde_json::json!({"node": {"name": "n1", "gpus": [{"uuid": "GPU-2", "index": 0, "product": "H100", "memoryBytes": 1, "pciBusId": "0"}]}});
    assert_eq!(
        said(serde_json::json!({"/cluster/nodes": again})).0,
        [
            "node \"n1\" is there twice; the last one counts",
            "GPU \"GPU-2\" is on \"n2\" and on \"n1\": give each its own uuid",
        ]
    );
    let off = |group: &str, node: &str| serde_json::json!({"group": group, "node": node, "exclusion": {"reason": "selector", "detail": "x"}});
    assert_eq!(
        said(serde_json::json!({
            "/asked/0": {"verdicts": [off("w", "n9"), off("v", "n1")]},
            "": {"jobs": [{"name": "demo/one", "gang": {"groups": []}, "owners": ["demo/one-0"]}]},
        })),
        (
            vec![
                "job \"demo/one\" has the owner \"demo/one-0\", which has no claim".into(),
                "a verdict of \"demo/g\" rules out node \"n9\", which is not among cluster.nodes".into(),
                "a verdict of \"demo/g\" is for group \"v\", which its gang does not have".into(),
            ],
            true
        )
    );
}

#[test]
fn a_file_of_another_version_is_told_by_that_and_not_by_its_first_unknown_field() {
    let mut file = file(serde_json::json!({"": {"news": 1}}));
    let error = saved(&file, &file.to_string()).unwrap_err().to_string();
    assert!(error.contains("news"), "{error}");
    file["version"] = 2.into();
    let error = saved(&file, &file.to_string()).unwrap_err().to_string();
    assert!(error.starts_with("the file is of version 2 and this program reads version 1"), "{error}");
}
