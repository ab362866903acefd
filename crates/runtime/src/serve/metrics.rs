//! What the runtime counts. One label set for each method, GPU or direction: never for a client, whose numbers have no end.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::driver::GpuInfo;

/// From a launch that is answered at once to a product that takes a minute.
const LATENCY_SECONDS: [f64; 13] = [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 0.5, 2.5, 10.0, 60.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(non_snake_case, reason = "UUID is the label that the DCGM metrics have")]
struct Gpu {
    gpu: String,
    UUID: String,
}

/// All metrics of the process.
pub(super) struct Metrics {
    registry: Registry,
    /// Open connections.
    pub(super) clients: Gauge,
    /// Open regions.
    pub(super) regions: Gauge,
    /// Bytes of open regions.
    pub(super) region_bytes: Gauge,
    requests: Family<Request, Counter>,
    latency: Family<Method, Histogram>,
    gpu_seconds: Family<Method, Counter<f64, std::sync::atomic::AtomicU64>>,
    bytes: Family<Direction, Counter>,
    device_memory: Family<Gpu, Gauge>,
    device_buffers: Family<Gpu, Gauge>,
    healthy: Family<Gpu, Gauge>,
    busy: Family<Gpu, Gauge<f64, std::sync::atomic::AtomicU64>>,
    queued: Family<Gpu, Gauge>,
}

/// What a GPU says of itself at the time of a scrape.
pub(super) struct DeviceState {
    /// Whether it is in service.
    pub(super) healthy: bool,
    /// How long it has been at its present request.
    pub(super) busy: Duration,
    /// Requests before it, the present one included.
    pub(super) queued: usize,
    /// Free bytes, and bytes in clients' buffers, where it had time to say.
    pub(super) memory: Option<(u64, u64)>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("weft_runtime");
        let (clients, regions, region_bytes) = (Gauge::default(), Gauge::default(), Gauge::default());
        let latency = Family::new_with_constructor((|| Histogram::new(LATENCY_SECONDS)) as fn() -> Histogram);
        let (requests, bytes, gpu_seconds) = (Family::default(), Family::default(), Family::default());
        let (device_memory, device_buffers) = (Family::default(), Family::default());
        let (healthy, busy, queued) = (Family::default(), Family::default(), Family::default());
        registry.register("clients", "Open connections", clients.clone());
        registry.register("regions", "Open shared-memory regions", regions.clone());
        registry.register_with_unit("region", "Bytes of open regions", Unit::Bytes, region_bytes.clone());
        registry.register("requests", "Requests answered, by method and gRPC code", Family::clone(&requests));
        registry.register_with_unit(
            "request_duration",
            "Time from a request's arrival to its answer, waiting for the GPU included",
            Unit::Seconds,
            Family::clone(&latency),
        );
        registry.register_with_unit(
            "gpu",
            "Time that operations took on the GPU, without transfers",
            Unit::Seconds,
            Family::clone(&gpu_seconds),
        );
        registry.register_with_unit(
            "transferred",
            "Bytes of operands moved between regions and the GPU for library calls and copies",
            Unit::Bytes,
            Family::clone(&bytes),
        );
        registry.register_with_unit(
            "device_memory_free",
            "Free device memory",
            Unit::Bytes,
            Family::clone(&device_memory),
        );
        registry.register_with_unit(
            "device_buffer",
            "Device memory that clients hold in buffers",
            Unit::Bytes,
            Family::clone(&device_buffers),
        );
        registry.register("device_healthy", "1 while the GPU is in service", Family::clone(&healthy));
        registry.register_with_unit(
            "device_busy",
            "Time that the GPU has been at its present request, 0 between two",
            Unit::Seconds,
            Family::clone(&busy),
        );
        registry.register(
            "device_queue",
            "Requests that the GPU has before it, the present one included; 64 at most, others wait at their connection",
            Family::clone(&queued),
        );
        Self {
            registry,
            clients,
            regions,
            region_bytes,
            requests,
            latency,
            gpu_seconds,
            bytes,
            device_memory,
            device_buffers,
            healthy,
            busy,
            queued,
        }
    }

    /// A request was answered.
    pub(super) fn answered(&self, method: &'static str, code: &'static str, took: Duration) {
        self.requests.get_or_create(&Request { method, code }).inc();
        self.latency.get_or_create(&Method { method }).observe(took.as_secs_f64());
    }

    /// An operation ran on a GPU.
    pub(super) fn ran(&self, method: &'static str, seconds: f64) {
        self.gpu_seconds.get_or_create(&Method { method }).inc_by(seconds.max(0.0));
    }

    /// Operands moved.
    pub(super) fn moved(&self, to_gpu: usize, from_gpu: usize) {
        self.bytes.get_or_create(&Direction { direction: "to_gpu" }).inc_by(to_gpu as u64);
        self.bytes.get_or_create(&Direction { direction: "from_gpu" }).inc_by(from_gpu as u64);
    }

    /// Takes in what a GPU says of itself.
    pub(super) fn device(&self, info: &GpuInfo, state: &DeviceState) {
        let gpu = Gpu { gpu: info.index.to_string(), UUID: info.uuid.clone() };
        self.healthy.get_or_create(&gpu).set(i64::from(state.healthy));
        self.busy.get_or_create(&gpu).set(state.busy.as_secs_f64());
        self.queued.get_or_create(&gpu).set(state.queued as i64);
        if let Some((free, buffers)) = state.memory {
            self.device_memory.get_or_create(&gpu).set(free as i64);
            self.device_buffers.get_or_create(&gpu).set(buffers as i64);
        }
    }

    /// OpenMetrics text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::warn!(%error, "metrics were not written");
        }
        text
    }
}
