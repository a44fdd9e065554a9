//! A backend whose logits are a hash of what it finds in a sequence's blocks. It has no weights, but
//! a KV cache as real as any, each entry of which depends on all before it: a wrong block table, a
//! block shared by mistake or a stale prefix changes the logits.

use ollamamax_engine::backend::{Backend, BackendError, Logits, SliceLogits, StepBatch};
use ollamamax_engine::engine::{
    Emission, Engine, EngineLimits, Finished, Prepared, SequenceId, TextModel,
};
use ollamamax_engine::vocabulary::{TokenKind, Vocabulary};
use ollamamax_proto::inference::{Options, TokenLogprob};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

pub const BLOCK_TOKENS: u32 = 4;

/// The last token ends a generation; the others make stops and split characters likely.
const SPELLINGS: [&str; 16] =
    ["a", "b", "c", "ab", "ca", "Ġ", "Ã", "©", "â", "Ĥ", "¬", "Ã©", "d", "Ġa", "e", "<|im_end|>"];
pub const END: u32 = 15;

pub fn vocabulary() -> Vocabulary {
    let mut kinds = vec![TokenKind::Normal; SPELLINGS.len()];
    kinds[END as usize] = TokenKind::Control;
    Vocabulary {
        model: "gpt2".into(),
        pre: "gpt-2".into(),
        tokens: SPELLINGS.iter().collect(),
        kinds,
        eos: Some(END),
        ..Vocabulary::default()
    }
}

pub fn text() -> Arc<TextModel> {
    static TEXT: OnceLock<Arc<TextModel>> = OnceLock::new();
    let build = || Arc::new(TextModel::new(vocabulary(), None).expect("a sound vocabulary"));
    Arc::clone(TEXT.get_or_init(build))
}

#[derive(Debug)]
pub struct FakeBackend {
    slots: Vec<Option<u64>>,
    step_tokens: usize,
    vocabulary: u32,
    /// Steps after which the device fails.
    pub fails_after: Option<usize>,
    /// Steps on their way at once.
    pub depth: usize,
    flights: VecDeque<(StepBatch, Vec<SliceLogits>)>,
}

impl FakeBackend {
    pub fn new(blocks: u32, step_tokens: usize) -> Self {
        let slots = vec![None; (blocks * BLOCK_TOKENS) as usize];
        let (vocabulary, flights) = (SPELLINGS.len() as u32, VecDeque::new());
        Self { slots, step_tokens, vocabulary, fails_after: None, depth: 1, flights }
    }

    /// For a model with another vocabulary.
    pub fn with_vocabulary(self, text: &TextModel) -> Self {
        let vocabulary = text.tokenizer().vocabulary().tokens.len() as u32;
        Self { vocabulary, ..self }
    }
}

impl FakeBackend {
    fn compute(&mut self, batch: &StepBatch) -> Result<Vec<SliceLogits>, BackendError> {
        match &mut self.fails_after {
            Some(0) => return Err(BackendError::Device("unplugged".into())),
            Some(left) => *left -= 1,
            None => {}
        }
        let total: usize = batch.slices.iter().map(|slice| slice.tokens.len()).sum();
        assert!(total <= self.step_tokens, "{total} tokens in a step of {}", self.step_tokens);
        let slot = |blocks: &[ollamamax_engine::backend::BlockId], position: usize| {
            let block = blocks[position / BLOCK_TOKENS as usize].0 as usize;
            block * BLOCK_TOKENS as usize + position % BLOCK_TOKENS as usize
        };
        for slice in &batch.slices {
            assert!(!slice.tokens.is_empty());
            for (offset, &token) in slice.tokens.iter().enumerate() {
                let position = slice.start as usize + offset;
                let before = position
                    .checked_sub(1)
                    .map_or(Some(17), |before| self.slots[slot(&slice.blocks, before)]);
                let entry = mix(before.expect("computed before") ^ u64::from(token));
                self.slots[slot(&slice.blocks, position)] = Some(entry);
            }
        }
        let logits = |slice: &ollamamax_engine::backend::Slice| {
            let end = slice.start as usize + slice.tokens.len();
            let after = |end: usize| {
                let hash = (0..end).fold(17, |hash, position| {
                    mix(hash ^ self.slots[slot(&slice.blocks, position)].expect("computed before"))
                });
                row(hash, self.vocabulary)
            };
            match slice.logits {
                Logits::None => Vec::new(),
                Logits::Last => vec![after(end)],
                Logits::All | Logits::Hidden => {
                    (slice.start as usize + 1..=end).map(after).collect()
                }
            }
        };
        Ok(batch.slices.iter().map(logits).collect())
    }
}

