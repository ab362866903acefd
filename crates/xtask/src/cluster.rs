//! `cargo xtask cluster`: a real Kubernetes cluster on this machine, by hand.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Command,
    str::FromStr,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, Subcommand};
use weft_cluster::{Cluster, Component, NodeSpec, Options, cluster_names};

use crate::{images, progress::Console, tools};

/// The node label that names a node's rack; see `GpuTopology`.
pub const RACK_LABEL: &str = "topology.weft.dev/rack";

/// The simulated machines: the names of the files in `crates/sim/profiles`.
const PROFILES: [&str; 3] = ["a100x4", "h100x8", "l40sx8"];

/// What a node on the command line is.
fn node_help() -> String {
    format!(
        "A node: PROFILE@RACK, such as h100x8@rack-a, or `none` for one without GPUs. The simulated machines are {}",
        PROFILES.join(", ")
    )
}

/// The cluster that is meant when none is named: the demo's, so that one can look around in it after `--keep`.
pub const DEFAULT_NAME: &str = "demo";

#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
    /// Which cluster; several can be up at once. Without it, the demo's.
    #[arg(long, default_value = DEFAULT_NAME, global = true)]
    name: String,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a cluster, and return when its nodes are ready.
    Up {
        /// How many nodes without GPUs.
        #[arg(long, default_value_t = 2, conflicts_with = "node")]
        nodes: usize,
        #[arg(long, value_name = "PROFILE[@RACK]", help = format!("{}. Repeat it for more nodes", node_help()))]
        node: Vec<NodeWish>,
        /// An image for the nodes (an OCI archive) besides those in target/images.
        #[arg(long)]
        image: Vec<PathBuf>,
        /// Also start kwok, for nodes without machines.
        #[arg(long)]
        kwok: bool,
        /// The API server's port on 127.0.0.1 [default: 26443 if free].
        #[arg(long)]
        api_port: Option<u16>,
    },
    /// Add a node to a running cluster.
    AddNode {
        #[arg(value_name = "PROFILE[@RACK]", help = node_help())]
        node: NodeWish,
    },
    /// Remove a cluster and everything that belonged to it, whatever state it is in.
    Down,
    /// Show what runs.
    Status,
    /// Run kubectl against it.
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Run Helm against it.
    Helm {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Run a command in a node, such as `node 1 weft-sim status`.
    Node {
        /// `1` or `node-1`.
        #[arg(value_parser = node_number)]
        index: usize,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<String>,
    },
    /// Run a command of this machine in the control plane's network, from which pods can be reached.
    Net {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<String>,
    },
    /// Put an image (an OCI archive) into all nodes.
    Load { image: PathBuf },
    /// Kill a component without grace, such as kubelet-1 or apiserver.
    Kill { component: Component },
    /// Start a killed component again.
    Start { component: Component },
    /// Switch a node off as a power cut does.
    PowerOff {
        /// `1` or `node-1`.
        #[arg(value_parser = node_number)]
        index: usize,
    },
    /// Switch it on again.
    PowerOn {
        /// `1` or `node-1`.
        #[arg(value_parser = node_number)]
        index: usize,
    },
}

/// A node's number, counted from 1.
fn node_number(text: &str) -> Result<usize, String> {
    let number = text.strip_prefix("node-").unwrap_or(text);
    number
        .parse()
        .map_err(|_| "nodes are 1, 2, … or node-1, node-2, …: `cargo xtask cluster status` shows them".to_owned())
}

/// A node on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NodeWish {
    profile: Option<String>,
    rack: Option<String>,
}

impl FromStr for NodeWish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (profile, rack) =
            text.split_once('@').map_or((text, None), |(profile, rack)| (profile, Some(rack.to_owned())));
        let profile = (!matches!(profile, "" | "none")).then(|| profile.to_owned());
        if let Some(profile) = profile.as_ref().filter(|profile| !PROFILES.contains(&profile.as_str())) {
            return Err(format!(
                "there is no simulated machine `{profile}`: name one of {}, or `none` for a node without GPUs",
                PROFILES.join(", ")
            ));
        }
        if let Some(rack) = rack.as_ref().filter(|rack| !is_label_value(rack)) {
            return Err(format!(
                "`{rack}` cannot name a rack, since it becomes a label's value: use up to 63 letters, digits and inner \
                 hyphens, dots and underscores, such as h100x8@rack-a"
            ));
        }
        Ok(Self { profile, rack })
    }
}

