//! Other people's weights become a GGUF: checkpoints as they are published (safetensors, `config.json`, `tokenizer.json`),
//! models that are there already, adapters merged into either, and all of it quantised on the way.
//!
//! ```text
//! Checkpoint (safetensors, config, tokenizer) --+                       +-- Adapter (PEFT, GGUF)
//!                                               +--> Model: metadata, --+--> write: rows read, put in order,
//! Base (a GGUF of F32, F16 or BF16) ------------+    where rows lie          adapters added, quantised, in file order
//! ```
//!
//! A [`Model`] knows where each row lies and what becomes of it, and holds no weights: [`Model::write`] goes through them once,
//! some rows of one tensor at a time on each thread, so that memory does not depend on the model's size. Files may come from
//! anybody: every number is held against limits and against the bytes there are before it is believed.
//!
//! Names, permutations and the mixes of types are those of llama.cpp (`convert_hf_to_gguf.py`, `llama-quant.cpp`), so that what
//! is written here is what its tools would have written.

#![forbid(unsafe_code)]

mod adapter;
mod bytes;
mod checkpoint;
mod config;
mod error;
mod family;
mod json;
mod levels;
mod mix;
mod model;
mod pre;
mod rope;
mod rows;
mod safetensors;
mod special;
mod vocabulary;
mod write;

pub use adapter::Adapter;
pub use bytes::{OnDisk, ReadAt};
pub use checkpoint::{Checkpoint, Files};
pub use error::{ImportError, Quote};
pub use levels::quantise;
pub use mix::Quantisation;
pub use model::Model;
pub use safetensors::{Element, Safetensors, Stored};
pub use write::Progress;
