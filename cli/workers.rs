//! `workers`: who runs models, with which labels, and who shall stop.

use crate::adopt::Adopt;
use crate::client::Client;
use crate::deploy::key_value;
use crate::exit::Failure;
use crate::list::{elements, text};
use crate::output::{List, Output};
use crate::{human, out, table, watch};
use serde_json::{Map, Value, json};

/// Bytes of a MiB.
const MIB: u64 = 1 << 20;

/// What to do. A worker is meant by its name, its id, or the beginning of one.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// List the workers
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        output: Output,
        /// Show it again whenever it changes, until Ctrl-C
        #[arg(short, long)]
        watch: bool,
    },
    /// Show one worker and what it holds
    Show {
        /// The worker
        worker: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Adopt an Ollama or OpenAI-compatible server: it answers whole requests from then on
    Adopt(Adopt),
    /// Let an adopted server go; it goes on as it was
    Release {
        /// The adopted server
        worker: String,
    },
    /// Have a worker give away what it holds and take nothing new, until it is resumed
    Drain {
        /// The worker
        worker: String,
        /// Why, for whoever looks
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a drained worker be used again
    Resume {
        /// The worker
        worker: String,
    },
    /// Remove a worker for good: it comes back only with another join token. An adopted server is let go
    Rm {
        /// The worker
        worker: String,
    },
    /// Set labels, or remove them with `key-`
    Label {
        /// The worker
        worker: String,
        /// `key=value` sets, `key-` removes
        #[arg(required = true, value_name = "KEY=VALUE")]
        labels: Vec<String>,
    },
}

/// Does it.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    match args {
        Args::List { output, watch } => {
            let ask = async || client.get("/admin/v1/workers").await;
            let workers = List { items: "workers", name: "name" };
            watch::show(*watch, ask, |answer| output.text(answer, workers, list)).await?;
        }
        Args::Show { worker, json } => {
            let answer = client.get(&format!("/admin/v1/workers/{worker}")).await?;
            if *json { out::json(&answer) } else { out::text(&one(&answer)) }
        }
        Args::Adopt(adopt) => adopt.run(client).await?,
        Args::Release { worker } => {
            let shown = client.get(&format!("/admin/v1/workers/{worker}")).await?;
            if shown["adopted"].is_null() {
                let text = format!(
                    "`{worker}` was not adopted; `ollamamax workers drain {worker}` or `workers rm {worker}` ends its work"
                );
                return Err(Failure::Usage(text));
            }
            client.delete(&format!("/admin/v1/workers/{worker}"), None).await?;
            out::line(&format!("released {worker}; it goes on as it was"));
        }
        Args::Drain { worker, reason } => {
            let body = reason.as_ref().map_or(json!({}), |reason| json!({"reason": reason}));
            client.post(&format!("/admin/v1/workers/{worker}/drain"), &body).await?;
            out::line(&format!("{worker} drains; `ollamamax workers resume {worker}` ends it"));
        }
        Args::Resume { worker } => {
            let path = format!("/admin/v1/workers/{worker}/resume");
            let answer = client.post(&path, &json!({})).await?;
            out::line(&format!("{worker} is {}", text(&answer, "status")));
        }
        Args::Rm { worker } => {
            client.delete(&format!("/admin/v1/workers/{worker}"), None).await?;
            out::line(&format!("removed {worker}"));
        }
        Args::Label { worker, labels } => {
            let body = json!({"labels": changes(labels)?});
            let answer = client.post(&format!("/admin/v1/workers/{worker}/label"), &body).await?;
            out::line(&format!("{worker}: {}", joined(&answer["labels"])));
        }
    }
    Ok(())
}

fn changes(labels: &[String]) -> Result<Map<String, Value>, Failure> {
    let change = |label: &String| match label.strip_suffix('-') {
        Some(key) if !label.contains('=') => Ok((key.to_owned(), Value::Null)),
        _ => key_value(label).map(|(key, value)| (key.to_owned(), json!(value))),
    };
    labels.iter().map(change).collect()
}

pub fn joined(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("?"))).collect();
    if pairs.is_empty() { "no labels".to_owned() } else { pairs.join(",") }
}

