//! `cargo xtask bench`: builds the benchmarks optimised and runs one.

use std::{ffi::OsString, process::Command};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use crate::tools;

#[derive(Debug, ClapArgs)]
pub struct Args {
    /// What weft-bench takes: `allocate`, `place` or `cluster`, with `--json` and its other options; `cargo xtask bench cluster --help` lists them.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    bench: Vec<OsString>,
}

pub fn run(args: &Args) -> Result<()> {
    let program = tools::build_bench()?;
    // Its output is this program's output, unchanged, so that `--json` can be piped on.
    let status = Command::new(&program).args(&args.bench).status().context("cannot start weft-bench")?;
    if !status.success() {
        bail!("weft-bench failed ({status}): its own message above says why");
    }
    Ok(())
}
