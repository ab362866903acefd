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
    quiet_gpu_panics();
}

/// A panic on an owner thread becomes the request's error (see `device`): no backtrace for the person who reads that error.
fn quiet_gpu_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name().is_some_and(|name| name.starts_with("gpu-")) {
            tracing::debug!(%panic, "a CUDA call panicked");
        } else {
            usual(panic);
        }
    }));
}
