//! A cluster's life: up, found again, one node more, down.

use std::{
    env, fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    cgroup,
    component::{Component, Setting, dns_manifests},
    error::{Doing, Error, Result, make_folder},
    network::{self, Network},
    node::NodeSpec,
    pki::Pki,
    preflight,
    process::Process,
    progress::Progress,
    state::{Place, Record, cluster_names},
    tools::Tools,
};

/// How often something that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(150);
/// A port that is easy to remember for the first cluster; the second gets any free one.
const API_PORT: u16 = 26443;
/// How long a control plane or node may take on a machine that does other work as well.
const PATIENCE: Duration = Duration::from_secs(180);

/// What cluster to make.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names state folder, network namespaces and control groups.
    pub name: String,
    /// Real nodes, up to 200.
    pub nodes: Vec<NodeSpec>,
    /// OCI archives that every node gets, the pause image among them.
    pub images: Vec<PathBuf>,
    /// Also start kwok, which plays kubelet for nodes annotated `kwok.x-k8s.io/node: fake`.
    pub kwok: bool,
    /// The API server's port on 127.0.0.1; none: 26443 if free, else any.
    pub api_port: Option<u16>,
    /// The simulator for nodes with a profile; default: `weft-sim` beside this program.
    pub simulator: Option<PathBuf>,
    /// The program that calls [`crate::helper::dispatch`]; default: this one.
    pub helper: Option<PathBuf>,
}

impl Options {
    /// A cluster without nodes and images.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            nodes: Vec::new(),
            images: Vec::new(),
            kwok: false,
            api_port: None,
            simulator: None,
            helper: None,
        }
    }
}

/// A running cluster. Dropping it leaves it running; [`down`] removes it.
#[derive(Debug)]
pub struct Cluster {
    place: Place,
    record: Record,
    network: Network,
    pki: Pki,
    helper: PathBuf,
}

/// How a cluster is, for people.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Whether its `up` came to its end.
    pub complete: bool,
    /// The API server's port on 127.0.0.1.
    pub api_port: u16,
    /// The kubeconfig file for this machine.
    pub kubeconfig: PathBuf,
    /// Every component, with its pid if it runs.
    pub components: Vec<(String, Option<i32>)>,
}

impl Cluster {
    /// Makes a cluster and returns when every node is ready for pods. What an interrupted `up` of the same name left is
    /// removed first; after a failure nothing runs, and only the logs are kept.
    pub fn up(options: Options, progress: &dyn Progress) -> Result<Self> {
        preflight::check(progress)?;
        let place = Place::of(&options.name)?;
        check_nodes(&options.nodes)?;
        for image in &options.images {
            fs::metadata(image).doing(|| format!("looking for the image {}", image.display()))?;
        }
        let tools = Tools::build(options.kwok, progress)?;
        let _lock = place.lock()?;
        clear_leftovers(&place, progress)?;
        let api_port = match options.api_port {
            None => network::free_port(API_PORT)?,
            Some(port) if network::free_port(port)? == port => port,
            Some(port) => {
                return Err(Error::State(format!(
                    "port {port} of 127.0.0.1 is in use: choose another with --api-port, or leave it out for any free one"
                )));
            }
        };
        let record = Record { api_port, kwok: options.kwok, nodes: options.nodes, tools, complete: false };
        let mut cluster = Self::assemble(place, record, options.helper)?;
        let made = cluster.make(&options.images, options.simulator, progress);
        if let Err(error) = made {
            progress.step("it failed: removing what was started");
            let logs = cluster.place.folder.join("log");
            remove(&cluster.place, Some(&logs))?;
            return Err(error);
        }
        cluster.record.complete = true;
        cluster.place.save(&cluster.record)?;
        Ok(cluster)
    }

    /// Finds a cluster that was made before.
    pub fn open(name: &str) -> Result<Self> {
        let place = Place::of(name)?;
        let Some(record) = place.load()? else {
            let others = match cluster_names() {
                names if names.is_empty() => String::new(),
                names => format!(", or name one that there is with --name ({})", names.join(", ")),
            };
            return Err(Error::State(format!(
                "there is no cluster `{name}`: make it with `cargo xtask cluster up --name {name}`{others}"
            )));
        };
        Self::assemble(place, record, None)
    }

