//! What the runner needs of an engine, and no more: the seam between the shell and `engine`.
//!
//! [`crate::llama`] is the real one. Keeping the seam a trait lets the shell be tested with engines that stall, fail or
//! panic on command.

use ollamamax_engine::engine::{Embedded, Emission, Prepared, SequenceId};
use ollamamax_proto::inference::{EmbedInput, Options, Prompt};
use ollamamax_proto::placement::Assignment;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Turns a blob into something that runs.
pub trait Loader: fmt::Debug + Send + Sync + 'static {
    /// Loads the stage that `assignment` names from the GGUF at `path`; may take minutes, runs on a thread of its own.
    fn load(&self, path: &Path, assignment: &Assignment) -> Result<Loaded, LoadError>;
}

/// A model ready to run.
#[derive(Debug)]
pub struct Loaded {
    /// Its text half, shared with the threads that take requests.
    pub text: Arc<dyn Text>,
    /// Its computing half, owned by the runner's thread.
    pub machine: Box<dyn Machine>,
}

/// A blob that cannot be run here, in words for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

/// A request that cannot be run, in words for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRequest(pub String);

/// The device failed; its engine cannot be trusted any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MachineFailure(pub String);

/// The text half of a model.
pub trait Text: fmt::Debug + Send + Sync {
    /// Renders, tokenises and checks a request.
    fn prepare(&self, prompt: &Prompt, options: &Options) -> Result<Prepared, BadRequest>;

    /// The tokens of an input to embed, cut to the context if `truncate` allows it.
    fn prepare_input(&self, input: &EmbedInput, truncate: bool) -> Result<Vec<u32>, BadRequest>;

    /// The tokens of `text`.
    fn tokenize(&self, text: &str) -> Result<Vec<u32>, BadRequest>;
}

/// The computing half of a model.
pub trait Machine: fmt::Debug + Send {
    /// Queues a request that this machine's [`Text`] prepared; `resume` are tokens generated elsewhere.
    fn submit(&mut self, prepared: Prepared, resume: &[u32]) -> Result<SequenceId, BadRequest>;

    /// Queues texts to embed that this machine's [`Text`] prepared; they come back from [`Machine::embedded`].
    fn embed(&mut self, texts: Vec<Vec<u32>>) -> Result<SequenceId, BadRequest>;

    /// Vectors of the texts that are finished.
    fn embedded(&mut self) -> Vec<Embedded>;

    /// Ends a sequence, or gives texts to embed up, without further emissions; an unknown one is ignored.
    fn cancel(&mut self, sequence: SequenceId);

    /// Decides what the next step computes and tells who gets a place in it.
    fn admit(&mut self) -> Vec<Emission>;

    /// Computes one step over all sequences that have a place.
    fn step(&mut self) -> Result<Vec<Emission>, MachineFailure>;

    /// Whether a step would do nothing.
    fn is_idle(&self) -> bool;

    /// Sequences that have a place, and requests whose texts are being embedded.
    fn running(&self) -> usize;

    /// Bytes held: weights and KV cache.
    fn resident_bytes(&self) -> u64;
}
