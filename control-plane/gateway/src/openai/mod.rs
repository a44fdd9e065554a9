//! OpenAI's endpoints.

pub mod chat;
pub mod models;
