//! `cluster`: the control plane's members, who leads, and what the workers do.

use crate::client::Client;
use crate::control_plane::JoinArgs;
use crate::exit::Failure;
use crate::list::text;
use crate::output::{List, Output};
use crate::{human, out, table, watch};
use ollamamax_proto::Millis;
use serde_json::{Value, json};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Show nodes, leader, workers and what they run
    Status {
        #[command(flatten)]
        output: Output,
        /// Show it again whenever it changes, until Ctrl-C
        #[arg(short, long)]
        watch: bool,
    },
    /// Show the nodes only
    Members(Output),
    /// Start a node on this machine and join a cluster with it, with a join token
    Join(Box<JoinArgs>),
    /// Show what signs the certificates of nodes and workers
    Authorities(Output),
    /// Replace it: the new one is trusted at once, and signs when every member must have heard of it
    RotateAuthority,
    /// Take a node out of the quorum
    Remove {
        /// The node's id, as `cluster status` shows it
        id: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

const NODES: List = List { items: "nodes", name: "id" };

/// Does it. `join` is a daemon and not handled here.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    match args {
        Args::Status { output, watch } => {
            let shown = |answer: &Value| output.text(answer, NODES, render);
            watch::show(*watch, async || status(client).await, shown).await?;
        }
        Args::Members(output) => {
            let mut status = status(client).await?;
            let nodes = json!({"nodes": status["nodes"].take()});
            output.print(&nodes, NODES, nodes_table);
        }
        Args::Remove { id, json } => {
            let answer = client.delete(&format!("/admin/v1/cluster/nodes/{id}"), None).await?;
            if *json {
                out::json(&json!({"removed": id, "answer": answer}));
            } else {
                out::line(&format!("removed node {id}"));
            }
        }
        Args::Authorities(output) => {
            let answer = client.get("/admin/v1/authorities").await?;
            let list = List { items: "authorities", name: "fingerprint" };
            output.print(&answer, list, |answer, _| authorities(answer));
        }
        Args::RotateAuthority => {
            let made = client.post("/admin/v1/authorities/rotate", &json!({})).await?;
            let from = Millis(made["signs_from"].as_u64().unwrap_or(0));
            let wait = human::duration(from.since(Millis::now()) / 1_000);
            out::line(&format!("{} signs in {wait}", text(&made, "fingerprint")));
        }
        Args::Join(_) => {}
    }
    Ok(())
}

fn authorities(answer: &Value) -> String {
    let now = Millis::now();
    let row = |authority: &Value| {
        let left = |field: &str| {
            let end = authority[field].as_u64().map(Millis);
            end.map_or("-".to_owned(), |end| human::duration(end.since(now) / 1_000))
        };
        let name = text(authority, "fingerprint").chars().take(23).collect();
        vec![name, text(authority, "state"), left("trusted_until"), left("expires_at")]
    };
    let rows: Vec<_> = list(answer, "authorities").iter().map(row).collect();
    table::render(&["AUTHORITY", "STATE", "TRUSTED FOR", "EXPIRES IN"], &rows)
}

/// The cluster as the answering node sees it: it must work without a quorum too.
pub async fn status(client: &Client) -> Result<Value, Failure> {
    client.get(crate::ask::CLUSTER).await
}

