//! `cargo chaos`: scenarios of faults against real processes, with checkers; `cargo chaos --list` shows them.
//!
//! It exits with 0 when every promise was kept, 1 when one was broken, and 2 when a run shows too little or could not be made.
//! What fails prints the command that does the same again, and leaves its evidence.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

mod kill;
mod streams;

use clap::{Parser, Subcommand};
use ollamamax_chaos::{Grade, Scenario, run, scenario};
use ollamamax_tests::{HarnessError, binary};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How much of an error is printed; the rest is in the evidence.
const ERROR_CHARS: usize = 1_500;

/// Faults against real processes, with checkers.
#[derive(Parser)]
#[command(name = "chaos", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    alone: Option<Alone>,
    #[command(flatten)]
    suite: Suite,
}

#[derive(clap::Args)]
struct Suite {
    /// Show the scenarios
    #[arg(long)]
    list: bool,
    /// Run only these: names, or TOML files; all that can be run here when absent
    #[arg(long, value_name = "NAME|FILE")]
    scenario: Vec<String>,
    /// Run only those that every change has to pass
    #[arg(long, conflicts_with = "scenario")]
    smoke: bool,
    /// What decides when what goes wrong, and whom it hits; drawn when absent
    #[arg(long)]
    seed: Option<u64>,
    /// Run each scenario with so many seeds, counted from the first
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Go through the scenarios again and again, with new seeds, for so long, as in 10m
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    how_long: Option<Duration>,
    /// Keep evidence of runs that pass, too
    #[arg(long)]
    keep: bool,
    /// Where evidence and reports go
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Alone {
    /// kill -9 of nodes, alone or all at once, under a load of writes: no acknowledged write may be lost
    Kill(kill::Options),
    /// Workers killed, stopped and cut off under seeded streams of a real model: every stream must end with the undisturbed bytes
    Streams(streams::Options),
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration, expected e.g. 90s, 10m or 2h");
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match unit {
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3_600)),
        _ => Err(wrong()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match arguments.alone {
        None => suite(&arguments.suite).await,
        Some(Alone::Kill(options)) => kill::run(&options).await.map(|report| {
            println!("{report}");
            let repeat = format!("kill --rounds {} --seed {}", options.rounds, report.seed);
            println!("repeat with: cargo chaos {repeat}");
            if report.lost.is_empty() { Grade::Pass } else { Grade::Fail }
        }),
        Some(Alone::Streams(options)) => streams::run(&options).await.map(|report| {
            println!("{report}");
            let streams::Options { rounds, streams, tokens, .. } = options;
            let seed = report.seed;
            println!(
                "repeat with: cargo chaos streams --rounds {rounds} --streams {streams} --tokens {tokens} --seed {seed}"
            );
            if report.passed() { Grade::Pass } else { Grade::Fail }
        }),
    };
    match ended {
        Ok(Grade::Pass) => ExitCode::SUCCESS,
        Ok(Grade::Fail) => ExitCode::FAILURE,
        Ok(Grade::Invalid) => ExitCode::from(2),
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::from(2)
        }
    }
}

/// The scenarios that were asked for.
fn chosen(suite: &Suite) -> Result<Vec<Scenario>, HarnessError> {
    let all = scenario::shipped().map_err(HarnessError::Other)?;
    if suite.smoke {
        return Ok(all.into_iter().filter(|scenario| scenario.smoke).collect());
    }
    if suite.scenario.is_empty() {
        let is_root = rustix::process::geteuid().is_root();
        return Ok(all.into_iter().filter(|scenario| is_root || !scenario.root).collect());
    }
    let find = |wanted: &String| match all.iter().find(|scenario| scenario.name == *wanted) {
        Some(scenario) => Ok(scenario.clone()),
        None if wanted.ends_with(".toml") => {
            let text = std::fs::read_to_string(wanted).map_err(HarnessError::io(wanted))?;
            Scenario::parse(wanted, &text).map_err(HarnessError::Other)
        }
        None => {
            let why = format!("no scenario `{wanted}`; `cargo chaos --list` shows them");
            Err(HarnessError::Other(why))
        }
    };
    suite.scenario.iter().map(find).collect()
}

async fn suite(suite: &Suite) -> Result<Grade, HarnessError> {
    let scenarios = chosen(suite)?;
    if suite.list {
        for scenario in scenarios {
            let marks = match (scenario.smoke, scenario.root) {
                (true, _) => "smoke",
                (_, true) => "root",
                _ => "",
            };
            println!(
                "{:<22} {:>3} s {marks:<6} {}",
                scenario.name, scenario.seconds, scenario.about
            );
        }
        return Ok(Grade::Pass);
    }
    let first = suite.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let out = suite.out.clone().unwrap_or_else(|| std::env::temp_dir().join("ollamamax-chaos"));
    let binary = binary::find()?;
    let begun = Instant::now();
    let (mut worst, mut runs) = (Grade::Pass, Vec::new());
    for round in 0u64.. {
        let goes_on = suite.how_long.is_some_and(|how_long| begun.elapsed() < how_long);
        if round >= suite.seeds && !goes_on {
            break;
        }
        for scenario in &scenarios {
            let seed = first.wrapping_add(round);
            let evidence = out.join(format!("{}-{seed}", scenario.name));
            std::fs::create_dir_all(&evidence).map_err(HarnessError::io(&evidence))?;
            let done = run(scenario, seed, &binary, Some(evidence.clone())).await;
            let grade = match done {
                Ok(done) => {
                    print!("{done}");
                    done.write(&evidence)?;
                    done.grade()
                }
                Err(error) => {
                    let name = &scenario.name;
                    let error = error.to_string();
                    std::fs::write(evidence.join("error.txt"), &error)
                        .map_err(HarnessError::io(&evidence))?;
                    let begin: String = error.chars().take(ERROR_CHARS).collect();
                    println!("{name} (seed {seed}): broke off: {begin}");
                    println!("  repeat with: cargo chaos --scenario {name} --seed {seed}");
                    Grade::Fail
                }
            };
            if grade == Grade::Pass && !suite.keep {
                std::fs::remove_dir_all(&evidence).map_err(HarnessError::io(&evidence))?;
            } else {
                println!("  evidence: {}", evidence.display());
            }
            worst = worst.max(grade);
            runs.push((scenario.name.clone(), seed, grade));
        }
    }
    let bad: Vec<_> = runs.iter().filter(|(.., grade)| *grade != Grade::Pass).collect();
    println!(
        "{} runs in {} s, {} of them not good",
        runs.len(),
        begun.elapsed().as_secs(),
        bad.len()
    );
    for (name, seed, grade) in bad {
        println!("  {grade:?}: cargo chaos --scenario {name} --seed {seed}");
    }
    Ok(worst)
}
