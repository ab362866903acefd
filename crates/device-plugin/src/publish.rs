//! Publishes the node's `GpuNode`: what the operator places by and what people read.
//!
//! The status is derived from the machine and from who holds what; it is written only when it differs from what was
//! written last, so a node at rest writes nothing. Someone may delete or edit the object, so every few minutes it is read
//! and compared.
//!
//! The object is owned by the Node that it describes: the API server's garbage collection removes it with the Node, and also
//! when the Node was made anew under the same name, which has another UID. Then it is made again, for the new Node.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_api::names::MANAGER_AGENT;
use weft_api::node::{GpuNode, GpuNodeStatus};

use crate::holders::Holders;
use crate::remembered::{self, Outbox, Remembered};
use crate::report::report;
use crate::snapshot::Snapshot;
use crate::status::{Status, count};

/// Several changes at once (a driver that goes takes all GPUs with it) are written once.
const SETTLE: Duration = Duration::from_millis(50);
/// How often to compare with what the API server has. 5,000 nodes make 17 reads a second.
const COMPARE: Duration = Duration::from_secs(300);
/// The same after the object changed its owner: garbage collection may still have it down for deletion.
const COMPARE_SOON: Duration = Duration::from_secs(15);
/// How long to wait until the inventory shows what the agent before this one saw, before writing over it.
const MEMORY: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Why the object was not written.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error(
        "there is no Node {0}, and a GpuNode without its Node would stay for ever; is --node-name the Node's name?"
    )]
    NoNode(String),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// Keeps the object in step until `shutdown`.
