//! Faults against a real cluster of real processes, with checkers: `cargo chaos <scenario>`.
//!
//! A scenario starts a cluster of the release binary, runs a workload that records what was acknowledged, makes faults
//! drawn from a seed, heals, and then reads everything back. It ends with a verdict and the command that repeats it.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

mod kill;
mod streams;

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
    /// Workers killed, stopped and cut off under seeded streams: every stream must end with the undisturbed bytes
    Streams(streams::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Arguments::parse().scenario {
        Scenario::Kill(options) => kill::run(&options).await.map(|report| {
            let repeat = format!("kill --rounds {} --seed {}", options.rounds, report.seed);
            (report.to_string(), repeat, report.lost.is_empty())
        }),
        Scenario::Streams(options) => streams::run(&options).await.map(|report| {
            let streams::Options { rounds, streams, tokens, .. } = options;
            let seed = report.seed;
            let repeat = format!(
                "streams --rounds {rounds} --streams {streams} --tokens {tokens} --seed {seed}"
            );
            (report.to_string(), repeat, report.passed())
        }),
    };
    match ended {
        Ok((report, repeat, passed)) => {
            println!("{report}");
            println!("repeat with: cargo chaos {repeat}");
            if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::from(2)
        }
    }
}
