//! The machine's own NVIDIA GPUs, for a node that has them instead of simulated ones.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::{Doing, Result},
    run::output,
};

/// Whether the machine has an NVIDIA driver with a GPU.
pub fn has_gpus() -> bool {
    Path::new("/dev/nvidiactl").exists() && Path::new("/dev/nvidia0").exists()
}

/// The driver's device nodes: `/dev/nvidia*` and those in `/dev/nvidia-caps`.
pub(crate) fn gpu_devices() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for (folder, prefix) in [("/dev", "nvidia"), ("/dev/nvidia-caps", "nvidia-cap")] {
        // A driver without MIG has no second folder.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let device = entry.file_type().is_ok_and(|kind| kind.is_char_device());
            if device && entry.file_name().to_string_lossy().starts_with(prefix) {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Folders of the driver's libraries that lie on another file system than `/`: a node's root does not show those by itself.
pub(crate) fn driver_folders() -> Result<Vec<PathBuf>> {
    let listed = output(Command::new("ldconfig").arg("-p"))?;
    let root = fs::metadata("/").doing(|| "looking at /".to_owned())?.dev();
    let libraries = listed.lines().filter(|line| line.contains("libcuda.so.1") || line.contains("libnvidia-ml.so.1"));
    let folders: BTreeSet<PathBuf> =
        libraries.filter_map(|line| Some(Path::new(line.rsplit(" => ").next()?.trim()).parent()?.to_owned())).collect();
    Ok(folders.into_iter().filter(|folder| fs::metadata(folder).is_ok_and(|meta| meta.dev() != root)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_has_no_device_of_one() {
        assert_eq!(has_gpus(), gpu_devices().unwrap().iter().any(|path| path.ends_with("nvidia0")));
    }
}
