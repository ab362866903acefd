//! The leader's loop ends with its term: nothing is written after the lease is lost, however much there is left to do.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's message")]

use futures::StreamExt;
use jiff::SignedDuration;
use kube::Client;
use kube::client::Body;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::watcher::Event;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use weft_operator::controller::Controller;
use weft_operator::facts::PodKey;
use weft_operator::index::{JobEntry, JobKey};
use weft_operator::lease::Term;
use weft_operator::metrics::Metrics;
use weft_operator::pulse::Pulse;
use weft_operator::reconcile::Action;
use weft_operator::reconcile::Settings;
use weft_operator::watch::{Change, Kind, Seen};
use weft_operator::worker_pod::RuntimeImage;
use weft_operator::write::{Batch, Writer};

const JOBS: usize = 50;

/// Lists of everything, with some jobs that wait, and then nothing more, for ever.
fn world() -> impl futures::Stream<Item = Change> {
    let template = json!({"spec": {"containers": [{"name": "app", "image": "i"}]}});
    let job = move |n: usize| {
        let value = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "GpuJob",
            "metadata": {"name": format!("job-{n}"), "namespace": "default", "uid": format!("uid-{n}"), "generation": 1},
            "spec": {"groups": [{"name": "w", "replicas": 1, "gpus": 1, "template": template}]},
        });
        let key = JobKey { namespace: "default".into(), name: format!("job-{n}") };
        let job = Ok(Arc::new(serde_json::from_value(value).unwrap()));
        Seen::Job(key, JobEntry { uid: format!("uid-{n}"), generation: Some(1), job })
    };
    let mut events: Vec<(Kind, Event<Seen>)> = Vec::new();
    for kind in Kind::ALL {
        events.push((kind, Event::Init));
        if kind == Kind::Job {
            events.extend((0..JOBS).map(|n| (kind, Event::InitApply(job(n)))));
        }
        events.push((kind, Event::InitDone));
    }
    let changes = events.into_iter().map(|(kind, event)| Change { kind, event });
    futures::stream::iter(changes).chain(futures::stream::pending())
}

/// Runs the loop until `term` ends; the API server takes every request, calls `asked` with their number, and refuses it.
async fn requests(term: &Term, asked: impl Fn(usize) + Clone + Send + 'static) -> usize {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let service = tower::service_fn(move |_: http::Request<Body>| {
        asked(counter.fetch_add(1, Ordering::SeqCst) + 1);
        async { Err::<http::Response<Body>, std::io::Error>(std::io::Error::other("refused by this test")) }
    });
    let client = Client::new(service, "default");
    let recorder = Recorder::new(client.clone(), Reporter { controller: "test".into(), instance: None });
    let metrics = Metrics::default();
    let settings = Settings {
        runtime: RuntimeImage { image: "weft-runtime".into(), pull_policy: None },
        node_lost_after: SignedDuration::from_secs(10),
    };
    let writer = Writer::new(client, recorder, metrics.clone(), term.clone());
    Controller::new(settings, metrics).run(term, world(), writer, Pulse::default()).await;
    count.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_after_the_lease_is_lost_and_the_loop_ends() {
    let lost = Term::endless();
    lost.end();
    assert_eq!(requests(&lost, |_| {}).await, 0);
    // The lease is lost while the jobs are being written for, and again and again after failures.
    let term = Term::endless();
    let ending = term.clone();
    let sent = requests(&term, move |n| {
        if n == 3 * JOBS {
            ending.end();
        }
    });
    assert!(sent.await < 4 * JOBS, "only what was on the way already");
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_batch_is_not_sent_when_the_lease_is_lost_within_it() {
    for (lost_after, expected) in [(0, 0), (1, 1), (100, 4)] {
        let term = Term::endless();
        let (count, ending) = (Arc::new(AtomicUsize::new(0)), term.clone());
        if lost_after == 0 {
            term.end();
        }
        let counter = count.clone();
        let service = tower::service_fn(move |_: http::Request<Body>| {
            if counter.fetch_add(1, Ordering::SeqCst) + 1 == lost_after {
                ending.end();
            }
            async { Ok::<_, std::io::Error>(http::Response::new(Body::from(b"{}".to_vec()))) }
        });
        let client = Client::new(service, "default");
        let recorder = Recorder::new(client.clone(), Reporter { controller: "test".into(), instance: None });
        let pod =
            |n: usize| Action::DeletePod { pod: PodKey::new("n", &n.to_string()), uid: n.to_string(), grace: None };
        let job = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "GpuJob", "metadata": {"name": "g", "namespace": "n"}, "spec": {"groups": []},
        });
        let batch = Batch {
            job: Some(Arc::new(serde_json::from_value(job).unwrap())),
            status: Some(weft_api::GpuJobStatus::default()),
            actions: (0..3).map(pod).collect(),
            ..Batch::new(JobKey { namespace: "n".into(), name: "g".into() }, "u".into())
        };
        let outcome = Writer::new(client, recorder, Metrics::default(), term).write(batch).await;
        assert_eq!(count.load(Ordering::SeqCst), expected, "lost after {lost_after}");
        assert_eq!(outcome.trouble.is_some(), expected < 4, "{:?}", outcome.trouble);
    }
}
