//! `deploy`: a model on so many workers, cut in this or that way; and `--wait` until it serves.

use crate::client::Client;
use crate::exit::Failure;
use crate::out;
use ollamamax_proto::limits;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How often to look whether the replicas serve.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model
    model: String,
    /// How it is spread: data, layer, pipeline, tensor or auto
    #[arg(long)]
    strategy: Option<String>,
    /// Replicas, or the least and the most
    #[arg(long, value_name = "MIN[..MAX]", default_value = "1")]
    replicas: String,
    /// Stages of each replica
    #[arg(long)]
    stages: Option<u32>,
    /// Shards of each layer
    #[arg(long)]
    shards: Option<u32>,
    /// What stages hand to each other: f32 or bf16
    #[arg(long)]
    activations: Option<String>,
    /// Steps on their way at once in one replica
    #[arg(long, value_name = "N")]
    steps_in_flight: Option<u32>,
    /// What `auto` is best at: latency or throughput
    #[arg(long)]
    policy: Option<String>,
    /// How requests are spread over replicas
    #[arg(long)]
    balancing: Option<String>,
    /// Only on workers with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Tokens a sequence may hold
    #[arg(long, value_name = "TOKENS")]
    context: Option<u32>,
    /// How long it stays loaded, as in OLLAMA_KEEP_ALIVE; forever when not given
    #[arg(long, value_name = "DURATION")]
    keep_alive: Option<String>,
    /// No longer say how the model is spread; it stays loaded
    #[arg(long, conflicts_with_all = ["strategy", "stages", "shards", "labels", "policy"])]
    clear: bool,
    /// Wait until the replicas serve
    #[arg(long)]
    wait: bool,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = limits::LOAD_TIMEOUT_MS / 1_000)]
    timeout: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Deploys it.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let path = format!("/admin/v1/models/{}/deploy", args.model);
    if args.clear {
        let answer = client.delete(&path, None).await?;
        if args.json {
            out::json(&answer);
        } else {
            out::line(&format!("nothing is said any more of how {} is spread", args.model));
        }
        return Ok(());
    }
    let (least, _) = replicas(&args.replicas)?;
    let answer = client.post(&path, &request(args)?).await?;
    if args.json {
        out::json(&answer);
    } else {
        for line in answer["report"].as_array().into_iter().flatten() {
            out::line(line.as_str().unwrap_or_default());
        }
    }
    if args.wait {
        let name = answer["model"].as_str().unwrap_or(&args.model).to_owned();
        let revision = answer["revision"].as_u64().unwrap_or(0);
        wait(client, (&name, revision), least as usize, args.timeout).await?;
        out::say(&format!("{name} serves"));
    }
    Ok(())
}

fn request(args: &Args) -> Result<Value, Failure> {
    let (least, most) = replicas(&args.replicas)?;
    let mut labels = serde_json::Map::new();
    for label in &args.labels {
        let (key, value) = key_value(label)?;
        labels.insert(key.to_owned(), json!(value));
    }
    // Without a word on the shape the planner chooses.
    let free = args.stages.is_none() && args.shards.is_none();
    let strategy = args.strategy.clone().or_else(|| free.then(|| "auto".to_owned()));
    let mut request = json!({
        "strategy": strategy,
        "replicas": least,
        "replicas_max": most,
        "stages": args.stages,
        "shards": args.shards,
        "activations": args.activations,
        "steps_in_flight": args.steps_in_flight,
        "policy": args.policy,
        "balancing": args.balancing,
        "labels": labels,
        "context_length": args.context,
        "keep_alive": args.keep_alive,
    });
    if let Some(fields) = request.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    Ok(request)
}

/// `2` or `1..3`.
fn replicas(text: &str) -> Result<(u32, u32), Failure> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    match (least.parse(), most.parse()) {
        (Ok(least), Ok(most)) => Ok((least, most)),
        _ => Err(Failure::Usage(format!("`--replicas {text}`, expected a number or MIN..MAX"))),
    }
}

