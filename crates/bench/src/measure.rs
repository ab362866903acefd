//! Measuring a decision, and the line that says what was measured.

use std::hint::black_box;
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::counting;

/// Median, 99th percentile and allocations of a decision.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    pub p50_us: f64,
    pub p99_us: f64,
    /// Per decision.
    pub allocations: u64,
}

impl Measured {
    /// Of single times in microseconds, in any order, and the allocations of all of them.
    pub fn of(mut times_us: Vec<f64>, allocations: u64) -> Self {
        let count = times_us.len();
        if count == 0 {
            return Self::default();
        }
        times_us.sort_by(f64::total_cmp);
        Self {
            p50_us: times_us[count / 2],
            p99_us: times_us[count * 99 / 100],
            allocations: allocations / count as u64,
        }
    }
}

/// Single times of a decision, on one input or on several.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    times_us: Vec<f64>,
    allocations: u64,
}

impl Samples {
    pub fn new(times_us: Vec<f64>, allocations: u64) -> Self {
        Self { times_us, allocations }
    }

    pub fn append(&mut self, mut other: Self) {
        self.times_us.append(&mut other.times_us);
        self.allocations += other.allocations;
    }

    pub fn measured(self) -> Measured {
        Measured::of(self.times_us, self.allocations)
    }
}

/// Measures `decision`, after a tenth of the repeats to warm up.
pub fn measure<T>(repeats: usize, decision: impl FnMut() -> T) -> Measured {
    sample(repeats, decision).measured()
}

/// The single times of `decision`, after a tenth of the repeats to warm up.
pub fn sample<T>(repeats: usize, mut decision: impl FnMut() -> T) -> Samples {
    for _ in 0..repeats / 10 + 1 {
        black_box(decision());
    }
    let mut times = Vec::with_capacity(repeats);
    let before = counting::allocations();
    for _ in 0..repeats {
        let start = Instant::now();
        let answer = black_box(decision());
        times.push(start.elapsed().as_nanos() as f64 / 1_000.0);
        // Freeing the answer is not part of deciding.
        drop(answer);
    }
    Samples::new(times, counting::allocations() - before)
}

/// How the other did on the same input.
#[derive(Clone, Copy, Debug)]
pub struct Against {
    pub measured: Measured,
    /// Theirs over ours; above 1 ours is better. None where there is nothing to compare.
    pub objective: Option<f64>,
}

/// What was measured. All benchmarks of the project print this: `bench`, `case`, `p50_us`, `p99_us`, `allocations` (per
/// decision), `against`, `ratio_time` (theirs over ours: above 1 ours is faster), `ratio_objective` (theirs over ours:
/// above 1 ours is better), and after it what only some cases have.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    pub bench: &'a str,
    pub case: String,
    pub ours: Measured,
    /// Who the other is, or why there is none.
    pub against: &'a str,
    pub theirs: Option<Against>,
    /// What only this case has, such as `bytes_per_node`.
    pub extra: Vec<(&'a str, f64)>,
}

/// Prints lines, for people or as JSON.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    pub json: bool,
}

impl Printer {
    pub fn line(self, line: &Line<'_>) {
        println!("{}", if self.json { line.json().to_string() } else { line.text() });
    }
}

impl Line<'_> {
    fn ratios(&self) -> (Option<f64>, Option<f64>) {
        let time = self.theirs.map(|theirs| theirs.measured.p50_us / self.ours.p50_us);
        (time, self.theirs.and_then(|theirs| theirs.objective))
    }

    fn json(&self) -> Value {
        let (time, objective) = self.ratios();
        let line = json!({
            "bench": self.bench, "case": self.case, "p50_us": self.ours.p50_us, "p99_us": self.ours.p99_us,
            "allocations": self.ours.allocations, "against": self.against, "ratio_time": time,
            "ratio_objective": objective,
        });
        let mut line = match line {
            Value::Object(line) => line,
            _ => Map::new(),
        };
        line.extend(self.extra.iter().map(|&(name, value)| (name.to_owned(), json!(value))));
        Value::Object(line)
    }

    fn text(&self) -> String {
        let (time, objective) = self.ratios();
        let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let mut text = format!(
            "{:<9} {:<42} p50 {:>9.2} µs  p99 {:>9.2} µs  {:>6} allocations  × {:>8} in time, × {} in objective ({})",
            self.bench,
            self.case,
            self.ours.p50_us,
            self.ours.p99_us,
            self.ours.allocations,
            ratio(time),
            ratio(objective),
            self.against,
        );
        for (name, value) in &self.extra {
            text.push_str(&format!("; {} {value:.2}", name.replace('_', " ")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line<'static> {
        let measured = |p50_us| Measured { p50_us, p99_us: 2.0 * p50_us, allocations: 3 };
        Line {
            bench: "place",
            case: "gang=8x8,nodes=5000,fill=0.8".to_owned(),
            ours: measured(10.0),
            against: "best fit",
            theirs: Some(Against { measured: measured(25.0), objective: Some(1.5) }),
            extra: vec![("decisions_per_second", 100_000.0)],
        }
    }

    #[test]
    fn a_line_has_the_fields_that_all_benchmarks_share_and_then_its_own() {
        assert_eq!(
            line().json().to_string(),
            r#"{"bench":"place","case":"gang=8x8,nodes=5000,fill=0.8","p50_us":10.0,"p99_us":20.0,"allocations":3,"against":"best fit","ratio_time":2.5,"ratio_objective":1.5,"decisions_per_second":100000.0}"#
        );
    }

    #[test]
    fn ratios_are_null_where_nothing_is_compared() {
        let alone = Line { theirs: None, extra: Vec::new(), ..line() };
        assert_eq!(alone.json()["ratio_time"], Value::Null);
        assert_eq!(alone.json()["ratio_objective"], Value::Null);
    }

    #[test]
    fn median_and_percentile_are_those_of_the_sorted_times() {
        let measured = Measured::of((0..200).rev().map(f64::from).collect(), 400);
        assert_eq!((measured.p50_us, measured.p99_us, measured.allocations), (100.0, 198.0, 2));
    }
}