    fn assemble(place: Place, record: Record, helper: Option<PathBuf>) -> Result<Self> {
        let helper = match helper {
            Some(helper) => helper,
            // The link and not the file: it holds while cargo replaces the program.
            None => PathBuf::from("/proc/self/exe"),
        };
        Ok(Self {
            network: Network::new(&place.prefix),
            pki: Pki::new(place.folder.join("pki")),
            place,
            record,
            helper,
        })
    }

    fn make(&mut self, images: &[PathBuf], simulator: Option<PathBuf>, progress: &dyn Progress) -> Result<()> {
        let begin = Instant::now();
        let step = |text: &str| progress.step(&format!("[{:.1} s] {text}", begin.elapsed().as_secs_f64()));
        self.place.save(&self.record)?;
        self.pki.make(self.record.api_port)?;
        if self.record.nodes.iter().any(|node| node.profile.is_some()) {
            self.lay_out_simulator(&simulator.map_or_else(default_simulator, Ok)?)?;
        }
        self.network.add_control_plane()?;
        for index in self.indices() {
            self.network.add_node(index)?;
        }
        step("keys and network");
        self.start(Component::Etcd)?;
        self.start(Component::ApiServer)?;
        self.start(Component::Forwarder)?;
        self.setting(|setting| setting.write_common())?;
        let cluster = &*self;
        thread::scope(|scope| {
            let nodes: Vec<_> =
                cluster.indices().map(|index| scope.spawn(move || cluster.bring_up(index, images, progress))).collect();
            cluster.wait_for("the API server to answer", Some(Component::ApiServer), PATIENCE, progress, || {
                Ok(cluster.kubectl(&["get", "--raw", "/readyz"]).ok().map(drop))
            })?;
            step("API server answers");
            cluster.start(Component::ControllerManager)?;
            cluster.start(Component::Scheduler)?;
            cluster.apply(&dns_manifests())?;
            cluster.start(Component::CoreDns)?;
            if cluster.record.kwok {
                cluster.start(Component::Kwok)?;
            }
            step("control plane started");
            for (index, node) in cluster.indices().zip(nodes) {
                node.join().unwrap_or_else(|_| Err(Error::State(format!("starting node {index} was interrupted"))))?;
                cluster.start(Component::Kubelet(index))?;
            }
            Ok::<_, Error>(())
        })?;
        step("kubelets started");
        self.wait_for_nodes(self.indices(), progress)?;
        step(&format!("{} of {} nodes ready", self.record.nodes.len(), self.record.nodes.len()));
        Ok(())
    }

    /// Adds a node to the running cluster and waits until it is ready. Returns its index. A node that does not get ready
    /// is taken out again, and only its logs are kept.
    pub fn add_node(
        &mut self,
        node: NodeSpec,
        images: &[PathBuf],
        simulator: Option<PathBuf>,
        progress: &dyn Progress,
    ) -> Result<usize> {
        let _lock = self.place.lock()?;
        let mut nodes = self.record.nodes.clone();
        nodes.push(node);
        check_nodes(&nodes)?;
        if nodes.last().is_some_and(|node| node.profile.is_some()) && !self.simulator_folder().exists() {
            self.lay_out_simulator(&simulator.map_or_else(default_simulator, Ok)?)?;
        }
        let index = nodes.len();
        self.record.nodes = nodes;
        // Noted first, so that `down` and `status` know of it whatever happens.
        self.place.save(&self.record)?;
        let added = self
            .network
            .add_node(index)
            .and_then(|()| self.bring_up(index, images, progress))
            .and_then(|()| self.start(Component::Kubelet(index)))
            .and_then(|()| self.wait_for_nodes(index..=index, progress));
        if let Err(error) = added {
            progress.step("it failed: taking the node out again");
            return Err(match self.take_out_last(index) {
                Ok(()) => error,
                Err(undone) => Error::State(format!(
                    "{error}\ntaking the node out again failed too ({undone}): remove the cluster with `cargo xtask \
                     cluster down --name {}`",
                    self.place.name
                )),
            });
        }
        Ok(index)
    }

    /// Removes what there is of the node that was added last, running or half made, so that the next one gets its index.
    fn take_out_last(&mut self, index: usize) -> Result<()> {
        let name = self.node(index)?.name.clone();
        cgroup::remove(&self.node_group(index))?;
        self.network.remove_node(index)?;
        for component in [format!("node-{index}"), format!("containerd-{index}"), format!("kubelet-{index}")] {
            remove_path(&self.place.pid_file(component))?;
        }
        remove_path(&self.node_folder(index))?;
        self.record.nodes.truncate(index - 1);
        self.place.save(&self.record)?;
        // Its kubelet is gone, so nobody registers it again.
        self.kubectl(&["delete", "node", &name, "--ignore-not-found"]).map(drop)
    }

