//! The programs of a cluster and how each is started: command lines and configuration files, and nothing that acts.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{
    error::{Error, Result, write},
    network::{API_SERVICE, CONTROL_PLANE, DNS_SERVICE, SERVICES, node_address, pod_range},
    pki::Pki,
    tools::Tools,
};

/// A long-running program of a cluster, for [`crate::Cluster::kill`] and [`crate::Cluster::start`]. Nodes are counted
/// from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The API server's store.
    Etcd,
    /// kube-apiserver.
    ApiServer,
    /// kube-controller-manager.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
    /// CoreDNS, as a process beside the control plane.
    CoreDns,
    /// kwok: kubelets that are not there.
    Kwok,
    /// The loopback port of the machine that leads to the API server.
    Forwarder,
    /// A node's container runtime.
    Containerd(usize),
    /// A node's kubelet.
    Kubelet(usize),
}

impl Component {
    /// Those of the control plane, in the order in which they start.
    pub const CONTROL_PLANE: [Self; 7] = [
        Self::Etcd,
        Self::ApiServer,
        Self::Forwarder,
        Self::ControllerManager,
        Self::Scheduler,
        Self::CoreDns,
        Self::Kwok,
    ];

    /// The node on which it runs, if on one.
    pub fn node(self) -> Option<usize> {
        match self {
            Self::Containerd(node) | Self::Kubelet(node) => Some(node),
            _ => None,
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd => f.write_str("etcd"),
            Self::ApiServer => f.write_str("apiserver"),
            Self::ControllerManager => f.write_str("controller-manager"),
            Self::Scheduler => f.write_str("scheduler"),
            Self::CoreDns => f.write_str("coredns"),
            Self::Kwok => f.write_str("kwok"),
            Self::Forwarder => f.write_str("forwarder"),
            Self::Containerd(node) => write!(f, "containerd-{node}"),
            Self::Kubelet(node) => write!(f, "kubelet-{node}"),
        }
    }
}

impl FromStr for Component {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(component) = Self::CONTROL_PLANE.into_iter().find(|component| component.to_string() == text) {
            return Ok(component);
        }
        let on_node =
            text.rsplit_once('-').and_then(|(name, node)| Some((name, node.parse().ok().filter(|node| *node > 0)?)));
        match on_node {
            Some(("containerd", node)) => Ok(Self::Containerd(node)),
            Some(("kubelet", node)) => Ok(Self::Kubelet(node)),
            _ => Err(Error::State(format!(
                "there is no component `{text}`: name one of etcd, apiserver, forwarder, controller-manager, scheduler, coredns, kwok, \
                 containerd-<node>, kubelet-<node> (nodes count from 1)"
            ))),
        }
    }
}

/// What the command lines are made from.
pub(crate) struct Setting<'a> {
    pub tools: &'a Tools,
    pub pki: &'a Pki,
    /// Configuration files.
    pub conf: &'a Path,
    /// etcd's data.
    pub data: &'a Path,
    /// Whether kwok plays nodes.
    pub kwok: bool,
}

