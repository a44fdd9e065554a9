//! `options` of Ollama's endpoints: every name, its type, its default and its range, from where they are read.

use crate::options::{KINDS, Kind};
use ollamamax_proto::inference::Options;
use ollamamax_proto::limits;
use ollamamax_proto::sampling::Bounds;
use serde_json::{Value, json};
use std::borrow::Cow;
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, ObjectBuilder, SchemaType, Type,
};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// How a model answers, and what it is loaded with. Unknown names are ignored.
pub struct GenerationOptions;

impl ToSchema for GenerationOptions {
    fn name() -> Cow<'static, str> {
        "GenerationOptions".into()
    }
}

impl PartialSchema for GenerationOptions {
    fn schema() -> RefOr<Schema> {
        let known = KINDS.iter().fold(ObjectBuilder::new(), |object, (name, kind)| {
            object.property(*name, option(name, *kind))
        });
        known
            .description(Some(
                "How a model answers, and what it is loaded with; a model's own parameters count where this is silent. \
                 Unknown names are ignored.",
            ))
            .additional_properties(Some(AdditionalProperties::FreeForm(true)))
            .examples([json!({"seed": 7, "temperature": 0.2, "num_predict": 64})])
            .into()
    }
}

fn option(name: &str, kind: Kind) -> Schema {
    let of = |kind| SchemaType::from_iter([kind, Type::Null]);
    if kind == Kind::Texts {
        let text = ObjectBuilder::new().schema_type(Type::String);
        let texts = ArrayBuilder::new().schema_type(of(Type::Array)).items(text);
        return texts.description(about(name)).max_items(Some(limits::STOPS_COUNT)).into();
    }
    let (least, most) = range(name);
    // Clients of languages without integers send 40.0, which is taken for one.
    let kind = match kind {
        Kind::Integer => Type::Integer,
        Kind::Float => Type::Number,
        Kind::Boolean => Type::Boolean,
        Kind::Text | Kind::Texts => Type::String,
    };
    ObjectBuilder::new()
        .schema_type(of(kind))
        .description(about(name))
        .minimum(least)
        .maximum(most)
        .default(default(name))
        .into()
}

/// The smallest and the largest value that is taken.
fn range(name: &str) -> (Option<f64>, Option<f64>) {
    let bounds = match name {
        "temperature" => Bounds::TEMPERATURE,
        "top_p" | "min_p" | "typical_p" => Bounds::PROBABILITY,
        "mirostat_tau" => Bounds::MIROSTAT_TAU,
        "mirostat_eta" => Bounds::MIROSTAT_ETA,
        "repeat_penalty" => Bounds::REPEAT_PENALTY,
        "presence_penalty" | "frequency_penalty" => Bounds::PENALTY,
        "tfs_z" => return (Some(0.0), None),
        "mirostat" => return (Some(0.0), Some(2.0)),
        "num_ctx" => return (Some(0.0), Some(f64::from(u32::MAX))),
        "num_predict" => return (Some(-2.0), None),
        _ => return (None, None),
    };
    (Some(bounds.least().into()), Some(bounds.most().into()))
}

fn default(name: &str) -> Option<Value> {
    let usual = Options::default();
    let float = |value: f32| value.to_string().parse::<f64>().ok().map(Value::from);
    let sampling = &usual.sampling;
    match name {
        "num_keep" => Some(usual.keep_tokens.into()),
        "seed" | "num_predict" => Some((-1).into()),
        "top_k" => Some(sampling.top_k.into()),
        "repeat_last_n" => Some(sampling.repeat_last.into()),
        "temperature" => float(sampling.temperature),
        "top_p" => float(sampling.top_p),
        "min_p" => float(sampling.min_p),
        "typical_p" => float(sampling.typical_p),
        "tfs_z" => float(sampling.tfs_z),
        "repeat_penalty" => float(sampling.repeat_penalty),
        "presence_penalty" => float(sampling.presence_penalty),
        "frequency_penalty" => float(sampling.frequency_penalty),
        "mirostat" => Some(0.into()),
        "ignore_eos" => Some(usual.ignore_end.into()),
        _ => None,
    }
}

fn about(name: &str) -> Option<&'static str> {
    Some(match name {
        "seed" => "The same seed gives the same text; -1 draws one.",
        "num_predict" => "Tokens at most; -1: until done, -2: until the context is full.",
        "num_ctx" => {
            "Tokens of context; 0: what is usual. More than the model was trained with is cut."
        }
        "num_keep" => {
            "Tokens at the beginning that stay when a full context shifts; negative: all."
        }
        "top_k" => "The likeliest tokens that are chosen from; 0 or less: all.",
        "repeat_last_n" => "Tokens looked back at for repetitions; negative: all.",
        "mirostat" => "0: off, or the version.",
        "mirostat_eta" | "mirostat_tau" => "Of Mirostat; above its minimum.",
        "stop" => "Texts before which the answer ends.",
        "grammar" => "What the answer may be, in Lark.",
        "num_batch" | "num_gpu" | "main_gpu" | "num_thread" | "draft_num_predict" | "use_mmap" => {
            "Taken for the sake of Ollama's clients; workers decide this themselves."
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::merge;
    use serde_json::Map;
    use std::collections::BTreeMap;

    fn takes(name: &str, value: Value) -> bool {
        let request = Map::from_iter([(name.to_owned(), value)]);
        merge(&BTreeMap::new(), &request, || 0).is_ok()
    }

    #[test]
    fn the_ranges_told_are_those_that_are_held() {
        for (name, kind) in KINDS {
            let (least, most) = range(name);
            let number = |value: f64| match kind {
                Kind::Integer => json!(value as i64),
                _ => json!(value),
            };
            if let Some(least) = least {
                let above = name.starts_with("mirostat_");
                assert_eq!(takes(name, number(least)), !above, "{name} at its least");
                assert!(!takes(name, number(least - 1.0)), "{name} below its least");
            }
            if let Some(most) = most {
                assert!(takes(name, number(most)), "{name} at its most");
                assert!(!takes(name, number(most + 1.0)), "{name} above its most");
            }
            if let Some(default) = default(name) {
                assert!(takes(name, default), "the default of {name}");
            }
        }
    }
}
