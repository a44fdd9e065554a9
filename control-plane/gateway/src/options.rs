//! Generation options: request over model PARAMETER over default, as Ollama merges them.
//!
//! One table ([`kind`]) names every known option and its type; requests bring JSON values, models bring texts, and both end
//! in the same typed [`Options`]. Unknown names are ignored with a log line; a wrong type is refused by name.

use crate::error::Failure;
use ollamamax_proto::inference::{Options, Predict};
use ollamamax_proto::limits;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The type of an option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Integer,
    /// A number.
    Float,
    /// True or false.
    Boolean,
    /// A list of texts.
    Texts,
}

/// What kind of value an option takes; `None` for names nobody knows.
pub fn kind(name: &str) -> Option<Kind> {
    Some(match name {
        "num_keep" | "seed" | "num_predict" | "top_k" | "repeat_last_n" | "num_ctx"
        | "num_batch" | "num_gpu" | "main_gpu" | "num_thread" | "draft_num_predict" => {
            Kind::Integer
        }
        "top_p" | "min_p" | "typical_p" | "temperature" | "repeat_penalty" | "presence_penalty"
        | "frequency_penalty" => Kind::Float,
        "use_mmap" | "ignore_eos" => Kind::Boolean,
        "stop" => Kind::Texts,
        _ => return None,
    })
}

/// Names Ollama once knew and still lets pass.
const RETIRED: [&str; 11] = [
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "tfs_z",
    "penalize_newline",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mlock",
    "numa",
];

/// What a request and its model ask for, merged. `draw` gives the seed when nobody named one: it is drawn once per request,
/// so that every attempt over workers continues the same text.
pub fn merge(
    parameters: &BTreeMap<String, Vec<String>>,
    request: &Map<String, Value>,
    draw: impl FnOnce() -> u64,
) -> Result<Options, Failure> {
    let mut options = Options::default();
    let mut seed = None;
    for (name, values) in parameters {
        if kind(name).is_some() {
            apply(&mut options, &mut seed, name, &parameter_value(name, values))?;
        }
    }
    for (name, value) in request {
        if value.is_null() {
            continue;
        }
        if kind(name).is_some() {
            apply(&mut options, &mut seed, name, value)?;
        } else if !RETIRED.contains(&name.as_str()) {
            tracing::debug!(option = name, "invalid option provided");
        }
    }
    options.sampling.seed = seed.unwrap_or_else(draw);
    Ok(options)
}

/// A model's PARAMETER as the JSON value it stands for.
pub fn parameter_value(name: &str, values: &[String]) -> Value {
    let last = values.last().map(String::as_str).unwrap_or_default();
    let text = || Value::String(last.to_owned());
    match kind(name) {
        Some(Kind::Texts) => values.iter().cloned().map(Value::String).collect(),
        Some(Kind::Boolean) => last.parse::<bool>().map_or_else(|_| text(), Value::Bool),
        Some(Kind::Integer | Kind::Float) => {
            serde_json::from_str::<serde_json::Number>(last).map_or_else(|_| text(), Value::Number)
        }
        None => text(),
    }
}

/// A JSON value as the texts of a PARAMETER, type-checked when the name is known.
pub fn parameter_texts(name: &str, value: &Value) -> Result<Vec<String>, Failure> {
    if kind(name).is_some() && !value.is_null() {
        apply(&mut Options::default(), &mut None, name, value)?;
    }
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Ok(match value {
        Value::Null => Vec::new(),
        Value::Array(values) => values.iter().map(text).collect(),
        other => vec![text(other)],
    })
}

fn apply(
    options: &mut Options,
    seed: &mut Option<u64>,
    name: &str,
    value: &Value,
) -> Result<(), Failure> {
    let sampling = &mut options.sampling;
    match name {
        "num_keep" => options.keep_tokens = count(name, value, i64::from(i32::MAX))?,
        "seed" => {
            // -1 draws one; other negative seeds are seeds.
            *seed = Some(integer(name, value)?).filter(|seed| *seed != -1).map(i64::cast_unsigned);
        }
        "num_predict" => options.predict = predict(name, value)?,
        "top_k" => sampling.top_k = count(name, value, 0)?,
        "repeat_last_n" => sampling.repeat_last = count(name, value, i64::from(i32::MAX))?,
        "num_ctx" => {
            let tokens = u32::try_from(integer(name, value)?)
                .map_err(|_| out_of_range(name, value, "a number of tokens, 0 or more"))?;
            options.context_tokens = Some(tokens).filter(|tokens| *tokens > 0);
        }
        "temperature" => sampling.temperature = float(name, value, 0.0..=f32::MAX)?,
        "top_p" => sampling.top_p = float(name, value, 0.0..=1.0)?,
        "min_p" => sampling.min_p = float(name, value, 0.0..=1.0)?,
        "typical_p" => sampling.typical_p = float(name, value, 0.0..=1.0)?,
        "repeat_penalty" => sampling.repeat_penalty = float(name, value, 0.0..=f32::MAX)?,
        "presence_penalty" => sampling.presence_penalty = float(name, value, f32::MIN..=f32::MAX)?,
        "frequency_penalty" => {
            sampling.frequency_penalty = float(name, value, f32::MIN..=f32::MAX)?;
        }
        "ignore_eos" => options.ignore_end = boolean(name, value)?,
        "stop" => options.stop = stops(name, value)?,
        // Load options of a single machine: checked, then the worker's own business.
        _ => match kind(name) {
            Some(Kind::Integer) => integer(name, value).map(drop)?,
            Some(Kind::Boolean) => boolean(name, value).map(drop)?,
            _ => {}
        },
    }
    Ok(())
}

