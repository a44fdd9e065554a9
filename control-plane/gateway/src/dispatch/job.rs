//! What is to be generated, and what comes of it.

use super::Resumed;
use crate::answer::Part;
use crate::demand::Want;
use crate::request::Asker;
use crate::streams::Kept;
use ollamamax_core::record::ModelRecord;
use ollamamax_proto::inference::{FinishReason, Options, Prompt, TokenLogprob};

/// What is to be generated.
#[derive(Clone, Debug)]
pub struct Job {
    /// For logs, here and at the worker.
    pub request_id: String,
    /// Who asks, and until when.
    pub asker: Asker,
    /// The model as resolved.
    pub model: ModelRecord,
    /// What it continues.
    pub prompt: Prompt,
    /// How; the seed is set.
    pub options: Options,
    /// What the request asks about its model.
    pub want: Want,
    /// Under which id it goes on elsewhere, should this gateway die.
    pub kept: Option<Kept>,
    /// Where it goes on, when it has begun elsewhere.
    pub resumed: Option<Resumed>,
}

/// What a client gets to see of a generation.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// More text.
    Text(Piece),
    /// A part that was told from the others where it came from.
    Part(Part),
    /// The end.
    Done(Box<Summary>),
}

/// Text, and how likely the tokens behind it were where that was asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// The tokens that released it. A token that released nothing by itself, such as the first bytes of a character, comes with
    /// the text that follows; the tokens of a stop text do not come at all.
    pub logprobs: Vec<TokenLogprob>,
    /// How many tokens that were; told as log-probabilities are.
    pub tokens: usize,
}

/// How a generation went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Why it ended.
    pub reason: FinishReason,
    /// The stop text of the request that ended it, if one did.
    pub stop: Option<String>,
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: u32,
    /// Of these, found in the cache of the worker that was asked last.
    pub cached_tokens: u32,
    /// Tokens generated.
    pub output_tokens: u32,
    /// From the request to a worker that has the model, in nanoseconds.
    pub load_ns: u64,
    /// Spent on the prompt, in nanoseconds.
    pub prompt_ns: u64,
    /// Spent on the output, in nanoseconds.
    pub output_ns: u64,
    /// From the request to the end, in nanoseconds.
    pub total_ns: u64,
    /// Tokens of prompt and output, to continue from.
    pub context: Vec<u32>,
    /// How often it went on at another worker.
    pub resumes: u32,
}
