//! One step after the other: nodes, the yardstick, jobs, a gang that fills the cluster, a queue behind it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use weft_cluster::{Cluster, Progress};

use super::{
    check,
    figures::{Line, Times, thousandths},
    load::{self, GPUS, Size, size},
    operator::{Cost, Operator},
    stage::{Change, Seen, Stage},
};
use crate::{progress::Console, proxy::Proxy, tools};

/// Where the plain pods and where the jobs are.
const PLAIN: &str = "plain";
const JOBS: &str = "jobs";
/// How long one answer of the API server may take while it is loaded, and a queue until it is calm or moves on.
const PATIENCE: Duration = Duration::from_secs(60);
/// For how long writes of statuses are counted.
const COUNTED: Duration = Duration::from_secs(5);
/// Who is compared.
const ALONE: &str = "the same pods by kube-scheduler alone, without gangs and chosen GPUs";

pub struct Run<'a> {
    stage: Stage<'a>,
    nodes: usize,
    sizes: &'a [Size],
    lines: Vec<Line>,
}

impl<'a> Run<'a> {
    pub fn new(
        cluster: &Cluster,
        nodes: usize,
        sizes: &'a [Size],
        stop: &Arc<AtomicBool>,
        console: &'a Console,
    ) -> Result<Self> {
        let proxy = Proxy::start(&cluster.tools().program("kubectl")?, &cluster.kubeconfig(), PATIENCE)?;
        let stage = Stage { proxy, operator: None, console, stop: stop.clone() };
        Ok(Self { stage, nodes, sizes, lines: Vec::new() })
    }

    /// All of it. The figures come at the end, if everything was right.
    pub fn all(&mut self, cluster: &Cluster, program: &Path) -> Result<Vec<Line>> {
        self.prepare(cluster)?;
        self.make_nodes()?;
        let alone = self.plain_pods()?;
        self.start_operator(cluster, program)?;
        self.jobs(alone)?;
        let mut gangs: BTreeMap<String, Size> =
            self.sizes.iter().enumerate().map(|(index, size)| (job_name(index), *size)).collect();
        self.all_is_right(&gangs)?;
        self.fill(&mut gangs)?;
        self.queue(&mut gangs)?;
        self.all_is_right(&gangs)?;
        Ok(std::mem::take(&mut self.lines))
    }

    fn step(&self, text: &str) {
        self.stage.console.step(text);
    }