pub async fn follow(
    client: Client,
    outbox: Outbox,
    mut machine: watch::Receiver<Arc<Snapshot>>,
    mut holders: watch::Receiver<Holders>,
    status: Arc<Status>,
    shutdown: CancellationToken,
) {
    let name = machine.borrow().node.name().to_string();
    let mut publisher = Publisher::new(client, name);
    let work = async {
        publisher.hand_over(outbox, &status).await;
        // Until then there is nothing to say, and the last report of an agent that restarted stands.
        let read = |snapshot: &Arc<Snapshot>| snapshot.driver.is_some() || snapshot.problem.is_some();
        if machine.wait_for(read).await.is_err() {
            return;
        }
        let mut retry = FIRST_RETRY;
        let mut told = String::new();
        loop {
            match publisher.step(&mut machine, &mut holders, &status).await {
                Ok(()) => {
                    (retry, told) = (FIRST_RETRY, String::new());
                    tokio::select! {
                        changed = machine.changed() => if changed.is_err() { return },
                        changed = holders.changed() => if changed.is_err() { return },
                        () = tokio::time::sleep_until(publisher.compare) => {}
                    }
                    tokio::time::sleep(SETTLE).await;
                }
                Err(error) => {
                    count(&status.counters.publication_errors);
                    let sentence = error.to_string();
                    if sentence != told {
                        tracing::warn!(%error, name = publisher.name, "cannot publish the GpuNode; trying again");
                        told = sentence;
                    }
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
}

struct Publisher {
    api: Api<GpuNode>,
    nodes: Api<Node>,
    name: String,
    boot_id: Option<String>,
    /// What the stored object has, as far as this agent knows.
    written: Option<GpuNodeStatus>,
    /// When to look at the stored object.
    compare: tokio::time::Instant,
    /// Whether it was said that the object has no owner.
    told: bool,
}

impl Publisher {
    fn new(client: Client, name: String) -> Self {
        Publisher {
            api: Api::all(client.clone()),
            nodes: Api::all(client),
            name,
            boot_id: remembered::boot_id(),
            written: None,
            compare: tokio::time::Instant::now(),
            told: false,
        }
    }

    /// Reads what the agent before this one left and hands it over, before anything is written over it.
    async fn hand_over(&self, outbox: Outbox, status: &Status) {
        let mut retry = FIRST_RETRY;
        let stored = loop {
            match self.api.get_opt(&self.name).await {
                Ok(stored) => break stored.and_then(|object| object.status),
                // An agent of another version wrote it. What it remembers cannot be had, and waiting makes it no better.
                Err(kube::Error::SerdeError(error)) => {
                    tracing::warn!(%error, name = self.name, "cannot make sense of the stored GpuNode; it is written over");
                    break None;
                }
                Err(error) => {
                    count(&status.counters.publication_errors);
                    if retry == FIRST_RETRY {
                        tracing::warn!(%error, name = self.name, "cannot read the GpuNode; trying again");
                    }
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        };
        let found = stored.map(|status| Remembered::of(&status, self.boot_id.as_deref())).unwrap_or_default();
        // Without an inventory the agent is ending.
        if outbox.stored.send(found).is_ok() {
            // Not for ever: without a driver the GPUs are not known, and a driver that comes up begins them anew.
            let _shown = tokio::time::timeout(MEMORY, outbox.taken.cancelled()).await;
        }
    }

    /// Writes if there is anything to write.
    async fn step(
        &mut self,
        machine: &mut watch::Receiver<Arc<Snapshot>>,
        holders: &mut watch::Receiver<Holders>,
        status: &Status,
    ) -> Result<(), PublishError> {
        if self.written.is_none() || tokio::time::Instant::now() >= self.compare {
            self.look().await?;
        }
        let snapshot = Arc::clone(&machine.borrow_and_update());
        let holders = holders.borrow_and_update().clone();
        let next = report(&snapshot, &holders, self.boot_id.as_deref(), self.written.as_ref(), now());
        if self.written.as_ref() != Some(&next) {
            self.write(&next).await?;
            count(&status.counters.publications);
            tracing::debug!(name = self.name, summary = next.summary, "published the GpuNode");
            self.written = Some(next);
        }
        Ok(())
    }

    /// Compares with the stored object: that it is there, whose it is, and what it says.
    async fn look(&mut self) -> Result<(), PublishError> {
        let owner = self.owner().await?;
        let stored = match self.api.get_opt(&self.name).await {
            // Written by an agent of another version: its status is written over, and the rest is looked at when it can be read.
            Err(kube::Error::SerdeError(_)) => {
                self.written = Some(GpuNodeStatus::default());
                self.compare = tokio::time::Instant::now() + COMPARE_SOON;
                return Ok(());
            }
            stored => stored?,
        };
        let mut next = COMPARE;
        match (&stored, &owner) {
            (None, _) => self.create(owner.as_ref()).await?,
            (Some(object), Some(owner)) if !object.owner_references().iter().any(|known| known.uid == owner.uid) => {
                // Who may not change owners may still report.
                match self.create(Some(owner)).await {
                    Ok(()) => tracing::info!(name = self.name, node = owner.uid, "the GpuNode is owned by its Node"),
                    Err(error) => self.tell_ownerless(&error),
                }
                next = COMPARE_SOON;
            }
            _ => {}
        }
        self.written = Some(stored.and_then(|object| object.status).unwrap_or_default());
        self.compare = tokio::time::Instant::now() + next;
        Ok(())
    }

    /// The Node, as the owner of its GpuNode; nothing if the agent may not read it.
    async fn owner(&mut self) -> Result<Option<OwnerReference>, PublishError> {
        match self.nodes.get_metadata_opt(&self.name).await {
            Ok(Some(node)) => Ok(Some(OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: self.name.clone(),
                uid: node.uid().unwrap_or_default(),
                ..OwnerReference::default()
            })),
            Ok(None) => Err(PublishError::NoNode(self.name.clone())),
            Err(error) if is(&error, 403) => {
                self.tell_ownerless(&error);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn tell_ownerless(&mut self, error: &kube::Error) {
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                %error, name = self.name,
                "the GpuNode has no owner and will outlive its Node: give the agent the chart's ClusterRole of this version"
            );
        }
    }

    /// Makes the object, or gives it its owner.
    async fn create(&self, owner: Option<&OwnerReference>) -> kube::Result<()> {
        let mut object = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": self.name}, "spec": {}
        });
        if let Some(owner) = owner {
            object["metadata"]["ownerReferences"] = json!([owner]);
        }
        self.api.patch(&self.name, &apply(), &Patch::Apply(object)).await.map(drop)
    }

    async fn write(&mut self, status: &GpuNodeStatus) -> Result<(), PublishError> {
        let object = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": self.name}, "status": status
        });
        match self.api.patch_status(&self.name, &apply(), &Patch::Apply(&object)).await {
            // It was deleted since, perhaps with its Node.
            Err(error) if is(&error, 404) => {
                let owner = self.owner().await?;
                self.create(owner.as_ref()).await?;
                self.api.patch_status(&self.name, &apply(), &Patch::Apply(&object)).await?;
                Ok(())
            }
            written => Ok(written.map(drop)?),
        }
    }
}

fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(error) if error.code == code)
}

