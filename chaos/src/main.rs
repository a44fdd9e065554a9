//! Faults against a real cluster of real processes, with checkers: `cargo chaos <scenario>`.
//!
//! A scenario starts a cluster of the release binary, runs a workload that records what was acknowledged, makes faults
//! drawn from a seed, heals, and then reads everything back. It ends with a verdict and the command that repeats it.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

mod kill;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Faults against real processes, with checkers.
#[derive(Parser)]
#[command(name = "chaos")]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// kill -9 of nodes, alone or all at once, under a load of writes: no acknowledged write may be lost
    Kill(kill::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Scenario::Kill(options) = Arguments::parse().scenario;
    match kill::run(&options).await {
        Ok(report) => {
            println!("{report}");
            println!(
                "repeat with: cargo chaos kill --rounds {} --seed {}",
                options.rounds, report.seed
            );
            if report.lost.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::from(2)
        }
    }
}
