//! The real engine behind [`crate::machine`]: GGUF files on this machine's CPU or one of its GPUs.

mod stages;

use crate::machine::{BadRequest, LoadError, Loaded, Loader, Machine, MachineFailure, Text};
use crate::pace::{MIB, Paced, Reads};
use crate::stage::{Driver, Links, RingMachine};
use ollamamax_engine::backend::StageBackend;
use ollamamax_engine::cpu::{CpuBackend, CpuOptions, KvType, ceilings};
use ollamamax_engine::cuda::device::DeviceError;
use ollamamax_engine::cuda::{CudaBackend, CudaOptions, Gpu, Unavailable, kernels};
use ollamamax_engine::engine::{
    Embedded, Emission, Engine, EngineLimits, Prepared, SequenceId, TextModel,
};
use ollamamax_engine::part::Part;
use ollamamax_engine::weights::Mapping;
use ollamamax_gguf::Gguf;
use ollamamax_proto::inference::{EmbedInput, Options, Prompt};
use ollamamax_proto::limits;
use ollamamax_proto::placement::Assigned;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Loads models, and parts of them, onto the CPU or a GPU.
#[derive(Clone, Debug)]
pub struct LlamaLoader {
    /// Compute threads.
    pub threads: u32,
    /// Tokens one step may process.
    pub step_tokens: usize,
    /// Memory for weights and KV cache of all models together.
    pub memory_bytes: u64,
    /// What keys and values are kept as.
    pub kv_type: KvType,
    /// The number of the GPU; `None`: the CPU.
    pub gpu: Option<u32>,
    /// Where a failure of the GPU is told.
    pub failures: Failures,
}

/// The first failure of a device, which only a new process gets over.
pub type Failures = Arc<watch::Sender<Option<String>>>;

/// What is known of an assignment before its weights are loaded.
struct Plan {
    mapping: Arc<Mapping>,
    part: Option<Part>,
    options: CpuOptions,
    reads: Reads,
}

impl Loader for LlamaLoader {
    fn load(
        &self,
        path: &Path,
        assigned: &Assigned,
        links: &Arc<Links>,
    ) -> Result<Loaded, LoadError> {
        let assignment = &assigned.assignment;
        let plan = self.prepare(path, assigned)?;
        let (mapping, context_tokens) = (Arc::clone(&plan.mapping), plan.options.context_tokens);
        let text = {
            let gguf = Gguf::parse(mapping.bytes()).map_err(|error| in_words(&error))?;
            Arc::new(TextModel::from_gguf(&gguf).map_err(|error| in_words(&error))?)
        };
        let reads = plan.reads;
        let backend = self.backend(plan)?;
        let limits = EngineLimits {
            context_tokens,
            sequences_max: assignment.sequences_max,
            step_tokens: self.step_tokens,
            // The runner counts places; it never sends more than these.
            waiting_max: limits::WORKER_WAITING_COUNT + assignment.sequences_max as usize,
            speculating_max: limits::SPECULATING_SEQUENCES_COUNT,
        };
        let (name, generates) = (assignment.model.to_string(), !backend.is_encoder());
        let backend = Paced::new(backend, reads);
        let pace = backend.pace();
        let words =
            |model, context_tokens| Arc::new(LlamaText { name, model, context_tokens, generates });
        let Some(ring) = &assigned.ring else {
            let engine = Engine::new(Box::new(backend), Arc::clone(&text), limits);
            let context_tokens = engine.limits().context_tokens;
            let text = words(text, context_tokens);
            return Ok(Loaded { text, machine: Box::new(engine), ring: None, pace });
        };
        let ring = Arc::new(Mutex::new(ring.clone()));
        let me = (assignment.id, assignment.generation);
        let (shared, kv_type) = (Arc::clone(&ring), self.kv_type().to_owned());
        let driver = Driver::new(me, shared, Box::new(backend), kv_type, Arc::clone(links));
        let machine = RingMachine::new(driver, Arc::clone(&text), limits);
        let text = words(text, context_tokens);
        Ok(Loaded { text, machine: Box::new(machine), ring: Some(ring), pace })
    }

    fn load_stage(&self, path: &Path, assigned: &Assigned) -> Result<Paced, LoadError> {
        let plan = self.prepare(path, assigned)?;
        let reads = plan.reads;
        Ok(Paced::new(self.backend(plan)?, reads))
    }

    fn ranges(
        &self,
        header: &Path,
        assigned: &Assigned,
    ) -> Result<Option<Vec<Range<u64>>>, LoadError> {
        stages::ranges(header, assigned)
    }

