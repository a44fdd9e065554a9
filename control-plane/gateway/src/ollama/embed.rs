//! `POST /api/embed` and the older `POST /api/embeddings`: texts as vectors of unit length.

use super::{Metrics, merged};
use crate::auth::Caller;
use crate::demand::Want;
use crate::dispatch::{EmbedJob, Vectors};
use crate::error::{Failure, OllamaError};
use crate::keep_alive::KeepAlive;
use crate::openapi::{GenerationOptions, shapes};
use crate::request::{Asker, RequestId};
use crate::{Gateway, body, names, stream};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use ollamamax_core::access::Action;
use ollamamax_core::record::ModelRecord;
use ollamamax_proto::inference::{EmbedInput, Embedding};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Instant;
use utoipa::ToSchema;

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(examples(json!({"model": "all-minilm", "input": ["The cat", "a dog"]})))]
pub(crate) struct EmbedRequest {
    /// Its name; the tag is `latest` where there is none.
    #[serde(default)]
    #[schema(required, nullable = false, examples("all-minilm"))]
    model: Option<String>,
    #[serde(default)]
    #[schema(schema_with = shapes::embed_input)]
    input: Option<Value>,
    /// A text that is too long loses its end, or is refused.
    #[serde(default)]
    #[schema(default = true)]
    truncate: Option<bool>,
    /// Values of each vector; all where it is 0 or less, or more than there are.
    #[serde(default)]
    dimensions: Option<i64>,
    #[serde(default)]
    #[schema(schema_with = shapes::keep_alive)]
    keep_alive: Option<KeepAlive>,
    #[serde(default)]
    #[schema(value_type = Option<GenerationOptions>)]
    options: Option<Map<String, Value>>,
}

/// Texts as vectors.
#[derive(Serialize, ToSchema)]
pub(crate) struct Embedded<'a> {
    /// The model, as it was asked.
    model: &'a str,
    /// One for each text, of unit length.
    embeddings: Vec<Vec<f32>>,
    #[serde(flatten)]
    metrics: Metrics,
}

/// Embeds texts.
#[utoipa::path(post, path = "/api/embed", request_body = EmbedRequest,
    responses((status = 200, description = "The vectors.", body = Embedded)))]
pub(crate) async fn embed(
    State(gateway): State<Arc<Gateway>>,
    RequestId(request_id): RequestId,
    asker: Asker,
    caller: Caller,
    body: Body,
) -> Result<Response, OllamaError> {
    let request: EmbedRequest = body::json(body, gateway.config.body_bytes).await?;
    let inputs = texts(request.input)?;
    let asked = names::named(request.model, None)?;
    let model = gateway.version_for(resolve(&gateway, &caller, &asked)?);
    let options = merged(&model, request.options.as_ref(), request.truncate)?;
    let (keep_alive, truncate) = (request.keep_alive, options.truncate);
    let keep_alive = caller.may_keep(&gateway.control.state(), &model.name, keep_alive);
    let want = Want { keep_alive, context_tokens: options.context_tokens, replicas: None };
    let empty = inputs.is_empty();
    let vectors =
        gateway.embed(EmbedJob { request_id, asker, model, inputs, truncate, want }).await?;
    let metrics = if empty { Metrics::default() } else { (&vectors).into() };
    let dimensions = request.dimensions.and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
    let embeddings = vectors.embeddings.into_iter().map(|e| cut(e, dimensions)).collect();
    Ok(stream::ollama_json(&Embedded { model: &asked, embeddings, metrics }))
}

/// Texts to embed at a server that does not speak Ollama's API, and how their vectors are told.
pub(crate) struct EmbedWish {
    asked: String,
    texts: Vec<String>,
    dimensions: Option<usize>,
    /// One vector, as older clients want it.
    is_old: bool,
    begun: Instant,
}

#[derive(Deserialize)]
struct Foreign {
    data: Vec<ForeignVector>,
    #[serde(default)]
    usage: Option<ForeignUsage>,
}

#[derive(Deserialize)]
struct ForeignVector {
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct ForeignUsage {
    #[serde(default)]
    prompt_tokens: u64,
}

impl EmbedWish {
    /// Of `/api/embed`.
    pub(crate) fn read(body: &[u8]) -> Result<Self, Failure> {
        let request: EmbedRequest = body::parse(body)?;
        let asked = names::named(request.model, None)?;
        let dimensions = request.dimensions.and_then(|n| usize::try_from(n).ok());
        let dimensions = dimensions.filter(|&n| n > 0);
        Self::of(asked, texts(request.input)?, dimensions, false)
    }

    /// Of `/api/embeddings`.
    pub(crate) fn read_old(body: &[u8]) -> Result<Self, Failure> {
        let request: OldRequest = body::parse(body)?;
        let asked = names::named(request.model, None)?;
        let prompt = request.prompt.filter(|prompt| !prompt.is_empty());
        Self::of(asked, prompt.into_iter().map(EmbedInput::Text).collect(), None, true)
    }

    fn of(
        asked: String,
        inputs: Vec<EmbedInput>,
        dimensions: Option<usize>,
        is_old: bool,
    ) -> Result<Self, Failure> {
        let text = |input| match input {
            EmbedInput::Text(text) => Ok(text),
            EmbedInput::Tokens(_) => Err(Failure::invalid("invalid input type")),
        };
        let texts = inputs.into_iter().map(text).collect::<Result<_, _>>()?;
        Ok(Self { asked, texts, dimensions, is_old, begun: Instant::now() })
    }

    /// Whether there is nothing to embed.
    pub(crate) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// What OpenAI's endpoint is asked.
    pub(crate) fn put(&self, id: &str) -> Bytes {
        json!({"model": id, "input": self.texts, "encoding_format": "float"}).to_string().into()
    }

