//! What a program's run says, for `--json`, `/dev/termination-log` and people.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

/// What kubelet keeps of a termination message (Kubernetes: "Customizing the termination message").
pub const TERMINATION_LOG_BYTES: usize = 4096;

/// The outcome of a run. The field names are an interface: `docs/contracts.md`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Whether every step ran and every check held.
    pub ok: bool,
    /// Why not, in a sentence.
    pub error: Option<String>,
    /// UUIDs of the GPUs that the program could use.
    pub gpus: Vec<String>,
    /// What the person ought to know about the run, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The steps that ran, in order, without checks.
    pub steps: Vec<StepReport>,
    /// The checks, in order.
    pub checks: Vec<CheckReport>,
    /// Arrays at the end.
    pub saved: Vec<SavedReport>,
    /// Set when parts were left out to fit into a termination message.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// A step that ran.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// Its name.
    pub name: String,
    /// The word of its YAML field.
    pub kind: &'static str,
    /// Time on the GPU.
    pub seconds: f64,
    /// Work done in that time, where it can be counted.
    pub rate: Option<Rate>,
}

/// Work in time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// How much.
    pub value: f64,
    /// `GFLOP/s` or `GB/s`.
    pub unit: String,
}

impl Rate {
    /// `amount` of `unit` (`FLOP/s`, `B/s`) in `seconds`, in thousand millions. None if the clock did not move.
    pub fn of(amount: f64, seconds: f64, unit: &str) -> Option<Self> {
        (seconds > 0.0).then(|| Self { value: round(amount / seconds / 1e9), unit: format!("G{unit}") })
    }
}

/// A check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckReport {
    /// Its name.
    pub name: String,
    /// Whether it held.
    pub ok: bool,
    /// By how much, or where not.
    pub message: String,
}

/// An array at the end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SavedReport {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Of its little-endian, row-major bytes.
    pub sha256: String,
    /// Its first values.
    pub head: Vec<Value>,
}

impl Report {
    /// A run that did not begin.
    pub fn failed(error: impl Into<String>) -> Self {
        let mut report = Self::default();
        report.fail(error.into());
        report
    }

    /// Notes what ended the run. The first reason stays.
    pub fn fail(&mut self, error: String) {
        self.error.get_or_insert(error);
    }

    /// Notes a check. One that does not hold fails the run, which goes on.
    pub fn check(&mut self, check: CheckReport) {
        if !check.ok {
            self.fail(format!("{:?} does not hold: {}", check.name, check.message));
        }
        self.checks.push(check);
    }

    /// Settles `ok`, rounds times, and names the GPUs.
    pub fn finish(mut self, gpus: Vec<String>) -> Self {
        self.ok = self.error.is_none();
        if let [first, _, ..] = gpus.as_slice() {
            self.note = Some(format!(
                "a program runs on one GPU: this one had {} and used the first ({first}); ask for 1 GPU a worker",
                gpus.len()
            ));
        }
        self.gpus = gpus;
        for step in &mut self.steps {
            step.seconds = round(step.seconds);
        }
        self
    }

    /// One line of JSON of at most `limit` bytes. What a person needs least goes first: values of arrays, then steps and
    /// checks that went well, then the ends of long sentences.
    pub fn to_json(&self, limit: usize) -> String {
        let whole = encode(self);
        if whole.len() <= limit {
            return whole;
        }
        let mut short = Self { truncated: true, ..self.clone() };
        let shrink: [&dyn Fn(&mut Self); 6] = [
            &|report| report.saved.iter_mut().for_each(|saved| saved.head.truncate(2)),
            &|report| {
                report.checks.iter_mut().filter(|check| check.ok).for_each(|check| check.message.clear());
            },
            &|report| report.saved.truncate(8),
            &|report| {
                report.steps.truncate(16);
                report.checks.retain(|check| !check.ok);
            },
            &|report| {
                report.error.iter_mut().for_each(|error| cut(error, 1000));
                report.checks.iter_mut().for_each(|check| cut(&mut check.message, 120));
                report.checks.truncate(4);
            },
            &|report| {
                report.steps.clear();
                report.saved.clear();
                report.checks.clear();
                report.gpus.truncate(16);
                report.error.iter_mut().for_each(|error| cut(error, 400));
            },
        ];
        for shrink in shrink {
            shrink(&mut short);
            let text = encode(&short);
            if text.len() <= limit {
                return text;
            }
        }
        encode(&short)
    }

