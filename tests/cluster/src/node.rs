//! A node's life: power on, its daemons, images, simulated GPUs, power off.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    cluster::Cluster,
    component::{Component, NodeSetting, node_files},
    error::{Doing, Error, Result, make_folder, tail, write},
    helper::{self, Task},
    machine,
    network::namespace_path,
    node_root::NodeRoot,
    process::Process,
    progress::Progress,
    run::output,
};

/// Where a simulated node's driver root lies in the node.
const SIM_ROOT: &str = "/opt/weft-sim";
/// The state of a simulated node's GPUs, in the node.
const SIM_STATE: &str = "/run/weft-sim/machine";

/// One node as it is wished.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Its name in Kubernetes, such as `node-1`.
    pub name: String,
    /// Labels that its kubelet registers it with.
    pub labels: BTreeMap<String, String>,
    /// The simulated GPUs in it, such as `h100x8`; none if `None`.
    pub profile: Option<String>,
    /// Whether it has the machine's own NVIDIA GPUs and driver.
    #[serde(default)]
    pub machine_gpus: bool,
}

impl NodeSpec {
    /// A node without labels and GPUs.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Adds a label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Gives it simulated GPUs.
    pub fn profile(mut self, profile: impl Into<String>) -> Self {
        self.profile = Some(profile.into());
        self
    }

    /// Gives it the machine's own NVIDIA GPUs and driver.
    pub fn machine_gpus(mut self) -> Self {
        self.machine_gpus = true;
        self
    }

    pub(crate) fn setting(&self) -> NodeSetting {
        let labels: Vec<String> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        NodeSetting { name: self.name.clone(), labels: labels.join(",") }
    }
}

impl Cluster {
    /// Plugs a node in and starts it up to the point where its containerd has its images: kubelet comes last, once the
    /// API server answers.
    pub(crate) fn bring_up(&self, index: usize, images: &[PathBuf], progress: &dyn Progress) -> Result<()> {
        let node = self.node(index)?;
        self.pki().make_node(index, &node.name)?;
        self.setting(|setting| setting.write_node(index, &node.setting()))?;
        self.boot(index)?;
        self.start(Component::Containerd(index))?;
        self.wait_for_containerd(index, progress)?;
        for image in images {
            progress
                .working(&format!("{}: images", node.name), &image.file_name().unwrap_or_default().to_string_lossy());
            self.load_image(index, image)?;
        }
        progress.finished(&format!("{}: images", node.name));
        Ok(())
    }

    /// Switches a node on: its namespaces, its file system, its GPUs. No daemon runs yet.
    pub(crate) fn boot(&self, index: usize) -> Result<()> {
        let node = self.node(index)?;
        let place = self.place();
        let label = format!("node-{index}");
        if Process::load(&place.pid_file(&label)).is_some() {
            return Err(Error::State(format!("{} is on already", node.name)));
        }
        let folder = self.node_folder(index);
        make_folder(&folder)?;
        let mut mounted = BTreeMap::new();
        if node.profile.is_some() {
            mounted.insert(PathBuf::from(SIM_ROOT), self.simulator_folder().join("root"));
        }
        let mut shared: Vec<PathBuf> =
            vec![place.folder.join("conf"), place.folder.join("pki"), self.simulator_folder()];
        shared.extend(self.tool_folders());
        let mut devices = Vec::new();
        if node.machine_gpus {
            devices = machine::gpu_devices()?;
            shared.extend(machine::driver_folders()?);
        }
        let root = NodeRoot {
            hostname: node.name.clone(),
            folder: folder.clone(),
            shared: shared.into_iter().filter(|folder| folder.exists()).collect(),
            mounted,
            devices,
            files: node_files(index, &node.name).into_iter().map(|(path, content)| (path.into(), content)).collect(),
        };
        let description = folder.join("root.json");
        write(
            &description,
            serde_json::to_string_pretty(&root)
                .map_err(std::io::Error::from)
                .doing(|| "describing a node".to_owned())?,
        )?;
        let task = Task::Boot {
            network: namespace_path(&self.network().node(index)),
            cgroup: self.node_group(index),
            root: description,
        };
        let log = place.log(&label);
        let mut command = helper::command(self.helper(), &task)?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(self.open_log(&label)?)
            .spawn()
            .doing(|| format!("starting {}", node.name))?;
        // Two lines: the pid of the node's pid 1 from its maker, and `ready` from itself, in either order.
        let (mut init, mut ready) = (None, false);
        for line in
            child.stdout.take().map(|out| BufReader::new(out).lines()).into_iter().flatten().map_while(Result::ok)
        {
            match line.parse::<i32>() {
                Ok(pid) => init = Process::of(pid),
                Err(_) => ready = ready || line == "ready",
            }
            if ready && init.is_some() {
                break;
            }
        }
        child.wait().doing(|| format!("waiting for {}", node.name))?;
        match init {
            Some(init) if ready => init.save(&place.pid_file(&label))?,
            _ => {
                return Err(Error::Component {
                    component: node.name.clone(),
                    problem: "could not be switched on".into(),
                    log: log.display().to_string(),
                    tail: tail(&log, 8),
                });
            }
        }
        match &node.profile {
            Some(profile) => self.make_gpus(index, profile),
            None => Ok(()),
        }
    }

