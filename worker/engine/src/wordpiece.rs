//! WordPiece vocabularies (`tokenizer.ggml.model` is `bert`): of BERT and its offspring (Schuster and Nakajima, 2012).
//!
//! ```text
//! "Café!" -> cleaned, accents stripped, lower case -> words and single punctuation -> the longest pieces, from the left
//!                                                     "cafe" "!"                       a word that cannot be spelt is [UNK]
//! ```
//!
//! Files spell the beginning of a word with U+2581 before it and its continuation bare, the other way around than BERT's own
//! `##`, which the library's model expects.

use crate::spm::SPACE;
use crate::tokenizer::{Library, TokenizerError};
use crate::vocabulary::{TokenKind, Vocabulary};
use tokenizers::TokenizerImpl;
use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;

const CONTINUES: &str = "##";

/// Finds the tokens around a text where the file does not name them, and builds the tokenizer.
pub(crate) fn wordpiece(vocabulary: &mut Vocabulary) -> Result<Library, TokenizerError> {
    let spelt = |spelling: &str| -> Result<u32, TokenizerError> {
        let found = (0u32..).zip(&vocabulary.tokens).find(|(_, token)| *token == spelling);
        found.map(|(id, _)| id).ok_or_else(|| TokenizerError::Malformed {
            reason: format!("there is no token `{spelling}`, which WordPiece needs"),
        })
    };
    let unknown = "[UNK]";
    spelt(unknown)?;
    let begin = vocabulary.bos.map_or_else(|| spelt("[CLS]"), Ok)?;
    let end = vocabulary.separator.map_or_else(|| spelt("[SEP]"), Ok)?;
    let vocab: Vocab = (0u32..)
        .zip(&vocabulary.tokens)
        .map(|(id, token)| {
            let token = match (vocabulary.kind(id), token.strip_prefix(SPACE)) {
                (TokenKind::Normal, Some(begins)) => begins.to_owned(),
                (TokenKind::Normal, None) => format!("{CONTINUES}{token}"),
                _ => token.clone(),
            };
            (token, id)
        })
        .collect();
    let model = WordPiece::builder()
        .vocab(vocab)
        .unk_token(unknown.to_owned())
        .continuing_subword_prefix(CONTINUES.to_owned())
        .build()
        .map_err(|error| TokenizerError::Malformed { reason: error.to_string() })?;
    let lowercase = vocabulary.lowercase.unwrap_or(true);
    let normalizer = BertNormalizer::new(true, true, vocabulary.strip_accents, lowercase);
    let mut library = TokenizerImpl::new(model.into());
    library
        .with_normalizer(Some(normalizer))
        .map_err(|error| TokenizerError::Malformed { reason: error.to_string() })?;
    library.with_pre_tokenizer(Some(BertPreTokenizer));
    (vocabulary.bos, vocabulary.separator) = (Some(begin), Some(end));
    Ok(library)
}