fn wrong_type(name: &str, expected: &str) -> Failure {
    Failure::invalid(format!("option {name:?} must be of type {expected}"))
}

fn out_of_range(name: &str, got: &Value, expected: &str) -> Failure {
    Failure::invalid(format!("option {name:?} is {got}, expected {expected}"))
}

fn integer(name: &str, value: &Value) -> Result<i64, Failure> {
    if let Some(integer) = value.as_i64() {
        return Ok(integer);
    }
    // Clients of languages without integers send 40.0.
    value
        .as_f64()
        .filter(|float| float.abs() < 9.2e18)
        .map(|float| float as i64)
        .ok_or_else(|| wrong_type(name, "integer"))
}

/// A number of tokens where a negative one means `all`.
fn count(name: &str, value: &Value, all: i64) -> Result<u32, Failure> {
    let integer = integer(name, value)?;
    let integer = if integer < 0 { all } else { integer };
    Ok(u32::try_from(integer.min(i64::from(i32::MAX))).unwrap_or(0))
}

fn predict(name: &str, value: &Value) -> Result<Predict, Failure> {
    match integer(name, value)? {
        -1 => Ok(Predict::UntilDone),
        -2 => Ok(Predict::FillContext),
        tokens => {
            u32::try_from(tokens.min(i64::from(u32::MAX))).map(Predict::AtMost).map_err(|_| {
                out_of_range(name, value, "-1 (until done), -2 (fill the context) or 0 and more")
            })
        }
    }
}

fn float(name: &str, value: &Value, range: std::ops::RangeInclusive<f32>) -> Result<f32, Failure> {
    let float = value.as_f64().ok_or_else(|| wrong_type(name, "float32"))? as f32;
    if range.contains(&float) {
        return Ok(float);
    }
    let expected = match (*range.start(), *range.end()) {
        (0.0, 1.0) => "a number from 0 to 1",
        (0.0, _) => "a finite number, 0 or more",
        _ => "a finite number",
    };
    Err(out_of_range(name, value, expected))
}

fn boolean(name: &str, value: &Value) -> Result<bool, Failure> {
    value.as_bool().ok_or_else(|| wrong_type(name, "boolean"))
}

fn stops(name: &str, value: &Value) -> Result<Vec<String>, Failure> {
    let Value::Array(values) = value else { return Err(wrong_type(name, "array")) };
    let texts: Vec<String> = values
        .iter()
        .map(|value| value.as_str().map(str::to_owned))
        .collect::<Option<_>>()
        .ok_or_else(|| {
            Failure::invalid(format!("option {name:?} must be of an array of strings"))
        })?;
    check_stops(name, texts)
}