    /// Switches a node off as a power cut does: everything in it ends at once. What was on its disk stays.
    pub fn power_off(&self, index: usize) -> Result<()> {
        let node = self.node(index)?;
        let file = self.place().pid_file(format!("node-{index}"));
        let init = Process::load(&file).ok_or_else(|| Error::State(format!("{} is off already", node.name)))?;
        init.kill()?;
        for component in [Component::Containerd(index), Component::Kubelet(index)] {
            if let Some(process) = self.process(component) {
                process.wait_gone(Duration::from_secs(20))?;
            }
        }
        Ok(())
    }

    /// Switches a node on again, with containerd and kubelet. Its images are still there.
    pub fn power_on(&self, index: usize) -> Result<()> {
        self.boot(index)?;
        self.start(Component::Containerd(index))?;
        self.start(Component::Kubelet(index))
    }

    pub(crate) fn wait_for_containerd(&self, index: usize, progress: &dyn Progress) -> Result<()> {
        let component = Component::Containerd(index);
        self.wait_for(&format!("{component} to answer"), Some(component), Duration::from_secs(60), progress, || {
            Ok(output(self.node_command(index, "ctr")?.arg("version")).ok().map(drop))
        })
    }

    /// Puts an image (an OCI archive) into a node's containerd.
    pub fn load_image(&self, index: usize, image: &Path) -> Result<()> {
        let archive = fs::File::open(image).doing(|| format!("opening the image {}", image.display()))?;
        let mut command = self.node_command(index, "ctr")?;
        command
            .args(["-n", "k8s.io", "images", "import", "--local", "-"])
            .stdin(archive)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let done = command.output().doing(|| format!("importing {}", image.display()))?;
        if done.status.success() {
            return Ok(());
        }
        Err(Error::Command {
            command: format!("ctr images import {}", image.display()),
            status: done.status,
            output: String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        })
    }

    /// The folder with the simulator: `bin/weft-sim`, and `root/`, the driver root of simulated nodes.
    pub(crate) fn simulator_folder(&self) -> PathBuf {
        self.place().folder.join("sim")
    }

    /// Lays the simulator out for the nodes.
    pub(crate) fn lay_out_simulator(&self, simulator: &Path) -> Result<()> {
        if !simulator.exists() {
            return Err(Error::Prerequisite(format!(
                "there is no {} for nodes with simulated GPUs: build it with `cargo build -p weft-sim`",
                simulator.display()
            )));
        }
        let folder = self.simulator_folder();
        make_folder(&folder.join("bin"))?;
        fs::copy(simulator, folder.join("bin/weft-sim")).doing(|| format!("copying {}", simulator.display()))?;
        output(Command::new(simulator).args(["layout", "--root"]).arg(folder.join("root")))?;
        if !folder.join("root/usr/lib").exists() {
            return Err(Error::State(format!(
                "`{} layout --root` laid out nothing in {}",
                simulator.display(),
                folder.display()
            )));
        }
        Ok(())
    }

    fn make_gpus(&self, index: usize, profile: &str) -> Result<()> {
        let node = self.node(index)?;
        let init = ["init", "--profile", profile, "--state", SIM_STATE, "--seed", &node.name, "--dev", "/dev"];
        self.exec_in_node(index, "weft-sim", &init).map(drop)
    }
}
