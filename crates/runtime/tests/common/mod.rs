//! The runtime as a process of its own, on simulated GPUs.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_sim::layout;

/// How long a test waits for what must happen soon.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Driver and libraries of the simulator.
fn simulator() -> &'static Path {
    // A fixed place: test programs run one after the other, and laying out again replaces what is there.
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("simulator");
        layout::lay_out(&layout::built_library().unwrap(), &folder).unwrap();
        folder
    })
}

/// NVIDIA's compiler, which `cargo xtask test` fetches.
fn nvrtc() -> PathBuf {
    let cache = std::env::var_os("WEFT_CACHE")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/weft"), PathBuf::from);
    let folder = cache.join("nvrtc-13.0.88");
    assert!(
        folder.join("libnvrtc.so.13").exists(),
        "there is no NVRTC in {}: run cargo xtask test once",
        folder.display()
    );
    folder
}

/// `weft-runtime` with a simulated machine.
pub fn runtime() -> Command {
    let mut path = OsString::from(simulator());
    path.push(":");
    path.push(nvrtc());
    let mut command = bare_runtime();
    command.env("LD_LIBRARY_PATH", path).env("WEFT_SIM_PROFILE", "h100x8");
    command
}

/// `weft-runtime` on a machine without a driver.
pub fn bare_runtime() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-runtime"));
    for name in ["WEFT_SIM_STATE", "WEFT_RUNTIME_SOCKET", "WEFT_SHM_DIR", "WEFT_METRICS_LISTEN", "RUST_LOG"] {
        command.env_remove(name);
    }
    command.env_remove("LD_LIBRARY_PATH").stdin(Stdio::null());
    command
}

/// Runs a program text with `run --json`. Returns the result and the exit code.
pub fn run_program(text: &str) -> (Value, i32) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("program.yaml");
    std::fs::write(&file, text).unwrap();
    run_file(&file)
}

/// Runs a file with `run --json`. Returns the result and the exit code.
pub fn run_file(file: &Path) -> (Value, i32) {
    result_of(runtime().arg("run").arg(file).arg("--json").output().unwrap())
}

/// The one line of JSON on standard output, and the exit code.
pub fn result_of(output: Output) -> (Value, i32) {
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.lines().count(), 1, "one line of JSON, not {text:?}\n{errors}");
    (serde_json::from_str(&text).unwrap(), output.status.code().unwrap())
}

/// An example that users copy.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples").join(name)
}

/// `weft-runtime serve` in a folder of its own.
pub struct Server {
    child: Child,
    folder: tempfile::TempDir,
    metrics: SocketAddr,
    /// What it says after it has begun to serve.
    says: Option<JoinHandle<String>>,
}

impl Server {
    pub fn start() -> Self {
        Self::start_in(folder())
    }

    pub fn start_in(folder: tempfile::TempDir) -> Self {
        Self::start_with(folder, &[])
    }

    /// Starts and waits until it serves.
    pub fn start_with(folder: tempfile::TempDir, arguments: &[&str]) -> Self {
        let mut child = Self::command(folder.path()).args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut heard = String::new();
        let metrics = loop {
            let Some(Ok(line)) = lines.next() else { panic!("the runtime ended before it served:\n{heard}") };
            let serving = serde_json::from_str::<Value>(&line).ok();
            if let Some(address) = serving.as_ref().and_then(|line| line["fields"]["metrics"].as_str()) {
                break address.parse().unwrap();
            }
            heard.push_str(&line);
            heard.push('\n');
        };
        // Whatever it says later must be read, or it would wait for a reader.
        let says = std::thread::spawn(move || {
            let said: Vec<String> = lines.map_while(Result::ok).inspect(|line| eprintln!("{line}")).collect();
            said.join("\n")
        });
        Self { child, folder, metrics, says: Some(says) }
    }

    pub fn command(folder: &Path) -> Command {
        let mut command = runtime();
        command.arg("serve").arg("--socket").arg(folder.join("runtime.sock"));
        command.arg("--shm-dir").arg(folder.join("shm")).args(["--metrics-listen", "127.0.0.1:0"]);
        command
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn shm(&self) -> PathBuf {
        self.folder().join("shm")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder().join("runtime.sock")
    }

    pub async fn client(&self) -> weft_client::Client {
        weft_client::Client::connect(&self.socket(), &self.shm(), PATIENCE).await.unwrap()
    }

    /// A page of its HTTP server, with the status line.
    pub fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: runtime\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// The value of a metric without labels, or the sum of all with labels.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.page("/metrics");
        let values = page.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next()? == name).then(|| value.parse::<f64>().unwrap())
        });
        values.sum()
    }

    /// Waits until a metric has a value.
    pub fn wait_for(&self, name: &str, value: f64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.metric(name);
            if now == value {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {now} and not {value}");
        }
    }

    /// Asks it to end, and says how it did.
    pub fn terminate(mut self) -> i32 {
        signal(self.child.id(), "TERM");
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// Waits until it ends by itself. Returns its exit code, what it said, and the folder with what it left.
    pub fn ends(mut self) -> (i32, String, tempfile::TempDir) {
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        let said = self.says.take().unwrap().join().unwrap();
        (code, said, std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap()))
    }

    /// Kills it as the kernel does, and returns the folder with what it left.
    pub fn kill(mut self) -> tempfile::TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder in memory, as the pod's shared volume is.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// Sends a signal to a process that the test started.
pub fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), process.to_string()]).status().unwrap();
    assert!(sent.success());
}
