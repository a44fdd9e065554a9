//! `ps`: the models that are loaded, where and until when.

use crate::client::Client;
use crate::exit::Failure;
use crate::list::{elements, keep_prefix, models, short_digest, text};
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

/// Prints them.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let mut answer = client.get("/api/ps").await?;
    keep_prefix(&mut answer, args.prefix.as_deref());
    let loaded = List { items: "models", name: "name" };
    args.output.print(&answer, loaded, |answer, wide| render(answer, wide, Timestamp::now()));
    Ok(())
}

fn render(answer: &Value, wide: bool, now: Timestamp) -> String {
    const HEADER: [&str; 7] = ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL", "WORKERS"];
    let columns = if wide { HEADER.len() } else { 6 };
    let row = |model: &Value| {
        let size = model["size"].as_u64().unwrap_or(0);
        let workers = elements(&model["workers"]).iter().map(|worker| text(worker, "name"));
        let mut cells = vec![
            text(model, "name"),
            short_digest(model),
            human::bytes(size),
            processor(size, model["size_vram"].as_u64().unwrap_or(0)),
            model["context_length"].as_u64().unwrap_or(0).to_string(),
            until(&text(model, "expires_at"), now),
            workers.collect::<Vec<_>>().join(","),
        ];
        cells.truncate(columns);
        cells
    };
    let rows: Vec<_> = models(answer).iter().map(row).collect();
    table::render(&HEADER[..columns], &rows)
}

fn processor(size: u64, vram: u64) -> String {
    match (size, vram) {
        (_, 0) => "100% CPU".to_owned(),
        (size, vram) if vram == size => "100% GPU".to_owned(),
        (size, vram) if vram > size || size == 0 => "Unknown".to_owned(),
        (size, vram) => {
            let cpu = ((size - vram) as f64 / size as f64 * 100.0).round() as u64;
            format!("{cpu}%/{}% CPU/GPU", 100 - cpu)
        }
    }
}

/// Until when a model stays loaded, in words.
pub fn until(expires_at: &str, now: Timestamp) -> String {
    match expires_at.parse::<Timestamp>() {
        Ok(at) if at < now => "Stopping...".to_owned(),
        Ok(_) => human::moment(expires_at, now).unwrap_or_default(),
        // The end of the calendar lies past what the parser takes.
        Err(_) if expires_at.starts_with("9999-") => "Forever".to_owned(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_processor_is_told_in_percent() {
        for (size, vram, text) in [
            (100, 0, "100% CPU"),
            (100, 100, "100% GPU"),
            (100, 75, "25%/75% CPU/GPU"),
            (100, 101, "Unknown"),
        ] {
            assert_eq!(processor(size, vram), text);
        }
    }

    #[test]
    fn the_list_looks_like_ollamas() {
        let answer = json!({"models": [{
            "name": "smollm2:135m", "digest": "9077fe9d2ae1a4a4", "size": 150_000_000, "size_vram": 0,
            "context_length": 4096, "expires_at": "2318-01-01T00:00:00Z",
            "workers": [{"name": "w1"}, {"name": "w2"}],
        }]});
        let now = "2026-01-10T12:00:00Z".parse().expect("a time");
        assert_eq!(
            render(&answer, false, now),
            "NAME            ID              SIZE      PROCESSOR    CONTEXT    UNTIL\n\
             smollm2:135m    9077fe9d2ae1    150 MB    100% CPU     4096       Forever\n"
        );
        assert!(render(&answer, true, now).ends_with("Forever    w1,w2\n"));
        assert_eq!(until("2026-01-10T11:59:59Z", now), "Stopping...");
        assert_eq!(until("9999-12-31T00:00:00Z", now), "Forever");
        assert_eq!(until("2026-01-10T12:05:00Z", now), "5 minutes from now");
    }
}
