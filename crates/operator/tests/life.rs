//! The life of jobs, decision by decision, without a cluster: the operator's own controller in a world of plain data.
//! `World::hold` fails every test in which a GPU is given to two pods or after it failed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's message")]

mod world;

use jiff::SignedDuration;
use kube::ResourceExt;
use serde_json::json;
use weft_api::job::{Phase, WorkerPhase, condition};
use weft_operator::facts::PodKey;
use weft_operator::reconcile::Action;
use world::{World, gang};

fn condition_of(world: &World, job: &str, type_: &str) -> Option<(String, String)> {
    let status = world.status(job);
    status.conditions.iter().find(|c| c.type_ == type_).map(|c| (c.status.clone(), c.reason.clone()))
}

#[test]
fn a_gang_starts_together_in_one_rack_and_succeeds_when_all_have() {
    let mut world = World::demo();
    world.submit("g", gang(2, 8, json!({"topology": {"required": "rack"}})));
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.ready_summary.as_str()), (Phase::Running, "2/2"));
    assert_eq!(status.placement.as_deref(), Some("rack-a: node-1, node-2"));
    for worker in &status.workers {
        assert_eq!(worker.planned_gpus.len(), 8);
        assert_eq!(worker.planned_gpus, worker.allocated_gpus);
    }
    world.end("g-w-0", 0, "{\"ok\":true,\"checks\":[{}]}");
    world.run();
    assert_eq!(world.status("g").phase, Phase::Running);
    world.end("g-w-1", 0, "");
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.ready_summary.as_str()), (Phase::Succeeded, "2/2"));
    assert!(status.completion_time.is_some() && status.message.contains("1 check passed"), "{}", status.message);
    assert_eq!(status.workers[0].result.as_ref().unwrap()["ok"], true);
    assert_eq!(condition_of(&world, "g", condition::SUCCEEDED), Some(("True".into(), "AllSucceeded".into())));
}

#[test]
fn a_gang_that_does_not_fit_holds_nothing_says_why_and_starts_when_a_node_joins() {
    let mut world = World::demo();
    world.submit("big", gang(3, 8, json!({"topology": {"required": "rack"}})));
    world.submit("small", gang(2, 8, json!({})));
    world.run();
    let status = world.status("big");
    assert_eq!((status.phase, status.ready_summary.as_str()), (Phase::Pending, "0/3"));
    assert!(status.message.contains("3 workers × 8 GPUs in one rack"), "{}", status.message);
    assert_eq!(condition_of(&world, "big", condition::PLACED), Some(("False".into(), "NoFit".into())));
    assert!(world.pods.keys().all(|pod| !pod.name.starts_with("big")));
    assert_eq!(world.status("small").phase, Phase::Running, "a job that waits holds nobody up");
    world.delete_job("small");
    world.add_node("node-4", "rack-a", 8);
    world.run();
    assert_eq!(world.status("big").phase, Phase::Running);
}

#[test]
fn a_pass_that_takes_too_long_ends_after_a_job_and_none_of_many_waiting_jobs_is_forgotten() {
    let mut world = World::demo();
    world.submit("all", gang(2, 8, json!({})));
    world.submit("rest", gang(1, 4, json!({})));
    world.run();
    world.short_passes = true;
    for (name, replicas) in [("first", 3), ("second", 3), ("third", 1)] {
        world.submit(name, gang(replicas, 4 * replicas.min(2), json!({})));
    }
    let written: Vec<usize> = (0..8).map(|_| world.pass()).collect();
    assert!(written.iter().all(|jobs| *jobs <= 1) && written.iter().sum::<usize>() >= 3, "{written:?}");
    world.short_passes = false;
    world.run();
    assert_eq!(world.status("third").phase, Phase::Pending);
    world.delete_job("rest");
    world.short_passes = true;
    for _ in 0..6 {
        world.now += SignedDuration::from_secs(1);
        world.pass();
        // There may be room at every pass, which brings no job to the front again that was just looked at.
        world.foreign_pod("other", "node-3", 0);
        world.remove_pod(&PodKey::new("default", "other"));
    }
    assert_eq!(world.status("third").phase, Phase::Starting, "{}", world.status("third").message);
}

