//! The Container Device Interface specification: what the container runtime adds to a container that has a GPU.
//!
//! One file describes all GPUs of the node. It is derived from the machine and from what is under the driver root and in
//! `/dev`, and written again when the result differs; readers never see half a file.
//! Format: [CDI specification](https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_nvml::DriverRoot;

use crate::args::{Args, ExtraMount};
use crate::driver_files::{self, DriverFile};
use crate::snapshot::Snapshot;
use crate::status::{Status, count};
use crate::uvm;

/// Vendor and class: those of NVIDIA's device plugin, whose file this one replaces.
pub const KIND: &str = "k8s.device-plugin.nvidia.com/gpu";
/// Every runtime that has CDI at all reads this version.
const VERSION: &str = "0.5.0";
const FILE: &str = "k8s.device-plugin.nvidia.com-gpu.json";

/// Device nodes that every container with a GPU gets, as far as they exist.
const CONTROL_NODES: [&str; 4] = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"];

/// Folders in which a container's loader looks by itself: Debian's and Red Hat's. So no ldconfig hook is needed.
const LIBRARY_DIRS: [&str; 2] = [MULTIARCH_DIR, "/usr/lib64"];
#[cfg(target_arch = "aarch64")]
const MULTIARCH_DIR: &str = "/usr/lib/aarch64-linux-gnu";
#[cfg(not(target_arch = "aarch64"))]
const MULTIARCH_DIR: &str = "/usr/lib/x86_64-linux-gnu";

/// How often the files of the driver and the device nodes are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The fully qualified name of one GPU.
pub fn device_name(uuid: &str) -> String {
    format!("{KIND}={uuid}")
}

/// The specification.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    cdi_version: &'static str,
    kind: &'static str,
    devices: Vec<Device>,
    container_edits: Edits,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    container_edits: Edits,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Edits {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    device_nodes: Vec<DeviceNode>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<Mount>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeviceNode {
    path: String,
    permissions: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    host_path: PathBuf,
    container_path: PathBuf,
    options: Vec<&'static str>,
}

/// What the specification depends on besides the machine.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The driver root as this process sees it.
    pub root: DriverRoot,
    /// The driver root on the host.
    pub host_root: PathBuf,
    /// The folder of device nodes as this process sees it; on the host it is `/dev`.
    pub dev_dir: PathBuf,
    /// What to mount besides.
    pub extra_mounts: Vec<ExtraMount>,
}

impl Sources {
    /// As the command line says.
    pub fn new(args: &Args) -> Self {
        Sources {
            root: args.driver_root(),
            host_root: args.driver_root.clone(),
            dev_dir: args.dev_dir.clone(),
            extra_mounts: args.extra_mount.clone(),
        }
    }

    /// Derives the specification. Reads folders, and so belongs on a blocking thread.
    pub fn spec(&self, snapshot: &Snapshot) -> Spec {
        let node = |name: &str| DeviceNode { path: format!("/dev/{name}"), permissions: "rw" };
        // A GPU's own node is named also when it is missing: the container then fails with the node's name, instead of
        // starting without its GPU.
        let own = |uuid: &weft_topology::GpuUuid| {
            snapshot.boards.get(uuid).map(|board| node(&format!("nvidia{}", board.minor)))
        };
        let gpus = snapshot.node.gpus().iter().filter_map(|gpu| Some((gpu.uuid.as_str(), own(&gpu.uuid)?)));
        let devices = gpus
            .map(|(uuid, node)| Device {
                name: uuid.to_owned(),
                container_edits: Edits { device_nodes: vec![node], mounts: Vec::new() },
            })
            .collect();
        let control = CONTROL_NODES.iter().filter(|name| self.dev_dir.join(name).exists()).map(|name| node(name));
        Spec {
            cdi_version: VERSION,
            kind: KIND,
            devices,
            container_edits: Edits { device_nodes: control.collect(), mounts: self.mounts() },
        }
    }

    fn mounts(&self) -> Vec<Mount> {
        let read_only = |host: &Path, container: PathBuf| Mount {
            host_path: host.to_path_buf(),
            container_path: container,
            options: vec!["ro", "nosuid", "nodev", "rbind", "rprivate"],
        };
        let host = |file: &DriverFile| self.root.on_host(&file.path, &self.host_root);
        let libraries = driver_files::libraries(&self.root);
        let libraries = libraries
            .iter()
            .flat_map(|file| LIBRARY_DIRS.map(|dir| read_only(&host(file), Path::new(dir).join(&file.name))));
        let binaries = driver_files::binaries(&self.root);
        let binaries = binaries.iter().map(|file| read_only(&host(file), Path::new("/usr/bin").join(&file.name)));
        let extra = self.extra_mounts.iter().map(|mount| Mount {
            host_path: mount.host.clone(),
            container_path: mount.container.clone(),
            options: if mount.read_only { vec!["ro", "rbind", "rslave"] } else { vec!["rw", "rbind", "rslave"] },
        });
        libraries.chain(binaries).chain(extra).collect()
    }
}

