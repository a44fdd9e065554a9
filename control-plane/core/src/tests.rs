//! Tests of more than one module: the state machine as a whole, the planner, the picks.

mod balance;
mod commands;
mod machine;
mod planner;
mod routes;
