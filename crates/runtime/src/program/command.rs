//! `weft-runtime run FILE`.

use std::io::Write;
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use weft_program::Plan;

use super::{Report, TERMINATION_LOG_BYTES, execute};
use crate::answer::say;
use crate::device::DeviceHandle;
use crate::driver;

/// The program is wrong: trying again will not help.
const EXIT_INVALID: u8 = 2;
/// What a shell says of a process that SIGTERM ended.
const EXIT_TERMINATED: u8 = 128 + 15;

/// Runs the program in `file`, prints the outcome, leaves it for kubelet, and returns the exit code.
pub async fn main(file: &Path, json: bool, termination_log: &Path) -> u8 {
    let (report, code) = match read(file) {
        Err(sentence) => (Report::failed(sentence), EXIT_INVALID),
        Ok(plan) => {
            let folder = file.parent().unwrap_or(Path::new(".")).to_owned();
            let (at, present) = watch::channel(None);
            tokio::select! {
                report = run(plan, folder, at) => {
                    let code = u8::from(report.error.is_some());
                    (report, code)
                }
                () = terminated() => {
                    let step = present.borrow().as_ref().map(|step| format!("in {step}, ")).unwrap_or_default();
                    (Report::failed(format!("stopped by SIGTERM {step}before it was done")), EXIT_TERMINATED)
                }
            }
        }
    };
    let report = report.finish(driver::gpu_uuids().unwrap_or_default());
    let line = report.to_json(TERMINATION_LOG_BYTES);
    let said = if json { say(&format!("{line}\n")) } else { say(&report.to_text()) };
    if let Err(error) = leave(termination_log, &line) {
        tracing::warn!(path = %termination_log.display(), %error, "the result could not be left for kubelet");
    }
    match said {
        Ok(()) => code,
        Err(sentence) => {
            eprintln!("weft-runtime: {sentence}");
            // What the program itself came to says more.
            code.max(1)
        }
    }
}

fn read(file: &Path) -> Result<Plan, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let program = weft_program::parse(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    weft_program::validate(&program).map_err(|problems| {
        let sentences: Vec<String> = problems.iter().map(ToString::to_string).collect();
        sentences.join("; ")
    })
}

async fn run(plan: Plan, folder: std::path::PathBuf, at: watch::Sender<Option<String>>) -> Report {
    if let Err(error) = driver::gpu_count() {
        return Report::failed(error.to_string());
    }
    let device = match DeviceHandle::start(0, None).await {
        Ok(device) => device,
        Err(error) => return Report::failed(error.to_string()),
    };
    let done = device.call(move |device| Ok(execute(device, &plan, &folder, &at))).await;
    done.unwrap_or_else(|error| Report::failed(error.to_string()))
}

async fn terminated() {
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM will end the program without a report");
            std::future::pending::<()>().await;
        }
    }
}

/// Writes the result where kubelet looks for it. Outside Kubernetes there is no such file, and none is made.
fn leave(path: &Path, line: &str) -> std::io::Result<()> {
    match std::fs::OpenOptions::new().write(true).truncate(true).open(path) {
        Ok(mut file) => file.write_all(line.as_bytes()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
