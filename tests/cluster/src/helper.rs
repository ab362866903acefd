//! The part of a cluster that runs in other namespaces.
//!
//! Entering a mount or pid namespace is for single-threaded programs, and the callers of this crate are not. So a
//! program that makes clusters starts *itself* again with [`ARGUMENT`] first, and [`dispatch`], the first line of its
//! `main`, turns that copy into one of these:
//!
//! | mode | becomes |
//! |---|---|
//! | `boot` | makes a node's namespaces and starts `init` in them |
//! | `init` | the node's pid 1: builds its file system, then waits until it is killed, which ends everything in the node |
//! | `run` | a command in a node or in the control plane's network, with this terminal |
//! | `daemon` | the same, but in the background: its pid comes on standard output |
//! | `detach` | the second half of `run` and `daemon`, inside the namespaces |
//! | `forward` | a port of the machine's loopback that leads into the control plane's network |

use std::{
    fs::File,
    io::{self, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{
    process::{Pid, PidfdFlags, Signal},
    thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags},
};
use serde::{Deserialize, Serialize};

use crate::{
    cgroup,
    error::{Doing, Error, Result, read},
    node_root::{self, NodeRoot},
};

/// The first argument by which a copy of the program knows that it is a helper.
pub const ARGUMENT: &str = "__weft-cluster-helper";

/// What a copy of the program is to do: its second argument, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    /// See the module's table.
    Boot { network: PathBuf, cgroup: PathBuf, root: PathBuf },
    /// See the module's table. The file holds a [`NodeRoot`].
    Init { root: PathBuf },
    /// See the module's table. The command follows as further arguments.
    Run(Place),
    /// See the module's table. Standard error is the daemon's log.
    Daemon(Place),
    /// See the module's table.
    Detach { background: bool },
    /// See the module's table.
    Forward { port: u16, cgroup: PathBuf, network: PathBuf, to: SocketAddr },
}

/// Where a command runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The group that it joins.
    pub cgroup: PathBuf,
    pub inside: Inside,
}

/// Which namespaces a command enters.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Inside {
    /// All of a node's, through its pid 1.
    Node { init: i32 },
    /// A network namespace and no other.
    Network(PathBuf),
}

/// The command that starts this program again with a task.
pub(crate) fn command(helper: &Path, task: &Task) -> Result<Command> {
    let json = serde_json::to_string(task).map_err(io::Error::from).doing(|| "writing a helper's task".to_owned())?;
    let mut command = Command::new(helper);
    command.arg0("weft-cluster").arg(ARGUMENT).arg(json);
    Ok(command)
}

/// Turns the process into a helper if it was started as one, and then does not return. Call it first in `main`, before
/// any thread is started.
pub fn dispatch() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != ARGUMENT) {
        return;
    }
    let task = arguments.next().unwrap_or_default();
    let words: Vec<_> = arguments.collect();
    let done = serde_json::from_slice::<Task>(task.as_encoded_bytes())
        .map_err(io::Error::from)
        .doing(|| format!("reading the task {}", task.display()))
        .and_then(|task| match task {
            Task::Boot { network, cgroup, root } => boot(&network, &cgroup, root),
            Task::Init { root } => init(&root),
            Task::Run(place) => enter(&place, &words, false),
            Task::Daemon(place) => enter(&place, &words, true),
            Task::Detach { background } => detach(&words, background),
            Task::Forward { port, cgroup, network, to } => {
                cgroup::join(&cgroup).and_then(|()| forward(port, &network, to))
            }
        });
    match done {
        Ok(code) => std::process::exit(code),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(125);
        }
    }
}

/// This program, by a link that holds even if the file was replaced or the mount namespace is another.
fn myself(task: &Task) -> Result<Command> {
    command(Path::new("/proc/self/exe"), task)
}

fn boot(network: &Path, group: &Path, root: PathBuf) -> Result<i32> {
    cgroup::join(group)?;
    enter_network(network)?;
    let flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWCGROUP;
    // SAFETY: only `UnshareFlags::FILES` is dangerous, and it is not among these.
    unsafe { rustix::thread::unshare_unsafe(flags) }.doing(|| "making a node's namespaces".to_owned())?;
    // The group was joined first so that it is the root of the node's view; its processes may have to live below it.
    cgroup::join(&cgroup::of_daemons(group))?;
    cgroup::delegate(group)?;
    let child = myself(&Task::Init { root })?.spawn().doing(|| "starting a node's pid 1".to_owned())?;
    say(child.id())?;
    Ok(0)
}