#[test]
fn two_jobs_of_two_gpus_get_the_two_bridged_pairs() {
    let mut world = World::demo();
    let on_node_3 = json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "node-3"}, "containers": [{"name": "app", "image": "i"}]}});
    let pair = json!({"groups": [{"name": "w", "replicas": 1, "gpus": 2, "template": on_node_3}]});
    world.submit("pair-a", pair.clone());
    world.submit("pair-b", pair);
    world.run();
    let gpus = |job: &str| world.status(job).workers[0].allocated_gpus.clone();
    let pairs = [gpus("pair-a"), gpus("pair-b")];
    assert!(pairs.contains(&vec!["GPU-node-3-0".to_owned(), "GPU-node-3-1".to_owned()]), "{pairs:?}");
    assert!(pairs.contains(&vec!["GPU-node-3-2".to_owned(), "GPU-node-3-3".to_owned()]), "{pairs:?}");
}

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
fn an_operator_killed_anywhere_loses_nothing_and_counts_nothing_twice() {
    // The actions of a start are: service, two pods, then two gates in the next batch; those of a replacement follow.
    for actions in 0..8 {
        let mut world = World::demo();
        world.submit(
            "g",
            gang(
                2,
                8,
                json!({"topology": {"required": "rack"}, "failurePolicy": {"replace": "WholeGang", "maxRestarts": 5}}),
            ),
        );
        world.die_after = Some(actions);
        world.step(1);
        world.restart_operator();
        world.run();
        assert_eq!(world.status("g").phase, Phase::Running, "killed after {actions} actions");
        world.end("g-w-0", 1, "");
        world.die_after = Some(actions);
        world.step(0);
        world.step(3);
        world.restart_operator();
        world.step(3);
        world.run();
        world.run();
        let status = world.status("g");
        assert_eq!(
            (status.phase, status.restarts, status.replacements),
            (Phase::Running, 1, 0),
            "killed after {actions} actions: {}",
            status.message
        );
    }
}

#[test]
fn a_restarted_operator_leaves_running_gangs_alone_and_gives_their_gpus_to_nobody() {
    let mut world = World::demo();
    world.submit("g", gang(2, 4, json!({})));
    world.run();
    let before = (world.pods.clone(), world.status("g"));
    world.restart_operator();
    world.submit("next", gang(2, 4, json!({})));
    world.run();
    assert_eq!(world.status("g"), before.1);
    assert!(before.0.iter().all(|(key, pod)| world.pods[key].metadata.uid == pod.metadata.uid));
    assert_eq!(world.status("next").phase, Phase::Running);
}

#[test]
fn gpus_of_other_pods_count_as_taken() {
    let mut world = World::demo();
    world.foreign_pod("notebook", "node-1", 1);
    world.submit("g", gang(2, 8, json!({})));
    world.run();
    let status = world.status("g");
    assert_eq!(status.phase, Phase::Pending, "{}", status.message);
    assert!(status.message.contains("node"), "{}", status.message);
    world.remove_pod(&PodKey::new("default", "notebook"));
    world.run();
    assert_eq!(world.status("g").phase, Phase::Running);
}

#[test]
fn a_node_whose_plugin_is_down_takes_no_worker() {
    let mut world = World::demo();
    for node in ["node-1", "node-2"] {
        world.change_node(node, |node| node["status"]["allocatable"]["nvidia.com/gpu"] = json!("0"));
    }
    world.submit("g", gang(1, 8, json!({})));
    world.run();
    let status = world.status("g");
    assert_eq!(status.phase, Phase::Pending);
    assert!(status.message.contains("nvidia.com/gpu"), "{}", status.message);
}

