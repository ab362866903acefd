//! The Kubernetes components, built from pinned Go modules and kept by what they were built from.
//!
//! Each folder of `tests/cluster/components` is a small Go module that requires one project at one version; `go.sum`
//! pins every byte below it. A build lands in `<cache>/tools/<module>-<hash>/`, where the hash covers `go.mod`,
//! `go.sum`, the flags and Go's version, and appears there with one rename: what is there is complete.

use std::{
    collections::{BTreeMap, VecDeque},
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    error::{Doing, Error, Result, make_folder, read, write},
    preflight,
    progress::Progress,
    run::output,
};

/// One project, and what is built of it.
struct Module {
    /// The folder below `components/`.
    name: &'static str,
    /// `(program, Go package)`.
    programs: &'static [(&'static str, &'static str)],
    tags: &'static str,
    /// Links with C: needs a C compiler and the project's C libraries.
    cgo: bool,
}

/// Longest build first: it is what the others wait for.
const MODULES: [Module; 8] = [
    Module {
        name: "kubernetes",
        programs: &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
        ],
        tags: "",
        cgo: false,
    },
    Module { name: "helm", programs: &[("helm", "helm.sh/helm/v4/cmd/helm")], tags: "", cgo: false },
    Module { name: "coredns", programs: &[("coredns", "github.com/coredns/coredns")], tags: "", cgo: false },
    Module {
        name: "containerd",
        programs: &[
            ("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
            ("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
            ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ],
        tags: "",
        cgo: false,
    },
    Module { name: "kwok", programs: &[("kwok", "sigs.k8s.io/kwok/cmd/kwok")], tags: "", cgo: false },
    Module { name: "etcd", programs: &[("etcd", "go.etcd.io/etcd/server/v3")], tags: "", cgo: false },
    Module {
        name: "runc",
        programs: &[("runc", "github.com/opencontainers/runc")],
        tags: "netgo osusergo seccomp",
        cgo: true,
    },
    Module {
        name: "cni",
        programs: &[
            ("bridge", "github.com/containernetworking/plugins/plugins/main/bridge"),
            ("loopback", "github.com/containernetworking/plugins/plugins/main/loopback"),
            ("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local"),
            ("portmap", "github.com/containernetworking/plugins/plugins/meta/portmap"),
        ],
        tags: "",
        cgo: false,
    },
];

/// How often a running build tells how far it is.
const NEWS: Duration = Duration::from_millis(500);

/// Where everything lies that is slow to get and never changes: `$WEFT_CACHE`, else `~/.cache/weft`.
pub fn cache_folder() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("WEFT_CACHE").filter(|folder| !folder.is_empty()) {
        return std::path::absolute(folder).doing(|| "finding $WEFT_CACHE".to_owned());
    }
    let home = env::home_dir()
        .ok_or_else(|| Error::Prerequisite("set HOME or WEFT_CACHE: built components need a folder".to_owned()))?;
    Ok(home.join(".cache/weft"))
}

/// The built programs: per module the folder that holds them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tools {
    folders: BTreeMap<String, PathBuf>,
}

impl Tools {
    /// Builds what is not in the cache yet, several modules at a time. `kwok` is only built when asked for.
    pub fn build(kwok: bool, progress: &dyn Progress) -> Result<Self> {
        let wanted: Vec<&Module> = MODULES.iter().filter(|module| kwok || module.name != "kwok").collect();
        Self::build_modules(&wanted, progress)
    }

    /// Builds only `helm` and `kubectl`, for work on a cluster that is already there.
    pub fn build_clients(progress: &dyn Progress) -> Result<Self> {
        let wanted: Vec<&Module> =
            MODULES.iter().filter(|module| matches!(module.name, "helm" | "kubernetes")).collect();
        Self::build_modules(&wanted, progress)
    }

    /// Checks that whatever is not in the cache could be built, so that a person learns of it before anything long begins.
    pub fn can_be_built() -> Result<()> {
        for module in MODULES.iter().filter(|module| module.name != "kwok") {
            if !module.folder()?.exists() {
                return preflight::check_go(preflight::find_go()).map(drop);
            }
        }
        Ok(())
    }

    fn build_modules(wanted: &[&Module], progress: &dyn Progress) -> Result<Self> {
        let mut folders = BTreeMap::new();
        let mut missing = VecDeque::new();
        for module in wanted {
            let folder = module.folder()?;
            if !folder.exists() {
                missing.push_back((*module, folder.clone()));
            }
            folders.insert(module.name.to_owned(), folder);
        }
        if !missing.is_empty() {
            let go = preflight::check_go(preflight::find_go())?;
            make_folder(&cache_folder()?.join("tools"))?;
            if missing.iter().any(|(module, _)| module.cgo) {
                preflight::debian_packages(&preflight::RUNC_BUILD, progress)?;
            }
            build_all(&go, missing, progress)?;
        }
        Ok(Self { folders })
    }

