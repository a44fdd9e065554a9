//! What `top` shows: the answers of the cluster as rows of three tables and a headline.

use super::rates::{Rates, Sample};
use crate::human;
use crate::list::{elements, short_digest, text};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;

/// Everything on the screen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// How the cluster is, in a sentence.
    pub headline: String,
    /// Whether changes can be made, and everything answers.
    pub healthy: bool,
    /// Streams, rates and the time to the first token, in a line.
    pub load: String,
    /// Nodes, workers, models.
    pub tables: [Vec<Row>; 3],
}

/// One line of a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Cells as shown, under the pane's columns.
    pub cells: Vec<String>,
    /// The same as numbers, where they are.
    pub keys: Vec<f64>,
    /// Something is wrong with it.
    pub bad: bool,
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    /// Of the control plane.
    Nodes,
    /// Who runs models.
    Workers,
    /// What is loaded.
    Models,
}

impl Pane {
    /// From the top down.
    pub const ALL: [Self; 3] = [Self::Nodes, Self::Workers, Self::Models];

    /// What stands above it.
    pub fn title(self) -> &'static str {
        ["nodes", "workers", "models"][self as usize]
    }

    /// Its columns.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Nodes => &["NODE", "ROLE", "HTTP", "APPLIED", "STREAMS", "REQ/S", "TOK/S"],
            Self::Workers => &["WORKER", "STATUS", "DEVICE", "BUSY", "MEMORY", "TEMP", "MODELS"],
            Self::Models => &["MODEL", "ID", "SIZE", "CONTEXT", "REPLICAS", "TOK/S", "UNTIL"],
        }
    }
}

/// What was asked of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// `/admin/v1/cluster`.
    pub cluster: Value,
    /// `/api/ps`.
    pub loaded: Value,
    /// What each node counted, by its HTTP address, and since the look before.
    pub nodes: BTreeMap<String, (Sample, Rates)>,
}

impl Facts {
    /// Puts answers into tables.
    pub fn of(answers: &Answers, now: Timestamp) -> Self {
        let mut all = Rates::default();
        answers.nodes.values().for_each(|(_, rates)| all.add(rates));
        let streams: f64 = answers.nodes.values().map(|(sample, _)| sample.streams).sum();
        let first = answers.nodes.values().filter_map(|(sample, _)| sample.first_token_s);
        let first = first.fold(None, |worst: Option<f64>, s| Some(worst.unwrap_or(0.0).max(s)));
        let first = first.map_or("-".to_owned(), |s| format!("{:.0} ms", s * 1e3));
        let (headline, healthy) = headline(&answers.cluster);
        Self {
            headline,
            healthy,
            load: format!(
                "{:.0} streams  {:.1} requests/s  {:.1} tokens/s  first token p95 {first}",
                streams.abs(),
                all.requests,
                all.tokens
            ),
            tables: [nodes(answers), workers(&answers.cluster), models(answers, &all, now)],
        }
    }
}

fn headline(cluster: &Value) -> (String, bool) {
    let voters: Vec<&Value> =
        elements(&cluster["nodes"]).iter().filter(|node| node["voter"] != false).collect();
    let up = voters.iter().filter(|node| node["role"] != "unreachable").count();
    let name = cluster["name"].as_str().unwrap_or("cluster");
    match cluster["leader"].as_u64() {
        None => (
            format!("{name}: NO LEADER: changes wait; {up} of {} nodes answer", voters.len()),
            false,
        ),
        Some(leader) => {
            let more = up.saturating_sub(voters.len() / 2 + 1);
            let text = format!(
                "{name}: {up} of {} nodes, leader {leader}, {more} more may fail",
                voters.len()
            );
            (text, up == voters.len())
        }
    }
}

fn nodes(answers: &Answers) -> Vec<Row> {
    let row = |node: &Value| {
        let (id, applied) = (node["id"].as_u64(), node["applied"].as_u64());
        let http = text(node, "http");
        let (streams, requests, tokens) =
            answers.nodes.get(&http).map_or((None, None, None), |(s, r)| {
                (Some(s.streams), Some(r.requests), Some(r.tokens))
            });
        let whole =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
        let tenths =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        let as_f64 = |value: Option<u64>| value.map(|value| value as f64);
        let keys = [as_f64(id), None, None, as_f64(applied), streams, requests, tokens];
        Row {
            cells: vec![
                whole(as_f64(id)),
                text(node, "role"),
                http,
                whole(as_f64(applied)),
                whole(streams),
                tenths(requests),
                tenths(tokens),
            ],
            keys: keys.map(|key| key.unwrap_or(f64::NAN)).to_vec(),
            bad: node["role"] == "unreachable",
        }
    };
    elements(&answers.cluster["nodes"]).iter().map(row).collect()
}

