//! `tokenizer.json` becomes the vocabulary of a GGUF: spellings, kinds, merges or scores, roles.
//!
//! The embedding may have more rows than the tokenizer has tokens: those become unused ones. SentencePiece's scores are not in
//! the file, but its merges are, in the order of the scores: a token is worth minus the rank of the first merge that makes it.

use crate::checkpoint::Checkpoint;
use crate::error::{ImportError, Quote};
use crate::pre::{self, Kind};
use ollamamax_gguf::{Array, Strings, Value as Entry};
use ollamamax_proto::limits::GGUF_ARRAY_COUNT;
use serde_json::Value;
use std::collections::HashMap;

/// llama.cpp's numbers of kinds of tokens.
mod kinds {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

/// What llama.cpp gives tokens that no merge makes.
const NO_SCORE: f32 = -1000.0;

struct Token<'a> {
    spelling: &'a str,
    kind: i32,
}

impl Checkpoint {
    /// The entries of the vocabulary.
    pub(crate) fn vocabulary(&self) -> Result<Vec<(String, Entry)>, ImportError> {
        let kind = pre::kind(&self.tokenizer.value)?;
        let tokens = self.tokens(kind)?;
        let merges = self.merges()?;
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let mut all = vec![match kind {
            Kind::Bytes(_) => (key("model"), Entry::Str("gpt2".to_owned())),
            Kind::Pieces { .. } => (key("model"), Entry::Str("llama".to_owned())),
        }];
        match kind {
            Kind::Bytes(pre) => all.push((key("pre"), Entry::Str(pre.to_owned()))),
            Kind::Pieces { space_first } => {
                all.push((key("pre"), Entry::Str("default".to_owned())));
                all.push((key("add_space_prefix"), Entry::Bool(space_first)));
            }
        }
        let names: Vec<String> = (0..tokens.len()).map(|id| format!("[PAD{id}]")).collect();
        let spelling = |(id, token): (usize, &Option<Token<'_>>)| match token {
            // Spaces of tokens that are recognised as they stand are spaces.
            Some(token) if token.kind == kinds::USER_DEFINED => {
                token.spelling.replace('\u{2581}', " ")
            }
            Some(token) => token.spelling.to_owned(),
            None => names[id].clone(),
        };
        let spellings: Strings = tokens.iter().enumerate().map(spelling).collect();
        let by_spelling: HashMap<&str, u32> =
            (0u32..).zip(spellings.iter()).map(|(id, s)| (s, id)).collect();
        let roles = self.roles(tokens.len(), |spelt| by_spelling.get(spelt).copied())?;
        if let Kind::Pieces { .. } = kind {
            let scores = scores(&spellings, &merges);
            all.push((key("scores"), Entry::Array(Array::F32(scores))));
        } else {
            let spelt =
                merges.iter().map(|(left, right)| format!("{} {}", joined(left), joined(right)));
            all.push((key("merges"), Entry::Array(Array::Str(spelt.collect()))));
        }
        let kinds =
            tokens.iter().map(|token| token.as_ref().map_or(kinds::UNUSED, |token| token.kind));
        all.push((key("token_type"), Entry::Array(Array::I32(kinds.collect()))));
        all.push((key("tokens"), Entry::Array(Array::Str(spellings))));
        all.extend(roles);
        Ok(all)
    }

