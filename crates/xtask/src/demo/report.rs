//! What the demo says at its end: a table for people, one line of JSON for programs.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

/// The whole run, as `--json` prints it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// True only if every step that ran is right and none that should have run was left out.
    pub ok: bool,
    pub jobs: Vec<Job>,
    pub steps: Vec<Step>,
    /// `simulated` or `real`.
    pub driver: &'static str,
}

/// One GpuJob as it ended.
#[derive(Debug, Clone, Serialize)]
pub struct Job {
    pub name: String,
    pub phase: String,
    /// Worker by worker: rank, node, GPUs; as the job's status had it.
    pub placement: Value,
    pub checks: Vec<Check>,
    /// From `kubectl apply` to the phase above.
    pub seconds: f64,
}

/// One thing that was looked at, and what was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub name: String,
    pub ok: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// One of the story's steps a–i.
#[derive(Debug, Serialize)]
pub struct Step {
    pub name: String,
    /// `null` for a step that this cluster does not allow; `skipped` says why.
    pub ok: Option<bool>,
    pub seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

impl Report {
    pub fn new(driver: &'static str) -> Self {
        Self { ok: false, jobs: Vec::new(), steps: Vec::new(), driver }
    }

    /// Sets `ok` from what was recorded. A run without steps proves nothing and is not ok.
    pub fn conclude(&mut self) {
        self.ok = !self.steps.is_empty()
            && self.steps.iter().all(|s| s.ok != Some(false))
            && self.steps.iter().any(|s| s.ok == Some(true))
            && self.jobs.iter().all(|j| j.checks.iter().all(|c| c.ok));
    }

    pub fn print_summary(&self) {
        println!("\nSummary ({} driver)", self.driver);
        for s in &self.steps {
            let mark = match s.ok {
                Some(true) => "ok",
                Some(false) => "FAILED",
                None => "skipped",
            };
            println!("  {mark:<8}{:>6.1} s  {}", s.seconds, s.name);
            if let Some(why) = s.error.as_ref().or(s.skipped.as_ref()) {
                for line in why.lines() {
                    println!("                   {line}");
                }
            }
        }
        let (passed, all) =
            self.jobs.iter().flat_map(|j| &j.checks).fold((0, 0), |(p, n), c| (p + usize::from(c.ok), n + 1));
        println!("  {} jobs, {passed} of {all} checks passed", self.jobs.len());
    }
}

/// The checks of one job, collected as the step goes; failing ones do not hide later ones.
#[derive(Debug, Default)]
pub struct Checks(pub Vec<Check>);

impl Checks {
    /// Records whether `what` holds; `seen` is what was found and goes to the person either way.
    pub fn that(&mut self, what: &str, ok: bool, seen: impl Into<String>) {
        let message = seen.into();
        println!(
            "      {} {what}{}",
            if ok { "✓" } else { "✗" },
            if message.is_empty() { String::new() } else { format!(": {message}") }
        );
        self.0.push(Check { name: what.to_owned(), ok, message });
    }

    /// The names of the checks that failed, or nothing.
    pub fn failures(&self) -> Option<String> {
        let failed: Vec<_> = self.0.iter().filter(|c| !c.ok).map(|c| format!("{}: {}", c.name, c.message)).collect();
        (!failed.is_empty()).then(|| failed.join("\n"))
    }
}

/// Seconds with millisecond resolution, as the report prints them.
pub fn seconds(d: Duration) -> f64 {
    (d.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(ok: Option<bool>) -> Step {
        Step { name: "s".into(), ok, seconds: 0.0, error: None, skipped: None }
    }

    #[test]
    fn a_run_is_ok_only_if_every_step_and_check_is() {
        let mut r = Report::new("simulated");
        r.conclude();
        assert!(!r.ok, "no step proves nothing");
        r.steps = vec![step(Some(true)), step(None)];
        r.conclude();
        assert!(r.ok, "a step that this cluster does not allow is not a failure");
        let check = Check { name: "c".into(), ok: false, message: String::new() };
        r.jobs.push(Job {
            name: "j".into(),
            phase: "Succeeded".into(),
            placement: Value::Null,
            checks: vec![check],
            seconds: 0.0,
        });
        r.conclude();
        assert!(!r.ok, "a failed check");
        r.jobs.clear();
        r.steps.push(step(Some(false)));
        r.conclude();
        assert!(!r.ok, "a failed step");
    }
}
