//! `streams`: workers are killed, stopped and cut off under seeded streams, round after round.
//!
//! Each stream was run once undisturbed; in every round it must end with exactly the same bytes. Pauses are measured where the
//! client is, as the longest time between two records; what of it was noticing, and what computing the tokens so far again at
//! another worker, the gateways tell in their logs.
//!
//! A cut stops all bytes between a worker and the gateways, in both directions, without closing a connection; its heartbeats
//! go on, so that nobody but the gateways can notice.

use ollamamax_tests::stream::text_of;
use ollamamax_tests::{Cluster, ClusterOptions, HarnessError, Member, Proxy, binary, model};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fmt;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);
const MODEL: &str = "smollm2:135m";
const WORKERS: usize = 3;

/// How much of it.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds of faults
    #[arg(long, default_value_t = 9)]
    pub rounds: u32,
    /// Streams at once
    #[arg(long, default_value_t = 16)]
    pub streams: usize,
    /// Tokens of each stream
    #[arg(long, default_value_t = 96)]
    pub tokens: u32,
    /// What decides who is hit and when; drawn when absent
    #[arg(long)]
    pub seed: Option<u64>,
}

/// What happens to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// kill -9, and started again after the round.
    Kill,
    /// SIGSTOP, and SIGCONT after the round.
    Stop,
    /// No bytes to or from gateways until the round is over.
    Cut,
}

const FAULTS: [Fault; 3] = [Fault::Kill, Fault::Stop, Fault::Cut];

/// How it went.
pub struct Report {
    /// The seed it ran with.
    pub seed: u64,
    rounds: u32,
    streams: usize,
    /// Streams that did not end with the undisturbed bytes.
    pub wrong: Vec<String>,
    /// Longest time between two records of each stream, by fault.
    pauses: Vec<(Fault, Duration)>,
    /// What gateways say of each resumed stream: how long to notice, how long to compute again.
    resumed: Vec<(Fault, Duration, Duration)>,
}

impl Report {
    /// Whether every stream ended well, and in time where it was resumed.
    pub fn passed(&self) -> bool {
        self.wrong.is_empty() && FAULTS.iter().all(|fault| self.noticed(*fault) <= fault.bound())
    }

    fn noticed(&self, fault: Fault) -> Duration {
        let of = self.resumed.iter().filter(|(f, ..)| *f == fault);
        percentile(of.map(|(_, noticed, _)| *noticed).collect(), 0.99)
    }
}

impl Fault {
    /// In which time a stream must be on its way again, computing apart.
    fn bound(self) -> Duration {
        Duration::from_secs(if self == Self::Kill { 1 } else { 3 })
    }
}

fn percentile(mut values: Vec<Duration>, share: f64) -> Duration {
    values.sort();
    let index = ((values.len() as f64 * share).ceil() as usize).max(1) - 1;
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rounds, streams) = (self.rounds, self.streams);
        writeln!(f, "{rounds} rounds of {streams} streams, {} of them wrong", self.wrong.len())?;
        for fault in FAULTS {
            let pauses = self.pauses.iter().filter(|(of, _)| *of == fault).map(|(_, pause)| *pause);
            let pauses: Vec<Duration> = pauses.collect();
            let resumed: Vec<_> = self.resumed.iter().filter(|(of, ..)| *of == fault).collect();
            let replayed = resumed.iter().map(|(.., replayed)| *replayed).collect();
            writeln!(
                f,
                "{:<5} {:>4} streams resumed; pause without replay p99 {} ms (bound {} ms); replay p99 {} ms; longest gap of a stream p50 {} ms, p99 {} ms",
                format!("{fault:?}").to_lowercase(),
                resumed.len(),
                self.noticed(fault).as_millis(),
                fault.bound().as_millis(),
                percentile(replayed, 0.99).as_millis(),
                percentile(pauses.clone(), 0.5).as_millis(),
                percentile(pauses, 0.99).as_millis(),
            )?;
        }
        self.wrong.iter().take(10).try_for_each(|wrong| writeln!(f, "wrong: {wrong}"))?;
        f.write_str(if self.passed() { "verdict: pass" } else { "verdict: FAIL" })
    }
}

fn ask(index: usize, tokens: u32) -> Value {
    let prompt = format!("Chapter {index}. It was a quiet morning when");
    let options = json!({"temperature": 0.8, "seed": 1_000 + index, "num_predict": tokens});
    json!({"model": MODEL, "raw": true, "prompt": prompt, "options": options})
}

/// Reads a stream to its end: its text, and the longest time between two records, the first not counted.
async fn read(
    api: ollamamax_tests::Api,
    ask: Value,
    begun: tokio::sync::mpsc::Sender<()>,
) -> Result<(String, Duration), HarnessError> {
    let mut records = api.stream("/api/generate", &ask).await?;
    let (mut text, mut longest, mut last) = (String::new(), Duration::ZERO, None::<Instant>);
    let mut done = false;
    while let Some(record) = records.next().await? {
        let now = Instant::now();
        if let Some(last) = last.replace(now) {
            longest = longest.max(now - last);
        } else {
            // Nobody may count any more.
            let _ = begun.try_send(());
        }
        text.push_str(text_of(&record));
        done = record["done"] == true;
    }
    match done {
        true => Ok((text, longest)),
        false => Err(HarnessError::Other("the stream ended without its last record".to_owned())),
    }
}

