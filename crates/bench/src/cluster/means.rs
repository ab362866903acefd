//! The same scenario over several weeks, each of its own seed: the means, and whether Weft and best fit differ by more than
//! weeks do.

use super::Scenario;
use super::report::{counted, duration};
use super::tally::{Outcome, Span, Waits};

/// A column: its heading, the value of a week (none if nothing in it has one), and how a value reads.
type Column = (&'static str, fn(&Outcome) -> Option<f64>, fn(f64) -> String);

const COLUMNS: [Column; 13] = [
    ("GPUs in use", |o| Some(o.utilisation * 100.0), |v| format!("{v:.2} %")),
    ("lost to fragmentation", |o| Some(o.lost_gpu_hours), |v| format!("{v:.0} GPU-h")),
    ("racks a gang of 9-64", |o| mean(o.racks[3]), |v| format!("{v:.2}")),
    ("racks a gang of 65+", |o| mean(o.racks[4]), |v| format!("{v:.2}")),
    ("NVLink domains an NVL72 gang", |o| mean(o.nvlink_domains), |v| format!("{v:.2}")),
    ("jobs with full NVLink", |o| Some(o.jobs_with_full_nvlink * 100.0), |v| format!("{v:.2} %")),
    ("wait for 8, 95th", |o| wait(&o.waits[2], 95), time),
    ("wait for 9-64, 95th", |o| wait(&o.waits[3], 95), time),
    ("wait for 65+, median", |o| wait(&o.waits[4], 50), time),
    ("wait for 65+, 95th", |o| wait(&o.waits[4], 95), time),
    ("wait for an NVL72 gang, median", |o| wait(&o.nvl72_waits, 50), time),
    ("wait for an NVL72 gang, 95th", |o| wait(&o.nvl72_waits, 95), time),
    ("left waiting", |o| Some(o.left_waiting as f64), |v| format!("{v:.0}")),
];

fn mean(span: Span) -> Option<f64> {
    (span.gangs > 0).then(|| span.mean())
}

fn wait(waits: &Waits, percent: usize) -> Option<f64> {
    (!waits.seconds.is_empty()).then(|| waits.percentile(percent) as f64)
}

fn time(seconds: f64) -> String {
    duration(seconds.round() as u64)
}

/// The values of one strategy, by column and week.
struct Row {
    strategy: &'static str,
    columns: [Vec<Option<f64>>; COLUMNS.len()],
}

/// What is kept of the weeks.
#[derive(Default)]
pub struct Means {
    heading: String,
    seeds: Vec<u64>,
    rows: Vec<Row>,
}

impl Means {
    pub fn add(&mut self, week: &Scenario) {
        let (nodes, gpus) = (counted(week.nodes as u64, "node"), counted(week.gpus.into(), "GPU"));
        self.heading = format!("{nodes}, {gpus}, {} ({}; load {})", counted(week.days, "day"), week.about, week.load);
        self.seeds.push(week.seed);
        for outcome in &week.outcomes {
            let known = self.rows.iter().position(|row| row.strategy == outcome.strategy);
            let at = known.unwrap_or_else(|| {
                self.rows.push(Row { strategy: outcome.strategy, columns: Default::default() });
                self.rows.len() - 1
            });
            for (values, (_, value, _)) in self.rows[at].columns.iter_mut().zip(COLUMNS) {
                values.push(value(outcome));
            }
        }
    }

    /// A table of a Markdown page.
    pub fn markdown(&self) -> String {
        let seeds = match (self.seeds.first(), self.seeds.last()) {
            (Some(first), Some(last)) if first != last => format!("mean of seeds {first} to {last}"),
            (Some(only), _) => format!("seed {only}"),
            _ => "no seeds".to_owned(),
        };
        let mut text = format!("**{}: {seeds}**\n\n", self.heading);
        let line = |name: &str, cells: Vec<String>| format!("| {name} | {} |\n", cells.join(" | "));
        text += &line("strategy", COLUMNS.map(|(heading, ..)| heading.to_owned()).into());
        text += &format!("|---|{}\n", "---|".repeat(COLUMNS.len()));
        for row in &self.rows {
            let cells =
                row.columns.iter().zip(COLUMNS).map(|(values, (.., show))| average(values).map_or("-".into(), show));
            text += &line(row.strategy, cells.collect());
        }
        if let [weft, other, ..] = self.rows.as_slice() {
            let pairs: Vec<Paired> = weft.columns.iter().zip(&other.columns).map(|(a, b)| Paired::of(a, b)).collect();
            let t = pairs.iter().map(|pair| pair.t.map_or("-".to_owned(), |t| format!("{t:.1}")));
            text += &line(&format!("t of {} − {}", weft.strategy, other.strategy), t.collect());
            let weeks = pairs.iter().map(|pair| format!("{} / {}", pair.above, pair.below));
            text += &line(&format!("weeks {} is above / below", weft.strategy), weeks.collect());
        }
        text
    }
}

/// Of the weeks that have a value.
fn average(values: &[Option<f64>]) -> Option<f64> {
    let known: Vec<f64> = values.iter().flatten().copied().collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

/// Two strategies on the same weeks.
#[derive(Debug, PartialEq)]
struct Paired {
    /// The mean of the differences over its standard error: beyond ±2.26 it is chance once in twenty sets of ten weeks. None
    /// for less than two weeks, and where all differences are equal.
    t: Option<f64>,
    /// Weeks in which the first is above and below the second.
    above: usize,
    below: usize,
}

impl Paired {
    fn of(first: &[Option<f64>], second: &[Option<f64>]) -> Self {
        let differences: Vec<f64> = first.iter().zip(second).filter_map(|(a, b)| Some((*a)? - (*b)?)).collect();
        let count = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / count;
        let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let t = (count > 1.0 && variance > 0.0).then(|| mean / (variance / count).sqrt());
        let weeks = |is: fn(f64) -> bool| differences.iter().filter(|d| is(**d)).count();
        Self { t, above: weeks(|d| d > 0.0), below: weeks(|d| d < 0.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::simulation::Window;
    use crate::cluster::tally::Tally;

    fn week(seed: u64, in_use: [f64; 2]) -> Scenario {
        let outcome = |strategy, utilisation| {
            let tally = Tally::new(strategy, &[], Window { from_seconds: 0, to_seconds: 1 });
            Outcome { utilisation, ..tally.finish() }
        };
        let outcomes = vec![outcome("Weft", in_use[0]), outcome("best fit", in_use[1])];
        let (jobs, about) = ("x".to_owned(), "x".to_owned());
        Scenario { nodes: 1, gpus: 8, jobs, about, count: 1, faults: 0, load: 0.9, days: 1, seed, outcomes }
    }

    #[test]
    fn a_table_has_a_row_for_each_strategy_and_says_how_sure_the_difference_of_the_first_two_is() {
        let mut means = Means::default();
        means.add(&week(3, [0.5, 0.4]));
        means.add(&week(4, [0.7, 0.4]));
        let text = means.markdown();
        assert!(text.starts_with("**1 node, 8 GPUs, 1 day (x; load 0.9): mean of seeds 3 to 4**"), "{text}");
        // No gang, so no racks; differences of 10 and 30 %.
        assert!(text.contains("| Weft | 60.00 % | 0 GPU-h | - |"), "{text}");
        assert!(text.contains("| best fit | 40.00 % | 0 GPU-h | - |"), "{text}");
        assert!(text.contains("| t of Weft − best fit | 2.0 | - | - |"), "{text}");
        assert!(text.contains("| weeks Weft is above / below | 2 / 0 | 0 / 0 |"), "{text}");
    }

    #[test]
    fn the_t_of_paired_weeks_is_that_of_their_differences() {
        // Differences 1, 2, 3: mean 2, standard error 1/√3.
        let some = |values: [f64; 3]| values.map(Some);
        let paired = Paired::of(&some([11.0, 22.0, 33.0]), &some([10.0, 20.0, 30.0]));
        assert!((paired.t.unwrap() - 2.0 * 3f64.sqrt()).abs() < 1e-12, "{paired:?}");
        assert_eq!((paired.above, paired.below), (3, 0));
    }

    #[test]
    fn weeks_that_have_no_value_are_left_out_and_equal_ones_say_nothing() {
        assert_eq!(average(&[Some(1.0), None, Some(4.0)]), Some(2.5));
        assert_eq!(average(&[None]), None);
        let paired = Paired::of(&[Some(3.0), None, Some(3.0)], &[Some(4.0), Some(1.0), Some(4.0)]);
        assert_eq!(paired, Paired { t: None, above: 0, below: 2 });
        assert_eq!(Paired::of(&[Some(1.0)], &[Some(2.0)]).t, None);
    }
}
