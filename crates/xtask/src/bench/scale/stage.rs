//! Doing things to the cluster and waiting for what comes of them, until somebody presses Ctrl-C.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::BufRead,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use weft_cluster::Progress;

use super::operator::Operator;
use crate::{progress::Console, proxy::Proxy};

/// Requests on the way at a time: more than a person, fewer than the API server's limit.
const AT_A_TIME: usize = 8;
/// How often something that no watch tells is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often Ctrl-C is looked for while nothing happens.
const GLANCE: Duration = Duration::from_millis(100);
/// Where nothing comes forward for so long, nothing will.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Stage<'a> {
    pub proxy: Proxy,
    pub operator: Option<Operator>,
    pub console: &'a Console,
    pub stop: Arc<AtomicBool>,
}

impl Stage<'_> {
    /// Fails when the work is over: somebody wants it to end, or the operator has ended.
    pub fn go_on(&mut self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        self.operator.as_mut().map_or(Ok(()), Operator::must_run)
    }

    /// Does something `count` times, several at a time, and returns what came of it in order.
    pub fn each<T: Send>(&self, count: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
        let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
        thread::scope(|scope| {
            for _ in 0..AT_A_TIME.min(count) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= count {
                            return;
                        }
                        let result = match self.stop.load(Ordering::Relaxed) {
                            true => Err(anyhow::anyhow!("interrupted")),
                            false => work(index),
                        };
                        if result.is_err() {
                            // The others are not begun.
                            next.store(count, Ordering::Relaxed);
                        }
                        done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(index, result);
                    }
                });
            }
        });
        done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).into_values().collect()
    }

    /// Waits until `look` finds something.
    pub fn wait<T>(&mut self, what: &str, look: impl Fn(&Self) -> Result<Option<T>>) -> Result<T> {
        let begin = Instant::now();
        loop {
            if let Some(found) = look(self)? {
                self.console.finished(what);
                return Ok(found);
            }
            self.go_on()?;
            if begin.elapsed() > PATIENCE {
                bail!("{what}: gave up after {} s", PATIENCE.as_secs());
            }
            self.console.working(what, &format!("{} s", begin.elapsed().as_secs()));
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Follows all objects of a path from now on; those that there are come first.
    pub fn follow(&self, path: &str) -> Result<Watch> {
        let mut lines = self.proxy.follow(&format!("{path}?watch=true"))?.lines();
        let (sender, news) = mpsc::channel();
        // It ends with the proxy, which ends the lines, or with the receiver.
        thread::spawn(move || {
            for line in lines.by_ref().map_while(Result::ok) {
                let at = Instant::now();
                let seen = serde_json::from_str::<Event>(&line).context("reading a watch").map(|event| event.seen(at));
                if sender.send(seen).is_err() {
                    return;
                }
            }
        });
        Ok(Watch { path: path.to_owned(), news })
    }

    /// Waits until each of these objects has been seen in a phase, and says when that was.
    pub fn until(
        &mut self,
        watch: &Watch,
        phase: &str,
        names: impl IntoIterator<Item = String>,
    ) -> Result<BTreeMap<String, Instant>> {
        let mut missing: BTreeSet<String> = names.into_iter().collect();
        let (all, what) = (missing.len(), format!("waiting until all are {phase}"));
        let (mut seen, mut last) = (BTreeMap::new(), Instant::now());
        while !missing.is_empty() {
            self.go_on()?;
            self.console.working(&what, &format!("{} of {all}", seen.len()));
            let Some(news) = watch.next(GLANCE)? else {
                if last.elapsed() > PATIENCE {
                    let one = missing.first().map_or("none", String::as_str);
                    bail!(
                        "{} of {all} are {phase}, and for {} s no other has been: {one} is not",
                        seen.len(),
                        PATIENCE.as_secs()
                    );
                }
                continue;
            };
            if news.phase == phase && missing.remove(&news.name) {
                last = Instant::now();
                seen.insert(news.name, news.at);
            } else if news.phase == "Failed" || (news.change == Change::Gone && missing.contains(&news.name)) {
                bail!("{} of {} is {} and will not be {phase}", news.name, watch.path, news.phase);
            }
        }
        self.console.finished(&what);
        Ok(seen)
    }

    /// Everything that a watch tells between two moments, of which the first may be past.
    pub fn listen(&mut self, watch: &Watch, from: Instant, to: Instant) -> Result<Vec<Seen>> {
        let mut seen = Vec::new();
        loop {
            self.go_on()?;
            let left = to.saturating_duration_since(Instant::now());
            match watch.next(GLANCE.min(left))? {
                Some(news) if news.at > to => return Ok(seen),
                Some(news) => seen.extend((news.at >= from).then_some(news)),
                None if left.is_zero() => return Ok(seen),
                None => {}
            }
        }
    }
}

/// What happens to the objects of a path.
pub struct Watch {
    path: String,
    news: mpsc::Receiver<Result<Seen>>,
}

impl Watch {
    fn next(&self, patience: Duration) -> Result<Option<Seen>> {
        match self.news.recv_timeout(patience) {
            Ok(seen) => seen.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the watch of {} ended", self.path),
        }
    }
}

/// One thing that happened to an object.
#[derive(Debug, PartialEq)]
pub struct Seen {
    pub at: Instant,
    pub change: Change,
    pub name: String,
    /// Empty where its status has none yet.
    pub phase: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Change {
    #[serde(rename = "ADDED")]
    New,
    #[serde(rename = "MODIFIED")]
    Changed,
    #[serde(rename = "DELETED")]
    Gone,
}

/// A line of a watch. The rest of the object is skipped: the status of a large job is long.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    change: Change,
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    status: Option<Status>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Deserialize)]
struct Status {
    phase: Option<String>,
}

impl Event {
    fn seen(self, at: Instant) -> Seen {
        let phase = self.object.status.and_then(|status| status.phase).unwrap_or_default();
        Seen { at, change: self.change, name: self.object.metadata.name, phase }
    }
}
