//! `kill`: kill -9 under a load of writes, round after round.
//!
//! Each round lets writers put numbered checkpoints through random nodes, kills one node or all of them at a random moment,
//! starts them again, and waits for a quorum. Every write that was acknowledged is remembered; after the last round
//! each is read linearizably from every node. A write that broke off may or may not be there, an acknowledged one must.

use ollamamax_tests::{Cluster, ClusterOptions, HarnessError, Member, binary};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const WRITERS_COUNT: usize = 4;

/// How much of it.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds of faults
    #[arg(long, default_value_t = 20)]
    pub rounds: u32,
    /// What decides which node is killed and when; drawn when absent
    #[arg(long)]
    pub seed: Option<u64>,
}

/// How it went.
pub struct Report {
    /// The seed it ran with.
    pub seed: u64,
    rounds: u32,
    kills: u32,
    acknowledged: usize,
    longest_recovery: Duration,
    /// Acknowledged writes that a node did not have at the end.
    pub lost: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} rounds, {} kill -9, {} writes acknowledged, {} lost, longest recovery {} ms",
            self.rounds,
            self.kills,
            self.acknowledged,
            self.lost.len(),
            self.longest_recovery.as_millis(),
        )?;
        self.lost.iter().take(20).try_for_each(|lost| writeln!(f, "lost: {lost}"))?;
        f.write_str(if self.lost.is_empty() { "verdict: pass" } else { "verdict: FAIL" })
    }
}

type Acknowledged = Arc<Mutex<Vec<String>>>;

/// Runs it.
pub async fn run(options: &Options) -> Result<Report, HarnessError> {
    let seed = options.seed.unwrap_or_else(rand::random);
    let mut coin = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(ClusterOptions::new(binary::find()?).size(3, 0)).await?;
    let acknowledged = Acknowledged::default();
    let (mut kills, mut longest_recovery) = (0, Duration::ZERO);
    for round in 0..options.rounds {
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..WRITERS_COUNT)
            .map(|writer| {
                let api = cluster.api((writer + round as usize) % 3).clone();
                let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
                tokio::spawn(async move { write(&api, round, writer, &stop, &acknowledged).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(coin.random_range(20..400))).await;
        let victims: Vec<usize> = match coin.random_range(0..4) {
            0 => vec![0, 1, 2],
            1 => vec![cluster.leader(PATIENCE).await?],
            _ => vec![coin.random_range(0..3)],
        };
        for victim in &victims {
            cluster.kill9(Member::Node(*victim));
            kills += 1;
        }
        stop.store(true, Ordering::Relaxed);
        let killed = Instant::now();
        for writer in writers {
            let _ = writer.await;
        }
        for victim in victims {
            cluster.restart(Member::Node(victim))?;
        }
        cluster.wait_for_quorum(3, PATIENCE).await?;
        longest_recovery = longest_recovery.max(killed.elapsed());
    }
    let names = acknowledged.lock().map(|names| names.clone()).unwrap_or_default();
    let mut lost = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let node = index % 3;
        let found = cluster.api(node).get_checkpoint(name).await?;
        if found.is_none_or(|checkpoint| checkpoint.value != name.as_bytes()) {
            lost.push(format!("{name} on node {}", node + 1));
        }
    }
    let acknowledged = names.len();
    Ok(Report { seed, rounds: options.rounds, kills, acknowledged, longest_recovery, lost })
}

async fn write(
    api: &ollamamax_tests::Api,
    round: u32,
    writer: usize,
    stop: &AtomicBool,
    acknowledged: &Mutex<Vec<String>>,
) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("r{round}-w{writer}-{number}");
        if api.put_checkpoint(&name, name.as_bytes(), None).await.is_ok()
            && let Ok(mut names) = acknowledged.lock()
        {
            names.push(name);
        }
    }
}
