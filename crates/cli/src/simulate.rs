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
use serde_json::Value;
use weft_topology::what_if::{Addition, place_on_empty, smallest_addition};
use weft_topology::{
    Asked, Cluster, Group, Member, NoPlacement, NodeName, Seat, Situation, Standing, Unreadable, VERSION,
};

use crate::Connection;
use crate::cluster;

mod live;
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
    /// Judge as if this job (NAME, or NAMESPACE/NAME) had ended. Repeat it for several.
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
        let value: Value = serde_yaml_ng::from_str(&text)
            .with_context(|| format!("{file} is not one YAML or JSON document: give one job at a time"))?;
        let mut situation = if value.get("kind").is_some() {
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
            end(&mut situation, job)?;
        }
        situation.decide();
        if let Some(path) = &self.save {
            let text = serde_yaml_ng::to_string(&situation).context("cannot write the situation as YAML")?;
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        crate::say(&render(&situation, self.terms))?;
        let wrong = |asked: &Asked| matches!(asked.no_placement, Some(NoPlacement::Invalid(_)));
        if situation.asked.iter().any(wrong) {
            return Ok(ExitCode::FAILURE);
        }
        let fits = situation.asked.iter().all(|asked| asked.placement.is_some());
        Ok(if fits { ExitCode::SUCCESS } else { ExitCode::from(NO_ROOM) })
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

/// Takes a running job out of the situation.
fn end(situation: &mut Situation, name: &str) -> Result<()> {
    let asked = situation.asked.first().and_then(|asked| asked.name.split_once('/'));
    let name = match asked {
        Some((namespace, _)) if !name.contains('/') => &named(namespace, name),
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

/// All answers in words.
fn render(situation: &Situation, terms: bool) -> String {
    let mut text = String::new();
    for asked in &situation.asked {
        match (&asked.placement, &asked.no_placement) {
            (Some(placement), _) => {
                let _ = writeln!(text, "{} fits: {}", asked.name, placement.tree_on(&situation.cluster));
                if terms {
                    placement.terms.iter().for_each(|term| text += &format!("  {}: {}\n", term.name, term.value));
                }
            }
            (None, Some(why)) => no_room(&mut text, asked, why, &situation.cluster),
            (None, None) => {}
        }
    }
    text
}

fn no_room(text: &mut String, asked: &Asked, why: &NoPlacement, cluster: &Cluster) {
    let _ = writeln!(text, "{} has no place: {}", asked.name, why.tree());
    if matches!(why, NoPlacement::Invalid(_)) {
        return;
    }
    let rules = asked.rules();
    let eligible = |group: &Group, node: &NodeName| rules.admit(group, node);
    let _ = match place_on_empty(cluster, &asked.gang, &eligible) {
        Ok(placement) => writeln!(text, "If all other work ended it would fit: {placement}"),
        Err(why) => writeln!(text, "Waiting for other jobs does not help; if all of them ended: {why}"),
    };
    // Added nodes are taken as open to all groups, so their model has to be.
    let admitted = |node: &NodeName| asked.gang.groups.iter().all(|group| rules.admit(group, node).is_ok());
    let models = models(cluster, admitted);
    if models.is_empty() {
        *text += "No node that it may use has GPUs: `kubectl get gpunodes` says what the agents found\n";
        return;
    }
    let additions =
        models.into_iter().filter_map(|model| smallest_addition(cluster, &asked.gang, &eligible, &model).ok());
    let _ = match additions.min_by_key(|addition| addition.nodes) {
        Some(addition) => writeln!(text, "{}", in_words(&addition)),
        None => writeln!(text, "More nodes like those that it may use would not make room either"),
    };
}

/// A node of each kind of hardware, of those that are admitted: the one in the best state, and as if it had just joined.
fn models(cluster: &Cluster, admitted: impl Fn(&NodeName) -> bool) -> Vec<Member> {
    let mut members: Vec<Member> = Vec::new();
    let mut seats: Vec<_> = cluster.nodes().filter(|seat| admitted(seat.name())).collect();
    let sick = |seat: &Seat| seat.member.node.gpus().len() - seat.member.node.healthy().len();
    seats.sort_by_key(|seat| (seat.member.standing != Standing::Ready, sick(seat), seat.name()));
    for seat in seats {
        let node = &seat.member.node;
        let kind = |other: &Member| {
            let gpus = other.node.gpus().iter().map(|gpu| (&gpu.product, &gpu.mig_profile));
            other.node.wiring() == node.wiring()
                && gpus.eq(node.gpus().iter().map(|gpu| (&gpu.product, &gpu.mig_profile)))
        };
        if !node.gpus().is_empty()
            && !members.iter().any(kind)
            && let Some(member) = cluster.member(seat.name())
        {
            members.push(Member { standing: Standing::Ready, ..member });
        }
    }
    members
}

/// `2 more nodes like node-1 (8 × NVIDIA H100) would make room: 1 in rack a, 1 in rack b`.
fn in_words(addition: &Addition) -> String {
    let node = &addition.member.node;
    let product = node.gpus().first().map_or("GPU", |gpu| &*gpu.product);
    let s = if addition.nodes == 1 { "" } else { "s" };
    let fewest = if addition.fewest { "no fewer would" } else { "fewer might do" };
    let mut text = format!(
        "{} more node{s} like {} ({} × {product}) would make room, {fewest}",
        addition.nodes,
        node.name(),
        node.gpus().len()
    );
    if let Some(level) = &addition.level {
        for (nth, part) in addition.parts.iter().enumerate() {
            let domain = part.domain.as_ref().map_or("no domain with a name", |domain| domain.as_str());
            let _ = write!(text, "{} {} in {level} {domain}", if nth == 0 { ":" } else { "," }, part.nodes);
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
