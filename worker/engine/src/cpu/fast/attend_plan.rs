//! Who computes which part of the attention of a pass.

use super::attention::SEGMENT;
use crate::cpu::Place;
use crate::shape::ModelShape;
use std::ops::Range;

/// Neighbouring tokens of a sequence whose attention is computed together.
const ATTEND_TOKENS: usize = 8;

/// How the attention of a pass is cut into units: tiles of neighbouring tokens, times heads of keys, and with few tokens
/// times segments, so that there is work for all threads.
#[derive(Debug)]
pub(super) struct AttendPlan {
    /// First token and number of tokens of each tile.
    tiles: Vec<(usize, usize)>,
    /// For each token its tile and its place in it.
    place: Vec<(usize, usize)>,
    kv_heads: usize,
    /// Query heads per head of keys.
    pub group: usize,
    /// Parts that segments are cut into: one for each, or one for all.
    parts: usize,
    /// The segments that some token sees.
    segments: Range<usize>,
    /// Rows a unit has room for.
    pub rows: usize,
}

impl AttendPlan {
    pub fn new(shape: &ModelShape, places: &[Place<'_>], window: usize, threads: usize) -> Self {
        let mut tiles: Vec<(usize, usize)> = Vec::new();
        let mut place = Vec::with_capacity(places.len());
        for (token, here) in places.iter().enumerate() {
            match tiles.last_mut() {
                Some((first, count))
                    if *count < ATTEND_TOKENS
                        && std::ptr::eq(places[*first].blocks, here.blocks) =>
                {
                    *count += 1;
                }
                _ => tiles.push((token, 1)),
            }
            let (first, _) = tiles.last().expect("just pushed");
            place.push((tiles.len() - 1, token - first));
        }
        let longest = places.iter().map(|place| place.seen).max().unwrap_or(0);
        let begin = places.iter().map(|place| place.seen.saturating_sub(window)).min();
        let segments = begin.unwrap_or(0) / SEGMENT..longest.div_ceil(SEGMENT);
        let kv_heads = shape.kv_heads as usize;
        let widest = tiles.iter().map(|(_, count)| *count).max().unwrap_or(0);
        let few = tiles.len() * kv_heads < 4 * threads;
        let group = (shape.heads / shape.kv_heads) as usize;
        let (parts, rows) = (if few { segments.len() } else { 1 }, widest * group);
        Self { tiles, place, kv_heads, group, parts, segments, rows }
    }

    pub fn units(&self) -> usize {
        self.tiles.len() * self.kv_heads * self.parts
    }

    pub fn tile(&self, unit: usize) -> (usize, usize) {
        self.tiles[unit / (self.kv_heads * self.parts)]
    }

    pub fn kv_head(&self, unit: usize) -> usize {
        unit / self.parts % self.kv_heads
    }

    pub fn segments(&self, unit: usize) -> Range<usize> {
        let part = unit % self.parts;
        let first = self.segments.start + part;
        if self.parts == 1 { self.segments.clone() } else { first..first + 1 }
    }

    /// Where the partial results of a token's head lie, in order.
    pub fn partials(&self, token: usize, head: usize) -> impl Iterator<Item = usize> + '_ {
        let (tile, index) = self.place[token];
        let (kv_head, row) = (head / self.group, index * self.group + head % self.group);
        let unit = (tile * self.kv_heads + kv_head) * self.parts;
        (unit..unit + self.parts).map(move |unit| unit * self.rows + row)
    }
}
