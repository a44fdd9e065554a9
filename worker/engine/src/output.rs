//! What of an output is text: the bytes of its tokens, the control tokens that somebody wants to see, and the tag that the
//! prompt has already written for the model.
//!
//! ```text
//! prompt: ...<think>   tokens: so | it | is | </think> | 4   text: <think>so it is</think>4
//! ```
//!
//! Whoever takes thinking apart then needs to know nothing but the text. The tag comes with the first token, so a stream
//! that goes on elsewhere has it already.

use crate::tokenizer::Tokenizer;
use ollamamax_proto::inference::Options;

/// How the tokens of one output become its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// What the text begins with beside its tokens: the tag of thinking where the prompt ends with it.
    pub opening: String,
    /// Control tokens that are spelt out.
    pub shown: Vec<u32>,
}

impl Output {
    /// For an output behind a prompt. The tags of thinking are always shown, for otherwise it would have no end.
    pub fn of(tokenizer: &Tokenizer, prompt: &[u32], options: &Options) -> Self {
        let tags = options.thinking.as_ref();
        let spellings =
            options.shown.iter().chain(tags.into_iter().flat_map(|t| [&t.open, &t.close]));
        let shown = spellings.filter_map(|spelling| tokenizer.control(spelling)).collect();
        let opened = tags.filter(|tags| ends_with(tokenizer, prompt, &tags.open));
        let opening = opened.map(|tags| tags.open.clone()).unwrap_or_default();
        Self { opening, shown }
    }

    /// What a token adds to the text.
    pub fn bytes<'a>(&self, tokenizer: &'a Tokenizer, token: u32) -> &'a [u8] {
        if self.shown.contains(&token) { tokenizer.shown(token) } else { tokenizer.bytes(token) }
    }
}

/// Whether a prompt ends with a text, white space behind it aside.
fn ends_with(tokenizer: &Tokenizer, prompt: &[u32], text: &str) -> bool {
    let mut tail: Vec<u8> = Vec::new();
    for &token in prompt.iter().rev() {
        tail = [tokenizer.shown(token), &tail].concat();
        tail.truncate(tail.trim_ascii_end().len());
        if tail.len() >= text.len() {
            break;
        }
    }
    !text.is_empty() && tail.ends_with(text.as_bytes())
}
