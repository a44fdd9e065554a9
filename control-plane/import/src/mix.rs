//! Which tensor gets which type: a quantisation is a usual type and exceptions from it.
//!
//! Vectors and norms stay as they are. The head (and the embedding where it is the head) loses most and gets six bits under
//! any smaller type; the `M` mixes give more to values and to what comes down from the feed-forward part, in the first and last
//! eighth of the layers and every third between. Where a row is no whole number of blocks, a type of smaller blocks takes its
//! place. The rules are llama.cpp's (`llama_tensor_get_type`), for models without experts.

use crate::error::{ImportError, Quote};
use crate::levels;
use ollamamax_gguf::GgmlType;
use std::fmt;
use std::str::FromStr;

/// What to make of a model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are llama.cpp's own")]
#[allow(non_camel_case_types, reason = "the names are llama.cpp's own")]
pub enum Quantisation {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q4_K_S,
    Q4_K_M,
    Q5_K_S,
    Q5_K_M,
    Q6_K,
}

use Quantisation::*;

struct Row {
    quantisation: Quantisation,
    name: &'static str,
    /// llama.cpp's `llama_ftype`.
    file_type: u32,
    usual: GgmlType,
}

const fn row(
    quantisation: Quantisation,
    name: &'static str,
    file_type: u32,
    usual: GgmlType,
) -> Row {
    Row { quantisation, name, file_type, usual }
}

/// In the order of the enum.
const TABLE: [Row; 13] = [
    row(F32, "F32", 0, GgmlType::F32),
    row(F16, "F16", 1, GgmlType::F16),
    row(BF16, "BF16", 32, GgmlType::BF16),
    row(Q8_0, "Q8_0", 7, GgmlType::Q8_0),
    row(Q4_0, "Q4_0", 2, GgmlType::Q4_0),
    row(Q4_1, "Q4_1", 3, GgmlType::Q4_1),
    row(Q5_0, "Q5_0", 8, GgmlType::Q5_0),
    row(Q5_1, "Q5_1", 9, GgmlType::Q5_1),
    row(Q4_K_S, "Q4_K_S", 14, GgmlType::Q4_K),
    row(Q4_K_M, "Q4_K_M", 15, GgmlType::Q4_K),
    row(Q5_K_S, "Q5_K_S", 16, GgmlType::Q5_K),
    row(Q5_K_M, "Q5_K_M", 17, GgmlType::Q5_K),
    row(Q6_K, "Q6_K", 18, GgmlType::Q6_K),
];

/// What decides beside the tensor itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Build {
    pub layers: u32,
    /// The embedding is the head, too.
    pub tied: bool,
    /// Fewer keys than queries.
    pub grouped: bool,
}

impl Quantisation {
    /// Its name, e.g. `Q4_K_M`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// All of them by name, with commas between.
    pub fn names() -> String {
        TABLE.map(|row| row.name).join(", ")
    }

    pub(crate) fn file_type(self) -> u32 {
        self.row().file_type
    }

    /// The quantisation that is mostly of a type, where there is one that changes nothing.
    pub(crate) fn of_floats(kind: GgmlType) -> Option<Self> {
        [F32, F16, BF16].into_iter().find(|quantisation| quantisation.row().usual == kind)
    }

    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The type of a tensor with rows of `width`, if it is one that changes.
    pub(crate) fn kind(self, name: &str, dims: &[u64], build: Build) -> Option<GgmlType> {
        changes(name, dims).then(|| self.fitting(name, dims[0], build))
    }

    fn fitting(self, name: &str, width: u64, build: Build) -> GgmlType {
        let usual = self.row().usual;
        if matches!(self, F32 | F16 | BF16) {
            return usual;
        }
        let is_head = name == "output.weight" || build.tied && name == "token_embd.weight";
        let kind = match is_head {
            true if !fits(usual, width) => GgmlType::Q8_0,
            true if usual != GgmlType::Q8_0 => GgmlType::Q6_K,
            true => usual,
            false => self.by_part(name, build),
        };
        smaller(kind, width)
    }

    fn by_part(self, name: &str, build: Build) -> GgmlType {
        let usual = self.row().usual;
        let Some((layer, part)) = layer(name) else { return usual };
        let Build { layers, .. } = build;
        let (first, last) = (layers / 8, 7 * layers / 8);
        let more = layer < first || layer >= last || (layer - first) % 3 == 2;
        let is_value = matches!(part, "attn_v.weight" | "attn_qkv.weight");
        let is_down = part.starts_with("ffn_down");
        let kind = match self {
            Q4_K_M | Q5_K_M if more && (is_value || is_down) => GgmlType::Q6_K,
            Q4_K_S if is_value && layer < 4 || is_down && layer < first => GgmlType::Q5_K,
            _ => usual,
        };
        // Eight heads share those of the 70B models: they are small and much depends on them.
        let shared = is_value && layers == 80 && build.grouped;
        if shared && kind == GgmlType::Q4_K { GgmlType::Q5_K } else { kind }
    }
}

