//! A step, cut into passes, for the whole model or a part of it, whatever computes them.

use crate::backend::{BackendError, Logits, Shards, SliceLogits, StepBatch};
use crate::part::Part;
use crate::pieces::{self, Join, Place, Wanted};
use crate::shape::ModelShape;
use ollamamax_proto::limits::KV_BLOCK_TOKENS;

/// What computes the passes of a step.
pub(crate) trait Passes {
    /// Runs some tokens through the model, or the part of it, and returns what is wanted of them.
    fn run(&mut self, places: &[Place<'_>], join: Join<'_>, wanted: &Wanted) -> Wanted<Vec<f32>>;

    /// Appends the residuals of the `tokens` of the last pass.
    fn residuals(&mut self, tokens: usize, out: &mut Vec<f32>);
}

/// What a backend holds, for checking what it is asked for.
pub(crate) struct Held<'a> {
    pub shape: &'a ModelShape,
    pub part: &'a Part,
    /// Whether each layer is split.
    pub sharded: bool,
    /// KV blocks there are.
    pub blocks: u32,
    /// Positions a sequence may have; `None`: as many as its blocks hold.
    pub context_tokens: Option<u32>,
}

/// Runs a step whose arguments were checked. An error, in words, when another shard is gone.
pub(crate) fn run(
    passes: &mut dyn Passes,
    shape: &ModelShape,
    batch: &StepBatch,
    before: Option<&[f32]>,
    mut after: Option<&mut Vec<f32>>,
    mut shards: Option<&mut (dyn Shards + 'static)>,
) -> Result<Vec<SliceLogits>, BackendError> {
    let mut results = vec![SliceLogits::new(); batch.slices.len()];
    let encoder = shape.architecture.encoder;
    let mut places = Vec::new();
    // For each token its slice, and whether something of it is wanted.
    let mut slices = Vec::new();
    for (index, slice) in batch.slices.iter().enumerate() {
        for (offset, &token) in slice.tokens.iter().enumerate() {
            let position = slice.start as usize + offset;
            let seen = if encoder { slice.tokens.len() } else { position + 1 };
            places.push(Place { token, position, seen, blocks: &slice.blocks });
            let wants = match slice.logits {
                Logits::None => false,
                Logits::Last => offset + 1 == slice.tokens.len(),
                Logits::All | Logits::Hidden => true,
            };
            slices.push((index, wants && after.is_none()));
        }
    }
    let cuts = pieces::cuts(batch.slices.iter().map(|slice| slice.tokens.len()), encoder);
    let (width, mut failed) = (shape.width as usize, None);
    for piece in cuts.windows(2) {
        let (first, end) = (piece[0], piece[1]);
        let (places, slices) = (&places[first..end], &slices[first..end]);
        let mut wanted = Wanted::default();
        for (token, &(index, _)) in slices.iter().enumerate().filter(|(_, (_, wants))| *wants) {
            match batch.slices[index].logits {
                Logits::Hidden => wanted.hidden.push(token),
                _ => wanted.logits.push(token),
            }
        }
        let join = Join {
            residuals: before.map(|rows| &rows[first * width..end * width]),
            shards: shards.as_deref_mut(),
            failed: &mut failed,
        };
        let rows = passes.run(places, join, &wanted);
        if let Some(after) = after.as_deref_mut() {
            passes.residuals(places.len(), after);
        }
        let logits = wanted.logits.iter().zip(rows.logits);
        for (&token, row) in logits.chain(wanted.hidden.iter().zip(rows.hidden)) {
            results[slices[token].0].push(row);
        }
    }
    match failed {
        Some(reason) => Err(BackendError::Shards(reason)),
        None => Ok(results),
    }
}

impl Held<'_> {
    /// Whether the step can be computed; `connected`: with the other shards, where there are some.
    pub fn check(
        &self,
        batch: &StepBatch,
        before: Option<&[f32]>,
        after: bool,
        connected: bool,
    ) -> Result<(), BackendError> {
        self.check_slices(batch)?;
        self.check_part(batch, before, after, connected)
    }

    fn check_slices(&self, batch: &StepBatch) -> Result<(), BackendError> {
        for slice in &batch.slices {
            if self.shape.architecture.encoder {
                if slice.start > 0 || matches!(slice.logits, Logits::Last | Logits::All) {
                    return Err(BackendError::Encoder);
                }
                let (tokens, context_tokens) = (slice.tokens.len(), self.shape.context_tokens);
                if tokens > context_tokens as usize {
                    return Err(BackendError::TooLong { tokens, context_tokens });
                }
            }
            let vocabulary = self.shape.vocabulary;
            if let Some(&token) = slice.tokens.iter().find(|&&token| token >= vocabulary) {
                return Err(BackendError::Token { token, vocabulary });
            }
            let clamp = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
            let needed = u64::from(slice.start) + slice.tokens.len() as u64;
            let held = slice.blocks.len() as u64 * KV_BLOCK_TOKENS as u64;
            if needed > held {
                return Err(BackendError::Blocks { needed: clamp(needed), held: clamp(held) });
            }
            if let Some(context_tokens) =
                self.context_tokens.filter(|most| needed > u64::from(*most))
            {
                return Err(BackendError::TooLong { tokens: needed as usize, context_tokens });
            }
            let blocks = self.blocks;
            if let Some(block) = slice.blocks.iter().find(|block| block.0 >= blocks) {
                return Err(BackendError::Block { block: block.0, blocks });
            }
        }
        Ok(())
    }

    /// Whether what is given and wanted is what this part takes and gives.
    fn check_part(
        &self,
        batch: &StepBatch,
        before: Option<&[f32]>,
        after: bool,
        connected: bool,
    ) -> Result<(), BackendError> {
        let tokens: usize = batch.slices.iter().map(|slice| slice.tokens.len()).sum();
        let width = self.shape.width as usize;
        let mismatch = |reason: String| Err(BackendError::Part(reason));
        match before {
            None if !self.part.embedding => {
                return mismatch("it starts from residuals, none were given".to_owned());
            }
            Some(rows) if rows.len() != tokens * width => {
                let got = rows.len();
                return mismatch(format!("{got} residuals for {tokens} tokens of width {width}"));
            }
            _ => {}
        }
        if !after && !self.part.head && !self.shape.architecture.encoder {
            return mismatch("it has no head, only residuals can be had of it".to_owned());
        }
        if self.sharded && !connected {
            return mismatch("it is a shard and not connected to the others".to_owned());
        }
        Ok(())
    }
}
