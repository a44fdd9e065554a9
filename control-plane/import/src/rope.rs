//! How positions turn queries and keys: the base, and how it is stretched for contexts longer than those of the training.
//!
//! `linear` and `yarn` are entries of a GGUF; `llama3` is a tensor of factors, one for each pair that turns.

use crate::error::{ImportError, Quote};
use crate::json::{Json, number};
use ollamamax_gguf::Value as Entry;
use serde_json::Value;

/// The rotation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rope {
    base: f64,
    scaling: Scaling,
}

#[derive(Clone, Debug, PartialEq)]
enum Scaling {
    None,
    Linear {
        factor: f64,
    },
    Yarn {
        factor: f64,
        original: u32,
        fast: Option<f64>,
        slow: Option<f64>,
        attention: Option<f64>,
    },
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: u32,
    },
}

impl Rope {
    /// Reads it from `config.json`, where older ones have `rope_theta` and `rope_scaling` and newer ones `rope_parameters`.
    pub fn read(json: &Json, context: u32) -> Result<Self, ImportError> {
        let object = "an object";
        let all = json.optional("rope_parameters", object, Value::as_object)?;
        let scaling = json.optional("rope_scaling", object, Value::as_object)?.or(all);
        let base = match all.and_then(|all| all.get("rope_theta")) {
            Some(base) => Some(number(base).ok_or_else(|| {
                json.wrong("rope_parameters.rope_theta", base, "a number above 0")
            })?),
            None => json.optional_number("rope_theta")?,
        };
        let base = base.unwrap_or(10_000.0);
        let Some(scaling) = scaling else { return Ok(Self { base, scaling: Scaling::None }) };
        let optional = |field: &str| match scaling.get(field).filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => number(value).map(Some).ok_or_else(|| {
                json.wrong(&format!("rope_scaling.{field}"), value, "a number above 0")
            }),
        };
        let needed = |field: &str| {
            let missing =
                || json.wrong(&format!("rope_scaling.{field}"), "missing", "a number above 0");
            optional(field)?.ok_or_else(missing)
        };
        let kind = scaling.get("rope_type").or(scaling.get("type")).and_then(Value::as_str);
        let original = optional("original_max_position_embeddings")?
            .map_or(context, |original| original as u32);
        let scaling = match kind.unwrap_or("default") {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor: needed("factor")? },
            "yarn" => Scaling::Yarn {
                factor: needed("factor")?,
                original,
                fast: optional("beta_fast")?,
                slow: optional("beta_slow")?,
                attention: optional("attention_factor")?,
            },
            "llama3" => Scaling::Llama3 {
                factor: needed("factor")?,
                low: needed("low_freq_factor")?,
                high: needed("high_freq_factor")?,
                original,
            },
            other => {
                let (subject, found) = ("the rotation", Quote::of(other));
                let instead = "`default`, `linear`, `yarn` and `llama3` are";
                return Err(ImportError::Unsupported { subject, found, instead });
            }
        };
        Ok(Self { base, scaling })
    }

    /// The entries of the GGUF that tell it, without the family's name before the key.
    pub fn entries(&self) -> Vec<(&'static str, Entry)> {
        let float = |value: f64| Entry::F32(value as f32);
        let text = |value: &str| Entry::Str(value.to_owned());
        let mut all = vec![("rope.freq_base", float(self.base))];
        match self.scaling {
            Scaling::None | Scaling::Llama3 { .. } => {}
            Scaling::Linear { factor } => {
                all.push(("rope.scaling.type", text("linear")));
                all.push(("rope.scaling.factor", float(factor)));
            }
            Scaling::Yarn { factor, original, fast, slow, attention } => {
                all.push(("rope.scaling.type", text("yarn")));
                all.push(("rope.scaling.factor", float(factor)));
                all.push(("rope.scaling.original_context_length", Entry::U32(original)));
                for (key, value) in [
                    ("rope.scaling.yarn_beta_fast", fast),
                    ("rope.scaling.yarn_beta_slow", slow),
                    // That of Transformers is the whole, that of a GGUF is times what YaRN itself gives.
                    ("rope.scaling.attn_factor", attention.map(|all| all / grown(factor))),
                ] {
                    all.extend(value.map(|value| (key, float(value))));
                }
            }
        }
        all
    }

    /// The factors of `rope_freqs.weight`, one for each pair of a head of `head_width`, where the rotation has some.
    pub fn factors(&self, head_width: u32) -> Option<Vec<f32>> {
        let Scaling::Llama3 { factor, low, high, original } = self.scaling else { return None };
        let original = f64::from(original);
        let each = (0..head_width / 2).map(|pair| {
            let turn = self.base.powf(-f64::from(2 * pair) / f64::from(head_width));
            let wave = std::f64::consts::TAU / turn;
            let stretched = if wave < original / high {
                1.0
            } else if wave > original / low {
                factor
            } else {
                let smooth = (original / wave - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            };
            stretched as f32
        });
        Some(each.collect())
    }
}

/// What YaRN multiplies attention with.
fn grown(factor: f64) -> f64 {
    if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Rope, ImportError> {
        let value = serde_json::from_str(text).expect("JSON");
        Rope::read(&Json { file: "config.json", value }, 131_072)
    }

    /// Llama 3.2's, against the figures of the formula of llama.cpp's converter (`LlamaModel.generate_extra_tensors`), in numpy.
    #[test]
    fn llama3_stretches_the_slow_pairs() {
        let rope = read(
            r#"{"rope_theta": 500000.0, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0,
            "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}}"#,
        );
        let factors = rope.expect("sound").factors(64).expect("it has factors");
        assert_eq!(factors.len(), 32);
        assert_eq!((factors[0], factors[14], factors[31]), (1.0, 1.0, 32.0));
        let near = |found: f32, expected: f32| (found / expected - 1.0).abs() < 1e-4;
        assert!(near(factors[15], 1.651_329), "{factors:?}");
        assert!(near(factors[17], 9.666_729), "{factors:?}");
    }

    #[test]
    fn older_and_newer_configurations_say_the_same() {
        let old = read(r#"{"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4}}"#);
        let new =
            read(r#"{"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4}}"#);
        assert_eq!(old.expect("sound"), new.expect("sound"));
        let plain = read("{}").expect("sound");
        assert_eq!(plain.entries(), [("rope.freq_base", Entry::F32(10_000.0))]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for text in [
            r#"{"rope_scaling": {"rope_type": "dynamic", "factor": 2}}"#,
            r#"{"rope_scaling": {"rope_type": "linear"}}"#,
            r#"{"rope_scaling": {"rope_type": "linear", "factor": -1}}"#,
            r#"{"rope_scaling": []}"#,
            r#"{"rope_theta": "much"}"#,
        ] {
            read(text).expect_err(text);
        }
    }
}
