//! Rust client of the Weft runtime: arrays in shared memory, operations by name, no CUDA in the application.
//!
//! ```text
//!  Client::connect ──▶ region(bytes) ──▶ Region: &[u8] here, pinned memory there
//!                  └─▶ rpc(): gemm, fft, spmv, launch … with Region::operand
//! ```
//!
//! What a connection made on the GPU ends with it. A region's file loses its name as soon as both sides have mapped it, so
//! nothing is left behind however the process ends.

mod region;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use weft_proto::runtime::runtime_client::RuntimeClient;
use weft_proto::runtime::{CloseRegionRequest, InfoRequest, InfoResponse, OpenRegionRequest};

pub use region::Region;
/// The messages of the protocol.
pub use weft_proto::runtime as wire;

/// Where Weft's operator mounts the runtime's socket.
pub const SOCKET: &str = "/run/weft/runtime.sock";
/// Where Weft's operator mounts the folder of the regions.
pub const SHM_DIR: &str = "/run/weft/shm";

/// How often a runtime that is not up yet is looked for.
const RETRY: Duration = Duration::from_millis(50);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody serves the socket.
    #[error("no runtime came up at {} within {waited:?}: is spec.runtime enabled?", socket.display())]
    NoRuntime {
        /// The socket.
        socket: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The runtime's own sentence.
    #[error("{}", .0.message())]
    Refused(#[from] tonic::Status),
    /// A region's file could not be made.
    #[error("a region cannot be made in {}: {error}", folder.display())]
    Region {
        /// The shared folder.
        folder: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// A connection to the runtime.
#[derive(Clone)]
pub struct Client {
    rpc: RuntimeClient<Channel>,
    shm_dir: PathBuf,
}

impl Client {
    /// Connects to the runtime of this pod, at the paths in `WEFT_RUNTIME_SOCKET` and `WEFT_SHM_DIR`, else the usual ones.
    ///
    /// # Errors
    /// [`Error::NoRuntime`] if none is up after `patience`.
    pub async fn from_env(patience: Duration) -> Result<Self, Error> {
        let path = |name: &str, usual: &str| std::env::var_os(name).map_or_else(|| PathBuf::from(usual), PathBuf::from);
        Self::connect(&path("WEFT_RUNTIME_SOCKET", SOCKET), &path("WEFT_SHM_DIR", SHM_DIR), patience).await
    }

    /// Connects to a runtime, waiting up to `patience` for it to come up.
    ///
    /// # Errors
    /// [`Error::NoRuntime`].
    pub async fn connect(socket: &Path, shm_dir: &Path, patience: Duration) -> Result<Self, Error> {
        let attempt = async {
            loop {
                match connect_once(socket).await {
                    Ok(channel) => return channel,
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            }
        };
        let gone = || Error::NoRuntime { socket: socket.to_owned(), waited: patience };
        let channel = tokio::time::timeout(patience, attempt).await.map_err(|_| gone())?;
        Ok(Self { rpc: RuntimeClient::new(channel), shm_dir: shm_dir.to_owned() })
    }

    /// All methods of the protocol.
    pub fn rpc(&mut self) -> &mut RuntimeClient<Channel> {
        &mut self.rpc
    }

    /// The runtime's version, GPUs and libraries.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn info(&mut self) -> Result<InfoResponse, Error> {
        Ok(self.rpc.info(InfoRequest {}).await?.into_inner())
    }

    /// Makes a region of zeros that both sides map.
    ///
    /// # Errors
    /// [`Error::Region`] for the file, [`Error::Refused`] for the pinning.
    pub async fn region(&mut self, bytes: usize) -> Result<Region, Error> {
        let failed = |error| Error::Region { folder: self.shm_dir.clone(), error };
        let made = region::File::create(&self.shm_dir, bytes).map_err(failed)?;
        let opened = self.rpc.open_region(OpenRegionRequest { name: made.name().to_owned() }).await;
        // Whether it was opened or not: the file's name has done its service when `made` goes.
        let handle = opened?.into_inner().region;
        Ok(made.into_region(handle))
    }

    /// Closes a region before the connection ends.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn close(&mut self, region: Region) -> Result<(), Error> {
        self.rpc.close_region(CloseRegionRequest { region: region.handle() }).await?;
        Ok(())
    }
}

async fn connect_once(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    // The address is never resolved: the connector below decides where the stream goes.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
}
