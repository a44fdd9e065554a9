//! `list`: the models there are, newest first, as Ollama prints them.

use crate::client::Client;
use crate::exit::Failure;
use crate::output::{List, Output};
use crate::{human, table};
use jiff::Timestamp;
use serde_json::Value;

/// Which models.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only models whose names start with this
    prefix: Option<String>,
    #[command(flatten)]
    output: Output,
}

const MODELS: List = List { items: "models", name: "name" };

impl Args {
    /// The table of the models whose names start so.
    pub fn beginning(prefix: Option<String>) -> Self {
        Self { prefix, output: Output::default() }
    }
}

/// Prints them.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let mut answer = client.get("/api/tags").await?;
    keep_prefix(&mut answer, args.prefix.as_deref());
    args.output.print(&answer, MODELS, |answer, wide| render(answer, wide, Timestamp::now()));
    Ok(())
}

/// Drops the models whose names do not start with `prefix`, without regard to case.
pub fn keep_prefix(answer: &mut Value, prefix: Option<&str>) {
    let Some(prefix) = prefix.map(str::to_lowercase) else { return };
    if let Some(models) = answer["models"].as_array_mut() {
        models.retain(|model| {
            let name = model["name"].as_str().unwrap_or_default();
            name.to_lowercase().starts_with(&prefix)
        });
    }
}

/// The models of an answer.
pub fn models(answer: &Value) -> &[Value] {
    elements(&answer["models"])
}

/// What is in an array; nothing where there is none.
pub fn elements(array: &Value) -> &[Value] {
    array.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A text field, or nothing.
pub fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

/// The twelve digits people see of a digest.
pub fn short_digest(model: &Value) -> String {
    let digest = model["digest"].as_str().unwrap_or_default();
    digest.trim_start_matches("sha256:").chars().take(12).collect()
}

fn render(answer: &Value, wide: bool, now: Timestamp) -> String {
    const HEADER: [&str; 8] =
        ["NAME", "ID", "SIZE", "MODIFIED", "FAMILY", "PARAMETERS", "QUANTIZATION", "CAPABILITIES"];
    let columns = if wide { HEADER.len() } else { 4 };
    let row = |model: &Value| {
        let details = &model["details"];
        let able = elements(&model["capabilities"]).iter().filter_map(Value::as_str);
        let mut cells = vec![
            text(model, "name"),
            short_digest(model),
            human::bytes(model["size"].as_u64().unwrap_or(0)),
            human::moment(&text(model, "modified_at"), now).unwrap_or_default(),
            text(details, "family"),
            text(details, "parameter_size"),
            text(details, "quantization_level"),
            able.collect::<Vec<_>>().join(","),
        ];
        cells.truncate(columns);
        cells
    };
    let rows: Vec<_> = models(answer).iter().map(row).collect();
    table::render(&HEADER[..columns], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_list_looks_like_ollamas() {
        let mut answer = json!({"models": [
            {"name": "smollm2:135m", "digest": "9077fe9d2ae1a4a41a868836b56b8163731a8fe16621397028c2c76f838c6907",
             "size": 91_700_000, "modified_at": "2026-01-10T11:00:00.123456789Z"},
            {"name": "tiny:latest", "digest": "sha256:00", "size": 12, "modified_at": "soon"},
        ]});
        let now = "2026-01-10T12:00:00Z".parse().expect("a time");
        assert_eq!(
            render(&answer, false, now),
            "NAME            ID              SIZE     MODIFIED\n\
             smollm2:135m    9077fe9d2ae1    91 MB    About an hour ago\n\
             tiny:latest     00              12 B\n"
        );
        answer["models"][0]["details"] =
            json!({"family": "llama", "parameter_size": "134.52M", "quantization_level": "Q4_1"});
        answer["models"][0]["capabilities"] = json!(["completion", "tools"]);
        assert!(render(&answer, true, now).contains(
            "About an hour ago    llama     134.52M       Q4_1            completion,tools\n"
        ));
        keep_prefix(&mut answer, Some("TI"));
        assert_eq!(models(&answer).len(), 1);
    }
}
