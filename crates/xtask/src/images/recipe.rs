//! What goes into each image.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};
use clap::ValueEnum;
use weft_cluster::{PAUSE_IMAGE, preflight};

use super::{
    archive::{self, Config, Entry, Layer},
    closure, folder,
};
use crate::{process, progress::Console, tools};

/// An image that Weft is made of, or is tried with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Image {
    /// The node agent.
    Agent,
    /// The operator.
    Operator,
    /// The sidecar, with NVRTC and CUDA's maths libraries.
    Runtime,
    /// The sidecar for simulated nodes, with NVRTC: the stand-ins of the maths libraries come with the simulated driver.
    RuntimeSimulated,
    /// An application: Python, NumPy and Weft's client, no CUDA.
    ExampleApp,
    /// The process that holds a pod's namespaces.
    Pause,
}

/// The user that containers run as where they need not be root.
const USER: &str = "65532:65532";
const MUSL: &str = "x86_64-unknown-linux-musl";
const SEARCH_PATH: &str = "PATH=/usr/local/bin:/usr/bin:/bin";

impl Image {
    /// Those that a registry gets.
    pub const SHIPPED: [Self; 4] = [Self::Agent, Self::Operator, Self::Runtime, Self::ExampleApp];
    /// Those on this machine's simulated nodes.
    pub const ON_SIMULATED_NODES: [Self; 5] =
        [Self::Pause, Self::Agent, Self::Operator, Self::RuntimeSimulated, Self::ExampleApp];
    /// Those on a node with this machine's GPUs.
    pub const ON_REAL_NODES: [Self; 5] = [Self::Pause, Self::Agent, Self::Operator, Self::Runtime, Self::ExampleApp];

    /// Its name for pods.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "weft.test/weft-agent:dev",
            Self::Operator => "weft.test/weft-operator:dev",
            Self::Runtime | Self::RuntimeSimulated => "weft.test/weft-runtime:dev",
            Self::ExampleApp => "weft.test/example-app:dev",
            Self::Pause => PAUSE_IMAGE,
        }
    }

    /// The archive's name in `target/images`.
    pub fn file(self) -> &'static str {
        match self {
            Self::Agent => "weft-agent.tar",
            Self::Operator => "weft-operator.tar",
            Self::Runtime => "weft-runtime.tar",
            Self::RuntimeSimulated => "weft-runtime-simulated.tar",
            Self::ExampleApp => "example-app.tar",
            Self::Pause => "pause.tar",
        }
    }
}

/// Builds an image if its inputs have changed; returns the archive.
pub fn build(image: Image, profile: Profile) -> Result<PathBuf> {
    tools::make_folder(&folder().join("parts"))?;
    let (layers, config) = match image {
        Image::Agent => agent(profile)?,
        Image::Operator => operator(profile)?,
        Image::Runtime => runtime(profile, true)?,
        Image::RuntimeSimulated => runtime(profile, false)?,
        Image::ExampleApp => example_app()?,
        Image::Pause => pause()?,
    };
    let archive = folder().join(image.file());
    let written = archive::write(&archive, image.name(), &layers, &config)?;
    let size = fs::metadata(&archive)?.len() as f64 / 1e6;
    println!("  {} {} ({size:.1} MB)", image.name(), if written { "built" } else { "unchanged" });
    Ok(archive)
}

/// With which cargo profile an image's program is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    #[default]
    Release,
    /// Unoptimised, and quickly built: while one works on Weft.
    Dev,
}

fn agent(profile: Profile) -> Result<(Vec<Layer>, Config)> {
    let program = cargo_build("weft-device-plugin", "weft-agent", profile, None)?;
    // It talks to kubelet's sockets and makes device nodes' specs: it runs as root.
    Ok((
        vec![base(&closure::libraries_for_loading(&program)?), program_layer("weft-agent", &program)],
        config("weft-agent", "0:0", &[]),
    ))
}

fn operator(profile: Profile) -> Result<(Vec<Layer>, Config)> {
    // One more target is one more build of every dependency: only for what ships.
    let target = if profile == Profile::Release { musl_target()? } else { None };
    let program = cargo_build("weft-operator", "weft-operator", profile, target)?;
    let libraries = closure::libraries(std::slice::from_ref(&program))?;
    Ok((vec![base(&libraries), program_layer("weft-operator", &program)], config("weft-operator", USER, &[])))
}

