//! An engine whose tokens are a function of the prompt and the index, and which stalls, fails or panics when told.

use ollamamax_engine::engine::{Admitted, Embedded, Emission, Finished, Prepared, SequenceId};
use ollamamax_proto::inference::{EmbedInput, Embedding, FinishReason, Options, Predict, Prompt};
use ollamamax_proto::placement::Assigned;
use ollamamax_worker::machine::{
    BadRequest, LoadError, Loaded, Loader, Machine, MachineFailure, Text,
};
use ollamamax_worker::stage::Links;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

/// How the engines of one worker behave.
#[derive(Clone, Debug, Default)]
pub struct Knobs(Arc<Inner>);

#[derive(Debug, Default)]
pub struct Inner {
    pub step_ms: AtomicU64,
    pub held: AtomicBool,
    pub panic: AtomicBool,
    pub fail: AtomicBool,
    /// Sequences whose prompt begins with 13 cannot go on after their third token.
    pub stuck: AtomicBool,
    pub cancelled: AtomicUsize,
    pub steps: AtomicUsize,
    pub batch_max: AtomicUsize,
}

impl std::ops::Deref for Knobs {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Knobs {
    pub fn loader(&self) -> Arc<dyn Loader> {
        Arc::new(FakeLoader(self.clone()))
    }
}

/// The tokens that follow `prompt`.
pub fn expected_tokens(prompt: &[u32], count: u32) -> Vec<u32> {
    (0..count).map(|index| token(prompt, index)).collect()
}

fn token(prompt: &[u32], index: u32) -> u32 {
    prompt.iter().fold(index.wrapping_mul(7919), |sum, t| sum.wrapping_mul(31) ^ t) % 50_000
}

#[derive(Debug)]
struct FakeLoader(Knobs);

impl Loader for FakeLoader {
    fn load(
        &self,
        path: &Path,
        assigned: &Assigned,
        _links: &Arc<Links>,
    ) -> Result<Loaded, LoadError> {
        let assignment = &assigned.assignment;
        let blob = std::fs::read(path).map_err(|error| LoadError(error.to_string()))?;
        if blob.starts_with(b"unloadable") {
            return Err(LoadError("the blob is no model".to_owned()));
        }
        assert!(!blob.starts_with(b"poison"), "the blob is poison");
        let machine = FakeMachine {
            knobs: self.0.clone(),
            places: assignment.sequences_max as usize,
            sequences: BTreeMap::new(),
            texts: BTreeMap::new(),
            next: 0,
        };
        Ok(Loaded {
            text: Arc::new(FakeText),
            machine: Box::new(machine),
            ring: None,
            pace: Arc::default(),
        })
    }
}

#[derive(Debug)]
struct FakeText;

impl Text for FakeText {
    fn prepare(&self, prompt: &Prompt, options: &Options) -> Result<Prepared, BadRequest> {
        match prompt {
            Prompt::Tokens(tokens) if !tokens.is_empty() => Ok(Prepared {
                tokens: tokens.clone(),
                options: options.clone(),
                context_tokens: 512,
                caller: String::new(),
                constraint: None,
                marks: Default::default(),
                output: Default::default(),
                salt: Default::default(),
            }),
            _ => Err(BadRequest("the prompt is empty".to_owned())),
        }
    }

    fn prepare_input(&self, input: &EmbedInput, _: bool) -> Result<Vec<u32>, BadRequest> {
        match input {
            EmbedInput::Tokens(tokens) if !tokens.is_empty() => Ok(tokens.clone()),
            EmbedInput::Text(text) => self.tokenize(&Prompt::Text(text.clone())),
            EmbedInput::Tokens(_) => Err(BadRequest("the input is empty".to_owned())),
        }
    }

    fn tokenize(&self, prompt: &Prompt) -> Result<Vec<u32>, BadRequest> {
        let Prompt::Text(text) = prompt else { return Err(BadRequest("not a text".to_owned())) };
        Ok(text.bytes().map(u32::from).collect())
    }
}

#[derive(Debug)]
struct Sequence {
    prompt: Vec<u32>,
    output: u32,
    limit: u32,
    admitted: bool,
}

#[derive(Debug)]
struct FakeMachine {
    knobs: Knobs,
    places: usize,
    sequences: BTreeMap<u64, Sequence>,
    texts: BTreeMap<u64, Vec<Vec<u32>>>,
    next: u64,
}

impl Machine for FakeMachine {
    fn submit(&mut self, prepared: Prepared, resume: &[u32]) -> Result<SequenceId, BadRequest> {
        let limit = match prepared.options.predict {
            Predict::AtMost(limit) => limit,
            _ => 500,
        };
        let output = resume.len() as u32;
        let sequence = Sequence { prompt: prepared.tokens, output, limit, admitted: false };
        self.sequences.insert(self.next, sequence);
        self.next += 1;
        Ok(SequenceId(self.next - 1))
    }

