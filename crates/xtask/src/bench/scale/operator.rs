//! The operator as a process of this machine, and what it has cost so far.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use weft_cluster::Cluster;

/// The unit of processor times in `/proc`, on every Linux: seconds (USER_HZ).
const TICK_SECONDS: f64 = 0.01;

/// A running operator; ended when this is dropped.
pub struct Operator {
    child: Child,
    agent: ureq::Agent,
    metrics: String,
    log: PathBuf,
}

/// What the operator has used since it was started.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    pub cpu_seconds: f64,
    /// The most memory that it ever held.
    pub peak_bytes: u64,
}

/// Requests by what they were for.
#[derive(Debug, Default, PartialEq)]
pub struct Writes {
    pub all: BTreeMap<String, u64>,
    pub failed: BTreeMap<String, u64>,
}

impl Operator {
    /// Starts one against the cluster. It does not lead at once.
    pub fn start(program: &Path, cluster: &Cluster) -> Result<Self> {
        // Any port that is free now: somebody else could take it in between, and then the operator ends and its log says why.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr())?;
        let log = cluster.folder().join("log/operator.log");
        let file = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(program)
            .args(["--runtime-image=weft.test/weft-runtime:dev", &format!("--listen={address}")])
            .env("KUBECONFIG", cluster.kubeconfig())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).build().new_agent();
        Ok(Self { child, agent, metrics: format!("http://{address}/metrics"), log })
    }

    /// Fails if it has ended, with the end of its log.
    pub fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            bail!(
                "the operator ended ({status}); its last words:\n{}",
                lines[lines.len().saturating_sub(5)..].join("\n")
            );
        }
        Ok(())
    }

    /// Whether it holds the lease. One that does not answer yet does not.
    pub fn leads(&self) -> bool {
        self.scrape().is_ok_and(|text| text.lines().any(|line| line == "weft_operator_leader 1"))
    }

    /// Requests that changed something, or were to, and how many of these failed or had no answer in time.
    pub fn writes(&self) -> Result<Writes> {
        Ok(writes_in(&self.scrape()?))
    }

    fn scrape(&self) -> Result<String> {
        let mut answer = self.agent.get(&self.metrics).call().context("asking the operator for its metrics")?;
        Ok(answer.body_mut().read_to_string()?)
    }

    pub fn cost(&self) -> Result<Cost> {
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", self.child.id());
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}: did the operator end?"))
        };
        cost_in(&read("stat")?, &read("status")?).context("the kernel says nothing of what the operator used")
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // Already ended is as good as ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn writes_in(metrics: &str) -> Writes {
    let mut writes = Writes::default();
    for line in metrics.lines() {
        let Some(rest) = line.strip_prefix("weft_operator_writes_total{write=\"") else { continue };
        let (Some((write, result)), Some((_, count))) = (rest.split_once('"'), rest.rsplit_once(' ')) else { continue };
        let count = count.parse::<u64>().unwrap_or_default();
        *writes.all.entry(write.to_owned()).or_default() += count;
        if result.contains("\"error\"") {
            *writes.failed.entry(write.to_owned()).or_default() += count;
        }
    }
    writes
}

fn cost_in(stat: &str, status: &str) -> Option<Cost> {
    // The program's name is in parentheses and may hold anything: the fields begin after the last one, with the third.
    let mut times = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11);
    let mut ticks = || times.next()?.parse::<f64>().ok();
    let cpu_seconds = (ticks()? + ticks()?) * TICK_SECONDS;
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Some(Cost { cpu_seconds, peak_bytes: peak? * 1024 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_counted_by_what_they_are_for_failed_ones_included() {
        let text = "# TYPE weft_operator_writes counter\n\
                    weft_operator_writes_total{write=\"status\",result=\"ok\"} 12\n\
                    weft_operator_writes_total{write=\"status\",result=\"error\"} 1\n\
                    weft_operator_writes_total{write=\"create_pod\",result=\"ok\"} 7\nweft_operator_leader 1\n";
        let Writes { all, failed } = writes_in(text);
        assert_eq!(all, BTreeMap::from([("create_pod".to_owned(), 7), ("status".to_owned(), 13)]));
        assert_eq!(failed, BTreeMap::from([("status".to_owned(), 1)]));
    }

    #[test]
    fn what_a_process_used_is_read_as_the_kernel_writes_it() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 5 0 1 2 3";
        let status = "Name:\toperator\nVmPeak:\t  900 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 10 kB\n";
        assert_eq!(cost_in(stat, status), Some(Cost { cpu_seconds: 3.0, peak_bytes: 2 << 20 }));
        assert_eq!(cost_in(stat, "Name:\tgone\n"), None);
    }
}