    /// Ready, and untainted as well: the taint outlives the condition by a moment, and DaemonSets do not tolerate it.
    fn wait_for_nodes(&self, indices: RangeInclusive<usize>, progress: &dyn Progress) -> Result<()> {
        let wanted = &self.record.nodes[indices.start() - 1..*indices.end()];
        self.wait_for("the nodes to be ready", None, PATIENCE, progress, || {
            for index in indices.clone() {
                if self.process(Component::Kubelet(index)).is_none() {
                    return Err(self.component_error(Component::Kubelet(index), "ended"));
                }
            }
            let json = self.kubectl(&["get", "nodes", "-o", "json"])?;
            let nodes: serde_json::Value = serde_json::from_str(&json)
                .map_err(std::io::Error::from)
                .doing(|| "reading the list of nodes".to_owned())?;
            let ready: Vec<&str> = nodes["items"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|node| is_ready(node))
                .filter_map(|node| node["metadata"]["name"].as_str())
                .collect();
            Ok(wanted.iter().all(|node| ready.contains(&node.name.as_str())).then_some(()))
        })
    }

    /// Waits until `look` finds something; gives up early if `component` has ended.
    pub(crate) fn wait_for<T>(
        &self,
        what: &str,
        component: Option<Component>,
        patience: Duration,
        progress: &dyn Progress,
        look: impl Fn() -> Result<Option<T>>,
    ) -> Result<T> {
        let begin = Instant::now();
        let label = format!("waiting for {what}");
        loop {
            if let Some(found) = look()? {
                progress.finished(&label);
                return Ok(found);
            }
            if let Some(component) = component.filter(|component| self.process(*component).is_none()) {
                return Err(self.component_error(component, "ended"));
            }
            if begin.elapsed() > patience {
                let text = format!("gave up after {} s waiting for {what}", patience.as_secs());
                return Err(match component {
                    Some(component) => self.component_error(component, &text),
                    None => {
                        Error::State(format!("{text}: see the logs in {}", self.place.folder.join("log").display()))
                    }
                });
            }
            progress.working(&label, &format!("{} s", begin.elapsed().as_secs()));
            thread::sleep(LOOK);
        }
    }

