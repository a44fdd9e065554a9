//! Text to tokens and tokens to bytes, for byte-level BPE, SentencePiece and WordPiece vocabularies.
//!
//! ```text
//! text -> special tokens cut out -> words (pretokenizer) -> byte pairs merged -> ids
//!                                -> pieces merged by score (spm)               -> ids
//!                                -> words -> longest pieces (wordpiece)        -> ids
//! id   -> bytes -> detok
//! ```
//!
//! The behaviour to match is llama.cpp's: which tokens are recognised inside text depends on their
//! kind, and a model ends on any token of its family's end-of-generation spellings, not only on the
//! `eos` its file names.

use crate::bpe::Bpe;
use crate::pretokenizer;
use crate::spm::{SPACE, Spm};
use crate::vocabulary::{TokenKind, Vocabulary};
use crate::wordpiece::WordPiece;
use ollamamax_gguf::Strings;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Spellings that end a generation in some family (llama.cpp `special_eog_ids`).
const ENDS: [&str; 19] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "<|endofturn|>",
    // In a gap, what comes next is another file.
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

/// Why no tokenizer can be built, or a text not be tokenised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// Another algorithm than these.
    #[error(
        "tokenizer model `{model}` is not supported, only `gpt2` (byte-level BPE), `llama` \
         (SentencePiece) and `bert` (WordPiece) are; convert the model with such a tokenizer or use \
         another one"
    )]
    Model {
        /// `tokenizer.ggml.model`.
        model: String,
    },
    /// A pre-tokenizer nobody taught this engine.
    #[error(
        "pre-tokenizer `{pre}` is not known; another one would give wrong tokens, so the model is \
         refused"
    )]
    PreTokenizer {
        /// `tokenizer.ggml.pre`.
        pre: String,
    },
    /// The vocabulary contradicts itself.
    #[error("the vocabulary is malformed: {reason}")]
    Malformed {
        /// What is wrong, with the entry's number.
        reason: String,
    },
    /// The text could not be cut into words.
    #[error("the text cannot be tokenised: {reason}")]
    Text {
        /// What the tokenizer said.
        reason: String,
    },
}

/// What joins characters to tokens.
enum Algorithm {
    Bpe(Box<Bpe>),
    Spm(Spm),
    WordPiece(WordPiece),
}

