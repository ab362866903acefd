//! Gangs that find their places, or wait and say why.

use crate::condition_of;
use crate::world::{World, gang};
use jiff::SignedDuration;
use serde_json::json;
use weft_api::job::{Phase, condition};
use weft_operator::facts::PodKey;
use weft_operator::reconcile::Action;

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
fn of_many_jobs_that_wait_each_is_told_why_now_and_then_and_starts_as_soon_as_there_is_room() {
    let mut world = World::demo();
    world.submit("all", gang(2, 8, json!({})));
    world.run();
    for job in 0..100 {
        world.submit(&format!("waits-{job}"), gang(3, 8, json!({})));
    }
    world.submit("fits", gang(2, 8, json!({})));
    world.step(0);
    let told = |world: &World, why: &str| {
        (0..100).filter(|job| world.status(&format!("waits-{job}")).message.contains(why)).count()
    };
    assert_eq!((told(&world, "no node has room for any"), world.status("fits").phase), (100, Phase::Pending));
    world.delete_job("all");
    world.run();
    assert_eq!(world.status("fits").phase, Phase::Running);
    // Meanwhile what they need was there, and was taken again.
    assert_eq!(told(&world, "no node has room for any"), 100);
    world.delete_job("fits");
    world.statuses.clear();
    world.step(1);
    assert!(world.statuses.is_empty(), "{:?}", world.statuses.len());
    // A tenth of a second for each of them.
    world.step(10);
    assert_eq!(told(&world, "room for 2 of 3"), 100);
    // Whose question is another is told at once.
    world.change_job("waits-7", |job| job.spec.suspend = true);
    world.step(0);
    world.change_job("waits-7", |job| {
        job.spec.suspend = false;
        job.spec.groups[0].replicas = 5;
    });
    world.step(0);
    assert_eq!(told(&world, "room for 2 of 5"), 1);
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