impl Backend for FakeBackend {
    /// Computed at once: what is given back between start and step must not matter.
    fn start(&mut self, batch: &StepBatch) -> Result<(), BackendError> {
        assert!(self.flights.len() < self.depth, "more steps than asked for");
        let logits = self.compute(batch)?;
        self.flights.push_back((batch.clone(), logits));
        Ok(())
    }

    fn step(&mut self, batch: &StepBatch) -> Result<Vec<SliceLogits>, BackendError> {
        let (started, logits) = self.flights.pop_front().expect("started before");
        assert_eq!(started, *batch, "steps are asked for in their order");
        Ok(logits)
    }

    fn steps_in_flight(&self) -> usize {
        self.depth
    }

    fn blocks_count(&self) -> u32 {
        self.slots.len() as u32 / BLOCK_TOKENS
    }

    fn block_tokens(&self) -> u32 {
        BLOCK_TOKENS
    }

    fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    fn resident_bytes(&self) -> u64 {
        0
    }
}

fn row(hash: u64, vocabulary: u32) -> Vec<f32> {
    let logit = |id: u64| (mix(hash.wrapping_add(id)) % 4096) as f32 / 1024.0;
    let mut row: Vec<f32> = (0..u64::from(vocabulary)).map(logit).collect();
    row[END as usize] -= 2.5;
    row
}

/// Splitmix64's finaliser.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

pub fn engine(blocks: u32, limits: EngineLimits) -> Engine {
    pipeline(blocks, limits, 1)
}

/// An engine with `depth` steps on their way at once.
pub fn pipeline(blocks: u32, limits: EngineLimits, depth: usize) -> Engine {
    let tokens = limits.step_tokens.max(limits.sequences_max as usize);
    let backend = FakeBackend { depth, ..FakeBackend::new(blocks, tokens) };
    Engine::new(Box::new(backend), text(), limits)
}

pub fn limits(sequences_max: u32, step_tokens: usize) -> EngineLimits {
    EngineLimits {
        context_tokens: 48,
        sequences_max,
        step_tokens,
        waiting_max: 64,
        speculating_max: 0,
    }
}

pub fn prepared(tokens: &[u32], options: Options) -> Prepared {
    let (tokens, caller) = (tokens.to_vec(), String::new());
    let (constraint, marks, salt, output) = Default::default();
    Prepared { tokens, options, context_tokens: 48, caller, constraint, marks, salt, output }
}

/// Everything one sequence emitted, and whether that was in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stream {
    pub pieces: Vec<(Vec<u32>, String)>,
    pub logprobs: Vec<TokenLogprob>,
    /// Mirostat's state after each piece.
    pub mus: Vec<Option<f64>>,
    pub index: Option<u32>,
    pub started: bool,
    pub finished: Option<Finished>,
}

impl Stream {
    pub fn tokens(&self) -> Vec<u32> {
        self.pieces.iter().flat_map(|(tokens, _)| tokens.clone()).collect()
    }

    pub fn text(&self) -> String {
        self.pieces.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// Takes an emission and checks its place.
    pub fn take(&mut self, emission: Emission) {
        assert!(self.finished.is_none(), "an emission after the end: {emission:?}");
        if emission.started.is_some() {
            assert!(!std::mem::replace(&mut self.started, true), "started twice");
        }
        assert!(self.started, "an emission before the start");
        let expected = *self.index.get_or_insert(emission.index);
        assert_eq!(emission.index, expected, "an index that does not follow");
        self.index = Some(expected + emission.tokens.len() as u32);
        self.finished = emission.finished;
        self.logprobs.extend(emission.logprobs);
        self.mus.push(emission.mu.or(self.mus.last().copied().flatten()));
        self.pieces.push((emission.tokens, emission.text));
    }
}

/// Steps the engine until it is idle.
pub fn drain(engine: &mut Engine) -> BTreeMap<SequenceId, Stream> {
    let mut streams = BTreeMap::<SequenceId, Stream>::new();
    let mut steps = 0;
    while !engine.is_idle() {
        for emission in engine.step().expect("a sound backend") {
            streams.entry(emission.sequence).or_default().take(emission);
        }
        steps += 1;
        assert!(steps < 20_000, "no progress");
    }
    assert_eq!(engine.kv_usage().used, 0, "blocks are leaked");
    streams
}

/// What a request gives alone on a roomy engine.
pub fn solo(request: &Prepared, resume: &[u32]) -> Stream {
    let mut engine = engine(64, limits(1, 128));
    let id = engine.submit(request.clone(), resume).expect("taken");
    drain(&mut engine).remove(&id).expect("emitted")
}
