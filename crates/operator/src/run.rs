//! Runs the operator: standby, leader, standby again, until it is told to stop.

use crate::controller::Controller;
use crate::lease::{Candidate, Term};
use crate::metrics::Metrics;
use crate::pulse::Pulse;
use crate::reconcile::Settings;
use crate::watch;
use crate::write::Writer;
use anyhow::Context;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Config};
use std::net::SocketAddr;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a connection to the API server may take: a server that is gone is tried again soon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may be silent: longer than a watch request lasts ([`watch`]). Without it, a list on a connection that
/// died silently never ends; the watcher's own limit begins after the list.
const READ_TIMEOUT: Duration = Duration::from_secs(90);
/// Name of the lease.
const LEASE: &str = "weft-operator";

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to serve metrics and probes.
    pub listen: SocketAddr,
    /// Whether to wait until the lease is ours.
    pub leader_elect: bool,
    /// Namespace of the lease.
    pub namespace: String,
    /// Name of this operator among several: its pod's name.
    pub identity: String,
    pub settings: Settings,
}

/// Runs until `stop` is cancelled. The lease is given back at the end, so that another operator goes on at once.
///
/// # Errors
/// When there is no way to reach an API server (no kubeconfig, no service account), or the port is taken.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let mut config =
        Config::infer().await.context("no kubeconfig and no service account: run in a cluster, or set KUBECONFIG")?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    // The operator has its own pauses, per job and per watch.
    config.default_retry = false;
    let client = Client::try_from(config).context("cannot use the kubeconfig or service account")?;
    let metrics = Metrics::default();
    let pulse = Pulse::default();
    let listen = options.listen;
    // In a task of its own, as the lease is below: neither waits for a pass over many jobs.
    let server = tokio::spawn(crate::server::serve(listen, metrics.clone(), pulse.clone(), stop.clone()));
    let lead = lead(options, client, metrics, pulse, stop.clone());
    let mut lead = std::pin::pin!(lead);
    tokio::select! {
        served = server => match served.context("the task that serves the probes broke off")? {
            // A server that ends well was told to stop, and so was `lead`: it has the lease to give back yet.
            Ok(()) => lead.await,
            Err(error) => Err(error).with_context(|| format!("cannot serve on {listen}: another process has the port, or set --listen")),
        },
        led = &mut lead => led,
    }
}

async fn lead(
    options: Options,
    client: Client,
    metrics: Metrics,
    pulse: Pulse,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let identity = options.identity.clone();
    let reporter = Reporter { controller: "weft-operator".to_owned(), instance: Some(identity.clone()) };
    // One for the whole life: it joins repeated events into series.
    let recorder = Recorder::new(client.clone(), reporter);
    let mut candidate = options
        .leader_elect
        .then(|| Candidate::new(client.clone(), &options.namespace, LEASE, &identity, pulse.clone()));
    if candidate.is_none() {
        pulse.is_alone();
    }
    while !stop.is_cancelled() {
        let term = match &mut candidate {
            None => Term::endless(),
            Some(candidate) => {
                tracing::info!(identity, namespace = options.namespace, "waiting for the lease");
                tokio::select! {
                    term = candidate.acquire() => term,
                    () = stop.cancelled() => break,
                }
            }
        };
        tracing::info!(identity, "leading");
        metrics.set_leader(true);
        let writer = Writer::new(client.clone(), recorder.clone(), metrics.clone(), term.clone());
        let changes = watch::changes(&client, &metrics);
        let work =
            Controller::new(options.settings.clone(), metrics.clone()).run(&term, changes, writer, pulse.clone());
        let holder = candidate.take().map(|mut candidate| {
            let term = term.clone();
            tokio::spawn(async move {
                candidate.hold(&term).await;
                candidate
            })
        });
        let until_stopped = async {
            tokio::select! {
                () = stop.cancelled() => term.end(),
                () = term.ended() => {}
            }
        };
        // `work` ends after its last request has come back, whoever ended the term.
        tokio::join!(work, until_stopped);
        pulse.stands_by();
        metrics.set_leader(false);
        // The next leader counts the jobs: two counts would add up.
        metrics.set_jobs(|_| 0, 0);
        tracing::info!(identity, "not leading any more");
        if let Some(holder) = holder {
            candidate = Some(holder.await.context("the task that renews the lease broke off")?);
        }
    }
    if let Some(candidate) = &candidate {
        candidate.release().await;
    }
    Ok(())
}
