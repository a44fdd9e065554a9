//! Clusters of real processes for tests, the chaos suite and the bench: start, look at, kill, restart, talk to.
//!
//! ```text
//! Cluster::start(options) -- spawns --> node-1..n, worker-1..m   (the `ollamamax` binary, ports of their own)
//!      |-- status(), leader(), wait_until(...)                   what the nodes say
//!      |-- kill9, stop, restart                                  what happens to them
//!      `-- drop                                                  everything is killed, the directory removed
//! ```
//!
//! Every wait has a deadline, and an error brings the ends of the logs along, so that a failed test explains itself.

#![forbid(unsafe_code)]

pub mod binary;
pub mod checkpoint;
pub mod cluster;
pub mod error;
pub mod http;
pub mod minilm;
pub mod model;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod registry;
pub mod status;
pub mod stream;
pub mod wait;

pub use cluster::{Cluster, ClusterOptions, Member, Way};
pub use error::HarnessError;
pub use http::Api;
pub use process::Process;
pub use proxy::Proxy;
pub use status::ClusterStatus;
pub use stream::Records;
pub use wait::wait_until;
