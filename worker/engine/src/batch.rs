//! Continuous batching: which sequences run in the next step, and with how many of their tokens.
//!
//! A step has a budget of tokens. It is spent in this order: one token for each sequence that is
//! decoding; the next chunk of each prompt that is being computed; then waiting sequences are
//! admitted as long as places, blocks and budget remain, each time the caller's first that was served
//! least (see [`crate::fairness`]). So neither a long prompt nor a long queue of somebody else stalls
//! a stream, and the device never idles while there is work.
//!
//! A sequence gets blocks for all tokens it knows when it is admitted, and one more whenever
//! decoding needs it. When there is none, the newest sequence gives all of its blocks back and
//! waits at the head of the queue; its tokens are computed again later, mostly from the prefix
//! cache. The oldest sequence is never preempted, so there is always progress.
//!
//! Where a backend has several steps on their way at once, the sequences that decode are spread over them, and a prompt's
//! next chunk follows before the last has arrived. Steps are computed in the order of their plans: so blocks that are given
//! back may be given out again while a step that writes to them is still on its way.

use crate::backend::{Logits, Slice, StepBatch};
use crate::fairness::Fairness;
use crate::kv::{BlockPool, Usage};
use crate::marks::Marks;
use crate::sequence::{Sequence, SequenceId};
use std::cmp::Ordering;
use std::collections::VecDeque;

/// What bounds the batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Sequences that run at once; at least one.
    pub sequences_max: usize,
    /// Tokens per step; at least one per running sequence.
    pub step_tokens: usize,
    /// Sequences that may run while any of them speculates; 0 for never. With more the device has enough to do.
    pub speculating_max: usize,
}

/// A sequence that was admitted, and how many of its prompt's positions the cache had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Which.
    pub sequence: SequenceId,
    /// Positions that need no computation.
    pub cached_tokens: usize,
}

/// A run of tokens of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Whose.
    pub sequence: SequenceId,
    /// Its run, see [`Sequence::run`].
    pub run: u32,
    /// Position of the first token.
    pub start: usize,
    /// How many, guesses included.
    pub count: usize,
}

/// What the next step computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// In the order of the slices.
    pub chunks: Vec<Chunk>,
    /// Admitted for the first time.
    pub admitted: Vec<Admission>,
}

impl Chunk {
    fn is_of(&self, sequence: &Sequence) -> bool {
        self.sequence == sequence.id && self.run == sequence.run
    }
}

impl StepPlan {
    fn push(&mut self, sequence: &mut Sequence, count: usize) {
        let start = sequence.depart(count);
        self.chunks.push(Chunk { sequence: sequence.id, run: sequence.run, start, count });
    }
}

/// Waiting and running sequences and the blocks they share.
#[derive(Debug)]
pub struct Batch {
    limits: BatchLimits,
    waiting: VecDeque<Sequence>,
    /// In the order of admission: the newest last.
    running: Vec<Sequence>,
    pool: BlockPool,
    fairness: Fairness,
}

impl Batch {
    /// An empty batch over a pool of blocks.
    pub fn new(limits: BatchLimits, pool: BlockPool) -> Self {
        let sequences_max = limits.sequences_max.max(1);
        let step_tokens = limits.step_tokens.max(sequences_max);
        Self {
            limits: BatchLimits { sequences_max, step_tokens, ..limits },
            waiting: VecDeque::new(),
            running: Vec::new(),
            pool,
            fairness: Fairness::default(),
        }
    }

    /// Puts a sequence at the end of the queue.
    pub fn push(&mut self, sequence: Sequence) {
        let present = self.waiting.iter().chain(&self.running).map(Sequence::caller);
        self.fairness.arrive(sequence.caller(), present);
        self.waiting.push_back(sequence);
    }

    /// Sequences that wait for a place.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences that run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Blocks by state.
    pub fn usage(&self) -> Usage {
        self.pool.usage()
    }

    /// The blocks, for what needs some beside the sequences.
    pub fn pool_mut(&mut self) -> &mut BlockPool {
        &mut self.pool
    }

    /// A running sequence.
    pub fn get_mut(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        self.running.iter_mut().find(|sequence| sequence.id == id)
    }

    /// Takes a sequence out, wherever it is, and its blocks back.
    pub fn remove(&mut self, id: SequenceId) -> Option<Sequence> {
        let running = self.running.iter().position(|sequence| sequence.id == id);
        let mut sequence = if let Some(index) = running {
            self.running.remove(index)
        } else {
            let index = self.waiting.iter().position(|sequence| sequence.id == id)?;
            self.waiting.remove(index)?
        };
        self.pool.release(std::mem::take(&mut sequence.table));
        Some(sequence)
    }

    /// Decides the next step, one of so many that are on their way at once.
    pub fn plan(&mut self, steps_in_flight: usize) -> StepPlan {
        let mut plan = StepPlan::default();
        let mut budget = self.limits.step_tokens;
        let preempted = self.plan_decodes(&mut plan, &mut budget, steps_in_flight);
        self.plan_prefills(&mut plan, &mut budget);
        // Whoever was just preempted would be the first to come back in and push the next one out.
        if !preempted {
            self.admit(&mut plan, &mut budget);
        }
        plan
    }

