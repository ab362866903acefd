//! The one place where the operator changes the cluster. A batch holds everything that was decided for one job: the status
//! first, since it is the plan, then the actions. No job has two batches on the way.

use crate::facts::PodKey;
use crate::index::JobKey;
use crate::lease::Term;
use crate::metrics::Metrics;
use crate::reconcile::{Action, Note, Verdict};
use crate::worker_pod;
use futures::StreamExt;
use http::Request;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, PostParams, Preconditions, PropagationPolicy};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use weft_api::{GpuJob, GpuJobStatus, names};

/// How many requests of one batch are on the way at a time.
const AT_A_TIME: usize = 32;
/// How many requests are on the way at a time, of all batches together: a new leader has something to ask about every job that
/// waits, and a thousand requests at once would each be slower than a request may take. The API server's own limit is some hundreds.
const AT_A_TIME_IN_ALL: usize = 64;
/// How long one request may take: shorter than the margin by which a leader stops before its lease ends.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(2500);

/// What is to be written for one job.
#[derive(Default)]
pub struct Batch {
    pub key: JobKey,
    pub uid: String,
    /// None for a job that cannot be read.
    pub job: Option<Arc<GpuJob>>,
    /// What is said of a job that cannot be read; there is nothing else then.
    pub unreadable: Option<UnreadableStatus>,
    /// The new status, if it changed.
    pub status: Option<GpuJobStatus>,
    pub actions: Vec<Action>,
    pub notes: Vec<Note>,
}

impl Batch {
    /// Nothing yet, for this very job.
    pub fn new(key: JobKey, uid: String) -> Self {
        Self { key, uid, ..Self::default() }
    }
}

/// The part of a status that is written for a job that cannot be read: the rest of it is not this operator's to know.
#[derive(Clone, Debug, PartialEq)]
pub struct UnreadableStatus {
    /// The object that was found unreadable: nothing is written over a later one.
    pub resource_version: Option<String>,
    /// There is no status yet.
    pub is_first: bool,
    pub conditions: Vec<Condition>,
    pub message: String,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Outcome {
    pub key: JobKey,
    pub uid: String,
    /// The status as it is now in the cluster, if it was written.
    pub status: Option<GpuJobStatus>,
    /// It is not known whether the status was written.
    pub status_unknown: bool,
    /// The job is gone: it needs nothing more.
    pub gone: bool,
    /// The generation of the job that it was decided for.
    pub generation: Option<i64>,
    /// What the API server says about the templates of that generation, if it was asked.
    pub verdict: Option<Verdict>,
    /// The API server refused a pod for now.
    pub refused: Option<String>,
    /// Pods that this batch was to create and did not ask for.
    pub not_sent: Vec<PodKey>,
    /// Pods that were surely not created, and are not there.
    pub not_created: Vec<PodKey>,
    /// Pods whose names are taken: by themselves, if an earlier request was carried out after all, or by others.
    pub exist: Vec<PodKey>,
    /// Pods of which it is not known whether they were created.
    pub unknown: Vec<PodKey>,
    /// Something did not go through: look again soon.
    pub trouble: Option<String>,
}

impl Outcome {
    /// Nothing yet, of this batch.
    pub fn of(batch: &Batch) -> Self {
        let generation = batch.job.as_ref().and_then(|job| job.metadata.generation);
        Self { key: batch.key.clone(), uid: batch.uid.clone(), generation, ..Self::default() }
    }
}

/// What a request came to.
enum Done {
    Fine,
    /// Not now (quota, admission).
    Refused(String),
    /// Never, as it is.
    Invalid(String),
    /// There already.
    Exists,
    /// Not known.
    Trouble(String),
}

/// Writes batches, as long as its term lasts.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    recorder: Recorder,
    metrics: Metrics,
    term: Term,
    turns: Arc<Semaphore>,
}

impl Writer {
    pub fn new(client: Client, recorder: Recorder, metrics: Metrics, term: Term) -> Self {
        Self { client, recorder, metrics, term, turns: Arc::new(Semaphore::new(AT_A_TIME_IN_ALL)) }
    }

