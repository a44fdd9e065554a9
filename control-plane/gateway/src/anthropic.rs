//! `POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's way to ask.

mod frame;
mod input;

use crate::adopted::ask::{self, Said, Wish};
use crate::answer::{Answer, Syntax};
use crate::auth::Caller;
use crate::converse::{Choice, Prepared, Turn};
use crate::demand::Want;
use crate::dispatch::{Generation, Job};
use crate::error::{AnthropicError, Failure};
use crate::request::{Asker, RequestId};
use crate::streams::{Flavour, Form, Keep};
use crate::{Gateway, body, ollama, options, stream};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
pub use frame::Frame;
use input::{Content, InputMessage, Tool};
use ollamamax_core::record::ModelRecord;
use ollamamax_proto::inference::{Options, Predict, Think};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa::ToSchema;

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct MessagesRequest {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    messages: Vec<InputMessage>,
    #[serde(default)]
    system: Option<Content>,
    #[serde(default)]
    max_tokens: Option<i64>,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    top_p: Option<f64>,
    #[serde(default)]
    top_k: Option<i64>,
    #[serde(default)]
    stop_sequences: Vec<String>,
    #[serde(default)]
    tools: Vec<Tool>,
    #[serde(default)]
    tool_choice: Option<ToolChoice>,
    #[serde(default)]
    thinking: Option<Thinking>,
    #[serde(default)]
    output_config: Option<OutputConfig>,
    #[serde(default)]
    stream: Option<bool>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct ToolChoice {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    name: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct Thinking {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Deserialize, ToSchema)]
struct OutputConfig {
    #[serde(default)]
    effort: Option<String>,
}

/// Continues a conversation, as Anthropic's clients ask it.
#[utoipa::path(post, path = "/v1/messages", request_body = MessagesRequest, responses((status = 200,
    description = "The message, or its events; the fields are those of Anthropic's.",
    content((Object = "application/json"), (Object = "text/event-stream")))))]
pub(crate) async fn messages(
    State(gateway): State<Arc<Gateway>>,
    request_id: RequestId,
    asker: Asker,
    caller: Caller,
    keep: Keep,
    body: Body,
) -> Result<Response, AnthropicError> {
    let id = request_id.0.clone();
    let answered = answer(gateway, request_id, asker, caller, keep, body).await;
    answered.map_err(|failure| AnthropicError { failure, request_id: id })
}

async fn answer(
    gateway: Arc<Gateway>,
    RequestId(request_id): RequestId,
    asker: Asker,
    caller: Caller,
    keep: Keep,
    body: Body,
) -> Result<Response, Failure> {
    let request: MessagesRequest = body::json(body, gateway.config.body_bytes).await?;
    let streamed = request.stream == Some(true);
    let (asked, model) = gateway.model_for(&caller, request.model.as_deref(), "chat")?;
    let predict = request.most()?;
    let own_stops = !request.stop_sequences.is_empty();
    let mut turn = request.turn(&gateway, &model)?;
    turn.options.predict = predict;
    let Prepared { prompt, options, syntax } = gateway.prepare(&model, turn)?;
    let guess = crate::dispatch::prompt_tokens(&prompt, &options);
    let key = format!("{:024x}", rand::random::<u128>() >> 32);
    let frame = Frame { key, model: asked, guess, own_stops };
    let form = Form { syntax, flavour: Flavour::Messages(frame.clone()) };
    let kept = keep.stream(streamed, &form);
    let id = kept.as_ref().map(|kept| kept.id);
    let want = Want::default();
    let job = Job { request_id, asker, model, prompt, options, want, kept, resumed: None };
    let generation = gateway.generate(job).await?;
    if streamed {
        return form.respond(generation, 0, id);
    }
    let whole = Answer::begin(generation, &form.syntax, 0)?.whole().await?;
    Ok(stream::plain_json(&frame.whole(&whole)))
}

/// The same request, for a server that does not speak Anthropic's API.
pub(crate) fn elsewhere(body: &[u8]) -> Result<Wish, Failure> {
    let request: MessagesRequest = body::parse(body)?;
    let asked = crate::names::named(request.model.clone(), None)?;
    let predict = request.most()?;
    let (given, think) = (request.options(), request.think()?);
    let mut options = ask::read_options(&given)?;
    request.limit(&mut options)?;
    options.predict = predict;
    let (choice, streamed) = (request.choice()?, request.stream == Some(true));
    let mut given = given;
    if !options.stop.is_empty() {
        given.insert("stop".to_owned(), options.stop.clone().into());
    }
    let messages = input::messages(request.system, request.messages, &asked)?;
    let tools = request.tools.into_iter().filter_map(Tool::function).collect();
    let guess = messages.iter().map(|message| message.content.len() / 4 + 4).sum::<usize>();
    let key = format!("{:024x}", rand::random::<u128>() >> 32);
    let guess = u32::try_from(guess).unwrap_or(u32::MAX);
    // Such a server does not tell which stop it was.
    let flavour = Flavour::Messages(Frame { key, model: asked, guess, own_stops: false });
    let said = Said::Chat { messages, tools, choice };
    Ok(Wish { said, given, options, think, streamed, flavour })
}

