//! What a model looks like: the numbers of its architecture, read from the header and held against its tensors.
//!
//! After [`ModelShape::from_gguf`] has accepted a file, every tensor that the forward pass touches is there, has the
//! right dimensions and a type that can be computed with; nothing later has to doubt it.

mod error;
mod rotation;
mod tensors;

pub use self::error::ShapeError;
pub use self::rotation::{Ramp, Rotation};
pub(crate) use self::tensors::{Widths, layer_tensors, norm_names, outer_tensors};
use crate::architecture::Architecture;
use crate::embed::Pooling;
use ollamamax_gguf::{Gguf, GgufError};

/// Tensors of the rotation's divisors, one for each pair.
pub(crate) const FIXED_FACTORS: &str = "rope_freqs.weight";
pub(crate) const SHORT_FACTORS: &str = "rope_factors_short.weight";
pub(crate) const LONG_FACTORS: &str = "rope_factors_long.weight";

/// The numbers of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelShape {
    /// The family.
    pub architecture: &'static Architecture,
    /// Transformer layers.
    pub layers: u32,
    /// Where they stand in the model, when they are a part of one; else 0.
    pub first_layer: u32,
    /// Width of the residual stream.
    pub width: u32,
    /// Width of the feed-forward part.
    pub feed_forward: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Width of one head.
    pub head_width: u32,
    /// Elements of a head that are rotated by position; even.
    pub rope_width: u32,
    /// How they are rotated.
    pub rotation: Rotation,
    /// What some layers see less than everything.
    pub window: Option<Window>,
    /// Queries are multiplied by this.
    pub query_scale: f32,
    /// Attention scores are bent to stay below this; 0 for not.
    pub attention_cap: f32,
    /// Logits are bent to stay below this; 0 for not.
    pub logits_cap: f32,
    /// Embeddings are multiplied by this.
    pub embedding_scale: f32,
    /// Added to the mean square before its root; in an encoder, to the variance.
    pub norm_epsilon: f32,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// Tokens the model was trained to hold.
    pub context_tokens: u32,
    /// Whether the output head is the token embedding.
    pub tied: bool,
    /// Divisors of the frequencies.
    pub rope_factors: RopeFactors,
    /// Kinds of text an encoder tells apart, of which every text here is the first; 0 in other models.
    pub token_types: u32,
    /// How the hidden states of a text become one vector.
    pub pooling: Pooling,
}

/// Attention to the last positions only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Positions seen, a token's own included.
    pub tokens: u32,
    /// Every so many layers, the last of them sees everything; 0 when none does.
    pub full_every: u32,
    /// Rotation in layers with the window, where it is another.
    pub rotation: Option<Rotation>,
}

/// Which divisors of the rotation's frequencies a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeFactors {
    /// None.
    None,
    /// One for each pair.
    Fixed,
    /// Some for contexts up to `original_tokens`, others for longer ones.
    ByContext {
        /// The context the model first learned.
        original_tokens: u32,
    },
}

impl RopeFactors {
    /// The tensor for sequences that may grow to `context_tokens`. It must not depend on how long one is: keys are stored
    /// rotated.
    pub(crate) fn tensor(self, context_tokens: u32) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Fixed => Some(FIXED_FACTORS),
            Self::ByContext { original_tokens } if context_tokens > original_tokens => {
                Some(LONG_FACTORS)
            }
            Self::ByContext { .. } => Some(SHORT_FACTORS),
        }
    }
}

/// The metadata of one architecture, without its prefix.
struct Keys<'a> {
    gguf: &'a Gguf,
    architecture: &'static Architecture,
}

impl<'a> Keys<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name)
    }

    fn optional<T>(
        &self,
        name: &str,
        get: impl Fn(&'a Gguf, &str) -> Result<T, GgufError>,
    ) -> Result<Option<T>, GgufError> {
        self.gguf.optional(&self.key(name), get)
    }

    /// The key of what is added inside of norms: it tells their kind.
    fn epsilon(&self) -> &'static str {
        match self.architecture.encoder {
            true => "attention.layer_norm_epsilon",
            false => "attention.layer_norm_rms_epsilon",
        }
    }

    fn needed(&self, name: &str) -> Result<u32, GgufError> {
        self.gguf.get_u32(&self.key(name))
    }

    fn number(&self, name: &str) -> Result<Option<u32>, GgufError> {
        self.optional(name, Gguf::get_u32)
    }

    /// A float that is positive if it is there.
    fn positive(&self, name: &str) -> Result<Option<f32>, ShapeError> {
        match self.optional(name, Gguf::get_f32)? {
            Some(found) if !(found.is_finite() && found > 0.0) => {
                unsupported(&self.key(name), found, "a positive number")
            }
            found => Ok(found),
        }
    }

    /// A float that is not negative; 0 stands for nothing.
    fn cap(&self, name: &str, default: f32) -> Result<f32, ShapeError> {
        match self.optional(name, Gguf::get_f32)? {
            Some(found) if !(found.is_finite() && found >= 0.0) => {
                unsupported(&self.key(name), found, "a positive number, or 0 for no cap")
            }
            found => Ok(found.unwrap_or(default)),
        }
    }
}

