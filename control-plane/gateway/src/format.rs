//! The format an output shall have, as each family of endpoints asks for it. Whether a schema can be followed is for the
//! worker to say, which knows the model; here it is only looked at from outside.

use crate::error::Failure;
use ollamamax_proto::inference::OutputFormat;
use ollamamax_proto::limits;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Ollama's `format`: `"json"` or a schema; `""` and null mean none. Beside it `options.grammar` is one too many.
pub(crate) fn ollama(
    format: Option<&Value>,
    options: Option<&Map<String, Value>>,
) -> Result<Option<OutputFormat>, Failure> {
    let format = match format {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.is_empty() => return Ok(None),
        Some(Value::String(text)) if text == "json" => OutputFormat::Json,
        Some(schema @ Value::Object(_)) => {
            OutputFormat::Schema(bounded("format", schema.to_string())?)
        }
        Some(other) => {
            let other: String = other.to_string().chars().take(100).collect();
            return Err(Failure::invalid(format!(
                "invalid format: {other}; expected \"json\" or a valid JSON Schema object"
            )));
        }
    };
    let grammar = options.and_then(|options| options.get("grammar"));
    if grammar.is_some_and(|grammar| !grammar.is_null() && grammar != "") {
        return Err(both("format", "options.grammar"));
    }
    Ok(Some(format))
}

/// OpenAI's `response_format`.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    #[schema(examples("json_schema"))]
    pub kind: String,
    #[serde(default)]
    pub json_schema: Option<JsonSchema>,
}

/// Its schema. `strict` is not looked at: a schema is followed, or refused.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct JsonSchema {
    /// The schema itself; it is followed, or refused with the reason.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
}

/// OpenAI's `response_format`, or the `grammar` that is ours.
pub(crate) fn openai(
    format: Option<&ResponseFormat>,
    grammar: Option<&str>,
) -> Result<Option<OutputFormat>, Failure> {
    let format = format.map(ResponseFormat::read).transpose()?.flatten();
    match (format, grammar.filter(|grammar| !grammar.is_empty())) {
        (Some(_), Some(_)) => Err(both("response_format", "grammar")),
        (None, Some(text)) => Ok(Some(OutputFormat::Grammar(bounded("grammar", text.to_owned())?))),
        (format, None) => Ok(format),
    }
}

impl ResponseFormat {
    fn read(&self) -> Result<Option<OutputFormat>, Failure> {
        const SCHEMA: &str = "response_format.json_schema.schema";
        match self.kind.as_str() {
            "text" => Ok(None),
            "json_object" => Ok(Some(OutputFormat::Json)),
            "json_schema" => {
                let schema = self.json_schema.as_ref().and_then(|given| given.schema.as_ref());
                let Some(schema @ Value::Object(_)) = schema else {
                    let text = format!("invalid value for field `{SCHEMA}`: expected an object");
                    return Err(Failure::InvalidField { field: SCHEMA, text });
                };
                Ok(Some(OutputFormat::Schema(bounded(SCHEMA, schema.to_string())?)))
            }
            other => {
                let other: String = other.chars().take(100).collect();
                let text = format!(
                    "invalid value for field `response_format.type`: {other:?}, expected \"text\", \"json_object\" or \"json_schema\""
                );
                Err(Failure::InvalidField { field: "response_format.type", text })
            }
        }
    }
}

/// A schema or grammar that is not too long.
pub(crate) fn bounded(field: &'static str, text: String) -> Result<String, Failure> {
    let (bytes, limit) = (text.len(), limits::OUTPUT_FORMAT_BYTES);
    if bytes > limit {
        let text = format!("`{field}` has {bytes} bytes, at most {limit} are accepted");
        return Err(Failure::InvalidField { field, text });
    }
    Ok(text)
}

fn both(field: &'static str, other: &str) -> Failure {
    let text = format!("`{field}` and `{other}` are both given, expected one: leave the other out");
    Failure::InvalidField { field, text }
}
