//! The same worker with the real engine.
