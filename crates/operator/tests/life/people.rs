//! What people do to a job: make it wrong, suspend it, change it, let it end.

use crate::condition_of;
use crate::world::{World, gang};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use weft_api::job::{Phase, WorkerPhase, condition};
use weft_operator::facts::PodKey;

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
fn a_job_that_is_corrected_while_its_templates_are_judged_is_judged_anew() {
    let mut world = World::demo();
    world.refuse_templates = Some("spec.groups[0].template: unknown field \"spec.containers[0].imagee\"".into());
    world.is_corrected_while_asked = true;
    world.submit("g", gang(1, 1, json!({})));
    world.run();
    assert_eq!(world.status("g").phase, Phase::Running, "{}", world.status("g").message);
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
fn a_job_that_is_made_again_deletes_the_pods_of_the_one_before_and_nobody_elses() {
    let mut world = World::demo();
    world.keep_garbage = true;
    world.submit("g", gang(3, 4, json!({})));
    world.run();
    let old: Vec<_> = world.pods.values().map(|pod| pod.metadata.uid.clone()).collect();
    world.delete_job("g");
    world.submit("g", gang(2, 8, json!({})));
    world.step(0);
    assert!(world.status("g").message.contains("waiting for 2 old pods to end"), "{}", world.status("g").message);
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.replacements, world.pods.len()), (Phase::Running, 0, 2), "{}", status.message);
    assert!(world.pods.values().all(|pod| !old.contains(&pod.metadata.uid)));

    // A name may be taken by a pod of nobody, of something else, or of a living job: "a" has a group "b-w", "a-b" a group "w".
    world.delete_job("g");
    world.foreign_pod("h-w-0", "node-1", 0);
    world.remove_pod(&PodKey::new("default", "g-w-1"));
    world.foreign_pod("g-w-1", "node-1", 0);
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "g", "uid": "r", "controller": true}]);
    world.change_pod("g-w-1", |pod| pod["metadata"]["ownerReferences"] = owner);
    let mut spec = gang(1, 1, json!({}));
    spec["groups"][0]["name"] = json!("b-w");
    world.submit("a", spec);
    world.run();
    let before: Vec<_> = world.pods.iter().map(|(key, pod)| (key.clone(), pod.metadata.uid.clone())).collect();
    for name in ["h", "a-b"] {
        world.submit(name, gang(1, 1, json!({})));
    }
    world.submit("g", gang(2, 1, json!({})));
    world.run();
    for (name, pod) in [("h", "h-w-0"), ("a-b", "a-b-w-0"), ("g", "g-w-1")] {
        let message = world.status(name).message;
        assert!(message.contains(&format!("{pod} is there already and is not this job's")), "{message}");
    }
    assert!(
        before.iter().filter(|(key, _)| key.name != "g-w-0").all(|(key, uid)| world.pods[key].metadata.uid == *uid)
    );
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

/// Suspends the job, gives it another image and resumes it, all before the operator looks.
fn change_at_once(world: &mut World, job: &str, image: &str) {
    world.change_job(job, |job| {
        job.spec.suspend = true;
        let template = job.spec.groups[0].template.as_mut().unwrap();
        template.spec["containers"][0]["image"] = json!(image);
    });
    world.change_job(job, |job| job.spec.suspend = false);
}

fn images(world: &World) -> Vec<String> {
    let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    world.pods.values().map(image).collect()
}

#[test]
fn workers_of_a_job_that_was_suspended_changed_and_resumed_at_once_all_start_anew() {
    let mut world = World::demo();
    world.submit("g", gang(2, 8, json!({"failurePolicy": {"replace": "FailedWorkers"}})));
    world.run();
    change_at_once(&mut world, "g", "i:2");
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.restarts, status.replacements), (Phase::Running, 0, 0), "{}", status.message);
    assert_eq!((images(&world), status.workers[0].attempt), (vec!["i:2".to_owned(); 2], 1));
    // Fewer of them, too, and one that had ended well.
    world.end("g-w-0", 0, "");
    world.step(0);
    world.change_job("g", |job| {
        job.spec.suspend = true;
        job.spec.groups[0].replicas = 1;
    });
    world.change_job("g", |job| job.spec.suspend = false);
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.ready_summary.as_str(), world.pods.len()), (Phase::Running, "1/1", 1));
}