impl Setting<'_> {
    /// The program and arguments of a component. The forwarder is no program of its own and has none.
    pub fn command_line(&self, component: Component, node: &NodeSetting) -> Result<(PathBuf, Vec<String>)> {
        let pki = |file: &str| self.pki.path(file).display().to_string();
        let conf = |file: &str| self.conf.join(file).display().to_string();
        let (program, arguments) = match component {
            Component::Etcd => (
                "etcd",
                vec![
                    format!("--data-dir={}", self.data.display()),
                    "--listen-client-urls=http://127.0.0.1:2379".into(),
                    "--advertise-client-urls=http://127.0.0.1:2379".into(),
                    "--listen-peer-urls=http://127.0.0.1:2380".into(),
                    // The data are thrown away with the cluster; a kill of the process alone loses nothing.
                    "--unsafe-no-fsync".into(),
                    "--log-level=warn".into(),
                ],
            ),
            Component::ApiServer => (
                "kube-apiserver",
                vec![
                    "--etcd-servers=http://127.0.0.1:2379".into(),
                    "--bind-address=0.0.0.0".into(),
                    "--secure-port=443".into(),
                    format!("--advertise-address={CONTROL_PLANE}"),
                    format!("--service-cluster-ip-range={SERVICES}"),
                    format!("--tls-cert-file={}", pki("apiserver.crt")),
                    format!("--tls-private-key-file={}", pki("apiserver.key")),
                    format!("--client-ca-file={}", pki("ca.crt")),
                    format!("--service-account-key-file={}", pki("service-accounts.pub")),
                    format!("--service-account-signing-key-file={}", pki("service-accounts.key")),
                    "--service-account-issuer=https://kubernetes.default.svc".into(),
                    format!("--kubelet-certificate-authority={}", pki("ca.crt")),
                    format!("--kubelet-client-certificate={}", pki("apiserver-kubelet.crt")),
                    format!("--kubelet-client-key={}", pki("apiserver-kubelet.key")),
                    "--kubelet-preferred-address-types=InternalIP".into(),
                    format!("--requestheader-client-ca-file={}", pki("front-proxy-ca.crt")),
                    "--requestheader-allowed-names=front-proxy".into(),
                    "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
                    "--requestheader-group-headers=X-Remote-Group".into(),
                    "--requestheader-username-headers=X-Remote-User".into(),
                    format!("--proxy-client-cert-file={}", pki("front-proxy.crt")),
                    format!("--proxy-client-key-file={}", pki("front-proxy.key")),
                    // Webhooks and aggregated APIs are reached at their pods' addresses: there is no kube-proxy.
                    "--enable-aggregator-routing=true".into(),
                    "--authorization-mode=Node,RBAC".into(),
                    "--enable-admission-plugins=NodeRestriction".into(),
                    "--allow-privileged=true".into(),
                    "--profiling=false".into(),
                ],
            ),
            Component::ControllerManager => (
                "kube-controller-manager",
                vec![
                    format!("--kubeconfig={}", pki("controller-manager.kubeconfig")),
                    format!("--service-account-private-key-file={}", pki("service-accounts.key")),
                    "--use-service-account-credentials=true".into(),
                    format!("--root-ca-file={}", pki("ca.crt")),
                    format!("--cluster-signing-cert-file={}", pki("ca.crt")),
                    format!("--cluster-signing-key-file={}", pki("ca.key")),
                    "--leader-elect=false".into(),
                    // With the default limits the first sync alone takes 5 s.
                    "--kube-api-qps=500".into(),
                    "--kube-api-burst=1000".into(),
                    "--node-monitor-period=1s".into(),
                    // Together with kubelet's shorter lease: a dead node is seen after 8 s instead of 47 s. kwok says of each
                    // node only every 10 s that it is alive: 8 % of 1,000 nodes were not ready at a time.
                    format!("--node-monitor-grace-period={}", if self.kwok { "50s" } else { "8s" }),
                    "--bind-address=127.0.0.1".into(),
                    "--profiling=false".into(),
                ],
            ),
            Component::Scheduler => (
                "kube-scheduler",
                vec![
                    format!("--kubeconfig={}", pki("scheduler.kubeconfig")),
                    "--leader-elect=false".into(),
                    "--kube-api-qps=500".into(),
                    "--kube-api-burst=1000".into(),
                    "--bind-address=127.0.0.1".into(),
                    "--profiling=false".into(),
                ],
            ),
            Component::CoreDns => ("coredns", vec!["-conf".into(), conf("Corefile"), "-quiet".into()]),
            Component::Kwok => (
                "kwok",
                vec![
                    format!("--kubeconfig={}", pki("admin.kubeconfig")),
                    format!("--config={}", self.tools.folder("kwok")?.join("stages.yaml").display()),
                    "--manage-all-nodes=false".into(),
                    "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake".into(),
                    "--node-ip=10.90.1.1".into(),
                    "--cidr=10.92.0.0/16".into(),
                    "--node-lease-duration-seconds=40".into(),
                ],
            ),
            Component::Containerd(_) => ("containerd", vec!["--config".into(), conf("containerd.toml")]),
            Component::Kubelet(index) => {
                let mut arguments = vec![
                    format!("--config={}", conf("kubelet.json")),
                    format!("--config-dir={}", self.conf.join(format!("kubelet-{index}.d")).display()),
                    format!("--kubeconfig={}", pki(&format!("{}.kubeconfig", Pki::node_user(&node.name)))),
                    format!("--hostname-override={}", node.name),
                    format!("--node-ip={}", node_address(index)),
                ];
                if !node.labels.is_empty() {
                    arguments.push(format!("--node-labels={}", node.labels));
                }
                ("kubelet", arguments)
            }
            Component::Forwarder => return Err(Error::State("the forwarder is no program of its own".into())),
        };
        Ok((self.tools.program(program)?, arguments))
    }

    /// Writes the configuration that all nodes share, and CoreDNS's.
    pub fn write_common(&self) -> Result<()> {
        let containerd = format!(
            r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{PAUSE_IMAGE}"
[plugins.'io.containerd.cri.v1.runtime']
  enable_cdi = true
  cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]
  # A machine that is a container itself often may not lower a process's out-of-memory score.
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{}"]
    conf_dir = "/etc/cni/net.d"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"#,
            self.tools.folder("cni")?.display()
        );
        write(&self.conf.join("containerd.toml"), containerd)?;

        let kubelet = serde_json::json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": self.pki.path("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs", "failCgroupV1": false, "failSwapOn": false,
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "clusterDomain": "cluster.local", "clusterDNS": [DNS_SERVICE], "resolvConf": "/etc/resolv.conf",
            "enforceNodeAllocatable": [],
            // Nodes share the machine's disk and memory: its developer decides how full it may get.
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi"},
            "serializeImagePulls": false,
            // A device that appears, and a node that dies, are seen within seconds.
            "nodeStatusUpdateFrequency": "1s", "nodeLeaseDurationSeconds": 8,
        });
        write(&self.conf.join("kubelet.json"), format!("{kubelet:#}\n"))?;

        let corefile = format!(
            "cluster.local:53 in-addr.arpa:53 {{\n  bind {DNS_SERVICE} {CONTROL_PLANE}\n  errors\n  kubernetes cluster.local in-addr.arpa {{\n    \
             kubeconfig {} weft\n    pods insecure\n    ttl 1\n  }}\n}}\n.:53 {{\n  bind {DNS_SERVICE} {CONTROL_PLANE}\n  \
             template ANY ANY . {{\n    rcode NXDOMAIN\n  }}\n}}\n",
            self.pki.path("coredns.kubeconfig").display()
        );
        write(&self.conf.join("Corefile"), corefile)
    }

    /// Writes a node's own part of kubelet's configuration.
    pub fn write_node(&self, index: usize, node: &NodeSetting) -> Result<()> {
        let user = Pki::node_user(&node.name);
        let own = serde_json::json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "address": node_address(index),
            "tlsCertFile": self.pki.path(&format!("{user}.crt")),
            "tlsPrivateKeyFile": self.pki.path(&format!("{user}.key")),
        });
        // kubelet reads only files whose names end in `.conf`.
        write(&self.conf.join(format!("kubelet-{index}.d/10-node.conf")), format!("{own:#}\n"))
    }
}

