//! Figures anyone can repeat: `cargo load <scenario>`. Each runs real processes of the release binary on this machine.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

mod concurrency;
mod pipeline;
mod revocation;

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
    /// A model in one process beside the same model in stages, on the same processors
    Pipeline(pipeline::Options),
    /// How soon a revoked credential is refused by every node
    Revocation(revocation::Options),
    /// One stage of `pipeline`
    #[command(hide = true)]
    Stage(pipeline::StageOptions),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().scenario {
        Scenario::Concurrency(options) => concurrency::run(&options)
            .await
            .map(|report| (report.to_string(), report.passed()))
            .map_err(|error| error.to_string()),
        Scenario::Pipeline(options) => {
            pipeline::run(&options).await.map(|report| (report.to_string(), true))
        }
        Scenario::Revocation(options) => revocation::run(&options)
            .await
            .map(|report| (report.to_string(), report.passed()))
            .map_err(|error| error.to_string()),
        Scenario::Stage(options) => pipeline::stage(&options).await.map(|()| (String::new(), true)),
    };
    match done {
        Ok((report, passed)) => {
            println!("{report}");
            if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::from(2)
        }
    }
}
