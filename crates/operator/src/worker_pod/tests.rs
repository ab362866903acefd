use super::*;
use serde_json::json;

fn runtime() -> RuntimeImage {
    RuntimeImage { image: "weft.test/weft-runtime:dev".into(), pull_policy: Some("Never".into()) }
}

fn job(spec: Value) -> GpuJob {
    let metadata = json!({"name": "gang", "namespace": "lab", "uid": "u1"});
    let value = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "GpuJob", "metadata": metadata, "spec": spec});
    serde_json::from_value(value).unwrap()
}

fn template(spec: Value) -> Value {
    json!({"metadata": {"labels": {"team": "ml"}}, "spec": spec})
}

fn pod(job: &GpuJob, rank: usize) -> Pod {
    let sizes: Vec<u32> = job.spec.groups.iter().map(|group| group.replicas).collect();
    let all = members(job, &sizes);
    let gpus = ["GPU-a".to_owned(), "GPU-b".to_owned()];
    let start = Start { attempt: 2, host: "host-1", gpus: &gpus, revision: Revision::of(job) };
    worker_pod(job, &all, &all[rank], start, &runtime()).unwrap()
}

fn env(container: &Container, name: &str) -> String {
    let found = container.env.iter().flatten().find(|env| env.name == name);
    found.and_then(|env| env.value.clone()).unwrap_or_else(|| panic!("no variable {name}"))
}

fn gpus(container: &Container) -> Option<String> {
    container.resources.as_ref()?.limits.as_ref()?.get(names::GPU_RESOURCE).map(|quantity| quantity.0.clone())
}

#[test]
fn a_worker_knows_its_rank_and_peers_and_keeps_what_the_template_says() {
    let own = json!([{"name": "RANK", "value": "mine"}, {"name": "X", "value": "$(WEFT_RANK)"}]);
    let container = json!({"name": "app", "image": "i", "env": own});
    let job = job(json!({"groups": [
        {"name": "lead", "replicas": 1, "gpus": 0, "template": template(json!({"containers": [container]}))},
        {"name": "worker", "replicas": 2, "gpus": 2, "template": template(json!({"containers": [container]}))},
    ]}));
    let pod = pod(&job, 2);
    let spec = pod.spec.unwrap();
    let app = &spec.containers[0];
    assert_eq!(pod.metadata.name.as_deref(), Some("gang-worker-1"));
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("gang-worker-1"), Some("gang")));
    let expected = [
        ("WEFT_RANK", "2"),
        ("WEFT_WORLD_SIZE", "3"),
        ("WEFT_GROUP", "worker"),
        ("WEFT_GROUP_RANK", "1"),
        ("WEFT_GROUP_SIZE", "2"),
        ("WEFT_MASTER_ADDR", "gang-lead-0.gang.lab.svc"),
        ("WEFT_HOSTS", "gang-lead-0.gang.lab.svc,gang-worker-0.gang.lab.svc,gang-worker-1.gang.lab.svc"),
        ("JAX_COORDINATOR_ADDRESS", "gang-lead-0.gang.lab.svc:29500"),
        ("RANK", "mine"),
    ];
    for (name, value) in expected {
        assert_eq!(env(app, name), value, "{name}");
    }
    let position = |name: &str| app.env.iter().flatten().position(|env| env.name == name);
    assert!(position("WEFT_RANK") < position("X"), "the user's variables may refer to Weft's");
    assert_eq!(app.env.iter().flatten().filter(|env| env.name == "RANK").count(), 1);
    assert_eq!(gpus(app).as_deref(), Some("2"));
    let labels = pod.metadata.labels.unwrap();
    assert_eq!(
        (labels["team"].as_str(), labels["weft.dev/rank"].as_str(), labels["weft.dev/attempt"].as_str()),
        ("ml", "2", "2")
    );
    let annotations = pod.metadata.annotations.unwrap();
    assert_eq!(annotations["weft.dev/gpus"], "GPU-a,GPU-b");
    assert_eq!(annotations["weft.dev/revision"], Revision::of(&job).to_string());
    assert_eq!(spec.node_selector.unwrap()["kubernetes.io/hostname"], "host-1");
    assert_eq!(spec.scheduling_gates.unwrap()[0].name, "weft.dev/placement");
    assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
    let tolerations = spec.tolerations.unwrap();
    assert!(tolerations.iter().any(|t| t.key.as_deref() == Some("nvidia.com/gpu")));
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let found = tolerations.iter().find(|t| t.key.as_deref() == Some(taint)).unwrap();
        assert_eq!((found.effect.as_deref(), found.toleration_seconds), (Some("NoExecute"), None), "{taint}");
    }
    assert_eq!(pod.metadata.owner_references.unwrap()[0].uid, "u1");
}

#[test]
fn the_sidecar_is_first_and_holds_the_gpus() {
    let containers = json!({"initContainers": [{"name": "fetch"}], "containers": [{"name": "app"}]});
    let job = job(json!({"runtime": {"enabled": true},
        "groups": [{"name": "main", "replicas": 1, "gpus": 2, "template": template(containers)}]}));
    let spec = pod(&job, 0).spec.unwrap();
    let inits = spec.init_containers.unwrap();
    assert_eq!((inits[0].name.as_str(), inits[0].restart_policy.as_deref()), ("weft-runtime", Some("Always")));
    assert_eq!((gpus(&inits[0]).as_deref(), gpus(&spec.containers[0])), (Some("2"), None));
    assert_eq!(inits[0].command.as_deref().unwrap(), ["weft-runtime", "serve"]);
    assert_eq!(env(&spec.containers[0], "WEFT_RUNTIME_SOCKET"), "/run/weft/runtime.sock");
    for container in spec.containers.iter().chain(&inits) {
        assert!(
            container.volume_mounts.iter().flatten().any(|mount| mount.mount_path == "/run/weft"),
            "{}",
            container.name
        );
    }
    assert!(
        spec.volumes
            .unwrap()
            .iter()
            .any(|v| v.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref() == Some("Memory")))
    );
}

