//! Our own endpoints under `/admin/v1/`.

pub mod checkpoints;
pub mod cluster;
pub mod models;
pub mod placement;
mod shape;
mod trial;
pub mod versions;
pub mod workers;
