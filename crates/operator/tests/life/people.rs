//! What people do to a job: make it wrong, suspend it, change it, let it end.

use crate::condition_of;
use crate::world::{World, gang};
use serde_json::json;
use weft_api::job::{Phase, condition};

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
