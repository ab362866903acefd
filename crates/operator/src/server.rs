//! `/metrics`, `/healthz` and `/readyz`.

use crate::metrics::Metrics;
use crate::pulse::Pulse;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves until cancelled.
///
/// # Errors
/// When the port is taken or the address is not this machine's.
pub async fn serve(listen: SocketAddr, metrics: Metrics, pulse: Pulse, stop: CancellationToken) -> std::io::Result<()> {
    let healthy = pulse.clone();
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(move || async move { answer(healthy.is_alive(), "the leader's loop stands still") }))
        .route("/readyz", get(move || async move { answer(pulse.is_ready(), "the API server does not answer") }))
        .with_state(metrics);
    let listener = TcpListener::bind(listen).await?;
    tracing::info!(%listen, "serving metrics and probes");
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn answer(yes: bool, otherwise: &'static str) -> (StatusCode, &'static str) {
    if yes { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, otherwise) }
}

async fn scrape(State(metrics): State<Metrics>) -> impl IntoResponse {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
