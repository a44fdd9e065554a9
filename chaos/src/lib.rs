//! Faults against a cluster of real processes, with checkers.
//!
//! ```text
//!  scenario (TOML) + seed -> schedule -> world: processes, relays between them ---- faults, each with its end
//!                                          ^                                            |
//!                     load: registers, streams, logins --- history <--- observers <-----+
//!                                                             |
//!                                                         checkers -> report: text, JSON, a page
//! ```
//!
//! Schedule, checkers and figures are pure: what they say depends on their arguments alone, and tests show them histories made by
//! hand. The rest drives real processes of the binary that users run, and knows nothing of what is in them.

#![forbid(unsafe_code)]

pub mod check;
mod damage;
mod faults;
pub mod figures;
mod heal;
pub mod history;
mod html;
mod load;
mod net;
mod observe;
mod recorder;
mod relay;
pub mod report;
pub mod run;
pub mod scenario;
pub mod schedule;
mod watched;
mod world;

pub use run::{Done, Grade, run};
pub use scenario::Scenario;
