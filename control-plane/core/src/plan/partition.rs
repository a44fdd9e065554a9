//! How to cut one replica of a model over unlike workers: pure, and without the state.
//!
//! ```text
//! facts --> Load (prefix sums)   --+
//! workers --> Site (room, speed) --+--> chain: a given order, exact, microseconds
//!                                  +--> orders: any order of a few workers, exact
//!                                  +--> shards: key-value heads over one group, exact
//!                                  +--> choose: the strategy asked for, or the cheapest
//! ```
//!
//! The time of layers `[i, j)` on a worker is what reading their weights takes plus the hop to it; decoding reads each
//! weight once per token and does little else. A token's latency is the sum over the stages, the pace of a full
//! pipeline its slowest stage. Times are exact integers, so every search here can be held against brute force.

mod chain;
mod choose;
mod groups;
mod heads;
mod load;
mod map;
mod misfit;
mod orders;
mod shards;
mod site;
#[cfg(test)]
mod tests;

pub use chain::{Objective, cut};
pub use choose::{Choice, Other, Wish, choose};
pub use heads::Attention;
pub use load::Load;
pub use map::{Form, Map, Part};
pub use misfit::Misfit;
pub use site::Site;
