//! Stages of a replica that spreads over several workers, and how they reach each other.
//!
//! The stages form a ring. Shard 0 of the last one *drives*: it owns the scheduler and samples, so that tokens, not logits,
//! go round. It sends the tokens of a step to the first stage, residuals pass from stage to stage, and the last to compute is
//! the driver itself. Shards of one stage exchange products with each other in every layer.
//!
//! ```text
//!        tokens            residuals            residuals
//! driver ------> stage 0 ------------> stage 1 ------------> driver (last layers, head, sampler)
//!                 |  ^ sums                |  ^ sums
//!                 v  |                     v  |
//!              shard 1 of stage 0       shard 1 of stage 1
//! ```
//!
//! The driver closes the ring: it greets the first stage, which greets the next, and so on until the driver is greeted itself.
//! A link that breaks breaks the links beside it, so that the driver hears of it at once; its sequences go on elsewhere, and it
//! closes the ring anew. Stages keep nothing between rings but their weights.
//!
//! Connections are those of the cluster (TLS, on the port of the gRPC service). A stage is let in when its worker holds a part
//! of the same replica, as the control plane says it, whatever the greeting says.

mod depth;
mod door;
pub(crate) mod frame;
mod links;
mod machine;
mod mesh;
mod patience;
mod ring;
mod runner;
mod session;

pub use links::{LinkError, Links};
pub use machine::RingMachine;
pub use ring::{Driver, Local, RingBackend};
pub use runner::StageRunner;
