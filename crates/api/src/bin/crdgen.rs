//! Writes the custom resource definitions into a folder: `crdgen [DIR]`, by default the repository's `crds/`.

use std::path::PathBuf;
use std::{env, fs, process};

fn main() {
    let dir = env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../crds")), PathBuf::from);
    if let Err(error) = write(&dir) {
        eprintln!("crdgen: cannot write the definitions into {}: {error}", dir.display());
        process::exit(1);
    }
}

fn write(dir: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    fs::create_dir_all(dir)?;
    for file in weft_api::crds()? {
        fs::write(dir.join(&file.name), &file.text)?;
        println!("{}", dir.join(&file.name).display());
    }
    Ok(())
}
