//! `cargo xtask sim`: the simulated driver in a folder, for programs that look for NVIDIA's libraries through
//! `LD_LIBRARY_PATH`.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};
use clap::Args as ClapArgs;

use crate::{process, tools};

#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The folder; the libraries come to lie in its `lib/`.
    #[arg(long)]
    out: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    let simulator = tools::build_simulator()?;
    process::run("sim", Command::new(simulator).args(["layout", "--out"]).arg(&args.out))?;
    let lib = std::path::absolute(args.out.join("lib")).context("the folder's place")?;
    println!(
        "Run a program on simulated GPUs with\n  LD_LIBRARY_PATH={} WEFT_SIM_PROFILE=h100x8 <program>",
        lib.display()
    );
    Ok(())
}
