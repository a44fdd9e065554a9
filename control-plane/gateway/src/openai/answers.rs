//! Answers of `/v1/chat/completions` and `/v1/completions` as they are described. They are written field by field where they arise; the tests hold every
//! one of them against these, in both directions.
#![expect(dead_code, reason = "types that stand in the description only")]

use crate::logprobs::Told;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// An answer.
#[derive(ToSchema)]
pub(crate) struct ChatCompletion {
    id: String,
    /// Always `chat.completion`.
    object: String,
    /// Seconds since 1970.
    created: i64,
    /// The model, as it was asked.
    model: String,
    system_fingerprint: String,
    /// As many as were asked for.
    choices: Vec<Choice>,
    usage: Usage,
}

/// How the conversation goes on.
#[derive(ToSchema)]
#[schema(as = ChatCompletionChoice)]
struct Choice {
    index: u32,
    message: Reply,
    /// `stop`, `length` or `tool_calls`.
    finish_reason: String,
    /// Where they were asked for.
    #[schema(required = false)]
    logprobs: Logprobs,
}

/// What the model says.
#[derive(ToSchema)]
#[schema(as = ChatCompletionReply)]
struct Reply {
    /// Always `assistant`.
    role: String,
    /// Its text.
    content: String,
    /// What it thought before.
    #[schema(required = false)]
    reasoning: String,
    #[schema(required = false)]
    tool_calls: Vec<ToolCall>,
}

/// A function that the model calls.
#[derive(ToSchema)]
#[schema(as = ChatCompletionToolCall)]
struct ToolCall {
    id: String,
    index: u32,
    /// Always `function`.
    #[serde(rename = "type")]
    kind: String,
    function: Function,
}

/// Which, and with what.
#[derive(ToSchema)]
#[schema(as = ChatCompletionFunction)]
struct Function {
    name: String,
    /// JSON, as a text.
    arguments: String,
}

/// Answers of `/v1/completions`, and the events they come in.
#[derive(ToSchema)]
pub(crate) struct Completion {
    id: String,
    /// Always `text_completion`.
    object: String,
    /// Seconds since 1970.
    created: i64,
    /// The model, as it was asked.
    model: String,
    system_fingerprint: String,
    choices: Vec<Text>,
    #[schema(required = false)]
    usage: Usage,
}

/// How a prompt goes on.
#[derive(ToSchema)]
#[schema(as = CompletionChoice)]
struct Text {
    text: String,
    index: u32,
    #[schema(required)]
    logprobs: Option<Lists>,
    /// `stop`, `length` or `tool_calls` with the last.
    #[schema(required)]
    finish_reason: Option<String>,
}

/// How likely its tokens were: lists side by side.
#[derive(ToSchema)]
#[schema(as = CompletionLogprobs)]
struct Lists {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    text_offset: Vec<u64>,
    top_logprobs: Vec<BTreeMap<String, f32>>,
}

/// How likely its tokens were.
#[derive(ToSchema)]
#[schema(as = ChatCompletionLogprobs)]
struct Logprobs {
    content: Vec<Told>,
}

/// What it took.
#[derive(ToSchema)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

/// An event of an answer. The last but one may tell what it took, and has no choices then.
#[derive(ToSchema)]
pub(crate) struct ChatCompletionChunk {
    id: String,
    /// Always `chat.completion.chunk`.
    object: String,
    /// Seconds since 1970.
    created: i64,
    /// The model, as it was asked.
    model: String,
    system_fingerprint: String,
    choices: Vec<ChoiceDelta>,
    #[schema(required = false)]
    usage: Usage,
}

/// What is new of an answer.
#[derive(ToSchema)]
#[schema(as = ChatCompletionChunkChoice)]
struct ChoiceDelta {
    index: u32,
    delta: Delta,
    /// `stop`, `length` or `tool_calls` with the last.
    #[schema(required)]
    finish_reason: Option<String>,
    /// Where they were asked for.
    #[schema(required = false)]
    logprobs: Logprobs,
}

/// What is new of a text.
#[derive(ToSchema)]
#[schema(as = ChatCompletionDelta)]
struct Delta {
    /// With the first only.
    #[schema(required = false)]
    role: String,
    #[schema(required = false)]
    content: String,
    /// What it thinks before.
    #[schema(required = false)]
    reasoning: String,
    #[schema(required = false)]
    tool_calls: Vec<ToolCall>,
}
