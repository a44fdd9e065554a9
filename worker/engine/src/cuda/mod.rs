//! The CUDA backend: the same forward pass as the CPU's, as kernels of our own on an NVIDIA GPU.
//!
//! ```text
//! library, nvrtc, cache -> kernels of the device's architecture       pack -> matrices as tensor cores take them
//! step -> pieces -> model::forward(pass) -> kernels, in order -> logits or hidden states of the wanted tokens
//!                                    device: driver (a GPU), host (the same kernels without one, in tests)
//! ```
//!
//! Nothing of CUDA is needed to build it or to run without it: the driver and the compiler of kernels are looked for when a
//! device is asked for. A token's results depend neither on how many others a step computes nor on which: sums have one order.

mod arguments;
pub mod check;
pub mod device;
mod driver;
mod failure;
#[cfg(test)]
mod host;
pub mod kernels;
pub mod library;
mod multiply;
pub mod nvml;
pub mod nvrtc;
mod pack;
mod pass;
mod probe;
mod steps;
#[cfg(test)]
mod tests;
mod workspace;

use crate::backend::{Backend, BackendError, Shards, SliceLogits, StageBackend, StepBatch};
use crate::cpu::{LoadError, TokenWork};
use crate::embed::Pooling;
use crate::part::Part;
use crate::pieces::{Join, PIECE_TOKENS, Place, Wanted};
use crate::rope::Rope;
use crate::shape::ModelShape;
use crate::step::{self, Held, Passes};
use crate::weights::{Layer, Mapping, Weights};
use device::{Address, Device, DeviceError, Grid};
pub use driver::Gpu;
use failure::Failure;
pub use failure::OnFailure;
use multiply::DeviceMatrix;
use ollamamax_gguf::Gguf;
use ollamamax_proto::limits::KV_BLOCK_TOKENS;
use pass::Pass;
pub use probe::{GpuInfo, Unavailable, gpus};
use std::collections::HashMap;
use std::sync::Arc;
use workspace::{Cache, Workspace};

/// Widest head that the attention kernel holds.
const HEAD_WIDTH: u32 = 256;

/// How to hold a model on a device.
#[derive(Clone, Debug)]
pub struct CudaOptions {
    /// KV blocks to hold.
    pub kv_blocks: u32,
    /// Tokens a sequence may grow to.
    pub context_tokens: u32,
}

/// A model on a device.
#[derive(Debug)]
pub struct CudaBackend {
    shape: ModelShape,
    part: Part,
    sharded: bool,
    model: Model,
    shards: Option<Box<dyn Shards>>,
    failure: Failure,
}

#[derive(Debug)]
struct Model {
    weights: Weights<DeviceMatrix>,
    vectors: HashMap<usize, Address>,
    rope: Rope,
    cache: Cache,
    /// Positions a sequence may have: the workspace holds no more.
    context_tokens: u32,
    space: Workspace,
    bytes: u64,
    device: Box<dyn Device>,
}

impl CudaBackend {
    /// Loads a part of a model onto a GPU; `None` for the whole.
    pub fn on_gpu(
        gpu: Gpu,
        mapping: &Arc<Mapping>,
        options: &CudaOptions,
        part: Option<Part>,
        told: OnFailure,
    ) -> Result<Self, LoadError> {
        let mut backend = Self::load(Box::new(gpu), mapping, options, part)?;
        backend.failure.told = Some(told);
        Ok(backend)
    }

    /// Bytes that a part of a model takes on a GPU beside its keys and values.
    pub fn fixed_bytes(
        mapping: &Arc<Mapping>,
        context_tokens: u32,
        part: Option<Part>,
    ) -> Result<u64, LoadError> {
        let gguf = Gguf::parse(mapping.bytes())?;
        let whole = ModelShape::from_gguf(&gguf)?;
        let part = part.unwrap_or_else(|| Part::whole(&whole));
        let shape = part.shape(&whole)?;
        let weights = Weights::of(&gguf, &whole, mapping, context_tokens, &part)?;
        let matrices: u64 = weights.matrices().map(pack::packed_bytes).sum();
        let mut counter = Counter(0);
        workspace(&mut counter, &shape, context_tokens)?;
        Ok(matrices + counter.0)
    }

