//! How fast a model runs on this machine: whole requests through the engine as a worker runs it, scheduler and sampler
//! included, without the network.
//!
//! A [`Task`] is one line of text, so that another program can drive measurements of several engines in turn:
//! `prefill 512`, `decode 128 16`, `batch 8 64`, `repeat 512`.

use ollamamax_engine::cpu::ceilings;
pub use ollamamax_engine::cpu::ceilings::Ceilings;
use ollamamax_engine::cpu::{CpuBackend, CpuOptions, Tier, TokenWork};
use ollamamax_engine::engine::{Engine, EngineLimits, Prepared, TextModel};
use ollamamax_engine::weights::Mapping;
use ollamamax_gguf::Gguf;
use ollamamax_proto::inference::{Options, Predict, Sampling};
use ollamamax_proto::limits;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Time to the first token of a new prompt of so many tokens.
    Prefill(u32),
    /// Time of so many tokens, one after the other.
    Decode {
        /// Tokens timed.
        count: u32,
        /// Tokens of context before them.
        at: u32,
    },
    /// Time of so many tokens for each of some sequences together.
    Batch {
        /// Sequences.
        sequences: u32,
        /// Tokens of each.
        count: u32,
    },
    /// Time to the first token of a prompt of so many tokens that was seen before.
    Repeat(u32),
}

/// A line that names no task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no task; expected `prefill N`, `decode N AT`, `batch SEQUENCES N` or `repeat N`, each number from 1 to 65536"
)]
pub struct UnknownTask(pub String);

impl FromStr for Task {
    type Err = UnknownTask;

    fn from_str(line: &str) -> Result<Self, UnknownTask> {
        let unknown = || UnknownTask(line.chars().take(100).collect());
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |word: &str| {
            let number = word.parse().ok().filter(|number| (1..=65_536).contains(number));
            number.ok_or_else(unknown)
        };
        match words[..] {
            ["prefill", n] => Ok(Self::Prefill(number(n)?)),
            ["decode", n, at] => Ok(Self::Decode { count: number(n)?, at: number(at)? }),
            ["batch", s, n] => Ok(Self::Batch { sequences: number(s)?, count: number(n)? }),
            ["repeat", n] => Ok(Self::Repeat(number(n)?)),
            _ => Err(unknown()),
        }
    }
}

impl Task {
    /// Tokens that the measured time went into.
    pub fn tokens(self) -> u32 {
        match self {
            Self::Prefill(tokens) | Self::Repeat(tokens) => tokens,
            Self::Decode { count, .. } => count,
            Self::Batch { sequences, count } => sequences * count,
        }
    }
}

/// A model, loaded to be measured.
#[derive(Debug)]
pub struct EngineBench {
    engine: Engine,
    vocabulary: u32,
    /// Makes every prompt a new one.
    salt: u32,
    load: Duration,
    machine: Machine,
    kv_block_bytes: u64,
}

/// What the figures are to be seen beside.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Threads that compute.
    pub threads: usize,
    /// Instructions they use.
    pub tier: Tier,
    /// What a token costs.
    pub work: TokenWork,
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// Memory of this process, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// The most it ever had.
    pub peak: u64,
    /// Of that, what the KV cache has filled.
    pub kv: u64,
}

/// Sequences and context there is room for.
const SEQUENCES: u32 = limits::SEQUENCES_COUNT;
const CONTEXT_TOKENS: u32 = limits::CONTEXT_TOKENS;
/// Prompt of a sequence of a batch, in tokens.
const BATCH_PROMPT: u32 = 16;

impl EngineBench {
    /// Loads a model; 0 threads for one per processor. Guessing ahead makes figures depend on what is generated.
    pub fn load(path: &Path, threads: u32, speculate: bool) -> Result<Self, String> {
        let began = Instant::now();
        let words = |error: &dyn std::error::Error| format!("`{}`: {error}", path.display());
        let mapping = Arc::new(Mapping::open(path).map_err(|error| words(&error))?);
        let file_bytes = mapping.bytes().len() as u64;
        let (text, kv_block_bytes) = {
            let gguf = Gguf::parse(mapping.bytes()).map_err(|error| words(&error))?;
            let text = TextModel::from_gguf(&gguf).map_err(|error| words(&error))?;
            let facts = ollamamax_gguf::model_facts(&gguf).map_err(|error| words(&error))?;
            (text, facts.kv_bytes_per_token * limits::KV_BLOCK_TOKENS as u64)
        };
        let kv_blocks = SEQUENCES * CONTEXT_TOKENS.div_ceil(limits::KV_BLOCK_TOKENS as u32);
        let options = CpuOptions { threads: threads as usize, kv_blocks, ..CpuOptions::default() };
        let backend = CpuBackend::from_mapping(mapping, &options).map_err(|error| words(&error))?;
        let machine = Machine {
            threads: backend.threads(),
            tier: backend.tier(),
            work: backend.token_work(),
            file_bytes,
        };
        let vocabulary = text.tokenizer().vocabulary().tokens.len() as u32;
        let engine_limits = EngineLimits {
            context_tokens: CONTEXT_TOKENS,
            sequences_max: SEQUENCES,
            step_tokens: limits::STEP_TOKENS_CPU,
            waiting_max: SEQUENCES as usize,
            speculating_max: if speculate { SEQUENCES as usize } else { 0 },
        };
        let engine = Engine::new(Box::new(backend), Arc::new(text), engine_limits);
        Ok(Self { engine, vocabulary, salt: 0, load: began.elapsed(), machine, kv_block_bytes })
    }

