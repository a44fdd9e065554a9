//! Byte-level byte-pair encoding (Sennrich et al., 2016, over bytes as GPT-2 has it): a word's bytes are tokens of their own
//! at first, and neighbours merge by the rank of their pair.

use crate::ids::Ids;
use crate::merging::merge;
use crate::pretokenizer::Rule;
use crate::tokenizer::TokenizerError;
use crate::vocabulary::Vocabulary;
use std::cmp::Reverse;
use std::collections::HashMap;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

/// Characters that stand for a byte lie below this: printable Latin-1, and 68 moved up from U+0100.
const ALPHABET: usize = 0x144;

/// The merger.
pub(crate) struct Bpe {
    rule: Rule,
    /// The token of each character that stands for a byte.
    bytes: Box<[Option<u32>; ALPHABET]>,
    /// Rank and result of each pair that merges.
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// For families in which a word that is a token stays whole.
    words: Option<Ids>,
}

impl Bpe {
    /// From a vocabulary and its merges; a merge that does not join two tokens into one is an error.
    pub fn new(vocabulary: &Vocabulary, rule: Rule) -> Result<Self, TokenizerError> {
        let ids = Ids::new(&vocabulary.tokens);
        let find = |spelling: &str| ids.find(&vocabulary.tokens, spelling);
        let mut merges = HashMap::with_capacity(vocabulary.merges.len());
        for (rank, merge) in (0u32..).zip(vocabulary.merges.iter()) {
            // A spelling may hold a space only where it is the first character, as llama.cpp splits them.
            let space = merge.char_indices().skip(1).find(|(_, character)| *character == ' ');
            let joined = space.and_then(|(at, _)| {
                let (left, right) = (&merge[..at], &merge[at + 1..]);
                Some(((find(left)?, find(right)?), find(&[left, right].concat())?))
            });
            let Some((pair, merged)) = joined else {
                let reason =
                    format!("merge `{rank}` (`{merge}`) does not join two tokens into one");
                return Err(TokenizerError::Malformed { reason });
            };
            merges.insert(pair, (rank, merged));
        }
        let character = |code: usize| find(char::from_u32(code as u32)?.encode_utf8(&mut [0; 4]));
        let bytes = Box::new(std::array::from_fn(character));
        let words = rule.ignore_merges.then_some(ids);
        Ok(Self { rule, bytes, merges, words })
    }

    /// Appends the tokens of a text. A byte that the vocabulary cannot spell is left out.
    pub fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let mut cut = PreTokenizedString::from(text);
        self.rule
            .pre_tokenizer
            .pre_tokenize(&mut cut)
            .map_err(|error| TokenizerError::Text { reason: error.to_string() })?;
        for (word, _, _) in cut.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            let whole = self.words.as_ref().and_then(|ids| ids.find(&vocabulary.tokens, word));
            if whole.is_some() {
                out.extend(whole);
                continue;
            }
            let byte = |character| *self.bytes.get(character as usize)?;
            let join = |left, right| {
                let (rank, merged) = *self.merges.get(&(left, right))?;
                Some((Reverse(rank), merged))
            };
            out.extend(merge(word.chars().filter_map(byte), join));
        }
        Ok(())
    }
}
