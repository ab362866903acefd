//! A scenario as a picture: four panels, written as SVG by hand, since lines, bars and text are all there is to it.

use std::fmt::Write;

use super::Scenario;
use super::report::counted;
use super::tally::{CLASSES, Outcome};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 660.0;
const PANEL: (f64, f64) = (380.0, 210.0);
/// By strategy; told apart by people who see few colours, and by lightness in print.
const COLOURS: [&str; 4] = ["#0072b2", "#e69f00", "#8a8a8a", "#cc6677"];

/// Where a panel lies, and how its values map onto it.
struct Panel {
    x: f64,
    y: f64,
    /// From left to right and from bottom to top.
    range_x: (f64, f64),
    range_y: (f64, f64),
}

impl Panel {
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let part = |value: f64, (from, to): (f64, f64)| ((value - from) / (to - from)).clamp(0.0, 1.0);
        (self.x + part(x, self.range_x) * PANEL.0, self.y + PANEL.1 * (1.0 - part(y, self.range_y)))
    }

    /// Title, frame, lines across at `ticks` of y, and words below.
    fn frame(&self, svg: &mut String, title: &str, ticks: &[(f64, String)], below: &[(f64, String)]) {
        text(svg, self.x, self.y - 12.0, "start", 13, title, true);
        for (value, label) in ticks {
            let (_, y) = self.at(self.range_x.0, *value);
            line(svg, (self.x, y), (self.x + PANEL.0, y), "#dddddd");
            text(svg, self.x - 6.0, y + 4.0, "end", 11, label, false);
        }
        for (value, label) in below {
            let (x, _) = self.at(*value, self.range_y.0);
            text(svg, x, self.y + PANEL.1 + 16.0, "middle", 11, label, false);
        }
        line(svg, (self.x, self.y + PANEL.1), (self.x + PANEL.0, self.y + PANEL.1), "#333333");
    }

    fn curve(&self, svg: &mut String, points: impl Iterator<Item = (f64, f64)>, colour: &str) {
        let points: Vec<String> = points
            .map(|(x, y)| {
                let (x, y) = self.at(x, y);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let _ = writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="1.8"/>"#,
            points.join(" ")
        );
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, size: u32, words: &str, bold: bool) {
    let weight = if bold { r#" font-weight="bold""# } else { "" };
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    // Writing to a string does not fail.
    let _ = writeln!(
        svg,
        r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}"{weight} fill="#222222">{words}</text>"##
    );
}

fn line(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) {
    let _ = writeln!(svg, r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}"/>"#);
}

/// The picture.
pub fn svg(scenario: &Scenario) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
    );
    let (nodes, days) = (counted(scenario.nodes as u64, "node"), counted(scenario.days, "day"));
    let title = format!("{nodes}, {days}: {}", scenario.about);
    text(&mut svg, 60.0, 26.0, "start", 16, &title, true);
    for (n, outcome) in scenario.outcomes.iter().enumerate() {
        let x = 60.0 + 190.0 * n as f64;
        let _ = writeln!(svg, r#"<rect x="{x}" y="38" width="12" height="12" fill="{}"/>"#, colour(n));
        text(&mut svg, x + 18.0, 48.0, "start", 12, outcome.strategy, false);
    }
    lost(&mut svg, scenario, (60.0, 95.0));
    waits(&mut svg, scenario, (540.0, 95.0));
    racks(&mut svg, scenario, (60.0, 385.0));
    tails(&mut svg, scenario, (540.0, 385.0));
    svg.push_str("</svg>\n");
    svg
}

fn colour(strategy: usize) -> &'static str {
    COLOURS[strategy % COLOURS.len()]
}

/// The least round number above a value: 1, 2 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|&round| round >= value).unwrap_or(value)
}

fn quarters(top: f64, label: impl Fn(f64) -> String) -> Vec<(f64, String)> {
    (0..=4).map(|n| top * f64::from(n) / 4.0).map(|value| (value, label(value))).collect()
}

fn lost(svg: &mut String, scenario: &Scenario, (x, y): (f64, f64)) {
    let series = |outcome: &Outcome| outcome.series.clone();
    let top = scenario.outcomes.iter().flat_map(series).map(|(_, lost)| lost).fold(0.001, f64::max);
    let days = scenario.days as f64;
    let top = round_up(top);
    let panel = Panel { x, y, range_x: (0.0, days), range_y: (0.0, top) };
    let below: Vec<(f64, String)> = (0..=scenario.days).map(|day| (day as f64, format!("day {day}"))).collect();
    panel.frame(svg, "GPUs lost to fragmentation", &quarters(top, |v| format!("{:.1} %", v * 100.0)), &below);
    for (n, outcome) in scenario.outcomes.iter().enumerate().rev() {
        let step = days / outcome.series.len().max(1) as f64;
        let points = outcome.series.iter().enumerate().map(|(at, &(_, lost))| ((at as f64 + 0.5) * step, lost));
        panel.curve(svg, points, colour(n));
    }
}

