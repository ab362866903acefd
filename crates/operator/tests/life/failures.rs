//! Workers that fail, and GPUs and pods that are lost under them.

use crate::condition_of;
use crate::world::{World, gang};
use kube::ResourceExt;
use serde_json::json;
use weft_api::job::{Phase, WorkerPhase, condition};
use weft_operator::facts::PodKey;

#[test]
fn only_the_worker_whose_gpu_failed_is_started_elsewhere_and_no_retry_is_spent() {
    let mut world = World::demo();
    world.submit(
        "g",
        gang(2, 4, json!({"topology": {"required": "rack"}, "failurePolicy": {"replace": "FailedWorkers"}})),
    );
    world.run();
    let before = world.status("g");
    let (node, uuid) = (before.workers[1].node.clone().unwrap(), before.workers[1].allocated_gpus[0].clone());
    let index: usize = uuid.rsplit('-').next().unwrap().parse().unwrap();
    let kept = world.pods[&PodKey::new("default", "g-w-0")].metadata.uid.clone();
    world.set_health(&node, index, Some("fell off the bus (XID 79)"));
    world.step(0);
    assert!(world.status("g").workers[1].message.as_ref().unwrap().contains("XID 79"));
    world.run();
    let after = world.status("g");
    assert_eq!((after.phase, after.restarts, after.replacements), (Phase::Running, 0, 1));
    assert_eq!(after.workers[1].attempt, 1);
    assert!(!after.workers[1].allocated_gpus.contains(&uuid));
    assert_eq!(world.pods[&PodKey::new("default", "g-w-0")].metadata.uid, kept, "the other worker runs on");
    world.set_health(&node, index, None);
    world.submit("rest", gang(2, 4, json!({"topology": {"required": "rack"}})));
    world.run();
    assert_eq!(world.status("rest").phase, Phase::Running, "{}", world.status("rest").message);
}

#[test]
fn a_job_that_runs_waits_until_the_api_server_takes_its_pods_again_even_if_it_calls_them_invalid() {
    let mut world = World::demo();
    world.submit("g", gang(2, 4, json!({"failurePolicy": {"replace": "FailedWorkers", "maxRestarts": 9}})));
    world.run();
    let kept = world.pods[&PodKey::new("default", "g-w-0")].metadata.uid.clone();
    (world.refuse_pods, world.refuses_as_invalid) = (Some("spec.containers[1].image: Required value".into()), true);
    world.end("g-w-1", 1, "");
    for _ in 0..30 {
        world.step(1);
        world.kubelet();
    }
    let status = world.status("g");
    assert!(status.message.contains("spec.containers[1].image: Required value"), "{}", status.message);
    assert_eq!((status.phase, world.is_running("g-w-0")), (Phase::Starting, true));
    world.refuse_pods = None;
    world.step(60);
    world.run();
    assert_eq!((world.status("g").phase, world.status("g").ready_summary.as_str()), (Phase::Running, "2/2"));
    assert_eq!(world.pods[&PodKey::new("default", "g-w-0")].metadata.uid, kept, "the other worker ran on");
}

#[test]
fn a_crash_that_follows_a_gpu_failure_is_not_blamed_on_the_worker() {
    let mut world = World::demo();
    world.submit("g", gang(1, 1, json!({})));
    world.run();
    let worker = world.status("g").workers[0].clone();
    let index: usize = worker.allocated_gpus[0].rsplit('-').next().unwrap().parse().unwrap();
    world.end("g-w-0", 1, "CUDA error");
    world.step(1);
    assert_ne!(world.status("g").phase, Phase::Failed, "the agent's report may still come");
    world.set_health(&worker.node.unwrap(), index, Some("XID 79"));
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.restarts, status.replacements), (Phase::Running, 0, 1));
}

#[test]
fn a_worker_that_fails_by_itself_ends_the_job_with_its_own_words() {
    let mut world = World::demo();
    world.submit("g", gang(1, 1, json!({})));
    world.run();
    world.end("g-w-0", 3, "{\"ok\":false,\"error\":\"step saxpy: line 2: unknown identifier\"}");
    world.step(0);
    world.step(3);
    let status = world.status("g");
    assert_eq!((status.phase, status.failed), (Phase::Failed, 1));
    assert!(
        status.message.contains("exit code 3") && status.message.ends_with("line 2: unknown identifier"),
        "{}",
        status.message
    );
    assert_eq!(condition_of(&world, "g", condition::FAILED), Some(("True".into(), "WorkerFailed".into())));
    assert!(world.pods.contains_key(&PodKey::new("default", "g-w-0")), "its log stays readable");
    assert_eq!(status.workers[0].result.as_ref().unwrap()["ok"], false);
}