fn workers(cluster: &Value) -> Vec<Row> {
    let row = |worker: &Value| {
        let health = &worker["health"];
        let memory = worker["memory_bytes"].as_u64().unwrap_or(0);
        let held = elements(&cluster["placements"]).iter();
        let held = held.filter(|place| place["worker"] == worker["id"]);
        let resident: u64 = held.filter_map(|place| place["resident_bytes"].as_u64()).sum();
        let used = health["memory_used_bytes"].as_u64().unwrap_or(resident);
        let slow = if worker["slow"] == true { ", slow" } else { "" };
        let models: Vec<&str> =
            elements(&worker["models"]).iter().filter_map(Value::as_str).collect();
        // A GPU tells how busy it is; of a CPU the tokens that wait for it are known.
        let (busy, waiting) =
            (health["busy_percent"].as_u64(), worker["outstanding_tokens"].as_u64());
        let busy_text = match (busy, waiting) {
            (Some(percent), _) => format!("{percent} %"),
            (None, Some(tokens)) => format!("{tokens} tok"),
            (None, None) => "-".to_owned(),
        };
        let celsius = health["celsius"].as_u64();
        let name = worker["name"].as_str().map_or_else(|| text(worker, "id"), str::to_owned);
        let key = |value: Option<u64>| value.map_or(f64::NAN, |value| value as f64);
        Row {
            cells: vec![
                name,
                format!("{}{slow}", text(worker, "status")),
                text(worker, "device"),
                busy_text,
                match worker["adopted"].is_object() {
                    true => "adopted".to_owned(),
                    false => format!("{} of {}", human::bytes(used), human::bytes(memory)),
                },
                celsius.map_or("-".to_owned(), |celsius| format!("{celsius} °C")),
                models.join(","),
            ],
            keys: vec![
                f64::NAN,
                f64::NAN,
                f64::NAN,
                key(busy.or(waiting)),
                used as f64,
                key(celsius),
                models.len() as f64,
            ],
            bad: worker["status"] != "ready" || worker["slow"] == true,
        }
    };
    elements(&cluster["workers"]).iter().map(row).collect()
}

fn models(answers: &Answers, rates: &Rates, now: Timestamp) -> Vec<Row> {
    let row = |model: &Value| {
        let name = text(model, "name");
        let replicas = elements(&model["workers"]).len();
        let rate = rates.tokens_of.get(&name).copied();
        let size = model["size"].as_u64().unwrap_or(0);
        let context = model["context_length"].as_u64().unwrap_or(0);
        Row {
            cells: vec![
                name,
                short_digest(model),
                human::bytes(size),
                context.to_string(),
                replicas.to_string(),
                rate.map_or("-".to_owned(), |rate| format!("{rate:.1}")),
                crate::ps::until(&text(model, "expires_at"), now),
            ],
            keys: vec![
                f64::NAN,
                f64::NAN,
                size as f64,
                context as f64,
                replicas as f64,
                rate.unwrap_or(0.0),
                f64::NAN,
            ],
            bad: false,
        }
    };
    elements(&answers.loaded["models"]).iter().map(row).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    /// Three nodes, one of them dead, two workers, one model.
    pub fn answers() -> Answers {
        let cluster = json!({
            "name": "lab", "leader": 2, "term": 7,
            "nodes": [
                {"id": 1, "role": "follower", "http": "h:1", "applied": 10, "voter": true},
                {"id": 2, "role": "leader", "http": "h:2", "applied": 12, "voter": true},
                {"id": 3, "role": "unreachable", "http": "h:3", "applied": null, "voter": true},
            ],
            "workers": [
                {"id": "ab", "name": "gpu-a", "status": "ready", "device": "cuda:0", "memory_bytes": 24_000_000_000u64,
                 "models": ["m:1"], "health": {"busy_percent": 82, "celsius": 61, "memory_used_bytes": 20_000_000_000u64}},
                {"id": "cd", "name": "gpu-b", "status": "draining", "device": "cpu", "memory_bytes": 8_000_000_000u64,
                 "models": [], "outstanding_tokens": 5},
            ],
            "placements": [{"worker": "cd", "resident_bytes": 1_000_000}],
        });
        let loaded = json!({"models": [{"name": "m:1", "digest": "9077fe9d2ae1a4a4", "size": 98_000_000,
            "context_length": 4096, "expires_at": "9999-01-01T00:00:00Z", "workers": [{"name": "gpu-a"}]}]});
        let sample = Sample { streams: 3.0, first_token_s: Some(0.25), ..Sample::default() };
        let rates =
            Rates { requests: 1.5, tokens: 40.0, tokens_of: [("m:1".to_owned(), 40.0)].into() };
        Answers { cluster, loaded, nodes: [("h:2".to_owned(), (sample, rates))].into() }
    }

    pub fn now() -> Timestamp {
        "2026-01-10T12:00:00Z".parse().expect("a time")
    }

    #[test]
    fn answers_become_tables() {
        let facts = Facts::of(&answers(), now());
        assert_eq!(facts.headline, "lab: 2 of 3 nodes, leader 2, 0 more may fail");
        assert!(!facts.healthy);
        assert_eq!(facts.load, "3 streams  1.5 requests/s  40.0 tokens/s  first token p95 250 ms");
        let [nodes, workers, models] = &facts.tables;
        assert_eq!(nodes[1].cells, ["2", "leader", "h:2", "12", "3", "1.5", "40.0"]);
        assert_eq!(nodes[2].cells, ["3", "unreachable", "h:3", "-", "-", "-", "-"]);
        assert!(nodes[2].bad && !nodes[1].bad);
        assert_eq!(
            workers[0].cells,
            ["gpu-a", "ready", "cuda:0", "82 %", "20 GB of 24 GB", "61 °C", "m:1"]
        );
        assert_eq!(
            workers[1].cells,
            ["gpu-b", "draining", "cpu", "5 tok", "1 MB of 8 GB", "-", ""]
        );
        assert_eq!(
            models[0].cells,
            ["m:1", "9077fe9d2ae1", "98 MB", "4096", "1", "40.0", "Forever"]
        );
        for (pane, table) in Pane::ALL.iter().zip(&facts.tables) {
            for row in table {
                assert_eq!(
                    (row.cells.len(), row.keys.len()),
                    (pane.columns().len(), pane.columns().len())
                );
            }
        }
    }

    #[test]
    fn without_a_leader_the_headline_says_what_that_means() {
        let lost = Answers {
            cluster: json!({"nodes": [{"id": 1, "role": "follower"}, {"id": 2, "role": "unreachable"}]}),
            ..Answers::default()
        };
        let facts = Facts::of(&lost, now());
        assert!(facts.headline.contains("NO LEADER") && !facts.healthy, "{}", facts.headline);
    }
}