/// What Kubernetes takes as a label's value, but for the empty one, which names nothing.
fn is_label_value(text: &str) -> bool {
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && outer(text.chars().next())
        && outer(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

impl NodeWish {
    fn spec(&self, index: usize) -> NodeSpec {
        let node = NodeSpec::new(format!("node-{index}"));
        let node = self.rack.iter().fold(node, |node, rack| node.label(RACK_LABEL, rack));
        self.profile.iter().fold(node, |node, profile| node.profile(profile))
    }
}

pub fn run(args: &Args) -> Result<()> {
    let console = Console::new();
    let name = args.name.as_str();
    let begin = Instant::now();
    match &args.verb {
        Verb::Up { nodes, node, image, kwok, api_port } => {
            weft_cluster::preflight::check(&console)?;
            let wishes =
                if node.is_empty() { vec![NodeWish { profile: None, rack: None }; *nodes] } else { node.clone() };
            let simulator =
                wishes.iter().any(|wish| wish.profile.is_some()).then(tools::build_simulator).transpose()?;
            let specs = wishes.iter().zip(1..).map(|(wish, index)| wish.spec(index)).collect();
            let options = Options {
                nodes: specs,
                images: node_images(image)?,
                kwok: *kwok,
                api_port: *api_port,
                simulator,
                ..Options::new(name)
            };
            let cluster = Cluster::up(options, &console)?;
            println!("Cluster `{name}` is up ({:.1} s).", begin.elapsed().as_secs_f64());
            println!(
                "  cargo xtask cluster kubectl --name {name} get nodes\n  export KUBECONFIG={}",
                cluster.kubeconfig().display()
            );
        }
        Verb::AddNode { node } => {
            let mut cluster = Cluster::open(name)?;
            let simulator = node.profile.is_some().then(tools::build_simulator).transpose()?;
            let spec = node.spec(cluster.nodes().len() + 1);
            let index = cluster.add_node(spec, &node_images(&[])?, simulator, &console)?;
            println!("{} is ready ({:.1} s).", cluster.nodes()[index - 1].name, begin.elapsed().as_secs_f64());
        }
        Verb::Down => {
            let there = weft_cluster::down(name, &console)?;
            let text = if there { "is down" } else { "was not there: nothing to do" };
            println!("Cluster `{name}` {text} ({:.1} s).", begin.elapsed().as_secs_f64());
        }
        Verb::Status => status(&Cluster::open(name)?)?,
        Verb::Kubectl { words } => return become_program(open_for(name, words)?.kubectl_command()?.args(words)),
        Verb::Helm { words } => return become_program(open_for(name, words)?.helm_command()?.args(words)),
        Verb::Node { index, words } => {
            let (program, rest) = words.split_first().context("name a command")?;
            return become_program(open_for(name, words)?.node_command(*index, program)?.args(rest));
        }
        Verb::Net { words } => {
            let (program, rest) = words.split_first().context("name a command")?;
            return become_program(open_for(name, words)?.control_plane_command(program)?.args(rest));
        }
        Verb::Load { image } => {
            let cluster = Cluster::open(name)?;
            File::open(image).with_context(|| format!("cannot read the image {}", image.display()))?;
            // A node that is off keeps the others from nothing.
            let nodes = 1..=cluster.nodes().len();
            let failed: Vec<_> = nodes
                .filter_map(|index| cluster.load_image(index, image).err())
                .map(|error| error.to_string())
                .collect();
            if !failed.is_empty() {
                bail!(
                    "{} of {} nodes did not get the image, load it again when they run: {}",
                    failed.len(),
                    cluster.nodes().len(),
                    failed.join("; ")
                );
            }
        }
        Verb::Kill { component } => Cluster::open(name)?.kill(*component)?,
        Verb::Start { component } => Cluster::open(name)?.start(*component)?,
        Verb::PowerOff { index } => Cluster::open(name)?.power_off(*index)?,
        Verb::PowerOn { index } => Cluster::open(name)?.power_on(*index)?,
    }
    Ok(())
}

/// Finds the cluster for a command whose words belong to another program.
fn open_for(name: &str, words: &[String]) -> Result<Cluster> {
    if let Some(advice) = misplaced_name(name, words, &cluster_names()) {
        bail!(advice);
    }
    Ok(Cluster::open(name)?)
}

/// What to do where `--name` is among another program's words, and was meant for us: without it the cluster is not there.
/// Otherwise it may well be theirs (`kubectl expose --name`).
fn misplaced_name(name: &str, words: &[String], known: &[String]) -> Option<String> {
    let among = words.iter().any(|word| word == "--name" || word.starts_with("--name="));
    if !among || known.iter().any(|known| known == name) {
        return None;
    }
    let there = if known.is_empty() { "none is up".to_owned() } else { format!("there is {}", known.join(", ")) };
    Some(format!(
        "there is no cluster `{name}`; a --name after the words of another program goes to that program: put it before \
         them, as in `cargo xtask cluster --name NAME kubectl get nodes` ({there})"
    ))
}

/// The pause image, without which no pod starts, whatever else is built already, and the given ones.
fn node_images(more: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = vec![images::pause()?];
    all.extend(images::built()?.into_iter().chain(more.iter().cloned()).filter(|image| !image.ends_with("pause.tar")));
    Ok(all)
}

fn status(cluster: &Cluster) -> Result<()> {
    let status = cluster.status();
    let state = if status.complete {
        "made".to_owned()
    } else {
        format!("half made: remove it with `cargo xtask cluster down --name {}`", status.name)
    };
    let mut text = format!(
        "cluster {} ({state})\nAPI server at 127.0.0.1:{}, KUBECONFIG={}\n",
        status.name,
        status.api_port,
        status.kubeconfig.display()
    );
    for (component, pid) in &status.components {
        text += &match pid {
            Some(pid) => format!("  {component:<20} runs, pid {pid}\n"),
            None => format!("  {component:<20} does not run\n"),
        };
    }
    match io::stdout().write_all(text.as_bytes()) {
        // `status | head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Replaces this program, so that the terminal, signals and exit status are the other one's own.
fn become_program(command: &mut Command) -> Result<()> {
    let error = command.exec();
    bail!("cannot start {:?}: {error}", command.get_program())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_wished_by_profile_and_rack() {
        let spec = |text: &str| text.parse::<NodeWish>().unwrap().spec(3);
        assert_eq!(spec("h100x8@rack-a"), NodeSpec::new("node-3").label(RACK_LABEL, "rack-a").profile("h100x8"));
        assert_eq!(spec("none"), NodeSpec::new("node-3"));
        assert_eq!(node_number("node-2"), Ok(2));
        assert_eq!(node_number("2"), Ok(2));
        assert!(node_number("node-x").is_err());
        assert_eq!(spec("none@rack-b"), NodeSpec::new("node-3").label(RACK_LABEL, "rack-b"));
    }

    #[test]
    fn a_node_that_cannot_be_made_is_refused_when_it_is_named() {
        let refused = |text: &str| text.parse::<NodeWish>().unwrap_err();
        assert!(
            refused("h100x9@rack-a").contains("`h100x9`: name one of a100x4, h100x8, l40sx8"),
            "{}",
            refused("h100x9")
        );
        for rack in ["Rack A!", "", "-a", "a.", "a@b", &"a".repeat(64)] {
            assert!(refused(&format!("h100x8@{rack}")).contains("cannot name a rack"), "{rack}");
        }
        for rack in ["A", "rack-a", "eu_1.b", &"a".repeat(63)] {
            assert_eq!(format!("none@{rack}").parse::<NodeWish>().unwrap().rack.as_deref(), Some(rack));
        }
    }

    #[test]
    fn a_name_that_went_to_another_program_is_asked_for_in_its_place() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let known = ["fx".to_owned(), "nu".to_owned()];
        for text in ["get nodes --name nu", "get nodes --name=nu"] {
            let advice = misplaced_name("demo", &words(text), &known).unwrap();
            assert!(advice.contains("put it before") && advice.contains("there is fx, nu"), "{advice}");
        }
        assert_eq!(misplaced_name("fx", &words("expose pod x --name y"), &known), None);
        assert_eq!(misplaced_name("demo", &words("get nodes"), &known), None);
    }

    #[test]
    fn every_simulated_machine_can_be_named() {
        let files = std::fs::read_dir(tools::workspace_root().join("crates/sim/profiles")).unwrap();
        let mut names: Vec<String> =
            files.map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
        names.sort();
        assert_eq!(names, PROFILES);
    }
}
