use k8s_openapi::api::core::v1::Pod;
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

fn told(situation: &Situation, terms: bool) -> String {
    render(situation, terms, Source::Cluster)
}

#[test]
fn a_job_that_fits_is_shown_where() {
    insta::assert_snapshot!(told(&asked(&job("gang", 2, "rack"), false), true));
}

#[test]
fn a_job_that_waits_for_others_is_told_what_would_help() {
    insta::assert_snapshot!(told(&asked(&job("gang", 2, "rack"), true), false));
}

#[test]
fn a_job_for_which_the_cluster_is_too_small_is_told_how_many_nodes_more_it_takes() {
    insta::assert_snapshot!(told(&asked(&job("gang", 4, "rack"), false), false));
}

#[test]
fn nodes_that_a_selector_rules_out_are_no_model_for_more() {
    insta::assert_snapshot!(told(&asked(&job("pinned", 1, "rack"), true), false));
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
    let unknown = end(&mut situation, "default/gone", None).unwrap_err().to_string();
    assert_eq!(unknown, "--without default/gone: no job of that name holds GPUs (those are default/other)");
    end(&mut situation, "other", None).unwrap();
    situation.decide();
    assert!(situation.asked[0].placement.is_some());
    let unknown = end(&mut situation, "default/other", None).unwrap_err().to_string();
    assert!(unknown.ends_with("(no job runs)"), "{unknown}");
}