    /// How long loading took.
    pub fn load_time(&self) -> Duration {
        self.load
    }

    /// What the figures are to be seen beside.
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// Measures what the machine could do at best.
    pub fn ceilings(&self) -> Ceilings {
        ceilings::measure(self.machine.threads, self.machine.tier)
    }

    /// What the process has used so far; `None` where the system does not tell.
    pub fn memory(&self) -> Option<Memory> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        let blocks = self.engine.kv_usage();
        let kv = u64::from(blocks.used + blocks.cached) * self.kv_block_bytes;
        Some(Memory { peak: kib * 1024, kv })
    }

    /// Runs one task.
    pub fn run(&mut self, task: Task) -> Result<Duration, String> {
        match task {
            Task::Prefill(tokens) => {
                self.salt += 1;
                self.time(1, tokens, 1, From::Submission)
            }
            Task::Repeat(tokens) => {
                self.salt += 1;
                self.time(1, tokens, 1, From::Submission)?;
                self.time(1, tokens, 1, From::Submission)
            }
            Task::Decode { count, at } => {
                self.salt += 1;
                self.time(1, at, count + 1, From::FirstTokens)
            }
            Task::Batch { sequences, count } => {
                self.salt += 1;
                self.time(sequences, BATCH_PROMPT, count + 1, From::FirstTokens)
            }
        }
    }

    /// The time in which sequences of `prompt` tokens generate `output` tokens each.
    fn time(
        &mut self,
        sequences: u32,
        prompt: u32,
        output: u32,
        from: From,
    ) -> Result<Duration, String> {
        let mut began = Instant::now();
        for sequence in 0..sequences {
            let prepared = self.prompt(sequence, prompt, output);
            self.engine.submit(prepared, &[]).map_err(|refusal| refusal.to_string())?;
        }
        let mut waiting = sequences;
        while !self.engine.is_idle() {
            for emission in self.engine.step().map_err(|error| error.to_string())? {
                if emission.index == 0 && !emission.tokens.is_empty() {
                    waiting -= 1;
                    if waiting == 0 && matches!(from, From::FirstTokens) {
                        began = Instant::now();
                    }
                }
            }
        }
        Ok(began.elapsed())
    }

    fn prompt(&self, sequence: u32, tokens: u32, output: u32) -> Prepared {
        // Ordinary tokens lie above the few special ones; the first says which prompt this is.
        let ordinary = self.vocabulary.saturating_sub(1_000).max(1);
        let token = |i: u32| 500 + (i * 37 + self.salt * 7_919 + sequence * 104_729) % ordinary;
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let options = Options {
            predict: Predict::AtMost(output),
            ignore_end: true,
            sampling,
            ..Options::default()
        };
        let last = self.vocabulary - 1;
        let tokens = (0..tokens).map(|i| token(i).min(last)).collect();
        let (context_tokens, caller) = (CONTEXT_TOKENS, String::new());
        let (constraint, marks) = (None, Default::default());
        Prepared { tokens, options, context_tokens, caller, constraint, marks }
    }
}

/// When the clock starts.
#[derive(Clone, Copy, Debug)]
enum From {
    Submission,
    FirstTokens,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_a_line() {
        assert_eq!("prefill 512".parse(), Ok(Task::Prefill(512)));
        assert_eq!(" decode 128  16 ".parse(), Ok(Task::Decode { count: 128, at: 16 }));
        assert_eq!("batch 8 64".parse(), Ok(Task::Batch { sequences: 8, count: 64 }));
        assert_eq!("repeat 512".parse(), Ok(Task::Repeat(512)));
        for wrong in ["", "prefill", "prefill x", "prefill 0", "decode 1", "batch 8 65537", "fly 1"]
        {
            assert_eq!(wrong.parse::<Task>(), Err(UnknownTask(wrong.to_owned())));
        }
    }
}
