//! What the runner needs of an engine, and no more: the seam between the shell and `engine`.
//!
//! [`crate::llama`] is the real one. Keeping the seam a trait lets the shell be tested with engines that stall, fail or
//! panic on command.

use crate::pace::{Pace, Paced};
use crate::stage::Links;
use ollamamax_engine::engine::{Embedded, Emission, Prepared, SequenceId};
use ollamamax_proto::inference::{EmbedInput, Options, Prompt};
use ollamamax_proto::placement::{Assigned, Ring};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Turns a blob into something that runs.
pub trait Loader: fmt::Debug + Send + Sync + 'static {
    /// Loads a whole model, or the stage that drives a ring over `links`, from the GGUF at `path`; may take minutes, runs on
    /// a thread of its own.
    fn load(
        &self,
        path: &Path,
        assigned: &Assigned,
        links: &Arc<Links>,
    ) -> Result<Loaded, LoadError>;

    /// Loads a stage that another one drives.
    fn load_stage(&self, _path: &Path, _assigned: &Assigned) -> Result<Paced, LoadError> {
        Err(LoadError("this worker runs whole models only".to_owned()))
    }

    /// Where in the GGUF the bytes lie that `assigned` needs, for one of which `header` is the beginning; `None` when that is
    /// too little to tell. Without an answer the whole file is fetched.
    fn ranges(
        &self,
        _header: &Path,
        _assigned: &Assigned,
    ) -> Result<Option<Vec<Range<u64>>>, LoadError> {
        Ok(None)
    }

    /// Nanoseconds this machine takes to read a MiB of weights, measured now; 0: not known. Takes a fraction of a second.
    fn measure_ns_per_mib(&self) -> u64 {
        0
    }

    /// What keys and values are kept as: the same for all stages of a replica.
    fn kv_type(&self) -> &'static str {
        "f16"
    }
}

/// A model ready to run.
#[derive(Debug)]
pub struct Loaded {
    /// Its text half, shared with the threads that take requests.
    pub text: Arc<dyn Text>,
    /// Its computing half, owned by the runner's thread.
    pub machine: Box<dyn Machine>,
    /// The ring that the machine drives: what is written here counts when it closes the ring anew.
    pub ring: Option<Arc<Mutex<Ring>>>,
    /// How long its own steps take.
    pub pace: Arc<Pace>,
}

/// A blob that cannot be run here, in words for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

/// A request that cannot be run, in words for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRequest(pub String);

/// A step that could not be computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineFailure {
    /// The device failed; its engine cannot be trusted any more.
    #[error("{0}")]
    Dead(String),
    /// The ring that the machine drives is open: its sequences are lost, [`Machine::join`] closes it anew.
    #[error("{0}")]
    Apart(String),
}

/// The text half of a model.
pub trait Text: fmt::Debug + Send + Sync {
    /// Renders, tokenises and checks a request.
    fn prepare(&self, prompt: &Prompt, options: &Options) -> Result<Prepared, BadRequest>;

    /// The tokens of an input to embed, cut to the context if `truncate` allows it.
    fn prepare_input(&self, input: &EmbedInput, truncate: bool) -> Result<Vec<u32>, BadRequest>;

    /// The tokens of a prompt, however many there are; special tokens in a text are recognised.
    fn tokenize(&self, prompt: &Prompt) -> Result<Vec<u32>, BadRequest>;
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

    /// Whether all it needs is connected; only then requests may be submitted.
    fn is_together(&self) -> bool {
        true
    }

    /// Tries to connect what it needs; takes a few seconds at most. Why it could not, in words.
    fn join(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Whether a step would do nothing.
    fn is_idle(&self) -> bool;

    /// Sequences that have a place, and requests whose texts are being embedded.
    fn running(&self) -> usize;

    /// Bytes held: weights and KV cache.
    fn resident_bytes(&self) -> u64;
}
