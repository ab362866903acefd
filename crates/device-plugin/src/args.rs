//! The command line. Names follow NVIDIA's device plugin where it has the same thing.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{ArgAction, Parser, Subcommand};
use weft_nvml::health::APPLICATION_XIDS;
use weft_nvml::{DriverRoot, HealthPolicy};

/// Weft's node agent: advertises a node's GPUs to kubelet, watches their health, reports them and measures them.
#[derive(Parser, Clone, Debug)]
#[command(name = "weft-agent", version, args_conflicts_with_subcommands = false)]
pub struct Args {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Folder of the host under which the NVIDIA driver is installed.
    #[arg(long, env = "NVIDIA_DRIVER_ROOT", default_value = "/", global = true, value_name = "DIR")]
    pub driver_root: PathBuf,

    /// The same folder as this process sees it [default: /driver-root where that exists, else --driver-root]
    #[arg(long, env = "DRIVER_ROOT_CTR_PATH", global = true, value_name = "DIR")]
    pub driver_root_ctr_path: Option<PathBuf>,

    /// Name of this node, also of its GpuNode object.
    #[arg(long, env = "NODE_NAME", global = true, value_name = "NAME")]
    pub node_name: Option<String>,

    /// Folder of kubelet, with device-plugins/kubelet.sock and pod-resources/kubelet.sock in it.
    #[arg(long, default_value = "/var/lib/kubelet", value_name = "DIR")]
    pub kubelet_dir: PathBuf,

    /// Folder that the container runtime reads CDI specifications from.
    #[arg(long, default_value = "/var/run/cdi", value_name = "DIR")]
    pub cdi_dir: PathBuf,

    /// Folder of the device nodes.
    #[arg(long, default_value = "/dev", value_name = "DIR", hide = true)]
    pub dev_dir: PathBuf,

    /// A path of the host that every container with a GPU gets besides the driver's files; repeatable.
    #[arg(long, value_name = "HOST[:CONTAINER][:ro]")]
    pub extra_mount: Vec<ExtraMount>,

    /// Where metrics and probes are served.
    #[arg(long, default_value = "0.0.0.0:9400", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    /// How often each GPU is measured and probed, milliseconds.
    #[arg(long, default_value_t = 1000, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub sample_interval_ms: u64,

    /// XIDs that leave a GPU healthy, besides those that are the application's fault.
    #[arg(long, value_delimiter = ',', value_name = "XID,XID")]
    pub additional_xids_to_ignore: Vec<u64>,

    /// Exit when there is no usable driver, instead of saying so in the GpuNode and trying again.
    #[arg(long, env = "FAIL_ON_INIT_ERROR", default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true", value_name = "BOOL")]
    pub fail_on_init_error: bool,

    /// Run without an API server: nothing is published, and no planned GPUs are known.
    #[arg(long, visible_alias = "no-kubernetes")]
    pub standalone: bool,

    /// Log lines for people or for machines [default: people on a terminal, else json]
    #[arg(long, value_enum, global = true)]
    pub log_format: Option<LogFormat>,
}

/// Things to do once.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Print the GPUs of this machine and their wires, and exit.
    Discover {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Make /dev/nvidia-uvm with the driver root's nvidia-modprobe: what the agent runs itself.
    #[command(hide = true)]
    MakeUvm,
}

/// How log lines look.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Args {
    /// The driver root as this process sees it.
    pub fn driver_root(&self) -> DriverRoot {
        let mounted = Path::new("/driver-root");
        DriverRoot::new(match &self.driver_root_ctr_path {
            Some(path) => path.clone(),
            None if mounted.is_dir() => mounted.to_path_buf(),
            None => self.driver_root.clone(),
        })
    }

    /// The node's name. Only without an API server may it be guessed from the machine.
    pub fn node_name(&self) -> anyhow::Result<String> {
        if let Some(name) = self.node_name.as_ref().filter(|name| !name.is_empty()) {
            return Ok(name.clone());
        }
        anyhow::ensure!(
            self.standalone || self.command.is_some(),
            "the node's name is not known: set NODE_NAME from spec.nodeName, or give --node-name"
        );
        let system = rustix::system::uname();
        Ok(system.nodename().to_string_lossy().to_lowercase())
    }

    /// The rules of health.
    pub fn health_policy(&self) -> HealthPolicy {
        let ignored: BTreeSet<u64> = APPLICATION_XIDS.iter().chain(&self.additional_xids_to_ignore).copied().collect();
        HealthPolicy { ignored_xids: ignored, ..HealthPolicy::default() }
    }

    /// The folder of device plugin sockets.
    pub fn device_plugins_dir(&self) -> PathBuf {
        self.kubelet_dir.join("device-plugins")
    }

    /// kubelet's pod resources socket.
    pub fn pod_resources_socket(&self) -> PathBuf {
        self.kubelet_dir.join("pod-resources/kubelet.sock")
    }
}

/// A path that containers get besides the driver's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraMount {
    /// On the host.
    pub host: PathBuf,
    /// In the container.
    pub container: PathBuf,
    /// Whether containers may only read it.
    pub read_only: bool,
}

impl FromStr for ExtraMount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (paths, read_only) = match text.strip_suffix(":ro") {
            Some(paths) => (paths, true),
            None => (text, false),
        };
        let (host, container) = paths.split_once(':').unwrap_or((paths, paths));
        for path in [host, container] {
            if !path.starts_with('/') {
                return Err(format!("{path:?} is not an absolute path: write HOST[:CONTAINER][:ro]"));
            }
        }
        Ok(ExtraMount { host: host.into(), container: container.into(), read_only })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extra_mount_is_host_then_container_then_ro() {
        let mount = |host: &str, container: &str, read_only| {
            Ok(ExtraMount { host: host.into(), container: container.into(), read_only })
        };
        assert_eq!("/run/a".parse(), mount("/run/a", "/run/a", false));
        assert_eq!("/run/a:ro".parse(), mount("/run/a", "/run/a", true));
        assert_eq!("/run/a:/b".parse(), mount("/run/a", "/b", false));
        assert_eq!("/run/a:/b:ro".parse(), mount("/run/a", "/b", true));
        assert!("run/a".parse::<ExtraMount>().unwrap_err().contains("absolute"));
        assert!("/a:rw".parse::<ExtraMount>().is_err());
    }

    #[test]
    fn a_flag_without_a_value_means_true_and_the_chart_may_say_false() {
        let fail = |args: &[&str]| Args::try_parse_from([&["weft-agent"], args].concat()).unwrap().fail_on_init_error;
        assert!(!fail(&[]));
        assert!(fail(&["--fail-on-init-error"]));
        assert!(!fail(&["--fail-on-init-error=false"]));
    }

    #[test]
    fn in_a_cluster_the_node_name_is_not_guessed() {
        let mut args = Args::try_parse_from(["weft-agent"]).unwrap();
        args.node_name = None;
        assert!(args.node_name().unwrap_err().to_string().contains("NODE_NAME"));
    }
}