fn list<'a>(status: &'a Value, field: &str) -> &'a [Value] {
    status[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn number(value: &Value, field: &str) -> String {
    value[field].as_u64().map_or_else(|| "-".to_owned(), |n| n.to_string())
}

fn render(status: &Value, wide: bool) -> String {
    let mut shown = headline(status);
    shown.push_str("\n\n");
    shown.push_str(&nodes_table(status, wide));
    let workers = list(status, "workers");
    if workers.is_empty() {
        shown.push_str("\nno workers; start one with `ollamamax worker`\n");
        return shown;
    }
    shown.push('\n');
    let row = |worker: &Value| {
        vec![
            worker["name"].as_str().map_or_else(|| text(worker, "id"), str::to_owned),
            text(worker, "status"),
            text(worker, "device"),
            text(worker, "address"),
            number(worker, "pid"),
            models(worker, list(status, "placements")),
        ]
    };
    let rows: Vec<_> = workers.iter().map(row).collect();
    shown.push_str(&table::render(
        &["WORKER", "STATUS", "DEVICE", "ADDRESS", "PID", "MODELS"],
        &rows,
    ));
    shown
}

/// The state of the quorum in one sentence.
fn headline(status: &Value) -> String {
    let nodes = list(status, "nodes");
    let voters = nodes.iter().filter(|node| node["voter"] != false);
    let (mut total, mut up) = (0usize, 0usize);
    for node in voters {
        total += 1;
        up += usize::from(node["role"] != "unreachable");
    }
    let term = number(status, "term");
    let Some(leader) = status["leader"].as_u64() else {
        return format!(
            "no leader: of {total} voting nodes a majority must be up; running models are still served, \
             changes have to wait (term {term})"
        );
    };
    let more = up.saturating_sub(total / 2 + 1);
    let more = match more {
        0 => "none more may fail".to_owned(),
        1 => "one more may fail".to_owned(),
        n => format!("{n} more may fail"),
    };
    format!("{up} of {total} nodes up, leader {leader} (term {term}), {more}")
}

fn nodes_table(status: &Value, wide: bool) -> String {
    const HEADER: [&str; 7] = ["NODE", "ROLE", "HTTP", "RAFT", "PID", "APPLIED", "VOTER"];
    let columns = if wide { HEADER.len() } else { 6 };
    let row = |node: &Value| {
        let mut cells = vec![
            number(node, "id"),
            text(node, "role"),
            text(node, "http"),
            text(node, "raft"),
            number(node, "pid"),
            number(node, "applied"),
            (if node["voter"] == false { "no" } else { "yes" }).to_owned(),
        ];
        cells.truncate(columns);
        cells
    };
    let rows: Vec<_> = list(status, "nodes").iter().map(row).collect();
    table::render(&HEADER[..columns], &rows)
}

/// The models of a worker, each with its phase unless it is ready.
fn models(worker: &Value, placements: &[Value]) -> String {
    let shown = |model: &Value| {
        let here = |place: &&Value| place["worker"] == worker["id"] && place["model"] == *model;
        let phase = placements.iter().find(here).and_then(|place| place["phase"].as_str());
        let name = model.as_str().unwrap_or("?");
        match phase {
            None | Some("ready") => name.to_owned(),
            Some(phase) => format!("{name} ({phase})"),
        }
    };
    list(worker, "models").iter().map(shown).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_a_sentence_and_two_tables() {
        let node = |id, role: &str, applied: Value| {
            json!({"id": id, "role": role, "http": format!("127.0.0.1:{}", 11433 + id),
                   "raft": format!("127.0.0.1:{}", 20000 + id), "pid": 40 + id, "applied": applied, "voter": true})
        };
        let status = json!({
            "leader": 2, "term": 7, "revision": 12,
            "nodes": [node(1, "follower", json!(10)), node(2, "leader", json!(12)),
                      node(3, "unreachable", Value::Null)],
            "workers": [{"id": "ab", "name": "w1", "status": "ready", "device": "cpu",
                         "address": "127.0.0.1:20009", "pid": 50,
                         "models": ["smollm2:135m", "tiny:latest"]}],
            "placements": [{"worker": "ab", "model": "smollm2:135m", "phase": "loading"},
                           {"worker": "ab", "model": "tiny:latest", "phase": "ready"}],
        });
        assert_eq!(
            render(&status, false),
            "2 of 3 nodes up, leader 2 (term 7), none more may fail\n\n\
             NODE    ROLE           HTTP               RAFT               PID    APPLIED\n\
             1       follower       127.0.0.1:11434    127.0.0.1:20001    41     10\n\
             2       leader         127.0.0.1:11435    127.0.0.1:20002    42     12\n\
             3       unreachable    127.0.0.1:11436    127.0.0.1:20003    43     -\n\n\
             WORKER    STATUS    DEVICE    ADDRESS            PID    MODELS\n\
             w1        ready     cpu       127.0.0.1:20009    50     smollm2:135m (loading), tiny:latest\n"
        );
    }

    #[test]
    fn a_lost_quorum_is_said_in_words() {
        let status = json!({"leader": null, "term": 3, "nodes": [{"id": 1}, {"id": 2}, {"id": 3}]});
        assert!(
            headline(&status).starts_with("no leader: of 3 voting nodes"),
            "{}",
            headline(&status)
        );
    }
}
