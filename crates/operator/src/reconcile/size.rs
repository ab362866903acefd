//! A status that fits into etcd, however many workers a job has and however much they say.
//!
//! etcd takes 1.5 MiB in one request, and every watcher of jobs reads every status again at each change. What is left out of a
//! status is found elsewhere, and decisions do not rest on it: GPUs come from pods and GpuNodes, results from pods.

use std::io::{self, Write};
use weft_api::GpuJobStatus;
use weft_api::job::WorkerPhase;

/// What a status may take as JSON.
pub const LARGEST_BYTES: usize = 256 << 10;
/// What the results of all workers together may take.
pub const RESULTS_BYTES: usize = 96 << 10;
/// Longest sentence of a worker in a status that is too large.
const SHORT: usize = 200;
/// Longest sentence of a job: a program may have a thousand mistakes.
const LONGEST: usize = 4096;

/// Cuts a status to size and says in it what was cut: first results beyond the first ones, those of failed workers kept
/// before others, then the lists of GPUs, then long sentences of workers. The same status is always cut the same way.
pub(super) fn fit(status: &mut GpuJobStatus) {
    status.omitted = None;
    shorten(&mut status.message, LONGEST);
    for condition in &mut status.conditions {
        shorten(&mut condition.message, LONGEST);
    }
    let mut omitted = Vec::new();
    match keep_results(status, RESULTS_BYTES) {
        0 => {}
        n => omitted.push(format!("the results of {n} workers (see their pods' logs)")),
    }
    if size(status) > LARGEST_BYTES {
        for worker in &mut status.workers {
            worker.planned_gpus.clear();
            worker.allocated_gpus.clear();
        }
        omitted.push("the GPUs of all workers (see their pods' annotation weft.dev/gpus and the GpuNodes)".to_owned());
    }
    if size(status) > LARGEST_BYTES {
        for message in status.workers.iter_mut().filter_map(|worker| worker.message.as_mut()) {
            shorten(message, SHORT);
        }
        omitted.push(format!("what workers say beyond {SHORT} characters (see their pods)"));
    }
    if !omitted.is_empty() {
        status.omitted = Some(format!("left out, since the status would be too large: {}", omitted.join("; ")));
    }
}

/// Keeps the first results that fit, those of failed workers first; how many are left out.
fn keep_results(status: &mut GpuJobStatus, mut room: usize) -> usize {
    let (failed, others): (Vec<_>, Vec<_>) = status
        .workers
        .iter_mut()
        .filter(|worker| worker.result.is_some())
        .partition(|worker| worker.phase == WorkerPhase::Failed);
    let mut left_out = 0;
    for worker in failed.into_iter().chain(others) {
        let bytes = worker.result.as_ref().map_or(0, size);
        if bytes <= room {
            room -= bytes;
        } else {
            // None after it either: a reader then knows which are there.
            room = 0;
            worker.result = None;
            left_out += 1;
        }
    }
    left_out
}

fn shorten(text: &mut String, longest: usize) {
    if text.len() > longest {
        let mut end = longest;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
}

/// Bytes as JSON.
fn size(value: &impl serde::Serialize) -> usize {
    let mut count = Count(0);
    // A status cannot fail to be written as JSON: its maps have names as keys. If it did, it would count as too large.
    serde_json::to_writer(&mut count, value).map_or(usize::MAX, |()| count.0)
}

struct Count(usize);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use weft_api::job::WorkerStatus;

    /// As large as a worker's status gets in practice: names of a cloud's length, eight GPUs, a full result.
    fn worker(rank: u32) -> WorkerStatus {
        let gpus: Vec<String> = (0..8).map(|gpu| format!("GPU-{rank:08x}-aaaa-bbbb-cccc-{gpu:012x}")).collect();
        let result = json!({"ok": true, "saved": [{"name": "x", "head": vec![0.123_456_7; 300]}]});
        WorkerStatus {
            rank,
            group: "worker".into(),
            pod: format!("pretraining-worker-{rank}"),
            phase: WorkerPhase::Succeeded,
            node: Some(format!("ip-10-12-{}-{}.eu-west-1.compute.internal", rank / 256, rank % 256)),
            planned_gpus: gpus.clone(),
            allocated_gpus: gpus,
            result: result.as_object().cloned(),
            ..WorkerStatus::default()
        }
    }

    #[test]
    fn a_thousand_workers_of_eight_gpus_with_full_results_fit_and_the_status_says_what_is_left_out() {
        let mut status = GpuJobStatus { workers: (0..1024).map(worker).collect(), ..GpuJobStatus::default() };
        status.workers[1000].phase = WorkerPhase::Failed;
        let before = size(&status);
        assert!(before > 3 << 20, "{before}");
        fit(&mut status);
        let after = size(&status);
        assert!(after <= LARGEST_BYTES, "{after}");
        let kept: Vec<u32> = status.workers.iter().filter(|w| w.result.is_some()).map(|w| w.rank).collect();
        assert!(kept.contains(&1000) && kept.contains(&0) && !kept.contains(&999), "{kept:?}");
        assert!(status.workers.iter().all(|worker| worker.node.is_some() && worker.planned_gpus.is_empty()));
        let omitted = status.omitted.clone().unwrap();
        let left_out = format!("the results of {} workers", 1024 - kept.len());
        assert!(omitted.contains(&left_out) && omitted.contains("the GPUs of all workers"), "{omitted}");
        let once = status.clone();
        fit(&mut status);
        assert_eq!(status.workers, once.workers);
        println!("{before} bytes cut to {after}, {} results kept", kept.len());
    }

    #[test]
    fn a_job_of_usual_size_keeps_everything() {
        let status = GpuJobStatus { workers: (0..16).map(worker).collect(), ..GpuJobStatus::default() };
        let mut cut = status.clone();
        fit(&mut cut);
        assert_eq!(cut, status);
    }

    #[test]
    fn a_very_long_message_is_cut_between_two_characters() {
        let mut status = GpuJobStatus { message: "é".repeat(LONGEST), ..GpuJobStatus::default() };
        fit(&mut status);
        assert!(status.message.len() <= LONGEST + '…'.len_utf8() && status.message.ends_with("é…"));
    }
}
