//! The language that nodes, workers and gateways share: identities, limits, models, placements, inference
//! requests, and the wire format between processes. It knows nobody else in the workspace.
//!
//! Wire messages ([`wire`]) are generated from `proto/ollamamax/v1/*.proto`; domain types are plain structs whose
//! constructors refuse what is out of bounds. [`convert`] is the one place where wire becomes domain, so it is the one
//! place where input from another process is doubted.

#![forbid(unsafe_code)]

pub mod audit;
pub mod backoff;
pub mod convert;
pub mod ids;
pub mod inference;
pub mod limits;
pub mod model;
pub mod mutant;
pub mod placement;
pub mod prefix;
pub mod sampling;
pub mod time;

/// Messages and services generated from the `.proto` files.
#[allow(missing_docs, clippy::all)]
pub mod wire {
    tonic::include_proto!("ollamamax.v1");
}

pub use ids::{
    AssignmentId, Digest, Generation, Incarnation, InvalidId, ModelName, NodeId, ReplicaId,
    Revision, WorkerId,
};
pub use time::Millis;
