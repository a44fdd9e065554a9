//! `POST /api/create`: a model from files that were uploaded (a GGUF, or a checkpoint that is converted), or from another model;
//! quantised, and with an adapter merged, where that is asked for.
//!
//! Everything that headers tell is checked before the first record goes out, so that files that cannot be used still get a status
//! of their own. What takes long is done by [`super::import`] while records tell how far it is.

use super::chat::check_role;
use super::import::Origin;
use super::making::{self, Making, Progress, tell};
use super::model::read_gguf;
use crate::auth::Caller;
use crate::converse::check_template;
use crate::error::{Failure, OllamaError};
use crate::ports::Hold;
use crate::{Gateway, body, names, options};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ollamamax_core::access::{Action, Object};
use ollamamax_gguf::model_facts;
use ollamamax_import::Quantisation;
use ollamamax_proto::model::{ModelFacts, ModelVersion, SeedMessage};
use ollamamax_proto::{Digest, limits};
use serde::Deserialize;
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
    /// The digests of files that were uploaded, by their names: a GGUF, or the files of a checkpoint in safetensors.
    #[serde(default)]
    files: Option<BTreeMap<String, String>>,
    /// The digests of the files of an adapter (LoRA), by their names: a GGUF, or those that PEFT saves.
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
    /// How its weights shall be packed; as they are when absent.
    #[serde(default)]
    #[schema(examples("q4_K_M"))]
    quantize: Option<String>,
    /// Records as they come, or the last one only.
    #[serde(default)]
    #[schema(default = true)]
    stream: Option<bool>,
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

/// Makes a model from files that were uploaded, or from another model.
///
/// Safetensors of llama, mistral, qwen2 and qwen3 models are converted. Whoever hangs up before the end gets nothing.
#[utoipa::path(post, path = "/api/create", request_body = CreateRequest, responses(
    (status = 200, description = "What was done, a record on each line, or the last only.",
        content((Progress = "application/x-ndjson"), (Progress = "application/json"))), (status = 500), (status = 507)))]
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
    let mut holds = gateway.hold_all(request.named()?);
    let (records, answers) = making::records();
    let (mut version, origin) = gateway.base(&caller, &request, &records).await?;
    if let Origin::Gguf(digest) = &origin {
        holds.push(gateway.blobs.hold(*digest));
    }
    request.dress(&mut version)?;
    let work = match request.work(&origin, &version)? {
        None => None,
        Some((quantisation, adapter)) => {
            adapter.values().try_for_each(|digest| gateway.may_use(&caller, *digest))?;
            Some(gateway.read_headers(origin, adapter, quantisation).await?)
        }
    };
    gateway.let_make(&caller)?;
    let making = Making { gateway, caller, name, version, holds };
    match work {
        None => making.end(&records).await?,
        Some(work) => drop(tokio::spawn(making.run(work, records.clone()))),
    }
    drop(records);
    if streamed { Ok(making::stream_of(answers)) } else { making::last_of(answers).await }
}

/// How weights shall be packed, and the files of the adapter that is merged.
type Wanted = (Option<Quantisation>, BTreeMap<String, Digest>);

impl CreateRequest {
    pub(super) fn check(&self) -> Result<(), Failure> {
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

    /// All bytes it names.
    fn named(&self) -> Result<Vec<Digest>, Failure> {
        let (files, adapter) = (digests(self.files.as_ref())?, digests(self.adapters.as_ref())?);
        Ok(files.into_values().chain(adapter.into_values()).collect())
    }

    /// The files it names, if it does.
    fn origin(&self) -> Result<Option<Origin>, Failure> {
        let files = digests(self.files.as_ref())?;
        let is_weights = |name: &String| name.to_ascii_lowercase().ends_with(".safetensors");
        if files.keys().any(is_weights) {
            return Ok(Some(Origin::Checkpoint(files)));
        }
        let count = files.len();
        match (files.into_values().next(), count) {
            (None, _) => Ok(None),
            (Some(digest), 1) => Ok(Some(Origin::Gguf(digest))),
            (Some(_), _) => Err(Failure::invalid(format!(
                "`files` names {count} files, none of them in safetensors; expected one GGUF or a checkpoint"
            ))),
        }
    }

    /// What is to be done to the bytes, if anything is.
    fn work(&self, origin: &Origin, version: &ModelVersion) -> Result<Option<Wanted>, Failure> {
        let quantize = self.quantize.as_ref().filter(|text| !text.is_empty());
        let quantisation = quantize.map(|text| text.parse::<Quantisation>()).transpose();
        let quantisation = quantisation.map_err(|error| Failure::invalid(error.to_string()))?;
        let adapter = digests(self.adapters.as_ref())?;
        let is_so = quantisation.is_none_or(|q| q.name() == version.facts.quantization);
        let nothing = matches!(origin, Origin::Gguf(_)) && is_so && adapter.is_empty();
        Ok((!nothing).then_some((quantisation, adapter)))
    }
}

/// Files by their names without folders.
fn digests(files: Option<&BTreeMap<String, String>>) -> Result<BTreeMap<String, Digest>, Failure> {
    let mut all = BTreeMap::new();
    for (path, digest) in files.into_iter().flatten() {
        if !is_relative(path) {
            return Err(Failure::invalid(format!("file path must be relative: {path:?}")));
        }
        let digest = digest.parse().map_err(|_| Failure::invalid("invalid digest format"))?;
        let name = path.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
        if all.insert(name, digest).is_some() {
            return Err(Failure::invalid(format!("two files are called as {path:?} is")));
        }
    }
    Ok(all)
}

fn is_relative(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['/', '\\'])
        && !name.contains('\0')
        && name.split(['/', '\\']).all(|part| part != "..")
}

impl Gateway {
    /// The version to start from (another model's, or one with nothing but a file), and where its bytes come from.
    async fn base(
        &self,
        caller: &Caller,
        request: &CreateRequest,
        records: &making::Records,
    ) -> Result<(ModelVersion, Origin), Failure> {
        match request.origin()? {
            Some(Origin::Gguf(digest)) => {
                tell(records, "parsing GGUF").await?;
                self.may_use(caller, digest)?;
                let (facts, blob_bytes) = self.facts(digest).await?;
                tell(records, format!("using existing layer {digest}")).await?;
                Ok((bare(digest, blob_bytes, facts), Origin::Gguf(digest)))
            }
            Some(Origin::Checkpoint(files)) => {
                files.values().try_for_each(|digest| self.may_use(caller, *digest))?;
                let none = Digest([0; 32]);
                Ok((bare(none, 0, ModelFacts::default()), Origin::Checkpoint(files)))
            }
            None => {
                let from = request.from.as_ref().filter(|from| !from.is_empty());
                let from = from
                    .ok_or_else(|| Failure::invalid("neither 'from' or 'files' was specified"))?;
                let parent = caller.model(&self.control.state(), from, Action::RunInference)?;
                let blob = parent.version.blob;
                tell(records, format!("using existing layer {blob}")).await?;
                let parent_name = Some(parent.name.to_string());
                let version = ModelVersion { parent: parent_name, ..parent.version };
                Ok((version, Origin::Gguf(blob)))
            }
        }
    }

    fn hold_all(&self, digests: Vec<Digest>) -> Vec<Hold> {
        digests.into_iter().map(|digest| self.blobs.hold(digest)).collect()
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
