//! Options merge as Ollama merges them, and what is wrong is named.

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
        (json!({"grammar": {}}), r#"option "grammar" must be of type string"#),
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
            r#"option "temperature" is 1e+300, expected a number from 0 to 100"#,
        ),
        (
            json!({"temperature": -0.5}),
            r#"option "temperature" is -0.5, expected a number from 0 to 100"#,
        ),
        (json!({"mirostat": 3}), r#"option "mirostat" is 3, expected 0 (off), 1 or 2"#),
        (
            json!({"mirostat_tau": 0}),
            r#"option "mirostat_tau" is 0, expected a number above 0, at most 100"#,
        ),
        (
            json!({"mirostat_eta": -0.1}),
            r#"option "mirostat_eta" is -0.1, expected a number above 0, at most 10"#,
        ),
        (json!({"tfs_z": -1}), r#"option "tfs_z" is -1, expected a finite number, 0 or more"#),
        (
            json!({"repeat_penalty": 1000}),
            r#"option "repeat_penalty" is 1000, expected a number from 0 to 100"#,
        ),
        (
            json!({"presence_penalty": -101}),
            r#"option "presence_penalty" is -101, expected a number from -100 to 100"#,
        ),
    ];
    for (request, expected) in table {
        assert_eq!(merged(request), Err(expected.to_owned()));
    }
}

#[test]
fn integers_may_come_as_floats_and_unknown_names_are_ignored() {
    let options =
        merged(json!({"top_k": 20.0, "seed": 5.0, "numa": true, "nonsense": []})).expect("merges");
    assert_eq!(options.sampling.top_k, 20);
    assert_eq!(options.sampling.seed, 5);
    assert_eq!(merged(json!({"seed": -1})).expect("merges").sampling.seed, 99, "drawn");
}

#[test]
fn mirostat_is_what_its_three_options_say_together() {
    let mirostat = |request: Value| merged(request).expect("merges").sampling.mirostat;
    let two = MirostatVersion::Two;
    assert_eq!(mirostat(json!({"mirostat_tau": 3.0})), None, "off unless it is asked for");
    assert_eq!(mirostat(json!({"mirostat": 2})), Some(Mirostat::new(two, Some(5.0), Some(0.1))));
    let request = json!({"mirostat_eta": 0.2, "mirostat": 2.0, "mirostat_tau": 3});
    assert_eq!(mirostat(request), Some(Mirostat::new(two, Some(3.0), Some(0.2))));
    let parameters = BTreeMap::from([
        ("mirostat".to_owned(), vec!["1".to_owned()]),
        ("mirostat_tau".to_owned(), vec!["4".to_owned()]),
    ]);
    let merged = |request: Value| {
        let Value::Object(request) = request else { return None };
        merge(&parameters, &request, || 0).expect("merges").sampling.mirostat
    };
    let model = Mirostat::new(MirostatVersion::One, Some(4.0), None);
    assert_eq!(merged(json!({})), Some(model));
    assert_eq!(merged(json!({"mirostat": 0})), None, "the request goes before the model");
}

#[test]
fn a_bias_is_an_id_and_a_number_in_bounds() {
    let parsed = |value: Value| {
        let Value::Object(entries) = value else { return Err("no object".to_owned()) };
        logit_bias(&entries).map_err(|failure| failure.to_string())
    };
    let bias = json!({"7": -100, "3": 0.5});
    assert_eq!(parsed(bias), Ok(BTreeMap::from([(3, 0.5), (7, -100.0)])));
    let table = [
        (json!({"x": 1}), r#"`logit_bias` names "x", expected the id of a token"#),
        (json!({"-1": 1}), r#"`logit_bias` names "-1", expected the id of a token"#),
        (json!({"5": 101}), r#"`logit_bias["5"]` is 101, expected a number from -100 to 100"#),
        (json!({"5": null}), r#"`logit_bias["5"]` is null, expected a number from -100 to 100"#),
    ];
    for (request, expected) in table {
        assert_eq!(parsed(request), Err(expected.to_owned()));
    }
    let many: Map<String, Value> = (0..1025).map(|id| (id.to_string(), json!(1))).collect();
    let error = logit_bias(&many).expect_err("too many").to_string();
    assert_eq!(error, "`logit_bias` has 1025 entries, at most 1024 are accepted");
}

#[test]
fn likeliest_tokens_are_told_only_with_log_probabilities() {
    assert_eq!(logprobs(Some(true), Some(20)), Ok(Some(20)));
    assert_eq!(logprobs(Some(true), None), Ok(Some(0)));
    assert_eq!(logprobs(None, Some(5)), Ok(None));
    for top in [-1, 21, i64::MAX] {
        let error = logprobs(Some(false), Some(top)).expect_err("out of range").to_string();
        assert_eq!(error, "top_logprobs must be between 0 and 20");
    }
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
        mirostat in 0i64..3,
        tau in -1.0f64..120.0,
        presence_penalty in -120.0f64..120.0,
        stop in proptest::collection::vec("\\PC{0,4}", 0..4),
    ) {
        let request = json!({
            "temperature": temperature, "top_p": top_p, "num_predict": predict, "top_k": top_k,
            "seed": seed, "num_ctx": num_ctx, "stop": stop,
            "mirostat": mirostat, "mirostat_tau": tau, "presence_penalty": presence_penalty,
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
            "frequency_penalty", "use_mmap", "num_gpu", "tfs_z", "mirostat", "mirostat_tau",
                "mirostat_eta",
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