    fn embed(&mut self, texts: Vec<Vec<u32>>) -> Result<SequenceId, BadRequest> {
        self.texts.insert(self.next, texts);
        self.next += 1;
        Ok(SequenceId(self.next - 1))
    }

    fn embedded(&mut self) -> Vec<Embedded> {
        if self.knobs.held.load(SeqCst) {
            return vec![];
        }
        let embedding = |tokens: Vec<u32>| Embedding {
            values: tokens.iter().map(|&token| token as f32).collect(),
            tokens: tokens.len() as u32,
        };
        let done = std::mem::take(&mut self.texts).into_iter().map(|(id, texts)| Embedded {
            request: SequenceId(id),
            embeddings: texts.into_iter().map(embedding).collect(),
        });
        done.collect()
    }

    fn cancel(&mut self, sequence: SequenceId) {
        if self.texts.remove(&sequence.0).is_some() {
            self.knobs.cancelled.fetch_add(1, SeqCst);
        }
        if self.sequences.remove(&sequence.0).is_some() {
            self.knobs.cancelled.fetch_add(1, SeqCst);
        }
    }

    fn admit(&mut self) -> Vec<Emission> {
        let mut emissions = Vec::new();
        for (id, sequence) in self.sequences.iter_mut().take(self.places) {
            if !sequence.admitted {
                sequence.admitted = true;
                let prompt_tokens = sequence.prompt.len() as u32;
                let started = Some(Admitted { prompt_tokens, cached_tokens: 0 });
                emissions.push(Emission { started, ..emission(*id, sequence.output) });
            }
        }
        emissions
    }

    fn step(&mut self) -> Result<Vec<Emission>, MachineFailure> {
        assert!(!self.knobs.panic.load(SeqCst), "told to panic");
        if self.knobs.fail.load(SeqCst) {
            return Err(MachineFailure::Dead("told to fail".to_owned()));
        }
        let step = Duration::from_millis(self.knobs.step_ms.load(SeqCst));
        std::thread::sleep(step);
        if self.knobs.held.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
            return Ok(vec![]);
        }
        self.knobs.steps.fetch_add(1, SeqCst);
        self.knobs.batch_max.fetch_max(self.running(), SeqCst);
        let mut emissions = Vec::new();
        for (id, sequence) in self.sequences.iter_mut().filter(|(_, s)| s.admitted) {
            let mut emission = emission(*id, sequence.output);
            let stuck = self.knobs.stuck.load(SeqCst) && sequence.prompt[0] == 13;
            if stuck && sequence.output == 3 {
                emission.failed = Some("told to be stuck".to_owned());
                sequence.output = sequence.limit;
                emissions.push(emission);
                continue;
            }
            if sequence.output < sequence.limit {
                let token = token(&sequence.prompt, sequence.output);
                emission.tokens = vec![token];
                emission.text = format!("{token} ");
                sequence.output += 1;
            }
            if sequence.output >= sequence.limit {
                let output = expected_tokens(&sequence.prompt, sequence.output);
                emission.finished = Some(Finished {
                    reason: FinishReason::Length,
                    stop: None,
                    prompt_tokens: sequence.prompt.len() as u32,
                    output_tokens: sequence.output,
                    context: [sequence.prompt.clone(), output].concat(),
                });
            }
            emissions.push(emission);
        }
        self.sequences.retain(|_, sequence| sequence.output < sequence.limit);
        Ok(emissions)
    }

    fn is_idle(&self) -> bool {
        self.sequences.is_empty() && self.texts.is_empty()
    }

    fn running(&self) -> usize {
        self.sequences.values().filter(|sequence| sequence.admitted).count()
    }

    fn resident_bytes(&self) -> u64 {
        1_000
    }
}

fn emission(id: u64, index: u32) -> Emission {
    Emission {
        sequence: SequenceId(id),
        index,
        tokens: vec![],
        text: String::new(),
        logprobs: vec![],
        mu: None,
        started: None,
        finished: None,
        failed: None,
    }
}
