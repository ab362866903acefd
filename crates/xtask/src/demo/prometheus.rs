//! A real Prometheus that scrapes the agents of the demo's cluster.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weft_cluster::Cluster;

use super::world::World;
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
    pub fn start(cluster: &Cluster, world: &World) -> Result<Self> {
        let programs = tools::prometheus()?;
        let folder = cluster.folder().join("prometheus");
        fs::create_dir_all(&folder)?;
        let config = folder.join("prometheus.yml");
        let listed = folder.join("targets.json");
        fs::write(&listed, targets(world)?.to_string())?;
        fs::write(&config, configuration(&listed))?;
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

/// Scrapes what `targets` lists, each second.
fn configuration(targets: &Path) -> String {
    format!(
        r#"
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: weft-agent
    honor_labels: true
    file_sd_configs: [{{files: [{targets}]}}]
"#,
        targets = targets.display()
    )
}

/// The pods whose annotations ask to be scraped, as the widespread convention of `prometheus.io/*` has it. Debian's Prometheus is
/// built without the discovery that would find them by itself.
fn targets(world: &World) -> Result<Value> {
    let pods = world.get("/api/v1/pods")?;
    let address = |pod: &Value| {
        let annotations = &pod["metadata"]["annotations"];
        let asked = annotations["prometheus.io/scrape"] == "true" && pod["status"]["phase"] == "Running";
        asked.then(|| {
            Some(format!("{}:{}", pod["status"]["podIP"].as_str()?, annotations["prometheus.io/port"].as_str()?))
        })?
    };
    let found: Vec<String> = pods["items"].as_array().into_iter().flatten().filter_map(address).collect();
    Ok(json!([{"targets": found}]))
}