/// Whether a tensor is quantised at all.
fn changes(name: &str, dims: &[u64]) -> bool {
    const KEPT: [&str; 4] =
        ["_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", "token_types.weight"];
    dims.len() == 2 && name.ends_with("weight") && !KEPT.iter().any(|kept| name.contains(kept))
}

/// `blk.7.attn_v.weight` is of layer 7.
fn layer(name: &str) -> Option<(u32, &str)> {
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, part))
}

fn fits(kind: GgmlType, width: u64) -> bool {
    width.is_multiple_of(kind.block_elements())
}

/// The type, or the one that takes its place where rows are no whole number of blocks.
fn smaller(kind: GgmlType, width: u64) -> GgmlType {
    if fits(kind, width) {
        return kind;
    }
    let instead = match kind {
        GgmlType::Q4_K => GgmlType::Q5_0,
        GgmlType::Q5_K => GgmlType::Q5_1,
        GgmlType::Q6_K => GgmlType::Q8_0,
        other => other,
    };
    debug_assert!(levels::can_write(instead));
    if fits(instead, width) { instead } else { GgmlType::F16 }
}

impl fmt::Display for Quantisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Quantisation {
    type Err = ImportError;

    /// By name in any case; `q4_K` and `q5_K` are the `M` mixes, as in llama.cpp.
    fn from_str(text: &str) -> Result<Self, ImportError> {
        let name = match text.to_ascii_uppercase().as_str() {
            "Q4_K" => "Q4_K_M".to_owned(),
            "Q5_K" => "Q5_K_M".to_owned(),
            name => name.to_owned(),
        };
        let found = TABLE.iter().find(|row| row.name == name).map(|row| row.quantisation);
        let unknown = || {
            let (found, supported) = (Quote::of(text), Self::names());
            ImportError::UnknownQuantisation { found, supported }
        };
        found.ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILD: Build = Build { layers: 32, tied: false, grouped: true };

    #[test]
    fn every_quantisation_is_found_by_its_name_and_indexes_its_row() {
        for row in &TABLE {
            assert_eq!(row.quantisation.name(), row.name);
            assert_eq!(
                row.name.to_lowercase().parse::<Quantisation>().expect("known"),
                row.quantisation
            );
        }
        assert_eq!("q4_K".parse::<Quantisation>().expect("known"), Q4_K_M);
        let error = "q3_K_S".parse::<Quantisation>().expect_err("not one of ours");
        assert!(
            error.to_string().starts_with("unsupported quantization type \"q3_K_S\" - supported")
        );
    }

    #[test]
    fn the_m_mix_gives_more_to_values_and_to_what_comes_down() {
        let layers = |part: &str| -> Vec<u32> {
            let kind = |layer| {
                let name = format!("blk.{layer}.{part}.weight");
                Q4_K_M.kind(&name, &[4096, 1024], BUILD).expect("it changes")
            };
            (0..32).filter(|layer| kind(*layer) == GgmlType::Q6_K).collect()
        };
        let more = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];
        assert_eq!(layers("attn_v"), more);
        assert_eq!(layers("ffn_down"), more);
        assert_eq!(layers("attn_q"), [0; 0]);
    }

    #[test]
    fn the_head_gets_six_bits_and_odd_rows_smaller_blocks() {
        let kind = |q: Quantisation, name: &str, width, tied| {
            q.kind(name, &[width, 100], Build { tied, ..BUILD })
        };
        assert_eq!(kind(Q4_0, "output.weight", 4096, false), Some(GgmlType::Q6_K));
        assert_eq!(kind(Q8_0, "output.weight", 4096, false), Some(GgmlType::Q8_0));
        assert_eq!(kind(Q4_0, "token_embd.weight", 4096, false), Some(GgmlType::Q4_0));
        assert_eq!(kind(Q4_0, "token_embd.weight", 576, true), Some(GgmlType::Q8_0));
        assert_eq!(kind(Q4_K_M, "blk.5.attn_q.weight", 576, true), Some(GgmlType::Q5_0));
        assert_eq!(kind(Q5_K_M, "blk.5.attn_q.weight", 576, true), Some(GgmlType::Q5_1));
        assert_eq!(kind(Q6_K, "blk.5.attn_q.weight", 576, true), Some(GgmlType::Q8_0));
        assert_eq!(kind(Q4_0, "blk.5.attn_q.weight", 100, true), Some(GgmlType::F16));
        assert_eq!(kind(Q4_0, "blk.5.attn_norm.weight", 4096, true), None);
        assert_eq!(Q4_0.kind("blk.5.attn_q.bias", &[4096], BUILD), None);
        assert_eq!(F16.kind("output.weight", &[4096, 5], BUILD), Some(GgmlType::F16));
    }
}
