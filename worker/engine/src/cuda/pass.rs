//! One pass over some tokens on a device: its inputs, the way through the model, and what is wanted of it.

use super::arguments as args;
use super::device::{Address, Device, DeviceError, Grid};
use super::multiply::{DeviceMatrix, Prepared};
use super::workspace::{Cache, Workspace};
use crate::pieces::{Join, Place, Wanted};
use crate::rope::Rope;
use crate::shape::ModelShape;
use crate::weights::Weights;
use bytemuck::Pod;
use std::collections::HashMap;

/// Threads of a block that handles one row.
pub(super) const ROW_THREADS: u32 = 256;

/// One pass.
pub(super) struct Pass<'a> {
    pub device: &'a mut dyn Device,
    pub shape: &'a ModelShape,
    pub weights: &'a Weights<DeviceMatrix>,
    /// Where each vector of the weights lies on the device, by its address here.
    pub vectors: &'a HashMap<usize, Address>,
    pub cache: Cache,
    pub space: &'a Workspace,
    pub places: &'a [Place<'a>],
    pub join: Join<'a>,
    /// The input that has been prepared last, and for what.
    pub(super) prepared: Option<(Address, Prepared)>,
    /// The first failure; nothing is done after it.
    pub(super) failed: Option<DeviceError>,
}

impl<'a> Pass<'a> {
    #[expect(clippy::too_many_arguments, reason = "a pass meets everything")]
    pub fn new(
        device: &'a mut dyn Device,
        shape: &'a ModelShape,
        weights: &'a Weights<DeviceMatrix>,
        vectors: &'a HashMap<usize, Address>,
        cache: Cache,
        space: &'a Workspace,
        places: &'a [Place<'a>],
        join: Join<'a>,
    ) -> Self {
        let (prepared, failed) = (None, None);
        Self { device, shape, weights, vectors, cache, space, places, join, prepared, failed }
    }

    /// Runs it and returns what is wanted.
    pub fn run(mut self, rope: &Rope, wanted: &Wanted) -> Result<Wanted<Vec<f32>>, DeviceError> {
        self.send_places(rope);
        crate::model::forward(self.weights, &mut self);
        let hidden = self.hidden(&wanted.hidden);
        let logits = self.logits(&wanted.logits);
        match self.failed {
            Some(error) => Err(error),
            None => Ok(Wanted { logits, hidden }),
        }
    }

    pub(super) fn tokens(&self) -> u32 {
        self.places.len() as u32
    }

    pub(super) fn attempt(&mut self, act: impl FnOnce(&mut dyn Device) -> Result<(), DeviceError>) {
        if self.failed.is_none() {
            self.failed = act(self.device).err();
        }
    }

    pub(super) fn launch(&mut self, kernel: &'static str, grid: Grid, arguments: &impl Pod) {
        self.attempt(|device| device.launch(kernel, grid, bytemuck::bytes_of(arguments)));
    }

    pub(super) fn send<T: Pod>(&mut self, to: Address, values: &[T]) {
        self.attempt(|device| device.write(to, bytemuck::cast_slice(values)));
    }

    pub(super) fn floats(&mut self, from: Address, count: usize) -> Vec<f32> {
        let mut floats = vec![0.0f32; count];
        self.attempt(|device| device.read(from, bytemuck::cast_slice_mut(&mut floats)));
        floats
    }

    /// Where a vector of the weights lies; nothing for none.
    pub(super) fn vector(&self, vector: &[f32]) -> Address {
        self.vectors.get(&(vector.as_ptr() as usize)).copied().unwrap_or(Address::NONE)
    }

    /// Positions, tables of blocks and rotations of the tokens.
    fn send_places(&mut self, rope: &Rope) {
        let (mut places, mut table) = (Vec::new(), Vec::<u32>::new());
        let mut last: Option<(*const _, u32)> = None;
        for place in self.places {
            let begin = match last {
                Some((blocks, begin)) if blocks == place.blocks.as_ptr() => begin,
                _ => table.len() as u32,
            };
            if begin as usize == table.len() {
                // A sequence may have more blocks than it uses; the checked positions lie in the first.
                let used = place.blocks.iter().take(self.space.sequence_blocks);
                table.extend(used.map(|block| block.0));
            }
            last = Some((place.blocks.as_ptr(), begin));
            let (position, seen) = (place.position as u32, place.seen as u32);
            places.push(args::Place { position, seen, table: begin });
        }
        self.send(self.space.places, &places);
        self.send(self.space.table, &table);
        let turns = rope.turns(self.places);
        let flat = |turns: &[(f32, f32)]| -> Vec<[f32; 2]> {
            turns.iter().map(|(cos, sin)| [*cos, *sin]).collect()
        };
        self.send(self.space.turns, &flat(turns.full()));
        if let Some(local) = turns.local() {
            self.send(self.space.local_turns, &flat(local));
        }
    }

    /// Rows of `x`, side by side.
    fn pick(&mut self, tokens: &[usize]) {
        let rows: Vec<u32> = tokens.iter().map(|token| *token as u32).collect();
        self.send(self.space.rows, &rows);
        let gather = args::Gather {
            x: self.space.x,
            rows: self.space.rows,
            out: self.space.picked,
            width: self.shape.width,
            padding: 0,
        };
        self.launch("gather", Grid::of(rows.len() as u32, ROW_THREADS), &gather);
    }

    fn last_norm(&mut self, rows: u32) {
        if !self.shape.architecture.encoder {
            let weight = self.vector(&self.weights.norm);
            self.norm_rows(self.space.picked, weight, self.space.picked, rows);
        }
    }

    pub(super) fn norm_rows(&mut self, x: Address, weight: Address, out: Address, rows: u32) {
        let (width, epsilon) = (self.shape.width, self.shape.norm_epsilon);
        let norm = args::Norm { x, weight, bias: Address::NONE, out, width, epsilon };
        self.launch("norm", Grid::of(rows, ROW_THREADS), &norm);
    }

    fn rows(&mut self, from: Address, count: usize, width: usize) -> Vec<Vec<f32>> {
        let floats = self.floats(from, count * width);
        floats.chunks_exact(width).map(<[f32]>::to_vec).collect()
    }

    fn hidden(&mut self, tokens: &[usize]) -> Vec<Vec<f32>> {
        if tokens.is_empty() {
            return Vec::new();
        }
        self.pick(tokens);
        self.last_norm(tokens.len() as u32);
        self.rows(self.space.picked, tokens.len(), self.shape.width as usize)
    }

    fn logits(&mut self, tokens: &[usize]) -> Vec<Vec<f32>> {
        let Some(head) = self.weights.head.as_ref().filter(|_| !tokens.is_empty()) else {
            return Vec::new();
        };
        self.pick(tokens);
        self.last_norm(tokens.len() as u32);
        self.prepared = None;
        self.multiply(head, self.space.picked, self.space.logits, tokens.len() as u32);
        let count = tokens.len() as u64 * u64::from(head.rows);
        if self.shape.logits_cap > 0.0 {
            let (x, most) = (self.space.logits, self.shape.logits_cap);
            let cap = args::Cap { x, count, most, padding: 0 };
            self.launch("cap", elementwise(count), &cap);
        }
        self.rows(self.space.logits, tokens.len(), head.rows as usize)
    }
}

/// A thread per element.
pub(super) fn elementwise(count: u64) -> Grid {
    Grid::of(count.div_ceil(u64::from(ROW_THREADS)) as u32, ROW_THREADS)
}
