//! The text and scheduling half of the engine, through its public interface.

mod constrained;
mod embedding;
mod fake;
mod golden;
mod insert;
mod prepare;
mod real;
mod resume;
mod scheduling;
mod spm;
mod thinking;
