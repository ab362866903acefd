//! The cluster as the story sees it: `kubectl` to change things, as a person would; JSON through `kubectl proxy` to look.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{images::Image, process, proxy::Proxy, tools};

/// How often a condition is looked at while waiting for it.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// Holds GPUs and does nothing else; its capitals are filled in.
const HOLDER: &str = include_str!("holder.yaml");

/// Where the images come from, for the chart and for the examples.
#[derive(Debug, Clone)]
pub struct Images {
    pub registry: String,
    pub tag: String,
}

impl Images {
    /// As `cargo xtask images` names them: those that the nodes of the demo's own cluster have already.
    pub fn on_the_nodes() -> Self {
        Self { registry: "weft.test".to_owned(), tag: "dev".to_owned() }
    }

    /// The chart's values that say so.
    pub fn values(&self) -> Vec<String> {
        vec![format!("image.registry={}", self.registry), format!("image.tag={}", self.tag)]
    }
}

/// A job that holds GPUs.
#[derive(Debug, Clone, Copy)]
pub struct Hold {
    pub replicas: u32,
    /// Per worker.
    pub gpus: u32,
    pub seconds: u32,
}

pub struct World {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    proxy: Proxy,
    /// Where its images come from.
    pub images: Images,
    /// Where the story's jobs live.
    pub namespace: String,
}

impl World {
    /// Connects to the cluster of `kubeconfig` and makes the namespace, or clears it of an earlier demo's jobs.
    pub fn connect(kubectl: PathBuf, kubeconfig: PathBuf, namespace: &str) -> Result<Self> {
        let proxy = Proxy::start(&kubectl, &kubeconfig, Duration::from_secs(10))?;
        let images = Images::on_the_nodes();
        let world = Self { kubectl, kubeconfig, proxy, images, namespace: namespace.into() };
        if world.find(&format!("/api/v1/namespaces/{namespace}"))?.is_none() {
            world.kubectl(&["create", "namespace", namespace])?;
        } else if world.find(&format!("/apis/weft.dev/v1alpha1/namespaces/{namespace}/gpujobs"))?.is_some() {
            world.kubectl(&["delete", "gpujobs", "--all", "--timeout=120s"])?;
        }
        Ok(world)
    }

    /// The cluster's kubeconfig file.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubectl for this cluster and namespace.
    fn command(&self) -> Command {
        let mut c = Command::new(&self.kubectl);
        c.arg("--kubeconfig").arg(&self.kubeconfig).args(["--namespace", &self.namespace]);
        c
    }

    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        process::output(self.command().args(args))
    }

    /// `kubectl apply -f` of a file under `deploy/examples`, as the README tells people to.
    pub fn apply_example(&self, file: &str) -> Result<()> {
        println!("      $ kubectl apply -f deploy/examples/{file}");
        let path = tools::workspace_root().join("deploy/examples").join(file);
        let manifest = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        self.apply(&manifest).map(drop)
    }

    /// Applies a job that holds GPUs.
    pub fn hold(&self, name: &str, hold: Hold) -> Result<()> {
        let mut manifest = HOLDER.replace("NAME", name);
        for (word, number) in [("REPLICAS", hold.replicas), ("GPUS", hold.gpus), ("SECONDS", hold.seconds)] {
            manifest = manifest.replace(word, &number.to_string());
        }
        self.apply(&manifest).map(drop)
    }

    /// Applies a manifest; the error is what a person would read. The examples' images are taken from where this cluster's are.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        let Images { registry, tag } = &self.images;
        let manifest = manifest.replace(Image::ExampleApp.name(), &format!("{registry}/example-app:{tag}"));
        let mut child = self
            .command()
            .args(["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("kubectl has no input")?.write_all(manifest.as_bytes())?;
        let out = child.wait_with_output()?;
        if !out.status.success() {
            bail!("{}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// The object at an API path, or `None` where there is none.
    pub fn find(&self, path: &str) -> Result<Option<Value>> {
        self.proxy.find(path)
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        self.proxy.get(path)
    }

    pub fn job(&self, name: &str) -> Result<Value> {
        self.get(&format!("/apis/weft.dev/v1alpha1/namespaces/{}/gpujobs/{name}", self.namespace))
    }

    pub fn gpu_node(&self, name: &str) -> Result<Value> {
        self.get(&format!("/apis/weft.dev/v1alpha1/gpunodes/{name}"))
    }

    /// The pods of a job, by rank.
    pub fn pods(&self, job: &str) -> Result<Vec<Value>> {
        let list =
            self.get(&format!("/api/v1/namespaces/{}/pods?labelSelector=weft.dev/job%3D{job}", self.namespace))?;
        let mut pods = list["items"].as_array().cloned().unwrap_or_default();
        pods.sort_by_key(|p| p["metadata"]["labels"]["weft.dev/rank"].as_str().and_then(|r| r.parse::<u32>().ok()));
        Ok(pods)
    }

    pub fn delete_job(&self, name: &str) -> Result<()> {
        self.kubectl(&["delete", "gpujob", name, "--wait=false"]).map(drop)
    }

    /// Waits until `look` returns something. The API server may be away meanwhile: its errors only matter at the end.
    ///
    /// # Errors
    /// After `limit`, with what was last seen, so that a person knows where it stood.
    pub fn wait<T>(&self, what: &str, limit: Duration, mut look: impl FnMut() -> Result<Look<T>>) -> Result<T> {
        let started = Instant::now();
        let mut said = Instant::now();
        loop {
            let last = match look() {
                Ok(Look::Done(value)) => return Ok(value),
                Ok(Look::Hopeless(why)) => bail!("{what}: {why}"),
                Ok(Look::Waiting(seen)) => seen,
                Err(e) => format!("{e:#}"),
            };
            if started.elapsed() > limit {
                bail!("{what}: not within {} s; last seen: {last}", limit.as_secs());
            }
            if said.elapsed() > Duration::from_secs(8) {
                println!("      … {what}: {last}");
                said = Instant::now();
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until a job is in `phase`; a job that ended in another way is not waited for.
    pub fn wait_phase(&self, name: &str, phase: &str, limit: Duration) -> Result<Value> {
        self.wait(&format!("GpuJob {name} to be {phase}"), limit, || {
            let job = self.job(name)?;
            let now = job["status"]["phase"].as_str().unwrap_or("not seen by the operator").to_owned();
            let message = job["status"]["message"].as_str().unwrap_or_default();
            Ok(if now == phase {
                Look::Done(job)
            } else if matches!(now.as_str(), "Succeeded" | "Failed") {
                Look::Hopeless(format!("it is {now}: {message}"))
            } else {
                Look::Waiting(format!("{now}: {message}"))
            })
        })
    }
}

/// What one look at a condition found.
pub enum Look<T> {
    Done(T),
    /// Not yet; with what is there instead.
    Waiting(String),
    /// It can no longer come true.
    Hopeless(String),
}

/// The workers in a job's status, by rank.
pub fn worker_list(job: &Value) -> Vec<Value> {
    job["status"]["workers"].as_array().cloned().unwrap_or_default()
}
