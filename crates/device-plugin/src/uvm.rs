//! `/dev/nvidia-uvm`, which CUDA needs and the kernel module does not make.
//!
//! NVIDIA's user-space driver makes the node at the first use of CUDA, by running `nvidia-modprobe`, which is setuid. In a
//! container that has only the GPUs' own nodes that cannot work, so on a node where nothing of CUDA ever ran on the host, the
//! agent runs it: under the driver root, as root, before a GPU is offered.
//!
//! The program needs the host's loader, modules and `modprobe`, and writes to the root's `/dev`. So it runs with the driver
//! root as its root, in a child: this binary again, as `make-uvm`, which changes its root and becomes the program.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use weft_nvml::DriverRoot;

/// The device node.
const NODE: &str = "nvidia-uvm";
/// Under the driver root.
const PROGRAMS: [&str; 4] =
    ["usr/bin/nvidia-modprobe", "usr/local/bin/nvidia-modprobe", "opt/bin/nvidia-modprobe", "bin/nvidia-modprobe"];
/// Load the module, make the nodes from minor number 0 on.
const ARGUMENTS: [&str; 3] = ["-u", "-c", "0"];
/// Loading the module takes about a second.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Why the node is not there.
#[derive(Debug, thiserror::Error)]
pub enum UvmError {
    /// No program.
    #[error(
        "/dev/{NODE} is missing, CUDA needs it, and there is no nvidia-modprobe under {} to make it: run `nvidia-modprobe -u -c 0` \
         on the node, or any CUDA program", .0.display()
    )]
    NoProgram(PathBuf),
    /// The program did not start.
    #[error(
        "/dev/{NODE} is missing, CUDA needs it, and nvidia-modprobe cannot be run ({0}): run `nvidia-modprobe -u -c 0` on the node"
    )]
    NotRun(io::Error),
    /// The program failed, or did not do it.
    #[error(
        "/dev/{NODE} is missing, CUDA needs it, and nvidia-modprobe did not make it ({status}; {said}): look for `NVRM` in the \
         node's kernel log, and whether the module nvidia_uvm is installed for this kernel"
    )]
    NotMade {
        /// How it ended.
        status: ExitStatus,
        /// Its last words.
        said: String,
    },
    /// The program hangs.
    #[error(
        "/dev/{NODE} is missing, CUDA needs it, and nvidia-modprobe hangs: look for `NVRM` in the node's kernel log"
    )]
    Hangs,
}

/// Makes the node where it is missing. Returns whether it made it.
///
/// # Errors
/// Why it is still missing, with the next step.
pub async fn make_if_missing(root: &DriverRoot, dev_dir: &Path) -> Result<bool, UvmError> {
    if is_there(dev_dir) {
        return Ok(false);
    }
    if program(root).is_none() {
        return Err(UvmError::NoProgram(root.path().to_path_buf()));
    }
    let mut child = tokio::process::Command::new("/proc/self/exe");
    child.arg("make-uvm").arg("--driver-root-ctr-path").arg(root.path());
    child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = match tokio::time::timeout(TIMEOUT, child.output()).await {
        Ok(output) => output.map_err(UvmError::NotRun)?,
        Err(_) => return Err(UvmError::Hangs),
    };
    if is_there(dev_dir) {
        return Ok(true);
    }
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stdout));
    let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    Err(UvmError::NotMade {
        status: output.status,
        said: if said.is_empty() { "it said nothing".into() } else { said },
    })
}

fn is_there(dev_dir: &Path) -> bool {
    dev_dir.join(NODE).exists()
}

/// The program as the driver root names it.
fn program(root: &DriverRoot) -> Option<PathBuf> {
    let inside = PROGRAMS.iter().find_map(|path| root.resolve(Path::new(path)).filter(|path| path.is_file()))?;
    Some(root.on_host(&inside, Path::new("/")))
}

/// In the child: becomes the program, with the driver root as its root. Returns only if that fails.
pub fn become_program(root: &DriverRoot) -> anyhow::Error {
    let Some(program) = program(root) else {
        return UvmError::NoProgram(root.path().to_path_buf()).into();
    };
    if root.path() != Path::new("/") {
        let changed = rustix::process::chroot(root.path()).and_then(|()| rustix::process::chdir("/"));
        if let Err(error) = changed {
            return anyhow::anyhow!(
                "cannot make {} the root ({error}): the agent must run as root",
                root.path().display()
            );
        }
    }
    let error = Command::new(&program).args(ARGUMENTS).exec();
    anyhow::anyhow!("cannot run {} under {}: {error}", program.display(), root.path().display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_is_there_is_left_alone_and_a_missing_program_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = DriverRoot::new(dir.path());
        let sentence = make_if_missing(&root, dir.path()).await.unwrap_err().to_string();
        assert!(sentence.contains(&dir.path().display().to_string()), "{sentence}");
        assert!(sentence.contains("run `nvidia-modprobe -u -c 0` on the node"), "{sentence}");
        std::fs::write(dir.path().join(NODE), "").unwrap();
        assert!(!make_if_missing(&root, dir.path()).await.unwrap());
    }

    #[test]
    fn the_program_is_named_as_its_new_root_names_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("usr/local/bin")).unwrap();
        std::fs::write(dir.path().join("usr/local/bin/nvidia-modprobe"), "").unwrap();
        let found = program(&DriverRoot::new(dir.path()));
        assert_eq!(found, Some("/usr/local/bin/nvidia-modprobe".into()));
    }
}