fn runtime(profile: Profile, maths: bool) -> Result<(Vec<Layer>, Config)> {
    let program = cargo_build("weft-runtime", "weft-runtime", profile, None)?;
    let mut folders = vec![(tools::nvrtc()?, tools::NVRTC.as_slice())];
    if maths {
        folders.push((tools::cuda_maths()?, tools::CUDA_MATHS.as_slice()));
    }
    let (mut cuda, mut libraries) = (Layer::default(), closure::libraries_for_loading(&program)?);
    for (folder, names) in folders {
        for name in names {
            let file = folder.join(name);
            // Its own needs are the image's too (the builtins are C++ and want libstdc++), but for those beside it.
            let needed = closure::libraries(std::slice::from_ref(&file))?;
            libraries.extend(needed.into_iter().filter(|(_, library)| !library.starts_with(&folder)));
            cuda.add(format!("opt/cuda/{name}"), Entry::File(file));
        }
    }
    let layers = vec![base(&libraries), cuda, program_layer("weft-runtime", &program)];
    Ok((layers, config("weft-runtime", USER, &["LD_LIBRARY_PATH=/opt/cuda"])))
}

/// Debian's Python, NumPy and gRPC from their own packages, as a user's image would have them; nothing of CUDA.
fn example_app() -> Result<(Vec<Layer>, Config)> {
    let python = Path::new("/usr/bin/python3");
    preflight::debian_packages(
        &[preflight::Package { name: "python3", files: &["/usr/bin/python3"] }],
        &Console::new(),
    )?;
    let version =
        process::output(Command::new(python).args(["-Ic", "import sys; print('%d.%d' % sys.version_info[:2])"]))?;
    let version = version.trim();
    let library = PathBuf::from(format!("/usr/lib/python{version}"));
    let program = PathBuf::from(format!("/usr/bin/python{version}"));

    let mut modules = Layer::default();
    let unneeded = [
        "__pycache__",
        "test",
        "idlelib",
        "tkinter",
        "turtledemo",
        "ensurepip",
        "lib2to3",
        "pydoc_data",
        "dist-packages",
    ];
    let keep = |below: &Path| {
        let config =
            below.components().next().is_some_and(|first| first.as_os_str().to_string_lossy().starts_with("config-"));
        !config && !below.iter().any(|part| unneeded.iter().any(|name| part == *name))
    };
    modules.add_tree(&format!("usr/lib/python{version}"), &library, &keep)?;
    let mut needing: Vec<PathBuf> =
        fs::read_dir(library.join("lib-dynload"))?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    needing.push(program.clone());
    let mut system = base(&closure::libraries(&needing)?);
    system.add(format!("usr/bin/python{version}"), Entry::File(program));
    system.add("usr/bin/python3", Entry::Link(format!("python{version}")));

    let wheels = packages(version)?;
    let mut packages = Layer::default();
    let tests = |below: &Path| !below.iter().any(|part| part == "tests" || part == "__pycache__");
    packages.add_tree("opt/python", &wheels, &tests)?;
    // The packages' own libraries come with them; these are the system's that they need.
    let mut natives = Vec::new();
    find_libraries(&wheels, &mut natives)?;
    for (path, file) in closure::libraries(&natives)? {
        if !file.starts_with(&wheels) && !system.has(&path) {
            packages.add(path, Entry::File(file));
        }
    }

    let root = tools::workspace_root();
    let mut application = Layer::default();
    let source = |below: &Path| !below.iter().any(|part| part == "__pycache__" || part == "tests");
    for (at, from) in [("opt/python/weft", root.join("clients/python/weft")), ("app", root.join("deploy/example-app"))]
    {
        if !from.is_dir() {
            bail!("there is no {}, which {} is made from", from.display(), Image::ExampleApp.name());
        }
        application.add_tree(at, &from, &source)?;
    }
    let config = Config {
        entrypoint: vec!["/usr/bin/python3".into()],
        env: vec![SEARCH_PATH.into(), "PYTHONPATH=/opt/python".into(), "PYTHONUNBUFFERED=1".into()],
        user: USER.into(),
        folder: "/app".into(),
    };
    Ok((vec![system, modules, packages, application], config))
}