#[test]
fn restarts_are_counted_paused_and_bounded() {
    let mut world = World::demo();
    world.submit(
        "g",
        gang(2, 1, json!({"failurePolicy": {"replace": "WholeGang", "maxRestarts": 1, "backoffSeconds": 20}})),
    );
    world.run();
    world.end("g-w-1", 1, "");
    world.step(0);
    world.step(3);
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.restarts), (Phase::Pending, 1));
    assert!(status.message.contains("next start at"), "{}", status.message);
    assert!(world.pods.is_empty(), "a whole gang is started anew");
    world.step(20);
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.workers[0].attempt, status.workers[1].attempt), (Phase::Running, 1, 1));
    world.end("g-w-0", 1, "");
    world.step(0);
    world.step(3);
    let status = world.status("g");
    assert_eq!(status.phase, Phase::Failed);
    assert!(status.message.contains("1 restart is used up"), "{}", status.message);
    world.run();
    assert_eq!(
        world.pods.keys().map(|pod| pod.name.as_str()).collect::<Vec<_>>(),
        ["g-w-0"],
        "what still ran is deleted"
    );
}

#[test]
fn a_refusal_by_the_kubelet_is_repeated_without_spending_retries_but_not_forever() {
    let mut world = World::demo();
    world.submit("g", gang(1, 1, json!({})));
    let mut refusals = 0;
    for _ in 0..200 {
        world.step(8);
        if world.status("g").phase == Phase::Failed {
            break;
        }
        if world.pods.contains_key(&PodKey::new("default", "g-w-0")) {
            refusals += 1;
            world.change_pod("g-w-0", |pod| {
                pod["spec"]["nodeName"] = pod["spec"]["nodeSelector"]["kubernetes.io/hostname"].clone();
                pod["status"] =
                    json!({"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no GPU left"});
            });
            world.step(0);
            world.remove_pod(&PodKey::new("default", "g-w-0"));
        }
    }
    let status = world.status("g");
    assert_eq!((status.phase, status.restarts, refusals), (Phase::Failed, 0, 11));
    assert!(status.message.contains("UnexpectedAdmissionError: no GPU left"), "{}", status.message);
}

#[test]
fn a_gang_too_large_for_its_status_runs_all_the_same_and_notices_a_failed_gpu() {
    let mut world = World::demo();
    for n in 0..400 {
        world.add_node(&format!("ip-10-12-{n}-101.eu-west-1.compute.internal"), "rack-c", 8);
    }
    world.submit("g", gang(400, 8, json!({"failurePolicy": {"replace": "FailedWorkers"}})));
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.ready_summary.as_str()), (Phase::Running, "400/400"));
    assert!(serde_json::to_vec(&status).unwrap().len() < 256 << 10);
    assert!(status.omitted.unwrap().contains("the GPUs of all workers"));
    assert!(world.pods.values().all(|pod| pod.annotations()["weft.dev/gpus"].split(',').count() == 8));
    world.restart_operator();
    let node = world.nodes_of("g")[7].clone();
    world.set_health(&node, 3, Some("XID 79"));
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.restarts, status.replacements), (Phase::Running, 0, 1), "{}", status.message);
    assert_ne!(world.nodes_of("g")[7], node);
}

#[test]
fn a_finished_worker_stays_finished_when_its_pod_is_collected() {
    let mut world = World::demo();
    world.submit("g", gang(2, 1, json!({"failurePolicy": {"replace": "FailedWorkers"}})));
    world.run();
    world.end("g-w-0", 0, "");
    world.run();
    world.remove_pod(&PodKey::new("default", "g-w-0"));
    world.run();
    let status = world.status("g");
    assert_eq!(
        (status.phase, status.workers[0].phase, status.replacements),
        (Phase::Running, WorkerPhase::Succeeded, 0)
    );
    assert_eq!(world.pods.len(), 1);
}

#[test]
fn an_old_report_of_a_pod_of_the_same_name_is_not_believed_of_its_successor() {
    let mut world = World::demo();
    world.submit("g", gang(1, 1, json!({})));
    world.run();
    let first = world.status("g").workers[0].clone();
    let index: usize = first.allocated_gpus[0].rsplit('-').next().unwrap().parse().unwrap();
    world.keep_holders = true;
    world.set_health(&first.node.unwrap(), index, Some("XID 79"));
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.replacements), (Phase::Running, 1), "{}", status.message);
    assert_ne!(status.workers[0].planned_gpus, first.planned_gpus);
}
