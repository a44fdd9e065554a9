//! Where a layer may be cut into shards: between key-value heads, and so that no block of quantised weights is torn.
//!
//! A shard has whole key-value heads with the query heads of their group, and the same share of the feed-forward columns.
//! The output projection of the attention and the down projection of the feed-forward are cut along their rows' length,
//! where a format keeps 32 or 256 weights in one block.

use super::misfit::Misfit;
use ollamamax_proto::model::ModelFacts;

/// The cuts of a model's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Key-value heads of each layer.
    pub heads: u32,
    /// Heads that stay together: every cut is a multiple of it, and it divides `heads`.
    pub unit: u32,
}

impl Attention {
    /// A model that is cut nowhere within its layers.
    pub const WHOLE: Self = Self { heads: 1, unit: 1 };

    /// Read from the metadata.
    ///
    /// # Errors
    /// When the layers of the model cannot be cut, with the reason.
    pub fn of(facts: &ModelFacts) -> Result<Self, Misfit> {
        if facts.kv_bytes_per_token == 0 {
            return Err(Misfit::Encoder);
        }
        let metadata: serde_json::Value =
            serde_json::from_str(&facts.metadata_json).unwrap_or_default();
        let number = |key: &str| {
            let value = metadata.get(format!("{}.{key}", facts.architecture))?;
            value.as_u64().filter(|value| (1..1 << 32).contains(value))
        };
        let need = |key: &'static str| number(key).ok_or(Misfit::Unknown { field: key });
        let query = need("attention.head_count")?;
        let heads = number("attention.head_count_kv").unwrap_or(query);
        let width = number("attention.value_length")
            .or_else(|| Some(need("embedding_length").ok()? / query))
            .ok_or(Misfit::Unknown { field: "embedding_length" })?;
        let columns = need("feed_forward_length")?;
        // A model whose layers differ in heads has them in an array, which the metadata leaves out: the cache's size
        // gives it away.
        let key = number("attention.key_length").unwrap_or(width);
        let even = heads * (width + key) * u64::from(facts.layers);
        let uneven = even == 0 || !facts.kv_bytes_per_token.is_multiple_of(even);
        if uneven || query % heads != 0 {
            return Err(Misfit::Unknown { field: "attention.head_count_kv" });
        }
        let block = block(&facts.quantization);
        let fits = |unit: u64| {
            heads % unit == 0
                && (unit * (query / heads) * width).is_multiple_of(block)
                && columns % (heads / unit) == 0
                && (columns / (heads / unit)).is_multiple_of(block)
        };
        let unit = (1..heads).find(|unit| fits(*unit)).ok_or_else(|| Misfit::Torn {
            quantization: facts.quantization.clone(),
            block: u32::try_from(block).unwrap_or(u32::MAX),
            heads: u32::try_from(heads).unwrap_or(u32::MAX),
            columns,
        })?;
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Ok(Self { heads: small(heads), unit: small(unit) })
    }

    /// Into how many shards, more than one, it makes sense to cut the layers: the largest shard is smaller than with one
    /// shard less. So three heads make two shards, of two heads and one, but four heads never make three.
    pub fn shards(self) -> Vec<u32> {
        let units = self.heads / self.unit.max(1);
        let largest = |count: u32| units.div_ceil(count);
        (2..=units).filter(|count| largest(*count) < largest(count - 1)).collect()
    }
}

/// Weights in one block of a format, as llama.cpp names it.
fn block(quantization: &str) -> u64 {
    match quantization {
        "F32" | "F16" | "BF16" => 1,
        "Q4_0" | "Q4_1" | "Q5_0" | "Q5_1" | "Q8_0" | "Q8_1" | "IQ4_NL" | "MXFP4" => 32,
        // K-quants, the other I-quants, and whatever comes: nothing has larger blocks.
        _ => 256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(heads: u32, kv: u32, width: u32, ffn: u32, quantization: &str) -> ModelFacts {
        let embedding_length = heads * width;
        ModelFacts {
            architecture: "llama".into(),
            quantization: quantization.into(),
            embedding_length,
            layers: 2,
            kv_bytes_per_token: u64::from(2 * kv * width * 2 * 2),
            metadata_json: format!(
                r#"{{"llama.attention.head_count":{heads},"llama.attention.head_count_kv":{kv},
                "llama.embedding_length":{embedding_length},"llama.feed_forward_length":{ffn}}}"#
            ),
            ..ModelFacts::default()
        }
    }

    #[test]
    fn heads_stay_with_their_group_and_blocks_stay_whole() {
        // query heads, key-value heads, width, columns, format: unit, shards
        for (heads, kv, width, ffn, format, unit, shards) in [
            (32, 8, 128, 14_336, "Q4_K_M", 1, vec![2, 3, 4, 8]),
            (32, 8, 64, 8_192, "Q8_0", 1, vec![2, 3, 4, 8]),
            (9, 3, 64, 1_536, "Q4_1", 1, vec![2, 3]),
            (16, 4, 64, 4_096, "Q8_0", 1, vec![2, 4]),
            (32, 8, 32, 8_192, "Q4_K_M", 2, vec![2, 4]),
            (14, 2, 64, 4_864, "Q8_0", 1, vec![2]),
            (12, 6, 64, 1_536, "F16", 1, vec![2, 3, 6]),
        ] {
            let got = Attention::of(&facts(heads, kv, width, ffn, format)).expect("it can be cut");
            assert_eq!((got.unit, got.shards()), (unit, shards), "{heads} {kv} {width} {format}");
        }
    }

    #[test]
    fn what_cannot_be_cut_says_why() {
        let torn = Attention::of(&facts(14, 2, 64, 4_864, "Q4_K_M")).expect_err("448 of 256");
        assert_eq!(
            torn.to_string(),
            "no cut between its 2 key-value heads leaves whole blocks of 256 weights (Q4_K_M, 4864 \
             feed-forward columns); `layer` and `pipeline` need no such cut"
        );
        let bare = ModelFacts { metadata_json: "{}".into(), ..facts(4, 2, 8, 64, "F32") };
        assert!(matches!(Attention::of(&bare), Err(Misfit::Unknown { .. })));
        let other = ModelFacts { kv_bytes_per_token: 77, ..facts(4, 2, 8, 64, "F32") };
        assert!(matches!(Attention::of(&other), Err(Misfit::Unknown { .. })), "heads by layer");
    }
}
