//! What a model version is, apart from its bytes.

use crate::ids::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Facts read from a GGUF when a model is created; planner and API live on them without opening the file again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// `general.architecture`, e.g. `llama`.
    pub architecture: String,
    /// Number of weights.
    pub parameter_count: u64,
    /// The quantisation in Ollama's spelling, e.g. `Q4_1`.
    pub quantization: String,
    /// Tokens the model was trained to hold.
    pub context_length: u32,
    /// Width of the residual stream.
    pub embedding_length: u32,
    /// Transformer layers.
    pub layers: u32,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// Bytes of KV cache one token takes over all layers, in the engine's cache type; 0 for an encoder.
    pub kv_bytes_per_token: u64,
    /// Bytes of each layer's weights, one per layer.
    pub layer_bytes: Vec<u64>,
    /// Bytes of the token embedding.
    pub embedding_bytes: u64,
    /// Bytes of the output head and final norm; 0 when tied to the embedding.
    pub head_bytes: u64,
    /// Whether the file carries a chat template.
    pub has_chat_template: bool,
    /// GGUF metadata as a JSON object, arrays left out.
    pub metadata_json: String,
}

impl ModelFacts {
    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> u64 {
        self.layer_bytes.iter().sum::<u64>() + self.embedding_bytes + self.head_bytes
    }
}

/// One message a Modelfile puts before every conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text.
    pub content: String,
}

/// An immutable version of a model: bytes by digest plus what a Modelfile says about them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelVersion {
    /// Digest of the canonical description of this version: the id that `list` shows.
    pub digest: Digest,
    /// The GGUF.
    pub blob: Digest,
    /// Its size.
    pub blob_bytes: u64,
    /// What was read from it.
    pub facts: ModelFacts,
    /// Chat template that overrides the GGUF's own.
    pub template: Option<String>,
    /// System prompt used when a conversation brings none.
    pub system: Option<String>,
    /// PARAMETER lines: name to values in order (only `stop` has several), as text.
    pub parameters: BTreeMap<String, Vec<String>>,
    /// Messages put before every conversation.
    pub messages: Vec<SeedMessage>,
    /// Licence texts.
    pub licenses: Vec<String>,
    /// The model it was made from, if any.
    pub parent: Option<String>,
}

impl ModelVersion {
    /// The digest that [`ModelVersion::digest`] must hold: over every other field, in a fixed order.
    pub fn compute_digest(&self) -> Digest {
        use sha2::Digest as _;
        let mut hash = sha2::Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        field(b"ollamamax model version");
        field(&self.blob.0);
        for text in [&self.template, &self.system, &self.parent] {
            field(&[u8::from(text.is_some())]);
            field(text.as_deref().unwrap_or_default().as_bytes());
        }
        for (name, values) in &self.parameters {
            field(name.as_bytes());
            for value in values {
                field(value.as_bytes());
            }
            field(b"end of values");
        }
        field(b"messages");
        for message in &self.messages {
            field(message.role.as_bytes());
            field(message.content.as_bytes());
        }
        field(b"licenses");
        for license in &self.licenses {
            field(license.as_bytes());
        }
        Digest(hash.finalize().into())
    }
}
