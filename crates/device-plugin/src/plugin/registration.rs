//! Keeps kubelet knowing the plugin.
//!
//! ```text
//!   no GPUs ──▶ does another plugin answer there? ──no──▶ serve on nvidia-gpu.sock ──▶ Register ──▶ wait until
//!                ▲             │ yes                                                kubelet.sock is another file,
//!                │             ▼                                                    our socket is gone,
//!                │    until nobody serves there                                     kubelet ended its stream of devices, or
//!                └──────────────────────────────────────────────────────────────── another plugin has our socket's name
//! ```
//!
//! Of two plugins on a node the earlier one serves, as long as the later one asks first: this one does, NVIDIA's does not.
//!
//! kubelet dials back during Register, so the plugin serves first. A kubelet that restarts deletes every socket in its
//! folder and makes its own anew; both are noticed at once through inotify, and within a second by looking, since
//! inotify does not work on every file system that such a folder is mounted from.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use weft_api::names::GPU_RESOURCE;
use weft_proto::deviceplugin::RegisterRequest;
use weft_proto::deviceplugin::device_plugin_server::DevicePluginServer;
use weft_proto::deviceplugin::registration_client::RegistrationClient;

use crate::plugin::own_socket::{FileId, OwnSocket, file_id};
use crate::plugin::service::{Plugin, Streams, options};
use crate::socket;
use crate::status::{Status, count};

/// kubelet's version of the device plugin API.
const API_VERSION: &str = "v1beta1";
/// NVIDIA's plugin uses the same name: of two plugins for one resource, one remains.
const SOCKET: &str = "nvidia-gpu.sock";
const KUBELET_SOCKET: &str = "kubelet.sock";

/// How often to look when inotify says nothing.
const LOOK: Duration = Duration::from_secs(1);
/// A kubelet that starts makes several files; registering once is enough.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// How long to wait for the first list of this node's pods.
const PLANS: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(5);
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
/// A registration that lasted this long was good: what ends it is no repetition of what ended the one before.
const STEADY: Duration = Duration::from_secs(60);

/// Why registering did not work.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The plugin's own socket cannot be made.
    #[error("cannot listen on {}: {source}; is kubelet's device-plugins folder mounted here?", socket.display())]
    Listen {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// kubelet is not there.
    #[error("kubelet does not listen on {}: {reason}; it may be restarting", socket.display())]
    Connect {
        /// kubelet's socket.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
    /// kubelet said no.
    #[error("kubelet refuses to register {GPU_RESOURCE}: {0}")]
    Refused(Box<tonic::Status>),
    /// kubelet said nothing.
    #[error("kubelet did not answer Register within {REGISTER_TIMEOUT:?}; it may be restarting")]
    Silent,
}

/// Why kubelet no longer knows this plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// Another kubelet's socket, or none.
    Kubelet,
    /// Our socket was removed, as a kubelet that starts does.
    Removed,
    /// Our socket's name is another plugin's.
    Replaced,
    /// kubelet, or something on the way, ended the stream of devices.
    Stream,
    /// The server ended.
    Server,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lost::Kubelet => "kubelet restarted",
            Lost::Removed => "the plugin's socket was removed",
            Lost::Replaced => "another plugin took the socket",
            Lost::Stream => "kubelet ended its stream of devices",
            Lost::Server => "the plugin's server ended",
        })
    }
}

