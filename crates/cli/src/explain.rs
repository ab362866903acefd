//! `explain`: all that is known about one job, the reason first.

use std::collections::BTreeMap;
use std::fmt::Write;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt;
use serde_json::Value;
use weft_api::GpuJobStatus;
use weft_api::job::{Phase, WorkerStatus};

use crate::cluster::JobView;
use crate::span::{indices, since};
use crate::table::Table;

/// Events shown: the newest. More of them say the same again.
const EVENTS: usize = 12;

/// The job in words and tables.
pub fn render(view: &JobView, now: Timestamp) -> String {
    let job = &view.job;
    let name = format!("{}/{}", job.namespace().unwrap_or_default(), job.name_any());
    let age = job.creation_timestamp().map_or_else(String::new, |made| format!(", made {} ago", since(made.0, now)));
    let Some(status) = &job.status else {
        return format!(
            "GpuJob {name}: not looked at yet{age}\n  The operator has not written its status. Does it run? kubectl get deployments \
             --all-namespaces -l app.kubernetes.io/name=weft\n"
        );
    };
    let mut text = format!("GpuJob {name}: {}{age}\n", status.phase);
    if !status.message.is_empty() {
        let _ = writeln!(text, "  {}", status.message);
    }
    if let Some(omitted) = &status.omitted {
        let _ = writeln!(text, "  {omitted}");
    }
    let behind =
        job.metadata.generation.is_some_and(|latest| status.observed_generation.is_some_and(|seen| seen < latest));
    if behind {
        text +=
            "  The operator has not yet seen the latest change of this job: what follows is about the one before.\n";
    }
    asks_for(&mut text, view);
    if let Some(why) = &view.why {
        section(
            &mut text,
            "Why it does not fit now",
            &why.lines().map(|line| format!("  {line}\n")).collect::<String>(),
        );
    }
    let workers = workers(status, view);
    let none = if status.phase == Phase::Pending { "  none: a job that waits holds nothing\n" } else { "  none\n" };
    section(&mut text, "Workers", &if workers.is_empty() { none.to_owned() } else { workers.to_string() });
    for worker in &status.workers {
        if let Some(result) = &worker.result {
            outcome(&mut text, worker, result);
        }
    }
    if !status.conditions.is_empty() {
        let mut table = Table::new(&["CONDITION", "STATUS", "SINCE", "REASON", "MESSAGE"]);
        for c in &status.conditions {
            let since = since(c.last_transition_time.0, now);
            table.row(vec![c.type_.clone(), c.status.clone(), since, c.reason.clone(), c.message.clone()]);
        }
        section(&mut text, "Conditions", &table.to_string());
    }
    section(&mut text, "Events", &events(&view.events, now));
    text
}

fn section(text: &mut String, title: &str, body: &str) {
    let _ = write!(text, "\n{title}\n{body}");
}

/// What was asked for, in a line, and where it stands, in another.
fn asks_for(text: &mut String, view: &JobView) {
    let spec = &view.job.spec;
    let groups: Vec<_> = spec
        .groups
        .iter()
        .map(|group| {
            let plural = |n: u32| if n == 1 { "" } else { "s" };
            let at_least = group.min_replicas.map_or_else(String::new, |least| format!(" (at least {least})"));
            format!(
                "{} worker{}{at_least} × {} GPU{} as {:?}",
                group.replicas,
                plural(group.replicas),
                group.gpus,
                plural(group.gpus),
                group.name
            )
        })
        .collect();
    let _ = write!(text, "  asks for  {}", groups.join(" and "));
    if let Some(topology) = &spec.topology {
        if let Some(level) = &topology.required {
            let _ = write!(text, ", all in one {level}");
        }
        if let Some(level) = &topology.preferred {
            let _ = write!(text, ", in one {level} if there is room");
        }
    }
    text.push('\n');
    if let Some(status) = &view.job.status {
        if let Some(placement) = &status.placement {
            let _ = writeln!(text, "  placed on {placement}");
        }
        let again = [
            (status.restarts, "after a failure of their own"),
            (status.replacements, "after the loss of a GPU, node or pod"),
        ];
        let again: Vec<_> =
            again.iter().filter(|(times, _)| *times > 0).map(|(times, why)| format!("{times} × {why}")).collect();
        if !again.is_empty() {
            let _ = writeln!(text, "  workers were started again: {}", again.join(", "));
        }
    }
}

