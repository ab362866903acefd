//! `cargo xtask demo`: the main job end to end on real Kubernetes components, as a story that a newcomer can follow.

mod cluster;
mod install;
mod prometheus;
mod report;
mod story;
mod world;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use weft_cluster::{Cluster, tools::Tools};

use self::{
    prometheus::Prometheus,
    report::Report,
    story::Stage,
    world::{Images, World},
};
use crate::{
    images::{self, Image, Profile},
    progress::Console,
    tools,
};

/// The namespace of the story's jobs.
const NAMESPACE: &str = "weft-demo";

#[derive(Debug, ClapArgs)]
pub struct Args {
    /// End with one line of JSON; exit code 0 only if all of it is right.
    #[arg(long)]
    json: bool,
    /// Leave the cluster up; `cargo xtask cluster down --name demo` ends it.
    #[arg(long)]
    keep: bool,
    /// Use this existing cluster instead of making one. Its nodes must be able to pull the images of --image-registry.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// With --kubeconfig: where the images were pushed to.
    #[arg(long, requires = "kubeconfig", value_name = "REGISTRY")]
    image_registry: Option<String>,
    /// With --image-registry: their tag.
    #[arg(long, requires = "image_registry", value_name = "TAG", default_value = env!("CARGO_PKG_VERSION"))]
    image_tag: String,
    #[arg(long, value_name = "LETTERS", value_parser = letters, help = steps_help())]
    steps: Option<String>,
    /// Use simulated GPUs although the machine has real ones.
    #[arg(long)]
    simulated: bool,
    /// Unoptimised programs in the images, for while one works on Weft: sooner there after a change, but the first time all
    /// programs and tests of the workspace are built, which takes minutes.
    #[arg(long)]
    dev: bool,
    /// Also apply wrong GpuJobs, as the end-to-end tests do.
    #[arg(long)]
    misuse: bool,
}

/// The letters of steps, each of which there is.
fn letters(text: &str) -> Result<String, String> {
    let known: String = story::titles().filter_map(|title| title.chars().next()).collect();
    match text.chars().find(|letter| !known.contains(*letter)) {
        Some(wrong) => Err(format!("there is no step `{wrong}`: give letters out of {known}, such as `--steps acg`")),
        None if text.is_empty() => Err(format!("name at least one step: give letters out of {known}")),
        None => Ok(text.to_owned()),
    }
}

fn steps_help() -> String {
    let titles: Vec<&str> = story::titles().collect();
    format!("Play only the steps whose letter is given, such as `--steps acg`:\n{}", titles.join("\n"))
}

