//! Runs the programs that the tasks are made of: says what it runs, and never falls silent.

use std::{
    io::{BufRead, BufReader, IsTerminal, Read},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Nothing is silent for longer than this: a person, or a CI runner, would think it hangs.
const HEARTBEAT: Duration = Duration::from_secs(8);

/// Prints the command, runs it with its output shown, and fails with a sentence if it fails.
///
/// While the program prints nothing, a line every few seconds says that it is still running.
pub fn run(what: &str, command: &mut Command) -> Result<()> {
    println!("  $ {}", line(command));
    let started = Instant::now();
    let last = Arc::new(AtomicU64::new(0));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{what}: cannot start {:?}", command.get_program()))?;
    let forward = |stream: Box<dyn Read + Send>, last: Arc<AtomicU64>| {
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                println!("    {}", String::from_utf8_lossy(&line));
                last.store(started.elapsed().as_millis() as u64, Ordering::Relaxed);
            }
        })
    };
    let streams: [Option<Box<dyn Read + Send>>; 2] =
        [child.stdout.take().map(|s| Box::new(s) as _), child.stderr.take().map(|s| Box::new(s) as _)];
    let readers: Vec<_> = streams.into_iter().flatten().map(|s| forward(s, last.clone())).collect();
    let (done, ended) = mpsc::channel::<()>();
    let beat = {
        let (what, last) = (what.to_owned(), last.clone());
        std::thread::spawn(move || {
            while let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(HEARTBEAT) {
                let now = started.elapsed();
                if now.saturating_sub(Duration::from_millis(last.load(Ordering::Relaxed))) >= HEARTBEAT {
                    println!("    … {what}: still running after {:.0} s", now.as_secs_f64());
                }
            }
        })
    };
    let status = child.wait()?;
    drop(done);
    for thread in readers.into_iter().chain([beat]) {
        // A reader thread only prints; if it panicked (standard output closed) there is nothing to save.
        let _ = thread.join();
    }
    if !status.success() {
        bail!("{what} failed ({status}): {}", line(command));
    }
    Ok(())
}

/// Runs a command and returns its standard output; on failure the error carries its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let out =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !out.status.success() {
        bail!("{} failed ({}): {}", line(command), out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// True where colours, bars and cursor movement make sense.
pub fn interactive() -> bool {
    std::io::stdout().is_terminal()
}

fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    std::iter::once(program)
        .chain(command.get_args().map(|a| a.to_string_lossy().into_owned()))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_named_in_the_error() {
        let e = run("the test", Command::new("sh").args(["-c", "exit 3"])).unwrap_err().to_string();
        assert!(e.contains("the test failed") && e.contains("sh -c exit 3"), "{e}");
    }

    #[test]
    fn output_carries_standard_error_of_a_failure() {
        let e = output(Command::new("sh").args(["-c", "echo reason >&2; exit 1"])).unwrap_err().to_string();
        assert!(e.contains("reason"), "{e}");
        assert_eq!(output(Command::new("echo").arg("x")).unwrap(), "x\n");
    }
}