    /// The path of a program, such as `kubelet`.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let module = MODULES.iter().find(|module| module.programs.iter().any(|(program, _)| *program == name));
        let folder = module.and_then(|module| self.folders.get(module.name));
        folder
            .map(|folder| folder.join(name))
            .ok_or_else(|| Error::State(format!("{name} was not built for this cluster")))
    }

    /// The folder with a module's programs, such as `cni`.
    pub fn folder(&self, module: &str) -> Result<&Path> {
        self.folders
            .get(module)
            .map(PathBuf::as_path)
            .ok_or_else(|| Error::State(format!("{module} was not built for this cluster")))
    }

    /// The folders of all modules.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        self.folders.values().cloned().collect()
    }

    /// `PATH` with all programs in it, before the machine's own.
    pub fn search_path(&self) -> String {
        let folders = self.folders.values().map(|folder| folder.display().to_string());
        folders
            .chain(["/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()])
            .collect::<Vec<_>>()
            .join(":")
    }
}

impl Module {
    /// The module's own Go module, in this repository.
    fn source(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("components").join(self.name)
    }

    /// Where its programs are, or will be.
    fn folder(&self) -> Result<PathBuf> {
        Ok(cache_folder()?.join("tools").join(format!("{}-{}", self.name, self.key()?)))
    }

    fn linker_flags(&self) -> Result<String> {
        let mut flags = "-s -w".to_owned();
        if self.name == "kubernetes" {
            // Without it the server calls itself v0.0.0, and charts with a `kubeVersion` refuse it.
            let version = self.required_version("k8s.io/kubernetes")?;
            let mut numbers = version.trim_start_matches('v').split('.');
            let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
            let values = [
                ("gitVersion", version.as_str()),
                ("gitMajor", major),
                ("gitMinor", minor),
                ("gitCommit", "weft"),
                ("gitTreeState", "clean"),
            ];
            for (name, value) in values {
                flags.push_str(&format!(" -X k8s.io/component-base/version.{name}={value}"));
            }
        }
        Ok(flags)
    }

    fn required_version(&self, project: &str) -> Result<String> {
        let go_mod = read(&self.source().join("go.mod"))?;
        let version = go_mod.lines().find_map(|line| {
            let mut words = line.split_whitespace().skip_while(|word| *word == "require");
            (words.next() == Some(project)).then(|| words.next().map(str::to_owned)).flatten()
        });
        version.ok_or_else(|| {
            Error::State(format!("{} does not require {project}", self.source().join("go.mod").display()))
        })
    }

    /// A hash of all that the result depends on.
    fn key(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for part in [read(&self.source().join("go.mod"))?, read(&self.source().join("go.sum"))?, self.linker_flags()?] {
            hash.update(part);
            hash.update([0]);
        }
        for (program, package) in self.programs {
            hash.update(format!("{program} {package} {} {}\n", self.tags, self.cgo));
        }
        Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    fn build(&self, go: &Path, folder: &Path, news: &dyn Fn(&str)) -> Result<()> {
        let lock_path = folder.with_extension("lock");
        let lock = fs::File::create(&lock_path).doing(|| format!("making {}", lock_path.display()))?;
        news("waiting for another build of the same");
        lock.lock().doing(|| format!("locking {}", lock_path.display()))?;
        if folder.exists() {
            return Ok(());
        }
        let new = folder.with_extension("new");
        if new.exists() {
            fs::remove_dir_all(&new).doing(|| format!("removing {}", new.display()))?;
        }
        make_folder(&new)?;
        let mut command = self.go(go);
        command.args(["build", "-v", "-trimpath", "-tags", self.tags, "-ldflags", &self.linker_flags()?, "-o"]);
        // With a slash at its end it is a folder, and Go names the programs.
        command.arg(format!("{}/", new.display())).args(self.programs.iter().map(|(_, package)| package));
        follow(self.name, command, news)?;
        for (program, package) in self.programs {
            // Go names a program by the last word of its package that is not a version.
            let built =
                package.rsplit('/').find(|word| word.strip_prefix('v').is_none_or(|rest| rest.parse::<u32>().is_err()));
            if let Some(built) = built.filter(|built| built != program) {
                fs::rename(new.join(built), new.join(program)).doing(|| format!("naming {program}"))?;
            }
        }
        if self.name == "kwok" {
            news("collecting kwok's stages");
            write(&new.join("stages.yaml"), self.kwok_stages(go)?)?;
        }
        fs::rename(&new, folder).doing(|| format!("renaming {} to {}", new.display(), folder.display()))?;
        let _ = fs::remove_file(&lock_path);
        Ok(())
    }

    fn go(&self, go: &Path) -> Command {
        let mut command = Command::new(go);
        command.current_dir(self.source()).env("CGO_ENABLED", if self.cgo { "1" } else { "0" });
        // Nobody's own settings, and no toolchain fetched behind one's back.
        command.envs([("GOTOOLCHAIN", "local"), ("GOFLAGS", "-mod=readonly"), ("GOWORK", "off")]);
        command
    }

    /// How kwok's nodes and pods behave: its own `fast` stages, which come as YAML files in its module.
    fn kwok_stages(&self, go: &Path) -> Result<String> {
        let folder = output(self.go(go).args(["list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"]))?;
        let stages = Path::new(folder.trim()).join("kustomize/stage");
        let mut all = String::new();
        for group in ["node/fast", "node/heartbeat-with-lease", "pod/fast"] {
            let folder = stages.join(group);
            let mut files: Vec<PathBuf> = fs::read_dir(&folder)
                .doing(|| format!("reading {}", folder.display()))?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| {
                    path.extension().is_some_and(|end| end == "yaml") && !path.ends_with("kustomization.yaml")
                })
                .collect();
            files.sort();
            for file in files {
                all.push_str(&read(&file)?);
                all.push_str("\n---\n");
            }
        }
        Ok(all)
    }
}

/// Builds modules side by side; the first failure ends the rest once they are through with what they do.
fn build_all(go: &Path, missing: VecDeque<(&Module, PathBuf)>, progress: &dyn Progress) -> Result<()> {
    // Two: one module's linking, which has one thread, runs beside another one's compiling, which has as many as there
    // are cores.
    let workers = missing.len().min(2);
    let queue = Mutex::new(missing);
    let (done, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..workers {
            let (queue, done) = (&queue, done.clone());
            scope.spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop_front();
                    let Some((module, folder)) = next else { break };
                    let what = format!("building {}", module.name);
                    let begin = Instant::now();
                    let result = module.build(go, &folder, &|detail| progress.working(&what, detail));
                    progress.finished(&what);
                    match result {
                        Ok(()) => progress.step(&format!("{} built in {} s", module.name, begin.elapsed().as_secs())),
                        Err(_) => queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear(),
                    }
                    if done.send(result).is_err() {
                        break;
                    }
                }
            });
        }
        drop(done);
        results.iter().collect()
    })
}

