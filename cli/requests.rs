//! `requests`: what runs on all nodes and what ran lately, and an end to what shall not go on.

use crate::ask::{CLUSTER, node_endpoint};
use crate::client::Client;
use crate::exit::Failure;
use crate::list::{elements, text};
use crate::output::{List, Output};
use crate::{human, out, table};
use ollamamax_proto::Millis;
use serde_json::{Value, json};

/// What to do with requests.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// List requests of all nodes, those that run first, then the newest
    #[command(visible_alias = "ls")]
    List {
        /// Of this model only
        #[arg(long)]
        model: Option<String>,
        /// Only these: running, done, failed or cancelled
        #[arg(long)]
        outcome: Option<String>,
        /// At most so many
        #[arg(long, short = 'n', default_value_t = 20)]
        limit: usize,
        #[command(flatten)]
        output: Output,
    },
    /// Show all that is remembered of one
    Show {
        /// Its id, as `X-Request-Id` of its answer says
        id: String,
    },
    /// End one that runs
    End {
        /// Its id
        id: String,
    },
}

/// Does something with requests.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    match args {
        Args::List { model, outcome, limit, output } => {
            let filters = [("model", model), ("outcome", outcome)];
            let filters =
                filters.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
            let mut query =
                reqwest::Url::parse("http://node/admin/v1/requests").map_err(unsound)?;
            query.query_pairs_mut().append_pair("limit", &limit.to_string()).extend_pairs(filters);
            let path = format!("{}?{}", query.path(), query.query().unwrap_or_default());
            let mut all: Vec<Value> = Vec::new();
            for (_, answer) in ask_all(client, &path).await? {
                all.extend(with_node(&answer));
            }
            let newest = |request: &Value| request["begun_at"].as_u64();
            let runs = |request: &Value| request["outcome"] == "running";
            all.sort_by(|a, b| runs(b).cmp(&runs(a)).then(newest(b).cmp(&newest(a))));
            all.truncate(*limit);
            let answer = json!({"requests": all});
            output.print(&answer, List { items: "requests", name: "request" }, listed);
        }
        Args::Show { id } => {
            let path = path_of(id)?;
            let found = ask_all(client, &path).await?;
            let all: Vec<Value> = found.iter().flat_map(|(_, answer)| with_node(answer)).collect();
            if all.is_empty() {
                return Err(unknown(id));
            }
            all.iter().for_each(out::json);
        }
        Args::End { id } => {
            let path = path_of(id)?;
            let mut ended = false;
            for (node, _) in ask_all(client, &path).await? {
                match node.delete(&path, None).await {
                    Ok(_) => ended = true,
                    Err(Failure::Refused { status: 404, .. }) => {}
                    Err(failure) => return Err(failure),
                }
            }
            if !ended {
                return Err(unknown(id));
            }
            out::say(&format!("ended '{id}'"));
        }
    }
    Ok(())
}

fn unsound(error: impl std::fmt::Display) -> Failure {
    Failure::Usage(error.to_string())
}

fn unknown(id: &str) -> Failure {
    let message =
        format!("no node remembers a request `{id}`; `ollamamax requests list` shows what they do");
    Failure::Refused { status: 404, message }
}

fn path_of(id: &str) -> Result<String, Failure> {
    let mut url = reqwest::Url::parse("http://node/admin/v1/requests").map_err(unsound)?;
    let segments = url.path_segments_mut();
    segments.map_err(|()| unsound("an address without a path"))?.push(id);
    Ok(url.path().to_owned())
}

/// What each node answers that can be reached and has something to answer.
async fn ask_all(client: &Client, path: &str) -> Result<Vec<(Client, Value)>, Failure> {
    let cluster = client.get(CLUSTER).await?;
    let told_by = client.answered_by();
    let mut all = Vec::new();
    for node in elements(&cluster["nodes"]) {
        let http = text(node, "http");
        let Some(endpoint) = node_endpoint(&http, told_by.as_ref()) else { continue };
        let only = client.only(endpoint).await?;
        match only.get(path).await {
            Ok(answer) => all.push((only, answer)),
            Err(Failure::Refused { status: 404, .. }) => {}
            Err(failure @ Failure::Refused { .. }) => return Err(failure),
            Err(failure) => {
                out::say(&format!("node {} ({http}) does not say: {failure}", node["id"]))
            }
        }
    }
    Ok(all)
}

fn with_node(answer: &Value) -> impl Iterator<Item = Value> {
    elements(&answer["requests"]).iter().map(|request| {
        let mut request = request.clone();
        request["node"] = answer["node"].clone();
        request
    })
}

fn listed(answer: &Value, wide: bool) -> String {
    let now = Millis::now();
    let row = |request: &Value| {
        let ms = |field: &str| {
            request[field].as_f64().map_or("-".to_owned(), |ms| format!("{:.2} s", ms / 1_000.0))
        };
        let begun = Millis(request["begun_at"].as_u64().unwrap_or_default());
        let workers = elements(&request["workers"]).iter().map(|worker| text(worker, "name"));
        let tokens = format!("{}+{}", request["prompt_tokens"], request["output_tokens"]);
        let mut row = vec![
            text(request, "request"),
            text(request, "model"),
            human::duration(now.since(begun) / 1_000),
            text(request, "outcome"),
            workers.collect::<Vec<_>>().join(","),
            tokens,
            ms("first_text_ms"),
            ms("total_ms"),
        ];
        if wide {
            row.extend([
                request["node"].to_string(),
                text(request, "caller"),
                text(request, "route"),
                text(request, "strategy"),
                text(request, "balancing"),
                ms("queue_ms"),
                request["resumes"].to_string(),
                text(request, "reason"),
            ]);
        }
        row
    };
    let rows: Vec<_> = elements(&answer["requests"]).iter().map(row).collect();
    let mut header =
        vec!["REQUEST", "MODEL", "AGE", "OUTCOME", "WORKERS", "TOKENS", "FIRST TEXT", "TOTAL"];
    if wide {
        header.extend([
            "NODE",
            "CALLER",
            "ROUTE",
            "STRATEGY",
            "BALANCING",
            "QUEUE",
            "RESUMES",
            "REASON",
        ]);
    }
    table::render(&header, &rows)
}