    fn measure_ns_per_mib(&self) -> u64 {
        let time = Duration::from_millis(limits::SPEED_MEASURE_MS);
        let of_gpu = |index| -> Result<f64, Unavailable> {
            Ok(Gpu::open(index, kernels::default_dir().as_deref())?.read_rate(time)?)
        };
        let bytes_per_second = match self.gpu.map(of_gpu) {
            None => ceilings::read_rate(self.threads as usize, time),
            Some(Ok(rate)) => rate,
            Some(Err(error)) => {
                tracing::warn!(%error, "the GPU's memory could not be measured");
                return 0;
            }
        };
        // Casting a float to an integer saturates.
        (MIB as f64 * 1e9 / bytes_per_second.max(1.0)) as u64
    }

    fn kv_type(&self) -> &'static str {
        match self.kv_type {
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
        }
    }
}

impl LlamaLoader {
    fn backend(&self, plan: Plan) -> Result<Box<dyn StageBackend>, LoadError> {
        let Plan { mapping, part, options, .. } = plan;
        let Some(index) = self.gpu else {
            let backend = CpuBackend::part_from_mapping(mapping, &options, part);
            return Ok(Box::new(backend.map_err(|error| in_words(&error))?));
        };
        let gpu = Gpu::open(index, kernels::default_dir().as_deref());
        let gpu = gpu.map_err(|error| in_words(&error))?;
        let CpuOptions { kv_blocks, context_tokens, .. } = options;
        let options = CudaOptions { kv_blocks, context_tokens };
        let failures = self.failures.clone();
        let told = move |error: &DeviceError| {
            failures.send_replace(Some(error.to_string()));
        };
        let backend = CudaBackend::on_gpu(gpu, &mapping, &options, part, Box::new(told));
        Ok(Box::new(backend.map_err(|error| in_words(&error))?))
    }

    fn prepare(&self, path: &Path, assigned: &Assigned) -> Result<Plan, LoadError> {
        let assignment = &assigned.assignment;
        let mapping = Arc::new(Mapping::open(path).map_err(|error| in_words(&error))?);
        let part = stages::part(assigned)?;
        let (options, reads) = {
            let gguf = Gguf::parse(mapping.bytes()).map_err(|error| in_words(&error))?;
            let facts = ollamamax_gguf::model_facts(&gguf).map_err(|error| in_words(&error))?;
            if part.is_none() && !assignment.stage.is_whole(facts.layers) {
                let (stage, layers) = (assignment.stage, facts.layers);
                let words = format!("stage {stage:?} is not the whole model of {layers} layers");
                return Err(LoadError(words));
            }
            let asked = match assignment.context_length {
                0 => limits::CONTEXT_TOKENS,
                tokens => tokens,
            };
            let context_tokens = asked.min(facts.context_length.max(1));
            // An encoder has room for one text at a time.
            let encoder = facts.kv_bytes_per_token == 0;
            let sequences = if encoder { 1 } else { assignment.sequences_max };
            let part = part.as_ref();
            let token_bytes = stages::kv_bytes_per_token(&gguf, part, facts.kv_bytes_per_token)?;
            let file_bytes = mapping.bytes().len() as u64;
            let weight_bytes = stages::weight_bytes(&gguf, part, file_bytes)?;
            // A GPU holds weights in another form, and room to compute in.
            let fixed_bytes = match self.gpu {
                None => weight_bytes,
                Some(_) => CudaBackend::fixed_bytes(&mapping, context_tokens, part.cloned())
                    .map_err(|error| in_words(&error))?,
            };
            let token_bytes = self.kv_type.bytes(token_bytes);
            let kv_blocks = self.kv_blocks(context_tokens, sequences, token_bytes, fixed_bytes)?;
            let (threads, kv_type) = (self.threads as usize, self.kv_type);
            let options =
                CpuOptions { threads, kv_blocks, kv_type, context_tokens, ..CpuOptions::default() };
            (options, Reads { weight_bytes, position_bytes: token_bytes })
        };
        Ok(Plan { mapping, part, options, reads })
    }

