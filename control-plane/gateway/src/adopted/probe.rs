//! Looking at a server: of which kind it is, what it has, and, again and again, whether it still answers.
//!
//! Each gateway looks for itself: whether it can reach a server is what it has to know, and it must know it without a quorum,
//! too. A look asks for the list of models, so what answers a look can also serve.

use super::Adopting;
use super::place::{Place, cause, read};
use super::server::{Loaded, Look, Offered, Server};
use crate::ollama::model::Details;
use axum::http::Method;
use ollamamax_core::adopted::ServerKind;
use ollamamax_proto::{Digest, Millis, ModelName, limits};
use reqwest::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

#[derive(Deserialize)]
struct Version {
    version: String,
}

#[derive(Deserialize)]
struct Tags {
    models: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
    #[serde(default)]
    modified_at: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    details: Option<Told>,
    #[serde(default)]
    capabilities: Option<Vec<String>>,
    #[serde(default)]
    size_vram: u64,
    #[serde(default)]
    context_length: u32,
    #[serde(default)]
    expires_at: Option<String>,
}

/// Details as other versions of Ollama tell them: what is missing or null is nothing.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    parent_model: Option<String>,
    format: Option<String>,
    family: Option<String>,
    families: Option<Vec<String>>,
    parameter_size: Option<String>,
    quantization_level: Option<String>,
    context_length: Option<u32>,
    embedding_length: Option<u32>,
}

impl From<Told> for Details {
    fn from(told: Told) -> Self {
        let text = |text: Option<String>| cut(&text.unwrap_or_default());
        let families = told.families.unwrap_or_default();
        Self {
            parent_model: text(told.parent_model),
            format: text(told.format),
            family: text(told.family),
            families: families.iter().take(16).map(|family| cut(family)).collect(),
            parameter_size: text(told.parameter_size),
            quantization_level: text(told.quantization_level),
            context_length: told.context_length.unwrap_or(0),
            embedding_length: told.embedding_length.unwrap_or(0),
        }
    }
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
    #[serde(default)]
    created: f64,
    /// vLLM's and others': tokens of a sequence.
    #[serde(default)]
    max_model_len: Option<u32>,
}

/// Finds out what a server speaks, and what it has.
///
/// # Errors
/// When it speaks nothing that is known here; the text says what it answered.
pub(crate) async fn detect(
    http: &Client,
    place: &Place,
    wait: Duration,
) -> Result<(ServerKind, Look), String> {
    let version = get::<Version>(http, place, "/api/version", wait).await;
    if version.is_ok() {
        let looked = look(http, place, ServerKind::Ollama, wait).await;
        if let Ok(look) = looked {
            return Ok((ServerKind::Ollama, look));
        }
    }
    match look(http, place, ServerKind::OpenAi, wait).await {
        Ok(look) => Ok((ServerKind::OpenAi, look)),
        Err(models) => {
            let version = version.err().unwrap_or_else(|| "good, but not `/api/tags`".to_owned());
            Err(format!(
                "neither Ollama nor an OpenAI-compatible server answers there: `/api/version`: {version}; `/v1/models`: {models}"
            ))
        }
    }
}

/// What a server of that kind has.
pub(crate) async fn look(
    http: &Client,
    place: &Place,
    kind: ServerKind,
    wait: Duration,
) -> Result<Look, String> {
    match kind {
        ServerKind::Ollama => {
            let tags = get::<Tags>(http, place, "/api/tags", wait).await?;
            let version = get::<Version>(http, place, "/api/version", wait).await;
            // What it has in memory is told where it tells it.
            let loaded = get::<Tags>(http, place, "/api/ps", wait).await;
            let loaded = loaded.map_or_else(|_| Vec::new(), |loaded| loaded.models);
            let loaded = loaded.into_iter().map(|tag| (tag.name.clone(), tag)).collect();
            let offered = tags.models.into_iter().map(|tag| of_tag(tag, &loaded));
            let version = version.map_or_else(|_| String::new(), |version| cut(&version.version));
            Ok(named(version, offered))
        }
        ServerKind::OpenAi => {
            let models = get::<Models>(http, place, "/v1/models", wait).await?;
            let offered = models.data.into_iter().map(|model| of_model(model, place));
            Ok(named(String::new(), offered))
        }
    }
}