/// Serves and registers the plugin until `shutdown`, whatever kubelet does.
pub async fn keep_registered(plugin: Plugin, dir: PathBuf, shutdown: CancellationToken) {
    let changed = Arc::new(Notify::new());
    let watcher = watch_folder(&dir, &changed);
    if let Err(error) = &watcher {
        tracing::warn!(dir = %dir.display(), %error, "cannot watch kubelet's folder; looking every second instead");
    }
    let status = Arc::clone(&plugin.status);
    let mut machine = plugin.machine.clone();
    let stay = async {
        // A node without GPUs advertises nothing, not even zero.
        if machine.wait_for(|snapshot| snapshot.has_gpus()).await.is_err() {
            return;
        }
        // kubelet asks for GPUs as soon as it knows the plugin; the plans should be known by then. Not at any price:
        // without an API server running pods still need their GPUs.
        if tokio::time::timeout(PLANS, plugin.pods.listed.cancelled()).await.is_err() {
            tracing::warn!("this node's pods are not known yet; registering without their planned GPUs");
        }
        let mut retry = FIRST_RETRY;
        let mut told = String::new();
        // Before registering after a stream that ended: a kubelet that ends each at once is not asked without pause.
        let mut pause = DEBOUNCE;
        // Outside of the loop: whatever this task is doing when it is told to stop, the file goes with it.
        let mut own = OwnSocket::new(dir.join(SOCKET));
        loop {
            // An agent that is updated has ended before its successor starts, so this is a second plugin on the node.
            while own.is_anothers().await {
                stand_by(&own, &status).await;
            }
            match Registered::new(&plugin, &dir, &mut own).await {
                Ok(mut registered) => {
                    let since = tokio::time::Instant::now();
                    status.registered.store(true, Ordering::Relaxed);
                    count(&status.counters.registrations);
                    tracing::info!(resource = GPU_RESOURCE, "registered with kubelet");
                    (retry, told) = (FIRST_RETRY, String::new());
                    let lost = registered.until_lost(&changed).await;
                    status.registered.store(false, Ordering::Relaxed);
                    // The file stays: it is replaced next, and a kubelet that starts may be clearing the folder just now.
                    drop(registered);
                    if lost == Lost::Replaced {
                        stand_by(&own, &status).await;
                        continue;
                    }
                    tracing::info!("{lost}; registering again");
                    pause = match lost {
                        Lost::Stream if since.elapsed() < STEADY => (pause * 2).min(LAST_RETRY),
                        _ => DEBOUNCE,
                    };
                    tokio::time::sleep(pause).await;
                }
                Err(error) => {
                    own.remove();
                    count(&status.counters.registration_errors);
                    let sentence = error.to_string();
                    if sentence != told {
                        tracing::warn!(%error, "cannot register yet; trying again");
                        told = sentence;
                    }
                    tokio::select! {
                        () = changed.notified() => tokio::time::sleep(DEBOUNCE).await,
                        () = tokio::time::sleep(retry) => {}
                    }
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        }
    };
    tokio::select! {
        () = stay => {}
        () = shutdown.cancelled() => {}
    }
}

/// Waits until the other plugin that serves under the socket's name is gone, and says so.
async fn stand_by(own: &OwnSocket, status: &Status) {
    status.standing_by.store(true, Ordering::Relaxed);
    tracing::error!(
        socket = %own.path().display(),
        "another device plugin offers {GPU_RESOURCE} on this node: remove one of the two; this one waits"
    );
    own.until_unserved().await;
    status.standing_by.store(false, Ordering::Relaxed);
    tracing::info!("the other device plugin is gone; registering");
}

fn watch_folder(dir: &Path, changed: &Arc<Notify>) -> notify::Result<notify::RecommendedWatcher> {
    let changed = Arc::clone(changed);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Not our own socket: each attempt makes it anew, which would end the wait for the next one at once.
        let kubelets = |path: &PathBuf| path.ends_with(KUBELET_SOCKET);
        if event.is_ok_and(|event| !event.kind.is_access() && event.paths.iter().any(kubelets)) {
            changed.notify_one();
        }
    })?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// A plugin that serves and that kubelet knows.
struct Registered {
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    own: (PathBuf, Option<FileId>),
    kubelet: (PathBuf, Option<FileId>),
    streams: Arc<Streams>,
}

impl Registered {
    async fn new(plugin: &Plugin, dir: &Path, own: &mut OwnSocket) -> Result<Self, RegisterError> {
        let kubelet = dir.join(KUBELET_SOCKET);
        // Before the call: a kubelet that is replaced during it is noticed.
        let kubelet_id = file_id(&kubelet);
        let listener = own.bind().map_err(|source| RegisterError::Listen { socket: own.path().to_owned(), source })?;
        // Its own streams: those of the server before end when that is cut off, and say nothing of this one.
        let streams = Arc::new(Streams::default());
        let service = DevicePluginServer::new(Plugin { streams: Arc::clone(&streams), ..plugin.clone() });
        let server = Server::builder().add_service(service).serve_with_incoming(UnixListenerStream::new(listener));
        let registered = Registered {
            server: tokio::spawn(server),
            own: (own.path().to_owned(), own.made()),
            kubelet: (kubelet, kubelet_id),
            streams,
        };
        tokio::time::timeout(REGISTER_TIMEOUT, registered.register()).await.map_err(|_| RegisterError::Silent)??;
        Ok(registered)
    }

    async fn register(&self) -> Result<(), RegisterError> {
        let kubelet = &self.kubelet.0;
        let channel = socket::connect(kubelet)
            .await
            .map_err(|error| RegisterError::Connect { socket: kubelet.clone(), reason: socket::cause(&error) })?;
        let request = RegisterRequest {
            version: API_VERSION.to_owned(),
            endpoint: SOCKET.to_owned(),
            resource_name: GPU_RESOURCE.to_owned(),
            options: Some(options()),
        };
        let answer = RegistrationClient::new(channel).register(request).await;
        answer.map(drop).map_err(|status| RegisterError::Refused(Box::new(status)))
    }

    /// Waits until kubelet no longer knows this plugin.
    async fn until_lost(&mut self, changed: &Notify) -> Lost {
        loop {
            if let Some(lost) = self.look() {
                return lost;
            }
            tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
                () = self.streams.lost() => {
                    // A kubelet that stops ends its streams first and its socket a little later.
                    tokio::time::sleep(DEBOUNCE).await;
                    return self.look().unwrap_or(Lost::Stream);
                }
                _ = &mut self.server => return Lost::Server,
            }
        }
    }

    /// What the two sockets tell.
    fn look(&self) -> Option<Lost> {
        let (kubelet, own) = (file_id(&self.kubelet.0), file_id(&self.own.0));
        match own {
            Some(_) if own != self.own.1 => Some(Lost::Replaced),
            None => Some(Lost::Removed),
            Some(_) if kubelet.is_none() || kubelet != self.kubelet.1 => Some(Lost::Kubelet),
            Some(_) => None,
        }
    }
}

/// ListAndWatch never ends by itself, so a server is not drained but cut off; kubelet dials the next one.
impl Drop for Registered {
    fn drop(&mut self) {
        self.server.abort();
    }
}
