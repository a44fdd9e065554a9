//! Answers of `/v1/chat/completions` as they are described. They are written field by field where they arise; the tests hold every
//! one of them against these, in both directions.
#![expect(dead_code, reason = "types that stand in the description only")]

use crate::logprobs::Told;
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
    /// One.
    choices: Vec<Choice>,
    usage: Usage,
}

/// How the conversation goes on.
#[derive(ToSchema)]
#[schema(as = ChatCompletionChoice)]
struct Choice {
    index: u32,
    message: Reply,
    /// `stop` or `length`.
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
    /// `stop` or `length` with the last.
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
}
