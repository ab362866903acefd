//! Tests in a process of their own: an error of a kernel ends CUDA for the whole process that it happens in.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Names the part that a process started by a test plays.
const PART: &str = "WEFT_TEST_PART";

/// The part that this process plays; nothing in the process that the harness started.
pub fn part() -> Option<String> {
    std::env::var(PART).ok()
}

/// This test once more, in another process, for a part of it; on a shared machine, or on one of its own.
pub fn start(part: &str, machine: Option<&Path>) -> Child {
    // The harness names the thread after the test.
    let test = std::thread::current().name().unwrap().to_owned();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &test, "--nocapture"]).env(PART, part);
    if let Some(machine) = machine {
        command.env("WEFT_SIM_STATE", machine);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// In the process that the harness started: runs the test in another one, and says that it is done.
pub fn elsewhere() -> bool {
    if part().is_some() {
        return false;
    }
    let output = start("all", None).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    true
}
