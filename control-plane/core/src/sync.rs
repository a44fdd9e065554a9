//! Names of models that several clusters keep alike: what each site did to a name, what of it was undone by somebody who knew
//! of it, and what is shown where sites did different things without knowing of each other.
//!
//! ```text
//! site A: edit --+--> History --- join ---> the same History on every site that heard the same edits
//! site B: edit --+       |
//!                        +--- settle(policy) ---> Settled: what the name stands for, and what it is in conflict with
//! ```
//!
//! A [`History`] keeps the edits that nobody has replaced, each under a [`Dot`] of its own, and a [`Clock`] of all dots it has
//! heard of. So `join` tells an edit that is new from one that was replaced, and gives the same whatever the order and
//! however often: sites need no common log, no order of visits and no leader. It is the join of an optimised
//! observed-remove set (Bieniusa and others, "An optimized conflict-free replicated set", 2012).
//!
//! Which of several edits counts is not written down anywhere: it is worked out from the edits alone, by the policy they carry.
//! So sites that know the same edits show the same, and an edit that has lost is still there to be chosen.

mod clock;
mod history;
mod merge;
mod policy;
mod settle;
#[cfg(test)]
mod tests;

pub use clock::{Clock, Dot, SiteId};
pub use history::{Edit, History};
pub use merge::united;
pub use policy::{Policy, UnknownPolicy, is_site_name};
pub use settle::{Main, Settled, settle};
