//! The API server's JSON over plain HTTP, through `kubectl proxy`.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use ureq::http;

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
        match self.ask("GET", path, "")? {
            (200, body) => Ok(Some(serde_json::from_str(&body)?)),
            (404, _) => Ok(None),
            (code, body) => bail!("GET {path}: {code}: {body}"),
        }
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        self.find(path)?.ok_or_else(|| anyhow!("GET {path}: not found"))
    }

    /// Changes something. Returns the API server's answer: for most requests the object as it is now.
    pub fn change(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        match self.ask(method, path, &body.to_string())? {
            (200..300, body) => Ok(serde_json::from_str(&body)?),
            (code, body) => {
                let status = serde_json::from_str::<Value>(&body).unwrap_or_default();
                bail!("{method} {path}: {code}: {}", status["message"].as_str().unwrap_or(&body));
            }
        }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let form = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        let said = || format!("{method} {path}");
        let answer = if body.is_empty() {
            self.agent.run(request.body(())?)
        } else {
            self.agent.run(request.header("content-type", form).body(body)?)
        };
        let mut answer = answer.with_context(said)?;
        let text = answer.body_mut().with_config().limit(64 << 20).read_to_string().with_context(said)?;
        Ok((answer.status().as_u16(), text))
    }

    /// The lines of an answer that goes on, such as a watch.
    pub fn follow(&self, path: &str) -> Result<impl BufRead + Send + use<>> {
        let request = self.agent.get(format!("{}{path}", self.base)).config().timeout_global(None).build();
        let answer = request.call().with_context(|| format!("GET {path}"))?;
        if answer.status().as_u16() != 200 {
            bail!("GET {path}: {}", answer.status());
        }
        Ok(BufReader::new(answer.into_body().into_reader()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Already ended is as good as ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