    /// Tells what it answered; an error says what is wrong with that.
    pub(crate) fn tell(&self, answer: &[u8]) -> Result<Response, String> {
        let answer = match self.is_empty() {
            true => Foreign { data: Vec::new(), usage: None },
            false => serde_json::from_slice(answer).map_err(|error| error.to_string())?,
        };
        if answer.data.len() != self.texts.len() {
            let (got, expected) = (answer.data.len(), self.texts.len());
            return Err(format!("it answered {got} vectors, expected {expected}"));
        }
        let unit = |vector: ForeignVector| {
            let dimensions = self.dimensions.unwrap_or(vector.embedding.len());
            at_unit_length(vector.embedding, dimensions)
        };
        let embeddings: Vec<Vec<f32>> = answer.data.into_iter().map(unit).collect();
        if self.is_old {
            let embedding = embeddings.into_iter().next().unwrap_or_default();
            return Ok(stream::ollama_json(&OldEmbedded { embedding }));
        }
        let total_ns = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let metrics = Metrics::of_texts(total_ns, answer.usage.map_or(0, |u| u.prompt_tokens));
        Ok(stream::ollama_json(&Embedded { model: &self.asked, embeddings, metrics }))
    }
}

/// A text to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OldEmbedRequest, examples(json!({"model": "all-minilm", "prompt": "The cat"})))]
pub(crate) struct OldRequest {
    /// Its name; the tag is `latest` where there is none.
    #[serde(default)]
    #[schema(required, nullable = false, examples("all-minilm"))]
    model: Option<String>,
    /// The text; none gives no values.
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    #[schema(schema_with = shapes::keep_alive)]
    keep_alive: Option<KeepAlive>,
    #[serde(default)]
    #[schema(value_type = Option<GenerationOptions>)]
    options: Option<Map<String, Value>>,
}

/// A text as a vector.
#[derive(Serialize, ToSchema)]
pub(crate) struct OldEmbedded {
    /// Of unit length.
    embedding: Vec<f32>,
}

/// Embeds one text, as older clients ask for it.
#[utoipa::path(post, path = "/api/embeddings", request_body = OldRequest,
    responses((status = 200, description = "The vector.", body = OldEmbedded)))]
pub(crate) async fn embeddings(
    State(gateway): State<Arc<Gateway>>,
    RequestId(request_id): RequestId,
    asker: Asker,
    caller: Caller,
    body: Body,
) -> Result<Response, OllamaError> {
    let request: OldRequest = body::json(body, gateway.config.body_bytes).await?;
    let asked = names::named(request.model, None)?;
    let model = gateway.version_for(resolve(&gateway, &caller, &asked)?);
    let options = merged(&model, request.options.as_ref(), None)?;
    let (keep_alive, context_tokens) = (request.keep_alive, options.context_tokens);
    let keep_alive = caller.may_keep(&gateway.control.state(), &model.name, keep_alive);
    let want = Want { keep_alive, context_tokens, replicas: None };
    let prompt = request.prompt.filter(|prompt| !prompt.is_empty());
    let inputs = prompt.into_iter().map(EmbedInput::Text).collect();
    let job = EmbedJob { request_id, asker, model, inputs, truncate: true, want };
    let embedding = gateway.embed(job).await?.embeddings.into_iter().next();
    let embedding = embedding.map(|embedding| embedding.values).unwrap_or_default();
    Ok(stream::ollama_json(&OldEmbedded { embedding }))
}

/// The model, or 404 in the words Ollama has for these endpoints.
pub(crate) fn resolve(
    gateway: &Gateway,
    caller: &Caller,
    asked: &str,
) -> Result<ModelRecord, Failure> {
    let found = caller.model(&gateway.control.state(), asked, Action::RunInference);
    found.map_err(|failure| match failure {
        Failure::NotFound(_) => {
            let name: String = asked.chars().take(500).collect();
            Failure::NotFound(format!("model {name:?} not found, try pulling it first"))
        }
        other => other,
    })
}

/// The first `dimensions` values of a vector, at unit length again.
pub(crate) fn cut(embedding: Embedding, dimensions: Option<usize>) -> Vec<f32> {
    let values = embedding.values;
    match dimensions.filter(|&dimensions| dimensions < values.len()) {
        Some(dimensions) => at_unit_length(values, dimensions),
        None => values,
    }
}

fn at_unit_length(mut values: Vec<f32>, dimensions: usize) -> Vec<f32> {
    values.truncate(dimensions);
    let length = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        values.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
    values
}

fn texts(input: Option<Value>) -> Result<Vec<EmbedInput>, Failure> {
    let text = |value| match value {
        Value::String(text) => Ok(EmbedInput::Text(text)),
        _ => Err(Failure::invalid("invalid input type")),
    };
    match input {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) if text.is_empty() => Ok(Vec::new()),
        Some(Value::Array(values)) => values.into_iter().map(text).collect(),
        Some(value) => Ok(vec![text(value)?]),
    }
}

impl From<&Vectors> for Metrics {
    fn from(vectors: &Vectors) -> Self {
        Self {
            total_duration: vectors.total_ns,
            load_duration: vectors.load_ns,
            prompt_eval_count: vectors.tokens(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_has_unit_length_again() {
        let embedding = Embedding { values: vec![0.6, 0.0, 0.8], tokens: 1 };
        assert_eq!(cut(embedding.clone(), Some(2)), [1.0, 0.0]);
        for whole in [None, Some(3), Some(4)] {
            assert_eq!(cut(embedding.clone(), whole), [0.6, 0.0, 0.8]);
        }
        let zeros = Embedding { values: vec![0.0, 0.0, 1.0], tokens: 1 };
        assert_eq!(cut(zeros, Some(2)), [0.0, 0.0]);
    }
}
