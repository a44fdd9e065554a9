//! One look at the cluster: the whole from one node, and what each node counts from each.

use super::facts::{Answers, Facts};
use super::rates::{Rates, Sample};
use crate::ask::{CLUSTER, leader_of, node_endpoint};
use crate::client::Client;
use crate::exit::Failure;
use crate::host::Endpoint;
use crate::list::{elements, text};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long one node may take to answer.
const NODE_WAIT: Duration = Duration::from_millis(800);

/// Remembers the look before.
#[derive(Default)]
pub struct Look {
    before: BTreeMap<String, (Instant, Sample)>,
    /// One for each node, by its HTTP address.
    clients: BTreeMap<String, Client>,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// As tables.
    pub facts: Facts,
    /// Who told it.
    pub source: String,
}

impl Look {
    /// Looks.
    pub async fn at(&mut self, client: &Client) -> Result<Seen, Failure> {
        let mut cluster = client.get(CLUSTER).await?;
        let told_by = client.answered_by();
        self.connect(client, &cluster, told_by.as_ref()).await;
        if let Some(leader) = leader_of(&cluster).and_then(|leader| self.clients.get(&leader))
            && let Ok(Ok(seen)) = tokio::time::timeout(NODE_WAIT, leader.get(CLUSTER)).await
        {
            cluster = seen;
        }
        let loaded = client.get("/api/ps").await.unwrap_or(Value::Null);
        let nodes = self.metrics(&cluster).await;
        let source =
            told_by.map_or_else(String::new, |node| format!("from {}:{}", node.host, node.port));
        let facts = Facts::of(&Answers { cluster, loaded, nodes }, Timestamp::now());
        Ok(Seen { facts, source })
    }

    /// Has a client for each node.
    async fn connect(&mut self, client: &Client, cluster: &Value, told_by: Option<&Endpoint>) {
        for http in elements(&cluster["nodes"]).iter().map(|node| text(node, "http")) {
            let Some(endpoint) = node_endpoint(&http, told_by) else { continue };
            if !self.clients.contains_key(&http)
                && let Ok(only) = client.only(endpoint).await
            {
                self.clients.insert(http, only);
            }
        }
    }

    async fn metrics(&mut self, cluster: &Value) -> BTreeMap<String, (Sample, Rates)> {
        let nodes = elements(&cluster["nodes"]).iter().filter(|node| node["role"] != "unreachable");
        let nodes: Vec<String> = nodes.map(|node| text(node, "http")).collect();
        let asked = self.clients.iter().filter(|(http, _)| nodes.contains(http));
        let asked = asked.map(async |(http, client)| {
            let asking = tokio::time::timeout(NODE_WAIT, client.text("/metrics"));
            (http.clone(), asking.await.ok().and_then(Result::ok))
        });
        let told = futures_util::future::join_all(asked).await;
        let now = Instant::now();
        let mut seen = BTreeMap::new();
        for (http, told) in told {
            let Some((text, _)) = told else {
                // Its credential may have run out: the next look takes the one of then.
                self.clients.remove(&http);
                continue;
            };
            let sample = Sample::parse(&text);
            let before = self.before.insert(http.clone(), (now, sample.clone()));
            let rates = before.map(|(then, before)| sample.since(&before, now - then));
            seen.insert(http, (sample, rates.unwrap_or_default()));
        }
        seen
    }
}