/// The two sides of a label.
pub fn key_value(text: &str) -> Result<(&str, &str), Failure> {
    text.split_once('=')
        .ok_or_else(|| Failure::Usage(format!("label `{text}`, expected KEY=VALUE")))
}

/// Waits until the model serves as it was deployed at `revision`; what serves in another way until then does not count.
async fn wait(
    client: &Client,
    (model, revision): (&str, u64),
    least: usize,
    seconds: u64,
) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        let shown = client.get("/admin/v1/placement").await?;
        let current = shown["revision"].as_u64().is_some_and(|shown| shown >= revision);
        if current && settled(&shown, model) && serving(&shown, model) >= least {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let what = match failure(&shown, model) {
                Some(reason) => format!("loading {model} (last: {reason})"),
                None => format!("loading {model}"),
            };
            return Err(Failure::Timeout { what, seconds });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Whether nothing of the model is on its way, to or from a worker.
fn settled(shown: &Value, model: &str) -> bool {
    let changing = shown["changing"].as_array().is_some_and(|all| all.iter().any(|m| m == model));
    let loading = |placement: &Value| placement["model"] == model && placement["phase"] != "ready";
    !changing && !shown["placements"].as_array().is_some_and(|all| all.iter().any(loading))
}

/// Replicas that serve: whole ones, and those of several stages of which each is ready.
fn serving(shown: &Value, model: &str) -> usize {
    let list = |field: &str| shown[field].as_array().cloned().unwrap_or_default();
    let rings: Vec<Value> =
        list("replicas").into_iter().filter(|replica| replica["model"] == model).collect();
    let members = |replica: &Value| replica["members"].as_array().cloned().unwrap_or_default();
    let parts: Vec<Value> =
        rings.iter().flat_map(members).map(|member| member["id"].clone()).collect();
    let ready = |placement: &Value| placement["phase"] == "ready";
    let whole = list("placements").into_iter().filter(|placement| {
        placement["model"] == model && ready(placement) && !parts.contains(&placement["id"])
    });
    whole.count() + rings.iter().filter(|ring| members(ring).iter().all(ready)).count()
}

fn failure(shown: &Value, model: &str) -> Option<String> {
    let placements = shown["placements"].as_array()?;
    let failed = placements.iter().filter(|placement| placement["model"] == model);
    failed.filter_map(|placement| placement["reason"].as_str()).next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn of(line: &[&str]) -> Value {
        let line = [&["deploy"], line].concat();
        request(&Line::parse_from(line).args).expect("it is a request")
    }

    #[test]
    fn the_request_says_what_was_asked_and_no_more() {
        assert_eq!(
            of(&["m"]),
            json!({"strategy": "auto", "replicas": 1, "replicas_max": 1, "labels": {}})
        );
        let line = ["m", "--stages", "3", "--replicas", "1..4", "--label", "zone=a"];
        assert_eq!(
            of(&[&line[..], &["--activations", "bf16", "--context", "512"]].concat()),
            json!({"stages": 3, "replicas": 1, "replicas_max": 4, "labels": {"zone": "a"},
                   "activations": "bf16", "context_length": 512})
        );
        assert!(replicas("1..x").is_err() && key_value("zone").is_err());
    }

    #[test]
    fn a_replica_of_stages_serves_when_each_of_them_is_ready() {
        let place = |id: u64, phase: &str| json!({"id": id, "model": "m", "phase": phase});
        let shown = |phase: &str| {
            let members = json!([place(1, "ready"), place(2, phase)]);
            json!({
                "replicas": [{"model": "m", "members": members}],
                "placements": [place(1, "ready"), place(2, phase), place(3, "ready")],
            })
        };
        assert_eq!(serving(&shown("loading"), "m"), 1);
        assert_eq!(serving(&shown("ready"), "m"), 2);
        assert_eq!(serving(&shown("ready"), "other"), 0);
        assert!(settled(&shown("ready"), "m") && !settled(&shown("loading"), "m"));
        assert!(settled(&shown("loading"), "other"));
        let mut changing = shown("ready");
        changing["changing"] = json!(["m"]);
        assert!(!settled(&changing, "m"));
    }
}
