//! OpenAI's endpoints.

pub mod answers;
pub mod chat;
pub mod embeddings;
pub mod models;
