//! The Unix socket: one runtime on it at a time, and a session for each connection.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use rustix::fs::{FlockOperation, flock};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tonic::transport::server::Connected;

use super::ServeError;
use super::metrics::Metrics;
use super::session::Session;
use crate::device::DeviceHandle;

/// A socket's path, held by a lock on a file beside it. The kernel lets the lock go however the process ends, so a socket file
/// that a killed runtime left behind is told from one that is served.
pub(super) struct Socket {
    path: PathBuf,
    lock: File,
}

impl Socket {
    pub(super) fn claim(path: &Path) -> Result<Self, ServeError> {
        let failed = |what| move |error| ServeError::Path { what, path: path.to_owned(), error };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed("the folder cannot be made for"))?;
        }
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed("the lock cannot be opened for"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(ServeError::SocketTaken(path.to_owned())),
            Err(error) => Err(failed("the lock cannot be taken for")(error.into())),
        }
    }

    /// Listens, in place of a socket that a dead runtime left.
    pub(super) fn bind(
        self,
        devices: Arc<[DeviceHandle]>,
        metrics: Arc<Metrics>,
        stopping: watch::Receiver<bool>,
    ) -> Result<Connections, ServeError> {
        let failed = |what| {
            let path = self.path.clone();
            move |error| ServeError::Path { what, path, error }
        };
        match std::fs::symlink_metadata(&self.path) {
            Ok(old) if old.file_type().is_socket() => {
                std::fs::remove_file(&self.path).map_err(failed("a stale socket cannot be removed at"))?;
            }
            Ok(_) => return Err(ServeError::NoSocket(self.path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("cannot look at")(error)),
        }
        let listener = UnixListener::bind(&self.path).map_err(failed("cannot listen on"))?;
        // The volume belongs to the pod: whoever is in it may use the GPUs, under whichever user its image runs.
        std::fs::set_permissions(&self.path, Permissions::from_mode(0o666)).map_err(failed("cannot open up"))?;
        Ok(Connections { listener, path: self.path, _lock: self.lock, devices, metrics, stopping })
    }
}

/// Incoming connections, each with its session. Removes the socket when dropped.
pub(super) struct Connections {
    listener: UnixListener,
    path: PathBuf,
    _lock: File,
    devices: Arc<[DeviceHandle]>,
    metrics: Arc<Metrics>,
    stopping: watch::Receiver<bool>,
}

impl Stream for Connections {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if *self.stopping.borrow() {
            return Poll::Ready(None);
        }
        self.listener.poll_accept(cx).map(|accepted| {
            Some(accepted.map(|(stream, _)| Connection {
                stream,
                session: Arc::new(Session::new(self.devices.clone(), self.metrics.clone())),
            }))
        })
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the socket was not removed");
        }
    }
}

/// A connection and its session. Handlers hold the session too, so it ends with the last of them.
pub(super) struct Connection {
    stream: UnixStream,
    session: Arc<Session>,
}

impl Connected for Connection {
    type ConnectInfo = Arc<Session>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.session.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
