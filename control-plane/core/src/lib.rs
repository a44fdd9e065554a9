//! What the cluster agrees on, as pure code: no async runtime, no clock, no randomness, no files.
//!
//! ```text
//! Entry{index, at, command} -> decide(&State, ..)
//!     -> Decision{outcome, changes} -> evolve(&mut State, &Change)
//! ```
//!
//! `decide` answers, `evolve` changes, and nothing else does either. The same entries give the same
//! state on every node, and folding the stored changes rebuilds it. Planner and routing read the
//! state and return values; they never change it.

#![forbid(unsafe_code)]

pub mod access;
pub mod admission;
pub mod adopted;
pub mod breaker;
pub mod budget;
pub mod change;
pub mod codec;
pub mod command;
pub mod decide;
pub mod deployment;
pub mod ewma;
pub mod feed;
pub mod invariant;
pub mod liveness;
pub mod orders;
pub mod pace;
pub mod plan;
pub mod quota;
pub mod record;
pub mod rejection;
pub mod replica;
pub mod rollout;
pub mod route;
pub mod scale;
pub mod serving;
pub mod speed;
pub mod state;
pub mod sync;
pub mod table;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use change::Change;
pub use command::{Command, Entry, Outcome};
pub use decide::{Decision, apply, decide};
pub use rejection::Rejection;
pub use state::State;
