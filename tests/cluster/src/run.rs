//! Running other people's programs to their end.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use crate::error::{Doing, Error, Result};

/// The command line, short enough for an error message.
pub(crate) fn line(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    if text.chars().count() > 200 { text.chars().take(200).chain("…".chars()).collect() } else { text }
}

/// Runs to the end and returns standard output; a failure is an error that shows what the program wrote.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    output_with_input(command, &[])
}

/// The same, with something on standard input.
pub(crate) fn output_with_input(command: &mut Command, input: &[u8]) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().doing(|| format!("starting `{}`", line(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early closes its side; what it says about it is the better error.
        let _ = stdin.write_all(input);
    }
    let done = child.wait_with_output().doing(|| format!("waiting for `{}`", line(command)))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let text = [done.stdout, done.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.trim().lines().collect();
    Err(Error::Command {
        command: line(command),
        status: done.status,
        output: lines[lines.len().saturating_sub(12)..].join("\n"),
    })
}
