//! The families whose checkpoints are understood, and what their tensors are called here and there.
//!
//! All of them are one network: queries, keys and values, a gated feed-forward part, a norm before each. They differ in
//! biases, in norms of heads, and in which elements of a head are rotated together: published checkpoints pair the halves of
//! a head, llama's GGUFs neighbours, so that its rows change places.

use crate::config::Config;

/// A family of checkpoints.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Family {
    /// `general.architecture`.
    pub name: &'static str,
    /// What `architectures` of `config.json` may say.
    pub classes: &'static [&'static str],
    /// Rows of queries and keys change places.
    pub paired: bool,
    /// Queries, keys and values have biases.
    pub biases: bool,
    /// Heads of queries and keys are normed.
    pub head_norms: bool,
}

static ALL: [Family; 3] = [
    Family {
        name: "llama",
        classes: &["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"],
        paired: true,
        biases: false,
        head_norms: false,
    },
    Family {
        name: "qwen2",
        classes: &["Qwen2ForCausalLM"],
        paired: false,
        biases: true,
        head_norms: false,
    },
    Family {
        name: "qwen3",
        classes: &["Qwen3ForCausalLM"],
        paired: false,
        biases: false,
        head_norms: true,
    },
];

/// What to do about a family that is none of them.
pub(crate) const INSTEAD: &str = "`LlamaForCausalLM`, `MistralForCausalLM`, `Qwen2ForCausalLM` and \
     `Qwen3ForCausalLM` are; convert the model to GGUF with llama.cpp and create from that";

/// In which order rows are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As they lie.
    AsTheyLie,
    /// Of so many heads: row `2i` of a head was its row `i`, row `2i + 1` was the one half a head further.
    Paired(u32),
}

impl Order {
    /// Which of `rows` rows becomes row `row`.
    pub fn of(self, row: u64, rows: u64) -> u64 {
        match self {
            Self::AsTheyLie => row,
            Self::Paired(heads) => {
                let head_rows = (rows / u64::from(heads)).max(1);
                let (head, within) = (row / head_rows, row % head_rows);
                head * head_rows + within % 2 * (head_rows / 2) + within / 2
            }
        }
    }
}

/// A tensor a model has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its name in the checkpoint.
    pub theirs: String,
    /// Its name in the GGUF.
    pub ours: String,
    /// Its dimensions, slowest first.
    pub shape: Vec<u64>,
    /// Where its rows come from.
    pub order: Order,
}

impl Family {
    /// The family of a class.
    pub fn of_class(class: &str) -> Option<&'static Self> {
        ALL.iter().find(|family| family.classes.contains(&class))
    }

    /// The family of a `general.architecture`.
    pub fn of_name(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|family| family.name == name)
    }

    /// In which order the rows of one of our tensors are taken from a checkpoint.
    pub fn order(&self, ours: &str, heads: u32, kv_heads: u32) -> Order {
        match ours.rsplit_once("attn_").map(|(_, part)| part) {
            Some("q.weight") if self.paired => Order::Paired(heads),
            Some("k.weight") if self.paired => Order::Paired(kv_heads),
            _ => Order::AsTheyLie,
        }
    }
}

/// The matrices and vectors of a layer by their names there and here.
const LAYER: [(&str, &str); 9] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
];

/// The name here of a module of a checkpoint, such as `model.layers.0.self_attn.q_proj`.
pub(crate) fn ours(module: &str) -> Option<String> {
    match module {
        "model.embed_tokens" => return Some("token_embd".to_owned()),
        "model.norm" => return Some("output_norm".to_owned()),
        "lm_head" => return Some("output".to_owned()),
        _ => {}
    }
    let (layer, part) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (_, ours) = LAYER.iter().find(|(theirs, _)| *theirs == part)?;
    Some(format!("blk.{layer}.{ours}"))
}

