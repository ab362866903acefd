//! `cargo xtask test`: everything that says whether the tree is good, tier by tier, each with its time.

mod chart;
mod tiers;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use weft_cluster::tools::Tools;

pub use tiers::Tier;

#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Run only these tiers (repeat the flag); all of them without it.
    #[arg(long = "tier", value_enum)]
    tiers: Vec<Tier>,
}

enum Outcome {
    Passed,
    /// With the sentence that says why and what to do about it.
    NotRun(String),
    Failed(anyhow::Error),
}

/// Runs the tiers in order, all of them even after a failure, and fails if one failed.
pub fn run(args: &Args) -> Result<()> {
    let chosen: Vec<Tier> = if args.tiers.is_empty() { Tier::ALL.to_vec() } else { args.tiers.clone() };
    if chosen.iter().any(|tier| tier.needs_components()) {
        Tools::can_be_built()?;
    }
    let mut results: Vec<(Tier, Outcome, Duration)> = Vec::new();
    for tier in chosen {
        println!("\n▶ {}: {}", tier.name(), tier.about());
        let started = Instant::now();
        let outcome = match tier.obstacle() {
            Some(why) => Outcome::NotRun(why),
            None => match tier.run() {
                Ok(()) => Outcome::Passed,
                Err(e) => Outcome::Failed(e),
            },
        };
        let took = started.elapsed();
        match &outcome {
            Outcome::Passed => println!("✓ {} in {:.1} s", tier.name(), took.as_secs_f64()),
            Outcome::NotRun(why) => println!("- {} not run: {why}", tier.name()),
            Outcome::Failed(e) => println!("✗ {} in {:.1} s: {e:#}", tier.name(), took.as_secs_f64()),
        }
        results.push((tier, outcome, took));
    }
    summarise(&results)
}

fn summarise(results: &[(Tier, Outcome, Duration)]) -> Result<()> {
    println!("\nTiers");
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (tier, outcome, took) in results {
        let word = match outcome {
            Outcome::Passed => {
                passed += 1;
                "ok"
            }
            Outcome::NotRun(_) => {
                skipped += 1;
                "not run"
            }
            Outcome::Failed(_) => {
                failed += 1;
                "FAILED"
            }
        };
        println!("  {word:<8}{:>7.1} s  {}", took.as_secs_f64(), tier.name());
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed > 0 {
        let names: Vec<_> =
            results.iter().filter(|(_, o, _)| matches!(o, Outcome::Failed(_))).map(|(t, ..)| t.name()).collect();
        bail!(
            "{failed} tier(s) failed: {}; run one again with `cargo xtask test --tier {}`",
            names.join(", "),
            names[0]
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_tier_fails_the_run_and_is_named() {
        let ok = |t| (t, Outcome::Passed, Duration::ZERO);
        assert!(summarise(&[ok(Tier::Format)]).is_ok());
        let e = summarise(&[ok(Tier::Format), (Tier::Lint, Outcome::Failed(anyhow::anyhow!("x")), Duration::ZERO)])
            .unwrap_err();
        assert!(e.to_string().contains("--tier lint"), "{e}");
    }
}
