//! The gateway from outside: its router over a state decided by the real core, and scripted workers behind real gRPC.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod admin;
mod adopted;
mod adopted_failures;
mod auth;
mod bad_input;
mod balancing;
mod catalogue;
mod completions;
mod control;
mod conversations;
mod described;
mod edge;
mod embed;
mod errors;
mod failover;
mod format;
mod fuzz;
mod history;
mod http;
mod import;
mod joins;
mod keys;
mod load;
mod logins;
mod messages;
mod oidc;
mod openapi;
mod placement;
mod priority;
mod pull;
mod quotas;
mod responses;
mod rollout;
mod shapes;
mod sharing;
mod streams;
mod survival;
mod upstream;
mod worker;
