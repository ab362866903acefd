//! `weft-operator`: see the library for what it does.

use anyhow::Context;
use clap::{Parser, ValueEnum};
use jiff::SignedDuration;
use std::net::SocketAddr;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use weft_operator::Options;
use weft_operator::reconcile::Settings;
use weft_operator::worker_pod::RuntimeImage;

/// Weft's operator: places GpuJobs as gangs of pods on the best-wired GPUs of a cluster.
#[derive(Parser)]
#[command(name = "weft-operator", version)]
struct Args {
    /// Image of the runtime, for sidecars and for jobs with a program.
    #[arg(long, env = "WEFT_RUNTIME_IMAGE")]
    runtime_image: String,
    /// When the kubelet pulls the runtime image. Without it: by Kubernetes' rule for the tag.
    #[arg(long, env = "WEFT_RUNTIME_IMAGE_PULL_POLICY")]
    runtime_image_pull_policy: Option<PullPolicy>,
    /// Wait until the lease is ours before doing anything, so that several operators can run.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    leader_elect: bool,
    /// Namespace of the lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "weft-system")]
    namespace: String,
    /// Name of this operator among several.
    #[arg(long, env = "POD_NAME", default_value = "")]
    identity: String,
    /// Where to serve /metrics, /healthz and /readyz.
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Seconds after which a node that is not ready is given up and its workers are started elsewhere.
    #[arg(long, default_value_t = 60)]
    node_lost_after_seconds: u32,
    /// How to log. Without it: text in a terminal, JSON elsewhere.
    #[arg(long)]
    log_format: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

// As many threads on any machine: a pass over many jobs keeps one of them busy, and the lease is renewed and probes are answered
// on another. Tokio's own count is that of the CPUs, which in a container may be one.
#[tokio::main(worker_threads = 4)]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    log(args.log_format);
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let stopper = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopper.cancel();
    });
    // Without a pod's name the process id tells operators on one machine apart.
    let identity = if args.identity.is_empty() { format!("process-{}", std::process::id()) } else { args.identity };
    let pull_policy = args.runtime_image_pull_policy.map(|policy| format!("{policy:?}"));
    let options = Options {
        listen: args.listen,
        leader_elect: args.leader_elect,
        namespace: args.namespace,
        identity,
        settings: Settings {
            runtime: RuntimeImage { image: args.runtime_image, pull_policy },
            node_lost_after: SignedDuration::from_secs(i64::from(args.node_lost_after_seconds)),
        },
    };
    weft_operator::run(options, stop).await
}

fn log(format: Option<LogFormat>) {
    use std::io::IsTerminal;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // The client logs every failed request as an error; whoever sent it knows better whether it is one, and says so.
    let filter = match "kube_client::client::builder=off".parse() {
        Ok(quiet) => filter.add_directive(quiet),
        Err(_) => filter,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let text = format.map_or_else(|| std::io::stderr().is_terminal(), |format| format == LogFormat::Text);
    if text { builder.init() } else { builder.json().init() }
}
