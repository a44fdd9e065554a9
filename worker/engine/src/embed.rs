//! Texts that wait to be embedded, beside the sequences that generate.
//!
//! ```text
//! push(texts) -> waiting, first come first served -> reserve (chunks, blocks) -> slices -> Backend::step
//!                                                                                  -> complete: pooled -> Embedded
//! ```
//!
//! A step takes a few texts, or a chunk of a long one: so a request with many texts holds nobody up for long. A text's tokens
//! need blocks only until the text is done. An encoder computes a text whole and gives its blocks back in the same step.
//!
//! Blocks are shared with the sequences of [`crate::batch`], and nobody waits forever: the text at the front keeps the blocks
//! it has, takes more before new sequences are admitted, and fits alone; the oldest sequence, when it finds none left, gives up
//! its own.

mod pooling;

pub use self::pooling::Pooling;

use self::pooling::Pool;
use crate::backend::{BackendError, Logits, Slice, SliceLogits};
use crate::kv::{BlockPool, BlockTable};
use crate::sequence::SequenceId;
use ollamamax_proto::inference::Embedding;
use std::collections::VecDeque;

/// The vectors of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// Which request.
    pub request: SequenceId,
    /// One per text, in order.
    pub embeddings: Vec<Embedding>,
}

/// A text on its way.
#[derive(Debug)]
struct Text {
    tokens: Vec<u32>,
    /// Tokens whose hidden states are in `pool`.
    computed: usize,
    /// Tokens the next step computes.
    chunk: usize,
    table: BlockTable,
    pool: Pool,
}

#[derive(Debug)]
struct Request {
    id: SequenceId,
    texts: VecDeque<Text>,
    done: Vec<Embedding>,
}

/// All requests.
#[derive(Debug)]
pub(crate) struct Embedder {
    pooling: Pooling,
    /// Texts are computed whole.
    encoder: bool,
    requests: VecDeque<Request>,
    /// Whose texts the step on its way carries, slice by slice: a request may be given up meanwhile.
    sent: Vec<SequenceId>,
    finished: Vec<Embedded>,
}

impl Embedder {
    pub fn new(pooling: Pooling, encoder: bool) -> Self {
        let (requests, sent, finished) = Default::default();
        Self { pooling, encoder, requests, sent, finished }
    }

    /// Requests that are not finished.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether nothing waits, to be computed or to be taken.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.finished.is_empty()
    }

    /// Queues texts, each of which fits the context.
    pub fn push(&mut self, id: SequenceId, texts: Vec<Vec<u32>>) {
        let text = |tokens| Text {
            tokens,
            computed: 0,
            chunk: 0,
            table: BlockTable::default(),
            pool: Pool::new(self.pooling),
        };
        let texts: VecDeque<Text> = texts.into_iter().map(text).collect();
        match texts.is_empty() {
            true => self.finished.push(Embedded { request: id, embeddings: Vec::new() }),
            false => self.requests.push_back(Request { id, texts, done: Vec::new() }),
        }
    }

    /// Forgets a request; false when it is not there.
    pub fn cancel(&mut self, id: SequenceId, blocks: &mut BlockPool) -> bool {
        let Some(at) = self.requests.iter().position(|request| request.id == id) else {
            let before = self.finished.len();
            self.finished.retain(|embedded| embedded.request != id);
            return self.finished.len() < before;
        };
        let request = self.requests.remove(at);
        for text in request.into_iter().flat_map(|request| request.texts) {
            blocks.release(text.table);
        }
        true
    }

    /// Decides what the next step computes, at most `budget` tokens or one text of an encoder, and takes the blocks for it.
    pub fn reserve(&mut self, mut budget: usize, blocks: &mut BlockPool) {
        let mut first = true;
        for text in self.requests.iter_mut().flat_map(|request| &mut request.texts) {
            let left = text.tokens.len() - text.computed;
            let mut chunk = left.min(budget);
            if self.encoder && chunk < left {
                chunk = if first { left } else { 0 };
            }
            // What is free is taken, though it be little: the text at the front gathers what it needs.
            while chunk > 0 && !blocks.grow(&mut text.table, text.computed + chunk) {
                chunk = if self.encoder { 0 } else { chunk / 2 };
            }
            text.chunk = chunk;
            if chunk < left {
                break;
            }
            budget = budget.saturating_sub(chunk);
            first = false;
        }
    }

    /// What was reserved, as the backend wants it.
    pub fn slices(&mut self, blocks: &BlockPool) -> Vec<Slice> {
        let slice = |text: &Text| Slice {
            start: text.computed as u32,
            tokens: text.tokens[text.computed..text.computed + text.chunk].to_vec(),
            blocks: text.table.blocks()[..blocks.blocks_for(text.computed + text.chunk)].to_vec(),
            logits: Logits::Hidden,
        };
        let texts = || self.texts().take_while(|(_, text)| text.chunk > 0);
        let slices = texts().map(|(_, text)| slice(text)).collect();
        self.sent = texts().map(|(id, _)| id).collect();
        slices
    }

    /// Takes the hidden states of what was reserved.
    pub fn complete(
        &mut self,
        rows: Vec<SliceLogits>,
        blocks: &mut BlockPool,
    ) -> Result<(), BackendError> {
        for (id, rows) in std::mem::take(&mut self.sent).into_iter().zip(rows) {
            let Some(request) = self.requests.front_mut() else { break };
            if request.id != id {
                continue;
            }
            let Some(text) = request.texts.front_mut() else { break };
            if rows.len() != text.chunk {
                let reason = format!("{} hidden states for {} tokens", rows.len(), text.chunk);
                return Err(BackendError::Device(reason));
            }
            rows.iter().for_each(|hidden| text.pool.take(hidden));
            text.computed += std::mem::take(&mut text.chunk);
            if text.computed < text.tokens.len() {
                break;
            }
            if let Some(text) = request.texts.pop_front() {
                blocks.release(text.table);
                let (tokens, values) = (text.tokens.len() as u32, text.pool.finish());
                request.done.push(Embedding { values, tokens });
            }
            if request.texts.is_empty()
                && let Some(Request { id, done, .. }) = self.requests.pop_front()
            {
                self.finished.push(Embedded { request: id, embeddings: done });
            }
        }
        Ok(())
    }

    /// What is finished since it was last asked.
    pub fn take_finished(&mut self) -> Vec<Embedded> {
        std::mem::take(&mut self.finished)
    }

    fn texts(&self) -> impl Iterator<Item = (SequenceId, &Text)> {
        let of = |request: &'_ Request| request.id;
        self.requests
            .iter()
            .flat_map(move |request| request.texts.iter().map(move |text| (of(request), text)))
    }
}
