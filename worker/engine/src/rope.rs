//! Rotary position embedding (Su et al., *RoFormer*, 2021).

use crate::pieces::Place;
use crate::shape::{ModelShape, Rotation};

/// Cosine and sine of one pair.
pub(crate) type Turn = (f32, f32);

/// Radians per position of every rotated pair, and what the turns are multiplied by.
#[derive(Debug)]
struct Frequencies {
    pairs: Vec<f64>,
    magnitude: f64,
}

/// The rotations of a model.
#[derive(Debug)]
pub(crate) struct Rope {
    full: Frequencies,
    /// In layers with a window, where they turn otherwise.
    local: Option<Frequencies>,
}

/// The turns of some tokens.
#[derive(Debug)]
pub(crate) struct Turns {
    full: Vec<Turn>,
    local: Option<Vec<Turn>>,
    pairs: usize,
}

impl Rope {
    pub fn new(shape: &ModelShape, factors: Option<&[f32]>) -> Self {
        let of = |rotation: &Rotation| Frequencies {
            pairs: frequencies(rotation, shape.rope_width, factors),
            magnitude: f64::from(rotation.magnitude),
        };
        let local = shape.window.as_ref().and_then(|window| window.rotation.as_ref());
        Self { full: of(&shape.rotation), local: local.map(of) }
    }

    /// Cosine and sine of every pair of every token.
    pub fn turns(&self, places: &[Place<'_>]) -> Turns {
        let of = |frequencies: &Frequencies| {
            let of_place = |place: &Place<'_>| {
                let position = place.position as f64;
                frequencies.pairs.iter().map(move |frequency| {
                    let (sin, cos) = (position * frequency).sin_cos();
                    let magnitude = frequencies.magnitude;
                    ((cos * magnitude) as f32, (sin * magnitude) as f32)
                })
            };
            places.iter().flat_map(of_place).collect()
        };
        let (full, local) = (of(&self.full), self.local.as_ref().map(of));
        Turns { full, local, pairs: self.full.pairs.len() }
    }
}

impl Turns {
    /// Those of all tokens, `[token][pair]`, in layers that see everything.
    pub fn full(&self) -> &[Turn] {
        &self.full
    }

    /// Those in layers with a window, where they turn otherwise.
    pub fn local(&self) -> Option<&[Turn]> {
        self.local.as_deref()
    }

    /// Those of all tokens in a layer.
    pub fn of<'a>(
        &'a self,
        shape: &ModelShape,
        layer: usize,
    ) -> impl Fn(usize) -> &'a [Turn] + use<'a> {
        let turns = match &self.local {
            Some(local) if shape.window_of(layer).is_some() => local,
            _ => &self.full,
        };
        let pairs = self.pairs;
        move |token| &turns[token * pairs..][..pairs]
    }
}

fn frequencies(rotation: &Rotation, rope_width: u32, factors: Option<&[f32]>) -> Vec<f64> {
    let (base, width) = (f64::from(rotation.base), f64::from(rope_width));
    let frequency = |pair: u32| {
        let factor = factors.map_or(1.0, |factors| f64::from(factors[pair as usize]));
        let unscaled = base.powf(-2.0 * f64::from(pair) / width) / factor;
        let scaled = unscaled * f64::from(rotation.scale);
        let Some(ramp) = rotation.ramp else { return scaled };
        let along = (f64::from(pair) - ramp.first) / (ramp.last - ramp.first).max(0.001);
        let share = along.clamp(0.0, 1.0);
        scaled * share + unscaled * (1.0 - share)
    };
    (0..rope_width / 2).map(frequency).collect()
}

/// Rotates one head whose neighbours form pairs.
#[inline(always)]
pub(crate) fn rotate(head: &mut [f32], turns: &[Turn]) {
    for ([a, b], (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

/// Rotates one head whose halves, of what is rotated, form pairs.
#[inline(always)]
pub(crate) fn rotate_halves(head: &mut [f32], turns: &[Turn]) {
    let (first, second) = head.split_at_mut(turns.len());
    for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}