/// Runs a build and tells which package it is at, and for how long.
fn follow(name: &str, mut command: Command, news: &dyn Fn(&str)) -> Result<()> {
    let text = crate::run::line(&command);
    let begin = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().doing(|| format!("starting `{text}`"))?;
    let (lines, received) = mpsc::channel();
    let reader = child.stderr.take().map(|stderr| {
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        })
    });
    let (mut compiled, mut newest, mut last, mut told) = (0, String::new(), VecDeque::new(), begin);
    loop {
        match received.recv_timeout(NEWS) {
            Ok(line) => {
                if let Some(rest) = line.strip_prefix("go: downloading ") {
                    newest = format!("downloading {rest}");
                } else if !line.starts_with('#') && !line.contains(' ') {
                    compiled += 1;
                    newest = line.clone();
                }
                last.push_back(line);
                if last.len() > 15 {
                    last.pop_front();
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        if told.elapsed() >= NEWS {
            told = Instant::now();
            let seconds = begin.elapsed().as_secs();
            // Nothing is said while Go looks at what it compiled before, and while it links.
            news(&if newest.is_empty() {
                format!("{seconds} s")
            } else {
                format!("{seconds} s, {compiled} packages compiled, now {newest}")
            });
        }
    }
    if let Some(reader) = reader {
        let _ = reader.join();
    }
    let status = child.wait().doing(|| format!("waiting for `{text}`"))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Command { command: format!("go build ({name})"), status, output: Vec::from(last).join("\n") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_has_its_source_and_a_key_of_its_own() {
        let keys: std::collections::BTreeSet<String> = MODULES.iter().map(|module| module.key().unwrap()).collect();
        assert_eq!(keys.len(), MODULES.len());
    }

    #[test]
    fn the_api_server_says_the_version_that_is_pinned() {
        let flags = MODULES[0].linker_flags().unwrap();
        let version = MODULES[0].required_version("k8s.io/kubernetes").unwrap();
        assert!(flags.contains(&format!("gitVersion={version}")), "{flags}");
    }

    #[test]
    fn a_failing_build_shows_what_the_compiler_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo some/package >&2; echo './x.go:1:1: expected package' >&2; exit 1"]);
        let error = follow("x", command, &|_| {}).unwrap_err().to_string();
        assert!(error.contains("expected package"), "{error}");
    }
}