#[test]
fn workers_of_a_lost_node_move_after_the_grace() {
    let mut world = World::demo();
    world.submit("g", gang(1, 8, json!({})));
    world.run();
    let node = world.nodes_of("g")[0].clone();
    let since = world.now;
    world.change_node(&node, |node| {
        node["status"]["conditions"] =
            json!([{"type": "Ready", "status": "Unknown", "lastTransitionTime": since.to_string()}]);
    });
    world.step(5);
    assert_eq!(world.nodes_of("g")[0], node, "not yet given up");
    world.step(6);
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.replacements), (Phase::Running, 1));
    assert_ne!(world.nodes_of("g"), [node]);
}

/// Marks a node as not ready since now, or as ready.
fn set_ready(world: &mut World, node: &str, ready: bool) {
    let now = world.now.to_string();
    let status = if ready { "True" } else { "Unknown" };
    world.change_node(node, |node| {
        node["status"]["conditions"] = json!([{"type": "Ready", "status": status, "lastTransitionTime": now}]);
    });
}

#[test]
fn workers_are_kept_while_most_nodes_are_not_ready_and_nodes_get_their_grace_anew_after_that() {
    let mut world = World::demo();
    world.add_node("node-4", "rack-b", 8);
    world.submit("g", gang(2, 8, json!({"topology": {"required": "rack"}})));
    world.run();
    let nodes = world.nodes_of("g");
    assert_eq!(nodes, ["node-1", "node-2"]);
    for node in ["node-1", "node-2", "node-3"] {
        set_ready(&mut world, node, false);
    }
    world.step(11);
    world.step(3600);
    let status = world.status("g");
    assert_eq!((status.phase, status.replacements, world.nodes_of("g")), (Phase::Running, 0, nodes.clone()));
    assert!(status.message.contains("node-1 is not ready, and so are most"), "{}", status.message);
    assert!(status.workers[1].message.as_ref().unwrap().contains("node-2 is not ready"));
    set_ready(&mut world, "node-3", true);
    world.step(20);
    world.step(9);
    assert_eq!(world.status("g").replacements, 0, "the outage is over since a moment ago");
    set_ready(&mut world, "node-1", true);
    world.step(0);
    world.step(2);
    world.run();
    let status = world.status("g");
    assert_eq!(status.replacements, 1, "a node that does not come back is given up: {}", status.message);
    assert!(!status.message.contains("so are most"), "{}", status.message);
}

