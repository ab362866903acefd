//! `simulate`: whether a job would fit, where and why not, and what would help. Nothing is created.
//!
//! ```text
//!  GpuJob ──dry run──▶ API server ─┐
//!                        cluster ──┴▶ Situation ──place──▶ answers ──▶ text, --save      (a saved one needs no cluster)
//! ```

use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use kube::Resource;
use serde::Deserialize;
use serde_json::Value;
use weft_api::GpuJob;
use weft_topology::{Asked, NoPlacement, Situation, Unreadable, VERSION};

use crate::Connection;
use crate::cluster;

mod live;
mod no_room;
mod notes;

/// Exit status if there is no room for what was asked.
const NO_ROOM: u8 = 3;

/// See `kubectl weft simulate --help`.
#[derive(Args)]
pub struct Simulate {
    /// A GpuJob, judged on the cluster as it is now; or a file that --save wrote, judged by itself without a cluster. `-` is
    /// standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Judge as if this job (NAME, or NAMESPACE/NAME) had ended. Repeat it for several. A NAME alone is in the namespace of
    /// --namespace, or else of the job asked about.
    #[arg(long, value_name = "JOB")]
    without: Vec<String>,
    /// Also print the value of the placement term by term; docs/placement.md explains the terms under "Placing a gang".
    #[arg(long)]
    terms: bool,
    /// Write the cluster, the question and the answer to a file: for a bug report, or to change something and ask again.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

impl Simulate {
    /// Asks and prints. The exit status is 0 if all fits and 3 if there is no room.
    pub async fn run(&self, connection: &Connection) -> Result<ExitCode> {
        let text = read(&self.file)?;
        let file = if self.file.as_os_str() == "-" { "standard input" } else { &*self.file.to_string_lossy() };
        let value = document(file, &text)?;
        let source = if is_job(file, &value)? { Source::Cluster } else { Source::File };
        let mut situation = if source == Source::Cluster {
            live::situation(&cluster::Cluster::connect(connection).await?, value).await?
        } else {
            let situation = saved(&value, &text).with_context(|| match value.get("cluster") {
                Some(_) => format!("{file} is not as --save writes it"),
                None => format!("{file} is neither a GpuJob (no `kind`) nor what --save wrote (no `cluster`)"),
            })?;
            notes::on(&value).into_iter().for_each(cluster::note);
            situation
        };
        if situation.asked.is_empty() {
            bail!("{file} asks for nothing: add a gang under `asked`");
        }
        for job in &self.without {
            end(&mut situation, job, connection.namespace.as_deref())?;
        }
        situation.decide();
        if let Some(path) = &self.save {
            let text = serde_yaml_ng::to_string(&situation).context("cannot write the situation as YAML")?;
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        crate::say(&render(&situation, self.terms, source))?;
        let wrong = |asked: &Asked| matches!(asked.no_placement, Some(NoPlacement::Invalid(_)));
        if situation.asked.iter().any(wrong) {
            return Ok(ExitCode::FAILURE);
        }
        let fits = situation.asked.iter().all(|asked| asked.placement.is_some());
        Ok(if fits { ExitCode::SUCCESS } else { ExitCode::from(NO_ROOM) })
    }
}

/// The only document of a file.
fn document(file: &str, text: &str) -> Result<Value> {
    let mut documents = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document);
        documents
            .push(value.with_context(|| format!("{file} cannot be read as YAML or JSON; correct it at this place"))?);
    }
    // Nothing at all is read as a document without a value.
    if documents.iter().all(Value::is_null) {
        bail!("{file} is empty: give a GpuJob, or what --save wrote");
    }
    match documents.len() {
        1 => Ok(documents.swap_remove(0)),
        documents => bail!("{file} holds {documents} documents: give one at a time"),
    }
}

/// Whether it is a GpuJob; if not, it should be what --save wrote, and nothing else of Kubernetes.
fn is_job(file: &str, value: &Value) -> Result<bool> {
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    let (kind, version) = (text("kind"), text("apiVersion"));
    let group = GpuJob::group(&());
    let ours = version.and_then(|version| version.split_once('/')).is_some_and(|(of, _)| of == group);
    match kind {
        Some(kind) if kind == GpuJob::kind(&()) && ours => Ok(true),
        None if version.is_none() && value.get("kind").is_none() => Ok(false),
        _ => {
            let (kind, version) = (kind.unwrap_or("a kind"), version.unwrap_or("without apiVersion"));
            let (job, at) = (GpuJob::kind(&()), GpuJob::api_version(&()));
            bail!("{file} holds {kind} ({version}): give a {job} ({at}), or what --save wrote")
        }
    }
}

/// What --save wrote. The version first: another one may have fields that this program does not know.
fn saved(value: &Value, text: &str) -> Result<Situation, Unreadable> {
    let version = value.get("version").and_then(Value::as_u64).and_then(|version| u32::try_from(version).ok());
    match version.filter(|version| *version != VERSION) {
        Some(version) => Err(Unreadable::Version(version)),
        None => Situation::read(serde_yaml_ng::Deserializer::from_str(text)),
    }
}

fn read(path: &Path) -> Result<String> {
    if path.as_os_str() != "-" {
        return fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    Ok(text)
}

/// Takes a running job out of the situation. A name alone is in the namespace that was given, or else in that of what is asked
/// about.
fn end(situation: &mut Situation, name: &str, namespace: Option<&str>) -> Result<()> {
    let asked = situation.asked.first().and_then(|asked| asked.name.split_once('/'));
    let name = match namespace.or(asked.map(|(namespace, _)| namespace)) {
        Some(namespace) if !name.contains('/') => &named(namespace, name),
        _ => name,
    };
    let Some(at) = situation.jobs.iter().position(|job| job.name == name) else {
        let jobs: Vec<&str> = situation.jobs.iter().map(|job| job.name.as_str()).collect();
        let known = if jobs.is_empty() { "no job runs".to_owned() } else { format!("those are {}", jobs.join(", ")) };
        bail!("--without {name}: no job of that name holds GPUs ({known})");
    };
    for owner in situation.jobs.remove(at).owners {
        situation.cluster.release(&owner);
    }
    Ok(())
}

/// Where the situation comes from, and so where somebody looks who wants to change it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Cluster,
    File,
}

/// All answers in words.
fn render(situation: &Situation, terms: bool, source: Source) -> String {
    let mut text = String::new();
    for asked in &situation.asked {
        match (&asked.placement, &asked.no_placement) {
            (Some(placement), _) => {
                let _ = writeln!(text, "{} fits: {}", asked.name, placement.tree_on(&situation.cluster));
                if terms {
                    placement.terms.iter().for_each(|term| text += &format!("  {}: {}\n", term.name, term.value));
                }
            }
            (None, Some(why)) => no_room::tell(&mut text, asked, why, &situation.cluster, source),
            (None, None) => {}
        }
    }
    text
}

/// A job's name as the situation has it.
fn named(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

#[cfg(test)]
mod tests;
