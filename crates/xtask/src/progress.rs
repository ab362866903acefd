//! What a person sees while something long goes on: moving lines in a terminal, a plain line every few seconds
//! elsewhere.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use weft_cluster::Progress;

use crate::process;

/// Without a terminal, the same work says something new no more often than this, and no less often either.
const PLAIN_NEWS: Duration = Duration::from_secs(8);

/// Shows progress: steps, and in a terminal also lines that move.
pub struct Console {
    /// Steps go to standard error, for standard output is for something else.
    aside: bool,
    bars: Option<MultiProgress>,
    work: Mutex<BTreeMap<String, Shown>>,
}

enum Shown {
    Bar(ProgressBar),
    /// When it last had a line.
    Line(Instant),
}

impl Console {
    pub fn new() -> Self {
        Self { aside: false, bars: process::interactive().then(MultiProgress::new), work: Mutex::default() }
    }

    /// On standard error alone.
    pub fn aside() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { aside: true, bars, work: Mutex::default() }
    }

    fn line(&self, text: &str) {
        if self.aside { eprintln!("  {text}") } else { println!("  {text}") }
    }

    fn work(&self) -> MutexGuard<'_, BTreeMap<String, Shown>> {
        // A panic elsewhere while a line was being shown leaves nothing half done here.
        self.work.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Progress for Console {
    fn step(&self, text: &str) {
        match &self.bars {
            // A terminal that is gone is no reason to stop the work.
            Some(bars) => bars.println(format!("  {text}")).unwrap_or_default(),
            None => self.line(text),
        }
    }

    fn working(&self, what: &str, detail: &str) {
        let mut work = self.work();
        if let Some(bars) = &self.bars {
            let shown = work.entry(what.to_owned()).or_insert_with(|| {
                let bar = bars.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("  {spinner} {prefix}: {wide_msg}") {
                    bar.set_style(style);
                }
                bar.set_prefix(what.to_owned());
                bar.enable_steady_tick(Duration::from_millis(120));
                Shown::Bar(bar)
            });
            if let Shown::Bar(bar) = shown {
                bar.set_message(detail.to_owned());
            }
            return;
        }
        // What is over within seconds needs no line.
        let shown = work.entry(what.to_owned()).or_insert_with(|| Shown::Line(Instant::now()));
        if let Shown::Line(last) = shown
            && last.elapsed() >= PLAIN_NEWS
        {
            *last = Instant::now();
            self.line(&format!("… {what}: {detail}"));
        }
    }

    fn finished(&self, what: &str) {
        if let Some(Shown::Bar(bar)) = self.work().remove(what) {
            bar.finish_and_clear();
        }
    }
}
