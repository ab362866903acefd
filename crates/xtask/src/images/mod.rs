//! `cargo xtask images`: the container images as OCI archives, built without a container engine or registry.

mod archive;
mod closure;
mod recipe;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args as ClapArgs;

use crate::tools;

pub use recipe::{Image, Profile};

#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Only these images; without it, those that a registry gets.
    #[arg(value_enum)]
    images: Vec<Image>,
    /// Unoptimised programs, for while one works on Weft: sooner there after a change, but the first time all programs and
    /// tests of the workspace are built, which takes minutes.
    #[arg(long)]
    dev: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let wanted = if args.images.is_empty() { Image::SHIPPED.to_vec() } else { args.images.clone() };
    let profile = if args.dev { Profile::Dev } else { Profile::Release };
    build(&wanted, profile).map(drop)
}

/// Builds images whose inputs have changed and returns the archives.
pub fn build(wanted: &[Image], profile: Profile) -> Result<Vec<PathBuf>> {
    wanted.iter().map(|image| recipe::build(*image, profile)).collect()
}

/// The image of the process that holds a pod's namespaces: no pod starts without it.
pub fn pause() -> Result<PathBuf> {
    recipe::build(Image::Pause, Profile::Release)
}

/// The archives for simulated nodes that are there, whether their inputs have changed or not.
pub fn built() -> Result<Vec<PathBuf>> {
    let folder = folder();
    let mut all: Vec<PathBuf> =
        Image::ON_SIMULATED_NODES.iter().map(|image| folder.join(image.file())).filter(|path| path.exists()).collect();
    all.sort();
    Ok(all)
}

/// Where the archives lie.
pub fn folder() -> PathBuf {
    tools::target_folder().join("images")
}

/// Writes a file whole or not at all.
fn write_whole(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content).with_context(|| format!("cannot write {}", new.display()))?;
    replace(&new, path)
}

/// Puts a file that is written in the place of an earlier one.
fn replace(new: &Path, path: &Path) -> Result<()> {
    fs::rename(new, path).with_context(|| format!("cannot write {}", path.display()))
}
