//! The leader's loop: changes come in, one job at a time is decided on, batches go out.
//!
//! ```text
//! watches ──▶ index ──▶ jobs to look at ──▶ reconcile ──▶ batch ──▶ writer
//!                             ▲                │ assumed pods            │
//!                             └────────────────┴──── outcomes ◀──────────┘
//! ```
//!
//! Placement is decided here and nowhere else, in one task: two jobs never get the same GPU, because a decision is noted in the
//! index before the next one is made. A new leader starts with an empty index and lists the world before it decides anything.

use crate::facts::PodKey;
use crate::guard::Unreadable;
use crate::index::{Index, JobKey, Touched};
use crate::lease::Term;
use crate::metrics::Metrics;
use crate::pulse::Pulse;
use crate::reconcile::{self, Action, Decision, Memo, Refusal, Settings, Verdict};
use crate::watch::{Change, Kind, Seen};
use crate::write::{Batch, Outcome, UnreadableStatus, Writer, created};
use futures::stream::{FuturesUnordered, Stream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use kube::runtime::watcher::Event;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::pin::pin;
use std::time::{Duration, Instant};
use weft_api::GpuJobStatus;
use weft_api::job::{Phase, Reason, condition};

/// Waiting jobs look again at most this often, however much happens in the cluster.
const ROOM_EVERY: SignedDuration = SignedDuration::from_millis(100);
/// All waiting jobs together are told anew why there is no room once in so long, on average.
const TELL_EVERY: SignedDuration = SignedDuration::from_millis(100);
/// After so long each of them is, however many wait.
const TELL_WITHIN: SignedDuration = SignedDuration::from_secs(60);
/// How long jobs are looked at before changes, outcomes and the end of the term are heard again; what is left comes next. A
/// single gang on thousands of nodes takes some tens of milliseconds, so a pass lasts little longer than this.
const PASS: Duration = Duration::from_millis(100);
/// Longest pause of the loop when nothing happens.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How many changes are taken in before jobs are looked at.
const CHANGES_AT_A_TIME: usize = 1024;
/// Longest pause after writes that did not go through.
const LONGEST_RETRY: SignedDuration = SignedDuration::from_secs(5);
/// Longest pause after the API server refused pods.
const LONGEST_REFUSAL: SignedDuration = SignedDuration::from_secs(60);

/// What the leader knows of a job beside the index.
#[derive(Default)]
struct JobState {
    uid: String,
    /// The status as it was written last: newer than what the watch shows.
    status: GpuJobStatus,
    memo: Memo,
    /// It was written without an answer: what is in the cluster may be this status or the one before.
    unsure: bool,
    /// A batch is on the way.
    busy: bool,
    /// When it was decided on.
    decided: Option<Timestamp>,
    /// It creates pods.
    creates: bool,
    /// Pods among them that were asked for before: they may be there.
    again: Vec<PodKey>,
    /// Batches in a row that did not go through, and refusals in a row.
    failures: u32,
    refusals: u32,
    /// Workers have no place: to be looked at when there may be room.
    waits: bool,
    wake: Option<Timestamp>,
    /// The job cannot be read.
    unreadable: bool,
    /// The resource version at which that was said.
    said_at: Option<String>,
}

/// The leader's work.
pub struct Controller {
    index: Index,
    settings: Settings,
    metrics: Metrics,
    jobs: HashMap<JobKey, JobState>,
    /// Jobs to look at.
    due: BTreeSet<JobKey>,
    /// The last pass left some of them for the next.
    unfinished: bool,
    /// There may be room since the waiting jobs were looked at last.
    room: bool,
    last_room: Option<Timestamp>,
    /// Jobs that waited when the pass began.
    waiting: usize,
    /// Names seen in a list that is not complete yet.
    listing: HashMap<Kind, HashSet<PodKey>>,
    synced: BTreeSet<Kind>,
    told_unreadable: BTreeSet<Kind>,
}

impl Controller {
    pub fn new(settings: Settings, metrics: Metrics) -> Self {
        Self {
            index: Index::default(),
            settings,
            metrics,
            jobs: HashMap::new(),
            due: BTreeSet::new(),
            unfinished: false,
            room: false,
            last_room: None,
            waiting: 0,
            listing: HashMap::new(),
            synced: BTreeSet::new(),
            told_unreadable: BTreeSet::new(),
        }
    }

    /// Works until the term ends, and then until the last request that was sent has come back.
    pub async fn run(mut self, term: &Term, changes: impl Stream<Item = Change>, writer: Writer, pulse: Pulse) {
        let mut changes = pin!(changes.ready_chunks(CHANGES_AT_A_TIME));
        let mut running = FuturesUnordered::new();
        let mut ended = pin!(term.ended());
        loop {
            pulse.turned();
            let pause = self.pause(Timestamp::now());
            tokio::select! {
                biased;
                () = &mut ended => break,
                Some(outcome) = running.next(), if !running.is_empty() => self.settle(outcome, Timestamp::now()),
                Some(batch) = changes.next() => batch.into_iter().for_each(|change| self.apply(change)),
                () = tokio::time::sleep(pause) => {}
            }
            if !term.is_valid() {
                break;
            }
            for batch in self.decide(Timestamp::now(), Instant::now() + PASS) {
                let writer = writer.clone();
                running.push(async move { writer.write(batch).await });
            }
            self.count();
        }
        while running.next().await.is_some() {}
    }

    /// Takes in one change.
    pub fn apply(&mut self, change: Change) {
        let Change { kind, event } = change;
        match event {
            Event::Init => {
                self.listing.insert(kind, HashSet::new());
            }
            Event::InitApply(seen) => {
                let name = name_of(&seen);
                self.listing.entry(kind).or_default().insert(name);
                self.apply_seen(kind, seen);
            }
            Event::InitDone => {
                let listed = self.listing.remove(&kind).unwrap_or_default();
                self.delete_unlisted(kind, &listed);
                if self.synced.insert(kind) && self.is_synced() {
                    tracing::info!(
                        jobs = self.index.jobs().count(),
                        nodes = self.index.node_names().count(),
                        "the world is listed"
                    );
                    self.due = self.index.jobs().map(|(key, _)| key.clone()).collect();
                }
            }
            Event::Apply(seen) => self.apply_seen(kind, seen),
            Event::Delete(seen) => {
                let touched = match seen {
                    Seen::Levels(levels) if is_default(&levels) => self.index.apply_levels(None),
                    Seen::Levels(_) => Touched::default(),
                    Seen::Node(node) => self.index.delete_node(&node.name),
                    Seen::Report(report) => {
                        self.index.delete_report(report.metadata.name.as_deref().unwrap_or_default())
                    }
                    Seen::Pod(pod) => self.index.delete_pod(&pod.key),
                    Seen::Job(key, _) => self.index.delete_job(&key),
                    Seen::Unreadable(name) if kind == Kind::Report => self.index.delete_report(&name),
                    Seen::Unreadable(name) if name == weft_api::names::TOPOLOGY_NAME => self.index.apply_levels(None),
                    Seen::Unreadable(_) => Touched::default(),
                };
                self.touch(touched);
            }
        }
    }

    fn apply_seen(&mut self, kind: Kind, seen: Seen) {
        let touched = match seen {
            Seen::Levels(levels) if is_default(&levels) => self.index.apply_levels(Some(levels.spec)),
            Seen::Levels(_) => Touched::default(),
            Seen::Node(node) => self.index.apply_node(node),
            Seen::Report(report) => self.index.apply_report(report),
            Seen::Pod(pod) => self.index.apply_pod(*pod),
            Seen::Job(key, entry) => self.index.apply_job(key, entry),
            Seen::Unreadable(name) => self.apply_unreadable(kind, &name),
        };
        self.touch(touched);
    }

    /// A report that cannot be read places nothing: its node takes no new workers, and those that it has are left alone. Levels
    /// that cannot be read leave the old ones in place.
    fn apply_unreadable(&mut self, kind: Kind, name: &str) -> Touched {
        self.metrics.unreadable(kind);
        if self.told_unreadable.insert(kind) {
            let resource = kind.resource();
            tracing::warn!(
                resource,
                name,
                "written by another version of Weft, cannot be read: upgrade the operator (told once; details at debug)"
            );
        }
        if kind == Kind::Report { self.index.apply_unreadable_report(name) } else { Touched::default() }
    }

    /// What was there before a new list and is not in it is gone.
    fn delete_unlisted(&mut self, kind: Kind, listed: &HashSet<PodKey>) {
        let unlisted = |name: &String| !listed.contains(&PodKey::new("", name));
        let gone: Vec<Touched> = match kind {
            Kind::Levels if !listed.contains(&PodKey::new("", weft_api::names::TOPOLOGY_NAME)) => {
                vec![self.index.apply_levels(None)]
            }
            Kind::Levels => Vec::new(),
            Kind::Node => {
                let names: Vec<String> = self.index.node_names().filter(|name| unlisted(name)).cloned().collect();
                names.iter().map(|name| self.index.delete_node(name)).collect()
            }
            Kind::Report => {
                let names: Vec<String> = self.index.report_names().filter(|name| unlisted(name)).cloned().collect();
                names.iter().map(|name| self.index.delete_report(name)).collect()
            }
            Kind::Pod => {
                let keys: Vec<PodKey> = self.index.pod_keys().filter(|key| !listed.contains(key)).cloned().collect();
                keys.iter().map(|key| self.index.delete_pod(key)).collect()
            }
            Kind::Job => {
                let unlisted = |key: &&JobKey| !listed.contains(&PodKey::new(&key.namespace, &key.name));
                let keys: Vec<JobKey> = self.index.jobs().map(|(key, _)| key).filter(unlisted).cloned().collect();
                keys.iter().map(|key| self.index.delete_job(key)).collect()
            }
        };
        gone.into_iter().for_each(|touched| self.touch(touched));
    }

    fn touch(&mut self, touched: Touched) {
        self.due.extend(touched.jobs);
        self.room |= touched.room;
    }

    fn is_synced(&self) -> bool {
        self.synced.len() == Kind::ALL.len()
    }

    /// How long there is nothing to do if nothing happens.
    fn pause(&self, now: Timestamp) -> Duration {
        const LONGEST: Duration = LONGEST_PAUSE;
        if self.unfinished {
            return Duration::ZERO;
        }
        let wake = self.jobs.values().filter(|job| !job.busy).filter_map(|job| job.wake).min();
        let until = wake.map_or(LONGEST, |wake| Duration::try_from(wake.duration_since(now)).unwrap_or_default());
        let room = if self.room && self.is_synced() {
            let due = |last: Timestamp| Duration::try_from(ROOM_EVERY - now.duration_since(last)).unwrap_or_default();
            self.last_room.map_or(Duration::ZERO, due)
        } else {
            LONGEST
        };
        until.min(room).min(LONGEST)
    }

    /// Looks at the jobs that are due until the time `until`, at one at least: first at those that have their places, since
    /// their decisions are short and their GPUs idle meanwhile, then at those that wait, oldest first. What is left stays due.
    pub fn decide(&mut self, now: Timestamp, until: Instant) -> Vec<Batch> {
        if !self.is_synced() {
            return Vec::new();
        }
        self.count_outages(now);
        let woken =
            self.jobs.iter().filter(|(_, job)| job.wake.is_some_and(|wake| wake <= now)).map(|(key, _)| key.clone());
        self.due.extend(woken.collect::<Vec<_>>());
        // Not before all have been looked at: else the oldest of very many would be looked at again and again, the others never.
        // A clock that was set back must not make them wait for as long.
        let is_time = |last: Timestamp| now < last || now.duration_since(last) >= ROOM_EVERY;
        if self.room && !self.unfinished && self.last_room.is_none_or(is_time) {
            self.room = false;
            self.last_room = Some(now);
            self.due.extend(self.jobs.iter().filter(|(_, job)| job.waits).map(|(key, _)| key.clone()));
        }
        self.waiting = self.jobs.values().filter(|job| job.waits).count();
        let mut due: Vec<JobKey> = std::mem::take(&mut self.due).into_iter().collect();
        let created = |key: &JobKey| {
            let job = self.index.job(key)?.job.as_ref().ok()?;
            job.metadata.creation_timestamp.as_ref().map(|time| time.0)
        };
        let waits = |key: &JobKey| self.jobs.get(key).is_none_or(|job| job.waits);
        due.sort_by_cached_key(|key| (waits(key), created(key), key.clone()));
        let mut due = due.into_iter();
        let mut batches = Vec::new();
        for key in due.by_ref() {
            batches.extend(self.decide_one(key, now));
            if Instant::now() >= until {
                break;
            }
        }
        self.due.extend(due);
        self.unfinished = !self.due.is_empty();
        batches
    }

    fn count_outages(&mut self, now: Timestamp) {
        let news = self.index.count_outages(now);
        let outages = self.index.outages();
        let (not_ready, nodes) = (outages.not_ready(), outages.nodes());
        self.metrics.set_outage(not_ready, outages.are_on());
        if news && outages.are_on() {
            tracing::warn!(not_ready, nodes, "most nodes are not ready: none of them is given up");
        } else if news {
            tracing::info!(not_ready, nodes, "most nodes are ready: those that are not are waited for anew");
        }
    }

    fn decide_one(&mut self, key: JobKey, now: Timestamp) -> Option<Batch> {
        let Some(entry) = self.index.job(&key) else {
            // A batch that is still on the way finds its job gone.
            self.jobs.remove(&key);
            return None;
        };
        let (uid, entry_job, generation) = (entry.uid.clone(), entry.job.clone(), entry.generation);
        let state = self.jobs.entry(key.clone()).or_default();
        if state.uid != uid {
            let status = entry_job.as_ref().ok().and_then(|job| job.status.clone()).unwrap_or_default();
            *state = JobState { uid: uid.clone(), status, ..JobState::default() };
        }
        if state.busy {
            // The outcome brings it back.
            return None;
        }
        if state.wake.is_some_and(|wake| wake > now) && state.unreadable && entry_job.is_err() {
            return None;
        }
        state.wake = None;
        let job = match entry_job {
            Ok(job) if job.metadata.deletion_timestamp.is_some() => return None,
            Ok(job) => job,
            Err(why) => {
                state.unreadable = true;
                state.waits = false;
                if state.said_at.is_some() && state.said_at == why.resource_version {
                    return None;
                }
                let verdict = unreadable(&why, generation, now)?;
                tracing::warn!(job = %key, "{}", verdict.message);
                state.busy = true;
                state.said_at = why.resource_version;
                return Some(Batch { unreadable: Some(verdict), ..Batch::new(key, uid) });
            }
        };
        if std::mem::take(&mut state.unreadable) {
            // Whoever could read it may have written since.
            state.status = job.status.clone().unwrap_or_default();
        }
        let started = Instant::now();
        state.memo.tell_again = (TELL_EVERY * i32::try_from(self.waiting).unwrap_or(i32::MAX)).min(TELL_WITHIN);
        let decision =
            reconcile::reconcile(&self.index, &self.settings, &key, &job, &state.status, &mut state.memo, now);
        self.metrics.decided(started.elapsed().as_secs_f64(), placed(&decision));
        state.wake = decision.wake;
        state.waits = waits(&decision.status);
        for pod in decision.void {
            self.index.forget(&pod);
        }
        let mut again = created(&decision.actions);
        let creates = !again.is_empty();
        again.retain(|pod| self.index.assumed(pod).is_some());
        for (pod, node, claim) in decision.assume {
            self.index.assume(&key, &uid, pod, node, claim);
        }
        let changed = decision.status != state.status || state.unsure;
        if !changed && decision.actions.is_empty() {
            return None;
        }
        if changed && (decision.status.phase != state.status.phase || decision.status.message != state.status.message) {
            tracing::info!(job = %key, phase = %decision.status.phase, "{}", decision.status.message);
        }
        state.busy = true;
        state.decided = Some(now);
        state.again = again;
        state.creates = creates;
        let status = changed.then_some(decision.status);
        let (actions, notes) = (decision.actions, decision.notes);
        Some(Batch { job: Some(job), status, actions, notes, ..Batch::new(key, uid) })
    }

    /// Takes in what became of a batch.
    pub fn settle(&mut self, outcome: Outcome, now: Timestamp) {
        self.metrics.reconciled(outcome.trouble.is_none());
        // What was assumed for an earlier job of the name went with it; a later one's pods are named alike.
        let Some(state) = self.jobs.get_mut(&outcome.key).filter(|state| state.uid == outcome.uid) else { return };
        for pod in &outcome.not_created {
            self.index.forget(pod);
        }
        for pod in outcome.not_sent.iter().filter(|pod| !state.again.contains(*pod)) {
            self.index.forget(pod);
        }
        let mut trouble = outcome.trouble;
        for pod in &outcome.exist {
            // One that the watch has not shown yet may be the very pod, asked for before: its GPUs are not free, and the watch is
            // going to show which they are. With a pause otherwise, lest it is asked for as fast as the API server answers.
            if self.index.pod(pod).is_some() {
                self.index.forget(pod);
                trouble.get_or_insert_with(|| format!("pod {pod} is there already"));
            }
        }
        state.busy = false;
        // In a burst a batch waits long for its turn. What it sent is to be seen so much later, and is sent again so much later.
        let sent = state.memo.sent.values_mut().chain(state.memo.asked.values_mut());
        sent.filter(|at| state.decided == Some(**at)).for_each(|at| *at = now);
        if outcome.gone {
            // The watch is going to say so.
            state.wake = Some(now + LONGEST_RETRY);
            return;
        }
        if let Some(status) = outcome.status {
            state.status = status;
            state.unsure = false;
        }
        state.unsure |= outcome.status_unknown;
        for pod in &outcome.unknown {
            state.memo.asked.remove(pod);
        }
        let mut refused = outcome.refused;
        match outcome.verdict {
            // It ran once, so it is well formed: as after any refusal it waits until its pods are taken.
            Some(Verdict::Refused(why)) if state.status.start_time.is_some() => refused = Some(why),
            Some(verdict) => state.memo.verdict = Some((outcome.generation, verdict)),
            None => {}
        }
        match refused {
            Some(message) => {
                state.refusals += 1;
                let pause = SignedDuration::from_secs(1 << state.refusals.min(6)).min(LONGEST_REFUSAL);
                state.memo.refusal = Some(Refusal { message, until: now + pause });
            }
            None if trouble.is_none() && state.creates => {
                state.refusals = 0;
                state.memo.refusal = None;
            }
            None => {}
        }
        if let Some(trouble) = trouble {
            // Which of the requests went through is not told one by one: after the pause all that are still wanted are sent.
            state.memo.sent.clear();
            state.said_at = None;
            state.failures += 1;
            let pause = SignedDuration::from_millis(100 << state.failures.min(6)).min(LONGEST_RETRY);
            tracing::warn!(job = %outcome.key, retry_in_seconds = pause.as_secs_f64(), "{trouble}");
            state.wake = Some(now + pause);
        } else {
            state.failures = 0;
            self.due.insert(outcome.key);
        }
    }

    fn count(&self) {
        let phase = |wanted: Phase| self.jobs.values().filter(|job| job.status.phase == wanted).count();
        let pending = self.jobs.values().filter(|job| job.waits).count();
        self.metrics.set_jobs(phase, pending);
    }
}

fn is_default(levels: &weft_api::GpuTopology) -> bool {
    levels.metadata.name.as_deref() == Some(weft_api::names::TOPOLOGY_NAME)
}

fn name_of(seen: &Seen) -> PodKey {
    match seen {
        Seen::Levels(levels) => PodKey::new("", levels.metadata.name.as_deref().unwrap_or_default()),
        Seen::Node(node) => PodKey::new("", &node.name),
        Seen::Report(report) => PodKey::new("", report.metadata.name.as_deref().unwrap_or_default()),
        Seen::Pod(pod) => pod.key.clone(),
        Seen::Job(key, _) => PodKey::new(&key.namespace, &key.name),
        Seen::Unreadable(name) => PodKey::new("", name),
    }
}

/// Whether workers wait for room, or for pods that the API server refuses.
fn waits(status: &GpuJobStatus) -> bool {
    let unplaced = status.conditions.iter().any(|c| c.type_ == condition::PLACED && c.status == "False");
    unplaced && matches!(status.phase, Phase::Pending | Phase::Starting)
}

/// Whether the decision placed a gang (true), found no room for one (false), or had none to place.
fn placed(decision: &Decision) -> Option<bool> {
    let no_room = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
        c.type_ == condition::PLACED && c.status == "False" && c.reason == Reason::NoFit.as_str()
    };
    if decision.actions.iter().any(|action| matches!(action, Action::CreatePod(_))) {
        Some(true)
    } else if waits(&decision.status) && decision.status.conditions.iter().any(no_room) {
        Some(false)
    } else {
        None
    }
}

/// What is said of a job that this operator cannot read, unless it is said already. Nothing else of it is touched: it may have
/// been made for a newer operator, run well, and be read again after an upgrade.
fn unreadable(why: &Unreadable, generation: Option<i64>, now: Timestamp) -> Option<UnreadableStatus> {
    let message = format!(
        "this version of the operator cannot read the job, and leaves it and its pods as they are: {}; upgrade the operator, or use a word that it knows",
        why.error
    );
    let mut conditions = why.conditions.clone();
    let reason = Reason::Unreadable.as_str();
    let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now);
    let news = weft_api::conditions::set(&mut conditions, condition::VALID, false, reason, &message, generation, &time);
    let (resource_version, is_first) = (why.resource_version.clone(), !why.has_status);
    news.then_some(UnreadableStatus { resource_version, is_first, conditions, message })
}
