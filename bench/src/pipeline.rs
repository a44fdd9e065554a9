//! `pipeline`: a model file in one process beside rings of stages in processes of their own, on the same processors, in turn.
//!
//! Stages of a ring wait parked while another one computes, so that each may use all processors. What is left is what
//! handing on costs: two of three hops of a token through three stages carry residuals, one carries the token.

use ollamamax_worker::DeviceChoice;
use ollamamax_worker::bench::ring::{BenchStage, Cut, RingBench, echo, hop, identities};
use ollamamax_worker::bench::{EngineBench, Setting, Task};
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What to measure.
#[derive(clap::Args)]
pub struct Options {
    /// A GGUF file
    model: PathBuf,
    /// Compute threads of each process; 0 for one per processor
    #[arg(long, default_value_t = 0)]
    threads: u32,
    /// Rounds; medians count
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Tokens of a stream that is timed
    #[arg(long, default_value_t = 128)]
    tokens: u32,
}

/// One stage, for `pipeline` to start.
#[derive(clap::Args)]
pub struct StageOptions {
    model: PathBuf,
    threads: u32,
    stages: u32,
    index: usize,
    /// Where the stages find who they are
    identities: PathBuf,
}

/// Tries of one way to run the model, in seconds, by task.
struct Way {
    name: String,
    stages: u32,
    seconds: Vec<Vec<f64>>,
}

/// All of them.
pub struct Report {
    tasks: Vec<Task>,
    ways: Vec<Way>,
    /// Of the residuals of so many tokens, with nothing to compute: with TLS and without.
    hops: Vec<(usize, Duration, Duration)>,
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alone = &self.ways[0];
        for (index, task) in self.tasks.iter().enumerate() {
            let base = median(&alone.seconds[index]);
            for way in &self.ways {
                let seconds = &way.seconds[index];
                let middle = median(seconds);
                let ratios: Vec<f64> = seconds
                    .iter()
                    .zip(&alone.seconds[index])
                    .map(|(way, alone)| alone / way)
                    .collect();
                let (least, most) =
                    ratios.iter().fold((f64::INFINITY, 0.0f64), |(least, most), ratio| {
                        (least.min(*ratio), most.max(*ratio))
                    });
                write!(
                    f,
                    "{:<22} {:<22} {:>8.1} tokens/s, {:.3} of one process (rounds {least:.3} to {most:.3})",
                    format!("{task:?}"),
                    way.name,
                    f64::from(task.tokens()) / middle,
                    median(&ratios),
                )?;
                if let (Task::Decode { count, .. }, 2..) = (task, way.stages) {
                    let hop = (middle - base) / f64::from(*count) / f64::from(way.stages);
                    write!(f, ", {:.1} us more a stage", hop * 1e6)?;
                }
                writeln!(f)?;
            }
        }
        for (tokens, tls, plain) in &self.hops {
            let (tls, plain) = (tls.as_secs_f64() * 1e6, plain.as_secs_f64() * 1e6);
            writeln!(
                f,
                "residuals of {tokens} from process to process: {tls:.1} us, {plain:.1} without TLS"
            )?;
        }
        Ok(())
    }
}

/// Stages in processes of their own; they end with it.
struct Stages {
    children: Vec<Child>,
    /// Where one of them sends frames back.
    echo: String,
    cut: Cut,
    _identities: tempfile::TempDir,
}

impl Drop for Stages {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It ends by itself, too, when its input closes.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

async fn ring(options: &Options, stages: u32, steps: u32) -> Result<(Stages, RingBench), String> {
    let known = tempfile::tempdir().map_err(|error| error.to_string())?;
    identities(known.path(), stages as usize)?;
    let mut cut = Cut::even(&options.model, stages, known.path())?;
    cut.steps_in_flight = steps;
    let (children, echo) = (Vec::new(), String::new());
    let mut stages_up = Stages { children, echo, cut: cut.clone(), _identities: known };
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    for index in 0..stages as usize - 1 {
        let mut child = Command::new(&program)
            .arg("stage")
            .arg(&options.model)
            .args([options.threads.to_string(), stages.to_string(), index.to_string()])
            .arg(&cut.identities)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let out = child.stdout.take().ok_or("no output of a stage")?;
        stages_up.children.push(child);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).map_err(|error| error.to_string())?;
        let (address, echo) = line.trim().split_once(' ').unwrap_or_default();
        address.clone_into(&mut cut.addresses[index]);
        if index == 0 {
            echo.clone_into(&mut stages_up.echo);
        }
        if cut.addresses[index].is_empty() {
            return Err("a stage did not start; see its message".to_owned());
        }
    }
    let bench = RingBench::close(&options.model, options.threads, cut).await?;
    Ok((stages_up, bench))
}

/// Runs it.
pub async fn run(options: &Options) -> Result<Report, String> {
    let tasks = vec![
        Task::Decode { count: options.tokens, at: 16 },
        Task::Batch { sequences: 8, count: options.tokens / 2 },
        Task::Prefill(512),
    ];
    let (device, threads) = (DeviceChoice::Cpu, options.threads);
    let setting = Setting { device, threads, ..Setting::default() };
    let mut alone = EngineBench::load(&options.model, setting)?;
    let mut rings = Vec::new();
    let mut ways =
        vec![Way { name: "one process".to_owned(), stages: 1, seconds: vec![vec![]; tasks.len()] }];
    for (stages, steps) in [(2, 1), (2, 2), (3, 1)] {
        rings.push(ring(options, stages, steps).await?);
        let name = format!("{stages} stages, {steps} in flight");
        ways.push(Way { name, stages, seconds: vec![vec![]; tasks.len()] });
    }
    for round in 0..=options.rounds {
        for (index, task) in tasks.iter().enumerate() {
            let mut times: Vec<Duration> = vec![alone.run(*task)?];
            for (_, bench) in &mut rings {
                times.push(tokio::task::block_in_place(|| bench.run(*task))?);
            }
            // The first round warms up.
            if round > 0 {
                for (way, time) in ways.iter_mut().zip(times) {
                    way.seconds[index].push(time.as_secs_f64());
                }
            }
        }
    }
    let mut hops = Vec::new();
    for (tokens, rounds) in [(1, 5_000), (32, 2_000), (512, 300)] {
        if let Some((stages, _)) = rings.first() {
            let (tls, plain) = hop(&stages.cut, &stages.echo, (tokens, rounds)).await?;
            hops.push((tokens, tls, plain));
        }
    }
    Ok(Report { tasks, ways, hops })
}

/// Is one stage until its input closes.
pub async fn stage(options: &StageOptions) -> Result<(), String> {
    let cut = Cut::even(&options.model, options.stages, &options.identities)?;
    let stage = BenchStage::start(&options.model, options.threads, &cut, options.index).await?;
    println!("{} {}", stage.address, echo(&cut, options.index).await?);
    std::io::stdout().flush().map_err(|error| error.to_string())?;
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().lines().count());
    ended.await.map_err(|error| error.to_string())?;
    Ok(())
}
