//! OpenAI's endpoints.

pub mod chat;
pub mod embeddings;
pub mod models;
