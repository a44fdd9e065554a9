//! The worker: a stateless process that holds model stages and turns requests into tokens.
//!
//! It registers its device, pulls its assignments, fetches blobs by digest, loads them and streams tokens. The control
//! plane decides, the worker reports; when no control plane can be reached it goes on serving what it holds.
//!
//! ```text
//!            register, heartbeat, watch                     Generate, Tokenize
//! control plane <----- agent ----> desired (pure diff)          service
//!                        |              |                          |
//!                     reports        holder -- fetch -- load --> runner (thread) -- outbox --> stream
//! ```

#![forbid(unsafe_code)]

pub mod agent;
pub mod bench;
pub mod caches;
pub mod config;
pub mod credentials;
pub mod desired;
pub mod device;
pub mod fetch;
pub mod health;
pub mod holder;
pub mod identity;
pub mod llama;
pub mod machine;
pub mod node;
pub mod outbox;
pub mod pace;
pub mod peers;
pub mod places;
pub mod renewal;
pub mod runner;
pub mod sandbox;
pub mod service;
pub mod stage;
mod telemetry;

pub use config::WorkerConfig;
pub use device::DeviceChoice;
pub use node::{Ended, Running, StartError, WorkerNode};
pub use ollamamax_engine::cpu::KvType;
