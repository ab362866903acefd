//! A real Prometheus that scrapes the agents of the demo's cluster, as a person's own would: it finds the pods through the API.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
};

use anyhow::{Context, Result};
use serde_json::Value;
use weft_cluster::Cluster;

use crate::{process, tools};

/// Where Prometheus listens, in the control plane's network namespace.
const ADDRESS: &str = "127.0.0.1:9090";

/// The server; ended when this is dropped.
pub struct Prometheus {
    server: Child,
    programs: tools::Prometheus,
}

impl Prometheus {
    /// Starts one in the control plane's network, from which pods can be reached. Its files lie with the cluster's.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let programs = tools::prometheus()?;
        let folder = cluster.folder().join("prometheus");
        fs::create_dir_all(&folder)?;
        let config = folder.join("prometheus.yml");
        fs::write(&config, configuration(&cluster.folder().join("pki/admin.kubeconfig")))?;
        let log = fs::File::create(folder.join("log"))?;
        let mut command = cluster.control_plane_command(&programs.server)?;
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .arg("--log.level=warn");
        let server = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start Prometheus")?;
        Ok(Self { server, programs })
    }

    /// The series that a query gives now.
    pub fn query(&self, cluster: &Cluster, query: &str) -> Result<Vec<Value>> {
        let mut command = cluster.control_plane_command(&self.programs.tool)?;
        let json =
            process::output(command.args(["query", "instant", "--format=json", &format!("http://{ADDRESS}"), query]))?;
        serde_json::from_str(&json).with_context(|| format!("Prometheus answered {json}"))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Already ended is as good as ended.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Scrapes every pod whose annotations ask for it, each second, as the widespread convention of `prometheus.io/*` has it.
fn configuration(kubeconfig: &Path) -> String {
    format!(
        r#"
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: pods
    honor_labels: true
    kubernetes_sd_configs: [{{role: pod, kubeconfig_file: {kubeconfig}}}]
    relabel_configs:
      - {{source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape], action: keep, regex: "true"}}
      - {{source_labels: [__meta_kubernetes_pod_phase], action: keep, regex: Running}}
      - source_labels: [__meta_kubernetes_pod_ip, __meta_kubernetes_pod_annotation_prometheus_io_port]
        regex: (.+);(.+)
        replacement: $1:$2
        target_label: __address__
"#,
        kubeconfig = kubeconfig.display()
    )
}
