//! Everything at once: a slow API server that loses answers, a watch that lags, nodes and GPUs that fail, jobs that come and go.
//! Whatever happens, no GPU is planned for two pods, and when the storm is over every job runs.

use crate::world::{Answer, World, gang};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use weft_api::job::Phase;
use weft_operator::facts::{PodFacts, PodKey};

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

#[derive(Clone, Debug)]
enum Event {
    /// The operator decides and writes, and does not hear what came of it.
    Pass(i64),
    /// It hears of so many batches.
    Hear(usize),
    Lag,
    CatchUp,
    /// It sees so many of the changes that it missed.
    See(usize),
    /// What becomes of the next writes.
    Answers(Vec<Answer>),
    /// Scheduler and kubelets do their part.
    Kubelets,
    Ready(usize, bool),
    Healthy(usize, usize, bool),
    Submit(u32, u32, bool),
    DeleteJob(usize),
    Suspend(usize, bool),
    /// A suspended job is changed: so many workers.
    Resize(usize, u32),
    /// Creations never get there, or they do again.
    Vanish(bool),
    /// A container of a worker ends with an error.
    End(usize),
    /// Somebody deletes a pod.
    DeletePod(usize),
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let answer = prop_oneof![2 => Just(Answer::Done), 1 => Just(Answer::Lost), 1 => Just(Answer::NotDone)];
    prop_oneof![
        10 => (0i64..7).prop_map(Event::Pass),
        6 => (1usize..4).prop_map(Event::Hear),
        3 => Just(Event::Lag),
        1 => Just(Event::CatchUp),
        6 => (1usize..4).prop_map(Event::See),
        5 => prop::collection::vec(answer, 1..8).prop_map(Event::Answers),
        4 => Just(Event::Kubelets),
        2 => (0usize..3, prop::bool::weighted(0.6)).prop_map(|(node, ready)| Event::Ready(node, ready)),
        2 => (0usize..3, 0usize..4, prop::bool::weighted(0.6)).prop_map(|(n, gpu, healthy)| Event::Healthy(n, gpu, healthy)),
        3 => (1u32..4, 1u32..5, any::<bool>()).prop_map(|(workers, gpus, whole)| Event::Submit(workers, gpus, whole)),
        1 => (0usize..6).prop_map(Event::DeleteJob),
        2 => (0usize..6, any::<bool>()).prop_map(|(job, suspend)| Event::Suspend(job, suspend)),
        1 => (0usize..6, 1u32..4).prop_map(|(job, workers)| Event::Resize(job, workers)),
        2 => prop::bool::weighted(0.3).prop_map(Event::Vanish),
        1 => (0usize..8).prop_map(Event::End),
        1 => (0usize..8).prop_map(Event::DeletePod),
        1 => Just(Event::Restart),
    ]
}

/// No GPU is planned for two pods that have not ended.
pub fn check(world: &World) -> Result<(), TestCaseError> {
    let mut planned: BTreeMap<String, &PodKey> = BTreeMap::new();
    for (key, pod) in &world.pods {
        let facts = PodFacts::of(pod.clone());
        if facts.is_over() {
            continue;
        }
        for gpu in facts.planned_gpus {
            if let Some(other) = planned.insert(gpu.clone(), key) {
                return Err(TestCaseError::fail(format!("{gpu} is planned for {other} and for {key}")));
            }
        }
    }
    Ok(())
}

fn befall(world: &mut World, event: Event, jobs: &mut Vec<String>) {
    let nth = |world: &World, at: usize| world.pods.keys().nth(at).map(|key| key.name.clone());
    match event {
        Event::Pass(seconds) => world.pass_unheard(seconds),
        Event::Hear(batches) => world.hear(batches),
        Event::Lag => world.lag(),
        Event::CatchUp => world.catch_up(),
        Event::See(changes) => world.catch_up_with(changes),
        Event::Answers(answers) => world.answers.extend(answers),
        Event::Kubelets => world.kubelet(),
        Event::Ready(node, ready) => world.set_ready(NODES[node], ready),
        Event::Healthy(node, gpu, healthy) => world.set_health(NODES[node], gpu, (!healthy).then_some("XID 79")),
        Event::Submit(workers, gpus, whole) => {
            if jobs.len() > 5 {
                return;
            }
            // A name that is free may have been an earlier job's.
            let names = (0..).map(|nth| format!("job-{nth}"));
            let Some(name) = names.into_iter().find(|name| !jobs.contains(name)) else { return };
            let replace = if whole { "WholeGang" } else { "FailedWorkers" };
            let policy = json!({"failurePolicy": {"replace": replace, "maxRestarts": 1000, "backoffSeconds": 0}});
            world.submit(&name, gang(workers, gpus, policy));
            jobs.push(name);
        }
        Event::DeleteJob(at) => {
            if at < jobs.len() {
                world.delete_job(&jobs.remove(at));
            }
        }
        Event::Suspend(at, suspend) => {
            if let Some(job) = jobs.get(at) {
                world.change_job(job, |job| job.spec.suspend = suspend);
            }
        }
        Event::Resize(at, workers) => {
            if let Some(job) = jobs.get(at) {
                world.change_job(job, |job| {
                    if job.spec.suspend {
                        job.spec.groups[0].replicas = workers;
                    }
                });
            }
        }
        Event::Vanish(vanish) => world.creations_vanish = vanish,
        Event::End(at) => {
            if let Some(pod) = nth(world, at)
                && world.is_running(&pod)
            {
                world.end(&pod, 1, "");
            }
        }
        Event::DeletePod(at) => {
            if let Some(pod) = nth(world, at) {
                world.delete_pod(&pod, 5);
            }
        }
        Event::Restart => world.restart_operator(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_gpu_is_planned_twice_and_all_jobs_run_in_the_end(events in prop::collection::vec(event(), 1..80)) {
        let mut world = World::demo();
        world.refuses_failed_gpus = true;
        let mut jobs = Vec::new();
        for event in events {
            befall(&mut world, event, &mut jobs);
            check(&world)?;
        }
        // The storm is over.
        world.answers.clear();
        world.creations_vanish = false;
        for job in &jobs {
            world.change_job(job, |job| job.spec.suspend = false);
        }
        world.catch_up();
        world.hear(usize::MAX);
        for node in NODES {
            world.set_ready(node, true);
            for gpu in 0..4 {
                world.set_health(node, gpu, None);
            }
        }
        // Not all may fit beside each other; when a job has come to run, it may go.
        while !jobs.is_empty() {
            for _ in 0..40 {
                world.step(10);
                world.kubelet();
                check(&world)?;
            }
            let runs = |job: &String| world.status(job).phase == Phase::Running;
            let said: Vec<String> = jobs.iter().map(|job| world.status(job).message).collect();
            let Some(at) = jobs.iter().position(runs) else {
                return Err(TestCaseError::fail(format!("none of {jobs:?} runs: {said:?}")));
            };
            world.delete_job(&jobs.remove(at));
        }
        world.step(10);
        prop_assert!(world.pods.is_empty());
        // And nothing is held for anybody.
        world.submit("last", gang(2, 8, json!({})));
        world.run();
        prop_assert_eq!(world.status("last").phase, Phase::Running, "{}", world.status("last").message);
    }
}
