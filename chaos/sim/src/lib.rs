//! The pure cores of OllamaMax as one world in one thread: virtual time, a network that cuts and delays, machines that crash,
//! hang and turn slow, clocks that jump, and operators who change everything at once, all of it from a seed.
//!
//! ```text
//! seed -> script (what happens from outside) -> World: next event -> cores -> more events
//!                                                 |         after each: invariants; all of it into one hash
//!                                                 v
//!                                    quiet: faults stop, everything must come to rest and serve
//! violated? -> shrink the script -> the few operations that are enough
//! ```
//!
//! What runs is the code that runs in production: the state machine on three nodes, planner, liveness, scaling, rollouts,
//! breakers, outliers, policies, quotas and retry budgets, the worker's diff and fence, the engine with its scheduler and KV
//! blocks. What is simulated is what lies between: network, disks, processes, clocks, and a model whose next token is a hash
//! of all before it.

#![forbid(unsafe_code)]

pub mod coin;
pub mod op;
pub mod run;
pub mod shrink;
pub mod trace;
pub mod world;
