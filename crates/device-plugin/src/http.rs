//! `/metrics`, `/healthz` and `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_api::names::GPU_RESOURCE;

use crate::holders::Holders;
use crate::metrics;
use crate::samples::Samples;
use crate::snapshot::Snapshot;
use crate::status::Status;

/// What the pages are made from.
#[derive(Clone)]
pub struct Pages {
    /// The machine.
    pub machine: watch::Receiver<Arc<Snapshot>>,
    /// Measurements.
    pub samples: Arc<Samples>,
    /// Who holds what.
    pub holders: watch::Receiver<Holders>,
    /// The agent itself.
    pub status: Arc<Status>,
}

/// Takes the port. Separate from serving, so that a port in use is an error at start.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot serve metrics on {address}; free the port (dcgm-exporter uses 9400 too) or give --listen")
    })
}

/// Serves until `shutdown`.
pub async fn serve(listener: TcpListener, pages: Pages, shutdown: CancellationToken) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(pages);
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { shutdown.cancelled().await })
        .await
        .context("serving metrics ended")
}

async fn show_metrics(State(pages): State<Pages>) -> impl IntoResponse {
    let snapshot = Arc::clone(&pages.machine.borrow());
    let holders = pages.holders.borrow().clone();
    let text = metrics::render(&snapshot, &pages.samples.all(), &holders, &pages.status);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text)
}

/// Whether the agent makes progress. A node without a driver is no fault of the agent.
async fn healthz(State(pages): State<Pages>) -> (StatusCode, &'static str) {
    if pages.status.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the NVIDIA driver does not answer\n")
    }
}

/// Whether the agent does for its node what can be done: kubelet knows the GPUs, or there are none.
async fn readyz(State(pages): State<Pages>) -> (StatusCode, String) {
    let snapshot = Arc::clone(&pages.machine.borrow());
    let registered = pages.status.registered.load(Ordering::Relaxed);
    match (&snapshot.problem, snapshot.has_gpus()) {
        (_, true) if registered => (StatusCode::OK, "ok\n".to_owned()),
        (Some(problem), false) => (StatusCode::OK, format!("ok, without GPUs: {}\n", problem.message)),
        (_, true) if pages.status.standing_by.load(Ordering::Relaxed) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("another device plugin offers {GPU_RESOURCE} on this node: remove one of the two\n"),
        ),
        (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "kubelet does not know the GPUs yet\n".to_owned()),
        (None, false) => (StatusCode::SERVICE_UNAVAILABLE, "the machine was not read yet\n".to_owned()),
    }
}
