//! Servers of others that were adopted: they answer whole requests, and every gateway asks them itself.
//!
//! What is agreed on is that there is such a server, where, and of which kind. Whether it answers and which models it has
//! is no state: each gateway looks for itself, as it is each gateway that has to reach it.

use crate::access::Hidden;
use ollamamax_proto::{Millis, WorkerId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a server speaks. Stored: kinds are only added at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerKind {
    /// Ollama's API and OpenAI's beside it.
    Ollama,
    /// OpenAI's API alone: vLLM, llama-server, and many more.
    OpenAi,
}

impl ServerKind {
    /// Its name: `ollama`, `openai`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::OpenAi => "openai",
        }
    }
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A server of others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedServer {
    /// Its identity here, drawn when it was adopted; no worker has it.
    pub id: WorkerId,
    /// For people; no other adopted server and no worker has it.
    pub name: String,
    /// Where it is, `http` or `https`, without credentials and without a slash at its end.
    pub url: String,
    /// What it speaks.
    pub kind: ServerKind,
    /// The key it wants to see, sealed with the cluster's sealing key.
    pub key: Option<Hidden<Vec<u8>>>,
    /// Requests that each gateway may have in flight there.
    pub places: u32,
    /// When it was adopted.
    pub adopted_at: Millis,
}
