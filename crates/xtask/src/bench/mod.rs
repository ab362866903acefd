//! `cargo xtask bench`: builds the benchmarks optimised and runs one; `scale` is made here, for it needs a cluster.

mod scale;

use std::{ffi::OsString, process::Command};

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, Subcommand};

use crate::tools;

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "allocate, place, cluster  What weft-bench measures, with --json and its other options; `cargo \
                        xtask bench cluster --help` lists them"
)]
pub struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The operator on a large real control plane, beside kube-scheduler alone.
    Scale(scale::Args),
    /// The words for weft-bench.
    #[command(external_subcommand)]
    Decisions(Vec<OsString>),
}

pub fn run(args: &Args) -> Result<()> {
    match &args.bench {
        Bench::Scale(args) => scale::run(args),
        Bench::Decisions(words) => decisions(words),
    }
}

fn decisions(words: &[OsString]) -> Result<()> {
    let program = tools::build_optimised("weft-bench")?;
    // Its output is this program's output, unchanged, so that `--json` can be piped on.
    let status = Command::new(&program).args(words).status().context("cannot start weft-bench")?;
    if !status.success() {
        bail!("weft-bench failed ({status}): its own message above says why");
    }
    Ok(())
}
