//! `cargo sim`: many seeds, one after another on each core; a failing one is shrunk and printed as the operations that are
//! enough.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command prints")]

use clap::Parser;
use ollamamax_sim::op::Script;
use ollamamax_sim::run::{Run, run};
use ollamamax_sim::shrink::shrink;
use ollamamax_sim::world::Plant;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Simulates the pure cores as one world, from seeds.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Steps after which faults stop; what it takes to come to rest is added.
    #[arg(long, default_value_t = 50_000)]
    steps: u64,
    /// Seeds that run at once.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Runs that shrinking a failing script may take.
    #[arg(long, default_value_t = 600)]
    shrink: usize,
}

#[derive(Debug, Default)]
struct Sums {
    steps: AtomicU64,
    us: AtomicU64,
    requests: AtomicU64,
    served: AtomicU64,
    resumed: AtomicU64,
    tokens: AtomicU64,
    commands: AtomicU64,
    plans: AtomicU64,
    elections: AtomicU64,
}

impl Sums {
    fn add(&self, run: &Run) {
        let counts = run.counts;
        for (sum, of) in [
            (&self.steps, run.steps),
            (&self.us, run.us),
            (&self.requests, counts.requests),
            (&self.served, counts.served),
            (&self.resumed, counts.resumed),
            (&self.tokens, counts.tokens),
            (&self.commands, counts.commands),
            (&self.plans, counts.plans),
            (&self.elections, counts.elections),
        ] {
            sum.fetch_add(of, Ordering::Relaxed);
        }
    }

    fn print(&self, seeds: u64, threads: usize, seconds: f64) {
        let get = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        let steps = get(&self.steps);
        let per_minute = steps as f64 / seconds * 60.0 / threads as f64;
        println!(
            "{seeds} seeds, {steps} steps in {seconds:.1} s: {:.1} million steps a minute and core, {} minutes of virtual time",
            per_minute / 1e6,
            get(&self.us) / 60_000_000,
        );
        println!(
            "{} requests ({} served, {} went on elsewhere), {} tokens, {} commands, {} plans, {} leaders",
            get(&self.requests),
            get(&self.served),
            get(&self.resumed),
            get(&self.tokens),
            get(&self.commands),
            get(&self.plans),
            get(&self.elections),
        );
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (sums, next) = (Sums::default(), AtomicU64::new(arguments.seed));
    let end = arguments.seed.saturating_add(arguments.seeds);
    let (failed, stop) = (Mutex::new(None), AtomicBool::new(false));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let done = run(seed, Script::Seed { steps: arguments.steps }, Plant::Nothing);
                    let sound = done.as_ref().is_ok_and(|run| run.violation.is_none());
                    if let Ok(run) = &done {
                        sums.add(run);
                    }
                    if !sound && let Ok(mut first) = failed.lock() {
                        stop.store(true, Ordering::Relaxed);
                        *first = Some(done);
                    }
                }
            });
        }
    });
    let seeds = next.load(Ordering::Relaxed).min(end) - arguments.seed;
    sums.print(seeds, arguments.threads, begun.elapsed().as_secs_f64());
    match failed.into_inner().ok().flatten() {
        None => ExitCode::SUCCESS,
        Some(Err(error)) => {
            println!("not run: {error}");
            ExitCode::FAILURE
        }
        Some(Ok(run)) => tell(run, &arguments),
    }
}

/// Prints a failing seed, and the operations that are enough.
fn tell(run: Run, arguments: &Arguments) -> ExitCode {
    let seed = run.seed;
    if let Some(violation) = &run.violation {
        println!("seed {seed}: {violation}");
    }
    println!("again: cargo sim --seed {seed} --seeds 1 --steps {}", arguments.steps);
    let before = run.script.len();
    match shrink(run, Plant::Nothing, arguments.shrink) {
        Err(error) => println!("not shrunk: {error}"),
        Ok(shrunk) => {
            let script = &shrunk.run.script;
            println!("{} of {before} operations are enough ({} runs):", script.len(), shrunk.runs);
            for at in script {
                println!("{:>12} us  {}", at.us, at.op);
            }
            if let Some(violation) = &shrunk.run.violation {
                println!("there: {violation}");
            }
        }
    }
    ExitCode::FAILURE
}
