//! How fast a model runs on this machine: whole requests through the engine as a worker runs it, scheduler and sampler
//! included, without the network.
//!
//! A [`Task`] is one line of text, so that another program can drive measurements of several engines in turn:
//! `prefill 512`, `decode 128 16`, `batch 8 64`, `repeat 512`.

pub mod ring;
mod synth;

pub use self::synth::synth;
use crate::device::{self, DeviceChoice};
use ollamamax_engine::backend::Backend;
use ollamamax_engine::cpu::ceilings;
use ollamamax_engine::cpu::{CpuBackend, CpuOptions, KvType, Tier, TokenWork};
pub use ollamamax_engine::cuda::check::Row;
use ollamamax_engine::cuda::{CudaBackend, CudaOptions, Gpu, check, kernels};
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
    timed: Timed,
    load: Duration,
    machine: Machine,
    kv_block_bytes: u64,
}

/// An engine whose requests are timed.
#[derive(Debug)]
struct Timed {
    engine: Engine,
    vocabulary: u32,
    context_tokens: u32,
    /// Makes every prompt a new one.
    salt: u32,
}

impl Setting {
    fn limits(&self) -> EngineLimits {
        EngineLimits {
            context_tokens: self.context_tokens,
            sequences_max: self.sequences,
            step_tokens: limits::STEP_TOKENS_CPU,
            waiting_max: self.sequences as usize,
            speculating_max: if self.speculate { self.sequences as usize } else { 0 },
        }
    }
}

/// What the figures are to be seen beside.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What computes, in words.
    pub name: String,
    device: Device,
    /// What a token costs.
    pub work: TokenWork,
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// What computes.
#[derive(Clone, Copy, Debug)]
enum Device {
    /// So many threads, with these instructions.
    Cpu(usize, Tier),
    /// The GPU of this number.
    Gpu(u32),
}

/// What a device could do at best, a second.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// Bytes read of memory.
    pub read_bytes: f64,
    /// Multiplications and additions of bytes, each counted; `None` where that is not measured.
    pub byte_operations: Option<f64>,
}

/// A GPU against the plain path of the CPU: every weight type, every family, and that company changes nothing.
pub fn check_gpu(index: u32) -> Result<Vec<Row>, String> {
    let rows = check::check_gpu(index, kernels::default_dir().as_deref());
    rows.map_err(|error| error.to_string())
}

/// Memory of this process, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// The most it ever had.
    pub peak: u64,
    /// Of that, what the KV cache has filled.
    pub kv: u64,
}

/// How to run what is measured.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// What computes.
    pub device: DeviceChoice,
    /// Threads of a CPU; 0 for one per processor.
    pub threads: u32,
    /// Whether sequences guess ahead. Figures then depend on what is generated.
    pub speculate: bool,
    /// Sequences there is room for.
    pub sequences: u32,
    /// Tokens each of them may have.
    pub context_tokens: u32,
}

impl Default for Setting {
    /// As a worker, but nobody guesses ahead.
    fn default() -> Self {
        Self {
            device: DeviceChoice::Auto,
            threads: 0,
            speculate: false,
            sequences: limits::SEQUENCES_COUNT,
            context_tokens: limits::CONTEXT_TOKENS,
        }
    }
}

/// Prompt of a sequence of a batch, in tokens.
const BATCH_PROMPT: u32 = 16;

impl EngineBench {
    /// Loads a model.
    pub fn load(path: &Path, setting: Setting) -> Result<Self, String> {
        let Setting { device, threads, sequences, context_tokens, .. } = setting;
        let chosen = device::choose(device, threads, 0, KvType::F16);
        let gpu = chosen.map_err(|error| error.to_string())?.gpu.map(|gpu| gpu.index);
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
        let per_sequence = context_tokens.div_ceil(limits::KV_BLOCK_TOKENS as u32);
        let kv_blocks = sequences.saturating_mul(per_sequence);
        let (backend, machine): (Box<dyn Backend>, _) = match gpu {
            None => {
                let threads = threads as usize;
                let options =
                    CpuOptions { threads, kv_blocks, context_tokens, ..CpuOptions::default() };
                let backend = CpuBackend::from_mapping(mapping, &options);
                let backend = backend.map_err(|error| words(&error))?;
                let (threads, tier) = (backend.threads(), backend.tier());
                let name = format!("the machine, {threads} threads ({tier:?})");
                let (device, work) = (Device::Cpu(threads, tier), backend.token_work());
                (Box::new(backend), Machine { name, device, work, file_bytes })
            }
            Some(index) => {
                let gpu = Gpu::open(index, kernels::default_dir().as_deref());
                let gpu = gpu.map_err(|error| error.to_string())?;
                let name = format!("GPU {index}, {}", gpu.info().name);
                let options = CudaOptions { kv_blocks, context_tokens };
                let backend = CudaBackend::on_gpu(gpu, &mapping, &options, None, Box::new(|_| {}));
                let backend = backend.map_err(|error| words(&error))?;
                let (device, work) = (Device::Gpu(index), backend.token_work());
                (Box::new(backend), Machine { name, device, work, file_bytes })
            }
        };
        let vocabulary = text.tokenizer().vocabulary().tokens.len() as u32;
        let step_tokens = match machine.device {
            Device::Cpu(..) => limits::STEP_TOKENS_CPU,
            Device::Gpu(_) => limits::STEP_TOKENS_GPU,
        };
        let engine_limits = EngineLimits { step_tokens, ..setting.limits() };
        let engine = Engine::new(backend, Arc::new(text), engine_limits);
        let timed = Timed { engine, vocabulary, context_tokens, salt: 0 };
        Ok(Self { timed, load: began.elapsed(), machine, kv_block_bytes })
    }

    /// How long loading took.
    pub fn load_time(&self) -> Duration {
        self.load
    }

    /// What the figures are to be seen beside.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Measures what the device could do at best.
    pub fn ceilings(&self) -> Result<Ceilings, String> {
        let words = |error: &dyn std::error::Error| error.to_string();
        match self.machine.device {
            Device::Cpu(threads, tier) => {
                let measured = ceilings::measure(threads, tier);
                let byte_operations = Some(measured.byte_operations);
                Ok(Ceilings { read_bytes: measured.read_bytes, byte_operations })
            }
            Device::Gpu(index) => {
                let gpu = Gpu::open(index, kernels::default_dir().as_deref());
                let time = Duration::from_millis(limits::SPEED_MEASURE_MS);
                let rate = gpu.map_err(|error| words(&error))?.read_rate(time);
                let read_bytes = rate.map_err(|error| words(&error))?;
                Ok(Ceilings { read_bytes, byte_operations: None })
            }
        }
    }

    /// What the process has used so far; `None` where the system does not tell.
    pub fn memory(&self) -> Option<Memory> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        let blocks = self.timed.engine.kv_usage();
        let kv = u64::from(blocks.used + blocks.cached) * self.kv_block_bytes;
        Some(Memory { peak: kib * 1024, kv })
    }

    /// Runs one task.
    pub fn run(&mut self, task: Task) -> Result<Duration, String> {
        self.timed.run(task)
    }
}

impl Timed {
    fn run(&mut self, task: Task) -> Result<Duration, String> {
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
        let (context_tokens, caller) = (self.context_tokens, String::new());
        let (constraint, marks, salt, output) = Default::default();
        Prepared { tokens, options, context_tokens, caller, constraint, marks, salt, output }
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