#[test]
fn workers_of_a_node_that_is_said_to_be_out_of_service_move_at_once() {
    let mut world = World::demo();
    world.submit("g", gang(1, 8, json!({})));
    world.run();
    let node = world.nodes_of("g")[0].clone();
    set_ready(&mut world, &node, false);
    world.change_node(&node, |node| {
        node["spec"] =
            json!({"taints": [{"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}]});
    });
    world.step(0);
    world.run();
    assert_eq!((world.status("g").phase, world.status("g").replacements), (Phase::Running, 1));
    assert_ne!(world.nodes_of("g"), [node]);
}

#[test]
fn a_worker_that_must_not_run_twice_stays_on_a_node_that_is_cut_off_until_somebody_says_that_it_is_off() {
    let mut world = World::demo();
    world.submit("g", gang(1, 8, json!({"failurePolicy": {"onUnreachableNode": "Wait"}})));
    world.run();
    let node = world.nodes_of("g")[0].clone();
    set_ready(&mut world, &node, false);
    world.step(3600);
    let status = world.status("g");
    assert_eq!((status.replacements, world.nodes_of("g")), (0, vec![node.clone()]));
    assert!(status.message.contains(&format!("nothing is heard from node {node}")), "{}", status.message);
    // Kubernetes' own eviction marks the pod as deleted; whether it has ended is not known by that.
    world.change_pod("g-w-0", |pod| pod["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z"));
    world.step(0);
    world.step(3600);
    assert!(world.pods.contains_key(&PodKey::new("default", "g-w-0")), "no second pod of the rank beside it");
    world.change_node(&node, |node| {
        node["spec"] = json!({"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]});
    });
    world.step(0);
    world.run();
    assert_eq!((world.status("g").phase, world.status("g").replacements), (Phase::Running, 1));
    assert_ne!(world.nodes_of("g"), [node]);
}

#[test]
fn a_node_that_is_not_ready_but_heard_ends_its_workers_in_order() {
    let mut world = World::demo();
    world.submit("g", gang(1, 8, json!({})));
    world.run();
    let node = world.nodes_of("g")[0].clone();
    let now = world.now.to_string();
    world.change_node(&node, |node| {
        node["status"]["conditions"] = json!([{"type": "Ready", "status": "False", "lastTransitionTime": now}]);
    });
    world.step(11);
    let pod = world.pods[&PodKey::new("default", "g-w-0")].clone();
    assert!(pod.metadata.deletion_timestamp.is_some(), "asked to end, with its own grace");
    world.run();
    assert_eq!((world.status("g").phase, world.status("g").replacements), (Phase::Running, 1));
}

#[test]
fn workers_of_a_deleted_node_and_deleted_pods_are_replaced() {
    let mut world = World::demo();
    world.submit("g", gang(2, 4, json!({"failurePolicy": {"replace": "FailedWorkers"}})));
    world.run();
    world.remove_pod(&PodKey::new("default", "g-w-1"));
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.replacements), (Phase::Running, 1));
    let node = world.nodes_of("g")[0].clone();
    world.remove_node(&node);
    world.run();
    assert_eq!(world.status("g").phase, Phase::Running, "{}", world.status("g").message);
    assert!(!world.nodes_of("g").contains(&node));
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
fn what_was_sent_is_not_sent_again_while_the_watch_lags_unless_it_lags_for_long() {
    let mut world = World::demo();
    world.submit("g", gang(2, 8, json!({})));
    world.step(1);
    let count = |world: &World, wanted: fn(&Action) -> bool| world.sent.iter().filter(|action| wanted(action)).count();
    let lifts: fn(&Action) -> bool = |action| matches!(action, Action::LiftGate { .. });
    let deletions: fn(&Action) -> bool = |action| matches!(action, Action::DeletePod { .. });
    assert_eq!(count(&world, lifts), 2);
    world.lag();
    world.change_job("g", |job| job.spec.suspend = true);
    world.step(0);
    world.step(1);
    assert_eq!(count(&world, deletions), 2, "each once");
    world.step(5);
    assert_eq!(count(&world, deletions), 4, "the watch shows nothing for long: perhaps nothing happened");
    world.catch_up();
    world.run();
    assert_eq!((world.status("g").phase, world.pods.len()), (Phase::Suspended, 0));
}

fn pods_asked_for(world: &World) -> usize {
    world.sent.iter().filter(|action| matches!(action, Action::CreatePod(_))).count()
}

#[test]
fn pods_that_the_api_server_refuses_leave_no_half_gang() {
    let mut world = World::demo();
    world.refuse_pods = Some("exceeded quota".into());
    world.submit("g", gang(2, 8, json!({})));
    world.step(1);
    let status = world.status("g");
    assert_eq!((status.phase, world.pods.len()), (Phase::Pending, 0));
    assert!(status.message.contains("exceeded quota"), "{}", status.message);
    assert_eq!((status.placement, status.start_time), (None, None));
    let (attempts, writes) = (pods_asked_for(&world), world.statuses.len());
    world.step(60);
    world.step(60);
    assert_eq!(pods_asked_for(&world), attempts + 4, "it was tried again, twice");
    assert_eq!(world.statuses.len(), writes, "an attempt that is refused as before is no news");
    let was_placed = |(_, status): &(String, weft_api::GpuJobStatus)| {
        status.conditions.iter().any(|c| c.type_ == condition::PLACED && c.status == "True")
    };
    assert!(!world.statuses.iter().any(was_placed));
    world.submit("other", gang(2, 8, json!({})));
    world.refuse_pods = None;
    world.step(0);
    world.run();
    assert_eq!(world.status("other").phase, Phase::Running, "what was refused holds nothing");
    world.delete_job("other");
    world.step(60);
    world.run();
    assert_eq!(world.status("g").phase, Phase::Running);
}

#[test]
fn wrong_jobs_fail_with_the_field_and_are_looked_at_again_when_they_change() {
    let mut world = World::demo();
    world.refuse_templates = Some("spec.groups[0].template: unknown field \"spec.containers[0].imagee\"".into());
    world.submit("template", gang(1, 1, json!({})));
    world.step(1);
    assert!(world.status("template").message.contains("imagee"), "{}", world.status("template").message);
    assert_eq!(condition_of(&world, "template", condition::VALID), Some(("False".into(), "InvalidTemplate".into())));
    world.refuse_templates = None;
    world.change_job("template", |_| {});
    world.run();
    assert_eq!(world.status("template").phase, Phase::Running);
}

#[test]
fn a_job_whose_level_is_missing_waits_with_the_field_and_starts_when_the_level_appears() {
    let mut world = World::demo();
    world.submit("g", gang(2, 8, json!({"topology": {"required": "row"}})));
    world.submit("typo", gang(1, 1, json!({"topology": {"required": "rak"}})));
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, world.pods.len()), (Phase::Pending, 0));
    assert_eq!(
        status.message,
        "spec.topology.required: there is no level \"row\"; the levels of GpuTopology \"default\" are zone, rack, host"
    );
    assert_eq!(condition_of(&world, "g", condition::PLACED), Some(("False".into(), "UnknownLevel".into())));
    assert_eq!(condition_of(&world, "g", condition::VALID), Some(("True".into(), "Accepted".into())));
    world.set_levels(&[("row", "topology.weft.dev/rack")]);
    world.run();
    assert_eq!(world.status("g").phase, Phase::Running, "{}", world.status("g").message);
    world.change_job("typo", |job| job.spec.topology.as_mut().unwrap().required = Some("row".into()));
    world.run();
    assert_eq!(world.status("typo").phase, Phase::Running, "{}", world.status("typo").message);
}

#[test]
fn a_job_of_a_newer_version_is_left_as_it_is_and_goes_on_when_it_can_be_read_again() {
    let mut world = World::demo();
    world.submit("g", gang(2, 8, json!({})));
    world.run();
    let before = world.status("g");
    world.set_unreadable("g", Some("spec.failurePolicy.replace: unknown variant `HalfOfThem`"));
    world.set_unreadable("new", Some("spec.colour: missing"));
    world.submit("new", gang(1, 1, json!({})));
    world.set_health("node-1", 0, Some("XID 79"));
    let (sent, written) = (world.sent.len(), world.statuses.len());
    world.step(1);
    world.step(3600);
    let status = world.status("g");
    assert_eq!((world.sent.len(), world.statuses.len()), (sent, written), "nothing but the condition is written");
    assert_eq!(world.said_unreadable, 2, "and that once");
    assert_eq!((status.phase, &status.workers, &status.message), (before.phase, &before.workers, &before.message));
    assert_eq!(condition_of(&world, "g", condition::VALID), Some(("False".into(), "Unreadable".into())));
    let valid = status.conditions.iter().find(|c| c.type_ == condition::VALID).unwrap();
    assert!(valid.message.contains("HalfOfThem"), "{}", valid.message);
    assert!(world.status("new").message.contains("spec.colour: missing"), "{}", world.status("new").message);
    world.set_unreadable("g", None);
    world.set_health("node-1", 0, None);
    world.run();
    assert_eq!(condition_of(&world, "g", condition::VALID), Some(("True".into(), "Accepted".into())));
    assert_eq!((world.status("g").phase, world.status("g").replacements), (Phase::Running, 0));
}

#[test]
fn a_job_that_has_ended_is_not_run_again_after_an_older_operator_could_not_read_it() {
    let mut world = World::demo();
    world.submit("g", gang(1, 1, json!({})));
    world.run();
    world.end("g-w-0", 1, "");
    world.step(0);
    world.step(3);
    assert_eq!(world.status("g").phase, Phase::Failed);
    world.set_unreadable("g", Some("spec.colour: missing"));
    world.step(1);
    world.set_unreadable("g", None);
    world.change_job("g", |job| job.spec.ttl_seconds_after_finished = Some(3600));
    world.run();
    assert_eq!(world.status("g").phase, Phase::Failed, "{}", world.status("g").message);
    assert_eq!(condition_of(&world, "g", condition::VALID), Some(("True".into(), "Accepted".into())));
}

#[test]
fn a_wrong_program_is_refused_with_the_field() {
    let mut world = World::demo();
    let array = |name: &str, rows: u32, columns: u32| json!({"name": name, "dtype": "f32", "shape": [rows, columns]});
    let program = json!({"arrays": [array("a", 2, 3), array("b", 4, 5), array("c", 2, 5)], "steps": [{"gemm": {"a": "a", "b": "b", "c": "c"}}]});
    world.submit("p", json!({"groups": [{"name": "main", "replicas": 1, "gpus": 1}], "program": program}));
    world.run();
    let status = world.status("p");
    assert_eq!(status.phase, Phase::Failed);
    assert!(status.message.starts_with("spec.program.steps[0].gemm"), "{}", status.message);
    assert!(world.pods.is_empty());
}

#[test]
fn a_suspended_job_lets_go_and_starts_again() {
    let mut world = World::demo();
    world.submit("g", gang(2, 8, json!({})));
    world.run();
    world.change_job("g", |job| job.spec.suspend = true);
    world.run();
    assert_eq!((world.status("g").phase, world.pods.len()), (Phase::Suspended, 0));
    world.change_job("g", |job| job.spec.suspend = false);
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.restarts, status.replacements), (Phase::Running, 0, 0));
}

#[test]
fn a_suspended_job_starts_again_with_the_groups_that_it_was_given_meanwhile() {
    let mut world = World::demo();
    world.submit("g", gang(2, 8, json!({})));
    world.run();
    world.change_job("g", |job| {
        job.spec.suspend = true;
        job.spec.groups[0].replicas = 1;
        job.spec.groups[0].gpus = 4;
    });
    world.run();
    assert_eq!((world.status("g").phase, world.pods.len()), (Phase::Suspended, 0));
    world.change_job("g", |job| job.spec.suspend = false);
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.ready_summary.as_str(), status.gpus), (Phase::Running, "1/1", 4));
    assert_eq!((status.workers.len(), status.workers[0].allocated_gpus.len(), world.pods.len()), (1, 4, 1));
}