/// Plays the story; the exit code says whether all of it is right.
pub fn run(args: &Args) -> Result<ExitCode> {
    let report = match &args.kubeconfig {
        None => on_own_cluster(args)?,
        Some(kubeconfig) => on_existing_cluster(args, kubeconfig)?,
    };
    report.print_summary();
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The story with bad input, as the end-to-end tier of `cargo xtask test` runs it.
pub fn end_to_end() -> Result<()> {
    let args = Args {
        json: true,
        keep: false,
        kubeconfig: None,
        image_registry: None,
        image_tag: String::new(),
        steps: None,
        simulated: true,
        dev: true,
        misuse: true,
    };
    if run(&args)? != ExitCode::SUCCESS {
        bail!("the story is not right; `cargo xtask demo --keep` leaves the cluster up to look around");
    }
    Ok(())
}

fn on_own_cluster(args: &Args) -> Result<Report> {
    if let Some(why) = tools::real_nodes_obstacle() {
        bail!("{why}");
    }
    Tools::can_be_built()?;
    let progress = Console::new();
    println!("Building (the first time takes a while: Kubernetes, containerd and the rest come from source)");
    let real = weft_cluster::machine::has_gpus() && !args.simulated;
    let wanted = if real { Image::ON_REAL_NODES } else { Image::ON_SIMULATED_NODES };
    let archives = images::build(&wanted, if args.dev { Profile::Dev } else { Profile::Release })?;
    let mut cluster = if real {
        println!(
            "\nStarting a cluster of one real node with this machine's GPUs and driver (--simulated: three simulated nodes)"
        );
        cluster::up_on_this_machines_gpus(cluster::NAME, archives.clone(), &progress)?
    } else {
        println!("\nStarting a cluster of three real nodes in two racks: 2 × h100x8 in rack-a, a100x4 in rack-b");
        println!("  Their GPUs are simulated: a stand-in for NVIDIA's driver executes the kernels.");
        let simulator = if args.dev { tools::build_workspace()?.join("weft-sim") } else { tools::build_simulator()? };
        cluster::up(cluster::NAME, archives.clone(), simulator, &progress)?
    };
    let played = play_on(&mut cluster, args, real, &archives, &progress);
    if args.keep {
        println!("\nThe cluster stays up. Look around:");
        println!("  export KUBECONFIG={}", cluster.kubeconfig().display());
        println!("  cargo xtask cluster kubectl -- get gj,gpunodes,pods -A");
        println!("  cargo xtask cluster down");
    } else {
        weft_cluster::down(cluster::NAME, &progress)?;
        println!(
            "\nTo look further: `cargo xtask demo --keep` leaves the cluster up; deploy/examples holds the jobs; docs/ explains them."
        );
    }
    played
}

fn play_on(cluster: &mut Cluster, args: &Args, real: bool, archives: &[PathBuf], progress: &Console) -> Result<Report> {
    let kubectl = cluster.tools().program("kubectl")?;
    let world = World::connect(kubectl, cluster.kubeconfig(), NAMESPACE)?;
    let values = if real { install::on_real_nodes() } else { install::on_simulated_nodes() };
    install::chart(&world, &cluster.tools().program("helm")?, &values)?;
    install::wait_until_ready(&world, cluster.nodes().len(), (!real).then(|| cluster::gpus(cluster)))?;
    let prometheus = Prometheus::start(cluster, &world)?;
    let mut report = Report::new(if real { "real" } else { "simulated" });
    let programs = if args.dev { Some(tools::build_workspace()?) } else { None };
    let own = Some(story::Own { cluster, archives, prometheus: &prometheus, progress, programs });
    tell(&mut Stage { world: &world, own, report: &mut report }, args);
    Ok(report)
}

fn on_existing_cluster(args: &Args, kubeconfig: &Path) -> Result<Report> {
    // First: the clients may take minutes to build, and kubectl says less of a file that is not there.
    if let Err(error) = fs::read(kubeconfig) {
        bail!("cannot read {} ({error}): name the kubeconfig of a cluster by --kubeconfig", kubeconfig.display());
    }
    let progress = Console::new();
    let clients = Tools::build_clients(&progress)?;
    let mut world = World::connect(clients.program("kubectl")?, kubeconfig.to_owned(), NAMESPACE)?;
    match (install::found(&world)?, &args.image_registry) {
        // Its values are somebody's: it is used as it is.
        (Some(images), _) => {
            println!("\nWeft is installed here already ({}, tag {}): using it", images.registry, images.tag);
            world.images = images;
        }
        (None, Some(registry)) => {
            world.images = Images { registry: registry.clone(), tag: args.image_tag.clone() };
            install::chart(&world, &clients.program("helm")?, &install::on_real_nodes())?;
        }
        (None, None) => bail!(
            "Weft is not installed on this cluster, and its nodes have to pull its images from somewhere: push those of \
             `cargo xtask images` to a registry and name it by --image-registry (and --image-tag)"
        ),
    }
    install::wait_until_ready(&world, 1, None)?;
    let mut report = Report::new(if install::is_simulated(&world)? { "simulated" } else { "real" });
    tell(&mut Stage { world: &world, own: None, report: &mut report }, args);
    println!("\nThe jobs stay in namespace {NAMESPACE}, Weft in {}. To remove both:", install::NAMESPACE);
    println!("  kubectl delete namespace {NAMESPACE}");
    println!("  helm uninstall weft --namespace {}", install::NAMESPACE);
    Ok(report)
}

fn tell(stage: &mut Stage<'_>, args: &Args) {
    println!("\nThe story");
    let started = Instant::now();
    story::play(stage, args.steps.as_deref(), args.misuse);
    stage.report.conclude();
    println!("\n  told in {:.0} s", started.elapsed().as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_steps_of_the_story_can_be_chosen() {
        assert_eq!(letters("acg").unwrap(), "acg");
        assert_eq!(letters("abcdefghi").unwrap(), "abcdefghi");
        for wrong in ["x", "axc", "A", "a,c", ""] {
            assert!(letters(wrong).unwrap_err().contains("out of abcdefghi"), "{wrong}");
        }
        assert!(letters("axc").unwrap_err().contains("no step `x`"));
    }
}
