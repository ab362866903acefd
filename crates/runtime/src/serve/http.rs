//! `/metrics`, `/healthz` and `/readyz`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use super::metrics::{DeviceState, Metrics};
use crate::device::{DeviceHandle, Health};

/// A scrape does not wait longer for a GPU that is busy: its memory then keeps the values of the scrape before.
const GPU_ANSWER: Duration = Duration::from_millis(500);

struct Pages {
    metrics: Arc<Metrics>,
    devices: Arc<[DeviceHandle]>,
}

/// Serves the pages until the task is aborted.
pub(super) async fn serve(listener: TcpListener, metrics: Arc<Metrics>, devices: Arc<[DeviceHandle]>) {
    let pages = Arc::new(Pages { metrics, devices });
    let router = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(health_page))
        .route("/readyz", get(health_page))
        .with_state(pages);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "metrics and probes are served no more");
    }
}

async fn metrics_page(State(pages): State<Arc<Pages>>) -> impl IntoResponse {
    for device in pages.devices.iter() {
        let healthy = *device.health().borrow() == Health::Serving;
        let busy = device.busy_for();
        let queued = device.queued();
        // Behind a long operation the questions of many scrapes would fill the queue.
        let memory = if busy.is_some_and(|busy| busy > GPU_ANSWER) { None } else { memory(device).await };
        pages.metrics.device(device.info(), &DeviceState { healthy, busy: busy.unwrap_or_default(), queued, memory });
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], pages.metrics.text())
}

/// Free bytes, and bytes in clients' buffers.
async fn memory(device: &DeviceHandle) -> Option<(u64, u64)> {
    let ask = device.call(|device| Ok((device.context().memory_free_bytes()?, device.held().0)));
    match tokio::time::timeout(GPU_ANSWER, ask).await {
        Ok(Ok(memory)) => Some(memory),
        Ok(Err(_)) | Err(_) => None,
    }
}

async fn health_page(State(pages): State<Arc<Pages>>) -> (StatusCode, String) {
    for device in pages.devices.iter() {
        if *device.health().borrow() != Health::Serving {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", device.out_of_service()));
        }
    }
    (StatusCode::OK, "ok\n".to_owned())
}
