//! The name of the plugin's socket, which two plugins on one node both want: whose file it is, and whether somebody serves there.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use weft_proto::deviceplugin::Empty;
use weft_proto::deviceplugin::device_plugin_client::DevicePluginClient;

use crate::socket;

/// How long another plugin may take to answer. What takes longer hangs, and kubelet has nothing from it either.
const ANSWER: Duration = Duration::from_secs(2);
/// How often to see whether the other plugin on this node is gone.
const STAND_BY: Duration = Duration::from_secs(2);

/// Which file a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId(u64, u64, i64, i64);

pub(super) fn file_id(path: &Path) -> Option<FileId> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some(FileId(metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

/// The socket that this process makes, again for each registration. It goes with this value, on whatever way that ends: without
/// the socket kubelet knows at once that no more GPUs can be allocated. One that another plugin has put there stays.
pub(super) struct OwnSocket {
    path: PathBuf,
    made: Option<FileId>,
}

impl OwnSocket {
    pub(super) fn new(path: PathBuf) -> Self {
        OwnSocket { path, made: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Listens under the name, in place of whatever had it.
    pub(super) fn bind(&mut self) -> io::Result<UnixListener> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&self.path)?;
        self.made = file_id(&self.path);
        Ok(listener)
    }

    /// The file that was made, if one was.
    pub(super) fn made(&self) -> Option<FileId> {
        self.made
    }

    /// Removes the file, if it is still the one that was made.
    pub(super) fn remove(&mut self) {
        if self.is_in_place() {
            // Somebody else may be faster, and then there is nothing to do.
            let _ = std::fs::remove_file(&self.path);
        }
        self.made = None;
    }

    /// Whether another plugin listens under the name and answers. A file that a plugin left which ended is refused at once.
    pub(super) async fn is_anothers(&self) -> bool {
        let ask = async {
            let channel = socket::connect(&self.path).await.ok()?;
            DevicePluginClient::new(channel).get_device_plugin_options(Empty {}).await.ok()
        };
        !self.is_in_place() && matches!(tokio::time::timeout(ANSWER, ask).await, Ok(Some(_)))
    }

    /// Waits until nobody listens under the name.
    pub(super) async fn until_unserved(&self) {
        while UnixStream::connect(&self.path).await.is_ok() {
            tokio::time::sleep(STAND_BY).await;
        }
    }

    fn is_in_place(&self) -> bool {
        self.made.is_some() && file_id(&self.path) == self.made
    }
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        self.remove();
    }
}