    /// The tokens by id, as many as the embedding has rows.
    fn tokens(&self, kind: Kind) -> Result<Vec<Option<Token<'_>>>, ImportError> {
        let json = &self.tokenizer;
        let model = json.needed("model", "an object", Value::as_object)?;
        let vocabulary = model.get("vocab").and_then(Value::as_object);
        let expected = "an object of tokens and numbers";
        let vocabulary =
            vocabulary.ok_or_else(|| json.wrong("model.vocab", "missing", expected))?;
        let unknown = model.get("unk_token").and_then(Value::as_str);
        let count = self.config.vocabulary as usize;
        let mut tokens: Vec<Option<Token<'_>>> =
            std::iter::repeat_with(|| None).take(count).collect();
        for (spelling, id) in vocabulary {
            let is_byte =
                || spelling.len() == 6 && spelling.starts_with("<0x") && spelling.ends_with('>');
            let kind = match kind {
                Kind::Pieces { .. } if Some(spelling.as_str()) == unknown => kinds::UNKNOWN,
                Kind::Pieces { .. } if is_byte() => kinds::BYTE,
                _ => kinds::NORMAL,
            };
            let slot = self.slot(&mut tokens, spelling, id)?;
            if let Some(other) = slot {
                let text = format!("{} and {}", Quote::of(other.spelling), Quote::of(spelling));
                return Err(json.wrong("model.vocab", text, "a number for each token"));
            }
            *slot = Some(Token { spelling, kind });
        }
        let added = json.optional("added_tokens", "a list", Value::as_array)?;
        for added in added.into_iter().flatten() {
            let spelling = added["content"].as_str();
            let spelling = spelling
                .ok_or_else(|| json.wrong("added_tokens", added, "objects with `content`"))?;
            let special = added["special"] == true || looks_special(spelling);
            let slot = self.slot(&mut tokens, spelling, &added["id"])?;
            let kind = match slot.as_ref().map(|token| token.kind) {
                Some(kinds::UNKNOWN) => kinds::UNKNOWN,
                _ if special => kinds::CONTROL,
                _ => kinds::USER_DEFINED,
            };
            *slot = Some(Token { spelling, kind });
        }
        Ok(tokens)
    }

    fn slot<'t, 'a>(
        &self,
        tokens: &'t mut [Option<Token<'a>>],
        spelling: &str,
        id: &Value,
    ) -> Result<&'t mut Option<Token<'a>>, ImportError> {
        let field = || format!("the number of {}", Quote::of(spelling));
        let expected =
            "a row of the embedding, which has as many as `vocab_size` of `config.json` says";
        let index = id.as_u64().and_then(|id| usize::try_from(id).ok());
        let slot = index.and_then(|index| tokens.get_mut(index));
        slot.ok_or_else(|| self.tokenizer.wrong(&field(), id, expected))
    }

    /// The merges by rank: pairs, or as older files have it texts with a space between.
    fn merges(&self) -> Result<Vec<(&str, &str)>, ImportError> {
        let json = &self.tokenizer;
        let list = json.value["model"].get("merges").and_then(Value::as_array);
        let expected = "a list of pairs";
        let list = list.ok_or_else(|| json.wrong("model.merges", "missing", expected))?;
        if list.len() as u64 > GGUF_ARRAY_COUNT {
            return Err(json.wrong("model.merges", list.len(), "fewer merges"));
        }
        let each = list.iter().map(|merge| {
            let taken = match merge {
                Value::String(text) => text.split_once(' '),
                Value::Array(pair) if pair.len() == 2 => pair[0].as_str().zip(pair[1].as_str()),
                _ => None,
            };
            taken.ok_or_else(|| json.wrong("model.merges", merge, expected))
        });
        each.collect()
    }
}

/// Some models mark tokens that steer them as if they were text (llama.cpp `does_token_look_special`).
fn looks_special(spelling: &str) -> bool {
    let within =
        |before: &str, after: &str| spelling.starts_with(before) && spelling.ends_with(after);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&spelling)
        || within("<|", "|>")
        || within("<\u{ff5c}", "\u{ff5c}>")
        || within("<unused", ">")
}

/// A space within half a merge is spelt as byte-level spellings do: it would look like the one between the halves.
fn joined(half: &str) -> String {
    half.replace(' ', "\u{120}")
}

fn scores(spellings: &Strings, merges: &[(&str, &str)]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry([*left, *right].concat()).or_insert(rank);
    }
    let score = |spelling: &str| ranks.get(spelling).map(|rank| -(*rank as f32) - 1.0);
    // No merge is worth less than a token that none makes.
    let least = -(merges.len() as f32) + NO_SCORE;
    spellings.iter().map(|spelling| score(spelling).unwrap_or(least)).collect()
}