    fn plan_decodes(
        &mut self,
        plan: &mut StepPlan,
        budget: &mut usize,
        steps_in_flight: usize,
    ) -> bool {
        let (mut index, mut preempted) = (0, false);
        let decoding = |sequence: &&Sequence| sequence.context.len() - sequence.computed == 1;
        let decoding = self.running.iter().filter(decoding).count();
        let most = decoding.div_ceil(steps_in_flight.max(1));
        let speculate =
            self.running.len() <= self.limits.speculating_max && self.waiting.is_empty();
        while let Some(sequence) = self.running.get_mut(index) {
            if sequence.remaining() != 1 || plan.chunks.len() >= most {
                index += 1;
                continue;
            }
            if self.pool.grow(&mut sequence.table, sequence.context.len()) {
                sequence.guess.clear();
                if speculate {
                    sequence.speculate(budget.saturating_sub(self.limits.sequences_max));
                    let whole = sequence.context.len() + sequence.guess.len();
                    if !self.pool.grow(&mut sequence.table, whole) {
                        sequence.guess.clear();
                    }
                }
                let count = 1 + sequence.guess.len();
                plan.push(sequence, count);
                *budget = budget.saturating_sub(count);
                index += 1;
            } else {
                // The victim comes after every sequence planned so far, and is at worst this one.
                self.preempt_newest();
                preempted = true;
            }
        }
        preempted
    }

    fn plan_prefills(&mut self, plan: &mut StepPlan, budget: &mut usize) {
        for sequence in self.running.iter_mut().filter(|sequence| sequence.remaining() > 1) {
            let chunk = sequence.remaining().min(*budget);
            if chunk == 0 {
                break;
            }
            plan.push(sequence, chunk);
            *budget -= chunk;
        }
    }

    fn admit(&mut self, plan: &mut StepPlan, budget: &mut usize) {
        while *budget > 0 && self.running.len() < self.limits.sequences_max {
            let Some(index) = self.next() else { break };
            let next = &self.waiting[index];
            // Those that run keep a block each to grow into, or the newcomer would be preempted at
            // once.
            let reserve = self.running.len();
            let cost = self.pool.cost(next.salt(), &next.context, next.context.len());
            if cost + reserve > self.pool.available() {
                break;
            }
            let Some(mut sequence) = self.waiting.remove(index) else { break };
            let (table, cached) = self.pool.claim_prefix(sequence.salt(), &sequence.context);
            sequence.table = table;
            if !self.pool.grow(&mut sequence.table, sequence.context.len()) {
                self.pool.release(std::mem::take(&mut sequence.table));
                self.waiting.insert(index, sequence);
                break;
            }
            sequence.computed = cached;
            let chunk = sequence.remaining().min(*budget);
            *budget -= chunk;
            plan.push(&mut sequence, chunk);
            if !std::mem::replace(&mut sequence.started, true) {
                let cached_tokens = cached.min(sequence.prompt_tokens);
                plan.admitted.push(Admission { sequence: sequence.id, cached_tokens });
            }
            self.running.push(sequence);
        }
    }

    /// Which of those that wait gets the next place: one that had a place before, or else the first of the caller that was
    /// served least.
    fn next(&self) -> Option<usize> {
        if self.waiting.front()?.started {
            return Some(0);
        }
        self.fairness.turn(self.waiting.iter().map(Sequence::caller))
    }

    fn preempt_newest(&mut self) {
        if let Some(victim) = self.running.pop() {
            self.requeue(victim);
        }
    }

    /// Lets a running sequence compute its context anew.
    pub fn restart(&mut self, id: SequenceId) {
        if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
            let mut sequence = self.running.remove(index);
            // What it holds now is no beginning any more.
            sequence.marks = Marks::default();
            self.requeue(sequence);
        }
    }

    fn requeue(&mut self, mut sequence: Sequence) {
        self.pool.release(std::mem::take(&mut sequence.table));
        (sequence.computed, sequence.in_flight) = (0, 0);
        sequence.run += 1;
        sequence.guess.clear();
        self.waiting.push_front(sequence);
    }

    /// The plan as the backend wants it. Sequences that were removed since are dropped from the
    /// plan.
    pub fn step_batch(&self, plan: &mut StepPlan) -> StepBatch {
        plan.chunks.retain(|chunk| self.running.iter().any(|sequence| chunk.is_of(sequence)));
        let slice = |chunk: &Chunk| {
            let sequence = self.running.iter().find(|sequence| chunk.is_of(sequence))?;
            let end = chunk.start + chunk.count;
            let known = end.min(sequence.context.len());
            let mut tokens = sequence.context[chunk.start..known].to_vec();
            tokens.extend(&sequence.guess[..end - known]);
            Some(Slice {
                start: chunk.start as u32,
                tokens,
                blocks: sequence.table.blocks()[..self.pool.blocks_for(end)].to_vec(),
                logits: match end.cmp(&sequence.context.len()) {
                    Ordering::Less => Logits::None,
                    Ordering::Equal => Logits::Last,
                    Ordering::Greater => Logits::All,
                },
            })
        };
        StepBatch { slices: plan.chunks.iter().filter_map(slice).collect() }
    }

    /// Notes that a chunk was computed, apart from what was guessed. The sequence, when its next
    /// token is to be sampled.
    pub fn computed(&mut self, chunk: &Chunk) -> Option<&mut Sequence> {
        let sequence = self.running.iter_mut().find(|sequence| chunk.is_of(sequence))?;
        let generated = sequence.arrive(chunk.start, chunk.count);
        self.pool.commit(&mut sequence.table, &sequence.context[..sequence.computed]);
        self.pool.mark(&sequence.table, &mut sequence.marks);
        // A token that is generated counts, too: alone it costs more than one of a prompt.
        self.fairness.charge(sequence.caller(), chunk.count + usize::from(generated));
        generated.then_some(sequence)
    }
}
