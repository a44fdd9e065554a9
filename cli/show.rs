//! `show`: what a model is, in blocks, or one of its texts as it is.

use crate::client::Client;
use crate::exit::Failure;
use crate::{human, out, table};
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

/// Lines shown of a licence or a system prompt; the rest is behind `--license` and `--system`.
const HEAD_LINES: usize = 2;
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
    block(&mut text, "Projector", projector(&answer["projector_info"]));
    block(&mut text, "Parameters", parameters(&answer["parameters"]));
    block(&mut text, "System", head(&answer["system"]));
    block(&mut text, "License", head(&answer["license"]));
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

fn full_lines(text: &Value) -> Vec<&str> {
    let lines = text.as_str().unwrap_or_default().lines().map(str::trim);
    lines.filter(|line| !line.is_empty()).collect()
}

/// The first lines of a text.
fn head(text: &Value) -> Vec<Vec<String>> {
    let all = full_lines(text);
    let shown = all.iter().take(HEAD_LINES).map(|line| vec![(*line).to_owned()]);
    shown.chain((all.len() > HEAD_LINES).then(|| vec!["...".to_owned()])).collect()
}

/// Lines of a name and a value.
fn parameters(text: &Value) -> Vec<Vec<String>> {
    let cells = |line: &str| match line.split_once(char::is_whitespace) {
        Some((name, value)) => vec![name.to_owned(), value.trim().to_owned()],
        None => vec![line.to_owned()],
    };
    full_lines(text).into_iter().map(cells).collect()
}

/// What turns pictures into something the model reads.
fn projector(info: &Value) -> Vec<Vec<String>> {
    let Some(architecture) = info["general.architecture"].as_str() else { return Vec::new() };
    let number = |key: &str| info[key].as_f64();
    let whole = |key: &str| number(key).map(|n| format!("{n:.0}"));
    let rows = [
        ("architecture", Some(architecture.to_owned())),
        ("parameters", number("general.parameter_count").map(human::count)),
        ("embedding length", whole(&format!("{architecture}.vision.embedding_length"))),
        ("dimensions", whole(&format!("{architecture}.vision.projection_dim"))),
    ];
    rows.into_iter().filter_map(|(name, value)| Some(vec![name.to_owned(), value?])).collect()
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
    let shape = |tensor: &Value| {
        let sizes = tensor["shape"].as_array().map(Vec::as_slice).unwrap_or_default();
        format!("[{}]", sizes.iter().map(Value::to_string).collect::<Vec<_>>().join(" "))
    };
    list.iter().map(|t| vec![cell(t, "name"), cell(t, "type"), shape(t)]).collect()
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
        assert!(verbose.contains("  Tensors\n    a    F32    [2 3]\n"), "{verbose}");
        assert!(verbose.contains("llama.context_length      8192"), "{verbose}");
    }

    /// The blocks of Ollama's own tests; the blanks it puts behind a line are not looked at.
    #[test]
    fn each_block_is_as_ollama_prints_it() {
        let details =
            json!({"family": "test", "parameter_size": "7B", "quantization_level": "FP16"});
        let model = "  Model\n    architecture    test\n    parameters      7B\n    quantization    FP16\n\n";
        for (field, value, block) in [
            ("requires", json!("0.19.0"), ""),
            (
                "system",
                json!("One!\nTwo!\nThree!\n\t\t\t"),
                "  System\n    One!\n    Two!\n    ...\n\n",
            ),
            (
                "license",
                json!("MIT License\nCopyright\n"),
                "  License\n    MIT License\n    Copyright\n\n",
            ),
            (
                "capabilities",
                json!(["vision", "tools"]),
                "  Capabilities\n    vision\n    tools\n\n",
            ),
            (
                "parameters",
                json!("\n\t\t\tstop never\n\t\t\tstop a b\n\t\t\ttemperature 99"),
                "  Parameters\n    stop           never\n    stop           a b\n    temperature    99\n\n",
            ),
            (
                "projector_info",
                json!({"general.architecture": "clip", "general.parameter_count": 133_700_000,
                       "clip.vision.embedding_length": 0, "clip.vision.projection_dim": 0}),
                "  Projector\n    architecture        clip\n    parameters          133.70M\n    \
                 embedding length    0\n    dimensions          0\n\n",
            ),
        ] {
            let shown = render(&json!({"details": details.clone(), field: value}), false);
            match block {
                "" => assert!(shown.ends_with("    requires        0.19.0\n\n"), "{shown}"),
                block => assert_eq!(shown, format!("{model}{block}"), "{field}"),
            }
        }
    }

    #[test]
    fn an_answer_without_anything_prints_nothing() {
        assert_eq!(render(&json!({}), true), "");
    }
}
