//! Tests of more than one module: the state machine as a whole, the planner, the picks.

mod access;
mod access_history;
mod balance;
mod churn;
mod commands;
mod evictions;
mod joins;
mod machine;
mod operators;
mod planner;
mod rings;
mod rollouts;
mod routes;