fn pause() -> Result<(Vec<Layer>, Config)> {
    let source = tools::workspace_root().join("deploy/pause/pause.c");
    let program = folder().join("parts/pause");
    let newer = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if newer(&program) < newer(&source) {
        preflight::debian_packages(&preflight::STATIC_BUILD, &Console::new())?;
        process::output(
            Command::new("musl-gcc").args(["-static", "-Os", "-s", "-Wall", "-o"]).arg(&program).arg(&source),
        )?;
    }
    let mut layer = Layer::default();
    layer.add("pause", Entry::File(program));
    Ok((vec![layer], Config { entrypoint: vec!["/pause".into()], user: USER.into(), ..Config::default() }))
}

/// What every image with a program begins with: the folders as on any Linux, users, libraries.
fn base(libraries: &std::collections::BTreeMap<String, PathBuf>) -> Layer {
    let mut layer = Layer::default();
    for (link, target) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        layer.add(link, Entry::Link(target.into()));
    }
    for folder in ["usr/bin", "usr/local/bin", "usr/lib64", closure::LIBRARIES, "run", "var/run", "home/weft"] {
        layer.add(folder, Entry::Folder { mode: 0o755 });
    }
    layer.add("tmp", Entry::Folder { mode: 0o1777 });
    layer.add(
        "etc/passwd",
        Entry::Text("root:x:0:0:root:/:/sbin/nologin\nweft:x:65532:65532:weft:/home/weft:/sbin/nologin\n".into()),
    );
    layer.add("etc/group", Entry::Text("root:x:0:\nweft:x:65532:\n".into()));
    for (path, file) in libraries {
        layer.add(path.clone(), Entry::File(file.clone()));
    }
    layer
}

fn program_layer(name: &str, program: &Path) -> Layer {
    let mut layer = Layer::default();
    layer.add(format!("usr/local/bin/{name}"), Entry::File(program.to_owned()));
    layer
}

fn config(program: &str, user: &str, env: &[&str]) -> Config {
    Config {
        entrypoint: vec![format!("/usr/local/bin/{program}")],
        env: std::iter::once(&SEARCH_PATH).chain(env).map(|text| (*text).to_owned()).collect(),
        user: user.to_owned(),
        folder: "/".into(),
    }
}

/// Builds a program with cargo and returns its path.
fn cargo_build(package: &str, program: &str, profile: Profile, target: Option<&str>) -> Result<PathBuf> {
    if profile == Profile::Release {
        let mut cargo = tools::cargo();
        cargo.args(["build", "--locked", "--release", "-p", package, "--bin", program]);
        let mut built = tools::target_folder();
        if let Some(target) = target {
            cargo.args(["--target", target]);
            built.push(target);
        }
        process::run(program, &mut cargo)?;
        return Ok(built.join("release").join(program));
    }
    let built = tools::build_workspace()?.join(program);
    let stripped = folder().join("parts").join(format!("{program}.dev"));
    let time = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if time(&stripped) < time(&built) {
        closure::strip(&built, &stripped)?;
    }
    Ok(stripped)
}

/// The target for static programs, added to the toolchain if that is possible; `None` where it cannot be had.
fn musl_target() -> Result<Option<&'static str>> {
    let installed = || -> Result<bool> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let root =
            process::output(Command::new(rustc).args(["--print", "sysroot"]).current_dir(tools::workspace_root()))?;
        Ok(Path::new(root.trim()).join("lib/rustlib").join(MUSL).exists())
    };
    if !installed()? {
        // Without rustup, or without its server, the program is linked with glibc: its image is bigger and works as
        // well.
        let added =
            process::output(Command::new("rustup").args(["target", "add", MUSL]).current_dir(tools::workspace_root()));
        if added.is_err() || !installed()? {
            println!("  the target {MUSL} cannot be had here (`rustup target add {MUSL}`): linking with glibc");
            return Ok(None);
        }
    }
    preflight::debian_packages(&preflight::STATIC_BUILD, &Console::new())?;
    Ok(Some(MUSL))
}

/// The application's packages for a version of Python, in the cache.
fn packages(python: &str) -> Result<PathBuf> {
    let requirements = "deploy/example-app/requirements.txt";
    let list = tools::requirements_key(requirements)?;
    let folder = weft_cluster::tools::cache_folder()?.join(format!("example-app-{list}-python{python}"));
    if !folder.exists() {
        let unpacked = tools::python_packages(requirements, "the example's packages", Some(python))?;
        fs::rename(unpacked.path(), &folder)?;
        // It has moved: there is nothing left to remove.
        let _ = unpacked.keep();
    }
    Ok(folder)
}

fn find_libraries(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find_libraries(&path, found)?;
        } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so")) {
            found.push(path);
        }
    }
    Ok(())
}
