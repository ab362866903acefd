//! Writes the custom resource definitions and their reference pages: `crdgen [CRDS [PAGES]]`, by default into the repository's
//! `crds/` and `docs/reference/`.

use std::path::{Path, PathBuf};
use std::{env, fs, process};

fn main() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = |nth, default: &str| env::args_os().nth(nth).map_or_else(|| repository.join(default), PathBuf::from);
    if let Err(error) = write(&folder(1, "crds"), &folder(2, "docs/reference")) {
        eprintln!("crdgen: {error}");
        process::exit(1);
    }
}

fn write(crds: &Path, pages: &Path) -> Result<(), Box<dyn std::error::Error>> {
    for (folder, files) in [(crds, weft_api::crds()?), (pages, weft_api::reference()?)] {
        fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        for file in files {
            let path = folder.join(&file.name);
            fs::write(&path, &file.text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            println!("{}", path.display());
        }
    }
    Ok(())
}
