//! `cargo xtask sim`: the simulated driver in a folder, for programs that look for NVIDIA's libraries through
//! `LD_LIBRARY_PATH`. NVRTC, which turns CUDA C++ into PTX without a GPU, is NVIDIA's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

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
    let nvrtc = tools::nvrtc().with_context(|| {
        format!(
            "the simulated driver is in {}, but without NVRTC, which compiles CUDA C++: run this again with a network",
            lib.display()
        )
    })?;
    lay_out(&nvrtc, &tools::NVRTC, &lib)?;
    println!(
        "Run a program on simulated GPUs with\n  LD_LIBRARY_PATH={} WEFT_SIM_PROFILE=h100x8 <program>",
        lib.display()
    );
    Ok(())
}

/// Copies files to a folder, each whole or not at all: a program that runs may have an earlier one mapped.
fn lay_out(from: &Path, files: &[&str], to: &Path) -> Result<()> {
    for file in files {
        let (source, at, new) = (from.join(file), to.join(file), to.join(format!("{file}.new")));
        let copied = fs::copy(&source, &new).and_then(|_| fs::rename(&new, &at));
        copied.with_context(|| format!("copying {} to {}", source.display(), at.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_laid_out_over_those_of_an_earlier_time() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for file in ["a.so", "b.so", "other"] {
            fs::write(from.path().join(file), file).unwrap();
        }
        fs::write(to.path().join("a.so"), "earlier").unwrap();
        lay_out(from.path(), &["a.so", "b.so"], to.path()).unwrap();
        let mut names: Vec<_> = fs::read_dir(to.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a.so", "b.so"]);
        assert_eq!(fs::read_to_string(to.path().join("a.so")).unwrap(), "a.so");

        let said = format!("{:#}", lay_out(from.path(), &["c.so"], to.path()).unwrap_err());
        assert!(said.contains("c.so"), "{said}");
    }
}