    /// A few lines for a terminal.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for step in &self.steps {
            let rate = step.rate.as_ref().map(|rate| format!("  {:.1} {}", rate.value, rate.unit)).unwrap_or_default();
            // Writing to a String does not fail.
            let _ = writeln!(text, "{:<8} {:<24} {:>10.1} µs{rate}", step.kind, step.name, step.seconds * 1e6);
        }
        for check in &self.checks {
            let mark = if check.ok { "✓" } else { "✗" };
            let _ = writeln!(text, "{mark} {}: {}", check.name, check.message);
        }
        for saved in &self.saved {
            let head: Vec<String> = saved.head.iter().map(Value::to_string).collect();
            let _ = writeln!(text, "{} {:?} = {} …  sha256 {}", saved.name, saved.shape, head.join(", "), saved.sha256);
        }
        if let Some(note) = &self.note {
            let _ = writeln!(text, "note: {note}");
        }
        match &self.error {
            Some(error) => {
                let _ = writeln!(text, "failed: {error}");
            }
            None => text.push_str("ok\n"),
        }
        text
    }
}

fn encode(report: &Report) -> String {
    serde_json::to_string(report).unwrap_or_else(|error| format!("{{\"ok\":false,\"error\":\"no report: {error}\"}}"))
}

fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes.saturating_sub(3)));
        text.push('…');
    }
}

/// Six significant digits: clocks know no more, and the report has little room.
fn round(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(steps: usize, sentence: usize) -> Report {
        let mut report = Report::default();
        for i in 0..steps {
            report.steps.push(StepReport {
                name: format!("step {i}"),
                kind: "gemm",
                seconds: 1.234_567_89e-4,
                rate: Rate::of(1e9, 1e-3, "FLOP/s"),
            });
            report.check(CheckReport { name: format!("check {i}"), ok: i != 3, message: "é".repeat(sentence) });
        }
        report.finish(vec!["GPU-1".into()])
    }

    #[test]
    fn a_small_report_is_whole() {
        let text = report(1, 10).to_json(TERMINATION_LOG_BYTES);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["ok"], true);
        assert_eq!(value["error"], Value::Null);
        assert_eq!(value["steps"][0]["rate"]["unit"], "GFLOP/s");
        assert_eq!(value["steps"][0]["seconds"], 1.23457e-4);
        assert!(value.get("truncated").is_none());
    }

    #[test]
    fn a_program_on_several_gpus_says_that_it_used_the_first() {
        let several = report(1, 10).finish(vec!["GPU-1".into(), "GPU-2".into()]);
        assert!(several.note.as_ref().unwrap().contains("had 2 and used the first (GPU-1)"), "{:?}", several.note);
        assert!(several.to_text().contains("note: a program runs on one GPU"));
        assert_eq!(report(1, 10).note, None);
        assert!(!report(1, 10).to_json(TERMINATION_LOG_BYTES).contains("note"));
    }

    #[test]
    fn a_large_report_fits_and_keeps_what_failed() {
        for (steps, sentence) in [(40, 100), (250, 10), (250, 3000)] {
            let text = report(steps, sentence).to_json(TERMINATION_LOG_BYTES);
            assert!(text.len() <= TERMINATION_LOG_BYTES, "{}", text.len());
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&value["ok"], &value["truncated"]), (&Value::Bool(false), &Value::Bool(true)));
            assert!(value["error"].as_str().unwrap().contains("check 3"), "{text}");
        }
    }
}