fn list(answer: &Value, wide: bool) -> String {
    const HEADER: [&str; 9] =
        ["WORKER", "ID", "STATUS", "DEVICE", "MEMORY", "MODELS", "LABELS", "ADDRESS", "HOLDS"];
    let columns = if wide { HEADER.len() } else { 7 };
    let row = |worker: &Value| {
        let models = elements(&worker["models"]);
        let names: Vec<&str> = models.iter().filter_map(Value::as_str).collect();
        let mut cells = vec![
            text(worker, "name"),
            text(worker, "id").chars().take(12).collect(),
            status(worker),
            text(worker, "device"),
            memory(worker),
            models.len().to_string(),
            joined(&worker["labels"]),
            text(worker, "address"),
            names.join(","),
        ];
        cells.truncate(columns);
        cells
    };
    let rows: Vec<_> = answer["workers"].as_array().into_iter().flatten().map(row).collect();
    table::render(&HEADER[..columns], &rows)
}

/// Of an adopted server nobody knows.
fn memory(worker: &Value) -> String {
    match worker["adopted"].is_null() {
        true => human::bytes(worker["memory_bytes"].as_u64().unwrap_or(0)),
        false => "-".to_owned(),
    }
}

pub fn status(worker: &Value) -> String {
    let slow = if worker["slow"] == true { ", slow" } else { "" };
    format!("{}{slow}", text(worker, "status"))
}

fn one(worker: &Value) -> String {
    if !worker["adopted"].is_null() {
        return crate::adopt::one(worker);
    }
    let mut shown = format!(
        "{} is {}\n  id         {}\n  address    {}\n  device     {} ({})\n  memory     {}\n  labels     {}\n",
        text(worker, "name"),
        status(worker),
        text(worker, "id"),
        text(worker, "address"),
        text(worker, "device"),
        text(worker, "device_name"),
        human::bytes(worker["memory_bytes"].as_u64().unwrap_or(0)),
        joined(&worker["labels"]),
    );
    if let Some(ns) = worker["ns_per_mib"].as_u64().filter(|ns| *ns > 0) {
        let bytes_per_second = u128::from(MIB) * 1_000_000_000 / u128::from(ns);
        let rate = human::bytes(u64::try_from(bytes_per_second).unwrap_or(u64::MAX));
        shown.push_str(&format!("  reads      {rate} a second\n"));
    }
    if let Some(health) = worker["health"].as_object() {
        shown.push_str(&format!("  health     {}\n", told(health)));
    }
    if let Some(why) = worker["reason"].as_str().filter(|why| !why.is_empty()) {
        shown.push_str(&format!("  because    {why}\n"));
    }
    let rows = crate::placement::rows(&worker["placements"]);
    if !rows.is_empty() {
        shown.push('\n');
        shown.push_str(&table::render(&crate::placement::COLUMNS, &rows));
    }
    shown
}

/// How a GPU is, as far as it tells.
fn told(health: &serde_json::Map<String, Value>) -> String {
    let number = |name: &str| health.get(name).and_then(Value::as_u64);
    let parts = [
        number("busy_percent").map(|percent| format!("{percent} % busy")),
        number("memory_used_bytes").map(|bytes| format!("{} used", human::bytes(bytes))),
        number("celsius").map(|celsius| format!("{celsius} °C")),
        number("memory_errors").filter(|n| *n > 0).map(|n| format!("{n} MEMORY ERRORS")),
        number("xid").map(|xid| format!("FAILED (Xid {xid})")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "it tells nothing".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_removed() {
        let labels = ["zone=a-".to_owned(), "rack-".to_owned()];
        let changes = changes(&labels).unwrap_or_default();
        assert_eq!(Value::Object(changes), json!({"zone": "a-", "rack": null}));
        assert_eq!(joined(&json!({"a": "1", "b": "2"})), "a=1,b=2");
    }

    #[test]
    fn one_worker_is_a_page() {
        let worker = json!({"name": "w1", "status": "draining", "id": "00", "address": "h:1",
            "device": "cpu", "device_name": "x", "memory_bytes": 1_000_000_000, "labels": {},
            "reason": "new fans", "placements": [], "ns_per_mib": 104_857, "slow": true,
            "health": {"busy_percent": 93, "celsius": 61, "memory_errors": 0, "xid": 79}});
        assert_eq!(
            one(&worker),
            "w1 is draining, slow\n  id         00\n  address    h:1\n  device     cpu (x)\n  memory     \
             1 GB\n  labels     no labels\n  reads      10 GB a second\n  health     93 % busy, 61 °C, FAILED (Xid 79)\n  because    new fans\n"
        );
    }
}
