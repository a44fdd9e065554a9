//! A request for tokens and the tokens that answer it, between gateway and worker.

use crate::ids::{AssignmentId, Digest, Generation, ModelName};
use serde::{Deserialize, Serialize};

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Its text.
    pub content: String,
    /// Further fields as a JSON object (tool calls, name, thinking), or empty.
    pub extra_json: String,
}

/// What the model is to continue.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Messages, rendered by the model's chat template.
    Chat {
        /// In order; not empty.
        messages: Vec<Message>,
        /// Overrides the model's template.
        template: Option<String>,
        /// Tools as a JSON array, or empty.
        tools_json: String,
        /// Tokens that stand before the rendered messages.
        context: Vec<u32>,
    },
    /// Text as it is; special tokens in it are recognised.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<u32>),
}

/// How to generate. Defaults are Ollama's.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Tokens the sequence may hold; `None`: what the assignment allows.
    pub context_tokens: Option<u32>,
    /// How many tokens to generate at most.
    pub predict: Predict,
    /// Tokens of the prompt kept when it is cut to fit.
    pub keep_tokens: u32,
    /// How to choose each token.
    pub sampling: Sampling,
    /// Texts that end the generation; they are not part of the output.
    pub stop: Vec<String>,
    /// Cut old messages when the prompt does not fit, instead of refusing it.
    pub truncate: bool,
    /// Go on past the end-of-generation token: for load tests.
    pub ignore_end: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            context_tokens: None,
            predict: Predict::UntilDone,
            keep_tokens: 4,
            sampling: Sampling::default(),
            stop: Vec::new(),
            truncate: true,
            ignore_end: false,
        }
    }
}

/// How many tokens to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predict {
    /// Until the model ends, at most ten times the context, as Ollama bounds it.
    UntilDone,
    /// Until the context is full.
    FillContext,
    /// At most this many.
    AtMost(u32),
}

/// How one token is chosen from the logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token; higher flattens.
    pub temperature: f32,
    /// Keep the k most likely; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the best; 0 keeps all.
    pub min_p: f32,
    /// Locally typical sampling; 1 is off.
    pub typical_p: f32,
    /// How many last tokens the penalties look at; 0 none.
    pub repeat_last: u32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 is off.
    pub repeat_penalty: f32,
    /// Subtracted once for each recent token.
    pub presence_penalty: f32,
    /// Subtracted per occurrence of each recent token.
    pub frequency_penalty: f32,
    /// With the position, decides every coin: same seed, same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.0,
            typical_p: 1.0,
            repeat_last: 64,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
        }
    }
}

/// A whole request as a gateway sends it to a worker.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// For logs and traces.
    pub request_id: String,
    /// 0 for the first worker tried, then counting up.
    pub attempt: u32,
    /// The model's name, for messages.
    pub model: ModelName,
    /// The GGUF it must run on.
    pub blob: Digest,
    /// The assignment it was routed by.
    pub assignment: AssignmentId,
    /// And its generation: a worker refuses a stale one.
    pub generation: Generation,
    /// What to continue.
    pub prompt: Prompt,
    /// How.
    pub options: Options,
    /// Tokens already generated elsewhere: replayed into the state, never sent again.
    pub resume: Vec<u32>,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended, or a stop text came.
    Stop,
    /// The limit on tokens or the context was reached.
    Length,
}

impl FinishReason {
    /// `stop` or `length`, as the APIs spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// What the worker knows when the prompt is about to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Started {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, found in the cache.
    pub cached_tokens: u32,
    /// Time spent waiting for a place, in nanoseconds.
    pub queue_ns: u64,
}

/// How a generation went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated, resumed ones included.
    pub output_tokens: u32,
    /// Time from admission to the first token, in nanoseconds.
    pub prompt_ns: u64,
    /// Time from the first to the last token, in nanoseconds.
    pub output_ns: u64,
    /// Prompt and output tokens, to continue from.
    pub context: Vec<u32>,
}

/// A piece of a worker's answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenChunk {
    /// Index of the first token here, counted from the start of the generation.
    pub index: u32,
    /// The tokens.
    pub tokens: Vec<u32>,
    /// What they add to the output; may lag the tokens by a partial character or a possible stop text.
    pub text: String,
    /// In the first chunk only.
    pub started: Option<Started>,
    /// In the last chunk only.
    pub done: Option<Done>,
}
