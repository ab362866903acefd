//! Logs on standard error: standard output belongs to results.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging: JSON where nobody watches, lines for people on a terminal. `RUST_LOG` chooses what; `info` without it.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if std::io::stderr().is_terminal() { log.try_init() } else { log.json().try_init() };
    if let Err(error) = started {
        eprintln!("logging was started before: {error}");
    }
}
