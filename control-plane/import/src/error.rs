//! What can be wrong with files that shall become a model.

use ollamamax_gguf::GgufError;
use std::fmt;
use std::io;

/// A text of somebody else's, cut to what an error needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote(String);

/// Characters an error shows of a foreign text.
const SHOWN_CHARS: usize = 120;

impl Quote {
    /// Cuts a text.
    pub fn of(text: impl fmt::Display) -> Self {
        let text = text.to_string();
        let mut short: String = text.chars().take(SHOWN_CHARS).collect();
        if short.len() < text.len() {
            short.push('\u{2026}');
        }
        Self(short)
    }
}

impl fmt::Display for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Why no model comes out.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum ImportError {
    /// A file could not be read.
    #[error("cannot read {file}: {source}")]
    Read { file: Quote, source: io::Error },
    /// What was made could not be written.
    #[error("cannot write the model: {0}")]
    Write(#[source] io::Error),
    /// Whoever wanted it wants it no more.
    #[error("the conversion was given up")]
    GivenUp,
    /// A file that is needed is not among those there are.
    #[error("{file} is missing: {why}")]
    MissingFile { file: Quote, why: &'static str },
    /// More than is accepted.
    #[error("{file}: {what} is {found}, at most {limit} is accepted")]
    TooLarge { file: Quote, what: &'static str, found: u64, limit: u64 },
    /// A file that is no JSON, or of another shape.
    #[error("{file} cannot be read as JSON: {source}")]
    Json { file: Quote, source: serde_json::Error },
    /// A safetensors file that breaks its format.
    #[error("{file} is no sound safetensors file: {reason}")]
    Safetensors { file: Quote, reason: String },
    /// A GGUF that cannot be used.
    #[error("{0}")]
    Gguf(#[from] GgufError),
    /// A field of a file that is missing or of another kind.
    #[error("{file}: `{field}` is {found}, expected {expected}")]
    Field { file: &'static str, field: String, found: Quote, expected: &'static str },
    /// Something that other software may do, but this does not.
    #[error("{subject} {found} is not supported; {instead}")]
    Unsupported { subject: &'static str, found: Quote, instead: &'static str },
    /// A tensor that is needed.
    #[error("tensor {tensor} is missing: a {family} model of {layers} layers has one")]
    MissingTensor { tensor: Quote, family: &'static str, layers: u32 },
    /// A tensor nobody knows.
    #[error("tensor {tensor} has no place in a {family} model; its weights would be lost")]
    Unplaced { tensor: Quote, family: &'static str },
    /// A tensor of another shape than the configuration says.
    #[error("tensor {tensor} has the shape {found:?}, expected {expected:?} as `config.json` says")]
    Shape { tensor: Quote, found: Vec<u64>, expected: Vec<u64> },
    /// A tensor that appears in two files.
    #[error("tensor {tensor} is in {first} and in {second}")]
    Twice { tensor: Quote, first: Quote, second: Quote },
    /// Weights that are not floats.
    #[error("tensor {tensor} is of type {found}, expected F32, F16 or BF16")]
    Element { tensor: Quote, found: Quote },
    /// Weights that are no numbers.
    #[error("tensor {tensor} holds {found}, which is no number: the file is damaged")]
    NotFinite { tensor: Quote, found: f32 },
    /// Weights that F16 cannot hold.
    #[error("tensor {tensor} holds {found}, which F16 cannot: ask for `bf16`")]
    TooLargeForF16 { tensor: Quote, found: f32 },
    /// A model whose weights have lost precision before.
    #[error(
        "quantization is only supported for F16, BF16 and F32 models, and tensor {tensor} is {found}; \
         start from the model as it was before"
    )]
    Quantised { tensor: Quote, found: &'static str },
    /// An adapter for something else.
    #[error("the adapter does not fit the model: {reason}")]
    Adapter { reason: String },
    /// A name of no quantisation.
    #[error("unsupported quantization type {found} - supported types are {supported}")]
    UnknownQuantisation { found: Quote, supported: String },
}

impl ImportError {
    /// Whether the files are wrong, and not this machine.
    pub fn is_of_the_files(&self) -> bool {
        !matches!(self, Self::Read { .. } | Self::Write(_) | Self::GivenUp)
    }
}
