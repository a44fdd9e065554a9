//! What a request is thought to cost before a worker has said.

use ollamamax_core::route::Shape;
use ollamamax_proto::inference::{Options, Predict, Prompt};

/// What a request is thought to be: four bytes of prompt a token, and what it may generate.
pub(super) fn estimate(prompt: &Prompt, options: &Options) -> Shape {
    /// What a request without a limit is thought to generate.
    const USUAL_OUTPUT_TOKENS: u32 = 256;
    let prompt_tokens = match prompt {
        Prompt::Text(text) => text.len() / 4,
        Prompt::Tokens(tokens) => tokens.len(),
        Prompt::Chat(chat) => {
            let bytes: usize = chat.messages.iter().map(|message| message.content.len()).sum();
            (bytes + chat.tools_json.len()) / 4 + chat.context.len()
        }
        Prompt::Insert(insert) => (insert.before.len() + insert.after.len()) / 4,
    };
    let max_tokens = match options.predict {
        Predict::AtMost(tokens) => tokens.min(4 * USUAL_OUTPUT_TOKENS),
        Predict::UntilDone | Predict::FillContext => USUAL_OUTPUT_TOKENS,
    };
    Shape { prompt_tokens: count(prompt_tokens), max_tokens, prefix_hash: 0 }
}

pub(super) fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