    /// Loads a part of a model onto a device; `None` for the whole.
    pub(crate) fn load(
        mut device: Box<dyn Device>,
        mapping: &Arc<Mapping>,
        options: &CudaOptions,
        part: Option<Part>,
    ) -> Result<Self, LoadError> {
        let (shape, part, sharded, weights) = {
            let gguf = Gguf::parse(mapping.bytes())?;
            let whole = ModelShape::from_gguf(&gguf)?;
            let part = part.unwrap_or_else(|| Part::whole(&whole));
            let shape = part.shape(&whole)?;
            let weights = Weights::of(&gguf, &whole, mapping, options.context_tokens, &part)?;
            (shape, part.clone(), part.is_shard(&whole), weights)
        };
        if shape.head_width > HEAD_WIDTH || !shape.head_width.is_multiple_of(2) {
            return Err(LoadError::HeadWidth { width: shape.head_width, most: HEAD_WIDTH });
        }
        let mut bytes = 0;
        let mut upload = |device: &mut dyn Device, contents: &[u8]| -> Result<_, DeviceError> {
            let at = device.allocate(contents.len() as u64)?;
            device.write(at, contents)?;
            bytes += contents.len() as u64;
            Ok(at)
        };
        let weights = weights.try_map(|matrix| -> Result<_, DeviceError> {
            let packed = pack::pack(&matrix);
            let scales = match packed.scales.is_empty() {
                true => Address::NONE,
                false => upload(device.as_mut(), &packed.scales)?,
            };
            Ok(DeviceMatrix {
                form: packed.form,
                matrix: upload(device.as_mut(), &packed.matrix)?,
                scales,
                rows: matrix.rows as u32,
                columns: matrix.columns as u32,
                blocks: packed.blocks as u32,
                factor: packed.factor,
                bytes: (packed.matrix.len() + packed.scales.len()) as u64,
            })
        })?;
        let mut vectors = HashMap::new();
        for vector in vectors_of(&weights).filter(|vector| !vector.is_empty()) {
            let at = upload(device.as_mut(), bytemuck::cast_slice(vector))?;
            vectors.insert(vector.as_ptr() as usize, at);
        }
        let heads = u64::from(shape.kv_heads) * u64::from(shape.head_width);
        let layer_bytes = u64::from(options.kv_blocks) * KV_BLOCK_TOKENS as u64 * heads * 2;
        let all = layer_bytes * u64::from(shape.cached_layers());
        let cache = Cache {
            keys: device.allocate(all)?,
            values: device.allocate(all)?,
            layer_bytes,
            blocks: options.kv_blocks,
        };
        let space = workspace(device.as_mut(), &shape, options.context_tokens)?;
        let bytes = bytes + 2 * all + space.bytes();
        let rope = Rope::new(&shape, weights.rope_factors.as_deref());
        mapping.forget(0, mapping.bytes().len());
        let context_tokens = options.context_tokens;
        let model = Model { weights, vectors, rope, cache, context_tokens, space, bytes, device };
        Ok(Self { shape, part, sharded, model, shards: None, failure: Failure::default() })
    }

    /// The part of the model that it holds.
    pub fn part(&self) -> &Part {
        &self.part
    }

    /// What a token costs in matrices.
    pub fn token_work(&self) -> TokenWork {
        TokenWork::of(&self.model.weights, |matrix| {
            (u64::from(matrix.rows) * u64::from(matrix.columns), matrix.bytes)
        })
    }

    fn run(
        &mut self,
        batch: &StepBatch,
        before: Option<&[f32]>,
        after: Option<&mut Vec<f32>>,
    ) -> Result<Vec<SliceLogits>, BackendError> {
        let held = Held {
            shape: &self.shape,
            part: &self.part,
            sharded: self.sharded,
            blocks: self.model.cache.blocks,
            context_tokens: Some(self.model.context_tokens),
        };
        held.check(batch, before, after.is_some(), self.shards.is_some())?;
        let Self { shape, model, shards, failure, .. } = self;
        let mut running = Running { shape, model, failure };
        let results = step::run(&mut running, shape, batch, before, after, shards.as_deref_mut())?;
        match &self.failure.found {
            Some(error) => Err(BackendError::Device(error.to_string())),
            None => Ok(results),
        }
    }
}

/// Where passes over the shape's tokens keep what they compute.
fn workspace(
    device: &mut dyn Device,
    shape: &ModelShape,
    context_tokens: u32,
) -> Result<Workspace, DeviceError> {
    let context = context_tokens as usize;
    // Texts of an encoder are computed whole.
    let tokens = if shape.architecture.encoder { context } else { 0 }.max(PIECE_TOKENS);
    Workspace::new(device, shape, tokens, context)
}

