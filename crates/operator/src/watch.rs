//! The watches: every object that matters, read down to its facts, as one stream of changes.
//!
//! A watch that breaks is taken up again where it stopped within a second or two, for as long as the API server is away. An object of
//! ours that cannot be read (its definition is older or newer than this operator) arrives as such, and stops no other.

use crate::facts::{NodeFacts, PodFacts};
use crate::guard::Guarded;
use crate::index::{JobEntry, JobKey};
use crate::metrics::Metrics;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use weft_api::{GpuJob, GpuNode, GpuTopology};

/// First pause after an error; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// An API server that is back is noticed after this at the latest.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long one watch request lasts: a connection that died silently is noticed a little later.
const WATCH_SECONDS: u32 = 60;

/// Kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Levels,
    Node,
    Report,
    Pod,
    Job,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Levels, Self::Node, Self::Report, Self::Pod, Self::Job];

    /// Resource name, for logs and metrics.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Levels => "gputopologies",
            Self::Node => "nodes",
            Self::Report => "gpunodes",
            Self::Pod => "pods",
            Self::Job => "gpujobs",
        }
    }
}

/// An object, read.
#[derive(Debug)]
pub enum Seen {
    Levels(GpuTopology),
    Node(NodeFacts),
    Report(GpuNode),
    Pod(Box<PodFacts>),
    Job(JobKey, JobEntry),
    /// A report or levels of this name that cannot be read.
    Unreadable(String),
}

/// What happened in one kind.
#[derive(Debug)]
pub struct Change {
    pub kind: Kind,
    pub event: Event<Seen>,
}

/// All changes of all kinds, for as long as the stream is polled. It does not end.
pub fn changes(client: &Client, metrics: &Metrics) -> impl Stream<Item = Change> + Send + use<> {
    let levels =
        stream(Kind::Levels, Api::all(client.clone()), metrics, |levels| guarded(Kind::Levels, levels, Seen::Levels));
    let nodes = stream(Kind::Node, Api::all(client.clone()), metrics, |node: Node| Seen::Node(NodeFacts::of(node)));
    let reports =
        stream(Kind::Report, Api::all(client.clone()), metrics, |report| guarded(Kind::Report, report, Seen::Report));
    let pods = stream(Kind::Pod, Api::all(client.clone()), metrics, |pod: Pod| Seen::Pod(Box::new(PodFacts::of(pod))));
    let jobs = stream(Kind::Job, Api::all(client.clone()), metrics, job);
    futures::stream::select_all([levels, nodes, reports, pods, jobs])
}

fn job(job: Guarded<GpuJob>) -> Seen {
    let metadata = job.meta();
    let key = JobKey {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    };
    let uid = metadata.uid.clone().unwrap_or_default();
    let generation = metadata.generation;
    let job = job.0.map(Arc::new).map_err(|unread| unread.why);
    Seen::Job(key, JobEntry { uid, generation, job })
}

fn guarded<K>(kind: Kind, object: Guarded<K>, read: impl FnOnce(K) -> Seen) -> Seen {
    match object.0 {
        Ok(object) => read(object),
        Err(unread) => {
            let name = unread.metadata.name.unwrap_or_default();
            // Debug: agents write often, and all of one version write alike. The controller says it once.
            tracing::debug!(resource = kind.resource(), name, error = unread.why.error, "cannot read an object");
            Seen::Unreadable(name)
        }
    }
}

fn stream<K>(
    kind: Kind,
    api: Api<K>,
    metrics: &Metrics,
    read: impl Fn(K) -> Seen + Send + Copy + 'static,
) -> futures::stream::BoxStream<'static, Change>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default,
{
    let metrics = metrics.clone();
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let events = watch::watcher(api, config).backoff(Pauses::default());
    let broken = Arc::new(AtomicBool::new(false));
    let events = events.inspect(move |event| match event {
        Ok(_) => {
            if broken.swap(false, Ordering::Relaxed) {
                tracing::info!(resource = kind.resource(), "the watch goes on");
            }
        }
        Err(error) => {
            metrics.watch_failed(kind);
            // Once an outage, not once a try.
            if !broken.swap(true, Ordering::Relaxed) {
                tracing::warn!(resource = kind.resource(), %error, "the watch broke, taking it up again");
            }
        }
    });
    let slim = move |mut object: K| {
        object.managed_fields_mut().clear();
        read(object)
    };
    let changes = events.filter_map(move |event| async move {
        let event = match event.ok()? {
            Event::Init => Event::Init,
            Event::InitDone => Event::InitDone,
            Event::Apply(object) => Event::Apply(slim(object)),
            Event::InitApply(object) => Event::InitApply(slim(object)),
            Event::Delete(object) => Event::Delete(slim(object)),
        };
        Some(Change { kind, event })
    });
    changes.boxed()
}

/// Doubling pauses, short enough for an operator on which people wait.
#[derive(Debug, Default)]
struct Pauses {
    last: Option<Duration>,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.last.map_or(FIRST_PAUSE, |last| (last * 2).min(LONGEST_PAUSE));
        self.last = Some(pause);
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.last = None;
    }
}