/// Writes the specification where the runtime looks, by renaming, so that no reader sees half of it: also not after the
/// power failed, and not when the disk is full, which leaves the file of before.
pub fn write(spec: &Spec, dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    // Not named `.json`: the runtime would read it.
    let unfinished = dir.join(format!("{FILE}.new"));
    let written = write_through(&unfinished, spec).and_then(|()| fs::rename(&unfinished, dir.join(FILE)));
    if written.is_err() {
        // It holds room on a disk that may be full.
        let _ = fs::remove_file(&unfinished);
    }
    written?;
    // The new name is on the disk only with its folder.
    File::open(dir)?.sync_all()
}

fn write_through(path: &Path, spec: &Spec) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(serde_json::to_string_pretty(spec)?.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// Keeps the file in step with the machine, and passes a snapshot on only once its GPUs are in the file: a GPU is not
/// advertised before a container can be given it.
pub async fn keep_written(
    sources: Sources,
    dir: PathBuf,
    mut machine: watch::Receiver<Arc<Snapshot>>,
    described: watch::Sender<Arc<Snapshot>>,
    status: Arc<Status>,
    shutdown: CancellationToken,
) {
    let sources = Arc::new(sources);
    let mut written: Option<Spec> = None;
    let mut covered = false;
    // The driver version under which it was there or made: enough until the driver is another. A failed attempt is made again with
    // the next snapshot, and told once.
    let (mut uvm_tried, mut uvm_told) = (None, String::new());
    let mut told = String::new();
    loop {
        let snapshot = Arc::clone(&machine.borrow_and_update());
        if snapshot.has_gpus() {
            let driver = snapshot.driver.as_ref().map(|driver| driver.version.clone());
            if driver.is_some() && uvm_tried != driver {
                match uvm::make_if_missing(&sources.root, &sources.dev_dir).await {
                    Ok(made) => {
                        if made {
                            tracing::info!("made /dev/nvidia-uvm with the driver's nvidia-modprobe");
                        }
                        uvm_tried = driver;
                    }
                    Err(error) => {
                        let error = error.to_string();
                        if uvm_told != error {
                            tracing::warn!("{error}");
                            uvm_told = error;
                        }
                    }
                }
            }
            let (job, of) = (Arc::clone(&sources), Arc::clone(&snapshot));
            let (dir, before) = (dir.clone(), written.take());
            let outcome = tokio::task::spawn_blocking(move || {
                let spec = job.spec(&of);
                if before.as_ref() != Some(&spec) || !dir.join(FILE).exists() {
                    write(&spec, &dir).map_err(|error| (dir.join(FILE), error))?;
                    tracing::info!(file = %dir.join(FILE).display(), gpus = spec.devices.len(), "wrote the CDI specification");
                }
                Ok(spec)
            });
            match outcome.await {
                Ok(Ok(spec)) => {
                    told.clear();
                    written = Some(spec);
                }
                Ok(Err((file, error))) => {
                    let error: io::Error = error;
                    count(&status.counters.cdi_errors);
                    let sentence = error.to_string();
                    if sentence != told {
                        tracing::error!(
                            file = %file.display(), %error,
                            "cannot write the CDI specification; containers cannot get GPUs until there is room and permission"
                        );
                        told = sentence;
                    }
                }
                Err(error) => tracing::error!(%error, "the CDI specification could not be derived"),
            }
        }
        // A write that fails later must not hold back that a GPU became unhealthy.
        covered |= written.is_some();
        if covered || !snapshot.has_gpus() {
            described.send_if_modified(|current| {
                let changed = !Arc::ptr_eq(current, &snapshot);
                *current = snapshot;
                changed
            });
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = machine.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_topology::{Gpu, GpuUuid, Health, Node, NodeFacts};

    use super::*;

    fn snapshot() -> Snapshot {
        let gpu = Gpu {
            uuid: "GPU-a".into(),
            index: 0,
            product: "GPU".into(),
            memory_bytes: 1,
            pci_bus_id: "".into(),
            numa: None,
            health: Health::Healthy,
            mig_profile: None,
        };
        let board = weft_nvml::Board {
            uuid: "GPU-a".into(),
            minor: 3,
            compute_capability: None,
            architecture: None,
            serial: None,
            vbios: None,
        };
        let mut snapshot = Snapshot::empty("node", None).unwrap();
        snapshot.node = Node::new(NodeFacts { name: "node".into(), gpus: vec![gpu], ..NodeFacts::default() }).unwrap();
        snapshot.boards.insert(GpuUuid::from("GPU-a"), board);
        snapshot
    }

    /// A driver root and a `/dev` in a folder.
    fn sources(dir: &Path) -> Sources {
        let lib = dir.join("root/usr/lib64");
        fs::create_dir_all(&lib).unwrap();
        fs::create_dir_all(dir.join("root/usr/bin")).unwrap();
        fs::create_dir_all(dir.join("dev")).unwrap();
        fs::write(lib.join("libcuda.so.1"), "").unwrap();
        fs::write(dir.join("root/usr/bin/nvidia-smi"), "").unwrap();
        fs::write(dir.join("dev/nvidiactl"), "").unwrap();
        Sources {
            root: DriverRoot::new(dir.join("root")),
            host_root: "/opt/driver".into(),
            dev_dir: dir.join("dev"),
            extra_mounts: vec!["/run/x:ro".parse().unwrap()],
        }
    }

    #[test]
    fn the_specification_names_host_paths_and_the_loaders_folders() {
        let dir = tempfile::tempdir().unwrap();
        let spec = serde_json::to_value(sources(dir.path()).spec(&snapshot())).unwrap();
        assert_eq!(spec["kind"], KIND);
        assert_eq!(spec["devices"][0]["name"], "GPU-a");
        assert_eq!(spec["devices"][0]["containerEdits"]["deviceNodes"][0]["path"], "/dev/nvidia3");
        let control = &spec["containerEdits"]["deviceNodes"];
        assert_eq!(control.as_array().unwrap().len(), 1, "only nodes that exist: {control}");
        let mounts: Vec<(&str, &str)> = spec["containerEdits"]["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| (mount["hostPath"].as_str().unwrap(), mount["containerPath"].as_str().unwrap()))
            .collect();
        let library = "/opt/driver/usr/lib64/libcuda.so.1";
        assert_eq!(
            mounts,
            [
                (library, format!("{MULTIARCH_DIR}/libcuda.so.1").as_str()),
                (library, "/usr/lib64/libcuda.so.1"),
                ("/opt/driver/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi"),
                ("/run/x", "/run/x"),
            ]
        );
    }

    #[test]
    fn writing_replaces_the_file_as_a_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("cdi");
        let spec = sources(dir.path()).spec(&snapshot());
        write(&spec, &target).unwrap();
        write(&spec, &target).unwrap();
        let files: Vec<_> = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, [FILE]);
        let text = fs::read_to_string(target.join(FILE)).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["cdiVersion"], VERSION);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_file_of_before_and_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("cdi");
        let spec = sources(dir.path()).spec(&snapshot());
        write(&spec, &target).unwrap();
        let before = fs::read(target.join(FILE)).unwrap();
        // Always full. A link, since the name of the unfinished file is ours.
        std::os::unix::fs::symlink("/dev/full", target.join(format!("{FILE}.new"))).unwrap();
        let other = Spec { devices: Vec::new(), ..spec };
        assert_eq!(write(&other, &target).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(target.join(FILE)).unwrap(), before);
        assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
        write(&other, &target).unwrap();
        assert_ne!(fs::read(target.join(FILE)).unwrap(), before);
    }

    #[tokio::test]
    async fn a_gpu_is_passed_on_only_once_the_file_is_written() {
        let dir = tempfile::tempdir().unwrap();
        // A file where the folder should be: writing fails.
        let target = dir.path().join("cdi");
        fs::write(&target, "").unwrap();
        let (machine, rx) = watch::channel(Arc::new(snapshot()));
        let (described, mut seen) = watch::channel(Arc::new(Snapshot::empty("node", None).unwrap()));
        seen.borrow_and_update();
        let status = Arc::new(Status::new());
        let shutdown = CancellationToken::new();
        let job = tokio::spawn(keep_written(
            sources(dir.path()),
            target.clone(),
            rx,
            described,
            Arc::clone(&status),
            shutdown.clone(),
        ));
        while status.counters.cdi_errors.load(std::sync::atomic::Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!seen.has_changed().unwrap());
        fs::remove_file(&target).unwrap();
        machine.send_replace(Arc::new(snapshot()));
        seen.changed().await.unwrap();
        assert!(seen.borrow().has_gpus());
        assert!(target.join(FILE).exists());
        shutdown.cancel();
        job.await.unwrap();
    }
}
