//! The vocabulary as a GGUF's metadata describes it (`tokenizer.ggml.*`), before anything is built
//! from it.

use ollamamax_gguf::{Gguf, GgufError, Strings};

/// What a token is, as `tokenizer.ggml.token_type` numbers it (llama.cpp `llama_token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Text.
    Normal,
    /// Stands for what the vocabulary cannot spell.
    Unknown,
    /// Steers the model, is never shown, and is recognised only where special tokens are.
    Control,
    /// Recognised everywhere, and shown as it is.
    UserDefined,
    /// Reserved.
    Unused,
    /// One raw byte, spelt `<0xNN>`.
    Byte,
}

impl TokenKind {
    /// By its number in the file; a number nobody defined reads as text.
    pub fn from_number(number: i64) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// Tokens, merges and the roles some tokens play.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vocabulary {
    /// The algorithm: `gpt2` is byte-level BPE, `llama` SentencePiece with scores, `bert` WordPiece.
    pub model: String,
    /// The pre-tokenizer, such as `smollm`; `default` when the file has none.
    pub pre: String,
    /// Spelling of each token, by id.
    pub tokens: Strings,
    /// Kind of each token, by id; shorter than `tokens` when the file says nothing.
    pub kinds: Vec<TokenKind>,
    /// Pairs that merge, by rank, the two spellings separated by a space.
    pub merges: Strings,
    /// How gladly each token is merged into, by id; for SentencePiece.
    pub scores: Vec<f32>,
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Ends a turn.
    pub eot: Option<u32>,
    /// Ends a message.
    pub eom: Option<u32>,
    /// Ends a text of WordPiece.
    pub separator: Option<u32>,
    /// Begins what stands before a gap, as the file names it.
    pub fim_prefix: Option<u32>,
    /// Begins what stands after a gap.
    pub fim_suffix: Option<u32>,
    /// Begins what belongs into a gap.
    pub fim_middle: Option<u32>,
    /// Whether a prompt begins with `bos`; `None`: as the pre-tokenizer's family does.
    pub add_bos: Option<bool>,
    /// Whether a text to embed ends with `eos`; `None`: it does not.
    pub add_eos: Option<bool>,
    /// Whether WordPiece makes a text lower case; `None`: it does.
    pub lowercase: Option<bool>,
    /// Whether WordPiece drops accents; `None`: if it makes a text lower case.
    pub strip_accents: Option<bool>,
    /// Whether SentencePiece puts a space before a text; `None`: it does.
    pub add_space_prefix: Option<bool>,
}

impl Vocabulary {
    /// Reads a file's metadata; keys it does not have stay empty, keys of a wrong type are an
    /// error.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, GgufError> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let id = |name: &str| gguf.optional(&key(&format!("{name}_token_id")), Gguf::get_u32);
        let pre = gguf.optional(&key("pre"), Gguf::get_str)?;
        let kinds = gguf.optional(&key("token_type"), Gguf::get_array_i32)?;
        let merges = gguf.optional(&key("merges"), Gguf::get_array_str)?;
        let scores = gguf.optional(&key("scores"), Gguf::get_array_f32)?;
        Ok(Self {
            model: gguf.get_str(&key("model"))?.to_owned(),
            pre: pre.unwrap_or("default").to_owned(),
            tokens: gguf.get_array_str(&key("tokens"))?.clone(),
            kinds: kinds
                .unwrap_or_default()
                .iter()
                .map(|&number| TokenKind::from_number(number.into()))
                .collect(),
            merges: merges.cloned().unwrap_or_default(),
            scores: scores.unwrap_or_default().to_vec(),
            bos: id("bos")?.or(id("cls")?),
            eos: id("eos")?,
            eot: id("eot")?,
            eom: id("eom")?,
            // So it is spelt in files.
            separator: id("seperator")?,
            // The second ones are older.
            fim_prefix: id("fim_pre")?.or(id("prefix")?),
            fim_suffix: id("fim_suf")?.or(id("suffix")?),
            fim_middle: id("fim_mid")?.or(id("middle")?),
            add_eos: gguf.optional(&key("add_eos_token"), Gguf::get_bool)?,
            lowercase: gguf.optional(&key("normalizer.lowercase"), Gguf::get_bool)?,
            strip_accents: gguf.optional(&key("normalizer.strip_accents"), Gguf::get_bool)?,
            add_bos: gguf.optional(&key("add_bos_token"), Gguf::get_bool)?,
            add_space_prefix: gguf.optional(&key("add_space_prefix"), Gguf::get_bool)?,
        })
    }

    /// The kind of a token; text when the file says nothing.
    pub fn kind(&self, id: u32) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Normal)
    }

    /// The spelling of a token, when there is such a token.
    pub fn spelling(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize)
    }
}