    /// Writes one batch, in order.
    pub async fn write(&self, batch: Batch) -> Outcome {
        let mut outcome = Outcome::of(&batch);
        if let Some(unreadable) = &batch.unreadable {
            let written = self.write_unreadable(&batch.key, &batch.uid, unreadable).await;
            // A later object (422 for a failed test) is looked at when the watch shows it.
            let trouble = written.err().filter(|error| !is(error, 404) && !is(error, 422));
            outcome.trouble = trouble.map(|error| format!("cannot write that the job cannot be read: {error}"));
            return outcome;
        }
        if let Some(status) = batch.status {
            if let Err(error) = self.write_status(&batch.key, &batch.uid, &status).await {
                outcome.not_sent = created(&batch.actions);
                outcome.gone = is(&error, 404);
                outcome.status_unknown = !outcome.gone;
                outcome.trouble = (!outcome.gone).then(|| format!("cannot write the status: {error}"));
                return outcome;
            }
            outcome.status = Some(status);
        }
        let Some(job) = batch.job else { return outcome };
        self.record(&job, batch.notes).await;
        let (first, then): (Vec<_>, Vec<_>) = batch.actions.into_iter().partition(is_preparation);
        for action in first {
            if let Err(trouble) = self.prepare(&job, &action, &mut outcome).await {
                outcome.not_sent = created(&then);
                outcome.trouble = Some(trouble);
                return outcome;
            }
        }
        let (lifts, others): (Vec<_>, Vec<_>) =
            then.into_iter().partition(|action| matches!(action, Action::LiftGate { .. }));
        for group in [others, lifts] {
            let mut running =
                futures::stream::iter(group).map(|action| self.act(&job, action)).buffer_unordered(AT_A_TIME);
            while let Some((pod, done)) = running.next().await {
                settle(&mut outcome, pod, done);
            }
        }
        outcome
    }

    /// Replaces the whole status of this very job: a patch of single fields would leave behind those that are gone.
    async fn write_status(&self, key: &JobKey, uid: &str, status: &GpuJobStatus) -> kube::Result<()> {
        let path = format!("/apis/weft.dev/v1alpha1/namespaces/{}/gpujobs/{}/status", key.namespace, key.name);
        let patch = json!([
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]);
        self.counted("status", self.patch(&path, &patch)).await
    }

