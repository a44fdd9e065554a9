//! `run`: one prompt from the arguments and stdin, or a conversation on a terminal.

use crate::answer::Look;
use crate::client::Client;
use crate::exit::Failure;
use crate::generate::{self, Heard, Settings, keep_alive};
use crate::progress::Progress;
use crate::{chat, embed, human, pull};
use serde_json::{Value, json};
use std::io::{IsTerminal, Read};

/// Largest prompt read from stdin: what the server accepts as a body.
const PROMPT_BYTES_MAX: u64 = ollamamax_proto::limits::BODY_BYTES as u64;

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model
    model: String,
    /// The prompt; stdin, when it is no terminal, is put in front of it
    prompt: Vec<String>,
    /// How long the model stays loaded: seconds, or a duration like 5m; negative: forever
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    keepalive: Option<String>,
    /// Print timings to stderr
    #[arg(long)]
    verbose: bool,
    /// Format of the answer: json, or a JSON schema
    #[arg(long)]
    format: Option<String>,
    /// Think first: true, false, low, medium, high or max
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    think: Option<String>,
    /// Do not show the thoughts
    #[arg(long)]
    hidethinking: bool,
    /// Leave lines to the terminal instead of wrapping them at words
    #[arg(long)]
    nowordwrap: bool,
    #[command(flatten)]
    embed: embed::Args,
    /// Accepted for compatibility
    #[arg(long, hide = true)]
    insecure: bool,
    /// Print the records of the answer as JSON lines
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let settings = settings(args)?;
    let interactive =
        args.prompt.is_empty() && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let prompt = if interactive { String::new() } else { gather_prompt(&args.prompt)? };
    let about = ensure_model(client, &args.model).await?;
    if embed::only_embeds(&about) {
        let keep_alive = settings.keep_alive.as_ref();
        return embed::run(client, &args.embed, &args.model, &prompt, keep_alive).await;
    }
    if interactive {
        load(client, &settings).await?;
        // Whoever talks for long may have to go on at another node.
        client.learn().await;
        return chat::converse(client, settings, &about).await;
    }
    let request = settings.request(json!({"prompt": prompt}));
    let mut heard = Heard::default();
    generate::answer(client, "/api/generate", &request, &settings, &mut heard).await
}

fn settings(args: &Args) -> Result<Settings, Failure> {
    let format = match args.format.as_deref() {
        None | Some("") => None,
        Some("json") => Some(json!("json")),
        Some(schema) => Some(serde_json::from_str(schema).map_err(|error| {
            Failure::Usage(format!("--format is neither `json` nor a JSON schema: {error}"))
        })?),
    };
    if let Some(text) =
        args.keepalive.as_deref().filter(|text| human::parse_duration_ms(text).is_none())
    {
        return Err(Failure::Usage(format!(
            "--keepalive `{text}` is no duration; expected e.g. 300, 5m or -1"
        )));
    }
    let look = Look::of_stdout();
    let look =
        Look { wrap: look.wrap && !args.nowordwrap, hide_thinking: args.hidethinking, ..look };
    let think = match args.think.as_deref() {
        None => None,
        Some("" | "true") => Some(json!(true)),
        Some("false") => Some(json!(false)),
        Some(level @ ("low" | "medium" | "high" | "max")) => Some(json!(level)),
        Some(other) => {
            return Err(Failure::Usage(format!(
                "--think `{other}`: expected true, false, low, medium, high or max"
            )));
        }
    };
    Ok(Settings {
        model: args.model.clone(),
        keep_alive: args.keepalive.as_deref().map(keep_alive),
        format,
        think,
        look,
        verbose: args.verbose,
        json: args.json,
        options: serde_json::Map::new(),
    })
}

/// Stdin first, as Ollama does it: `cat report | run m "summarise this"` puts the task after the text.
fn gather_prompt(words: &[String]) -> Result<String, Failure> {
    let mut parts = Vec::new();
    if !std::io::stdin().is_terminal() {
        let mut piped = String::new();
        std::io::stdin()
            .take(PROMPT_BYTES_MAX)
            .read_to_string(&mut piped)
            .map_err(Failure::file("read", "stdin"))?;
        if !piped.is_empty() {
            parts.push(piped);
        }
    }
    parts.extend(words.iter().cloned());
    Ok(parts.join(" "))
}

/// What the server says of a model; pulled when it does not know it and the catalogue does.
async fn ensure_model(client: &Client, model: &str) -> Result<Value, Failure> {
    let about = json!({"model": model});
    match client.ask("/api/show", &about).await {
        Err(Failure::Refused { status: 404, .. }) if crate::source::is_known(model) => {
            pull::pull(client, model, None, &Progress::new()).await?;
            client.ask("/api/show", &about).await
        }
        answer => answer,
    }
}

/// Loads the model before the first prompt, so that the wait is seen for what it is.
pub async fn load(client: &Client, settings: &Settings) -> Result<(), Failure> {
    let progress = Progress::new();
    progress.status("loading");
    let mut records =
        client.stream("/api/generate", &settings.request(json!({"prompt": ""}))).await?;
    while let Some(record) = records.next().await? {
        if record["done"] == Value::Bool(true) {
            break;
        }
    }
    progress.finish();
    Ok(())
}