    /// Blocks for a full context of every sequence, or as many as fit; never fewer than one full context.
    fn kv_blocks(
        &self,
        context_tokens: u32,
        sequences: u32,
        token_bytes: u64,
        weight_bytes: u64,
    ) -> Result<u32, LoadError> {
        let per_sequence = u64::from(context_tokens).div_ceil(limits::KV_BLOCK_TOKENS as u64);
        let block_bytes = (token_bytes * limits::KV_BLOCK_TOKENS as u64).max(1);
        let fitting = self.memory_bytes.saturating_sub(weight_bytes) / block_bytes;
        if fitting < per_sequence {
            let needed = weight_bytes.saturating_add(per_sequence.saturating_mul(block_bytes));
            let have = self.memory_bytes;
            let words = format!(
                "the model needs {needed} bytes with a context of {context_tokens} tokens, this worker has \
                 {have}; use a smaller model or context, or a larger worker"
            );
            return Err(LoadError(words));
        }
        let wanted = per_sequence.saturating_mul(u64::from(sequences.max(1)));
        Ok(u32::try_from(wanted.min(fitting)).unwrap_or(u32::MAX))
    }
}

/// An error with its causes: the report to the control plane is one line.
fn in_words(error: &dyn std::error::Error) -> LoadError {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    LoadError(words)
}

/// A model's texts, with the context its assignment grants.
#[derive(Debug)]
struct LlamaText {
    /// The model's name, for messages.
    name: String,
    model: Arc<TextModel>,
    context_tokens: u32,
    /// Whether it continues texts; an encoder only embeds them.
    generates: bool,
}

impl Text for LlamaText {
    fn prepare(&self, prompt: &Prompt, options: &Options) -> Result<Prepared, BadRequest> {
        if !self.generates {
            return Err(BadRequest(format!("{:?} does not support generate", self.name)));
        }
        self.model
            .prepare(prompt, options, self.context_tokens)
            .map_err(|error| BadRequest(error.to_string()))
    }

    fn prepare_input(&self, input: &EmbedInput, truncate: bool) -> Result<Vec<u32>, BadRequest> {
        self.model
            .prepare_input(input, truncate, self.context_tokens)
            .map_err(|error| BadRequest(error.to_string()))
    }

    fn tokenize(&self, prompt: &Prompt) -> Result<Vec<u32>, BadRequest> {
        if let Prompt::Text(text) = prompt {
            let tokens = self.model.tokenizer().encode(text, true);
            return tokens.map_err(|error| BadRequest(error.to_string()));
        }
        let options = Options { truncate: false, ..Options::default() };
        let prepared = self.model.prepare(prompt, &options, u32::MAX);
        prepared.map(|prepared| prepared.tokens).map_err(|error| BadRequest(error.to_string()))
    }
}

impl Machine for Engine {
    fn submit(&mut self, prepared: Prepared, resume: &[u32]) -> Result<SequenceId, BadRequest> {
        Engine::submit(self, prepared, resume).map_err(|refusal| BadRequest(refusal.to_string()))
    }

    fn embed(&mut self, texts: Vec<Vec<u32>>) -> Result<SequenceId, BadRequest> {
        Engine::embed(self, texts).map_err(|refusal| BadRequest(refusal.to_string()))
    }

    fn embedded(&mut self) -> Vec<Embedded> {
        Engine::embedded(self)
    }

    fn cancel(&mut self, sequence: SequenceId) {
        Engine::cancel(self, sequence);
    }

    fn admit(&mut self) -> Vec<Emission> {
        Engine::admit(self)
    }

    fn step(&mut self) -> Result<Vec<Emission>, MachineFailure> {
        Engine::step(self).map_err(|error| MachineFailure::Dead(error.to_string()))
    }

    fn is_idle(&self) -> bool {
        Engine::is_idle(self)
    }

    fn running(&self) -> usize {
        Engine::running(self) + Engine::embedding(self)
    }

    fn resident_bytes(&self) -> u64 {
        Engine::resident_bytes(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loader(memory_bytes: u64) -> LlamaLoader {
        LlamaLoader {
            threads: 1,
            step_tokens: 8,
            memory_bytes,
            kv_type: KvType::F16,
            gpu: None,
            failures: Failures::default(),
        }
    }

    #[test]
    fn the_cache_takes_what_fits_and_never_less_than_one_context() {
        let block = 10 * limits::KV_BLOCK_TOKENS as u64;
        let blocks = |memory| loader(memory).kv_blocks(32, 4, 10, 1_000);
        assert_eq!(blocks(1 << 20), Ok(8));
        assert_eq!(blocks(1_000 + 5 * block), Ok(5));
        assert_eq!(blocks(1_000 + 2 * block), Ok(2));
        let error = blocks(1_000 + 2 * block - 1).expect_err("half a context is no context");
        assert!(error.0.contains("1320 bytes"), "{error}");
    }
}
