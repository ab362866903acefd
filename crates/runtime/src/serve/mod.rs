//! Serves applications on a Unix socket.
//!
//! ```text
//!  connection = session ──┬── buffers, modules: on the GPU's thread, under the session's id
//!                         └── regions: files of the shared folder, pinned
//!  connection ends ──▶ everything above is released, after what is still running on it
//! ```

mod http;
mod metrics;
mod operand;
mod operations;
mod region;
mod service;
mod session;
mod socket;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tonic::transport::Server;
use weft_proto::runtime::runtime_server::RuntimeServer;

use crate::Error;
use crate::device::{DeviceHandle, Health};
use crate::driver::{self, Library};

use metrics::Metrics;
use region::SharedFolder;
use service::Service;
use socket::Socket;

/// After SIGTERM, requests under way get this long. kubelet kills after 30 s by default.
const DRAIN: Duration = Duration::from_secs(10);
/// After a GPU went out of service, answers under way get this long to reach their clients.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Options of `weft-runtime serve`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The socket to serve on.
    #[arg(long, env = "WEFT_RUNTIME_SOCKET", default_value = "/run/weft/runtime.sock")]
    pub socket: PathBuf,
    /// The folder of the regions, on a memory volume that applications share.
    #[arg(long, env = "WEFT_SHM_DIR", default_value = "/run/weft/shm")]
    pub shm_dir: PathBuf,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, env = "WEFT_METRICS_LISTEN", default_value = "0.0.0.0:9401")]
    pub metrics_listen: SocketAddr,
    /// How long one request may keep a GPU, its wait in the queue not counted; 0: for ever. CUDA cannot stop a kernel, so
    /// the runtime then says so and ends, for kubelet to start it again.
    #[arg(long, env = "WEFT_OPERATION_TIMEOUT", default_value_t = 600, value_name = "SECONDS")]
    pub operation_timeout: u64,
}

/// Why the runtime cannot serve, or stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Runtime(#[from] Error),
    #[error("another runtime already serves {0}: stop it, or choose another socket with --socket")]
    SocketTaken(PathBuf),
    #[error("{0} exists and is no socket: remove it, or choose another socket with --socket")]
    NoSocket(PathBuf),
    #[error("{what} {path}: {error}")]
    Path { what: &'static str, path: PathBuf, error: std::io::Error },
    #[error("metrics cannot be served on {address} ({error}): choose another address with --metrics-listen")]
    Metrics { address: SocketAddr, error: std::io::Error },
    #[error("the socket failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("signals cannot be received: {0}")]
    Signals(std::io::Error),
}

/// `weft-runtime serve`. Returns the exit code.
pub async fn main(options: Options) -> u8 {
    match serve(options).await {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(%error, "the runtime stops");
            eprintln!("weft-runtime: {error}");
            1
        }
    }
}

async fn serve(options: Options) -> Result<(), ServeError> {
    // The lock first: a second runtime must not even take contexts on the first one's GPUs.
    let socket = Socket::claim(&options.socket)?;
    let folder = SharedFolder::open(&options.shm_dir)?;
    let count = driver::gpu_count()?;
    let mut devices = Vec::with_capacity(count);
    let limit = (options.operation_timeout > 0).then(|| Duration::from_secs(options.operation_timeout));
    for index in 0..count {
        let device = DeviceHandle::start(index, limit).await?;
        let info = device.info();
        tracing::info!(gpu = index, uuid = info.uuid, name = info.name, "GPU taken");
        devices.push(device);
    }
    for library in Library::ALL.into_iter().filter(|library| !library.is_present()) {
        tracing::warn!(library = library.soname(), "a library is missing: {} will be refused", library.purpose());
    }

    let metrics = Arc::new(Metrics::new());
    let listener = TcpListener::bind(options.metrics_listen)
        .await
        .map_err(|error| ServeError::Metrics { address: options.metrics_listen, error })?;
    let pages_at = listener.local_addr().unwrap_or(options.metrics_listen);
    let devices: Arc<[DeviceHandle]> = devices.into();
    let pages = tokio::spawn(http::serve(listener, metrics.clone(), devices.clone()));

    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let (stop, stopping) = watch::channel(false);
    let connections = socket.bind(devices.clone(), metrics.clone(), stopping.clone())?;
    tracing::info!(socket = %options.socket.display(), metrics = %pages_at, gpus = count, "serving");

    let service = Service::new(devices.clone(), folder, metrics);
    let mut until = stopping;
    let server = Server::builder().add_service(RuntimeServer::new(service)).serve_with_incoming_shutdown(
        connections,
        async move {
            // A sender that is gone means the same as a stop.
            let _stopped = until.wait_for(|stop| *stop).await;
        },
    );
    let mut server = tokio::spawn(server);
    let out_of_service = tokio::select! {
        ended = &mut server => {
            if let Ok(ended) = ended {
                ended?;
            }
            None
        }
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        error = first_out_of_service(&devices) => Some(error),
    };
    stop.send_replace(true);
    if let Some(error) = out_of_service {
        // Whoever waits for that GPU is answered at once; whoever waits for another gets a moment.
        let _cut_off = tokio::time::timeout(LAST_WORDS, server).await;
        return Err(error.into());
    }
    pages.abort();
    tracing::info!("stopping: requests under way are finished");
    match tokio::time::timeout(DRAIN, server).await {
        Ok(Ok(ended)) => ended?,
        Ok(Err(_)) => {}
        Err(_) => tracing::warn!(seconds = DRAIN.as_secs(), "a request did not end in time and is given up"),
    }
    Ok(())
}

/// Waits until a GPU cannot be used any more. The process then ends, and kubelet starts a fresh one.
async fn first_out_of_service(devices: &[DeviceHandle]) -> Error {
    let gone = devices.iter().map(|device| {
        Box::pin(async move {
            // An error means that the thread has ended, which while the service lives it does only by a panic.
            let mut health = device.health();
            drop(health.wait_for(|health| *health != Health::Serving).await);
            device.out_of_service()
        })
    });
    futures::future::select_all(gone).await.0
}
