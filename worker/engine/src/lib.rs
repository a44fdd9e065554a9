//! The engine: a GGUF file in, tokens out. No sockets, clocks or async runtime: a caller submits requests, calls
//! [`engine::Engine::step`] in a loop on a thread of its own, and gets emissions back.
//!
//! ```text
//! submit(Request) -> batch (waiting, running) -> plan -> Backend::step -> sampler -> stop, detok -> Emission
//! embed(texts)    -> embed (waiting)          ---------->              -> pooling              -> Embedded
//! ```
//!
//! Two halves meet in [`backend`]: *compute* (`architecture`, `shape`, `weights`, `quant`, `model`, `cpu`) knows tensors and nothing of
//! requests; *text and scheduling* (`tokenizer`, `constraint`, `sampler`, `stop`, `detok`, `kv`, `sequence`, `batch`,
//! `engine`) knows requests and nothing of tensors.

pub mod architecture;
pub mod backend;
pub mod batch;
mod bpe;
pub mod coin;
pub mod constraint;
pub mod cpu;
pub mod cuda;
pub mod detok;
pub mod embed;
pub mod engine;
mod fairness;
mod ids;
pub mod kv;
pub mod logprobs;
pub mod marks;
mod merging;
mod model;
pub mod output;
pub mod part;
mod penalties;
mod pieces;
mod pretokenizer;
pub mod quant;
mod rope;
pub mod sampler;
pub mod sequence;
pub mod shape;
mod speculation;
mod spm;
mod step;
pub mod stop;
pub mod synth;
pub mod text;
pub mod tokenizer;
pub mod vocabulary;
pub mod weights;
mod wordpiece;
