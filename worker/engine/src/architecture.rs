//! What distinguishes the families of models: one line each, over the same forward pass or, for encoders, the other one.
//!
//! A file names its family in `general.architecture`. Numbers (widths, layers, bases) are in the file; what is not, because
//! every model of the family has it, is here. The families and what files leave out are those of llama.cpp
//! (`src/models/*.cpp`, `convert_hf_to_gguf.py`).

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// Neighbours: files of these families have their rows permuted so.
    Neighbours,
    /// An element of the first half of what is rotated, and its counterpart in the second.
    Halves,
}

/// Which matrices of a layer are one tensor in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fused {
    /// None.
    Nothing,
    /// Query, key and value.
    Attention,
    /// Query, key and value are one, and gate and up another.
    Both,
}

/// The function of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// GELU by its approximation with tanh.
    Gelu,
    /// GELU by the error function, and no gate: what goes up passes through it.
    GeluAlone,
}

/// A family of models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Architecture {
    /// `general.architecture`, and the prefix of its metadata keys.
    pub name: &'static str,
    /// Rotation of queries and keys.
    pub pairs: Pairs,
    /// Reads a text whole, every token seeing all others, into hidden states; norms stand after attention and feed-forward
    /// part, take the mean away and have biases.
    pub encoder: bool,
    /// Positions are learned and added to the embedding; else queries and keys are rotated.
    pub learned_positions: bool,
    /// What the file has in one tensor.
    pub fused: Fused,
    /// Query, key and value have biases; in an encoder, so have all other matrices.
    pub biases: bool,
    /// Every head of queries and keys is normed before it is rotated.
    pub head_norms: bool,
    /// What attention and feed-forward part give is normed before it is added.
    pub post_norms: bool,
    /// The gate's function.
    pub activation: Activation,
    /// Embeddings are multiplied by the root of the width.
    pub scaled_embedding: bool,
    /// Positions an attention window holds when the file does not say; 0 for no window.
    pub window_tokens: u32,
    /// Every so many layers, one sees everything; 0 when all have the window.
    pub full_every: u32,
    /// Base of the rotation in layers with a window; `None` for that of the others.
    pub local_rope_base: Option<f32>,
    /// Attention scores stay below this when the file does not say; 0 for no cap.
    pub attention_cap: f32,
    /// Logits stay below this when the file does not say; 0 for no cap.
    pub logits_cap: f32,
    /// Models of so many layers scale queries by width and heads instead of by the width of a head.
    pub wide_query_layers: Option<u32>,
}

const LLAMA: Architecture = Architecture {
    name: "llama",
    pairs: Pairs::Neighbours,
    encoder: false,
    learned_positions: false,
    fused: Fused::Nothing,
    biases: false,
    head_norms: false,
    post_norms: false,
    activation: Activation::Silu,
    scaled_embedding: false,
    window_tokens: 0,
    full_every: 0,
    local_rope_base: None,
    attention_cap: 0.0,
    logits_cap: 0.0,
    wide_query_layers: None,
};

const QWEN2: Architecture =
    Architecture { name: "qwen2", pairs: Pairs::Halves, biases: true, ..LLAMA };

const QWEN3: Architecture =
    Architecture { name: "qwen3", pairs: Pairs::Halves, head_norms: true, ..LLAMA };

const PHI3: Architecture =
    Architecture { name: "phi3", pairs: Pairs::Halves, fused: Fused::Both, ..LLAMA };

const GEMMA: Architecture = Architecture {
    name: "gemma",
    pairs: Pairs::Halves,
    activation: Activation::Gelu,
    scaled_embedding: true,
    ..LLAMA
};

const GEMMA2: Architecture = Architecture {
    name: "gemma2",
    post_norms: true,
    window_tokens: 4096,
    full_every: 2,
    attention_cap: 50.0,
    logits_cap: 30.0,
    wide_query_layers: Some(46),
    ..GEMMA
};

const GEMMA3: Architecture = Architecture {
    name: "gemma3",
    head_norms: true,
    post_norms: true,
    full_every: 6,
    local_rope_base: Some(10_000.0),
    wide_query_layers: Some(62),
    ..GEMMA
};

const BERT: Architecture = Architecture {
    name: "bert",
    encoder: true,
    learned_positions: true,
    biases: true,
    activation: Activation::GeluAlone,
    ..LLAMA
};

const NOMIC_BERT: Architecture = Architecture {
    name: "nomic-bert",
    pairs: Pairs::Halves,
    encoder: true,
    fused: Fused::Attention,
    ..LLAMA
};

/// The families there are.
pub static ALL: [Architecture; 9] =
    [LLAMA, QWEN2, QWEN3, PHI3, GEMMA, GEMMA2, GEMMA3, BERT, NOMIC_BERT];

/// Their names, for messages.
pub(crate) const NAMES: &str =
    "`llama`, `qwen2`, `qwen3`, `phi3`, `gemma`, `gemma2`, `gemma3`, `bert` or `nomic-bert`";

impl Architecture {
    /// The family of a name.
    pub fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|architecture| architecture.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_found_and_named_in_messages() {
        for architecture in &ALL {
            assert_eq!(Architecture::find(architecture.name), Some(architecture));
            assert!(NAMES.contains(&format!("`{}`", architecture.name)));
        }
        assert_eq!(NAMES.matches('`').count(), 2 * ALL.len());
        assert!(Architecture::find("t5").is_none());
    }
}
