//! The tiers, cheapest first.

use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;
use weft_cluster::tools::Tools;

use super::chart;
use crate::{demo, images, process, progress::Console, tools};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tier {
    Format,
    Lint,
    Unit,
    Generated,
    Deny,
    Chart,
    Cluster,
    E2e,
}

impl Tier {
    pub const ALL: [Self; 8] =
        [Self::Format, Self::Lint, Self::Unit, Self::Generated, Self::Deny, Self::Chart, Self::Cluster, Self::E2e];

    pub fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Lint => "lint",
            Self::Unit => "unit",
            Self::Generated => "generated",
            Self::Deny => "deny",
            Self::Chart => "chart",
            Self::Cluster => "cluster",
            Self::E2e => "e2e",
        }
    }

    pub fn about(self) -> &'static str {
        match self {
            Self::Format => "rustfmt changes nothing",
            Self::Lint => "clippy on every target, warnings denied",
            Self::Unit => "unit, property and integration tests of every crate, on the simulated driver",
            Self::Generated => "CRDs and reference pages are what the code generates",
            Self::Deny => "licences, duplicate versions and sources of every dependency",
            Self::Chart => "helm lint, wrong values, and install, upgrade, uninstall on a real API server",
            Self::Cluster => "a real cluster's life: kills, power cuts, a busy port, two at once, nothing left behind",
            Self::E2e => "the demo's story and bad input on a real cluster",
        }
    }

    /// Whether it runs programs that are built with Go.
    pub fn needs_components(self) -> bool {
        matches!(self, Self::Chart | Self::Cluster | Self::E2e)
    }

    /// Why this tier cannot run here, with what to do about it; `None` if it can.
    pub fn obstacle(self) -> Option<String> {
        match self {
            Self::Cluster | Self::E2e => tools::real_nodes_obstacle(),
            _ => None,
        }
    }

    pub fn run(self) -> Result<()> {
        match self {
            Self::Format => process::run("format", tools::cargo().args(["fmt", "--all", "--check"])),
            Self::Lint => process::run(
                "clippy",
                tools::cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]),
            ),
            Self::Unit => unit(),
            Self::Generated => crate::crds::run(&crate::crds::Args { check: true }),
            Self::Deny => deny(),
            Self::Chart => chart(),
            Self::Cluster => cluster(),
            Self::E2e => demo::end_to_end(),
        }
    }
}

fn unit() -> Result<()> {
    // The runtime's and the simulator's tests compile CUDA C with the real NVRTC, which is a download, not a build.
    tools::nvrtc().context("the runtime's tests need NVRTC")?;
    // The simulator is a shared library that tests of other crates load; `cargo test` builds it only for its own.
    tools::build_workspace()?;
    process::run("tests", tools::cargo().args(["test", "--workspace", "--locked", "--no-fail-fast"]))
}

fn deny() -> Result<()> {
    let deny = tools::cargo_deny()?;
    // A build fetches what this machine's target needs; the check is about every dependency of every target.
    process::run("fetching every dependency", tools::cargo().args(["fetch", "--locked"]))?;
    // The advisory database is a git repository elsewhere; `cargo deny check advisories` is for a machine that reaches it.
    process::run(
        "cargo deny",
        Command::new(deny).current_dir(tools::workspace_root()).args([
            "--offline",
            "check",
            "bans",
            "licenses",
            "sources",
        ]),
    )
}

/// Its tests are ignored in the tier `unit`, where there may be no root, and take turns: each makes a whole cluster.
fn cluster() -> Result<()> {
    Tools::build(false, &Console::new())?;
    images::pause()?;
    let life = ["test", "--workspace", "--locked", "--test", "life", "--", "--ignored", "--test-threads", "1"];
    process::run("the cluster's life", tools::cargo().args(life))
}

fn chart() -> Result<()> {
    chart::lint()?;
    match tools::real_nodes_obstacle() {
        None => chart::lifecycle(),
        Some(why) => {
            println!("    install, upgrade and uninstall are not tried: {why}");
            Ok(())
        }
    }
}
