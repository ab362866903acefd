//! What a cluster needs of the machine, checked before anything is started; each answer names the next step.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    error::{Doing, Error, Result, read},
    progress::Progress,
};

/// A Debian package, and the file by which one sees that it (or what it stands for on another system) is there.
pub struct Package {
    /// Its name.
    pub name: &'static str,
    /// Any of these files is enough.
    pub files: &'static [&'static str],
}

/// For the cluster's network.
pub const NETWORK: [Package; 2] = [
    Package { name: "iproute2", files: &["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"] },
    // The port mapper of pods with a `hostPort`.
    Package { name: "nftables", files: &["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"] },
];
/// To build runc.
pub const RUNC_BUILD: [Package; 3] = [
    Package { name: "gcc", files: &["/usr/bin/gcc", "/usr/bin/cc"] },
    Package { name: "pkg-config", files: &["/usr/bin/pkg-config"] },
    Package {
        name: "libseccomp-dev",
        files: &["/usr/include/seccomp.h", "/usr/local/include/seccomp.h", "/usr/include/x86_64-linux-gnu/seccomp.h"],
    },
];
/// To build static programs for images.
pub const STATIC_BUILD: [Package; 1] =
    [Package { name: "musl-tools", files: &["/usr/bin/musl-gcc", "/usr/local/bin/musl-gcc"] }];

/// Whether this process may do everything.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Checks everything that real nodes need, and installs Debian packages where it may.
pub fn check(progress: &dyn Progress) -> Result<()> {
    let lacks = |text: &str| Err(Error::Prerequisite(text.to_owned()));
    if !cfg!(target_os = "linux") {
        return lacks(
            "a cluster with real nodes needs Linux (namespaces and control groups): use a Linux machine or a virtual one",
        );
    }
    if !is_root() {
        return lacks(
            "a cluster with real nodes needs root (it makes mounts, network namespaces and control groups): run the command with `sudo -E`, or as root in a privileged container",
        );
    }
    let status = read(Path::new("/proc/self/status"))?;
    let capabilities = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or_default();
    for (bit, name) in [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (27, "CAP_MKNOD")] {
        if capabilities >> bit & 1 == 0 {
            return lacks(&format!(
                "this root lacks {name}, without which there are no nodes: start the container with `--privileged`"
            ));
        }
    }
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    if (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()) < (5, 8) {
        return lacks(&format!("the kernel ({release}) is too old: nodes need Linux 5.8 or newer"));
    }
    if !read(Path::new("/proc/filesystems"))?.lines().any(|line| line.ends_with("\toverlay")) {
        // Built as a module it may just not be loaded yet.
        let loaded = Command::new("modprobe").arg("overlay").status().is_ok_and(|status| status.success());
        if !loaded {
            return lacks(
                "the kernel has no overlay file system, on which nodes and containers stand: load it with `modprobe overlay`",
            );
        }
    }
    crate::cgroup::hierarchies()?;
    debian_packages(&NETWORK, progress)
}

/// Finds `go`: in `PATH`, else where its own installer puts it.
pub(crate) fn find_go() -> Option<PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&folders).collect();
    folders.extend(["/usr/local/go/bin", "/usr/lib/go/bin"].map(PathBuf::from));
    folders.into_iter().map(|folder| folder.join("go")).find(|path| path.is_file())
}

/// Checks that Go is there and new enough for the pinned modules.
pub(crate) fn check_go(go: Option<PathBuf>) -> Result<PathBuf> {
    let needed = needed_go()?;
    let get = format!(
        "install Go {needed} or newer (`apt-get install golang-go` where it is new enough, else unpack the archive from Go's download page \
         to /usr/local/go), then run the command again"
    );
    let Some(go) = go else {
        return Err(Error::Prerequisite(format!(
            "there is no Go, from which the Kubernetes components are built: {get}"
        )));
    };
    let said =
        crate::run::output(Command::new(&go).args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").current_dir("/"))?;
    let version = said.trim().trim_start_matches("go");
    if numbers(version) < numbers(&needed) {
        return Err(Error::Prerequisite(format!(
            "{} is Go {version}, too old for the Kubernetes components: {get}",
            go.display()
        )));
    }
    Ok(go)
}

/// The newest `go` line of the components' modules.
fn needed_go() -> Result<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("components");
    let mut newest = String::new();
    for entry in fs::read_dir(&folder).doing(|| format!("reading {}", folder.display()))?.flatten() {
        let go_mod = read(&entry.path().join("go.mod"))?;
        let line = go_mod.lines().find_map(|line| line.strip_prefix("go ")).unwrap_or_default().trim();
        if numbers(line) > numbers(&newest) {
            newest = line.to_owned();
        }
    }
    Ok(newest)
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|number| number.parse().ok()).collect()
}

/// Installs the packages that are missing where that is possible, else says how to.
pub fn debian_packages(packages: &[Package], progress: &dyn Progress) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .filter(|package| !package.files.iter().any(|file| Path::new(file).exists()))
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    let by_hand =
        format!("`apt-get install {names}` (on a system that is not Debian: the packages with the same files)");
    if !is_root() || !Path::new("/usr/bin/apt-get").exists() {
        return Err(Error::Prerequisite(format!("this machine lacks {names}: install with {by_hand}")));
    }
    let install = ["install", "-y", "--no-install-recommends"];
    let what = format!("installing {names}");
    let installed = apt(&install, &missing, &what, progress)
        .or_else(|_| apt(&["update"], &[], &what, progress).and_then(|()| apt(&install, &missing, &what, progress)));
    progress.finished(&what);
    installed
        .map_err(|error| Error::Prerequisite(format!("cannot install {names} ({error}): install with {by_hand}")))?;
    progress.step(&format!("installed {names}"));
    Ok(())
}

fn apt(words: &[&str], packages: &[&str], what: &str, progress: &dyn Progress) -> Result<()> {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let mut command = Command::new("apt-get");
            command
                .args(["-q", "-o", "DPkg::Lock::Timeout=120"])
                .args(words)
                .args(packages)
                .env("DEBIAN_FRONTEND", "noninteractive");
            crate::run::output(&mut command).map(drop)
        });
        while !run.is_finished() {
            progress.working(what, &format!("{} s", begin.elapsed().as_secs()));
            std::thread::sleep(Duration::from_millis(200));
        }
        run.join().unwrap_or_else(|_| Err(Error::State("apt-get was interrupted".to_owned())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_go_is_refused_with_the_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("go");
        fs::write(&old, "#!/bin/sh\necho go1.9.2\n").unwrap();
        fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let said = check_go(Some(old)).unwrap_err().to_string();
        assert!(
            said.contains("is Go 1.9.2, too old") && said.contains(&format!("install Go {}", needed_go().unwrap())),
            "{said}"
        );
        let said = check_go(None).unwrap_err().to_string();
        assert!(said.contains("there is no Go"), "{said}");
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(
            numbers("1.9.2") < numbers("1.26.8")
                && numbers("1.26") < numbers("1.26.8")
                && numbers("1.26.8") == numbers("1.26.8")
        );
    }
}