#[test]
fn the_new_templates_of_a_job_that_was_resumed_at_once_are_checked_before_its_workers_are() {
    let mut world = World::demo();
    world.submit("g", gang(2, 8, json!({})));
    world.run();
    world.refuse_templates = Some("spec.groups[0].template: unknown field \"spec.imagee\"".into());
    change_at_once(&mut world, "g", "i:2");
    world.run();
    assert_eq!((world.status("g").phase, world.pods.len()), (Phase::Failed, 0), "{}", world.status("g").message);
    assert_eq!(condition_of(&world, "g", condition::VALID), Some(("False".into(), "InvalidTemplate".into())));
}

#[test]
fn a_job_that_was_refused_after_it_ran_starts_every_worker_anew_once_it_is_corrected() {
    let mut world = World::demo();
    world.submit("g", gang(2, 4, json!({"failurePolicy": {"replace": "FailedWorkers"}})));
    world.run();
    world.end("g-w-0", 0, "");
    world.run();
    assert_eq!(world.status("g").ready_summary, "2/2");
    world.refuse_templates = Some("spec.groups[0].template: unknown field \"spec.imagee\"".into());
    change_at_once(&mut world, "g", "i:2");
    world.run();
    assert_eq!(world.status("g").phase, Phase::Failed);
    world.refuse_templates = None;
    change_at_once(&mut world, "g", "i");
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, images(&world)), (Phase::Running, vec!["i".to_owned(); 2]));
    assert!(world.is_running("g-w-0") && world.is_running("g-w-1"), "also the one that had ended well");
    assert!(status.workers.iter().all(|worker| worker.attempt > 0 && worker.phase == WorkerPhase::Ready));
}

#[test]
fn workers_stay_when_something_else_of_the_job_changes_or_nothing_says_of_what_they_were_made() {
    let mut world = World::demo();
    world.submit("g", gang(2, 8, json!({})));
    world.run();
    world.change_job("g", |job| job.spec.suspend = true);
    world.change_job("g", |job| {
        job.spec.suspend = false;
        job.spec.ttl_seconds_after_finished = Some(60);
    });
    world.run();
    assert_eq!((world.status("g").phase, world.status("g").workers[0].attempt), (Phase::Running, 0));
    // As operators before this one made them.
    for pod in ["g-w-0", "g-w-1"] {
        world.change_pod(pod, |pod| {
            drop(pod["metadata"]["annotations"].as_object_mut().unwrap().remove("weft.dev/revision"))
        });
    }
    change_at_once(&mut world, "g", "i:2");
    world.run();
    assert_eq!((images(&world), world.status("g").workers[0].attempt), (vec!["i".to_owned(); 2], 0));
    // As one that makes its digests in another way did: while nobody changes the job, none is believed.
    let generation = world.jobs.values().next().unwrap().metadata.generation.unwrap();
    let other = format!("{generation}-0123456789abcdef");
    world.change_pod("g-w-0", |pod| pod["metadata"]["annotations"]["weft.dev/revision"] = json!(other));
    world.run();
    assert_eq!(world.status("g").workers[0].attempt, 0);
    world.change_job("g", |job| job.spec.ttl_seconds_after_finished = None);
    world.run();
    assert_eq!((world.status("g").phase, world.status("g").workers[0].attempt), (Phase::Running, 1));
}

#[test]
fn an_operator_killed_anywhere_in_a_change_starts_every_worker_anew_once() {
    // Two deletions, the service, two pods, two gates.
    for actions in 0..8 {
        let mut world = World::demo();
        world.submit("g", gang(2, 8, json!({})));
        world.run();
        change_at_once(&mut world, "g", "i:2");
        world.die_after = Some(actions);
        world.step(0);
        world.restart_operator();
        world.run();
        world.step(5);
        world.run();
        let status = world.status("g");
        assert_eq!((status.phase, status.workers[0].attempt), (Phase::Running, 1), "{actions}: {}", status.message);
        assert_eq!(images(&world), ["i:2", "i:2"], "killed after {actions} actions");
    }
}
