//! How a step is cut into passes, so that the activations held are bounded, and what a pass is given.

use crate::backend::{BlockId, Shards};
use crate::quant;
use crate::shape::ModelShape;
use crate::weights::{Entry, Weights};

/// Tokens computed at once, whatever a step asks for.
pub(crate) const PIECE_TOKENS: usize = 256;

/// A token to compute: its id, its place in its sequence, how many positions of it the token sees, and where the sequence's keys
/// and values are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub token: u32,
    pub position: usize,
    pub seen: usize,
    pub blocks: &'a [BlockId],
}

impl Place<'_> {
    /// The token's residual before the first layer.
    pub fn look_up<M>(
        &self,
        weights: &Weights<M>,
        shape: &ModelShape,
        entry: Option<&Entry>,
        row: &mut [f32],
    ) {
        let embedding = &weights.embedding;
        let bytes = embedding.row(self.token as usize);
        quant::unpack_plain(embedding.kind, bytes, row, quant::expand);
        row.iter_mut().for_each(|x| *x *= shape.embedding_scale);
        if let Some(entry) = entry {
            entry.add_to(row, self.position);
        }
    }
}

/// Where a pass of a part of a model meets the other parts.
#[derive(Debug)]
pub(crate) struct Join<'a> {
    /// What the part before gave: the residual of every token. `None`: this part starts from tokens.
    pub residuals: Option<&'a [f32]>,
    /// The other shards of its layers.
    pub shards: Option<&'a mut (dyn Shards + 'static)>,
    /// Set when they are gone; what is computed then is worth nothing.
    pub failed: &'a mut Option<String>,
}

/// What is wanted of a pass: of some tokens the logits, of some the hidden states. First their places, then the rows.
#[derive(Debug, Default)]
pub(crate) struct Wanted<T = usize> {
    pub logits: Vec<T>,
    pub hidden: Vec<T>,
}

/// Where a step's tokens are cut into passes, both ends included. An encoder's texts stay whole, however long: their tokens see
/// each other.
pub(crate) fn cuts(lens: impl Iterator<Item = usize>, whole: bool) -> Vec<usize> {
    let (mut cuts, mut end) = (vec![0], 0);
    for len in lens {
        let (begin, from) = (end, cuts[cuts.len() - 1]);
        end += len;
        match whole {
            true if end - from > PIECE_TOKENS && begin > from => cuts.push(begin),
            true => {}
            false => cuts.extend((from + PIECE_TOKENS..end).step_by(PIECE_TOKENS)),
        }
    }
    cuts.extend((end > cuts[cuts.len() - 1]).then_some(end));
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_an_encoder_are_computed_whole() {
        assert_eq!(cuts([300, 100, 112, 1].into_iter(), false), [0, 256, 512, 513]);
        assert_eq!(cuts([300, 100, 112, 1, 300].into_iter(), true), [0, 300, 513, 813]);
        assert_eq!(cuts([256].into_iter(), true), [0, 256]);
        assert_eq!(cuts([].into_iter(), true), [0]);
    }
}
