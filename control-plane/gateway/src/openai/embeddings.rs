//! `POST /v1/embeddings`: texts, or tokens, as vectors of unit length.

use crate::auth::Caller;
use crate::demand::Want;
use crate::dispatch::EmbedJob;
use crate::error::{Failure, OpenAiError};
use crate::ollama::embed::{cut, resolve};
use crate::openapi::shapes;
use crate::request::{Asker, RequestId};
use crate::{Gateway, body, names, stream};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ollamamax_proto::inference::EmbedInput;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use utoipa::ToSchema;

/// What to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(examples(json!({"model": "all-minilm", "input": ["The cat", "a dog"]})))]
pub(crate) struct EmbeddingsRequest {
    /// Its name.
    #[serde(default)]
    #[schema(required, nullable = false, examples("all-minilm"))]
    model: Option<String>,
    #[serde(default)]
    #[schema(schema_with = shapes::embeddings_input, required)]
    input: Option<Value>,
    /// Values of each vector.
    #[serde(default)]
    dimensions: Option<i64>,
    /// `float` or `base64`.
    #[serde(default)]
    #[schema(default = "float", examples("base64"))]
    encoding_format: Option<String>,
}

/// The vectors.
#[derive(Serialize, ToSchema)]
#[schema(as = Embeddings)]
pub(crate) struct List<'a> {
    /// Always `list`.
    object: &'static str,
    /// One for each input.
    data: Vec<Record>,
    /// The model, as it was asked.
    model: &'a str,
    usage: Usage,
}

/// What it took.
#[derive(Serialize, ToSchema)]
#[schema(as = EmbeddingsUsage)]
pub(crate) struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

/// One vector.
#[derive(Serialize, ToSchema)]
#[schema(as = Embedding)]
pub(crate) struct Record {
    /// Always `embedding`.
    object: &'static str,
    /// Of the input.
    index: usize,
    embedding: Encoded,
}

/// A vector as it was asked for.
#[derive(Serialize, ToSchema)]
#[schema(as = Vector)]
#[serde(untagged)]
enum Encoded {
    Floats(Vec<f32>),
    /// Base64 of the values as four bytes each, little-endian.
    Base64(String),
}

/// Embeds texts or tokens.
#[utoipa::path(post, path = "/v1/embeddings", request_body = EmbeddingsRequest,
    responses((status = 200, description = "The vectors, of unit length.", body = List)))]
pub(crate) async fn embeddings(
    State(gateway): State<Arc<Gateway>>,
    RequestId(request_id): RequestId,
    asker: Asker,
    caller: Caller,
    body: Body,
) -> Result<Response, OpenAiError> {
    let request: EmbeddingsRequest = body::json(body, gateway.config.body_bytes).await?;
    let encode = encoding(request.encoding_format.as_deref())?;
    let dimensions = dimensions(request.dimensions)?;
    let inputs = inputs(request.input)?;
    let asked = names::named(request.model, None)?;
    let model = gateway.version_for(resolve(&gateway, &caller, &asked)?);
    let want = Want::default();
    let job = EmbedJob { request_id, asker, model, inputs, truncate: true, want };
    let vectors = gateway.embed(job).await?;
    let tokens = vectors.tokens();
    let record = |(index, embedding)| {
        let embedding = encode(cut(embedding, dimensions));
        Record { object: "embedding", index, embedding }
    };
    let data: Vec<Record> = vectors.embeddings.into_iter().enumerate().map(record).collect();
    let usage = Usage { prompt_tokens: tokens, total_tokens: tokens };
    Ok(stream::plain_json(&List { object: "list", data, model: &asked, usage }))
}

fn encoding(format: Option<&str>) -> Result<fn(Vec<f32>) -> Encoded, Failure> {
    match format {
        None | Some("" | "float") => Ok(Encoded::Floats),
        Some("base64") => Ok(|values| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            Encoded::Base64(STANDARD.encode(bytes))
        }),
        Some(other) => Err(Failure::invalid(format!(
            "Invalid value for 'encoding_format' = {other}. Supported values: ['float', 'base64']."
        ))),
    }
}

fn dimensions(asked: Option<i64>) -> Result<Option<usize>, Failure> {
    let positive = |n: i64| usize::try_from(n).ok().filter(|&n| n > 0);
    asked.map(|n| positive(n).ok_or(n)).transpose().map_err(|found| {
        Failure::invalid(format!("`dimensions` is {found}, expected a positive number"))
    })
}

/// A text, some texts, some tokens, or some lists of tokens.
fn inputs(input: Option<Value>) -> Result<Vec<EmbedInput>, Failure> {
    let invalid = || {
        let kinds = "a text, a list of texts, a list of token ids, or a list of such lists";
        Failure::invalid(format!("invalid input: expected {kinds}, not empty"))
    };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let tokens = |values: &[Value]| -> Option<EmbedInput> {
        Some(EmbedInput::Tokens(values.iter().map(id).collect::<Option<_>>()?))
    };
    let each = |value: Value| match value {
        Value::String(text) => Ok(EmbedInput::Text(text)),
        Value::Array(values) if !values.is_empty() => tokens(&values).ok_or_else(invalid),
        _ => Err(invalid()),
    };
    match input {
        Some(Value::String(text)) => Ok(vec![EmbedInput::Text(text)]),
        Some(Value::Array(values)) if values.first().is_some_and(Value::is_number) => {
            Ok(vec![tokens(&values).ok_or_else(invalid)?])
        }
        Some(Value::Array(values)) if !values.is_empty() => values.into_iter().map(each).collect(),
        _ => Err(invalid()),
    }
}