#[test]
fn deadline_and_time_to_live_end_a_job() {
    let mut world = World::demo();
    world.submit("g", gang(1, 1, json!({"activeDeadlineSeconds": 60, "ttlSecondsAfterFinished": 30})));
    world.run();
    world.step(60);
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, world.pods.len()), (Phase::Failed, 0));
    assert_eq!(condition_of(&world, "g", condition::FAILED), Some(("True".into(), "DeadlineExceeded".into())));
    world.step(30);
    assert!(world.jobs.is_empty());
}

#[test]
fn an_elastic_group_starts_with_what_fits() {
    let mut world = World::demo();
    let template = json!({"spec": {"containers": [{"name": "app", "image": "i"}]}});
    world.submit(
        "e",
        json!({"groups": [{"name": "w", "replicas": 4, "minReplicas": 2, "gpus": 8, "template": template}]}),
    );
    world.run();
    let status = world.status("e");
    assert_eq!((status.phase, status.ready_summary.as_str()), (Phase::Running, "2/2"));
    assert_eq!(status.groups[0].replicas, 2);
    let env = &world.pods[&PodKey::new("default", "e-w-1")].spec.as_ref().unwrap().containers[0].env;
    assert!(env.iter().flatten().any(|env| env.name == "WEFT_WORLD_SIZE" && env.value.as_deref() == Some("2")));
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
