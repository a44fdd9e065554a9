//! What can be wrong with a GGUF: a place and a fault.

use crate::value::ValueType;

/// A file that cannot be used: where it was noticed and why.
#[derive(Debug, thiserror::Error)]
#[error("gguf, byte {offset}: {fault}")]
pub struct GgufError {
    /// Byte of the file at which the faulty field starts.
    pub offset: u64,
    /// What is wrong there.
    pub fault: Fault,
}

impl GgufError {
    /// A fault at a byte of the file.
    pub fn new(offset: u64, fault: Fault) -> Self {
        Self { offset, fault }
    }
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file does not begin with `GGUF`.
    #[error("not a GGUF file: it starts with {found:02x?} instead of `GGUF`")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A version other than 2 and 3.
    #[error("version {found} is not supported, expected 2 or 3{}", big_endian_hint(*found))]
    Version {
        /// The version field.
        found: u32,
    },
    /// The file ends inside a field.
    #[error(
        "the file ends here: {what} needs {needed} bytes, {remaining} remain; is it truncated?"
    )]
    Truncated {
        /// The field.
        what: &'static str,
        /// Bytes it needs at least.
        needed: u64,
        /// Bytes left in the file.
        remaining: u64,
    },
    /// A count or length above its limit.
    #[error("{what} is {found}, more than the limit of {limit}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// The value in the file.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A string that is not UTF-8.
    #[error("{what} is not valid UTF-8")]
    Utf8 {
        /// Which string.
        what: &'static str,
    },
    /// A metadata value of a type that does not exist.
    #[error("metadata `{key}` has the unknown value type {found}")]
    ValueType {
        /// The entry.
        key: String,
        /// The type field.
        found: u32,
    },
    /// An array of arrays: no model uses one, and nesting is a way to exhaust a stack.
    #[error("metadata `{key}` is an array of arrays, which is not supported")]
    Nested {
        /// The entry.
        key: String,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("a boolean has the value {found}, expected 0 or 1")]
    Bool {
        /// The byte.
        found: u8,
    },
    /// A key or tensor name that came before.
    #[error("{what} `{name}` appears twice")]
    Duplicate {
        /// `metadata` or `tensor`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// An alignment that is not a power of two from 8 to 1 MiB.
    #[error("general.alignment is {found}, expected a power of two from 8 to 1048576")]
    Alignment {
        /// The value.
        found: u64,
    },
    /// A tensor of a type that does not exist.
    #[error("tensor `{tensor}` has the unknown type {found}")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The type field.
        found: u32,
    },
    /// A tensor whose dimensions make no sense.
    #[error("tensor `{tensor}` has the dimensions {dims:?}: {reason}")]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// The dimensions, fastest first.
        dims: Vec<u64>,
        /// What they break.
        reason: &'static str,
    },
    /// A tensor that does not start on the file's alignment.
    #[error(
        "tensor `{tensor}` starts at offset {found} of the data, not a multiple of {alignment}"
    )]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Its offset from the start of the data.
        found: u64,
        /// The alignment.
        alignment: u64,
    },
    /// A tensor that reaches past the end of the file.
    #[error(
        "tensor `{tensor}` lies at {start} with {bytes} bytes, the file has {file}; is it truncated?"
    )]
    OutOfFile {
        /// The tensor.
        tensor: String,
        /// Its first byte in the file.
        start: u64,
        /// Its bytes.
        bytes: u64,
        /// Bytes of the file.
        file: u64,
    },
    /// Two tensors that share bytes.
    #[error("tensors `{first}` and `{second}` overlap")]
    Overlap {
        /// The one that starts first.
        first: String,
        /// The one that starts inside it.
        second: String,
    },
    /// A metadata entry that is needed and missing.
    #[error("metadata `{key}` is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A metadata entry of another type than needed.
    #[error("metadata `{key}` is {found}, expected {expected}")]
    Type {
        /// The key.
        key: String,
        /// What is needed.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A metadata value that contradicts the file or makes no sense.
    #[error("metadata `{key}` is {found}: {reason}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        found: u64,
        /// What it breaks.
        reason: &'static str,
    },
    /// A tensor that is needed and missing.
    #[error("tensor `{tensor}` is missing")]
    MissingTensor {
        /// The tensor.
        tensor: String,
    },
    /// The file could not be read.
    #[error("reading failed: {0}")]
    Io(#[source] std::io::Error),
}

impl Fault {
    pub(crate) fn wrong_type(key: &str, expected: &'static str, found: ValueType) -> Self {
        Self::Type { key: key.to_owned(), expected, found: found.name().to_owned() }
    }
}

fn big_endian_hint(version: u32) -> &'static str {
    match version.swap_bytes() {
        1..=3 => " (the file is big-endian: convert it to little-endian)",
        _ => "",
    }
}
