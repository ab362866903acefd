//! What was measured, for people and as the lines that all benchmarks print.

use std::{collections::BTreeMap, time::Instant};

use serde_json::{Map, Value, json};

/// How long it took until many things ran.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    /// From the first creation until the last ran.
    pub seconds: f64,
    /// Of one of them, from its own creation.
    pub p50_seconds: f64,
    pub p99_seconds: f64,
}

impl Times {
    /// `begun` and `ran` name the same things, of which there is at least one.
    pub fn new(begun: &BTreeMap<String, Instant>, ran: &BTreeMap<String, Instant>) -> Self {
        let seconds = |from: Option<&Instant>, to: Option<&Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(*from).as_secs_f64(),
            _ => 0.0,
        };
        let mut each: Vec<f64> = ran.iter().map(|(name, at)| seconds(begun.get(name), Some(at))).collect();
        each.sort_by(f64::total_cmp);
        let percentile = |percent: usize| {
            let rank = (each.len() * percent).div_ceil(100).max(1);
            each.get(rank - 1).copied().unwrap_or_default()
        };
        let whole = seconds(begun.values().min(), ran.values().max());
        Self { seconds: whole, p50_seconds: percentile(50), p99_seconds: percentile(99) }
    }
}

/// A busy machine shows in the first decimal already.
pub fn thousandths(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

/// One case.
pub struct Line {
    pub case: String,
    pub times: Option<Times>,
    /// Who is compared, and how long it took there.
    pub against: Option<(&'static str, Times)>,
    /// What only this case has; times are in seconds.
    pub extra: Map<String, Value>,
}

impl Line {
    fn ratio(&self) -> Option<f64> {
        let (_, theirs) = self.against?;
        Some(theirs.seconds / self.times?.seconds)
    }

    pub fn json(&self) -> Value {
        let us = |seconds: fn(&Times) -> f64| self.times.as_ref().map(|times| (seconds(times) * 1e6).round());
        let mut line = json!({
            "bench": "scale", "case": self.case, "p50_us": us(|t| t.p50_seconds), "p99_us": us(|t| t.p99_seconds),
            "allocations": null, "against": self.against.map(|(who, _)| who), "ratio_time": self.ratio().map(thousandths),
            "ratio_objective": null, "seconds": self.times.map(|times| thousandths(times.seconds)),
        });
        if let Value::Object(line) = &mut line {
            line.extend(self.extra.clone());
        }
        line
    }

    pub fn text(&self) -> String {
        let mut text = format!("{:<36}", self.case);
        if let Some(Times { seconds, p50_seconds, p99_seconds }) = self.times {
            text += &format!(" {seconds:>6.1} s  p50 {p50_seconds:.1} s  p99 {p99_seconds:.1} s");
        }
        if let (Some(ratio), Some((who, _))) = (self.ratio(), self.against) {
            text += &format!("  × {ratio:.2} in time ({who})");
        }
        for (name, value) in &self.extra {
            let value = match value.as_f64() {
                Some(bytes) if name.ends_with("_bytes") => format!("{:.0} MiB", bytes / f64::from(1 << 20)),
                Some(number) if value.is_f64() => format!("{number:.2}"),
                _ if value.as_object().is_some_and(Map::is_empty) => "none".to_owned(),
                _ => value.to_string().replace(['{', '}', '"'], "").replace(':', " ").replace(',', ", "),
            };
            text += &format!("\n  {}: {value}", name.replace("_bytes", "").replace('_', " "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_whole_is_counted_from_the_first_creation_and_each_from_its_own() {
        let zero = Instant::now();
        let at = |seconds: &[u64]| -> BTreeMap<String, Instant> {
            let named = seconds.iter().zip('a'..).map(|(s, name)| (name.to_string(), zero + Duration::from_secs(*s)));
            named.collect()
        };
        let times = Times::new(&at(&[1, 2, 3, 4]), &at(&[3, 5, 4, 11]));
        assert_eq!(times, Times { seconds: 10.0, p50_seconds: 2.0, p99_seconds: 7.0 });
    }

    #[test]
    fn a_line_has_the_fields_of_all_benchmarks() {
        let times = |seconds| Times { seconds, p50_seconds: 1.5, p99_seconds: 2.0 };
        let extra = Map::from_iter([("peak_bytes".to_owned(), json!(2 << 20))]);
        let line = Line { case: "jobs=4".into(), times: Some(times(4.0)), against: Some(("b", times(3.0))), extra };
        assert_eq!(
            line.json().to_string(),
            r#"{"bench":"scale","case":"jobs=4","p50_us":1500000.0,"p99_us":2000000.0,"allocations":null,"against":"b","ratio_time":0.75,"ratio_objective":null,"seconds":4.0,"peak_bytes":2097152}"#
        );
        assert!(
            line.text().ends_with("4.0 s  p50 1.5 s  p99 2.0 s  × 0.75 in time (b)\n  peak: 2 MiB"),
            "{}",
            line.text()
        );
        let alone = Line { times: None, against: None, ..line };
        assert_eq!(alone.json()["p50_us"], Value::Null);
    }
}
