//! A request for tokens and the tokens that answer it, between gateway and worker.

use crate::ids::{AssignmentId, Digest, Generation, ModelName};
pub use crate::prefix::{Prefix, Salt};
pub use crate::sampling::{Mirostat, MirostatVersion, Sampling};
use serde::{Deserialize, Serialize};
use std::time::Duration;

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
    Chat(Chat),
    /// A text with a gap, rendered by the model's template or by the tokens it has for that.
    Insert(Insert),
    /// Text as it is; special tokens in it are recognised.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<u32>),
}

/// A conversation, and what its template is told beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// In order; not empty.
    pub messages: Vec<Message>,
    /// Overrides the model's template.
    pub template: Option<String>,
    /// Tools as a JSON array, or empty.
    pub tools_json: String,
    /// Tokens that stand before the rendered messages.
    pub context: Vec<u32>,
    /// Whether the model is to think first; `None` leaves it to the template.
    pub think: Option<Think>,
}

/// A text whose middle is to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Insert {
    /// What stands before the gap.
    pub before: String,
    /// What stands after it; not empty.
    pub after: String,
    /// Overrides the model's template.
    pub template: Option<String>,
}

/// Whether to think before answering, and how hard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Think {
    /// Not at all.
    Off,
    /// As the model does by itself.
    On,
    /// A little.
    Low,
    /// Somewhat.
    Medium,
    /// Hard.
    High,
    /// As hard as it can.
    Max,
}

impl Think {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Off, Self::On, Self::Low, Self::Medium, Self::High, Self::Max];

    /// `false`, `true`, or the level.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "false",
            Self::On => "true",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Max => "max",
        }
    }

    /// The level, where one was named.
    pub fn level(self) -> Option<&'static str> {
        (!matches!(self, Self::Off | Self::On)).then(|| self.as_str())
    }
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
    /// Drop the older half of a context that is full and go on, instead of ending there.
    pub shift: bool,
    /// Go on past the end-of-generation token: for load tests.
    pub ignore_end: bool,
    /// Tell the log-probability of each token, and of this many of the most likely ones beside it.
    pub logprobs: Option<u32>,
    /// What the output may be; `None` for anything.
    pub format: Option<OutputFormat>,
    /// What encloses the model's thinking, where somebody will tell it apart. An output whose prompt ends with the opening tag
    /// (white space aside) begins with that tag, and a format holds only behind the closing one.
    pub thinking: Option<Tags>,
    /// Control tokens that are part of the output's text by their spelling; others are not shown.
    pub shown: Vec<String>,
}

/// What stands before and behind a part of a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    /// Before; not empty.
    pub open: String,
    /// Behind; not empty.
    pub close: String,
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
            shift: true,
            ignore_end: false,
            logprobs: None,
            format: None,
            thinking: None,
            shown: Vec::new(),
        }
    }
}

/// What an output may be. It ends where it is complete, and before that only at a limit or a stop text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// Any JSON object.
    Json,
    /// JSON that a schema describes: the schema's text, an object itself.
    Schema(String),
    /// The texts of a grammar, in the dialect of Lark that llguidance reads.
    Grammar(String),
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
    /// Who asks, for a fair share of places: opaque, and empty for nobody in particular.
    pub caller: String,
    /// How long it may still take.
    pub time_left: Option<Duration>,
    /// How the conversation begins; empty where nobody says.
    pub prefix: Prefix,
    /// With whom what is cached is shared.
    pub salt: Salt,
}

/// What is to be embedded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmbedInput {
    /// A text; the model's own tokens around it are added.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<u32>),
}

/// Inputs to embed, as a gateway sends them to a worker.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbedRequest {
    /// For logs and traces.
    pub request_id: String,
    /// 0 for the first worker tried, then counting up.
    pub attempt: u32,
    /// The GGUF it must run on.
    pub blob: Digest,
    /// The assignment it was routed by.
    pub assignment: AssignmentId,
    /// And its generation: a worker refuses a stale one.
    pub generation: Generation,
    /// At most [`crate::limits::EMBED_PART_COUNT`].
    pub inputs: Vec<EmbedInput>,
    /// Cut an input that does not fit the context, instead of refusing it.
    pub truncate: bool,
    /// Who asks, for a fair share of places: opaque, and empty for nobody in particular.
    pub caller: String,
    /// How long it may still take.
    pub time_left: Option<Duration>,
}

/// The vector of one input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embedding {
    /// Of unit length, or zero.
    pub values: Vec<f32>,
    /// Tokens of the input, those around a text included.
    pub tokens: u32,
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
    /// The stop text that ended it, if one did.
    pub stop: Option<String>,
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
    /// One for each of `tokens` that belongs to the output, when they were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Where the loop of [`Mirostat`] stands after `tokens`; only with it.
    pub mu: Option<f64>,
    /// In the first chunk only.
    pub started: Option<Started>,
    /// In the last chunk only.
    pub done: Option<Done>,
}

/// How likely the model thought a token, whatever sampling made of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenLogprob {
    /// The token that was chosen.
    pub chosen: Logprob,
    /// The most likely ones at its place, likeliest first.
    pub top: Vec<Logprob>,
}

/// A token and its log-probability.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logprob {
    /// Its id.
    pub token: u32,
    /// Natural logarithm of its share in the softmax of the unmodified logits; [`Logprob::LEAST`] stands for everything below.
    pub logprob: f32,
    /// What it spells: bytes, for a character may be spread over several tokens.
    pub bytes: Vec<u8>,
}

impl Logprob {
    /// What OpenAI writes for a token that is next to impossible; JSON has no infinity.
    pub const LEAST: f32 = -9999.0;
}