    /// What runs of it.
    pub fn status(&self) -> Status {
        let on_nodes = self.indices().flat_map(|index| [Component::Containerd(index), Component::Kubelet(index)]);
        let components = Component::CONTROL_PLANE
            .into_iter()
            .filter(|component| self.record.kwok || *component != Component::Kwok)
            .chain(on_nodes)
            .map(|component| (component.to_string(), self.process(component).map(|process| process.pid)))
            .collect();
        Status {
            name: self.place.name.clone(),
            complete: self.record.complete,
            api_port: self.record.api_port,
            kubeconfig: self.kubeconfig(),
            components,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// The nodes that it was made with or got later; node `i` of other calls is element `i - 1`.
    pub fn nodes(&self) -> &[NodeSpec] {
        &self.record.nodes
    }

    /// The built programs.
    pub fn tools(&self) -> &Tools {
        &self.record.tools
    }

    /// The folder with all its state; `log/` is in it.
    pub fn folder(&self) -> &Path {
        &self.place.folder
    }

    pub(crate) fn indices(&self) -> RangeInclusive<usize> {
        1..=self.record.nodes.len()
    }

    pub(crate) fn node(&self, index: usize) -> Result<&NodeSpec> {
        let node = index.checked_sub(1).and_then(|index| self.record.nodes.get(index));
        node.ok_or_else(|| {
            Error::State(format!(
                "cluster `{}` has no node {index}: its nodes are 1 to {}",
                self.place.name,
                self.record.nodes.len()
            ))
        })
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn pki(&self) -> &Pki {
        &self.pki
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    pub(crate) fn helper(&self) -> &Path {
        &self.helper
    }

    pub(crate) fn api_port(&self) -> u16 {
        self.record.api_port
    }

    pub(crate) fn tool_folders(&self) -> Vec<PathBuf> {
        self.record.tools.folders()
    }

    pub(crate) fn node_group(&self, index: usize) -> PathBuf {
        Path::new(&self.place.prefix).join(format!("node-{index}"))
    }

    /// What a node keeps on the machine's disk.
    pub(crate) fn node_folder(&self, index: usize) -> PathBuf {
        self.place.folder.join("nodes").join(index.to_string())
    }

    pub(crate) fn control_plane_group(&self) -> PathBuf {
        Path::new(&self.place.prefix).join("control-plane")
    }

    pub(crate) fn setting<T>(&self, with: impl FnOnce(&Setting<'_>) -> Result<T>) -> Result<T> {
        with(&Setting {
            tools: &self.record.tools,
            pki: &self.pki,
            conf: &self.place.folder.join("conf"),
            data: &self.place.folder.join("etcd"),
            kwok: self.record.kwok,
        })
    }
}

/// Removes a cluster, whatever state it is in: running, half made, half removed, or killed piece by piece. Returns
/// whether there was anything.
pub fn down(name: &str, _progress: &dyn Progress) -> Result<bool> {
    let place = Place::of(name)?;
    let there = exists(&place) || place.folder.exists();
    if !there {
        return Ok(false);
    }
    if !preflight::is_root() {
        return Err(Error::Prerequisite(format!(
            "removing cluster `{name}` needs root, as making it did: run the command with `sudo -E`"
        )));
    }
    let lock = place.lock()?;
    remove(&place, None)?;
    place.unlock_for_good(lock)?;
    Ok(true)
}

/// Ends every process of a cluster and removes its groups, namespaces and files, except for one folder that may be
/// kept.
fn remove(place: &Place, keep: Option<&Path>) -> Result<()> {
    // Everything that was ever started is in the groups. A node's pid 1 is too, and takes the node's mounts with it.
    cgroup::remove(Path::new(&place.prefix))?;
    Network::new(&place.prefix).remove()?;
    for entry in fs::read_dir(&place.folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if keep == Some(path.as_path()) {
            continue;
        }
        remove_path(&path)?;
    }
    if keep.is_none() && place.folder.exists() {
        fs::remove_dir(&place.folder).doing(|| format!("removing {}", place.folder.display()))?;
    }
    Ok(())
}

/// Removes a file or a folder with all that is in it; one that is not there is no error.
fn remove_path(path: &Path) -> Result<()> {
    let gone = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match gone {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.doing(|| format!("removing {}", path.display())),
    }
}

fn exists(place: &Place) -> bool {
    cgroup::exists(Path::new(&place.prefix)) || !Network::new(&place.prefix).existing().is_empty()
}

/// Makes room for a cluster: refuses if it runs, clears away what an interrupted one left.
fn clear_leftovers(place: &Place, progress: &dyn Progress) -> Result<()> {
    let complete = place.load().ok().flatten().is_some_and(|record| record.complete);
    if complete && Process::load(&place.pid_file(Component::ApiServer)).is_some() {
        return Err(Error::State(format!(
            "cluster `{0}` is up already: use it, remove it with `cargo xtask cluster down --name {0}`, or choose another --name",
            place.name
        )));
    }
    if exists(place) || place.folder.join("cluster.json").exists() {
        progress.step(&format!("removing what an interrupted run left of cluster `{}`", place.name));
    }
    remove(place, None)?;
    make_folder(&place.folder)
}

fn check_nodes(nodes: &[NodeSpec]) -> Result<()> {
    if nodes.len() > 200 {
        return Err(Error::State(format!("{} nodes are too many: a cluster has room for 200", nodes.len())));
    }
    for (position, node) in nodes.iter().enumerate() {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if node.name.is_empty() || node.name.len() > 63 || !node.name.chars().all(allowed) {
            return Err(Error::State(format!(
                "`{}` cannot name a node: use lower-case letters, digits and hyphens",
                node.name
            )));
        }
        if nodes[..position].iter().any(|other| other.name == node.name) {
            return Err(Error::State(format!("two nodes are called `{}`: give each its own name", node.name)));
        }
    }
    Ok(())
}

fn is_ready(node: &serde_json::Value) -> bool {
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let tainted = list(&node["spec"]["taints"])
        .iter()
        .any(|taint| taint["key"].as_str().is_some_and(|key| key.starts_with("node.kubernetes.io/")));
    !tainted
        && list(&node["status"]["conditions"])
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn default_simulator() -> Result<PathBuf> {
    let program = env::current_exe().doing(|| "finding this program".to_owned())?;
    Ok(program.with_file_name("weft-sim"))
}
