//! SentencePiece vocabularies with scores (`tokenizer.ggml.model` is `llama`): of Llama 2, Mistral, Phi 3 and Gemma.
//!
//! ```text
//! " low er" -> spaces as U+2581 -> characters -> the neighbours whose union has the best score merge, again and again
//!                                              -> what is no token by itself is spelt in bytes, `<0xNN>`
//! ```
//!
//! The behaviour to match is llama.cpp's (`llm_tokenizer_spm`), which is SentencePiece's BPE (Kudo and Richardson, 2018).

use crate::ids::Ids;
use crate::merging::merge;
use crate::vocabulary::{TokenKind, Vocabulary};
use std::cmp::Ordering;

/// How these vocabularies spell a space.
pub(crate) const SPACE: &str = "\u{2581}";

/// The merger.
pub(crate) struct Spm {
    ids: Ids,
    unknown: Option<u32>,
    /// Whether a text begins with a space that it does not have.
    space_prefix: bool,
}

/// How gladly two neighbours merge.
#[derive(PartialEq)]
struct Score(f32);

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for Score {}

impl Spm {
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let unknown = (0u32..)
            .zip(vocabulary.tokens.iter())
            .find(|(id, _)| vocabulary.kind(*id) == TokenKind::Unknown);
        Self {
            ids: Ids::new(&vocabulary.tokens),
            unknown: unknown.map(|(id, _)| id),
            space_prefix: vocabulary.add_space_prefix.unwrap_or(true),
        }
    }

    /// Appends the tokens of a text that begins a prompt or follows a special token.
    pub fn encode(&self, vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) {
        let mut spelt = if self.space_prefix { SPACE.to_owned() } else { String::new() };
        spelt.push_str(&text.replace(' ', SPACE));
        let find = |spelling: &str| self.ids.find(&vocabulary.tokens, spelling);
        let join = |left: (usize, usize), right: (usize, usize)| {
            let id = find(&spelt[left.0..right.1])?;
            let score = vocabulary.scores.get(id as usize).copied().unwrap_or_default();
            Some((Score(score), (left.0, right.1)))
        };
        let character = |(start, character): (usize, char)| (start, start + character.len_utf8());
        for (start, end) in merge(spelt.char_indices().map(character), join) {
            if let Some(id) = find(&spelt[start..end]) {
                out.push(id);
                continue;
            }
            let byte = |byte: u8| find(&format!("<0x{byte:02X}>")).or(self.unknown);
            out.extend(spelt[start..end].bytes().filter_map(byte));
        }
    }
}
