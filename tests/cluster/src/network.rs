//! Network namespaces: one for the control plane with a bridge in it, one per node with a cable to that bridge.
//!
//! ```text
//!  weft-demo-cp                    weft-demo-node-1                 weft-demo-node-2
//!  bridge 10.90.0.1/24 ──veth──▶ eth0 10.90.0.11   ──veth──▶ eth0 10.90.0.12
//!  lo 10.96.0.1, 10.96.0.10        cni0 10.91.1.1/24 (pods)         cni0 10.91.2.1/24
//! ```
//!
//! There is no default route and no cable to the machine, so nothing leaves a cluster, and every cluster can use the
//! same addresses. The two service addresses that pods need (API server, DNS) lie on `lo` of the control plane, so no
//! kube-proxy is needed.

use std::{fs, net::Ipv4Addr, path::PathBuf, process::Command};

use crate::{
    error::{Doing, Error, Result},
    process::Process,
    run::{output, output_with_input},
};

/// The control plane's address, as nodes and pods see it.
pub const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 1);
/// The address of the service `default/kubernetes`.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The address of the service `kube-system/kube-dns`.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Where service addresses come from.
pub(crate) const SERVICES: &str = "10.96.0.0/16";
const BRIDGE: &str = "weft0";

/// The address of the node with this index (from 1).
pub fn node_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 90, 0, 10u8.saturating_add(index as u8))
}

/// The pod addresses of the node with this index.
pub(crate) fn pod_range(index: usize) -> String {
    format!("10.91.{index}.0/24")
}

/// Where `ip netns` keeps a namespace open.
pub(crate) fn namespace_path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// The names of a cluster's network namespaces.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    prefix: String,
}

impl Network {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub fn control_plane(&self) -> String {
        format!("{}-cp", self.prefix)
    }

    pub fn node(&self, index: usize) -> String {
        format!("{}-node-{index}", self.prefix)
    }

    /// Makes the control plane's namespace with its bridge.
    pub fn add_control_plane(&self) -> Result<()> {
        let name = self.control_plane();
        add(&name)?;
        batch(
            &name,
            &format!(
                "link set lo up\nlink add {BRIDGE} type bridge\naddr add {CONTROL_PLANE}/24 dev {BRIDGE}\nlink set {BRIDGE} up\n\
                 addr add {API_SERVICE}/32 dev lo\naddr add {DNS_SERVICE}/32 dev lo\n"
            ),
        )
    }

    /// Makes a node's namespace, plugs it into the bridge, and tells all the others where its pods are.
    pub fn add_node(&self, index: usize) -> Result<()> {
        let (name, control_plane, address) = (self.node(index), self.control_plane(), node_address(index));
        add(&name)?;
        batch(
            &control_plane,
            &format!(
                "link add v{index} type veth peer name eth0 netns {name}\nlink set v{index} master {BRIDGE} up\n\
                 route replace {} via {address}\n",
                pod_range(index)
            ),
        )?;
        let mut lines = format!(
            "link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\nroute add {SERVICES} via {CONTROL_PLANE}\n"
        );
        for other in (1..index).filter(|other| namespace_path(&self.node(*other)).exists()) {
            lines.push_str(&format!("route add {} via {}\n", pod_range(other), node_address(other)));
            batch(&self.node(other), &format!("route replace {} via {address}\n", pod_range(index)))?;
        }
        batch(&name, &lines)
    }

    /// Kills what still runs in a node's namespace, removes it, and pulls its cable.
    pub fn remove_node(&self, index: usize) -> Result<()> {
        let (name, cable) = (self.node(index), format!("v{index}"));
        if !namespace_path(&name).exists() {
            return Ok(());
        }
        // By name, and first: the kernel clears a deleted namespace away later, and the cable's name has to be free for
        // the next node of this index at once. It is not there if making the node failed before it.
        let _ = output(Command::new("ip").args(["-n", &self.control_plane(), "link", "delete", &cable]));
        delete(&name)
    }

    /// All of the cluster's namespaces that exist.
    pub fn existing(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir("/run/netns") else { return Vec::new() };
        let nodes = format!("{}-node-", self.prefix);
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| {
                let node = name.strip_prefix(&nodes).is_some_and(|index| index.parse::<usize>().is_ok());
                node || *name == self.control_plane()
            })
            .collect()
    }

    /// Kills what still runs in the cluster's namespaces and removes them.
    pub fn remove(&self) -> Result<()> {
        self.existing().iter().try_for_each(|name| delete(name))
    }
}

/// Kills what still runs in a namespace and removes it.
fn delete(name: &str) -> Result<()> {
    // A half-made namespace is an ordinary file that `ip netns pids` refuses; deleting it works all the same.
    let pids = output(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
    for process in pids.lines().filter_map(|pid| Process::of(pid.trim().parse().ok()?)) {
        process.kill()?;
    }
    output(Command::new("ip").args(["netns", "delete", name])).map(drop)
}

/// Makes a namespace that routes between its interfaces and has no IPv6.
fn add(name: &str) -> Result<()> {
    output(Command::new("ip").args(["netns", "add", name]))?;
    let settings = "cd /proc/sys/net && echo 1 > ipv4/ip_forward && if [ -d ipv6 ]; then \
                    echo 1 > ipv6/conf/all/disable_ipv6; echo 1 > ipv6/conf/default/disable_ipv6; fi";
    output(Command::new("ip").args(["netns", "exec", name, "sh", "-ec", settings]))?;
    Ok(())
}

/// Several `ip` commands in a namespace, in one process.
fn batch(namespace: &str, lines: &str) -> Result<()> {
    match output_with_input(Command::new("ip").args(["-n", namespace, "-batch", "-"]), lines.as_bytes()) {
        Err(Error::Command { output, .. })
            if output.contains("Unknown device type") || output.contains("not supported") =>
        {
            Err(Error::Prerequisite(format!(
                "the kernel cannot make the cluster's network ({}): load its modules with `modprobe veth bridge`",
                output.lines().next().unwrap_or_default()
            )))
        }
        other => other.map(drop),
    }
}

/// A free port of 127.0.0.1: the wished one if nobody listens there, else any.
pub(crate) fn free_port(wished: u16) -> Result<u16> {
    let bind = |port| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|socket| socket.local_addr());
    let address = bind(wished).or_else(|_| bind(0)).doing(|| "looking for a free port on 127.0.0.1".to_owned())?;
    Ok(address.port())
}