impl ModelShape {
    /// Reads and checks the shape.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ShapeError> {
        let found = gguf.get_str("general.architecture")?;
        let Some(architecture) = Architecture::find(found) else {
            return Err(ShapeError::Architecture { found: found.to_owned() });
        };
        let keys = Keys { gguf, architecture };
        let shape = Self::read(&keys)?;
        shape.check_numbers(&keys)?;
        shape.check_tensors(gguf)?;
        Ok(shape)
    }

    /// Layers whose keys and values are held: an encoder needs those of a layer only while it computes it.
    pub(crate) fn cached_layers(&self) -> u32 {
        if self.architecture.encoder { 1 } else { self.layers }
    }

    /// How many of the last positions a layer sees.
    pub(crate) fn window_of(&self, layer: usize) -> Option<&Window> {
        let window = self.window.as_ref()?;
        let layer = self.first_layer as usize + layer;
        let every = window.full_every as usize;
        let full = every > 0 && layer % every == every - 1;
        (!full).then_some(window)
    }

    fn read(keys: &Keys<'_>) -> Result<Self, ShapeError> {
        let (gguf, architecture) = (keys.gguf, keys.architecture);
        let (layers, context_tokens) =
            (keys.needed("block_count")?, keys.needed("context_length")?);
        let heads = keys.needed("attention.head_count")?;
        let width = keys.needed("embedding_length")?;
        let by_heads = width.checked_div(heads).unwrap_or_default();
        let head_width = keys.number("attention.key_length")?.unwrap_or(by_heads);
        let rope_width = match architecture.learned_positions {
            true => 0,
            false => keys.number("rope.dimension_count")?.unwrap_or(head_width),
        };
        let wide = architecture.wide_query_layers == Some(layers);
        let rows = |name| -> Result<u32, ShapeError> {
            let rows = gguf.tensor(name)?.dims.get(1).copied().unwrap_or_default();
            Ok(u32::try_from(rows).unwrap_or_default())
        };
        let scaled = architecture.scaled_embedding;
        let norm_epsilon = gguf.get_f32(&keys.key(keys.epsilon()))?;
        Ok(Self {
            architecture,
            layers,
            first_layer: 0,
            width,
            feed_forward: keys.needed("feed_forward_length")?,
            heads,
            kv_heads: keys.number("attention.head_count_kv")?.unwrap_or(heads),
            head_width,
            rope_width,
            rotation: Rotation::read(keys, rope_width, context_tokens)?,
            window: window(keys)?,
            query_scale: 1.0 / (if wide { by_heads } else { head_width } as f32).sqrt(),
            attention_cap: keys.cap("attn_logit_softcapping", architecture.attention_cap)?,
            logits_cap: keys.cap("final_logit_softcapping", architecture.logits_cap)?,
            embedding_scale: if scaled { (width as f32).sqrt() } else { 1.0 },
            norm_epsilon,
            vocabulary: rows("token_embd.weight")?,
            context_tokens,
            tied: gguf.find_tensor("output.weight").is_none(),
            rope_factors: rope_factors(keys, context_tokens)?,
            token_types: if architecture.encoder { rows("token_types.weight")? } else { 0 },
            pooling: pooling(keys)?,
        })
    }

    fn check_numbers(&self, keys: &Keys<'_>) -> Result<(), ShapeError> {
        let positive = [
            ("block_count", self.layers),
            ("embedding_length", self.width),
            ("feed_forward_length", self.feed_forward),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head_width),
            ("context_length", self.context_tokens),
        ];
        let fail = |name, found: u64, reason| {
            Err(ShapeError::Number { key: keys.key(name), found, reason })
        };
        for (name, found) in positive {
            if found == 0 {
                return fail(name, 0, "it must be positive");
            }
        }
        if u64::from(self.layers) > keys.gguf.tensors().len() as u64 {
            let reason = "the file has fewer tensors than layers";
            return fail("block_count", self.layers.into(), reason);
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let reason = "it must divide the number of query heads";
            return fail("attention.head_count_kv", self.kv_heads.into(), reason);
        }
        if self.rope_width > self.head_width || !self.rope_width.is_multiple_of(2) {
            let reason = "it must be even and no wider than a head";
            return fail("rope.dimension_count", self.rope_width.into(), reason);
        }
        if !(self.norm_epsilon.is_finite() && self.norm_epsilon >= 0.0) {
            let key = keys.key(keys.epsilon());
            return unsupported(&key, self.norm_epsilon, "a small positive number");
        }
        let causal = keys.optional("attention.causal", Gguf::get_bool)?;
        if let Some(found) = causal.filter(|&causal| causal == self.architecture.encoder) {
            let expected = if found { "false: an encoder" } else { "true: no encoder" };
            return unsupported(&keys.key("attention.causal"), found, expected);
        }
        let expected = [
            ("attention.value_length", self.head_width, "the same as key_length"),
            ("expert_count", 0, "0: no mixture of experts"),
        ];
        for (name, value, expected) in expected {
            match keys.number(name)? {
                Some(found) if found != value => {
                    return unsupported(&keys.key(name), found, expected);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl ModelShape {
    /// Something small, for tests of what depends on heads only.
    pub(crate) fn for_tests(kv_heads: u32, head_width: u32) -> Self {
        Self {
            architecture: &crate::architecture::ALL[0],
            layers: 2,
            first_layer: 0,
            width: 64,
            feed_forward: 64,
            heads: 2 * kv_heads,
            kv_heads,
            head_width,
            rope_width: head_width,
            rotation: Rotation::plain(10_000.0),
            window: None,
            query_scale: 1.0,
            attention_cap: 0.0,
            logits_cap: 0.0,
            embedding_scale: 1.0,
            norm_epsilon: 1e-5,
            vocabulary: 96,
            context_tokens: 2048,
            tied: true,
            rope_factors: RopeFactors::None,
            token_types: 0,
            pooling: Pooling::Mean,
        }
    }
}

fn unsupported<T>(
    key: &str,
    found: impl ToString,
    expected: &'static str,
) -> Result<T, ShapeError> {
    Err(ShapeError::Feature { key: key.to_owned(), found: found.to_string(), expected })
}

fn window(keys: &Keys<'_>) -> Result<Option<Window>, ShapeError> {
    let family = keys.architecture;
    let tokens = keys.number("attention.sliding_window")?.unwrap_or(family.window_tokens);
    if tokens == 0 {
        return Ok(None);
    }
    let full_every = keys.number("attention.sliding_window_pattern")?.unwrap_or(family.full_every);
    // Ollama's own files of Gemma 3 have other names for both bases.
    let base = keys.positive("rope.freq_base_swa")?.or(keys.positive("rope.local.freq_base")?);
    let base = base.or(family.local_rope_base);
    Ok(Some(Window { tokens, full_every, rotation: base.map(Rotation::plain) }))
}

/// By llama.cpp's numbers (`llama_pooling_type`). A file that says nothing, or that its tokens are not pooled, gets the mean.
fn pooling(keys: &Keys<'_>) -> Result<Pooling, ShapeError> {
    match keys.number("pooling_type")? {
        None | Some(0 | 1) => Ok(Pooling::Mean),
        Some(2) => Ok(Pooling::First),
        Some(3) => Ok(Pooling::Last),
        Some(found) => {
            unsupported(&keys.key("pooling_type"), found, "0 to 3: none, mean, cls or last")
        }
    }
}

fn rope_factors(keys: &Keys<'_>, context_tokens: u32) -> Result<RopeFactors, ShapeError> {
    let has = |name| keys.gguf.find_tensor(name).is_some();
    if has(SHORT_FACTORS) || has(LONG_FACTORS) {
        let original = keys.number("rope.scaling.original_context_length")?;
        return Ok(RopeFactors::ByContext { original_tokens: original.unwrap_or(context_tokens) });
    }
    Ok(if has(FIXED_FACTORS) { RopeFactors::Fixed } else { RopeFactors::None })
}