async fn get<T: DeserializeOwned>(
    http: &Client,
    place: &Place,
    path: &str,
    wait: Duration,
) -> Result<T, String> {
    let asked = async {
        let response = place.request(http, Method::GET, path).send().await;
        let response = response.map_err(|error| cause(&error))?;
        let status = response.status();
        if matches!(status.as_u16(), 401 | 403) {
            return Err(format!("it answered {status}: it wants an API key, or another one"));
        }
        if status.is_redirection() {
            return Err(format!("it answered {status}: give the place it sends others to"));
        }
        if !status.is_success() {
            return Err(format!("it answered {status}"));
        }
        let bytes = read(response, limits::ADOPTED_LIST_BYTES).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let error: String = error.to_string().chars().take(200).collect();
            format!("its answer is not what such servers answer: {error}")
        })
    };
    let late = || format!("no answer within {} ms", wait.as_millis());
    tokio::time::timeout(wait, asked).await.map_err(|_| late())?
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(limits::DISPLAY_NAME_CHARS).collect()
}

fn of_tag(tag: Tag, loaded: &BTreeMap<String, Tag>) -> Offered {
    let loaded = loaded.get(&tag.name).map(|tag| Loaded {
        size: tag.size,
        size_vram: tag.size_vram,
        context_length: tag.context_length,
        expires_at: tag.expires_at.as_deref().map(cut),
    });
    let is_hex = tag.digest.len() == 64 && tag.digest.bytes().all(|b| b.is_ascii_hexdigit());
    let digest = if is_hex { tag.digest } else { Digest::of(tag.name.as_bytes()).hex() };
    let modified = tag.modified_at.parse::<jiff::Timestamp>().map(|at| at.as_millisecond());
    Offered {
        digest,
        size: tag.size,
        modified_at: Millis(modified.ok().and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0)),
        details: tag.details.unwrap_or_default().into(),
        // Older ones do not tell; then it is what nearly all are for.
        capabilities: tag
            .capabilities
            .map(|all| all.iter().take(16).map(|text| cut(text)).collect())
            .unwrap_or_else(|| vec!["completion".to_owned()]),
        loaded,
        id: tag.name,
    }
}

/// What such a server has, it has in memory.
fn of_model(model: Model, place: &Place) -> Offered {
    let context_length = model.max_model_len.unwrap_or(0);
    let created = if model.created > 0.0 { model.created * 1e3 } else { 0.0 };
    Offered {
        digest: Digest::of(format!("{}/{}", place.url, model.id).as_bytes()).hex(),
        size: 0,
        // Casting a float to an integer saturates.
        modified_at: Millis(created as u64),
        details: Details { context_length, ..Details::default() },
        capabilities: vec!["completion".to_owned()],
        loaded: Some(Loaded { size: 0, size_vram: 0, context_length, expires_at: None }),
        id: model.id,
    }
}

/// Gives each model the name it has here: its own, or, where that is a path, the last part of it.
fn named(version: String, offered: impl Iterator<Item = Offered>) -> Look {
    let mut look = Look { version, ..Look::default() };
    for offered in offered {
        let last = offered.id.rsplit('/').next().unwrap_or_default();
        let name = offered.id.parse::<ModelName>().or_else(|_| last.parse());
        match name {
            Ok(name) if look.models.len() < limits::ADOPTED_MODELS_COUNT => {
                look.models.entry(name).or_insert(Arc::new(offered));
            }
            _ => look.unnamed += 1,
        }
    }
    look
}

/// Looks at a server for as long as it is adopted.
pub(crate) async fn keep_looking(server: Weak<Server>, http: Client, pace: Adopting) {
    loop {
        let Some(server) = server.upgrade() else { return };
        let (place, kind) = (&server.place, server.record.kind);
        if server.record.key.is_some() && !place.has_key() {
            return;
        }
        let looked = look(&http, place, kind, pace.look).await;
        let soon = looked.is_err();
        server.saw(looked, Millis::now());
        // Not all of them in the same moment; one that fails is looked at sooner.
        let share = 0.8 + 0.4 * rand::random::<f64>();
        let pause = if soon { pace.every / 4 } else { pace.every }.mul_f64(share);
        let asked = async {
            server.look.notified().await;
            tokio::time::sleep(pace.every / 50).await;
        };
        tokio::select! {
            () = asked => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
