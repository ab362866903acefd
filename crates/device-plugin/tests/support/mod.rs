//! A simulated machine, a kubelet's two sockets, and the agent's own binary between them.

pub mod kubelet;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;
use weft_sim::layout;
use weft_sim::profile::Profile;
use weft_sim::state::{Fault, Isolation, Machine};

/// Nothing here takes this long; a test that waits for it has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One node in a temporary folder: simulated, or this machine.
pub struct Node {
    dir: TempDir,
    real: bool,
}

impl Node {
    /// A node with this profile and a driver.
    pub fn new(profile: &str) -> Self {
        let node = Node::without_driver(profile);
        node.install_driver();
        node
    }

    /// This machine, with its driver and its GPUs.
    pub fn real() -> Self {
        Node::empty(true)
    }

    fn empty(real: bool) -> Self {
        let node = Node { dir: tempfile::tempdir().unwrap(), real };
        for folder in ["root", "dev", "kubelet/device-plugins", "kubelet/pod-resources"] {
            std::fs::create_dir_all(node.path(folder)).unwrap();
        }
        node
    }

    /// A node whose driver is not installed.
    pub fn without_driver(profile: &str) -> Self {
        let node = Node::empty(false);
        std::fs::write(node.path("dev/nvidiactl"), "").unwrap();
        Machine::create(&node.path("machine"), Profile::load(profile).unwrap(), "node-1", Isolation::Off).unwrap();
        node
    }

    pub fn install_driver(&self) {
        layout::lay_out(&library(), &self.path("root").join(layout::LIBRARY_FOLDER)).unwrap();
    }

    /// Takes the driver away, as its uninstaller does.
    pub fn remove_driver(&self) {
        std::fs::remove_dir_all(self.path("root").join(layout::LIBRARY_FOLDER)).unwrap();
    }

    /// Puts `nvidia-modprobe` into the driver root, a script of this body, with the shell that it needs there; the node's
    /// `/dev` is then the root's.
    pub fn install_modprobe(&self, body: &str) {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let listed = Command::new("ldd").arg("/bin/sh").output().unwrap();
        let text = String::from_utf8(listed.stdout).unwrap();
        for file in text.split_whitespace().filter(|word| word.starts_with('/')).chain(["/bin/sh"]) {
            let target = self.path("root").join(file.trim_start_matches('/'));
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(file, target).unwrap();
        }
        let program = self.path("root/usr/bin/nvidia-modprobe");
        std::fs::create_dir_all(program.parent().unwrap()).unwrap();
        std::fs::write(&program, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(self.path("dev"), self.path("root/dev")).unwrap();
        symlink("root/dev", self.path("dev")).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn machine(&self) -> Machine {
        Machine::open(&self.path("machine")).unwrap()
    }

    pub fn raise(&self, gpu: usize, fault: Fault) {
        self.machine().gpu(gpu).raise(fault).unwrap();
    }

    pub fn uuid(&self, gpu: usize) -> String {
        self.machine().facts()[gpu].uuid.to_string()
    }

    pub fn uuids(&self, gpus: &[usize]) -> Vec<String> {
        gpus.iter().map(|gpu| self.uuid(*gpu)).collect()
    }

    fn command(&self) -> Command {
        // A machine with a GPU is often not the one that the tests were built on.
        let built = env!("CARGO_BIN_EXE_weft-agent").into();
        let mut command = Command::new(std::env::var_os("WEFT_AGENT").unwrap_or(built));
        command.args(["--node-name", "node-1", "--log-format", "json"]);
        if !self.real {
            command.args(["--driver-root", "/opt/driver", "--driver-root-ctr-path"]).arg(self.path("root"));
            command.env("WEFT_SIM_STATE", self.path("machine"));
        }
        command.env_remove("NODE_NAME").env("RUST_LOG", "info").stdin(Stdio::null());
        command
    }

    /// `weft-agent discover --json`.
    pub fn discover(&self) -> serde_json::Value {
        let output = self.discover_raw();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn discover_raw(&self) -> Output {
        self.command().args(["discover", "--json"]).output().unwrap()
    }

    /// Starts the agent.
    pub fn agent(&self, arguments: &[&str]) -> Agent {
        let mut child = self
            .command()
            .args(["--standalone"])
            .arg("--kubelet-dir")
            .arg(self.path("kubelet"))
            .arg("--cdi-dir")
            .arg(self.path("cdi"))
            .arg("--dev-dir")
            .arg(if self.real { "/dev".into() } else { self.path("dev") })
            .args(if arguments.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"][..] })
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (lines, log_lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                // Shown by the test harness when the test fails.
                println!("{line}");
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        Agent { child, log: log_lines }
    }

    pub fn device_plugins(&self) -> PathBuf {
        self.path("kubelet/device-plugins")
    }

    pub fn plugin_socket(&self) -> PathBuf {
        self.device_plugins().join("nvidia-gpu.sock")
    }

    pub fn cdi(&self) -> serde_json::Value {
        let file = self.path("cdi/k8s.device-plugin.nvidia.com-gpu.json");
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }
}

/// The stand-in library that cargo built with this test.
fn library() -> PathBuf {
    layout::built_library().unwrap()
}

/// A running agent; killed when dropped.
pub struct Agent {
    child: Child,
    log: mpsc::Receiver<String>,
}

impl Agent {
    /// Waits for a line of the log that has this in it, and returns it.
    pub fn logged(&self, part: &str) -> serde_json::Value {
        loop {
            let line = self.log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("the agent never logged {part:?}"));
            if line.contains(part) {
                return serde_json::from_str(&line).unwrap_or(serde_json::Value::String(line));
            }
        }
    }

    /// Where its pages are.
    pub fn listens(&self) -> String {
        self.logged("weft-agent starts")["listen"].as_str().unwrap().to_owned()
    }

    /// Asks it to stop and returns its exit code.
    pub fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }

    /// Waits until it ends by itself.
    pub fn ends(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One page of the agent: status and body.
pub async fn get(address: &str, page: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {page} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

/// Whether a path exists, for waiting.
pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
