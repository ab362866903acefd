//! Regions: files of the shared folder, mapped and pinned.

use std::fs::{File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FileType, Mode, OFlags};

use super::ServeError;
use super::metrics::Metrics;
use super::session::next_number;
use crate::Error;
use crate::device::{DeviceHandle, Place};

/// The folder in which clients make the files of regions.
pub(super) struct SharedFolder {
    path: PathBuf,
    folder: OwnedFd,
}

impl SharedFolder {
    /// Makes the folder if it is not there. Any user may make files in it and remove their own, as in `/tmp`.
    pub(super) fn open(path: &Path) -> Result<Self, ServeError> {
        let failed = |what| move |error: std::io::Error| ServeError::Path { what, path: path.to_owned(), error };
        if !path.exists() {
            std::fs::create_dir_all(path).map_err(failed("the shared folder cannot be made:"))?;
            let mode = Permissions::from_mode(0o1777);
            std::fs::set_permissions(path, mode).map_err(failed("the shared folder cannot be opened up:"))?;
        }
        // NOFOLLOW: before a restart of the runtime, an application could have put a link to a folder of this container here.
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| failed("the shared folder cannot be opened:")(error.into()))?;
        Ok(Self { path: path.to_owned(), folder })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file by its bare name and maps it. No path leads out of the folder, and no link is followed.
    pub(super) fn map(&self, name: &str) -> Result<MmapRaw, Error> {
        let argument = || format!("region {name:?}");
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > 255 || name.starts_with('.') || !name.chars().all(plain) {
            let rule = "a region's name has 1 to 255 letters, digits, `.`, `_` and `-`, and does not start with a dot";
            return Err(Error::argument(argument(), rule));
        }
        // NONBLOCK: a pipe of that name must not hold the runtime up before it is refused.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let refused = |reason: &str| Error::argument(argument(), format!("{reason} ({})", self.path.display()));
        let file = rustix::fs::openat(&self.folder, name, flags, Mode::empty()).map_err(|error| match error {
            rustix::io::Errno::NOENT => refused("there is no such file in the shared folder"),
            rustix::io::Errno::LOOP => refused("it is a link, and links are not followed in the shared folder"),
            error => refused(&format!("it cannot be opened: {error}")),
        })?;
        let status = rustix::fs::fstat(&file).map_err(|error| refused(&format!("it cannot be looked at: {error}")))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(refused("it is no plain file"));
        }
        if status.st_size == 0 {
            return Err(refused("it is empty: give it its size before it is opened"));
        }
        MmapOptions::new().map_raw(&File::from(file)).map_err(|error| refused(&format!("it cannot be mapped: {error}")))
    }
}

/// An open region. It is let go when the last request that uses it has run: requests hold it while they wait and run.
pub(super) struct Region {
    number: u64,
    place: Place,
    bytes: usize,
    // Keeps the addresses ours: the home GPU drops its hold when it goes out of service, while another may still copy.
    _map: Arc<MmapRaw>,
    // Held for its Drop.
    _pinning: Pinning,
}

/// Undoes the pinning, whether or not anybody waited for it to be done.
struct Pinning {
    number: u64,
    home: DeviceHandle,
    metrics: Arc<Metrics>,
    counted: Option<usize>,
}

impl Region {
    /// Pins a mapped file on the home GPU's thread.
    pub(super) async fn pin(home: DeviceHandle, metrics: Arc<Metrics>, map: MmapRaw) -> Result<Self, Error> {
        let (number, bytes, map) = (next_number(), map.len(), Arc::new(map));
        let pinned = map.clone();
        // Made before the call: if the client goes away while it waits, this still unpins, behind the pinning in the queue.
        let mut pinning = Pinning { number, home: home.clone(), metrics, counted: None };
        let place = home.call(move |device| device.pin(number, pinned)).await?;
        pinning.metrics.regions.inc();
        pinning.metrics.region_bytes.inc_by(bytes as i64);
        pinning.counted = Some(bytes);
        Ok(Self { number, place, bytes, _map: map, _pinning: pinning })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The region's addresses, moved on by `offset` bytes.
    pub(super) fn place_at(&self, offset: usize) -> Place {
        match self.place {
            Place::Device(pointer) => Place::Device(pointer + offset as u64),
            Place::Pinned { host, device } => Place::Pinned { host: host + offset, device: device + offset as u64 },
        }
    }
}

impl Drop for Pinning {
    fn drop(&mut self) {
        let number = self.number;
        self.home.post(move |device| device.unpin(number));
        if let Some(bytes) = self.counted {
            self.metrics.regions.dec();
            self.metrics.region_bytes.dec_by(bytes as i64);
        }
    }
}