/// Pod Security Standards, profile `restricted`: what it asks of each container.
fn restricted_profile() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

#[test]
fn what_weft_adds_to_a_pod_is_admitted_under_restricted_and_the_users_part_stays() {
    let program = job(json!({"groups": [{"name": "main", "replicas": 1, "gpus": 1}],
        "program": {"steps": [{"check": {"array": "x", "equals": {"constant": 0.0}}}], "arrays": [{"name": "x", "dtype": "f32", "shape": [4]}]}}));
    let spec = pod(&program, 0).spec.unwrap();
    assert_eq!(json!(spec.containers[0].security_context), restricted_profile());
    assert_eq!(spec.security_context, None);

    let own = json!({"securityContext": {"fsGroup": 2000}, "initContainers": [{"name": "fetch"}],
        "containers": [{"name": "app", "securityContext": {"runAsUser": 1000}}]});
    let with_sidecar = job(json!({"runtime": {"enabled": true},
        "groups": [{"name": "main", "replicas": 1, "gpus": 1, "template": template(own)}]}));
    let spec = pod(&with_sidecar, 0).spec.unwrap();
    let inits = spec.init_containers.unwrap();
    assert_eq!(json!(inits[0].security_context), restricted_profile());
    assert_eq!(inits[1].security_context, None);
    assert_eq!(json!(spec.containers[0].security_context), json!({"runAsUser": 1000}));
    assert_eq!(json!(spec.security_context), json!({"fsGroup": 2000}));
}

#[test]
fn a_sidecar_in_a_pod_that_its_template_makes_root_may_be_root() {
    let own = json!({"securityContext": {"runAsUser": 0}, "containers": [{"name": "app"}]});
    let job = job(json!({"runtime": {"enabled": true},
        "groups": [{"name": "main", "replicas": 1, "gpus": 1, "template": template(own)}]}));
    let sidecar = pod(&job, 0).spec.unwrap().init_containers.unwrap().remove(0);
    let mut expected = restricted_profile();
    expected.as_object_mut().unwrap().remove("runAsNonRoot");
    assert_eq!(json!(sidecar.security_context), expected);
}

#[test]
fn the_sidecar_is_told_how_long_a_request_may_keep_a_gpu() {
    let containers = json!({"containers": [{"name": "app"}]});
    let job = job(json!({"runtime": {"enabled": true, "operationTimeoutSeconds": 0},
        "groups": [{"name": "main", "replicas": 1, "gpus": 1, "template": template(containers)}]}));
    let sidecar = pod(&job, 0).spec.unwrap().init_containers.unwrap().remove(0);
    assert_eq!(sidecar.command.unwrap(), ["weft-runtime", "serve", "--operation-timeout=0"]);
}

#[test]
fn a_program_runs_in_the_runtime_image_from_its_config_map() {
    let job = job(json!({"groups": [{"name": "main", "replicas": 1, "gpus": 1}],
        "program": {"steps": [{"check": {"array": "x", "equals": {"constant": 0.0}}}], "arrays": [{"name": "x", "dtype": "f32", "shape": [4]}]}}));
    let spec = pod(&job, 0).spec.unwrap();
    let container = &spec.containers[0];
    assert_eq!(
        (container.name.as_str(), container.image.as_deref()),
        ("weft-runtime", Some("weft.test/weft-runtime:dev"))
    );
    assert_eq!(
        container.command.as_deref().unwrap(),
        ["weft-runtime", "run", "/etc/weft/program/program.yaml", "--json"]
    );
    assert_eq!(gpus(container).as_deref(), Some("1"));
    let map = program(&job).unwrap().unwrap();
    assert_eq!(map.metadata.name.as_deref(), Some("gang-program"));
    let text = &map.data.unwrap()["program.yaml"];
    assert_eq!(weft_program::parse(text).unwrap(), *job.spec.program.as_ref().unwrap());
}

#[test]
fn a_template_that_no_worker_can_have_is_refused_with_its_field() {
    let table = [
        (
            json!({"containers": [{"name": "a"}], "restartPolicy": "Always"}),
            "spec.groups[0].template.spec.restartPolicy: leave it out",
        ),
        (
            json!({"containers": [{"name": "a"}], "nodeName": "n"}),
            "spec.groups[0].template.spec.nodeName: leave it out",
        ),
        (
            json!({"containers": [{"name": "a", "resources": {"limits": {"nvidia.com/gpu": 1}}}]}),
            "leave nvidia.com/gpu out of container \"a\"",
        ),
        (json!({"containers": [{"name": "weft-runtime"}]}), "is Weft's own"),
        (
            json!({"containers": [{"name": "a", "command": "sh"}]}),
            "template.spec.containers[0].command: invalid type: string",
        ),
    ];
    for (spec, expected) in table {
        let job = job(json!({"groups": [{"name": "main", "replicas": 1, "gpus": 1, "template": template(spec)}]}));
        let message = base_spec(&job, 0, &runtime()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn the_probe_keeps_misspelt_fields_for_the_api_server_to_name() {
    let spec = json!({"containers": [{"name": "a", "imagee": "x"}]});
    let job = job(json!({"groups": [{"name": "main", "replicas": 1, "gpus": 1, "template": template(spec)}]}));
    assert_eq!(template_probe(&job, 0).unwrap()["spec"]["containers"][0]["imagee"], "x");
}
