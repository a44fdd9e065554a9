//! `placement`, `rebalance` and `migrate`: who holds what, what would change next, and why.

use crate::client::Client;
use crate::exit::Failure;
use crate::list::text;
use crate::output::{List, Output};
use crate::{human, out, table, watch};
use serde_json::{Value, json};

/// The columns of a table of placements.
pub const COLUMNS: [&str; 7] =
    ["MODEL", "WORKER", "LAYERS", "SHARD", "PHASE", "PREDICTED", "MEMORY"];

/// What to see.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Show deployments and who holds what
    Show {
        #[command(flatten)]
        output: Output,
        /// Show it again whenever it changes, until Ctrl-C
        #[arg(short, long)]
        watch: bool,
    },
    /// Show what the planner would do now
    Plan {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show why a model is where it is, and where else it could be
    Explain {
        /// The model
        model: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Even out what the workers hold.
#[derive(Debug, clap::Args)]
pub struct Rebalance {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Move a model from one worker to another.
#[derive(Debug, clap::Args)]
pub struct Migrate {
    /// The model
    model: String,
    /// The worker that holds it: its name, id, or the beginning of one
    #[arg(long)]
    from: String,
    /// The worker that shall hold it
    #[arg(long)]
    to: String,
}

/// Shows it.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let ask = async |path: &str| client.get(path).await;
    match args {
        Args::Show { output, watch } => {
            let held = List { items: "placements", name: "model" };
            let shown = |answer: &Value| output.text(answer, held, |answer, _| show(answer));
            watch::show(*watch, async || ask("/admin/v1/placement").await, shown).await
        }
        Args::Plan { json } => {
            let path = "/admin/v1/placement/plan";
            watch::show(false, async || ask(path).await, watch::or_json(*json, plan)).await
        }
        Args::Explain { model, json } => {
            let path = format!("/admin/v1/placement/explain/{model}");
            watch::show(false, async || ask(&path).await, watch::or_json(*json, explain)).await
        }
    }
}

/// Evens out.
pub async fn rebalance(client: &Client, args: &Rebalance) -> Result<(), Failure> {
    let answer = client.post("/admin/v1/rebalance", &json!({})).await?;
    if args.json {
        out::json(&answer);
        return Ok(());
    }
    let moves = list(&answer["moves"]);
    if moves.is_empty() {
        out::line("nothing to move");
    }
    for step in moves {
        let (model, from, to) = (text(step, "model"), text(step, "from"), text(step, "to"));
        out::line(&format!("{model} moves from {from} to {to}"));
    }
    Ok(())
}

/// Moves it.
pub async fn migrate(client: &Client, args: &Migrate) -> Result<(), Failure> {
    let body = json!({"from": args.from, "to": args.to});
    client.post(&format!("/admin/v1/models/{}/migrate", args.model), &body).await?;
    out::line(&format!(
        "{} moves from {} to {}; it serves where it is until it serves there",
        args.model, args.from, args.to
    ));
    Ok(())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn layers(stage: &Value) -> String {
    format!("{}-{}", number(&stage["layers"][0]), number(&stage["layers"][1]))
}

/// One row per placement, under [`COLUMNS`].
pub fn rows(placements: &Value) -> Vec<Vec<String>> {
    let row = |placement: &Value| {
        let stage = &placement["stage"];
        let shard = stage["shard"].as_u64().unwrap_or(0) + 1;
        let phase = match placement["reason"].as_str() {
            Some(reason) => format!("failed: {reason}"),
            None => text(placement, "phase"),
        };
        vec![
            text(placement, "model"),
            text(placement, "name"),
            layers(stage),
            format!("{shard} of {}", number(&stage["shards"])),
            phase,
            human::bytes(placement["predicted_bytes"].as_u64().unwrap_or(0)),
            human::bytes(placement["resident_bytes"].as_u64().unwrap_or(0)),
        ]
    };
    list(placements).iter().map(row).collect()
}

/// A table of versions: what each gets of the requests, and what became of it.
pub fn versions(versions: &Value) -> String {
    let row = |version: &Value| {
        let state = match version["reason"].as_str() {
            Some(reason) => format!("failed: {reason}"),
            None => text(version, "state"),
        };
        let digest: String = text(version, "digest").chars().take(12).collect();
        let weight = format!("{}%", number(&version["weight"]));
        let ready = number(&version["ready"]);
        let size = human::bytes(version["size"].as_u64().unwrap_or(0));
        vec![text(version, "model"), digest, weight, ready, size, state]
    };
    let rows: Vec<_> = list(versions).iter().map(row).collect();
    table::render(&["MODEL", "VERSION", "WEIGHT", "READY", "SIZE", "STATE"], &rows)
}

fn show(answer: &Value) -> String {
    let deployment = |d: &Value| {
        vec![
            text(d, "model"),
            text(d, "strategy"),
            format!("{}..{}", number(&d["replicas"][0]), number(&d["replicas"][1])),
            text(d, "activations"),
            text(d, "policy"),
        ]
    };
    let deployments: Vec<_> = list(&answer["deployments"]).iter().map(deployment).collect();
    let mut shown = String::new();
    if !deployments.is_empty() {
        let header = ["DEPLOYED", "STRATEGY", "REPLICAS", "ACTIVATIONS", "POLICY"];
        shown.push_str(&table::render(&header, &deployments));
        shown.push('\n');
    }
    shown.push_str(&table::render(&COLUMNS, &rows(&answer["placements"])));
    if !list(&answer["versions"]).is_empty() {
        shown.push('\n');
        shown.push_str(&versions(&answer["versions"]));
    }
    for migration in list(&answer["migrations"]) {
        let (model, from, to) =
            (text(migration, "model"), text(migration, "from"), text(migration, "to"));
        shown.push_str(&format!("\n{model} moves from {from} to {to}\n"));
    }
    shown
}

fn plan(answer: &Value) -> String {
    let mut shown = String::new();
    for step in list(&answer["steps"]) {
        let (what, model) = (text(step, "step"), text(step, "model"));
        let members = list(&step["members"])
            .iter()
            .map(|member| format!("{} layers {}", text(member, "name"), layers(&member["stage"])));
        let members: Vec<String> = members.collect();
        let whom = match step["name"].as_str() {
            Some(name) => format!(" on {name}"),
            None if members.is_empty() => String::new(),
            None => format!(" on {}", members.join(", ")),
        };
        shown.push_str(&format!("{what} {model}{whom}\n"));
    }
    if shown.is_empty() {
        shown.push_str("nothing to do\n");
    }
    for line in list(&answer["report"]) {
        shown.push_str(&format!("{}\n", line.as_str().unwrap_or_default()));
    }
    shown
}

fn explain(answer: &Value) -> String {
    let mut shown = format!("{}\n", text(answer, "model"));
    let rows = rows(&answer["placements"]);
    if !rows.is_empty() {
        shown.push_str(&format!("\n{}\n", table::render(&COLUMNS, &rows)));
    }
    for line in list(&answer["report"]) {
        shown.push_str(&format!("{}\n", line.as_str().unwrap_or_default()));
    }
    let way = |value: &Value| match value["map"]["text"].as_str() {
        Some(map) => map.to_owned(),
        None => format!("no: {}", text(value, "refused")),
    };
    shown.push_str(&format!("cheapest: {}\n", way(&answer["best"])));
    for other in list(&answer["others"]) {
        let found = way(other);
        let form = if found.starts_with("no:") { text(other, "form") } else { "or".to_owned() };
        shown.push_str(&format!("  {form} {found}\n"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_steps_and_a_report() {
        let stage = |first, end| json!({"layers": [first, end], "shard": 0, "shards": 1});
        let answer = json!({
            "steps": [
                {"step": "unassign", "model": "a"},
                {"step": "assign", "model": "b", "name": "w1"},
                {"step": "add replica", "model": "c", "members": [
                    {"name": "w1", "stage": stage(0, 3)}, {"name": "w2", "stage": stage(3, 5)}]},
            ],
            "report": ["d: 1 more wanted, no worker is ready"],
        });
        assert_eq!(
            plan(&answer),
            "unassign a\nassign b on w1\nadd replica c on w1 layers 0-3, w2 layers 3-5\n\
             d: 1 more wanted, no worker is ready\n"
        );
        assert_eq!(plan(&json!({})), "nothing to do\n");
    }

    #[test]
    fn placements_are_a_table_and_an_explanation_a_list() {
        let placement = json!({"model": "m", "name": "w1", "phase": "ready", "reason": null,
            "stage": {"layers": [0, 3], "shard": 1, "shards": 2}, "resident_bytes": 2_000_000,
            "predicted_bytes": 3_000_000});
        let answer = json!({"placements": [placement]});
        assert_eq!(
            show(&answer),
            "MODEL    WORKER    LAYERS    SHARD     PHASE    PREDICTED    MEMORY\n\
             m        w1        0-3       2 of 2    ready    3 MB         2 MB\n"
        );
        let answer = json!({"model": "m", "best": {"map": {"text": "one whole"}}, "others": [
            {"form": "`tensor` of 3 shards", "refused": "3 shards over 4 heads"},
            {"form": "`layer`", "map": {"text": "`layer` of 2 stages"}}]});
        assert_eq!(
            explain(&answer),
            "m\ncheapest: one whole\n  `tensor` of 3 shards no: 3 shards over 4 heads\n  \
             or `layer` of 2 stages\n"
        );
    }
}