/// An answer in one message.
pub(crate) async fn whole(frame: &Frame, generation: Generation) -> Result<Response, Failure> {
    let whole = Answer::begin(generation, &Syntax::default(), 0)?.whole().await?;
    Ok(stream::plain_json(&frame.whole(&whole)))
}

/// How many tokens a prompt takes.
#[derive(Serialize, ToSchema)]
pub(crate) struct Counted {
    input_tokens: usize,
}

/// Counts the tokens that a request's prompt takes, without an answer.
#[utoipa::path(post, path = "/v1/messages/count_tokens", request_body = MessagesRequest,
    responses((status = 200, description = "How many there are.", body = Counted)))]
pub(crate) async fn count_tokens(
    State(gateway): State<Arc<Gateway>>,
    request_id: RequestId,
    asker: Asker,
    caller: Caller,
    body: Body,
) -> Result<Response, AnthropicError> {
    let counted = async {
        let request: MessagesRequest = body::json(body, gateway.config.body_bytes).await?;
        let (_, model) = gateway.model_for(&caller, request.model.as_deref(), "chat")?;
        let turn = request.turn(&gateway, &model)?;
        let prompt = gateway.prepare(&model, turn)?.prompt;
        let tokens = gateway.count_tokens(&asker, &model, &prompt).await?;
        Ok(stream::plain_json(&Counted { input_tokens: tokens }))
    };
    counted.await.map_err(|failure| AnthropicError { failure, request_id: request_id.0 })
}

impl MessagesRequest {
    fn most(&self) -> Result<Predict, Failure> {
        let tokens = self.max_tokens.and_then(|tokens| u32::try_from(tokens).ok());
        tokens
            .filter(|tokens| *tokens > 0)
            .map(Predict::AtMost)
            .ok_or_else(|| Failure::invalid("max_tokens is required and must be positive"))
    }

    fn turn(self, gateway: &Gateway, model: &ModelRecord) -> Result<Turn, Failure> {
        let name = model.name.to_string();
        let can_think = gateway.traits(&model.version).thinking.is_some();
        // What cannot think is not asked to: clients of this API ask every model.
        let think = self.think()?.filter(|_| can_think);
        let choice = self.choice()?;
        let mut options = ollama::merged(model, Some(&self.options()), None)?;
        self.limit(&mut options)?;
        let messages = input::messages(self.system, self.messages, &name)?;
        let tools = self.tools.into_iter().filter_map(Tool::function).collect();
        Ok(Turn { messages, tools, choice, think, options })
    }

    fn options(&self) -> Map<String, Value> {
        let given = [
            ("temperature", self.temperature.map(Value::from)),
            ("top_p", self.top_p.map(Value::from)),
            ("top_k", self.top_k.map(Value::from)),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    fn limit(&self, options: &mut Options) -> Result<(), Failure> {
        options.shift = false;
        if !self.stop_sequences.is_empty() {
            options.stop.clone_from(&self.stop_sequences);
        }
        options.stop = options::check_stops("stop_sequences", std::mem::take(&mut options.stop))?;
        Ok(())
    }

    /// Who does not ask for thinking gets none.
    fn think(&self) -> Result<Option<Think>, Failure> {
        let kind = self.thinking.as_ref().map_or("disabled", |thinking| thinking.kind.as_str());
        match kind {
            "disabled" => Ok(Some(Think::Off)),
            "enabled" | "adaptive" => {
                let effort =
                    self.output_config.as_ref().and_then(|config| config.effort.as_deref());
                Ok(Some(crate::openai::effort(effort)?.unwrap_or(Think::On)))
            }
            other => {
                let other: String = other.chars().take(100).collect();
                Err(Failure::invalid(format!(
                    "thinking.type is {other:?}, expected \"enabled\", \"adaptive\" or \"disabled\""
                )))
            }
        }
    }

    fn choice(&self) -> Result<Choice, Failure> {
        let Some(choice) = &self.tool_choice else { return Ok(Choice::Auto) };
        match (choice.kind.as_str(), &choice.name) {
            ("auto", _) => Ok(Choice::Auto),
            ("none", _) => Ok(Choice::Never),
            ("any", _) => Ok(Choice::Required),
            ("tool", Some(name)) => Ok(Choice::Named(name.clone())),
            (other, _) => {
                let other: String = other.chars().take(100).collect();
                Err(Failure::invalid(format!(
                    "tool_choice.type is {other:?}, expected \"auto\", \"any\", \"none\", or \"tool\" with a name"
                )))
            }
        }
    }
}
