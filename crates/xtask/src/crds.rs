//! `cargo xtask crds`: the custom resource definitions, from `crates/api` into `crds/` and the chart, and their reference pages into `docs/`.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use crate::{process, tools};

/// Where the definitions lie: for `kubectl apply`, and for the chart, whose templates cannot read files outside of it.
const COPIES: [&str; 2] = ["crds", "charts/weft/files/crds"];
/// Where the reference pages lie.
const PAGES: &str = "docs/reference";

#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Only say whether the files are what the code generates.
    #[arg(long)]
    pub check: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let (definitions, pages) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let generator = tools::build_workspace()?.join("crdgen");
    process::run("crds", Command::new(generator).args([definitions.path(), pages.path()]))?;
    let definitions = files(definitions.path())?;
    let copies = COPIES.map(|copy| (copy, &definitions));
    for (copy, wanted) in copies.into_iter().chain([(PAGES, &files(pages.path())?)]) {
        let folder = tools::workspace_root().join(copy);
        let present = files(&folder).unwrap_or_default();
        if present == *wanted {
            continue;
        }
        if args.check {
            bail!("{copy}/ is not what crates/api generates: run `cargo xtask crds` and commit the result");
        }
        tools::make_folder(&folder)?;
        for name in present.keys().filter(|name| !wanted.contains_key(*name)) {
            fs::remove_file(folder.join(name))?;
        }
        for (name, text) in wanted {
            fs::write(folder.join(name), text).with_context(|| format!("cannot write {copy}/{name}"))?;
        }
        println!("  wrote {copy}/");
    }
    Ok(())
}

/// The generated files of a folder by name.
fn files(folder: &Path) -> Result<BTreeMap<String, String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let generated = entries.flatten().filter(|e| e.path().extension().is_some_and(|x| x == "yaml" || x == "md"));
    generated.map(|e| Ok((e.file_name().to_string_lossy().into_owned(), fs::read_to_string(e.path())?))).collect()
}
