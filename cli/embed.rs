//! `run` of a model that makes vectors: the text's vector as a JSON array.

use crate::client::Client;
use crate::exit::Failure;
use crate::out;
use serde_json::{Value, json};

/// How to embed.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Args {
    /// For embedding models: cut texts that exceed the context; `--truncate=false` refuses them
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    truncate: Option<bool>,
    /// For embedding models: length of the vector, shorter than the model's own
    #[arg(long, value_name = "N")]
    dimensions: Option<u32>,
}

impl Args {
    fn request(&self, model: &str, text: &str, keep_alive: Option<&Value>) -> Value {
        let mut body = json!({"model": model, "input": text});
        let set = [
            ("truncate", self.truncate.map(Value::from)),
            ("dimensions", self.dimensions.map(Value::from)),
            ("keep_alive", keep_alive.cloned()),
        ];
        for (name, value) in set {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        body
    }
}

/// Whether a model makes vectors and no text. `about` is what `/api/show` says of it.
pub fn only_embeds(about: &Value) -> bool {
    let can = |what: &str| {
        about["capabilities"].as_array().is_some_and(|list| list.contains(&json!(what)))
    };
    can("embedding") && !can("completion")
}

/// Prints the vector of a text.
pub async fn run(
    client: &Client,
    args: &Args,
    model: &str,
    text: &str,
    keep_alive: Option<&Value>,
) -> Result<(), Failure> {
    if text.is_empty() {
        return Err(Failure::Usage(format!(
            "`{model}` is an embedding model and needs a text: ollamamax run {model} \"your text\""
        )));
    }
    let answer = client.ask_long("/api/embed", &args.request(model, text, keep_alive)).await?;
    let vector = &answer["embeddings"][0];
    if !vector.is_array() {
        return Err(Failure::Other("the server answered without a vector".to_owned()));
    }
    out::line(&vector.to_string());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_not_sent() {
        let args = Args::default();
        assert_eq!(args.request("m", "t", None), json!({"model": "m", "input": "t"}));
        let args = Args { truncate: Some(false), dimensions: Some(8) };
        assert_eq!(
            args.request("m", "t", Some(&json!("5m"))),
            json!({"model": "m", "input": "t", "truncate": false, "dimensions": 8, "keep_alive": "5m"})
        );
    }

    #[test]
    fn only_encoders_only_embed() {
        let able = |list: Value| only_embeds(&json!({"capabilities": list}));
        assert!(able(json!(["embedding"])));
        assert!(!able(json!(["completion"])));
        assert!(!able(json!(["completion", "embedding"])));
        assert!(!only_embeds(&Value::Null));
    }
}
