//! `POST /api/create`: a model from a GGUF that was uploaded, or from another model.
//!
//! Everything is checked before the first record goes out, so that a file that cannot be used still gets a status of its own.

use super::chat::check_role;
use super::model::read_gguf;
use crate::auth::Caller;
use crate::converse::check_template;
use crate::error::{Failure, OllamaError};
use crate::stream;
use crate::{Gateway, body, names, options};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::Command;
use ollamamax_core::access::{Action, Object};
use ollamamax_gguf::model_facts;
use ollamamax_proto::model::{ModelFacts, ModelVersion, SeedMessage};
use ollamamax_proto::{Digest, limits};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use utoipa::ToSchema;

/// What a model is made of.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(examples(json!({"model": "mine", "from": "smollm2:135m", "system": "Answer briefly."})))]
pub(crate) struct CreateRequest {
    /// The name it gets.
    #[serde(default)]
    model: Option<String>,
    /// The same, as older clients send it.
    #[serde(default)]
    name: Option<String>,
    /// A model to start from.
    #[serde(default)]
    from: Option<String>,
    /// The digest of a file that was uploaded, by its name.
    #[serde(default)]
    files: Option<BTreeMap<String, String>>,
    /// Not supported yet.
    #[serde(default)]
    adapters: Option<BTreeMap<String, String>>,
    /// How conversations become prompts.
    #[serde(default)]
    pub(super) template: Option<String>,
    /// What comes before every conversation.
    #[serde(default)]
    pub(super) system: Option<String>,
    #[serde(default)]
    #[schema(schema_with = crate::openapi::shapes::texts)]
    pub(super) license: Option<Texts>,
    /// What counts where a request is silent.
    #[serde(default)]
    #[schema(value_type = Option<crate::openapi::GenerationOptions>)]
    pub(super) parameters: Option<Map<String, Value>>,
    /// What comes before every conversation.
    #[serde(default)]
    pub(super) messages: Option<Vec<CreateMessage>>,
    /// Not supported yet.
    #[serde(default)]
    quantize: Option<String>,
    /// Records as they come, or the last one only.
    #[serde(default)]
    #[schema(default = true)]
    stream: Option<bool>,
}

/// A step that is done.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Progress {
    /// The last says `success`.
    #[schema(examples("success"))]
    status: String,
}

impl Progress {
    fn of(status: impl Into<String>) -> Self {
        Self { status: status.into() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Texts {
    One(String),
    Many(Vec<String>),
}

/// A message before every conversation.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct CreateMessage {
    /// `system`, `user` or `assistant`.
    role: String,
    #[serde(default)]
    content: String,
}

/// Makes a model from a GGUF that was uploaded, or from another model.
#[utoipa::path(post, path = "/api/create", request_body = CreateRequest, responses(
    (status = 200, description = "What was done, a record on each line, or the last only.",
        content((Progress = "application/x-ndjson"), (Progress = "application/json"))), (status = 500)))]
pub(crate) async fn create(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    body: Body,
) -> Result<Response, OllamaError> {
    let request: CreateRequest = body::json(body, gateway.config.body_bytes).await?;
    let streamed = request.stream != Some(false);
    let name = names::named(request.model.clone(), request.name.clone())?;
    let name = names::well_formed(&name)?;
    let shown = name.to_string();
    caller.check(Action::ManageModels, Object::Model(&shown), &shown)?;
    request.check()?;
    // Nobody removes what is about to be named.
    let _hold = request.file()?.map(|digest| gateway.blobs.hold(digest));
    let mut records = Vec::new();
    let mut version = gateway.base(&caller, &request, &mut records).await?;
    request.dress(&mut version)?;
    version.digest = version.compute_digest();
    gateway.let_make(&caller)?;
    let command = Command::RollOut { name, version: Box::new(version), weight: 100 };
    caller.propose(&gateway, "model.create", shown, command).await?;
    records.push(Progress::of("writing manifest"));
    records.push(Progress::of("success"));
    if !streamed {
        return Ok(stream::ollama_json(&Progress::of("success")));
    }
    let mut lines = Vec::new();
    records.iter().for_each(|record| stream::line(record, &mut lines));
    Ok(stream::typed("application/x-ndjson", lines))
}

