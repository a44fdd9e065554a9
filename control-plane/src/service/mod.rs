//! The gRPC services a node offers to workers and other nodes.

pub mod blobs;
pub mod control;
pub mod join;
pub mod members;
pub mod usage;
