//! Running things in and against a cluster: kubectl, Helm, commands in nodes, components killed and started again.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::Signal;

use crate::{
    cluster::Cluster,
    component::Component,
    error::{Doing, Error, Result, make_folder, tail},
    helper::{self, Inside, Place, Task},
    network::{CONTROL_PLANE, namespace_path},
    process::{Process, from_namespace},
    run::{output, output_with_input},
};

impl Cluster {
    /// The kubeconfig file for this machine, through a port of 127.0.0.1. It can be copied: keys are in it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.pki().path("host.kubeconfig")
    }

    /// kubectl, ready for its arguments.
    pub fn kubectl_command(&self) -> Result<Command> {
        let mut command = Command::new(self.tools().program("kubectl")?);
        // Its own cache: the one in the home folder would mix up clusters that had the same port one after the other.
        command.env("KUBECONFIG", self.kubeconfig()).env("KUBECACHEDIR", self.place().folder.join("kubectl-cache"));
        Ok(command)
    }

    /// Runs kubectl and returns what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        output(self.kubectl_command()?.args(arguments))
    }

    /// `kubectl apply -f -` (server-side with `force_conflicts` is the caller's to ask for with `kubectl_command`).
    pub fn apply(&self, manifests: &str) -> Result<String> {
        output_with_input(self.kubectl_command()?.args(["apply", "-f", "-"]), manifests.as_bytes())
    }

    /// Helm, ready for its arguments. It keeps its files with the cluster's.
    pub fn helm_command(&self) -> Result<Command> {
        let mut command = Command::new(self.tools().program("helm")?);
        let folder = self.place().folder.join("helm");
        command.env("KUBECONFIG", self.kubeconfig());
        for (name, below) in [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(name, folder.join(below));
        }
        Ok(command)
    }

    /// Runs Helm and returns what it printed.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        output(self.helm_command()?.args(arguments))
    }

    /// A command in a node (all its namespaces), with the caller's standard streams. It ends with the process that is
    /// started here.
    pub fn node_command(&self, index: usize, program: impl AsRef<OsStr>) -> Result<Command> {
        let task = Task::Run(self.inside_node(index)?);
        let mut command = helper::command(self.helper(), &task)?;
        command.arg(program).env("PATH", self.node_path()).env("CONTAINERD_NAMESPACE", "k8s.io");
        Ok(command)
    }

    /// Runs a command in a node and returns what it printed.
    pub fn exec_in_node(&self, index: usize, program: &str, arguments: &[&str]) -> Result<String> {
        let name = &self.node(index)?.name;
        output(self.node_command(index, program)?.args(arguments)).map_err(|error| match error {
            // The helper's own arguments are nobody's concern.
            Error::Command { status, output, .. } => {
                Error::Command { command: format!("{program} {} (in {name})", arguments.join(" ")), status, output }
            }
            other => other,
        })
    }

    /// A command on this machine but in the control plane's network, from which pods and nodes can be reached. It ends
    /// with the process that is started here.
    pub fn control_plane_command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let task = Task::Run(self.beside_control_plane());
        let mut command = helper::command(self.helper(), &task)?;
        command.arg(program).env("KUBECONFIG", self.pki().path("admin.kubeconfig"));
        Ok(command)
    }

    /// The process of a component, if it runs.
    pub fn process(&self, component: Component) -> Option<Process> {
        Process::load(&self.place().pid_file(component))
    }

    /// Kills a component (no grace) and waits until it is gone. Containers of a killed kubelet or containerd go on.
    pub fn kill(&self, component: Component) -> Result<()> {
        self.running(component)?.kill()
    }

    /// Sends a component a signal, such as `TERM`.
    pub fn signal(&self, component: Component, signal: Signal) -> Result<()> {
        self.running(component)?.signal(signal)
    }

    fn running(&self, component: Component) -> Result<Process> {
        if let Some(index) = component.node() {
            self.node(index)?;
        }
        let absent = || Error::State(format!("{component} of cluster `{}` does not run", self.name()));
        self.process(component).ok_or_else(absent)
    }

    /// Starts a component that does not run. It may take a moment until it answers. A kubelet is started once its
    /// containerd answers: without it, it would end at once.
    pub fn start(&self, component: Component) -> Result<()> {
        if self.process(component).is_some() {
            return Err(Error::State(format!("{component} of cluster `{}` runs already", self.name())));
        }
        let process = match component {
            Component::Forwarder => self.start_forwarder()?,
            Component::Kubelet(index) => {
                self.wait_for_containerd(index, &crate::Silent)?;
                self.start_daemon(component)?
            }
            _ => self.start_daemon(component)?,
        };
        process.save(&self.place().pid_file(component))
    }

    fn start_forwarder(&self) -> Result<Process> {
        let task = Task::Forward {
            port: self.api_port(),
            cgroup: self.control_plane_group(),
            network: namespace_path(&self.network().control_plane()),
            to: SocketAddr::from((CONTROL_PLANE, 443)),
        };
        let mut command = helper::command(self.helper(), &task)?;
        let log = self.open_log(Component::Forwarder)?;
        // A session of its own: Ctrl-C in the terminal is not meant for it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().doing(|| "starting the forwarder".to_owned())?;
        let mut answer = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut answer).doing(|| "listening to the forwarder".to_owned())?;
        }
        match Process::of(i32::try_from(child.id()).unwrap_or_default()) {
            Some(process) if answer.trim() == "ready" => {
                reap_in_background(child);
                Ok(process)
            }
            _ => Err(self.component_error(Component::Forwarder, "did not start")),
        }
    }

    fn start_daemon(&self, component: Component) -> Result<Process> {
        let (place, node) = match component.node() {
            Some(index) => (self.inside_node(index)?, self.node(index)?.setting()),
            None => (self.beside_control_plane(), Default::default()),
        };
        let (program, arguments) = self.setting(|setting| setting.command_line(component, &node))?;
        let mut command = helper::command(self.helper(), &Task::Daemon(place))?;
        // kubelet and containerd find their helpers (runc, mount, nft) by `PATH`, and must not see the developer's
        // environment.
        command.arg(program).args(arguments).env_clear().env("PATH", self.node_path()).env("HOME", "/root");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(self.open_log(component)?);
        let done = command.output().doing(|| format!("starting {component}"))?;
        let pid = String::from_utf8_lossy(&done.stdout).trim().parse::<i32>().ok();
        let process = pid.and_then(|pid| match component.node() {
            Some(index) => from_namespace(self.init_of(index).ok()?, pid),
            None => Process::of(pid),
        });
        process.ok_or_else(|| self.component_error(component, "did not start"))
    }

    /// The end of a component's log, as an error.
    pub(crate) fn component_error(&self, component: Component, problem: &str) -> Error {
        let log = self.place().log(component);
        Error::Component {
            component: component.to_string(),
            problem: problem.to_owned(),
            log: log.display().to_string(),
            tail: tail(&log, 10),
        }
    }

    /// Where the log of a component lies.
    pub fn log(&self, component: Component) -> PathBuf {
        self.place().log(component)
    }

    pub(crate) fn open_log(&self, name: impl std::fmt::Display) -> Result<fs::File> {
        let path = self.place().log(name);
        make_folder(path.parent().unwrap_or(Path::new("/")))?;
        fs::File::options().create(true).append(true).open(&path).doing(|| format!("opening {}", path.display()))
    }

    /// A node's pid 1.
    fn init_of(&self, index: usize) -> Result<Process> {
        let name = &self.node(index)?.name;
        let file = self.place().pid_file(format!("node-{index}"));
        Process::load(&file).ok_or_else(|| Error::State(format!("{name} of cluster `{}` is off", self.name())))
    }

    fn inside_node(&self, index: usize) -> Result<Place> {
        Ok(Place {
            cgroup: crate::cgroup::of_daemons(&self.node_group(index)),
            inside: Inside::Node { init: self.init_of(index)?.pid },
        })
    }

    fn beside_control_plane(&self) -> Place {
        Place {
            cgroup: self.control_plane_group(),
            inside: Inside::Network(namespace_path(&self.network().control_plane())),
        }
    }

    fn node_path(&self) -> String {
        format!("{}:{}", self.simulator_folder().join("bin").display(), self.tools().search_path())
    }
}

/// The forwarder is a child of this process, and without a parent that waits it would stay a zombie after its end.
fn reap_in_background(mut child: std::process::Child) {
    std::thread::spawn(move || {
        let _ = child.wait();
    });
}
