//! `weft-sim`: makes simulated GPU nodes, breaks and heals their GPUs, shows how they are.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use weft_sim::{
    layout,
    node::{self, Made, NodeSpec},
    profile::Profile,
    state::{DEFAULT_STATE, Fault, Machine},
    status::Status,
};

/// Simulated NVIDIA GPUs: a driver's libraries and a machine behind them, on computers that have none.
#[derive(Parser)]
#[command(version)]
enum Command {
    /// Lay out the driver's and the maths libraries in a folder.
    Layout(Layout),
    /// Make a machine, and with --dev its device nodes. Running it again changes nothing.
    Init(Init),
    /// Let something happen to a GPU.
    Fault(FaultArgs),
    /// Show the machine, its GPUs and their processes.
    Status {
        #[command(flatten)]
        state: State,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct Layout {
    /// Folder for LD_LIBRARY_PATH: the libraries go to DIR/lib.
    #[arg(long, value_name = "DIR", required_unless_present = "root")]
    out: Option<PathBuf>,
    /// Driver root: the libraries go where a distribution has them, as DIR/usr/lib/x86_64-linux-gnu.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The stand-in library; by default the one that was built beside this program.
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
}

#[derive(Args)]
struct Init {
    /// The machine: h100x8, l40sx8, a100x4, or a YAML file.
    #[arg(long, env = "WEFT_SIM_PROFILE", default_value = "h100x8")]
    profile: String,
    #[command(flatten)]
    state: State,
    /// From which the GPUs' UUIDs and serial numbers follow; by default the host's name.
    #[arg(long)]
    seed: Option<String>,
    /// Make the device nodes here, and let processes see only the GPUs whose nodes they have.
    #[arg(long, value_name = "DIR")]
    dev: Option<PathBuf>,
    /// Begin anew if there is a machine already; its processes keep the old one until they end.
    #[arg(long)]
    replace: bool,
}

#[derive(Args)]
struct State {
    /// The machine's state file.
    #[arg(long, env = "WEFT_SIM_STATE", default_value = DEFAULT_STATE, value_name = "FILE")]
    state: PathBuf,
}

#[derive(Args)]
struct FaultArgs {
    #[command(flatten)]
    state: State,
    /// The GPU, by index or UUID.
    #[arg(long)]
    gpu: String,
    #[command(subcommand)]
    fault: FaultKind,
}

#[derive(Subcommand)]
enum FaultKind {
    /// Report an XID; 79 also loses the GPU, those of applications (13, 31, 43, …) leave it healthy.
    Xid {
        /// The XID.
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        number: u32,
    },
    /// Fall off the bus without a word.
    Lost,
    /// Work again.
    Recover,
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Layout(arguments) => lay_out(arguments),
        Command::Init(arguments) => init(arguments),
        Command::Fault(arguments) => fault(&arguments),
        Command::Status { state, json } => {
            let status = Status::read(&Machine::open(&state.state)?);
            if json {
                println!("{}", serde_json::to_string(&status)?);
            } else {
                print!("{status}");
            }
            Ok(())
        }
    }
}

fn lay_out(arguments: Layout) -> anyhow::Result<()> {
    let library = match arguments.library {
        Some(library) => library,
        None => layout::built_library()?,
    };
    let folders = [
        arguments.out.map(|folder| folder.join("lib")),
        arguments.root.map(|folder| folder.join(layout::LIBRARY_FOLDER)),
    ];
    for folder in folders.into_iter().flatten() {
        layout::lay_out(&library, &folder)?;
        println!("{}", folder.display());
    }
    Ok(())
}

fn init(arguments: Init) -> anyhow::Result<()> {
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => {
            rustix::system::uname().nodename().to_str().context("the host's name is no text: give --seed")?.to_owned()
        }
    };
    let state = arguments.state.state;
    let profile = Profile::load(&arguments.profile)?;
    let (name, gpus) = (profile.name.clone(), profile.gpus.len());
    let spec = NodeSpec { profile, seed, state: state.clone(), dev: arguments.dev, replace: arguments.replace };
    match node::init(&spec)? {
        Made::New => println!("{}: {name} with {gpus} GPUs", state.display()),
        Made::Kept => println!("{}: {name} with {gpus} GPUs was there already", state.display()),
    }
    Ok(())
}

fn fault(arguments: &FaultArgs) -> anyhow::Result<()> {
    let machine = Machine::open(&arguments.state.state)?;
    let gpu = machine.find(&arguments.gpu)?;
    gpu.raise(match arguments.fault {
        FaultKind::Xid { number } => Fault::Xid(number),
        FaultKind::Lost => Fault::Lost,
        FaultKind::Recover => Fault::Recover,
    })?;
    println!("GPU {} ({}) is {}", gpu.facts().index, gpu.facts().uuid, gpu.health());
    Ok(())
}
