//! What a node keeps: the Raft log and vote, snapshots, the materialised state, and model files.
//!
//! ```text
//!            Raft                         state machine                    model files
//!              |                        |               |                       |
//!          log (LogStore)           kv (Kv trait)   snapshot                  blobs
//!              |                      |       |
//!   wal (segments) + highwater      sled   memory
//! ```
//!
//! The log and the snapshots are the truth; the state in sled is a copy that can be built from them at any time. All
//! bytes are checksummed, every acknowledgement waits for a sync, and a node that finds less on disk than it once
//! acknowledged is told so ([`StorageError::must_not_vote`]). Start at [`Storage`].

#![forbid(unsafe_code)]

pub mod blobs;
pub mod check;
pub mod disk;
mod error;
pub mod fault;
pub mod format;
mod highwater;
pub mod kv;
pub mod log;
pub mod memory;
pub mod sled;
pub mod snapshot;
mod state;
mod store;
pub mod types;
mod wal;

pub use blobs::BlobStore;
pub use error::StorageError;
pub use kv::{Applied, Dump, Kv, KvBatch, Pair, Sum};
pub use log::LogStore;
pub use memory::MemoryKv;
pub use sled::SledKv;
pub use snapshot::{SnapshotFile, SnapshotStore};
pub use store::{Expect, Opened, Storage};
pub use types::*;
pub use wal::WalSizes;