fn workers(status: &GpuJobStatus, view: &JobView) -> Table {
    // Indices are what people know from nvidia-smi; UUIDs are what the status holds.
    let index: BTreeMap<&str, u32> = view
        .gpu_nodes
        .iter()
        .filter_map(|node| node.status.as_ref())
        .flat_map(|status| status.gpus.iter().map(|gpu| (gpu.uuid.as_str(), gpu.index)))
        .collect();
    let mut table = Table::new(&["RANK", "POD", "PHASE", "NODE", "GPUS", "STARTED", "MESSAGE"]);
    for worker in &status.workers {
        table.row(vec![
            worker.rank.to_string(),
            worker.pod.clone(),
            format!("{:?}", worker.phase),
            worker.node.clone().unwrap_or_default(),
            gpus(worker, &index),
            match worker.attempt {
                0 => String::new(),
                1 => "2 times".to_owned(),
                n => format!("{} times", n + 1),
            },
            worker.message.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// What the worker got; what is planned while it has got nothing yet; both where they differ.
fn gpus(worker: &WorkerStatus, index: &BTreeMap<&str, u32>) -> String {
    let short =
        |uuids: &[String]| match uuids.iter().map(|uuid| index.get(uuid.as_str()).copied()).collect::<Option<Vec<_>>>()
        {
            Some(known) => indices(known),
            None => uuids.join(","),
        };
    let sorted = |uuids: &[String]| {
        let mut uuids = uuids.to_vec();
        uuids.sort_unstable();
        uuids
    };
    match (worker.planned_gpus.is_empty(), worker.allocated_gpus.is_empty()) {
        (true, true) => String::new(),
        (false, true) => format!("{} (planned)", short(&worker.planned_gpus)),
        (false, false) if sorted(&worker.planned_gpus) != sorted(&worker.allocated_gpus) => {
            format!("{} (planned: {})", short(&worker.allocated_gpus), short(&worker.planned_gpus))
        }
        (_, false) => short(&worker.allocated_gpus),
    }
}

/// What a program reported: its steps with times and rates, and its checks.
fn outcome(text: &mut String, worker: &WorkerStatus, result: &serde_json::Map<String, Value>) {
    let word = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let list = |key: &str| result.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut table = Table::new(&["STEP", "KIND", "TIME", "RATE OR MESSAGE"]);
    for step in list("steps") {
        let time = step.get("seconds").and_then(Value::as_f64).map_or_else(String::new, duration);
        let rate = step.get("rate").filter(|rate| rate.is_object()).map_or_else(String::new, |rate| {
            format!("{:.1} {}", rate.get("value").and_then(Value::as_f64).unwrap_or_default(), word(rate, "unit"))
        });
        table.row(vec![word(&step, "name"), word(&step, "kind"), time, rate]);
    }
    for check in list("checks") {
        let good = check.get("ok").and_then(Value::as_bool).unwrap_or(false);
        let verdict = if good { "check: ok" } else { "check: FAILED" };
        table.row(vec![word(&check, "name"), verdict.to_owned(), String::new(), word(&check, "message")]);
    }
    let error = result.get("error").and_then(Value::as_str);
    let mut body = error.map_or_else(String::new, |error| format!("  error: {error}\n"));
    if !table.is_empty() {
        body += &table.to_string();
    }
    if !body.is_empty() {
        section(text, &format!("What {} did", worker.pod), &body);
    }
}

/// Seconds in the unit that leaves a readable number.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.1} s"),
    }
}

/// When an event was last seen: three fields, by the API that wrote it.
pub fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let made = event.event_time.as_ref().map(|time| time.0);
    series.max(last).or(made).or_else(|| event.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

fn events(events: &[Event], now: Timestamp) -> String {
    if events.is_empty() {
        return "  none (Kubernetes keeps events for an hour)\n".to_owned();
    }
    let mut table = Table::new(&["AGE", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
    for event in events.iter().skip(events.len().saturating_sub(EVENTS)) {
        let object = &event.involved_object;
        let times = event.series.as_ref().and_then(|series| series.count).or(event.count).filter(|&n| n > 1);
        let message = event.message.as_deref().or(event.reason.as_deref()).unwrap_or_default().trim().to_owned();
        table.row(vec![
            last_seen(event).map_or_else(String::new, |then| since(then, now)),
            event.type_.clone().unwrap_or_default(),
            event.reason.clone().unwrap_or_default(),
            format!("{}/{}", object.kind.as_deref().unwrap_or_default(), object.name.as_deref().unwrap_or_default()),
            times.map_or_else(|| message.clone(), |n| format!("{message} ({n} times)")),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests;