/// Runs all streams, calls `fault` once half of them have begun, and collects what came.
async fn run_streams(
    cluster: &mut Cluster,
    options: &Options,
    fault: impl AsyncFnOnce(&mut Cluster) -> Result<(), HarnessError>,
) -> Result<Vec<Result<(String, Duration), HarnessError>>, HarnessError> {
    let (begun, mut count) = tokio::sync::mpsc::channel(options.streams);
    let mut running = Vec::new();
    for index in 0..options.streams {
        let api = cluster.api(index % cluster.nodes()).clone();
        running.push(tokio::spawn(read(api, ask(index, options.tokens), begun.clone())));
    }
    drop(begun);
    for _ in 0..options.streams / 2 {
        if count.recv().await.is_none() {
            break;
        }
    }
    fault(cluster).await?;
    let mut ended = Vec::new();
    for stream in running {
        ended.push(stream.await.map_err(|error| HarnessError::Other(error.to_string()))?);
    }
    Ok(ended)
}

/// What gateways have said of resumed streams since the lines that were read before.
fn told(cluster: &Cluster, read: &mut [usize]) -> Vec<(Duration, Duration)> {
    let mut told = Vec::new();
    for (node, read) in read.iter_mut().enumerate() {
        let log = std::fs::read(cluster.process(Member::Node(node)).log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&log[(*read).min(log.len())..]).into_owned();
        *read = log.len();
        for line in text.lines().filter(|line| line.contains("the stream goes on")) {
            let number = |key: &str| -> Option<u64> {
                let (_, rest) = line.split_once(&format!("{key}="))?;
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                digits.parse().ok()
            };
            if let (Some(noticed), Some(replayed)) = (number("noticed_ms"), number("replayed_ms")) {
                told.push((Duration::from_millis(noticed), Duration::from_millis(replayed)));
            }
        }
    }
    told
}

/// Runs it.
pub async fn run(options: &Options) -> Result<Report, HarnessError> {
    let seed = options.seed.unwrap_or_else(rand::random);
    let mut coin = StdRng::seed_from_u64(seed);
    let mut settings = ClusterOptions::new(binary::find()?).size(3, 0);
    settings.env.push(("NO_COLOR".into(), "1".into()));
    let mut cluster = Cluster::start(settings).await?;
    let mut links: Vec<Proxy> = Vec::new();
    for _ in 0..WORKERS {
        links.push(cluster.add_worker_behind_link().await?.1);
    }
    cluster.wait_for_workers(WORKERS, PATIENCE).await?;
    cluster.serve_file(MODEL, model::smollm2()).await?;
    let undisturbed = run_streams(&mut cluster, options, async |_| Ok(())).await?;
    let mut expected = Vec::new();
    for text in undisturbed {
        expected.push(text?.0);
    }
    let mut lines = vec![0; cluster.nodes()];
    told(&cluster, &mut lines);
    let (mut wrong, mut pauses, mut resumed) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let fault = FAULTS[round as usize % FAULTS.len()];
        let victim = coin.random_range(0..WORKERS);
        let wait = Duration::from_millis(coin.random_range(0..300));
        let hit = async |cluster: &mut Cluster| {
            tokio::time::sleep(wait).await;
            match fault {
                Fault::Kill => cluster.kill9(Member::Worker(victim)),
                Fault::Stop => cluster.process(Member::Worker(victim)).signal(Signal::STOP)?,
                Fault::Cut => links[victim].cut(true),
            }
            Ok(())
        };
        let ended = run_streams(&mut cluster, options, hit).await?;
        for (index, (ended, expected)) in ended.into_iter().zip(&expected).enumerate() {
            match ended {
                Ok((text, pause)) if text == *expected => pauses.push((fault, pause)),
                Ok((text, _)) => {
                    let at = text.bytes().zip(expected.bytes()).take_while(|(a, b)| a == b).count();
                    wrong.push(format!(
                        "round {round} {fault:?} stream {index}: differs from byte {at} on"
                    ));
                }
                Err(error) => {
                    wrong.push(format!("round {round} {fault:?} stream {index}: {error}"))
                }
            }
        }
        resumed.extend(told(&cluster, &mut lines).into_iter().map(|(n, r)| (fault, n, r)));
        match fault {
            Fault::Kill => cluster.restart(Member::Worker(victim))?,
            Fault::Stop => cluster.process(Member::Worker(victim)).signal(Signal::CONT)?,
            Fault::Cut => links[victim].cut(false),
        }
        cluster.wait_for_workers(WORKERS, PATIENCE).await?;
        cluster.wait_for_model(MODEL, WORKERS, PATIENCE).await?;
        println!("round {round}: {fault:?} of worker {}, {} wrong so far", victim + 1, wrong.len());
    }
    let (rounds, streams) = (options.rounds, options.streams);
    Ok(Report { seed, rounds, streams, wrong, pauses, resumed })
}
