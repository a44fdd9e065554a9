//! Texts with a gap: by a template that has a place for what follows the gap, or by the tokens a model was taught for it.
//!
//! ```text
//! most families:  <prefix> before <suffix> after <middle>
//! Mistral's:      [SUFFIX] after [PREFIX] before
//! ```

use super::{PrepareError, Room, TextModel};
use crate::vocabulary::Vocabulary;
use ollamamax_proto::inference::Insert;
use ollamamax_template::ChatTemplate;

/// How the families spell prefix, suffix and middle (llama.cpp `special_fim_*`, and Mistral's, which have no middle).
const SPELLINGS: [[&str; 3]; 8] = [
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    [
        "<\u{ff5c}fim\u{2581}begin\u{ff5c}>",
        "<\u{ff5c}fim\u{2581}hole\u{ff5c}>",
        "<\u{ff5c}fim\u{2581}end\u{ff5c}>",
    ],
    ["\u{2581}<PRE>", "\u{2581}<SUF>", "\u{2581}<MID>"],
    ["<PRE>", "<SUF>", "<MID>"],
    ["<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"],
    ["[PREFIX]", "[SUFFIX]", ""],
];
/// Tries to cut a text with a gap until it fits: cut texts are joined to other tokens at their edges.
const TRIES: usize = 8;

/// The tokens a model was taught for a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GapTokens {
    prefix: u32,
    suffix: u32,
    /// Without it, what follows the gap comes first.
    middle: Option<u32>,
}

impl GapTokens {
    /// Those that the file names, or else those of a known family.
    pub fn of(vocabulary: &Vocabulary) -> Option<Self> {
        if let (Some(prefix), Some(suffix)) = (vocabulary.fim_prefix, vocabulary.fim_suffix) {
            return Some(Self { prefix, suffix, middle: vocabulary.fim_middle });
        }
        let mut found = [[None; 3]; SPELLINGS.len()];
        for (id, spelling) in (0u32..).zip(vocabulary.tokens.iter()) {
            for (family, spellings) in found.iter_mut().zip(&SPELLINGS) {
                if let Some(role) = spellings.iter().position(|known| *known == spelling) {
                    family[role] = family[role].or(Some(id));
                }
            }
        }
        let complete = |(family, spellings): (&[Option<u32>; 3], &[&str; 3])| match *family {
            [Some(prefix), Some(suffix), middle] if middle.is_some() || spellings[2].is_empty() => {
                Some(Self { prefix, suffix, middle })
            }
            _ => None,
        };
        found.iter().zip(&SPELLINGS).find_map(complete)
    }

    fn around(self, before: &[u32], after: &[u32]) -> Vec<u32> {
        match self.middle {
            Some(middle) => [&[self.prefix], before, &[self.suffix], after, &[middle]].concat(),
            None => [&[self.suffix], after, &[self.prefix], before].concat(),
        }
    }
}

impl TextModel {
    /// The prompt for a text with a gap. One that does not fit loses what is farthest from the gap.
    pub(super) fn insert(&self, insert: &Insert, room: Room) -> Result<Vec<u32>, PrepareError> {
        let own = insert.template.as_deref().map(ChatTemplate::new).transpose()?;
        let template = own.as_ref().unwrap_or(&self.template);
        let render = |before: &str, after: &str| -> Result<Vec<u32>, PrepareError> {
            if let Some(text) = template.insert(before, after)? {
                return Ok(self.with_bos(self.tokenizer.encode(&text, true)?));
            }
            let tokens = self.gap.ok_or(PrepareError::Insert)?;
            let encode = |text| self.tokenizer.encode(text, false);
            Ok(self.with_bos(tokens.around(&encode(before)?, &encode(after)?)))
        };
        let whole = render(&insert.before, &insert.after)?;
        if room.fits(whole.len()) || !room.truncate {
            return Ok(whole);
        }
        let before = self.tokenizer.encode(&insert.before, false)?;
        let after = self.tokenizer.encode(&insert.after, false)?;
        let around = whole.len().saturating_sub(before.len() + after.len());
        let mut left = room.target.saturating_sub(around);
        for _ in 0..TRIES {
            let (newest, oldest) = shares(before.len(), after.len(), left);
            let bytes = |tokens: &[u32]| -> usize {
                tokens.iter().map(|&token| self.tokenizer.bytes(token).len()).sum()
            };
            let tail = tail(&insert.before, bytes(&before[before.len() - newest..]));
            let head = head(&insert.after, bytes(&after[..oldest]));
            let tokens = render(tail, head)?;
            if tokens.len() <= room.target {
                return Ok(tokens);
            }
            left = left.saturating_sub(tokens.len() - room.target);
        }
        Ok(whole)
    }
}

/// How many tokens before and after the gap are kept: a quarter of the room is for what follows it, more where less stands
/// before, and never nothing, for without it there would be no gap.
fn shares(before: usize, after: usize, room: usize) -> (usize, usize) {
    let following = after.min((room / 4).max(room.saturating_sub(before)).max(1));
    (before.min(room.saturating_sub(following)), following)
}

/// The last bytes of a text, in whole characters.
fn tail(text: &str, bytes: usize) -> &str {
    let mut start = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// The first bytes of a text, in whole characters and at least one.
fn head(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let first = text.chars().next().map_or(0, char::len_utf8);
    &text[..end.max(first)]
}
