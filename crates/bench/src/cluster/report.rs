//! The outcome of a scenario as tables and as lines.

use super::Scenario;
use super::tally::{CLASSES, Outcome, Waits};
use crate::measure::{Against, Line};

/// A column: its heading, and the cell of a strategy.
type Column = (String, Box<dyn Fn(&Outcome) -> String>);

/// What placement is about.
fn quality() -> Vec<Column> {
    let mut columns: Vec<Column> = vec![
        ("GPUs in use".into(), Box::new(|o| format!("{:.2} %", o.utilisation * 100.0))),
        ("lost to fragmentation".into(), Box::new(|o| format!("{:.0} GPU-h", o.lost_gpu_hours))),
    ];
    for (n, (name, _)) in CLASSES.iter().enumerate().skip(3) {
        let heading = format!("racks a gang of {name}");
        columns.push((heading, Box::new(move |o| mean(o.racks[n].gangs, o.racks[n].mean()))));
    }
    columns.push((
        "NVLink domains an NVL72 gang".into(),
        Box::new(|o| mean(o.nvlink_domains.gangs, o.nvlink_domains.mean())),
    ));
    columns.push(("jobs with full NVLink".into(), Box::new(|o| format!("{:.2} %", o.jobs_with_full_nvlink * 100.0))));
    columns
        .push(("replaced at once".into(), Box::new(|o| format!("{} of {}", o.replaced, o.replaced + o.interrupted))));
    columns
}

/// How long jobs waited, and what deciding cost.
fn waiting() -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    for (n, (name, _)) in CLASSES.iter().enumerate() {
        columns.push((format!("wait for {name}"), Box::new(move |o| median_and_95th(&o.waits[n]))));
    }
    columns.push(("wait for an NVL72 gang".into(), Box::new(|o| median_and_95th(&o.nvl72_waits))));
    columns.push(("started".into(), Box::new(|o| o.started.to_string())));
    columns.push(("left waiting".into(), Box::new(|o| o.left_waiting.to_string())));
    columns.push((
        "decisions".into(),
        Box::new(|o| {
            format!(
                "{}: {:.1} s, p50 {:.0} µs, p99 {:.0} µs",
                o.decisions, o.total_seconds, o.time.p50_us, o.time.p99_us
            )
        }),
    ));
    columns
}

fn mean(count: u64, mean: f64) -> String {
    if count == 0 { "-".to_owned() } else { format!("{mean:.2}") }
}

fn median_and_95th(waits: &Waits) -> String {
    if waits.seconds.is_empty() {
        return "-".to_owned();
    }
    format!("{} / {}", duration(waits.percentile(50)), duration(waits.percentile(95)))
}

/// So many of them, for people: `1 day`, `7 days`.
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Seconds for people.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        _ => format!("{:.1} h", seconds as f64 / 3_600.0),
    }
}

fn heading(s: &Scenario) -> String {
    let (nodes, gpus) = (counted(s.nodes as u64, "node"), counted(s.gpus.into(), "GPU"));
    let (days, jobs) = (counted(s.days, "day"), counted(s.count as u64, "job"));
    let failures = counted(s.faults as u64, "failure");
    format!("{nodes}, {gpus}, {days}, {jobs} ({}; load {}, seed {}), {failures}", s.about, s.load, s.seed)
}

/// Tables of a Markdown page.
pub fn markdown(scenario: &Scenario) -> String {
    let mut text = format!("**{}**\n", heading(scenario));
    for columns in [quality(), waiting()] {
        let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let names = columns.iter().map(|(name, _)| name.clone());
        text.push('\n');
        text.push_str(&row(std::iter::once("strategy".to_owned()).chain(names).collect()));
        text.push_str(&format!("|---|{}\n", "---|".repeat(columns.len())));
        for outcome in &scenario.outcomes {
            let cells = columns.iter().map(|(_, cell)| cell(outcome));
            text.push_str(&row(std::iter::once(outcome.strategy.to_owned()).chain(cells).collect()));
        }
    }
    text
}

/// The same for a terminal: a block for each strategy.
pub fn text(scenario: &Scenario) -> String {
    let mut text = format!("{}\n", heading(scenario));
    for outcome in &scenario.outcomes {
        text.push_str(&format!("  {}\n", outcome.strategy));
        for (name, cell) in quality().iter().chain(&waiting()) {
            text.push_str(&format!("    {name:<30} {}\n", cell(outcome)));
        }
    }
    text
}