/// Every tensor of a model.
pub(crate) fn wanted(config: &Config) -> Vec<Wanted> {
    let family = config.family;
    let width = u64::from(config.width);
    let head = u64::from(config.head_width);
    let queries = u64::from(config.heads) * head;
    let keys = u64::from(config.kv_heads) * head;
    let feed = u64::from(config.feed_forward);
    let outer = |theirs: &str, ours: &str, shape: Vec<u64>| Wanted {
        theirs: theirs.to_owned(),
        ours: ours.to_owned(),
        shape,
        order: Order::AsTheyLie,
    };
    let vocabulary = u64::from(config.vocabulary);
    let mut all =
        vec![outer("model.embed_tokens.weight", "token_embd.weight", vec![vocabulary, width])];
    for layer in 0..config.layers {
        let mut put = |theirs: &str, ours: &str, shape: Vec<u64>| {
            let ours = format!("blk.{layer}.{ours}");
            let order = family.order(&ours, config.heads, config.kv_heads);
            let theirs = format!("model.layers.{layer}.{theirs}");
            all.push(Wanted { theirs, ours, shape, order });
        };
        for (theirs, ours) in LAYER {
            let shape = match ours {
                "attn_q" => vec![queries, width],
                "attn_k" | "attn_v" => vec![keys, width],
                "attn_output" => vec![width, queries],
                "ffn_gate" | "ffn_up" => vec![feed, width],
                "ffn_down" => vec![width, feed],
                _ => vec![width],
            };
            put(&format!("{theirs}.weight"), &format!("{ours}.weight"), shape);
        }
        if family.biases {
            for ((theirs, ours), rows) in LAYER.iter().zip([queries, keys, keys]) {
                put(&format!("{theirs}.bias"), &format!("{ours}.bias"), vec![rows]);
            }
        }
        if family.head_norms {
            put("self_attn.q_norm.weight", "attn_q_norm.weight", vec![head]);
            put("self_attn.k_norm.weight", "attn_k_norm.weight", vec![head]);
        }
    }
    all.push(outer("model.norm.weight", "output_norm.weight", vec![width]));
    if !config.tied {
        all.push(outer("lm_head.weight", "output.weight", vec![vocabulary, width]));
    }
    all
}

/// Tensors of checkpoints that are computed and not learnt: nobody misses them.
pub(crate) fn is_computed(theirs: &str) -> bool {
    theirs.ends_with(".rotary_emb.inv_freq")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The permutation of llama.cpp: `reshape(heads, 2, rows / heads / 2).swapaxes(1, 2)`.
    #[test]
    fn rows_of_a_head_change_places_in_pairs() {
        let order = Order::Paired(2);
        let taken: Vec<u64> = (0..16).map(|row| order.of(row, 16)).collect();
        assert_eq!(taken, [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
    }

    #[test]
    fn only_queries_and_keys_of_llama_do() {
        let llama = Family::of_class("MistralForCausalLM").expect("known");
        assert_eq!(llama.order("blk.3.attn_q.weight", 8, 2), Order::Paired(8));
        assert_eq!(llama.order("blk.3.attn_k.weight", 8, 2), Order::Paired(2));
        for part in ["attn_v.weight", "attn_output.weight", "attn_q_norm.weight", "ffn_up.weight"] {
            assert_eq!(llama.order(&format!("blk.0.{part}"), 8, 2), Order::AsTheyLie);
        }
        let qwen = Family::of_name("qwen2").expect("known");
        assert_eq!(qwen.order("blk.3.attn_q.weight", 8, 2), Order::AsTheyLie);
        assert_eq!(Family::of_class("GPT2LMHeadModel"), None);
    }

    #[test]
    fn modules_are_found_by_their_names() {
        assert_eq!(ours("model.layers.7.mlp.up_proj").as_deref(), Some("blk.7.ffn_up"));
        assert_eq!(ours("lm_head").as_deref(), Some("output"));
        assert_eq!(ours("model.layers.x.mlp.up_proj"), None);
        assert_eq!(ours("transformer.h.0"), None);
    }
}
