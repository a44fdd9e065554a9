//! `concurrency`: clients that chat without pause through all nodes, and the resident memory of every process meanwhile.
//!
//! A worker fills the KV cache it was given room for and then reuses it, so that room is small here.
//! Memory is sampled after a warm-up of a quarter of the run; the report gives first quarter and last quarter medians per
//! process, so that growth shows as their ratio.

use ollamamax_tests::{Cluster, ClusterOptions, HarnessError, Member, binary, model};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MODEL: &str = "smollm2:135m";

/// How much of it.
#[derive(clap::Args)]
pub struct Options {
    /// Clients, each with one request at a time
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// How long, in seconds
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Tokens per answer
    #[arg(long, default_value_t = 32)]
    tokens: u32,
    /// Workers
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

/// How it went.
pub struct Report {
    elapsed: Duration,
    answered: Vec<(Duration, u64)>,
    failed: Vec<String>,
    memory: Vec<(String, Vec<u64>)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut latencies: Vec<Duration> = self.answered.iter().map(|(time, _)| *time).collect();
        latencies.sort();
        let at = |share: f64| {
            let index = (latencies.len().saturating_sub(1) as f64 * share) as usize;
            latencies.get(index).copied().unwrap_or_default().as_millis()
        };
        let tokens: u64 = self.answered.iter().map(|(_, tokens)| tokens).sum();
        writeln!(
            f,
            "{} answered, {} failed in {:.0} s; {:.1} tokens/s together; answer p50 {} ms, p99 {} ms",
            self.answered.len(),
            self.failed.len(),
            self.elapsed.as_secs_f64(),
            tokens as f64 / self.elapsed.as_secs_f64(),
            at(0.5),
            at(0.99),
        )?;
        for (name, samples) in &self.memory {
            let (early, late) = early_and_late(samples);
            let ratio = late as f64 / early.max(1) as f64;
            writeln!(
                f,
                "{name}: {early} KiB after warm-up, {late} KiB at the end, ratio {ratio:.3}"
            )?;
        }
        self.failed.iter().take(10).try_for_each(|failed| writeln!(f, "failed: {failed}"))
    }
}

impl Report {
    /// Whether every request was answered and no process grew by more than a tenth after the warm-up.
    pub fn passed(&self) -> bool {
        let flat = |(_, samples): &(String, Vec<u64>)| {
            let (early, late) = early_and_late(samples);
            late <= early + early / 10
        };
        self.failed.is_empty() && self.memory.iter().all(flat)
    }
}

/// Medians of the second and of the last quarter.
fn early_and_late(samples: &[u64]) -> (u64, u64) {
    let quarter = (samples.len() / 4).max(1).min(samples.len());
    let early = median(&samples[quarter..(2 * quarter).max(quarter).min(samples.len())]);
    (early, median(&samples[samples.len() - quarter..]))
}

fn median(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

#[derive(Default)]
struct Tally {
    answered: Vec<(Duration, u64)>,
    failed: Vec<String>,
}

/// Runs it.
pub async fn run(options: &Options) -> Result<Report, HarnessError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = u32::try_from((cores / options.workers.max(1)).max(1)).unwrap_or(1);
    // Small enough that the KV cache is full, and memory as large as it gets, before the first sample that counts.
    let memory_bytes = 400 << 20;
    let cluster_options =
        ClusterOptions { threads, memory_bytes, ..ClusterOptions::new(binary::find()?) };
    let cluster = Cluster::start(cluster_options.size(3, options.workers)).await?;
    cluster.serve_file(MODEL, model::smollm2()).await?;
    let members = (0..3).map(Member::Node).chain((0..options.workers).map(Member::Worker));
    let pids: Vec<(String, u32)> = members
        .filter_map(|member| Some((format!("{member:?}"), cluster.process(member).pid()?)))
        .collect();
    let mut memory: Vec<(String, Vec<u64>)> =
        pids.iter().map(|(name, _)| (name.clone(), Vec::new())).collect();
    let tally = Arc::new(Mutex::new(Tally::default()));
    let start = Instant::now();
    let end = start + Duration::from_secs(options.seconds);
    let clients: Vec<_> = (0..options.clients)
        .map(|client| {
            let api = cluster.api(client % 3).clone();
            let (tally, tokens) = (Arc::clone(&tally), options.tokens);
            tokio::spawn(async move { chat(&api, client, tokens, end, &tally).await })
        })
        .collect();
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for ((_, pid), (_, samples)) in pids.iter().zip(&mut memory) {
            samples.extend(resident_kib(*pid));
        }
    }
    for client in clients {
        let _ = client.await;
    }
    let tally = std::mem::take(&mut *tally.lock().map_err(|e| HarnessError::Other(e.to_string()))?);
    Ok(Report { elapsed: start.elapsed(), answered: tally.answered, failed: tally.failed, memory })
}

async fn chat(
    api: &ollamamax_tests::Api,
    client: usize,
    tokens: u32,
    end: Instant,
    tally: &Mutex<Tally>,
) {
    for number in 0.. {
        if Instant::now() >= end {
            return;
        }
        let prompt = format!("Client {client} asks question {number}: what is {number} plus one?");
        let options = serde_json::json!({"num_predict": tokens, "seed": number});
        let asked = Instant::now();
        let answer = api.generate(MODEL, &prompt, options).await;
        let Ok(mut tally) = tally.lock() else { return };
        match answer {
            Ok(answer) if answer["done"] == true => {
                let count = answer["eval_count"].as_u64().unwrap_or(0);
                tally.answered.push((asked.elapsed(), count));
            }
            Ok(answer) => tally.failed.push(answer.to_string()),
            Err(error) => tally.failed.push(error.to_string()),
        }
    }
}

fn resident_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").trim().parse().ok()
}
