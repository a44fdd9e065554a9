//! Figures anyone can repeat: `cargo load <scenario>`. Each runs real processes of the release binary on this machine.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

mod concurrency;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Figures, measured on this machine.
#[derive(Parser)]
#[command(name = "load")]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Many clients chat for a while: is every request answered, and does memory stay flat?
    Concurrency(concurrency::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Scenario::Concurrency(options) = Arguments::parse().scenario;
    match concurrency::run(&options).await {
        Ok(report) => {
            println!("{report}");
            if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::from(2)
        }
    }
}
