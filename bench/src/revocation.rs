//! `revocation`: how long after somebody was told that a credential is revoked any node still accepts it.
//!
//! Three nodes, no worker. Each round makes an API key, waits until every node accepts it, revokes it at one node, and asks the
//! others without pause from the moment the revocation was sent. Times are counted from its acknowledgement; a node that refused
//! before that counts as 0.

use ollamamax_tests::{Cluster, ClusterOptions, HarnessError, binary};
use reqwest::{Client, StatusCode};
use serde_json::json;
use std::fmt;
use std::time::{Duration, Instant};

/// How much of it.
#[derive(clap::Args)]
pub struct Options {
    /// Keys revoked
    #[arg(long, default_value_t = 200)]
    keys: usize,
}

/// How it went.
pub struct Report {
    /// For each key and node, after the acknowledgement.
    after: Vec<Duration>,
    /// From the request to the acknowledgement.
    acknowledged: Vec<Duration>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |times: &[Duration], share: f64| {
            let mut sorted = times.to_vec();
            sorted.sort();
            let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
            sorted.get(index).copied().unwrap_or_default().as_secs_f64() * 1_000.0
        };
        writeln!(
            f,
            "revocation acknowledged: p50 {:.1} ms, p99 {:.1} ms",
            at(&self.acknowledged, 0.5),
            at(&self.acknowledged, 0.99)
        )?;
        write!(
            f,
            "refused by every node after that: p50 {:.1} ms, p99 {:.1} ms, worst {:.1} ms ({} keys at 3 nodes)",
            at(&self.after, 0.5),
            at(&self.after, 0.99),
            at(&self.after, 1.0),
            self.acknowledged.len()
        )
    }
}

impl Report {
    /// Whether the slowest of a hundred is within a second.
    pub fn passed(&self) -> bool {
        let mut sorted = self.after.clone();
        sorted.sort();
        let index = (sorted.len().saturating_sub(1) as f64 * 0.99).round() as usize;
        sorted.get(index).is_some_and(|p99| *p99 <= Duration::from_secs(1))
    }
}

async fn status(client: &Client, url: &str, key: &str) -> Result<StatusCode, HarnessError> {
    let sent = client.get(format!("{url}/auth/whoami")).bearer_auth(key).send().await;
    let sent = sent.map_err(|error| HarnessError::Other(error.to_string()))?;
    Ok(sent.status())
}

/// Asks until the node refuses; when that was.
async fn refused(client: Client, url: String, key: String) -> Result<Instant, HarnessError> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        // 401, and 429 once this address has been refused often.
        if status(&client, &url, &key).await? != StatusCode::OK {
            return Ok(Instant::now());
        }
        if Instant::now() > deadline {
            return Err(HarnessError::Other(format!("{url} still accepts a revoked key")));
        }
    }
}

/// Runs it.
pub async fn run(options: &Options) -> Result<Report, HarnessError> {
    let binary = binary::find()?;
    let setup = ClusterOptions { anonymous: String::new(), ..ClusterOptions::new(binary) };
    let cluster = Cluster::start(setup.size(3, 0)).await?;
    let client = Client::new();
    let mut report = Report { after: Vec::new(), acknowledged: Vec::new() };
    for nth in 0..options.keys {
        let made = cluster.api(nth % 3).post("/admin/v1/keys", &json!({})).await?;
        let field = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
        let (key, id) = (field("key"), field("id"));
        for node in 0..3 {
            while status(&client, &cluster.url(node), &key).await? != StatusCode::OK {}
        }
        let waiting: Vec<_> = (0..3)
            .map(|node| tokio::spawn(refused(client.clone(), cluster.url(node), key.clone())))
            .collect();
        let asked = Instant::now();
        let at = (nth + 1) % 3;
        cluster.api(at).delete(&format!("/admin/v1/keys/{id}"), None).await?;
        let told = Instant::now();
        report.acknowledged.push(told - asked);
        for waiting in waiting {
            let when = waiting.await.map_err(|error| HarnessError::Other(error.to_string()))??;
            report.after.push(when.saturating_duration_since(told));
        }
    }
    Ok(report)
}