/// One line a strategy: Weft against best fit by counts, the others against Weft, by the GPU-hours lost to fragmentation.
pub fn lines(scenario: &Scenario) -> Vec<Line<'_>> {
    let other = |n: usize| scenario.outcomes.get(usize::from(n == 0));
    let line = |(n, o): (usize, &Outcome)| {
        let mut extra = vec![
            ("gpus_in_use", o.utilisation),
            ("gpu_hours_lost_to_fragmentation", o.lost_gpu_hours),
            ("nvlink_domains_by_nvl72_gang", o.nvlink_domains.mean()),
            ("share_of_jobs_with_full_nvlink", o.jobs_with_full_nvlink),
            ("jobs_started", o.started as f64),
            ("jobs_left_waiting", o.left_waiting as f64),
            ("workers_replaced_at_once", o.replaced as f64),
            ("jobs_interrupted", o.interrupted as f64),
            ("decisions", o.decisions as f64),
            ("decisions_total_seconds", o.total_seconds),
        ];
        for (n, names) in WAIT_FIELDS.iter().enumerate() {
            extra.push((names.0, o.waits[n].percentile(50) as f64));
            extra.push((names.1, o.waits[n].percentile(95) as f64));
        }
        extra.push(("wait_p50_seconds_nvl72_gang", o.nvl72_waits.percentile(50) as f64));
        extra.push(("wait_p95_seconds_nvl72_gang", o.nvl72_waits.percentile(95) as f64));
        extra.push(("racks_by_gang_of_9_64_gpus", o.racks[3].mean()));
        extra.push(("racks_by_gang_of_65_gpus_or_more", o.racks[4].mean()));
        let theirs = other(n).filter(|other| other.strategy != o.strategy).map(|other| Against {
            measured: other.time,
            objective: (o.lost_gpu_hours > 0.0).then(|| other.lost_gpu_hours / o.lost_gpu_hours),
        });
        Line {
            bench: "cluster",
            case: format!(
                "nodes={},jobs={},seed={},strategy={}",
                scenario.nodes, scenario.jobs, scenario.seed, o.strategy
            ),
            ours: o.time,
            against: if theirs.is_some() { AGAINST[usize::from(n == 0)] } else { "nothing" },
            theirs,
            extra,
        }
    };
    scenario.outcomes.iter().enumerate().map(line).collect()
}

/// Who is compared with the others, and with Weft; and by what.
const AGAINST: [&str; 2] =
    ["Weft; GPU-hours lost to fragmentation", "best fit by counts; GPU-hours lost to fragmentation"];

/// Fields of median and 95th percentile, by class.
const WAIT_FIELDS: [(&str, &str); CLASSES.len()] = [
    ("wait_p50_seconds_1_gpu", "wait_p95_seconds_1_gpu"),
    ("wait_p50_seconds_2_7_gpus", "wait_p95_seconds_2_7_gpus"),
    ("wait_p50_seconds_8_gpus", "wait_p95_seconds_8_gpus"),
    ("wait_p50_seconds_9_64_gpus", "wait_p95_seconds_9_64_gpus"),
    ("wait_p50_seconds_65_gpus_or_more", "wait_p95_seconds_65_gpus_or_more"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::simulation::Window;
    use crate::cluster::tally::Tally;

    fn scenario(lost: [f64; 2]) -> Scenario {
        let outcome = |strategy, lost_gpu_hours| {
            let tally = Tally::new(strategy, &[], Window { from_seconds: 0, to_seconds: 1 });
            Outcome { lost_gpu_hours, ..tally.finish() }
        };
        let outcomes = vec![outcome("Weft", lost[0]), outcome("best fit by counts", lost[1])];
        let (jobs, about) = ("x".to_owned(), "one week".to_owned());
        Scenario { nodes: 1, gpus: 8, jobs, about, count: 1, faults: 1, load: 0.9, days: 1, seed: 1, outcomes }
    }

    #[test]
    fn a_line_says_who_is_compared_and_by_which_objective() {
        let scenario = scenario([200.0, 100.0]);
        let lines = lines(&scenario);
        assert_eq!(lines[0].against, "best fit by counts; GPU-hours lost to fragmentation");
        assert_eq!(lines[0].theirs.unwrap().objective, Some(0.5));
        assert_eq!(lines[1].against, "Weft; GPU-hours lost to fragmentation");
        assert_eq!(lines[1].theirs.unwrap().objective, Some(2.0));
        // A share of nothing is no ratio.
        assert_eq!(super::lines(&self::scenario([0.0, 100.0]))[0].theirs.unwrap().objective, None);
    }

    #[test]
    fn one_of_a_kind_is_not_told_as_several() {
        assert_eq!(
            heading(&scenario([0.0; 2])),
            "1 node, 8 GPUs, 1 day, 1 job (one week; load 0.9, seed 1), 1 failure"
        );
    }
}