/// Bounds stop texts; empty ones mean nothing and are dropped.
pub fn check_stops(field: &str, texts: Vec<String>) -> Result<Vec<String>, Failure> {
    if texts.len() > limits::STOPS_COUNT || texts.iter().any(|t| t.len() > limits::STOP_BYTES) {
        let (count, bytes) = (limits::STOPS_COUNT, limits::STOP_BYTES);
        return Err(Failure::invalid(format!(
            "{field:?} takes at most {count} texts of {bytes} bytes each"
        )));
    }
    Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn merged(request: Value) -> Result<Options, String> {
        let Value::Object(request) = request else { return Err("no object".into()) };
        merge(&BTreeMap::new(), &request, || 99).map_err(|failure| failure.to_string())
    }

    #[test]
    fn silence_means_ollamas_defaults() {
        let options = merged(json!({"temperature": null})).expect("merges");
        let mut expected = Options::default();
        expected.sampling.seed = 99;
        assert_eq!(options, expected);
    }

    #[test]
    fn a_request_goes_before_the_model_and_the_model_before_the_default() {
        let parameters = BTreeMap::from([
            ("temperature".to_owned(), vec!["0.1".to_owned()]),
            ("top_k".to_owned(), vec!["7".to_owned()]),
            ("stop".to_owned(), vec!["a".to_owned(), "b".to_owned()]),
        ]);
        let Value::Object(request) = json!({"temperature": 0.5, "seed": 3}) else { return };
        let options = merge(&parameters, &request, || 99).expect("merges");
        assert_eq!(options.sampling.temperature, 0.5);
        assert_eq!(options.sampling.top_k, 7);
        assert_eq!(options.sampling.top_p, 0.9);
        assert_eq!(options.sampling.seed, 3);
        assert_eq!(options.stop, ["a", "b"]);
        let Value::Object(request) = json!({"stop": ["c"]}) else { return };
        assert_eq!(merge(&parameters, &request, || 99).expect("merges").stop, ["c"], "replaced");
    }

    #[test]
    fn wrong_types_are_named() {
        let table = [
            (json!({"temperature": "hot"}), r#"option "temperature" must be of type float32"#),
            (json!({"top_k": "x"}), r#"option "top_k" must be of type integer"#),
            (json!({"seed": true}), r#"option "seed" must be of type integer"#),
            (json!({"stop": "x"}), r#"option "stop" must be of type array"#),
            (json!({"stop": [1]}), r#"option "stop" must be of an array of strings"#),
            (json!({"use_mmap": 1}), r#"option "use_mmap" must be of type boolean"#),
            (
                json!({"num_predict": -3}),
                r#"option "num_predict" is -3, expected -1 (until done), -2 (fill the context) or 0 and more"#,
            ),
            (json!({"top_p": 1.5}), r#"option "top_p" is 1.5, expected a number from 0 to 1"#),
            (
                json!({"temperature": 1e300}),
                r#"option "temperature" is 1e+300, expected a finite number, 0 or more"#,
            ),
        ];
        for (request, expected) in table {
            assert_eq!(merged(request), Err(expected.to_owned()));
        }
    }

    #[test]
    fn integers_may_come_as_floats_and_unknown_names_are_ignored() {
        let options = merged(json!({"top_k": 20.0, "seed": 5.0, "mirostat": 1, "nonsense": []}))
            .expect("merges");
        assert_eq!(options.sampling.top_k, 20);
        assert_eq!(options.sampling.seed, 5);
        assert_eq!(merged(json!({"seed": -1})).expect("merges").sampling.seed, 99, "drawn");
    }

    #[test]
    fn parameters_are_kept_as_texts() {
        assert_eq!(parameter_texts("temperature", &json!(0.5)), Ok(vec!["0.5".to_owned()]));
        assert_eq!(parameter_texts("stop", &json!(["a", "b"])), Ok(vec!["a".into(), "b".into()]));
        assert!(parameter_texts("temperature", &json!("x")).is_err());
        assert_eq!(parameter_value("num_ctx", &["12".to_owned()]), json!(12));
    }

    proptest! {
        #[test]
        fn whatever_merges_survives_the_wire(
            temperature in proptest::num::f64::ANY,
            top_p in -1.0f64..2.0,
            predict in -5i64..1_000_000,
            top_k in any::<i64>(),
            seed in any::<i64>(),
            num_ctx in any::<i64>(),
            stop in proptest::collection::vec("\\PC{0,4}", 0..4),
        ) {
            let request = json!({
                "temperature": temperature, "top_p": top_p, "num_predict": predict, "top_k": top_k,
                "seed": seed, "num_ctx": num_ctx, "stop": stop,
            });
            if let Ok(options) = merged(request) {
                let wire = ollamamax_proto::wire::Options::from(&options);
                prop_assert_eq!(Options::try_from(wire), Ok(options));
            }
        }

        #[test]
        fn any_value_for_any_option_is_taken_or_refused_by_name(
            name in proptest::sample::select(vec![
                "num_keep", "seed", "num_predict", "top_k", "top_p", "min_p", "typical_p", "num_ctx",
                "repeat_last_n", "temperature", "repeat_penalty", "presence_penalty", "stop",
                "frequency_penalty", "use_mmap", "num_gpu",
            ]),
            value in prop_oneof![
                any::<bool>().prop_map(Value::from),
                any::<i64>().prop_map(Value::from),
                any::<f64>().prop_map(Value::from),
                "\\PC{0,8}".prop_map(Value::from),
                proptest::collection::vec(any::<i8>(), 0..3).prop_map(Value::from),
            ],
        ) {
            let request = Map::from_iter([(name.to_owned(), value)]);
            if let Err(failure) = merge(&BTreeMap::new(), &request, || 0) {
                prop_assert!(failure.to_string().contains(name));
            }
        }
    }
}