fn init(root: &Path) -> Result<i32> {
    let root: NodeRoot =
        serde_json::from_str(&read(root)?).map_err(io::Error::from).doing(|| format!("reading {}", root.display()))?;
    rustix::process::setsid().doing(|| "starting a session".to_owned())?;
    node_root::build(&root)?;
    say("ready")?;
    let null = File::options().read(true).write(true).open("/dev/null").doing(|| "opening /dev/null".to_owned())?;
    rustix::stdio::dup2_stdin(&null).doing(|| "leaving standard input".to_owned())?;
    rustix::stdio::dup2_stdout(&null).doing(|| "leaving standard output".to_owned())?;
    // SAFETY: `SIG_IGN` is no handler, so no code of ours runs in a signal's context. The kernel then reaps orphans by
    // itself.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    loop {
        // SAFETY: `pause` takes nothing and only waits for a signal.
        unsafe { libc::pause() };
    }
}

fn enter(place: &Place, words: &[std::ffi::OsString], background: bool) -> Result<i32> {
    // Before the namespaces: group paths are the machine's.
    cgroup::join(&place.cgroup)?;
    match &place.inside {
        Inside::Network(path) => enter_network(path)?,
        Inside::Node { init } => {
            let pid = Pid::from_raw(*init).ok_or_else(|| Error::State(format!("{init} is no pid")))?;
            let node = rustix::process::pidfd_open(pid, PidfdFlags::empty())
                .doing(|| format!("finding the node's pid 1 ({init})"))?;
            let all = ThreadNameSpaceType::MOUNT
                | ThreadNameSpaceType::CONTROL_GROUP
                | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
                | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
                | ThreadNameSpaceType::PROCESS_ID
                | ThreadNameSpaceType::NETWORK;
            rustix::thread::move_into_thread_name_spaces(node.as_fd(), all).doing(|| "entering the node".to_owned())?;
        }
    }
    // A pid namespace is entered by the next child only. For a daemon that child makes another one and ends, so that
    // the daemon belongs to the node's pid 1 and not to a process outside.
    let mut child =
        myself(&Task::Detach { background })?.args(words).spawn().doing(|| "entering the namespaces".to_owned())?;
    let status = child.wait().doing(|| "waiting for the command".to_owned())?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
}

fn detach(words: &[std::ffi::OsString], background: bool) -> Result<i32> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Error::State("there is no command to run".to_owned()));
    };
    let mut command = Command::new(program);
    command.args(arguments);
    if !background {
        // A command must not outlive the one who asked for it.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .doing(|| "tying the command to its caller".to_owned())?;
        let error = command.exec();
        eprintln!("{}: {error}", program.display());
        return Ok(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 });
    }
    rustix::process::setsid().doing(|| "starting a session".to_owned())?;
    std::env::set_current_dir("/").doing(|| "going to /".to_owned())?;
    let log = io::stderr().as_fd().try_clone_to_owned().doing(|| "opening the log twice".to_owned())?;
    command.stdin(Stdio::null()).stdout(log);
    let child = command.spawn().doing(|| format!("starting {}", program.display()))?;
    say(child.id())?;
    Ok(0)
}

fn enter_network(path: &Path) -> Result<()> {
    let namespace =
        OwnedFd::from(File::open(path).doing(|| format!("opening the network namespace {}", path.display()))?);
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .doing(|| format!("entering the network namespace {}", path.display()))
}

/// A line for whoever started the helper.
fn say(what: impl std::fmt::Display) -> Result<()> {
    writeln!(io::stdout(), "{what}").doing(|| "answering on standard output".to_owned())
}

fn forward(port: u16, network: &Path, to: SocketAddr) -> Result<i32> {
    // A socket stays in the namespace in which it was made: listen here, then move, then connect there.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).doing(|| format!("listening on 127.0.0.1:{port}"))?;
    enter_network(network)?;
    say("ready")?;
    for client in listener.incoming() {
        let client = match client {
            Ok(client) => client,
            Err(error) => {
                // Out of files or the like: the next one may work, and the log says it.
                eprintln!("accepting a connection: {error}");
                std::thread::sleep(std::time::Duration::from_millis(100));
                continue;
            }
        };
        std::thread::spawn(move || {
            // While the API server is being restarted there is nobody to connect to: the client sees its connection
            // close, and tries again.
            let both = || {
                let server = TcpStream::connect(to)?;
                client.set_nodelay(true)?;
                server.set_nodelay(true)?;
                let (client_too, server_too) = (client.try_clone()?, server.try_clone()?);
                let back = std::thread::spawn(move || pump(&server_too, &client_too));
                pump(&client, &server);
                let _ = back.join();
                io::Result::Ok(())
            };
            let _ = both();
        });
    }
    Ok(0)
}

/// Copies until the sender is done, then says so to the receiver.
fn pump(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