/// A model's tokenizer.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    algorithm: Algorithm,
    /// Tokens recognised as a whole inside text, by first byte, the longest spelling first.
    specials: BTreeMap<u8, Vec<u32>>,
    bytes: TokenBytes,
    ends: BTreeSet<u32>,
    add_bos: bool,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("model", &self.vocabulary.model)
            .field("pre", &self.vocabulary.pre)
            .field("tokens", &self.vocabulary.tokens.len())
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Builds the tokenizer of a vocabulary.
    pub fn new(mut vocabulary: Vocabulary) -> Result<Self, TokenizerError> {
        let Vocabulary { bos, eos, eot, eom, separator, .. } = vocabulary;
        let Vocabulary { fim_prefix, fim_suffix, fim_middle, .. } = vocabulary;
        let roles = [bos, eos, eot, eom, separator, fim_prefix, fim_suffix, fim_middle];
        if let Some(id) = roles.into_iter().flatten().find(|&id| vocabulary.spelling(id).is_none())
        {
            let count = vocabulary.tokens.len();
            let reason = format!("special token `{id}` is outside the vocabulary of {count}");
            return Err(TokenizerError::Malformed { reason });
        }
        let (algorithm, family_adds_bos) = match vocabulary.model.as_str() {
            "gpt2" => {
                let pre = || TokenizerError::PreTokenizer { pre: vocabulary.pre.clone() };
                let rule = pretokenizer::rule(&vocabulary.pre).ok_or_else(pre)?;
                let add_bos = rule.add_bos;
                (Algorithm::Bpe(Box::new(Bpe::new(&vocabulary, rule)?)), add_bos)
            }
            "bert" => (Algorithm::WordPiece(WordPiece::new(&mut vocabulary)?), true),
            "llama" => (Algorithm::Spm(Spm::new(&vocabulary)), true),
            _ => return Err(TokenizerError::Model { model: vocabulary.model }),
        };
        let add_bos = vocabulary.add_bos.unwrap_or(family_adds_bos);
        let ends = ends(&vocabulary);
        let bytes = token_bytes(&vocabulary, &ends);
        // The merges live on in the algorithm; as texts they are megabytes that nobody reads again.
        vocabulary.merges = Strings::new();
        Ok(Self {
            algorithm,
            specials: specials(&vocabulary, &ends),
            bytes,
            ends,
            add_bos,
            vocabulary,
        })
    }

    /// The tokens of a text, without `bos`. With `parse_special` control tokens spelt in the text
    /// are recognised, as a rendered chat needs it; user-defined ones always are.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        let (mut plain, mut position) = (0, 0);
        while position < text.len() {
            let Some(special) = self.special_at(&text[position..], parse_special) else {
                position += text[position..].chars().next().map_or(1, char::len_utf8);
                continue;
            };
            self.encode_plain(&text[plain..position], &mut ids)?;
            ids.push(special);
            position += self.vocabulary.tokens[special as usize].len();
            plain = position;
        }
        self.encode_plain(&text[plain..], &mut ids)?;
        Ok(ids)
    }

    /// The tokens of a text, or more than `room` of its first ones: nobody has to tokenise a book to embed its first page. That
    /// goes with WordPiece, whose words do not see each other across a space; others take the whole text.
    pub fn encode_beginning(&self, text: &str, room: usize) -> Result<Vec<u32>, TokenizerError> {
        /// Characters tokenised at once, and what remains of the last word.
        const PART_CHARS: usize = 8_192;
        if self.vocabulary.model != "bert" {
            return self.encode(text, true);
        }
        let (mut ids, mut rest) = (Vec::new(), text);
        while !rest.is_empty() && ids.len() <= room {
            let space = rest.char_indices().skip(PART_CHARS).find(|(_, c)| " \n\r\t".contains(*c));
            let (part, after) = rest.split_at(space.map_or(rest.len(), |(at, _)| at));
            ids.extend(self.encode(part, true)?);
            rest = after;
        }
        Ok(ids)
    }

    /// What a token adds to the output; nothing for control tokens and ids outside the vocabulary.
    pub fn bytes(&self, token: u32) -> &[u8] {
        self.bytes.get(token)
    }

    /// What a token is called where it stands for itself: its bytes, or the spelling of one that is never part of a text.
    pub fn shown(&self, token: u32) -> &[u8] {
        match self.bytes(token) {
            [] => self.vocabulary.spelling(token).unwrap_or_default().as_bytes(),
            bytes => bytes,
        }
    }

    /// The token of that spelling, where it is none that is part of a text by itself.
    pub fn control(&self, spelling: &str) -> Option<u32> {
        let candidates = self.specials.get(spelling.as_bytes().first()?)?.iter().copied();
        let mut hidden = candidates.filter(|&token| self.bytes(token).is_empty());
        hidden.find(|&token| self.vocabulary.spelling(token) == Some(spelling))
    }

    /// Whether a generation ends with this token.
    pub fn is_end(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// The token every prompt begins with, when the model wants one.
    pub fn prompt_bos(&self) -> Option<u32> {
        if self.add_bos { self.vocabulary.bos } else { None }
    }

    /// The token a text to embed ends with, when the model wants one.
    pub fn closing(&self) -> Option<u32> {
        let Vocabulary { model, separator, eos, add_eos, .. } = &self.vocabulary;
        match model.as_str() {
            "bert" => *separator,
            _ => eos.filter(|_| *add_eos == Some(true)),
        }
    }

    /// What it was built from, without the merges.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    fn special_at(&self, text: &str, parse_special: bool) -> Option<u32> {
        let candidates = self.specials.get(text.as_bytes().first()?)?;
        candidates.iter().copied().find(|&id| {
            let recognised = parse_special || self.vocabulary.kind(id) == TokenKind::UserDefined;
            recognised && text.starts_with(&self.vocabulary.tokens[id as usize])
        })
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if text.is_empty() {
            return Ok(());
        }
        match &self.algorithm {
            Algorithm::Bpe(bpe) => bpe.encode(&self.vocabulary, text, ids),
            Algorithm::Spm(spm) => {
                spm.encode(&self.vocabulary, text, ids);
                Ok(())
            }
            Algorithm::WordPiece(words) => words.encode(&self.vocabulary, text, ids),
        }
    }
}