impl CreateRequest {
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.quantize.as_ref().is_some_and(|text| !text.is_empty()) {
            return Err(Failure::invalid(
                "`quantize` is not supported yet; create from a file that is quantized already",
            ));
        }
        if self.adapters.as_ref().is_some_and(|adapters| !adapters.is_empty()) {
            return Err(Failure::invalid("`adapters` are not supported yet"));
        }
        let licenses = self.license.iter().flat_map(|license| match license {
            Texts::One(text) => std::slice::from_ref(text),
            Texts::Many(texts) => texts,
        });
        let texts = [("template", &self.template), ("system", &self.system)]
            .into_iter()
            .filter_map(|(field, text)| Some((field, text.as_ref()?)))
            .chain(licenses.map(|text| ("license", text)));
        for (field, text) in texts {
            if text.len() > limits::MODEL_TEXT_BYTES {
                let (bytes, limit) = (text.len(), limits::MODEL_TEXT_BYTES);
                return Err(Failure::invalid(format!(
                    "`{field}` has {bytes} bytes, at most {limit} are accepted"
                )));
            }
        }
        check_template(self.template.as_deref().unwrap_or_default())
    }

    /// What the request says beside the bytes: parameters merge, the rest replaces.
    pub(super) fn dress(&self, version: &mut ModelVersion) -> Result<(), Failure> {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        version.template = filled(&self.template).or_else(|| version.template.take());
        version.system = filled(&self.system).or_else(|| version.system.take());
        match &self.license {
            None => {}
            Some(Texts::One(text)) if text.is_empty() => {}
            Some(Texts::One(text)) => version.licenses = vec![text.clone()],
            Some(Texts::Many(texts)) => version.licenses.clone_from(texts),
        }
        for (name, value) in self.parameters.iter().flatten() {
            let texts = options::parameter_texts(name, value)?;
            if !texts.is_empty() {
                version.parameters.insert(name.clone(), texts);
            }
        }
        if let Some(messages) = self.messages.as_ref().filter(|messages| !messages.is_empty()) {
            let convert = |(index, message): (usize, &CreateMessage)| {
                let role = check_role("messages", index, &message.role)?;
                Ok(SeedMessage { role, content: message.content.clone() })
            };
            version.messages =
                messages.iter().enumerate().map(convert).collect::<Result<_, Failure>>()?;
        }
        Ok(())
    }

    /// The only file, when there are files.
    fn file(&self) -> Result<Option<Digest>, Failure> {
        let Some(files) = self.files.as_ref().filter(|files| !files.is_empty()) else {
            return Ok(None);
        };
        if let Some(name) = files.keys().find(|name| !is_relative(name)) {
            return Err(Failure::invalid(format!("file path must be relative: {name:?}")));
        }
        if files.len() > 1 {
            let count = files.len();
            return Err(Failure::invalid(format!(
                "`files` names {count} files; models of several files are not supported yet"
            )));
        }
        let digest = files.values().next().map(|text| text.parse());
        digest.transpose().map_err(|_| Failure::invalid("invalid digest format"))
    }
}

fn is_relative(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['/', '\\'])
        && !name.contains('\0')
        && name.split(['/', '\\']).all(|part| part != "..")
}

impl Gateway {
    /// The version to start from: another model's, or the bare file's.
    async fn base(
        &self,
        caller: &Caller,
        request: &CreateRequest,
        records: &mut Vec<Progress>,
    ) -> Result<ModelVersion, Failure> {
        if let Some(digest) = request.file()? {
            records.push(Progress::of("parsing GGUF"));
            self.may_use(caller, digest)?;
            let (facts, blob_bytes) = self.facts(digest).await?;
            records.push(Progress::of(format!("using existing layer {digest}")));
            return Ok(bare(digest, blob_bytes, facts));
        }
        let from = request.from.as_ref().filter(|from| !from.is_empty());
        let from =
            from.ok_or_else(|| Failure::invalid("neither 'from' or 'files' was specified"))?;
        let parent = caller.model(&self.control.state(), from, Action::RunInference)?;
        let blob = parent.version.blob;
        records.push(Progress::of(format!("using existing layer {blob}")));
        Ok(ModelVersion { parent: Some(parent.name.to_string()), ..parent.version })
    }

    /// Bytes that are a model's already are for those whom one of its names answers.
    pub(super) fn may_use(&self, caller: &Caller, digest: Digest) -> Result<(), Failure> {
        let state = self.control.state();
        let own = state.models.values().filter(|model| model.version.blob == digest);
        let mut names = own.map(|model| model.name.to_string()).peekable();
        let known = names.peek().is_some();
        let may = |name: String| caller.may(Action::RunInference, Object::Model(&name));
        if !known || names.any(may) {
            return Ok(());
        }
        caller.check(Action::RunInference, Object::All, "a model with these bytes")
    }

    /// Reads a file's facts; whatever is wrong with it is the client's mistake, told with its offset.
    pub(super) async fn facts(&self, digest: Digest) -> Result<(ModelFacts, u64), Failure> {
        read_facts(self.blobs.open(digest).await?).await
    }
}

/// The facts of a file, and its size in bytes.
pub(super) async fn read_facts(path: PathBuf) -> Result<(ModelFacts, u64), Failure> {
    let read = tokio::task::spawn_blocking(move || {
        let (gguf, bytes) = read_gguf(&path)?;
        let facts = model_facts(&gguf).map_err(|error| error.to_string())?;
        Ok::<_, String>((facts, bytes))
    });
    let read = read.await;
    read.map_err(|_| Failure::Internal("reading the file's header failed".to_owned()))?
        .map_err(|why| Failure::invalid(format!("supplied file cannot be used: {why}")))
}

/// A version that is nothing but a file.
pub(super) fn bare(blob: Digest, blob_bytes: u64, facts: ModelFacts) -> ModelVersion {
    ModelVersion {
        digest: blob,
        blob,
        blob_bytes,
        facts,
        template: None,
        system: None,
        parameters: BTreeMap::new(),
        messages: Vec::new(),
        licenses: Vec::new(),
        parent: None,
    }
}
