//! Puts the parts together and runs them until told to stop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::cdi::{self, Sources};
use crate::holders::{self, Holders};
use crate::http::{self, Pages};
use crate::inventory::{self, Settings};
use crate::plugin::registration;
use crate::plugin::service::Plugin;
use crate::pods::{self, Pods};
use crate::publish;
use crate::remembered;
use crate::samples::Samples;
use crate::snapshot::Snapshot;
use crate::status::Status;

/// Runs the agent until `shutdown`, or until a part of it ends, which none should.
pub async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let node_name = args.node_name()?;
    let client = match args.standalone {
        true => None,
        false => Some(
            kube::Client::try_default()
                .await
                .context("no way to the API server; run in a cluster with a service account, or give --standalone")?,
        ),
    };
    let listener = http::listen(args.listen).await?;
    let listen = listener.local_addr()?;
    tracing::info!(node = node_name, %listen, standalone = args.standalone, "weft-agent starts");

    let status = Arc::new(Status::new());
    let samples = Arc::new(Samples::default());
    let pods = Arc::new(Pods::default());
    let allocated = Arc::new(Notify::new());
    let nothing_yet = Arc::new(Snapshot::empty(&node_name, None)?);
    let (machine_tx, machine) = watch::channel(Arc::clone(&nothing_yet));
    let (described_tx, described) = watch::channel(nothing_yet);
    let (holders_tx, holders) = watch::channel(Holders::default());

    let mut tasks = JoinSet::new();
    let settings = Settings {
        root: args.driver_root(),
        node_name: node_name.clone(),
        policy: args.health_policy(),
        interval: Duration::from_millis(args.sample_interval_ms),
        fail_on_init_error: args.fail_on_init_error,
    };
    // Without an API server nobody has the other end, and there is nothing to wait for.
    let (outbox, inbox) = remembered::hand_over();
    tasks.spawn(inventory::follow(
        settings,
        inbox,
        machine_tx,
        Arc::clone(&samples),
        Arc::clone(&status),
        shutdown.clone(),
    ));
    tasks.spawn(done(cdi::keep_written(
        Sources::new(&args),
        args.cdi_dir.clone(),
        machine.clone(),
        described_tx,
        Arc::clone(&status),
        shutdown.clone(),
    )));
    let plugin = Plugin {
        machine: described,
        holders: holders.clone(),
        pods: Arc::clone(&pods),
        allocated: Arc::clone(&allocated),
        status: Arc::clone(&status),
        streams: Arc::default(),
    };
    tasks.spawn(done(registration::keep_registered(plugin, args.device_plugins_dir(), shutdown.clone())));
    tasks.spawn(done(holders::follow(
        args.pod_resources_socket(),
        holders_tx,
        allocated,
        Arc::clone(&pods),
        Arc::clone(&status),
        shutdown.clone(),
    )));
    if args.standalone {
        // There is nothing to wait for.
        pods.listed.cancel();
    }
    if let Some(client) = client {
        let (watching, status, stop) = (client.clone(), Arc::clone(&status), shutdown.clone());
        let name = node_name.clone();
        let counters = Arc::clone(&status);
        tasks.spawn(done(async move { pods::follow(watching, &name, pods, counters, stop).await }));
        tasks.spawn(done(publish::follow(client, outbox, machine.clone(), holders.clone(), status, shutdown.clone())));
    } else {
        drop(outbox);
    }
    tasks.spawn(http::serve(listener, Pages { machine, samples, holders, status }, shutdown.clone()));

    let first = tasks.join_next().await;
    let stopping = shutdown.is_cancelled();
    shutdown.cancel();
    // Whatever hangs is cut off: kubelet kills after ten seconds.
    let rest = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(Duration::from_secs(5), rest).await;
    match first {
        Some(Ok(Ok(()))) if stopping => {
            tracing::info!("weft-agent stopped");
            Ok(())
        }
        Some(Ok(Ok(()))) => anyhow::bail!("a part of the agent ended by itself"),
        Some(Ok(Err(error))) => Err(error),
        Some(Err(panicked)) => Err(panicked).context("a part of the agent panicked"),
        None => Ok(()),
    }
}

async fn done(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}
