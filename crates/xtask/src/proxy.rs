//! The API server's JSON over plain HTTP, through `kubectl proxy`.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// A running `kubectl proxy`; ended when this is dropped.
pub struct Proxy {
    child: Child,
    base: String,
    agent: ureq::Agent,
}

impl Proxy {
    /// Starts one to the cluster of a kubeconfig file. `patience` is how long one answer may take.
    pub fn start(kubectl: &Path, kubeconfig: &Path, patience: Duration) -> Result<Self> {
        let mut child = Command::new(kubectl)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["proxy", "--port=0", "--address=127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start kubectl proxy")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("kubectl proxy has no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let Some(address) = line.trim().rsplit(' ').next().filter(|a| a.contains(':')) else {
            let _ = child.kill();
            let _ = child.wait();
            bail!(
                "kubectl proxy did not say where it listens (it said {line:?}): is {} a valid kubeconfig?",
                kubeconfig.display()
            );
        };
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(patience))
            .http_status_as_error(false)
            .build()
            .new_agent();
        Ok(Self { base: format!("http://{address}"), child, agent })
    }

    /// The object at an API path, or `None` where there is none.
    pub fn find(&self, path: &str) -> Result<Option<Value>> {
        let mut answer =
            self.agent.get(format!("{}{path}", self.base)).call().with_context(|| format!("GET {path}"))?;
        let body = answer.body_mut().with_config().limit(64 << 20).read_to_string()?;
        match answer.status().as_u16() {
            200 => Ok(Some(serde_json::from_str(&body)?)),
            404 => Ok(None),
            code => bail!("GET {path}: {code}: {body}"),
        }
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        self.find(path)?.ok_or_else(|| anyhow!("GET {path}: not found"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Already ended is as good as ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
