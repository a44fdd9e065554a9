//! WordPiece vocabularies (`tokenizer.ggml.model` is `bert`): of BERT and its offspring (Schuster and Nakajima, 2012).
//!
//! ```text
//! "Café!" -> cleaned, accents stripped, lower case -> words and single punctuation -> the longest pieces, from the left
//!                                                     "cafe" "!"                       a word that cannot be spelt is [UNK]
//! ```
//!
//! What is a word is decided by the library that these models were trained with. Files spell the beginning of a word with
//! U+2581 before it and its continuation bare, where BERT's own lists of words have `##` before a continuation.

use crate::ids::Ids;
use crate::spm::SPACE;
use crate::tokenizer::TokenizerError;
use crate::vocabulary::Vocabulary;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

/// Characters of the longest word that is looked at; the library's own bound.
const WORD_CHARS: usize = 100;

/// The cutter.
pub(crate) struct WordPiece {
    ids: Ids,
    unknown: u32,
    normalizer: BertNormalizer,
    /// Bytes of the longest piece.
    longest: usize,
}

impl WordPiece {
    /// From a vocabulary, in which the tokens around a text are noted where the file does not name them.
    pub fn new(vocabulary: &mut Vocabulary) -> Result<Self, TokenizerError> {
        let ids = Ids::new(&vocabulary.tokens);
        let spelt = |spelling: &str| {
            ids.find(&vocabulary.tokens, spelling).ok_or_else(|| TokenizerError::Malformed {
                reason: format!("there is no token `{spelling}`, which WordPiece needs"),
            })
        };
        let unknown = spelt("[UNK]")?;
        let begin = vocabulary.bos.map_or_else(|| spelt("[CLS]"), Ok)?;
        let end = vocabulary.separator.map_or_else(|| spelt("[SEP]"), Ok)?;
        (vocabulary.bos, vocabulary.separator) = (Some(begin), Some(end));
        let lowercase = vocabulary.lowercase.unwrap_or(true);
        let normalizer = BertNormalizer::new(true, true, vocabulary.strip_accents, lowercase);
        let longest = vocabulary.tokens.iter().map(str::len).max().unwrap_or_default();
        Ok(Self { ids, unknown, normalizer, longest })
    }

    /// Appends the tokens of a text.
    pub fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let mut cut = PreTokenizedString::from(text);
        cut.normalize(|part| self.normalizer.normalize(part))
            .and_then(|()| BertPreTokenizer.pre_tokenize(&mut cut))
            .map_err(|error| TokenizerError::Text { reason: error.to_string() })?;
        for (word, _, _) in cut.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            let before = out.len();
            if word.chars().count() > WORD_CHARS || !self.spell(vocabulary, word, out) {
                out.truncate(before);
                out.push(self.unknown);
            }
        }
        Ok(())
    }

    /// Appends the pieces of a word; false when there is no piece for a part of it.
    fn spell(&self, vocabulary: &Vocabulary, word: &str, out: &mut Vec<u32>) -> bool {
        let spelt = [SPACE, word].concat();
        // The mark is not a piece by itself: a word begins with its first letter.
        let (mut start, mut shortest) = (0, SPACE.len() + 1);
        while start < spelt.len() {
            let ends = (start + shortest..=spelt.len().min(start + self.longest)).rev();
            let mut pieces = ends.filter_map(|end| Some((end, spelt.get(start..end)?)));
            let found = pieces
                .find_map(|(end, piece)| Some((end, self.ids.find(&vocabulary.tokens, piece)?)));
            let Some((end, id)) = found else { return false };
            out.push(id);
            (start, shortest) = (end, 1);
        }
        true
    }
}