fn ends(vocabulary: &Vocabulary) -> BTreeSet<u32> {
    let named = [vocabulary.eos, vocabulary.eot, vocabulary.eom].into_iter().flatten();
    let spelt = (0u32..)
        .zip(vocabulary.tokens.iter())
        .filter(|(_, spelling)| ENDS.contains(spelling))
        .map(|(id, _)| id);
    named.chain(spelt).collect()
}

fn specials(vocabulary: &Vocabulary, ends: &BTreeSet<u32>) -> BTreeMap<u8, Vec<u32>> {
    let mut specials = BTreeMap::<u8, Vec<u32>>::new();
    for (id, spelling) in (0u32..).zip(vocabulary.tokens.iter()) {
        let kind = vocabulary.kind(id);
        let special =
            matches!(kind, TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown)
                || ends.contains(&id);
        if let (true, Some(&first)) = (special, spelling.as_bytes().first()) {
            specials.entry(first).or_default().push(id);
        }
    }
    for ids in specials.values_mut() {
        ids.sort_by_key(|&id| std::cmp::Reverse(vocabulary.tokens[id as usize].len()));
    }
    specials
}

/// Bytes of each token, end to end; none for those that are never shown.
#[derive(Default)]
struct TokenBytes {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl TokenBytes {
    fn push(&mut self, token: &[u8]) {
        self.bytes.extend_from_slice(token);
        self.ends.push(self.bytes.len());
    }

    fn get(&self, token: u32) -> &[u8] {
        let token = token as usize;
        let start = token.checked_sub(1).and_then(|before| self.ends.get(before)).unwrap_or(&0);
        self.ends.get(token).map_or(&[], |end| &self.bytes[*start..*end])
    }
}

fn token_bytes(vocabulary: &Vocabulary, ends: &BTreeSet<u32>) -> TokenBytes {
    let alphabet = byte_alphabet();
    let bytes = |(id, spelling): (u32, &str)| match vocabulary.kind(id) {
        _ if ends.contains(&id) => Vec::new(),
        TokenKind::Control | TokenKind::Unknown | TokenKind::Unused => Vec::new(),
        TokenKind::UserDefined => spelling.as_bytes().to_vec(),
        TokenKind::Byte => hex_byte(spelling).map_or_else(Vec::new, |byte| vec![byte]),
        TokenKind::Normal if matches!(vocabulary.model.as_str(), "llama" | "bert") => {
            spelling.replace(SPACE, " ").into_bytes()
        }
        TokenKind::Normal => {
            let mut bytes = Vec::with_capacity(spelling.len());
            for character in spelling.chars() {
                match alphabet.get(&character) {
                    Some(&byte) => bytes.push(byte),
                    None => bytes.extend(character.to_string().as_bytes()),
                }
            }
            bytes
        }
    };
    let mut all = TokenBytes::default();
    (0u32..).zip(vocabulary.tokens.iter()).for_each(|token| all.push(&bytes(token)));
    all
}

fn hex_byte(spelling: &str) -> Option<u8> {
    let digits = spelling.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok()
}

/// The byte each character of a byte-level spelling stands for: printable Latin-1 for itself, the
/// other 68 bytes moved up from U+0100 (GPT-2 `bytes_to_unicode`).
fn byte_alphabet() -> HashMap<char, u8> {
    let mut moved = 0x100u32;
    let mut alphabet = HashMap::new();
    for byte in 0..=u8::MAX {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let character = if printable {
            char::from(byte)
        } else {
            moved += 1;
            char::from_u32(moved - 1).expect("U+0100 to U+0143 are characters")
        };
        alphabet.insert(character, byte);
    }
    alphabet
}