#[test]
fn a_saved_situation_says_the_same_without_the_cluster() {
    for taken in [false, true] {
        let live = asked(&job("gang", 2, "rack"), taken);
        let text = serde_yaml_ng::to_string(&live).unwrap();
        let mut saved = Situation::read(serde_yaml_ng::Deserializer::from_str(&text)).unwrap();
        saved.decide();
        assert_eq!(told(&saved, true), told(&live, true));
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
    let said = told(&situation, false);
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

/// So many nodes of eight H100 in rack a, as a file has them, and one group that asks for `group`.
fn eights(nodes: usize, group: Value) -> Value {
    let node = |nth: usize| {
        let gpu = |at: usize| serde_json::json!({"uuid": format!("GPU-{nth}-{at}"), "index": at, "product": "NVIDIA H100", "memoryBytes": 1, "pciBusId": at.to_string()});
        let gpus: Vec<Value> = (0..8).map(gpu).collect();
        serde_json::json!({"node": {"name": format!("n{nth:02}"), "gpus": gpus}, "labels": {"rack": "a"}, "allocatable": {"cpu": 64000}})
    };
    let nodes: Vec<Value> = (0..nodes).map(node).collect();
    let mut asked = serde_json::json!({"name": "w", "replicas": 1, "gpus": 8});
    asked.as_object_mut().unwrap().extend(group.as_object().unwrap().clone());
    serde_json::json!({
        "version": 1,
        "cluster": {"levels": [{"name": "rack", "label": "rack"}], "nodes": nodes},
        "asked": [{"name": "demo/g", "gang": {"groups": [asked]}}],
    })
}

/// The last line of what is said of a file: what would help.
fn advice(file: &Value) -> String {
    let mut situation = saved(file, &file.to_string()).unwrap();
    situation.decide();
    render(&situation, false, Source::File).lines().last().unwrap().to_owned()
}

#[test]
fn where_all_nodes_are_ruled_out_that_is_said_and_what_to_change() {
    let mut file = eights(4, serde_json::json!({}));
    let verdict =
        |nth: usize, exclusion: Value| serde_json::json!({"node": format!("n{nth:02}"), "exclusion": exclusion});
    let taint = |detail: &str| serde_json::json!({"reason": "taint", "detail": detail});
    file["asked"][0]["verdicts"] = (0..4).map(|nth| verdict(nth, taint("x:NoSchedule"))).collect();
    assert_eq!(
        advice(&file),
        "All 4 nodes with GPUs are ruled out, 4 by taint (x:NoSchedule): tolerate the taint in the pod template, or take the verdicts \
         out of the file"
    );
    let mut situation = saved(&file, &file.to_string()).unwrap();
    situation.decide();
    assert!(
        told(&situation, false).ends_with(": tolerate the taint in the pod template\n"),
        "{}",
        told(&situation, false)
    );
    let selector = serde_json::json!({"reason": "selector", "detail": "gpu-class=a100"});
    let verdicts = [verdict(0, taint("a")), verdict(1, selector), verdict(2, taint("b")), verdict(3, taint("c"))];
    file["asked"][0]["verdicts"] = verdicts.into_iter().collect();
    assert_eq!(
        advice(&file),
        "All 4 nodes with GPUs are ruled out, 1 by selector (gpu-class=a100), 1 by taint (a), 1 by taint (b), 1 by other reasons: \
         change the node selector or affinity, or tolerate the taint in the pod template, or take the verdicts out of the file"
    );
}

#[test]
fn nodes_that_some_group_with_gpus_may_use_are_not_called_ruled_out() {
    let mut file = eights(2, serde_json::json!({}));
    let group = |name: &str, gpus: u32| serde_json::json!({"name": name, "replicas": 3, "gpus": gpus});
    let off = |group: &str, nth: usize| serde_json::json!({"group": group, "node": format!("n{nth:02}"), "exclusion": {"reason": "selector", "detail": "pool"}});
    // A leader without GPUs has a pool of its own.
    file["asked"][0]["gang"] = serde_json::json!({"groups": [group("leader", 0), group("worker", 8)]});
    file["asked"][0]["verdicts"] = serde_json::json!([off("leader", 0), off("leader", 1)]);
    let told = "What more nodes would do is not worked out: no node with GPUs may take workers of all groups";
    assert_eq!(advice(&file), told);
    // Two groups have a pool each.
    file["asked"][0]["gang"] = serde_json::json!({"groups": [group("a", 8), group("b", 8)]});
    file["asked"][0]["verdicts"] = serde_json::json!([off("a", 0), off("b", 1)]);
    assert_eq!(advice(&file), told);
    file["asked"][0]["verdicts"] = serde_json::json!([off("a", 0), off("b", 0), off("a", 1), off("b", 1)]);
    assert!(
        advice(&file).starts_with("All 2 nodes with GPUs are ruled out, 2 by selector (pool)"),
        "{}",
        advice(&file)
    );
}

#[test]
fn where_no_node_has_gpus_a_file_is_not_sent_to_the_cluster() {
    let file = eights(0, serde_json::json!({}));
    assert_eq!(advice(&file), "No node has GPUs: give some under `cluster.nodes`");
    let mut situation = saved(&file, &file.to_string()).unwrap();
    situation.decide();
    assert!(told(&situation, false).ends_with("No node has GPUs: `kubectl get gpunodes` says what the agents found\n"));
}

#[test]
fn a_new_node_comes_with_healthy_gpus() {
    let mut file = eights(16, serde_json::json!({}));
    for nth in 0..16 {
        let health = serde_json::json!({"state": "unhealthy", "reason": "XID 79"});
        file["cluster"]["nodes"][nth]["node"]["gpus"][3]["health"] = health;
    }
    assert_eq!(advice(&file), "1 more node like n00 (8 × NVIDIA H100) would make room, no fewer would");
}

#[test]
fn what_no_such_node_has_is_named_with_what_to_ask_in_place_of_it() {
    for (group, said) in [
        (
            serde_json::json!({"resources": {"cpu": 65000}}),
            "A worker of group \"w\" asks for 65000m cpu and an empty node like n00 has 64000m: ask for less cpu",
        ),
        (
            serde_json::json!({"resources": {"rdma/ib": 1}}),
            "A worker of group \"w\" asks for 1 rdma/ib and an empty node like n00 has 0: ask for less rdma/ib",
        ),
        (
            serde_json::json!({"product": "A100"}),
            "Group \"w\" asks for \"A100\"; what there is: NVIDIA H100: ask for one of these",
        ),
        (
            serde_json::json!({"product": "H100", "migProfile": "1g.10gb"}),
            "Group \"w\" asks for MIG devices \"1g.10gb\" of \"H100\"; what there is: NVIDIA H100: ask for one of these",
        ),
        (
            serde_json::json!({"gpus": 16}),
            "A worker of group \"w\" asks for 16 GPUs and a node like n00 has 8: ask for fewer GPUs in more workers",
        ),
        (
            serde_json::json!({"joinedBy": "nvlink"}),
            "A worker of group \"w\" asks for 8 GPUs joined by NVLink and a node like n00 joins 1: ask for fewer GPUs in more \
             workers, or without `joinedBy`",
        ),
        (
            serde_json::json!({"replicas": 100_000}),
            "10000 more nodes like n00 do not make room, and more are not looked at: ask for fewer workers",
        ),
    ] {
        assert_eq!(advice(&eights(2, group)), said);
    }
    // A kind that lacks only processor is nearer than one of another product.
    let mut file = eights(2, serde_json::json!({"product": "H100", "resources": {"cpu": 65000}}));
    for gpu in file["cluster"]["nodes"][0]["node"]["gpus"].as_array_mut().unwrap() {
        gpu["product"] = "NVIDIA A100".into();
    }
    let said = advice(&file);
    assert!(said.contains("asks for 65000m cpu and an empty node like n01"), "{said}");
    // Two that fit one by one and may not be together.
    let mut file = eights(2, serde_json::json!({"replicas": 2}));
    file["asked"][0]["gang"]["required"] = "host".into();
    let said = advice(&file);
    assert!(
        said.starts_with("More nodes like those that it may use would not make room either; with one for each worker: needs 2 workers"),
        "{said}"
    );
}

#[test]
fn a_file_that_is_cut_short_is_told_from_one_with_several_documents() {
    let refused = |text: &str| format!("{:#}", document("f", text).unwrap_err());
    for cut in
        ["{\"version\": 1, \"cluster\": {", "version: 1\ncluster: {levels: [", "a: 1\n b: 2\n", "a: 1\n---\nb: ["]
    {
        let error = refused(cut);
        assert!(error.starts_with("f cannot be read as YAML or JSON; correct it at this place: "), "{error}");
        assert!(error.contains(" at line "), "{error}");
    }
    assert_eq!(refused("a: 1\n---\nb: 2\n"), "f holds 2 documents: give one at a time");
    assert_eq!(refused(""), "f is empty: give a GpuJob, or what --save wrote");
    assert_eq!(document("f", "---\na: 1\n").unwrap(), serde_json::json!({"a": 1}));
}

#[test]
fn only_a_job_is_asked_of_the_cluster() {
    let is_job = |text: &str| is_job("f", &document("f", text).unwrap()).map_err(|error| error.to_string());
    assert_eq!(is_job("{kind: GpuJob, apiVersion: weft.dev/v1alpha1}"), Ok(true));
    // The API server knows which versions there are.
    assert_eq!(is_job("{kind: GpuJob, apiVersion: weft.dev/v9}"), Ok(true));
    assert_eq!(is_job("{version: 1}"), Ok(false));
    for (text, what) in [
        ("{kind: Pod, apiVersion: v1}", "Pod (v1)"),
        ("{kind: GpuJob}", "GpuJob (without apiVersion)"),
        ("{kind: GpuJob, apiVersion: other.dev/v1}", "GpuJob (other.dev/v1)"),
        ("{kind: 3}", "a kind (without apiVersion)"),
        ("{apiVersion: weft.dev/v1alpha1}", "a kind (weft.dev/v1alpha1)"),
    ] {
        let said = format!("f holds {what}: give a GpuJob (weft.dev/v1alpha1), or what --save wrote");
        assert_eq!(is_job(text), Err(said));
    }
}

#[test]
fn what_would_be_given_away_twice_or_is_not_there_is_noted() {
    let said = |more: Value| notes::on(&file(more));
    let link = |from: usize, to: usize| serde_json::json!({"from": from, "to": to, "wire": "SYS"});
    assert_eq!(
        said(serde_json::json!({"/cluster/nodes/0/node": {"links": [link(0, 9)]}})),
        ["node \"n1\" has a link from 0 to 9, and its 1 GPUs count from 0: that link is left out"]
    );
    let some = |owner: &str| serde_json::json!({"node": "n1", "owner": owner, "unidentifiedGpus": 1});
    assert!(said(serde_json::json!({"/cluster": {"claims": [some("a")]}})).is_empty());
    assert_eq!(
        said(serde_json::json!({"/cluster": {"claims": [some("a"), some("b")]}})),
        ["claims on node \"n1\" are for 2 unidentifiedGpus, and it has 1"]
    );
    let gang = |gpus: usize, nodes: &[&str]| {
        let placed =
            nodes.iter().enumerate().map(|(nth, node)| serde_json::json!({"group": "w", "index": nth, "node": node}));
        let placed: Vec<Value> = placed.collect();
        serde_json::json!({"groups": [{"name": "w", "replicas": 2, "gpus": gpus}], "placed": placed})
    };
    let job = |gang: Value| {
        serde_json::json!({
            "/cluster": {"claims": [{"node": "n1", "owner": "a", "gpus": ["GPU-1"]}]},
            "": {"jobs": [{"name": "demo/one", "gang": gang, "owners": ["a"]}]},
        })
    };
    assert!(said(job(gang(1, &["n1"]))).is_empty());
    assert!(said(job(gang(0, &["n1", "n2"]))).is_empty(), "without GPUs a worker needs no claim");
    assert_eq!(
        said(job(gang(1, &["n2", "n2"]))),
        [
            "worker 0 of group \"w\" of job \"demo/one\" is placed on node \"n2\", and the claim of its owner \"a\" is on \"n1\"",
            "worker 1 of group \"w\" of job \"demo/one\" is placed and has no entry in owners: what it holds counts only if \
             another claim has it",
        ]
    );
    assert_eq!(
        said(serde_json::json!({"/asked/0": {"gang": gang(1, &["n2"])}})),
        ["1 workers of \"demo/g\" are placed on node \"n2\", which has 0 claims: GPUs that none names are given away"]
    );
}

#[test]
fn names_that_are_empty_are_counted() {
    let more = serde_json::json!({
        "/cluster/nodes/0/node": {"name": "", "gpus": []},
        "/cluster/nodes/1/node": {"name": ""},
        "/cluster": {"claims": [{"node": "", "owner": ""}]},
        "/asked/0": {"name": ""},
    });
    assert_eq!(
        notes::on(&file(more))[..3],
        [
            "node.name in cluster.nodes is empty 2 times: give a name",
            "owner in cluster.claims is empty 1 time: give a name",
            "name in asked is empty 1 time: give a name",
        ]
    );
    let more = serde_json::json!({
        "/cluster/nodes/0/node/gpus/0/uuid": "",
        "/asked/0/gang/groups/0/name": "",
        "": {"jobs": [{"name": "", "gang": {"groups": []}}]},
    });
    assert_eq!(
        notes::on(&file(more)),
        [
            "uuid in node.gpus is empty 1 time: give a name",
            "name in jobs is empty 1 time: give a name",
            "name in gang.groups is empty 1 time: give a name",
        ]
    );
}

#[test]
fn the_namespace_given_is_that_of_the_job_that_ends() {
    let jobs = serde_json::json!([
        {"name": "demo/one", "gang": {"groups": []}},
        {"name": "other/one", "gang": {"groups": []}},
    ]);
    let file = file(serde_json::json!({"": {"jobs": jobs}}));
    let left = |name: &str, namespace: Option<&str>| {
        let mut situation = saved(&file, &file.to_string()).unwrap();
        end(&mut situation, name, namespace).unwrap();
        situation.jobs[0].name.clone()
    };
    assert_eq!(left("one", Some("other")), "demo/one");
    assert_eq!(left("one", None), "other/one", "as what is asked about");
    assert_eq!(left("demo/one", Some("other")), "other/one", "what is written out counts");
}
