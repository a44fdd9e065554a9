//! A replica cut: who would hold what, and what that promises.

use super::site::{Time, to_ns};
use crate::deployment::Strategy;
use ollamamax_proto::WorkerId;
use ollamamax_proto::placement::Stage;

/// How a model is cut. Zero stages or shards: as many as turn out best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Form {
    /// By which strategy.
    pub strategy: Strategy,
    /// Runs of layers.
    pub stages: u32,
    /// Shards of each layer.
    pub shards: u32,
}

/// One worker's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Who.
    pub worker: WorkerId,
    /// What.
    pub stage: Stage,
    /// First key-value head of its shard.
    pub first_head: u32,
    /// One past the last.
    pub end_head: u32,
    /// Predicted bytes of weights and KV cache.
    pub bytes: u64,
}

/// A replica, in ring order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// How it is cut.
    pub form: Form,
    /// The parts.
    pub parts: Vec<Part>,
    /// Predicted nanoseconds of one token of a single stream.
    pub latency_ns: u64,
    /// Predicted nanoseconds between steps when every stage is busy.
    pub pace_ns: u64,
}

impl Map {
    pub(super) fn new(form: Form, parts: Vec<Part>, latency: Time, pace: Time) -> Self {
        Self { form, parts, latency_ns: to_ns(latency).max(1), pace_ns: to_ns(pace).max(1) }
    }
}
