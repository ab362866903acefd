//! `weft-runtime`: serves a pod's GPUs to its applications, runs programs, and says whether a machine can do either.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use weft_runtime::{logging, probe, program, serve};

/// The runtime that owns a pod's GPUs.
#[derive(Parser)]
#[command(name = "weft-runtime", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve applications on a Unix socket until SIGTERM.
    Serve(serve::Options),
    /// Run a program: a YAML file with a program, or with a GpuJob that has one.
    Run {
        /// The file.
        file: PathBuf,
        /// Print one line of JSON instead of a few lines of text.
        #[arg(long)]
        json: bool,
        /// Where the JSON result is written too, if the file exists: kubelet makes it for a container.
        #[arg(long, default_value = "/dev/termination-log")]
        termination_log: PathBuf,
    },
    /// Look for driver, GPUs and libraries, and compile and run a kernel on each GPU.
    Probe {
        /// Print one line of JSON instead of a few lines of text.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("weft-runtime: the threads could not be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Serve(options) => serve::main(options).await,
            Command::Run { file, json, termination_log } => program::main(&file, json, &termination_log).await,
            Command::Probe { json } => probe::main(json).await,
        }
    });
    // A kernel that never ends must not keep the process: what is under way on a GPU is given up.
    runtime.shutdown_background();
    ExitCode::from(code)
}