fn waits(svg: &mut String, scenario: &Scenario, (x, y): (f64, f64)) {
    // Seconds by their logarithm, from one second to four days.
    let panel = Panel { x, y, range_x: (0.0, (4.0f64 * 86_400.0).log10()), range_y: (0.0, 1.0) };
    let marks = [(1.0, "1 s"), (60.0, "1 min"), (3_600.0, "1 h"), (86_400.0, "1 day")];
    let below: Vec<(f64, String)> = marks.iter().map(|&(s, label)| (f64::log10(s), label.to_owned())).collect();
    let title = "Jobs of 8 GPUs and more that waited no longer than";
    panel.frame(svg, title, &quarters(1.0, |v| format!("{:.0} %", v * 100.0)), &below);
    for (n, outcome) in scenario.outcomes.iter().enumerate().rev() {
        let mut waits: Vec<u64> = outcome.waits[2..].iter().flat_map(|waits| waits.seconds.iter().copied()).collect();
        waits.sort_unstable();
        let count = waits.len().max(1);
        // A hundred points are enough for the eye.
        let points = (0..=100).filter_map(|percent| {
            let wait = waits.get((count - 1) * percent / 100)?;
            Some(((*wait).max(1) as f64, percent as f64 / 100.0))
        });
        panel.curve(svg, points.map(|(wait, share)| (wait.log10(), share)), colour(n));
    }
}

fn racks(svg: &mut String, scenario: &Scenario, at: (f64, f64)) {
    let groups: Vec<(String, Vec<f64>)> = vec![
        ("racks, 9-64 GPUs".to_owned(), scenario.outcomes.iter().map(|o| o.racks[3].mean()).collect()),
        ("racks, 65+ GPUs".to_owned(), scenario.outcomes.iter().map(|o| o.racks[4].mean()).collect()),
        ("NVLink domains, NVL72".to_owned(), scenario.outcomes.iter().map(|o| o.nvlink_domains.mean()).collect()),
    ];
    bars(svg, "Domains that a gang spans, on average", &groups, at, |v| format!("{v:.1}"));
}

fn tails(svg: &mut String, scenario: &Scenario, at: (f64, f64)) {
    let hours = |o: &Outcome, n: usize| o.waits[n].percentile(95) as f64 / 3_600.0;
    let group = |(n, (name, _)): (usize, &(&str, u32))| {
        (format!("{name} GPUs"), scenario.outcomes.iter().map(|o| hours(o, n)).collect())
    };
    let groups: Vec<(String, Vec<f64>)> = CLASSES.iter().enumerate().map(group).collect();
    bars(svg, "Waiting time, 95th percentile, hours", &groups, at, |v| format!("{v:.2}"));
}

fn bars(
    svg: &mut String,
    title: &str,
    groups: &[(String, Vec<f64>)],
    (x, y): (f64, f64),
    label: impl Fn(f64) -> String,
) {
    let top = round_up(groups.iter().flat_map(|(_, values)| values).copied().fold(0.01, f64::max));
    let panel = Panel { x, y, range_x: (0.0, groups.len() as f64), range_y: (0.0, top) };
    let below: Vec<(f64, String)> =
        groups.iter().enumerate().map(|(n, (name, _))| (n as f64 + 0.5, name.clone())).collect();
    panel.frame(svg, title, &quarters(top, label), &below);
    for (n, (_, values)) in groups.iter().enumerate() {
        let wide = 0.8 / values.len().max(1) as f64;
        for (at, &value) in values.iter().enumerate() {
            let (left, top) = panel.at(n as f64 + 0.1 + wide * at as f64, value);
            let (right, bottom) = panel.at(n as f64 + 0.1 + wide * (at as f64 + 0.9), 0.0);
            let _ = writeln!(
                svg,
                r#"<rect x="{left:.1}" y="{top:.1}" width="{:.1}" height="{:.1}" fill="{}"/>"#,
                right - left,
                bottom - top,
                colour(at)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tops_of_axes_are_round_and_not_below_the_value() {
        assert_eq!([0.013, 3.0, 7.0, 10.0, 1_200.0].map(round_up), [0.02, 5.0, 10.0, 10.0, 2_000.0]);
    }
}
