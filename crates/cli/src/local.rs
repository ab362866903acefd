//! `run --local`: a program on this machine, by the runtime's own command.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow};
use clap::Args;

/// Name of the runtime's program.
const RUNTIME: &str = "weft-runtime";

#[derive(Args)]
pub struct Run {
    /// The program: a YAML file with what would stand under `spec.program`, or a whole GpuJob.
    #[arg(long, value_name = "FILE")]
    local: PathBuf,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
    /// More arguments for `weft-runtime run`.
    #[arg(last = true, value_name = "ARGUMENTS")]
    more: Vec<OsString>,
}

impl Run {
    /// Becomes `weft-runtime run`, so that its exit status and the signals it gets are this process's own. Returns only if it cannot.
    pub fn exec(self) -> anyhow::Error {
        let beside = env::current_exe().ok().and_then(|own| own.canonicalize().ok());
        let path = env::var_os("PATH").unwrap_or_default();
        match find(beside.as_deref().and_then(Path::parent), &path) {
            Err(error) => error,
            Ok(runtime) => {
                let mut command = Command::new(&runtime);
                command.arg("run").arg(&self.local);
                if self.json {
                    command.arg("--json");
                }
                let error = command.args(&self.more).exec();
                anyhow!(error).context(format!("cannot start {}", runtime.display()))
            }
        }
    }
}

/// The runtime beside this program, else the first on `PATH`.
fn find(beside: Option<&Path>, path: &OsString) -> anyhow::Result<PathBuf> {
    let folders = beside.map(Path::to_path_buf).into_iter().chain(env::split_paths(path));
    folders.map(|folder| folder.join(RUNTIME)).find(|file| file.is_file()).with_context(|| {
        format!(
            "there is no {RUNTIME} beside this program or on PATH: build it with `cargo install --locked --path crates/runtime`, \
             or run the program as a GpuJob with `kubectl apply -f`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_runtime_beside_the_program_wins_over_path() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = other.path().as_os_str().to_owned();
        let missing = find(Some(own.path()), &path).unwrap_err().to_string();
        assert!(missing.contains("cargo install"), "{missing}");

        fs::write(other.path().join(RUNTIME), "").unwrap();
        assert_eq!(find(Some(own.path()), &path).unwrap(), other.path().join(RUNTIME));
        fs::write(own.path().join(RUNTIME), "").unwrap();
        assert_eq!(find(Some(own.path()), &path).unwrap(), own.path().join(RUNTIME));
    }
}
