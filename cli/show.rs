//! `show`: what a model is, in blocks, or one of its texts as it is.

use crate::client::Client;
use crate::exit::Failure;
use crate::{out, table};
use serde_json::{Value, json};

/// Which model, and what of it.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// The model
    model: String,
    /// Show its licence
    #[arg(long, group = "part")]
    license: bool,
    /// Show its Modelfile
    #[arg(long, group = "part")]
    modelfile: bool,
    /// Show its parameters
    #[arg(long, group = "part")]
    parameters: bool,
    /// Show its chat template
    #[arg(long, group = "part")]
    template: bool,
    /// Show its system prompt
    #[arg(long, group = "part")]
    system: bool,
    /// Show metadata and tensors too
    #[arg(short, long)]
    verbose: bool,
    /// Print JSON
    #[arg(long, group = "part")]
    json: bool,
}

/// Prints it.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let request = json!({"model": args.model, "verbose": args.verbose});
    let answer = client.ask("/api/show", &request).await?;
    let parts = [
        (args.license, "license"),
        (args.modelfile, "modelfile"),
        (args.parameters, "parameters"),
        (args.template, "template"),
        (args.system, "system"),
    ];
    if args.json {
        out::json(&answer);
    } else if let Some((_, part)) = parts.into_iter().find(|(wanted, _)| *wanted) {
        out::line(answer[part].as_str().unwrap_or_default());
    } else {
        out::text(&render(&answer, args.verbose));
    }
    Ok(())
}

/// Lines of a licence shown; the rest is behind `--license`.
const LICENSE_LINES: usize = 2;
/// Longest metadata value shown.
const VALUE_CHARS: usize = 80;

/// The blocks.
pub fn render(answer: &Value, verbose: bool) -> String {
    let mut text = String::new();
    let details = &answer["details"];
    let info = &answer["model_info"];
    let architecture = info["general.architecture"].as_str().or(details["family"].as_str());
    let number = |key: &str| {
        let full = format!("{}.{key}", architecture.unwrap_or_default());
        info[full].as_u64().or(details[key].as_u64()).map(|n| n.to_string())
    };
    let model = [
        ("architecture", architecture.map(str::to_owned)),
        ("parameters", details["parameter_size"].as_str().map(str::to_owned)),
        ("context length", number("context_length")),
        ("embedding length", number("embedding_length")),
        ("quantization", details["quantization_level"].as_str().map(str::to_owned)),
        ("requires", answer["requires"].as_str().map(str::to_owned)),
    ];
    let rows = model.into_iter().filter_map(|(name, value)| Some(vec![name.to_owned(), value?]));
    block(&mut text, "Model", rows.collect());
    block(&mut text, "Capabilities", words(&answer["capabilities"]));
    block(&mut text, "Parameters", lines(&answer["parameters"], usize::MAX));
    block(&mut text, "System", lines(&answer["system"], usize::MAX));
    block(&mut text, "License", lines(&answer["license"], LICENSE_LINES));
    block(&mut text, "Versions", versions(&answer["versions"]));
    if verbose {
        block(&mut text, "Metadata", metadata(info));
        block(&mut text, "Tensors", tensors(&answer["tensors"]));
    }
    text
}

fn block(text: &mut String, title: &str, rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let laid_out = table::render(&vec![""; columns], &rows);
    text.push_str(&format!("  {title}\n"));
    for line in laid_out.lines().skip(1) {
        text.push_str(&format!("    {line}\n"));
    }
    text.push('\n');
}

fn words(list: &Value) -> Vec<Vec<String>> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|word| Some(vec![word.as_str()?.to_owned()])).collect()
}

/// The lines of a text, each cut at the first run of spaces when it is a `name value` line.
fn lines(text: &Value, at_most: usize) -> Vec<Vec<String>> {
    let all: Vec<&str> = text.as_str().unwrap_or_default().trim().lines().collect();
    let cut = all.len() > at_most;
    let shown = all.iter().take(at_most).filter(|line| !line.trim().is_empty());
    let cells = |line: &&str| match line.split_once("  ") {
        Some((name, value)) => vec![name.trim().to_owned(), value.trim().to_owned()],
        None => vec![line.trim().to_owned()],
    };
    shown.map(cells).chain(cut.then(|| vec!["...".to_owned()])).collect()
}

/// Digest, state and share of each version, where there are several.
fn versions(list: &Value) -> Vec<Vec<String>> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let cells = |version: &Value| {
        let digest: String =
            version["digest"].as_str().unwrap_or_default().chars().take(12).collect();
        let state = version["state"].as_str().unwrap_or_default().to_owned();
        let state = match version["reason"].as_str() {
            Some(reason) => format!("{state}: {reason}"),
            None => state,
        };
        vec![digest, format!("{}%", version["weight"].as_u64().unwrap_or(0)), state]
    };
    list.iter().map(cells).collect()
}

fn metadata(info: &Value) -> Vec<Vec<String>> {
    let empty = serde_json::Map::new();
    let entries = info.as_object().unwrap_or(&empty).iter();
    let shown = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let cut: String = text.chars().take(VALUE_CHARS).collect();
        if cut.len() < text.len() { format!("{cut}...") } else { cut }
    };
    entries.map(|(key, value)| vec![key.clone(), shown(value)]).collect()
}

fn tensors(list: &Value) -> Vec<Vec<String>> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let cell = |tensor: &Value, field: &str| {
        tensor[field].as_str().map_or_else(|| tensor[field].to_string(), str::to_owned)
    };
    list.iter().map(|t| ["name", "type", "shape"].map(|field| cell(t, field)).to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_look_like_ollamas() {
        let answer = json!({
            "license": "Apache License\nVersion 2.0\nmore\nand more",
            "parameters": "stop                           \"<|im_start|>\"\ntemperature                    0.5",
            "system": "You are Ada.",
            "details": {"family": "llama", "parameter_size": "134.52M", "quantization_level": "Q4_1"},
            "model_info": {"general.architecture": "llama", "llama.context_length": 8192,
                           "llama.embedding_length": 576},
            "capabilities": ["completion"],
            "tensors": [{"name": "a", "type": "F32", "shape": [2, 3]}],
        });
        assert_eq!(
            render(&answer, false),
            "  Model\n    architecture        llama\n    parameters          134.52M\n    \
             context length      8192\n    embedding length    576\n    quantization        Q4_1\n\n  \
             Capabilities\n    completion\n\n  Parameters\n    stop           \"<|im_start|>\"\n    \
             temperature    0.5\n\n  System\n    You are Ada.\n\n  License\n    Apache License\n    \
             Version 2.0\n    ...\n\n"
        );
        let verbose = render(&answer, true);
        assert!(verbose.contains("  Tensors\n    a    F32    [2,3]\n"), "{verbose}");
        assert!(verbose.contains("llama.context_length      8192"), "{verbose}");
    }

    #[test]
    fn an_answer_without_anything_prints_nothing() {
        assert_eq!(render(&json!({}), true), "");
    }
}
