//! `workers adopt`: servers that are there already become workers for whole requests.

use crate::client::Client;
use crate::deploy::key_value;
use crate::exit::Failure;
use crate::list::{elements, text};
use crate::{out, secret, workers};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Which server, and how it is used.
#[derive(Debug, clap::Args)]
pub struct Adopt {
    /// Where it is for all nodes alike, as `http://10.0.0.5:11434`; what it speaks is found out
    url: String,
    /// What it is called here; its host and port when not given
    #[arg(long)]
    name: Option<String>,
    /// A file with the API key it wants to see, which not everybody may read; kept sealed, and never shown
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// A label; several are given one by one
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Requests that each node may have in flight there
    #[arg(long, value_name = "N")]
    max_concurrent: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Adopt {
    /// Does it, and says what came of it.
    pub async fn run(&self, client: &Client) -> Result<(), Failure> {
        let mut labels = Map::new();
        for label in &self.label {
            let (key, value) = key_value(label)?;
            labels.insert(key.to_owned(), value.into());
        }
        let key = self.api_key_file.as_deref().map(secret::read_file).transpose()?;
        let mut body = json!({"url": self.url, "labels": labels});
        let key = key.map(|key| Value::from(key.trim()));
        let given = [
            ("name", self.name.as_deref().map(Value::from)),
            ("api_key", key),
            ("max_concurrent", self.max_concurrent.map(Value::from)),
        ];
        for (field, value) in given {
            if let Some(value) = value {
                body[field] = value;
            }
        }
        let answer = client.post("/admin/v1/workers", &body).await?;
        if self.json {
            out::json(&answer);
            return Ok(());
        }
        out::text(&one(&answer));
        let models = elements(&answer["models"]);
        let next = models.first().and_then(Value::as_str).map_or_else(
            || {
                format!(
                    "it has no models yet; `ollamamax workers show {}` tells",
                    text(&answer, "name")
                )
            },
            |model| format!("try: ollamamax run {model}"),
        );
        out::line(&next);
        Ok(())
    }
}

/// An adopted server as a page.
pub fn one(worker: &Value) -> String {
    let adopted = &worker["adopted"];
    let models: Vec<&str> = elements(&worker["models"]).iter().filter_map(Value::as_str).collect();
    let speaks = match adopted["kind"].as_str() {
        Some("ollama") => "Ollama's API and OpenAI's",
        _ => "OpenAI's API",
    };
    let version = adopted["version"].as_str().filter(|version| !version.is_empty());
    let mut shown = format!(
        "{} is {}\n  id         {}\n  adopted    {}\n  speaks     {speaks}{}\n  models     {}\n  in flight  {} of {} for the node that answers\n  labels     {}\n",
        text(worker, "name"),
        workers::status(worker),
        text(worker, "id"),
        text(adopted, "url"),
        version.map(|version| format!(" (version {version})")).unwrap_or_default(),
        if models.is_empty() { "none".to_owned() } else { models.join(", ") },
        adopted["running"],
        adopted["max_concurrent"],
        workers::joined(&worker["labels"]),
    );
    if adopted["has_key"] == true {
        shown.push_str("  API key    is kept, and sent with each request\n");
    }
    if let Some(unnamed) = adopted["unnamed"].as_u64().filter(|count| *count > 0) {
        shown
            .push_str(&format!("  left out   {unnamed} models whose names nobody can have here\n"));
    }
    if let Some(why) = worker["reason"].as_str().filter(|why| !why.is_empty()) {
        shown.push_str(&format!("  because    {why}\n"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adopted_server_is_shown_as_what_it_is() {
        let worker = json!({"name": "old", "status": "down", "id": "0f", "labels": {"zone": "a"},
            "models": ["m:1", "n:latest"], "reason": "connection refused",
            "adopted": {"url": "http://h:1", "kind": "openai", "version": "", "has_key": true,
                "max_concurrent": 8, "running": 2, "unnamed": 1}});
        assert_eq!(
            one(&worker),
            "old is down\n  id         0f\n  adopted    http://h:1\n  speaks     OpenAI's API\n  models     \
             m:1, n:latest\n  in flight  2 of 8 for the node that answers\n  labels     zone=a\n  API key    \
             is kept, and sent with each request\n  left out   1 models whose names nobody can have here\n  \
             because    connection refused\n"
        );
    }
}
