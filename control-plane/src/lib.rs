//! One node of the control plane: Raft, the replicated state, the services around it and the gateway in front.
//!
//! ```text
//! gateway, admin, workers -> client -> batcher -> raft -> machine (decide, one batch into storage, evolve)
//!                              |                             |
//!                              v                             v
//!                        leader elsewhere               published: state, revision, changes
//! ```
//!
//! The pure rules live in `ollamamax-core`; this crate is the shell that gives them a clock, a disk and a network.
//! [`ControlPlaneNode::start`] wires everything; [`node`] is the one file that shows how.

#![forbid(unsafe_code)]

pub mod blobs;
pub mod client;
pub mod config;
pub mod credentials;
mod doors;
pub mod error;
mod export;
mod http;
pub mod leader;
mod life;
mod membership;
pub mod node;
mod open;
pub mod raft;
mod reconcile;
pub mod running;
mod scrub;
mod service;
mod status;
mod telemetry;
mod upkeep;
pub mod watch;
mod workers;

pub use config::{ConnectionLimits, NodeConfig, Timings, TlsFiles};
pub use error::{NodeFailure, StartError};
pub use export::{Headers, InvalidHeaders, InvalidTarget, Target};
pub use node::{ControlPlaneNode, Running};
pub use ollamamax_core::route::Policy;
pub use ollamamax_gateway::OidcConfig;
pub use ollamamax_gateway::Sharing;
pub use ollamamax_gateway::edge::Network;
