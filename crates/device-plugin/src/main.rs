//! `weft-agent`: see the library.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use weft_device_plugin::args::{Args, Command, LogFormat};
use weft_device_plugin::{agent, discover, uvm};

fn main() -> ExitCode {
    let args = Args::parse();
    init_log(args.log_format);
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Some(Command::Discover { json }) => {
            let text = discover::discover(&args, json)?;
            std::io::stdout().write_all(text.as_bytes())?;
            return Ok(());
        }
        Some(Command::MakeUvm) => return Err(uvm::become_program(&args.driver_root())),
        None => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.cancel();
        });
        agent::run(args, shutdown).await
    });
    // A call into a driver that hangs must not keep the process.
    runtime.shutdown_background();
    outcome
}

fn init_log(format: Option<LogFormat>) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(terminal).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
