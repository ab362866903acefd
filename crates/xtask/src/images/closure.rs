//! The shared libraries that a program needs, found with `ldd`, as they lie on this machine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::process;

/// Where an image has its libraries: one of the loader's default folders, so that no cache of it (`ldconfig`) is
/// needed.
pub const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Where the kernel finds the loader, through the link `/lib64`.
const LOADER_FOLDER: &str = "usr/lib64";

/// What glibc was split into before 2.34, and the unwinder. A driver's library may still ask for them by name, and it
/// comes into the container from the node, after the image was built.
const ASKED_FOR_LATER: [&str; 5] = ["libdl.so.2", "libpthread.so.0", "librt.so.1", "libm.so.6", "libgcc_s.so.1"];

/// The libraries of programs (or libraries), by path in the image. A static program has none.
pub fn libraries(programs: &[PathBuf]) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for program in programs {
        for (name, file) in needed(program)? {
            found.insert(image_path(&name), file);
        }
    }
    Ok(found)
}

/// The libraries of a program that loads others when it runs.
pub fn libraries_for_loading(program: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = libraries(&[program.to_owned()])?;
    let libc = format!("{LIBRARIES}/libc.so.6");
    let beside =
        found.get(&libc).and_then(|libc| libc.parent()).context("the program is not linked with glibc")?.to_owned();
    for name in ASKED_FOR_LATER {
        found.insert(image_path(name), beside.join(name));
    }
    Ok(found)
}

fn image_path(name: &str) -> String {
    let folder = if name.starts_with("ld-linux") { LOADER_FOLDER } else { LIBRARIES };
    format!("{folder}/{name}")
}

/// `(name, file)` of each line of `ldd`: `name => /path (0x…)`, or `/path/of/loader (0x…)`.
fn needed(program: &Path) -> Result<Vec<(String, PathBuf)>> {
    let asked = Command::new("ldd")
        .arg(program)
        .env("LC_ALL", "C")
        .output()
        .context("starting ldd (Debian: package libc-bin)")?;
    let said = format!("{}{}", String::from_utf8_lossy(&asked.stdout), String::from_utf8_lossy(&asked.stderr));
    if said.contains("not a dynamic executable") || said.contains("statically linked") {
        return Ok(Vec::new());
    }
    if !asked.status.success() {
        bail!("ldd {} failed: {}", program.display(), said.trim());
    }
    let mut all = Vec::new();
    for line in said.lines() {
        if line.contains("not found") {
            bail!("{} needs a library that is not here: {}", program.display(), line.trim());
        }
        let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) else { continue };
        let name = Path::new(path).file_name().context("a library without a name")?.to_string_lossy().into_owned();
        all.push((name, PathBuf::from(path)));
    }
    Ok(all)
}

/// The program without what only a debugger needs, for images of development builds.
pub fn strip(program: &Path, to: &Path) -> Result<()> {
    process::output(Command::new("strip").arg("--strip-debug").arg("-o").arg(to).arg(program)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_brings_its_loader_and_libc() {
        let found = libraries(&[PathBuf::from("/bin/sh")]).unwrap();
        assert!(found.contains_key("usr/lib64/ld-linux-x86-64.so.2"), "{found:?}");
        assert!(found.contains_key("usr/lib/x86_64-linux-gnu/libc.so.6"), "{found:?}");
        assert!(found.values().all(|file| file.exists()));
    }

    #[test]
    fn a_program_that_loads_a_driver_has_the_old_names_of_libc_too() {
        let found = libraries_for_loading(Path::new("/bin/sh")).unwrap();
        assert!(found["usr/lib/x86_64-linux-gnu/libdl.so.2"].exists(), "{found:?}");
    }
}