/// The image of the process that holds a pod's namespaces.
pub const PAUSE_IMAGE: &str = "weft.test/pause:1";

/// What kubelet's command line says of its node.
#[derive(Debug, Default)]
pub(crate) struct NodeSetting {
    pub name: String,
    /// `key=value,key=value`.
    pub labels: String,
}

/// How pods of a node get their network.
pub(crate) fn cni_config(index: usize) -> String {
    let config = serde_json::json!({
        "cniVersion": "1.0.0", "name": "weft",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": pod_range(index)}]], "routes": [{"dst": "0.0.0.0/0"}]},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    });
    format!("{config:#}\n")
}

/// What CoreDNS needs in the API server: rights, and the service that names it.
pub(crate) fn dns_manifests() -> String {
    let role = "rbac.authorization.k8s.io";
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": format!("{role}/v1"), "kind": "ClusterRole", "metadata": {"name": "weft:coredns"},
            "rules": [{
                "apiGroups": ["", "discovery.k8s.io"], "resources": ["services", "pods", "namespaces", "endpointslices", "nodes"],
                "verbs": ["get", "list", "watch"],
            }],
        },
        {
            "apiVersion": format!("{role}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "weft:coredns"},
            "roleRef": {"apiGroup": role, "kind": "ClusterRole", "name": "weft:coredns"},
            "subjects": [{"apiGroup": role, "kind": "User", "name": "weft:coredns"}],
        },
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {
                "clusterIP": DNS_SERVICE,
                "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}],
            },
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "kube-dns-weft", "namespace": "kube-system", "labels": {"kubernetes.io/service-name": "kube-dns"}},
            "endpoints": [{"addresses": [CONTROL_PLANE], "conditions": {"ready": true}}],
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}],
        },
    ]});
    list.to_string()
}

/// The files of a node that differ from the machine's.
pub(crate) fn node_files(index: usize, name: &str) -> Vec<(&'static str, String)> {
    vec![
        ("/etc/hostname", format!("{name}\n")),
        (
            "/etc/hosts",
            format!("127.0.0.1 localhost\n{} {name}\n{API_SERVICE} kubernetes.default.svc\n", node_address(index)),
        ),
        ("/etc/resolv.conf", format!("nameserver {DNS_SERVICE}\n")),
        ("/etc/machine-id", format!("{:032x}\n", 0x77_65_66_74_00_00_u64 + index as u64)),
        ("/etc/cni/net.d/10-weft.conflist", cni_config(index)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_found_by_the_name_it_shows() {
        for component in Component::CONTROL_PLANE.into_iter().chain([Component::Kubelet(2), Component::Containerd(11)])
        {
            assert_eq!(component.to_string().parse::<Component>().unwrap(), component);
        }
        for wrong in ["kubelet", "kubelet-0", "kubelet-x", "forwarder-1", ""] {
            assert!(wrong.parse::<Component>().unwrap_err().to_string().contains("there is no component"), "{wrong}");
        }
    }
}
