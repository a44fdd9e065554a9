//! How a model shall be deployed: over how many workers, cut how, and where.

use ollamamax_proto::ModelName;
use ollamamax_proto::placement::Activations;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// How a model is spread over workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Whole on each of its workers.
    Data,
    /// Contiguous layers on as few workers as hold them.
    Layer,
    /// Contiguous layers, balanced by speed.
    Pipeline,
    /// Key-value heads and feed-forward columns of each layer.
    Tensor,
    /// Whole where it fits, else the cheapest way to split it.
    Auto,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Data, Self::Layer, Self::Pipeline, Self::Tensor, Self::Auto];

    /// Its name, as asked for and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Layer => "layer",
            Self::Pipeline => "pipeline",
            Self::Tensor => "tensor",
            Self::Auto => "auto",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|strategy| strategy.as_str() == text);
        found.ok_or_else(|| {
            format!("strategy `{text}` is unknown, expected data, layer, pipeline, tensor or auto")
        })
    }
}

/// What a partition shall be best at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Each token soonest.
    #[default]
    Latency,
    /// Most tokens per second.
    Throughput,
}

impl Policy {
    /// Its name, as asked for and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Throughput => "throughput",
        }
    }
}

/// The wish of whoever deployed a model. One per model name; without it a model is whole where it fits, else layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Which model.
    pub model: ModelName,
    /// How it is spread.
    pub strategy: Strategy,
    /// Stages of each replica; 0: as is best, and always so with `auto`.
    pub stages: u32,
    /// Shards of each layer; 0: as is best.
    pub shards: u32,
    /// Replicas at least, 1 or more.
    pub replicas_min: u32,
    /// Replicas at most, at least `replicas_min`.
    pub replicas_max: u32,
    /// What stages hand to each other.
    pub activations: Activations,
    /// Steps on their way at once in one replica; 0: as many as it has stages.
    pub steps_in_flight: u32,
    /// How the gateways spread requests over its replicas; empty: as they are configured.
    pub balancing: String,
    /// Labels that its workers must have.
    pub labels: BTreeMap<String, String>,
    /// What `auto` looks at.
    pub policy: Policy,
}

impl Deployment {
    /// `replicas`, or the nearest number that it allows.
    pub fn clamp(&self, replicas: u32) -> u32 {
        replicas.min(self.replicas_max).max(self.replicas_min)
    }

    /// A deployment of `model` that asks for nothing in particular.
    pub fn of(model: ModelName) -> Self {
        Self {
            model,
            strategy: Strategy::Auto,
            stages: 0,
            shards: 0,
            replicas_min: 1,
            replicas_max: 1,
            activations: Activations::F32,
            steps_in_flight: 0,
            balancing: String::new(),
            labels: BTreeMap::new(),
            policy: Policy::Latency,
        }
    }
}