    /// The resources' definitions, the levels, and namespaces that take pods.
    fn prepare(&mut self, cluster: &Cluster) -> Result<()> {
        let crds = tools::workspace_root().join("crds").display().to_string();
        cluster.kubectl(&["apply", "--server-side", "-f", &crds])?;
        cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"])?;
        self.stage.proxy.change("POST", "/apis/weft.dev/v1alpha1/gputopologies", &load::levels())?;
        for namespace in ["weft-system", PLAIN, JOBS] {
            let manifest = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            self.stage.proxy.change("POST", "/api/v1/namespaces", &manifest)?;
        }
        // Without it the API server takes no pods.
        self.stage.wait("namespaces to get their service accounts", |stage| {
            for namespace in [PLAIN, JOBS] {
                let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
                if stage.proxy.find(&account)?.is_none() {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    fn make_nodes(&mut self) -> Result<()> {
        let (begin, nodes) = (Instant::now(), self.nodes);
        let proxy = &self.stage.proxy;
        let reports = "/apis/weft.dev/v1alpha1/gpunodes";
        self.stage.each(nodes, |index| {
            let made = proxy.change("POST", "/api/v1/nodes", &load::node(index))?;
            proxy.change("POST", reports, &load::gpu_node(index, &made["metadata"]["uid"]))?;
            let status = format!("{reports}/{}/status", load::node_name(index));
            proxy.change("PATCH", &status, &load::gpu_node_status(index))
        })?;
        self.stage.wait("nodes to be ready", |stage| {
            let list = stage.proxy.get("/api/v1/nodes")?;
            let ready = |node: &&Value| {
                let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
                node["spec"]["taints"].is_null()
                    && conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
            };
            let ready = list["items"].as_array().into_iter().flatten().filter(ready).count();
            Ok((ready == nodes).then_some(()))
        })?;
        self.step(&format!("{nodes} nodes with reports, ready after {:.1} s", begin.elapsed().as_secs_f64()));
        Ok(())
    }

    /// The yardstick. Nothing of it is left.
    fn plain_pods(&mut self) -> Result<Times> {
        let path = format!("/api/v1/namespaces/{PLAIN}/pods");
        let gpus: Vec<usize> = self.sizes.iter().flat_map(|s| std::iter::repeat_n(s.gpus, s.workers)).collect();
        let name = |index: usize| format!("pod-{index:05}");
        let manifest = |index: usize| load::pod(&name(index), gpus[index]);
        let times = until_running(&mut self.stage, &path, gpus.len(), name, manifest)?;
        self.step(&format!("{} plain pods ran after {:.1} s", gpus.len(), times.seconds));
        let case = format!("pods={},nodes={}", gpus.len(), self.nodes);
        self.lines.push(Line { case, times: Some(times), against: None, extra: Map::new() });

        let at_once = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        self.stage.proxy.change("DELETE", &path, &at_once)?;
        self.stage.wait("plain pods to be gone", |stage| {
            let left = stage.proxy.get(&format!("{path}?limit=1"))?;
            Ok(left["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
        })?;
        Ok(times)
    }

    fn start_operator(&mut self, cluster: &Cluster, program: &Path) -> Result<()> {
        self.stage.operator = Some(Operator::start(program, cluster)?);
        self.stage.wait("the operator to lead", |stage| Ok(stage.operator.as_ref().filter(|o| o.leads()).map(drop)))?;
        self.step("the operator leads");
        Ok(())
    }

    fn jobs(&mut self, alone: Times) -> Result<()> {
        let (sizes, nodes) = (self.sizes, self.nodes);
        let workers: usize = sizes.iter().map(|size| size.workers).sum();
        let before = self.cost()?;
        let manifest = |index: usize| load::job(&job_name(index), sizes[index]);
        let times = until_running(&mut self.stage, &jobs_path(), sizes.len(), job_name, manifest)?;
        let after = self.cost()?;
        self.step(&format!("{} jobs with {workers} workers ran after {:.1} s", sizes.len(), times.seconds));
        let writes = self.operator()?.writes()?;
        let extra = Map::from_iter([
            ("operator_cpu_seconds".to_owned(), json!(thousandths(after.cpu_seconds - before.cpu_seconds))),
            ("operator_peak_bytes".to_owned(), json!(after.peak_bytes)),
            ("requests".to_owned(), json!(writes.all)),
            ("requests_failed".to_owned(), json!(writes.failed)),
        ]);
        let case = format!("jobs={},workers={workers},nodes={nodes}", sizes.len());
        self.lines.push(Line { case, times: Some(times), against: Some((ALONE, alone)), extra });
        Ok(())
    }

    /// One gang takes all nodes that are idle, so that nothing large has room.
    fn fill(&mut self, gangs: &mut BTreeMap<String, Size>) -> Result<()> {
        let used: BTreeSet<String> =
            self.pods()?.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str().map(str::to_owned)).collect();
        let filler = size(self.nodes - used.len(), GPUS);
        if filler.workers == 0 {
            return Ok(());
        }
        let name = |_| "filler".to_owned();
        let manifest = |_| load::job("filler", filler);
        let times = until_running(&mut self.stage, &jobs_path(), 1, name, manifest)?;
        self.step(&format!("a gang of {} × {GPUS} GPUs ran after {:.1} s", filler.workers, times.seconds));
        let case = format!("gang={}x{GPUS},nodes={}", filler.workers, self.nodes);
        self.lines.push(Line { case, times: Some(times), against: None, extra: Map::new() });
        gangs.insert("filler".to_owned(), filler);
        Ok(())
    }

    /// As many jobs again wait, and then one that runs is deleted: there is room for one of them.
    fn queue(&mut self, gangs: &mut BTreeMap<String, Size>) -> Result<()> {
        let (large, waiting) = (size(8, GPUS), self.sizes.len());
        let name = |index: usize| format!("waiting-{index:05}");
        let watch = self.stage.follow(&jobs_path())?;
        let proxy = &self.stage.proxy;
        self.stage.each(waiting, |index| proxy.change("POST", &jobs_path(), &load::job(&name(index), large)))?;
        self.stage.until(&watch, "Pending", (0..waiting).map(name))?;
        let is_waiting = |seen: &&Seen| seen.change == Change::Changed && seen.name.starts_with("waiting-");
        self.step(&format!("{waiting} jobs wait"));
        self.until_owners_take_along()?;
        // Being told why they wait is not what the end of a job brings.
        let arrived = Instant::now();
        let before = loop {
            let now = Instant::now();
            let seen = self.stage.listen(&watch, now, now + COUNTED)?;
            if !seen.iter().any(|seen| is_waiting(&seen)) || arrived.elapsed() > PATIENCE {
                break seen;
            }
        };
        if let Some(early) = before.iter().find(|seen| is_waiting(seen) && seen.phase != "Pending") {
            bail!("there is no room for job {}, and yet it is {}", early.name, early.phase);
        }

        let ending = gangs.iter().find(|(_, size)| **size == large).map(|(name, _)| name.clone());
        let ending = ending.context("there is no job of 8 × 8 GPUs that could end")?;
        let deleted = Instant::now();
        self.stage.proxy.change("DELETE", &format!("{}/{ending}", jobs_path()), &json!({}))?;
        let mut after = self.stage.listen(&watch, deleted, deleted + COUNTED)?;
        let within = after.len();
        let ran = |seen: &Seen| seen.phase == "Running" && seen.name.starts_with("waiting-");
        while !after.iter().any(ran) {
            if deleted.elapsed() > PATIENCE {
                bail!("job {ending} was deleted, and none of {waiting} that wait for its GPUs runs after {PATIENCE:?}");
            }
            let now = Instant::now();
            after.extend(self.stage.listen(&watch, deleted, now + Duration::from_millis(200))?);
        }
        let next = after.iter().find(|seen| ran(seen)).context("no job ran")?;
        let seconds = next.at.saturating_duration_since(deleted).as_secs_f64();
        let (of_next, of_others): (Vec<_>, Vec<_>) =
            after[..within].iter().filter(is_waiting).partition(|seen| seen.name == next.name);
        self.step(&format!("one of them ran {seconds:.1} s after a job was deleted"));
        let cost = self.cost()?;
        let extra = Map::from_iter([
            ("seconds_until_one_runs".to_owned(), json!(thousandths(seconds))),
            ("status_writes_of_the_one_in_5_s".to_owned(), json!(of_next.len())),
            ("status_writes_of_waiting_jobs_in_5_s".to_owned(), json!(of_others.len())),
            ("status_writes_in_5_s_before".to_owned(), json!(before.iter().filter(is_waiting).count())),
            ("operator_cpu_seconds_in_all".to_owned(), json!(thousandths(cost.cpu_seconds))),
            ("operator_peak_bytes".to_owned(), json!(cost.peak_bytes)),
        ]);
        let case = format!("waiting={waiting},nodes={}", self.nodes);
        let next = next.name.clone();
        self.lines.push(Line { case, times: None, against: None, extra });
        gangs.remove(&ending);
        gangs.insert(next, large);
        Ok(())
    }

    /// Kubernetes' garbage collector, which deletes the pods of a deleted job, looks for new kinds of owners every 30 s: on a
    /// cluster that is younger than that, the job's end would measure this alone.
    fn until_owners_take_along(&mut self) -> Result<()> {
        let jobs = format!("/apis/weft.dev/v1alpha1/namespaces/{PLAIN}/gpujobs");
        let mut owner = load::job("owner", size(1, 1));
        owner["spec"]["suspend"] = json!(true);
        let uid = self.stage.proxy.change("POST", &jobs, &owner)?["metadata"]["uid"].take();
        let reference = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "GpuJob", "name": "owner", "uid": uid});
        let owned = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned", "ownerReferences": [reference]},
        });
        let maps = format!("/api/v1/namespaces/{PLAIN}/configmaps");
        self.stage.proxy.change("POST", &maps, &owned)?;
        self.stage.proxy.change("DELETE", &format!("{jobs}/owner"), &json!({}))?;
        self.stage.wait("the garbage collector to know GpuJobs", |stage| {
            Ok(stage.proxy.find(&format!("{maps}/owned"))?.is_none().then_some(()))
        })
    }

    fn all_is_right(&self, gangs: &BTreeMap<String, Size>) -> Result<()> {
        check::all_is_right(&self.pods()?, gangs)?;
        self.step("no GPU is planned for two pods, and all gangs are whole");
        Ok(())
    }

    fn pods(&self) -> Result<Vec<Value>> {
        let mut list = self.stage.proxy.get(&format!("/api/v1/namespaces/{JOBS}/pods"))?;
        match list["items"].take() {
            Value::Array(pods) => Ok(pods),
            _ => bail!("the API server's list of pods has no items"),
        }
    }

    fn operator(&self) -> Result<&Operator> {
        self.stage.operator.as_ref().context("the operator was not started")
    }

    fn cost(&self) -> Result<Cost> {
        self.operator()?.cost()
    }
}

fn jobs_path() -> String {
    format!("/apis/weft.dev/v1alpha1/namespaces/{JOBS}/gpujobs")
}

fn job_name(index: usize) -> String {
    format!("job-{index:05}")
}

/// Creates objects at a path, and waits until all of them are `Running`.
fn until_running(
    stage: &mut Stage<'_>,
    path: &str,
    count: usize,
    name: impl Fn(usize) -> String + Sync,
    manifest: impl Fn(usize) -> Value + Sync,
) -> Result<Times> {
    let (watch, proxy) = (stage.follow(path)?, &stage.proxy);
    let begun = stage.each(count, |index| {
        let manifest = manifest(index);
        let begin = Instant::now();
        proxy.change("POST", path, &manifest)?;
        Ok((name(index), begin))
    })?;
    let begun: BTreeMap<String, Instant> = begun.into_iter().collect();
    let ran = stage.until(&watch, "Running", begun.keys().cloned())?;
    Ok(Times::new(&begun, &ran))
}
