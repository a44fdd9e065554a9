//! GGUF, the file format models come in: a header of typed metadata and tensor descriptions, then aligned tensor data.
//!
//! ```text
//! "GGUF" version tensors entries | entry* | tensor description* | padding | tensor data ...
//!        `---------- header, read by Gguf::parse / Gguf::read ----------'   untouched here
//! ```
//!
//! A file may come from anybody. Every length is held against a limit and against the bytes that remain before anything is
//! allocated for it, and every error names the byte it was found at. Format: the ggml project's `docs/gguf.md`, versions
//! 2 and 3, little-endian.

#![forbid(unsafe_code)]

mod error;
mod facts;
mod get;
mod kind;
mod parse;
mod source;
mod strings;
mod value;
mod writer;

pub use error::{Fault, GgufError};
pub use facts::{KV_ELEMENT_BYTES, model_facts};
pub use kind::GgmlType;
pub use parse::{Entry, Gguf, TensorInfo};
pub use strings::Strings;
pub use value::{Array, Value, ValueType};
pub use writer::GgufWriter;