/// A device that only counts what is allocated.
#[derive(Debug)]
struct Counter(u64);

impl Device for Counter {
    fn allocate(&mut self, bytes: u64) -> Result<Address, DeviceError> {
        self.0 += bytes;
        Ok(Address::NONE)
    }

    fn write(&mut self, _: Address, _: &[u8]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn read(&mut self, _: Address, _: &mut [u8]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn launch(&mut self, _: &'static str, _: Grid, _: &[u8]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn processors(&self) -> u32 {
        1
    }
}

/// Every vector of the weights that a kernel reads.
fn vectors_of(weights: &Weights<DeviceMatrix>) -> impl Iterator<Item = &Vec<f32>> {
    let entry = weights.entry.iter().flat_map(|entry| [&entry.norm_weight, &entry.norm_bias]);
    weights.layers.iter().flat_map(vectors_of_layer).chain(entry).chain([&weights.norm])
}

fn vectors_of_layer(layer: &Layer<DeviceMatrix>) -> impl Iterator<Item = &Vec<f32>> {
    let extras = &layer.extras;
    let optional = [
        &extras.attention_post_norm,
        &extras.feed_forward_post_norm,
        &extras.output_bias,
        &extras.up_bias,
        &extras.down_bias,
    ];
    let always = [
        &layer.attention_norm,
        &layer.feed_forward_norm,
        &extras.attention_norm_bias,
        &extras.feed_forward_norm_bias,
    ];
    let all = always.into_iter().chain(optional.into_iter().flatten());
    all.chain(extras.biases.iter().flatten()).chain(extras.head_norms.iter().flatten())
}

/// The model while it computes a step.
struct Running<'a> {
    shape: &'a ModelShape,
    model: &'a mut Model,
    failure: &'a mut Failure,
}

impl Passes for Running<'_> {
    fn run(&mut self, places: &[Place<'_>], join: Join<'_>, wanted: &Wanted) -> Wanted<Vec<f32>> {
        if self.failure.found.is_some() {
            return Wanted::default();
        }
        let Model { weights, vectors, rope, cache, space, device, .. } = &mut *self.model;
        debug_assert!(places.len() <= space.tokens(), "a pass is no longer than its workspace");
        let pass =
            Pass::new(device.as_mut(), self.shape, weights, vectors, *cache, space, places, join);
        match pass.run(rope, wanted) {
            Ok(rows) => rows,
            Err(error) => {
                self.failure.find(error);
                Wanted::default()
            }
        }
    }

    fn residuals(&mut self, tokens: usize, out: &mut Vec<f32>) {
        let start = out.len();
        out.resize(start + tokens * self.shape.width as usize, 0.0);
        let bytes = bytemuck::cast_slice_mut(&mut out[start..]);
        let read = self.model.device.read(self.model.space.x, bytes);
        if let Err(error) = read {
            self.failure.find(error);
        }
    }
}

impl Backend for CudaBackend {
    fn step(&mut self, batch: &StepBatch) -> Result<Vec<SliceLogits>, BackendError> {
        self.run(batch, None, None)
    }

    fn blocks_count(&self) -> u32 {
        self.model.cache.blocks
    }

    fn block_tokens(&self) -> u32 {
        KV_BLOCK_TOKENS as u32
    }

    fn vocabulary(&self) -> u32 {
        self.shape.vocabulary
    }

    fn resident_bytes(&self) -> u64 {
        self.model.bytes
    }

    fn is_encoder(&self) -> bool {
        self.shape.architecture.encoder
    }

    fn pooling(&self) -> Pooling {
        self.shape.pooling
    }
}

impl StageBackend for CudaBackend {
    fn residuals(
        &mut self,
        batch: &StepBatch,
        before: Option<&[f32]>,
    ) -> Result<Vec<f32>, BackendError> {
        let mut residuals = Vec::new();
        self.run(batch, before, Some(&mut residuals))?;
        Ok(residuals)
    }

    fn step_from(
        &mut self,
        batch: &StepBatch,
        before: &[f32],
    ) -> Result<Vec<SliceLogits>, BackendError> {
        self.run(batch, Some(before), None)
    }

    fn join(&mut self, shards: Option<Box<dyn Shards>>) {
        self.shards = shards;
    }

    fn width(&self) -> usize {
        self.shape.width as usize
    }
}
