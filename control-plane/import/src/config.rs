//! `config.json`: the numbers of a model, checked against each other before anything is computed with them.

use crate::error::{ImportError, Quote};
use crate::family::{Family, INSTEAD};
use crate::json::Json;
use crate::rope::Rope;
use ollamamax_gguf::Value as Entry;
use serde_json::Value;

/// The numbers of a model.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub family: &'static Family,
    pub layers: u32,
    pub width: u32,
    pub feed_forward: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_width: u32,
    pub vocabulary: u32,
    /// Tokens it was trained with.
    pub context: u32,
    pub epsilon: f32,
    pub rope: Rope,
    /// Positions each token sees, where that is not all.
    pub window: Option<u32>,
    /// The embedding is the head, too.
    pub tied: bool,
}

impl Config {
    /// Reads the numbers; `has_head` says whether the checkpoint has one of its own.
    pub fn read(json: &Json, has_head: bool) -> Result<Self, ImportError> {
        let classes = json.needed("architectures", "a list of one class", Value::as_array)?;
        let class = match classes.as_slice() {
            [class] => class.as_str().unwrap_or_default(),
            _ => return Err(json.wrong("architectures", classes.len(), "a list of one class")),
        };
        let unknown = || ImportError::Unsupported {
            subject: "the architecture",
            found: Quote::of(class),
            instead: INSTEAD,
        };
        let family = Family::of_class(class).ok_or_else(unknown)?;
        refuse_what_computes_differently(json)?;
        let heads = json.count("num_attention_heads")?;
        let kv_heads = json.optional_count("num_key_value_heads")?.unwrap_or(heads);
        let width = json.count("hidden_size")?;
        if kv_heads > heads || heads % kv_heads != 0 {
            let expected = "a divisor of `num_attention_heads`";
            return Err(json.wrong("num_key_value_heads", kv_heads, expected));
        }
        let head_width = match json.optional_count("head_dim")? {
            Some(head_width) => head_width,
            None if width % heads == 0 => width / heads,
            None => {
                let expected = "a multiple of `num_attention_heads`, where there is no `head_dim`";
                return Err(json.wrong("hidden_size", width, expected));
            }
        };
        if head_width % 2 != 0 {
            return Err(json.wrong("head_dim", head_width, "an even number"));
        }
        let context = json.count("max_position_embeddings")?;
        let epsilon = json.optional_number("rms_norm_eps")?.unwrap_or(1e-6);
        let tied = json.optional_truth("tie_word_embeddings")?.unwrap_or(false);
        Ok(Self {
            family,
            layers: json.count("num_hidden_layers")?,
            width,
            feed_forward: json.count("intermediate_size")?,
            heads,
            kv_heads,
            head_width,
            vocabulary: json.count("vocab_size")?,
            context,
            epsilon: epsilon as f32,
            rope: Rope::read(json, context)?,
            window: window(json, context)?,
            tied: tied || !has_head,
        })
    }

    /// The entries of the GGUF that tell them.
    pub fn entries(&self) -> Vec<(String, Entry)> {
        let name = self.family.name;
        let mut all = vec![
            ("general.architecture".to_owned(), Entry::Str(name.to_owned())),
            ("general.type".to_owned(), Entry::Str("model".to_owned())),
        ];
        let mut put = |key: &str, value: Entry| all.push((format!("{name}.{key}"), value));
        for (key, value) in [
            ("block_count", self.layers),
            ("context_length", self.context),
            ("embedding_length", self.width),
            ("feed_forward_length", self.feed_forward),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head_width),
            ("attention.value_length", self.head_width),
            ("rope.dimension_count", self.head_width),
            ("vocab_size", self.vocabulary),
        ] {
            put(key, Entry::U32(value));
        }
        put("attention.layer_norm_rms_epsilon", Entry::F32(self.epsilon));
        if let Some(window) = self.window {
            put("attention.sliding_window", Entry::U32(window));
        }
        for (key, value) in self.rope.entries() {
            put(key, value);
        }
        all
    }
}

/// What would change every number the model computes and is not computed here.
fn refuse_what_computes_differently(json: &Json) -> Result<(), ImportError> {
    if let Some(how) = json.get("quantization_config") {
        let method = how.get("quant_method").unwrap_or(how);
        let (subject, found) = ("a checkpoint that is quantised by", Quote::of(method));
        let instead = "start from the checkpoint as it was before";
        return Err(ImportError::Unsupported { subject, found, instead });
    }
    let activation = json.optional("hidden_act", "a name", Value::as_str)?.unwrap_or("silu");
    if activation != "silu" {
        let (subject, found) = ("the activation", Quote::of(activation));
        return Err(ImportError::Unsupported { subject, found, instead: "only `silu` is" });
    }
    Ok(())
}

/// The window of Mistral; Qwen2 names one and says beside it whether it is used.
fn window(json: &Json, context: u32) -> Result<Option<u32>, ImportError> {
    if json.optional_truth("use_sliding_window")? == Some(false) {
        return Ok(None);
    }
    let window = json.optional_count("sliding_window")?.filter(|window| *window < context);
    if window.is_some() && json.optional_count("max_window_layers")?.is_some() {
        let (subject, found) = ("a window in some layers, as", Quote::of("use_sliding_window"));
        let instead = "set it to false, or convert the model with llama.cpp";
        return Err(ImportError::Unsupported { subject, found, instead });
    }
    Ok(window)
}