/// The agent is the only writer, so it takes back what anyone else changed.
fn apply() -> PatchParams {
    PatchParams::apply(MANAGER_AGENT).force()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::http::{Request, Response};
    use weft_nvml::{Fault, HealthPolicy};
    use weft_topology::GpuUuid;

    use super::*;
    use crate::report::tests::snapshot;

    /// What the API server is asked, in this order, and what it answers. The bodies that it is sent come out.
    type Exchange = (&'static str, u16, serde_json::Value);

    fn api_server(exchange: Vec<Exchange>) -> (Client, Arc<Mutex<Vec<serde_json::Value>>>) {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let (bodies, exchange) = (Arc::clone(&sent), Arc::new(Mutex::new(exchange.into_iter())));
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (bodies, exchange) = (Arc::clone(&bodies), Arc::clone(&exchange));
            async move {
                let asked = format!("{} {}", request.method(), request.uri().path());
                let body = request.into_body().collect_bytes().await.unwrap();
                let (expected, code, answer) = exchange.lock().unwrap().next().expect(&asked);
                assert_eq!(asked, expected);
                if !body.is_empty() {
                    bodies.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
                }
                let answer = match code {
                    200 => answer,
                    code => json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                                   "message": "", "reason": match code { 403 => "Forbidden", 404 => "NotFound", _ => "" }}),
                };
                let answer = axum::body::Body::from(answer.to_string());
                Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(answer).unwrap())
            }
        });
        (Client::new(service, "default"), sent)
    }

    const NODE: &str = "GET /api/v1/nodes/node";
    const READ: &str = "GET /apis/weft.dev/v1alpha1/gpunodes/node";
    const APPLY: &str = "PATCH /apis/weft.dev/v1alpha1/gpunodes/node";
    const WRITE: &str = "PATCH /apis/weft.dev/v1alpha1/gpunodes/node/status";

    fn node(uid: &str) -> serde_json::Value {
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "node", "uid": uid}})
    }

    fn owned_by(uid: &str) -> serde_json::Value {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "node", "uid": uid});
        json!({"apiVersion": "weft.dev/v1alpha1", "kind": "GpuNode", "spec": {},
               "metadata": {"name": "node", "ownerReferences": [owner]}})
    }

    /// One step against an API server that is asked exactly this. Returns what it was sent.
    async fn step(exchange: Vec<Exchange>) -> (Result<(), PublishError>, Vec<serde_json::Value>) {
        let (client, sent) = api_server(exchange);
        let (_machine, mut machine) = watch::channel(Arc::new(snapshot()));
        let (_holders, mut holders) = watch::channel(Holders::default());
        let mut publisher = Publisher::new(client, "node".into());
        let outcome = publisher.step(&mut machine, &mut holders, &Status::new()).await;
        let sent = sent.lock().unwrap().clone();
        (outcome, sent)
    }

    /// The faults that a publisher hands over of this stored object, before anything is written over it.
    async fn handed_over(stored: serde_json::Value) -> Vec<(GpuUuid, Fault)> {
        let (client, _) = api_server(vec![(READ, 200, stored)]);
        let (outbox, inbox) = remembered::hand_over();
        let publisher = Publisher::new(client, "node".into());
        let handing = tokio::spawn(async move { publisher.hand_over(outbox, &Status::new()).await });
        let found = inbox.stored.await.unwrap().faults("550.1", &HealthPolicy::default());
        assert!(!handing.is_finished(), "it is written over before it is shown");
        inbox.taken.cancel();
        handing.await.unwrap();
        found.into_iter().map(|(uuid, (fault, _))| (uuid, fault)).collect()
    }

    fn owners(body: &serde_json::Value) -> Vec<&str> {
        let owners = body["metadata"]["ownerReferences"].as_array();
        owners.into_iter().flatten().map(|owner| owner["uid"].as_str().unwrap()).collect()
    }

    #[tokio::test]
    async fn the_node_owns_what_describes_it() {
        let exchange = vec![
            (NODE, 200, node("one")),
            (READ, 404, json!(null)),
            (APPLY, 200, owned_by("one")),
            (WRITE, 200, owned_by("one")),
        ];
        let (outcome, sent) = step(exchange).await;
        outcome.unwrap();
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "node", "uid": "one"});
        assert_eq!(sent[0]["metadata"]["ownerReferences"], json!([owner]));
        assert_eq!(sent[1]["status"]["summary"], "2/2");
    }

    #[tokio::test]
    async fn a_node_that_was_made_anew_becomes_the_owner() {
        let exchange = vec![
            (NODE, 200, node("two")),
            (READ, 200, owned_by("one")),
            (APPLY, 200, owned_by("two")),
            (WRITE, 200, owned_by("two")),
        ];
        let (outcome, sent) = step(exchange).await;
        outcome.unwrap();
        assert_eq!(owners(&sent[0]), ["two"]);
    }

    #[tokio::test]
    async fn an_object_that_garbage_collection_took_is_made_again_for_the_node_of_now() {
        let exchange = vec![
            (NODE, 200, node("one")),
            (READ, 200, owned_by("one")),
            (WRITE, 404, json!(null)),
            (NODE, 200, node("two")),
            (APPLY, 200, owned_by("two")),
            (WRITE, 200, owned_by("two")),
        ];
        let (outcome, sent) = step(exchange).await;
        outcome.unwrap();
        assert_eq!(owners(&sent[1]), ["two"]);
    }

    #[tokio::test]
    async fn what_another_version_wrote_is_written_over() {
        let mut unreadable = owned_by("one");
        let gpu = json!({"index": 0, "uuid": "GPU-0", "product": "GPU", "memoryBytes": 1, "health": "Tired", "since": "2026-01-01T00:00:00Z"});
        unreadable["status"] = json!({"gpus": [gpu]});
        let exchange = vec![(NODE, 200, node("one")), (READ, 200, unreadable.clone()), (WRITE, 200, owned_by("one"))];
        let (outcome, sent) = step(exchange).await;
        outcome.unwrap();
        assert_eq!(sent[0]["status"]["summary"], "2/2");

        assert_eq!(handed_over(unreadable).await, []);
    }

    #[tokio::test]
    async fn without_its_node_nothing_is_published() {
        let (outcome, sent) = step(vec![(NODE, 404, json!(null))]).await;
        let sentence = outcome.unwrap_err().to_string();
        assert!(sentence.contains("there is no Node node") && sentence.contains("--node-name"), "{sentence}");
        assert!(sent.is_empty());
    }

    #[tokio::test]
    async fn who_may_not_read_nodes_or_change_owners_still_reports() {
        let exchange = vec![
            (NODE, 403, json!(null)),
            (READ, 404, json!(null)),
            (APPLY, 200, owned_by("one")),
            (WRITE, 200, owned_by("one")),
        ];
        let (outcome, sent) = step(exchange).await;
        outcome.unwrap();
        assert!(owners(&sent[0]).is_empty());
        let exchange = vec![
            (NODE, 200, node("two")),
            (READ, 200, owned_by("one")),
            (APPLY, 403, json!(null)),
            (WRITE, 200, owned_by("one")),
        ];
        step(exchange).await.0.unwrap();
    }

    #[tokio::test]
    async fn what_the_agent_before_saw_is_handed_over_before_it_is_written_over() {
        let mut stored = owned_by("one");
        let gpu = json!({"index": 0, "uuid": "GPU-0", "product": "GPU", "memoryBytes": 1, "health": "Unhealthy",
                         "fault": "Xid48", "since": "2026-01-01T00:00:00Z"});
        stored["status"] = json!({"bootId": remembered::boot_id(), "driverVersion": "550.1", "gpus": [gpu]});
        assert_eq!(handed_over(stored).await, [(GpuUuid::from("GPU-0"), Fault::Xid(48))]);
    }
}