    /// Writes the conditions and leaves the rest of the status as it is.
    async fn write_unreadable(&self, key: &JobKey, uid: &str, unreadable: &UnreadableStatus) -> kube::Result<()> {
        let path = format!("/apis/weft.dev/v1alpha1/namespaces/{}/gpujobs/{}/status", key.namespace, key.name);
        let write = if unreadable.is_first {
            let status = json!({"message": unreadable.message, "conditions": unreadable.conditions});
            json!({"op": "add", "path": "/status", "value": status})
        } else {
            json!({"op": "add", "path": "/status/conditions", "value": unreadable.conditions})
        };
        let patch = json!([
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "test", "path": "/metadata/resourceVersion", "value": unreadable.resource_version},
            write,
        ]);
        self.counted("status", self.patch(&path, &patch)).await
    }

    async fn prepare(&self, job: &GpuJob, action: &Action, outcome: &mut Outcome) -> Result<(), String> {
        match action {
            Action::ProbeTemplates => {
                outcome.verdict = Some(self.probe(job).await?);
                Ok(())
            }
            Action::EnsureSupport => {
                self.ensure::<Service>(job, worker_pod::service(job), outcome).await?;
                match worker_pod::program(job).map_err(|error| format!("cannot write the program: {error}"))? {
                    Some(program) => self.ensure::<ConfigMap>(job, program, outcome).await,
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Asks the API server whether it would take the pods that the templates describe, naming unknown fields.
    async fn probe(&self, job: &GpuJob) -> Result<Verdict, String> {
        for group in 0..job.spec.groups.len() {
            let Some(pod) = worker_pod::template_probe(job, group) else { continue };
            let namespace = job.namespace().unwrap_or_default();
            let query = format!("dryRun=All&fieldValidation=Strict&fieldManager={}", names::MANAGER_OPERATOR);
            let path = format!("/api/v1/namespaces/{namespace}/pods?{query}");
            let body = serde_json::to_vec(&pod).map_err(|error| error.to_string())?;
            let request = Request::post(path).header("content-type", "application/json").body(body);
            let request = request.map_err(|error| error.to_string())?;
            let answer = self.counted("probe", async { self.client.request::<Value>(request).await.map(drop) }).await;
            match answer {
                // A quota or an admission webhook may be of another mind when the pod is really made.
                Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => {
                    let name = format!("{:?} ", job.pod_name(&job.spec.groups[group].name, 0));
                    let message = status.message.replace("Pod in version \"v1\" cannot be handled as a Pod: ", "");
                    let message =
                        message.replace(&format!("Pod {name}is invalid: "), "").replace("strict decoding error: ", "");
                    return Ok(Verdict::Refused(format!("spec.groups[{group}].template: {message}")));
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 409) => {}
                Err(error) => return Err(format!("cannot check the pod template: {error}")),
                Ok(()) => {}
            }
        }
        Ok(Verdict::Fine)
    }

    /// Creates an object of the job unless it is there. One of the same name that is not the job's stops the job with a sentence.
    async fn ensure<K>(&self, job: &GpuJob, object: K, outcome: &mut Outcome) -> Result<(), String>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &job.namespace().unwrap_or_default());
        let name = object.name_any();
        let kind = K::kind(&());
        match self.counted("support", async { api.create(&post(), &object).await.map(drop) }).await {
            Ok(()) => return Ok(()),
            Err(error) if is(&error, 409) => {}
            Err(error) => {
                let trouble = format!("cannot create {kind} {name}: {error}");
                // What does not go away by itself is said in the job's status.
                outcome.refused = (is(&error, 403) || is(&error, 422)).then(|| trouble.clone());
                return Err(trouble);
            }
        }
        match self.in_time(api.get_opt(&name)).await {
            Ok(Some(there)) if owned_by(&there, job) => Ok(()),
            Ok(Some(_)) => {
                let trouble =
                    format!("{kind} {name} is there already and is not this job's: delete it or rename the job");
                outcome.refused = Some(trouble.clone());
                Err(trouble)
            }
            Ok(None) => Err(format!("{kind} {name} of an earlier job is just being deleted")),
            Err(error) => Err(format!("cannot read {kind} {name}: {error}")),
        }
    }

    async fn act(&self, job: &GpuJob, action: Action) -> (PodKey, Done) {
        let pods = |namespace: &str| Api::<Pod>::namespaced(self.client.clone(), namespace);
        match action {
            Action::CreatePod(pod) => {
                let key = PodKey::new(&pod.namespace().unwrap_or_default(), &pod.name_any());
                let api = pods(&key.namespace);
                let result = self.counted("create_pod", async { api.create(&post(), &pod).await.map(drop) }).await;
                let refusal = match result {
                    Ok(()) => return (key, Done::Fine),
                    Err(kube::Error::Api(status)) => match status.code {
                        409 => return (key, Done::Exists),
                        403 => Done::Refused(status.message.clone()),
                        400 | 422 => Done::Invalid(status.message.clone()),
                        _ => {
                            return (
                                key.clone(),
                                Done::Trouble(format!("cannot create pod {key}: {}", status.message)),
                            );
                        }
                    },
                    Err(error) => return (key.clone(), Done::Trouble(format!("cannot create pod {key}: {error}"))),
                };
                // Quotas and webhooks are asked before the name is looked at, and an earlier request may have been carried out.
                let there = match self.in_time(api.get_metadata_opt(&key.name)).await {
                    Ok(None) => refusal,
                    Ok(Some(_)) => Done::Exists,
                    Err(error) => Done::Trouble(format!("cannot read pod {key}: {error}")),
                };
                (key, there)
            }
            Action::DeletePod { pod, uid, grace } => {
                let api = pods(&pod.namespace);
                let preconditions = Some(Preconditions { uid: Some(uid), resource_version: None });
                let params = DeleteParams { grace_period_seconds: grace, preconditions, ..DeleteParams::default() };
                let result = self.counted("delete_pod", async { api.delete(&pod.name, &params).await.map(drop) }).await;
                (pod.clone(), gone_is_fine(result, &format!("cannot delete pod {pod}")))
            }
            Action::LiftGate { pod, uid, rest } => {
                let rest: Vec<Value> = rest.into_iter().map(|name| json!({"name": name})).collect();
                let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
                let patch = json!([
                    {"op": "test", "path": "/metadata/uid", "value": uid},
                    {"op": "add", "path": "/spec/schedulingGates", "value": rest},
                ]);
                let result = self.counted("lift_gate", self.patch(&path, &patch)).await;
                (pod.clone(), gone_is_fine(result, &format!("cannot lift the scheduling gate of pod {pod}")))
            }
            Action::DeleteJob => {
                let namespace = job.namespace().unwrap_or_default();
                let api: Api<GpuJob> = Api::namespaced(self.client.clone(), &namespace);
                let params = DeleteParams {
                    propagation_policy: Some(PropagationPolicy::Background),
                    preconditions: Some(Preconditions { uid: job.uid(), resource_version: None }),
                    ..DeleteParams::default()
                };
                let name = job.name_any();
                let result = self.counted("delete_job", async { api.delete(&name, &params).await.map(drop) }).await;
                (
                    PodKey::default(),
                    gone_is_fine(result, &format!("cannot delete GpuJob {namespace}/{name} after its time to live")),
                )
            }
            Action::ProbeTemplates | Action::EnsureSupport => (PodKey::default(), Done::Fine),
        }
    }

    async fn patch(&self, path: &str, patch: &Value) -> kube::Result<()> {
        let body = serde_json::to_vec(patch).map_err(kube::Error::SerdeError)?;
        let request = Request::patch(format!("{path}?fieldManager={}", names::MANAGER_OPERATOR));
        let request =
            request.header("content-type", "application/json-patch+json").body(body).map_err(kube::Error::HttpError)?;
        self.client.request::<Value>(request).await.map(drop)
    }

    /// The answer to a request, if it comes in time.
    async fn in_time<T>(&self, request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
        tokio::time::timeout(REQUEST_TIMEOUT, request).await.unwrap_or_else(|_| Err(too_slow()))
    }

    /// Sends a request if this operator is still the leader, within its time, and counts it.
    async fn counted(&self, write: &'static str, request: impl Future<Output = kube::Result<()>>) -> kube::Result<()> {
        // Not closed, so an error does not come; waiting is before the question whether the term still lasts.
        let _turn = self.turns.acquire().await;
        if !self.term.is_valid() {
            return Err(kube::Error::Service("this operator is not the leader any more".into()));
        }
        let result = self.in_time(request).await;
        // That the object is there, or is gone as it should be, is an answer and no failure.
        let answered = |error| is(error, 409) || (is(error, 404) && write == "delete_pod");
        self.metrics.wrote(write, result.as_ref().map_or_else(answered, |()| true));
        result
    }

    /// Events are for people: one that cannot be written is only logged.
    async fn record(&self, job: &GpuJob, notes: Vec<Note>) {
        let reference = job.object_ref(&());
        for note in notes {
            let event = Event {
                type_: if note.warning { EventType::Warning } else { EventType::Normal },
                reason: note.reason.to_string(),
                // Kubernetes takes at most 1,024 bytes.
                note: Some(note.message.chars().take(500).collect()),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            let written = self.counted("event", self.recorder.publish(&event, &reference)).await;
            if let Err(error) = written {
                tracing::debug!(job = job.name_any(), %error, "cannot write an event");
            }
        }
    }
}

fn too_slow() -> kube::Error {
    kube::Error::Service("the API server does not answer in time".into())
}

fn post() -> PostParams {
    PostParams { field_manager: Some(names::MANAGER_OPERATOR.to_owned()), ..PostParams::default() }
}

fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

fn is_preparation(action: &Action) -> bool {
    matches!(action, Action::ProbeTemplates | Action::EnsureSupport)
}

fn owned_by(object: &impl ResourceExt, job: &GpuJob) -> bool {
    let uid = job.metadata.uid.as_deref();
    object.owner_references().iter().any(|owner| Some(owner.uid.as_str()) == uid)
}

/// Pods that the actions would create.
pub fn created(actions: &[Action]) -> Vec<PodKey> {
    let key = |action: &Action| match action {
        Action::CreatePod(pod) => Some(PodKey::new(&pod.namespace().unwrap_or_default(), &pod.name_any())),
        _ => None,
    };
    actions.iter().filter_map(key).collect()
}

/// An object that is not there, or is another one by now (409 for a precondition, 422 for a failed test), needs nothing more.
fn gone_is_fine(result: kube::Result<()>, trouble: &str) -> Done {
    match result {
        Ok(()) => Done::Fine,
        Err(error) if is(&error, 404) || is(&error, 409) || is(&error, 422) => Done::Fine,
        Err(error) => Done::Trouble(format!("{trouble}: {error}")),
    }
}

fn settle(outcome: &mut Outcome, pod: PodKey, done: Done) {
    match done {
        Done::Fine => {}
        Done::Exists => outcome.exist.push(pod),
        Done::Refused(why) => {
            outcome.not_created.push(pod);
            outcome.refused = Some(why);
        }
        Done::Invalid(why) => {
            outcome.not_created.push(pod);
            outcome.verdict = Some(Verdict::Refused(why));
        }
        Done::Trouble(why) => {
            outcome.unknown.push(pod);
            outcome.trouble = Some(why);
        }
    }
}
