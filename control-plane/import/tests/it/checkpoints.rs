//! Checkpoints become GGUFs, and those that cannot are refused with the reason.

use crate::support::{model, written};
use ollamamax_gguf::{GgmlType, Gguf, Value};
use ollamamax_import::Quantisation;
use ollamamax_tests::checkpoint::{Tiny, safetensors};
use serde_json::json;
use std::collections::BTreeMap;

const CLASSES: [(&str, &str); 4] = [
    ("LlamaForCausalLM", "llama"),
    ("MistralForCausalLM", "llama"),
    ("Qwen2ForCausalLM", "qwen2"),
    ("Qwen3ForCausalLM", "qwen3"),
];

fn refused(files: BTreeMap<String, Vec<u8>>) -> String {
    model(files).err().expect("it is refused").to_string()
}

#[test]
fn every_family_becomes_a_file_with_its_names_types_and_tokens() {
    for (class, architecture) in CLASSES {
        let made = model(Tiny::new(class, 1).files()).expect(class);
        let bytes = written(&made, None);
        let gguf = Gguf::parse(&bytes).expect("a sound file");
        assert_eq!(gguf.get_str("general.architecture").expect("there"), architecture);
        assert_eq!(gguf.get_u32("general.file_type").expect("there"), 1);
        assert_eq!(gguf.tensor("blk.1.attn_q.weight").expect("there").kind, GgmlType::F16);
        assert_eq!(gguf.tensor("blk.1.attn_norm.weight").expect("there").kind, GgmlType::F32);
        let number = |key: &str| gguf.get_u32(&format!("tokenizer.ggml.{key}")).expect("there");
        assert_eq!((number("bos_token_id"), number("eos_token_id")), (258, 259));
        let kinds = gguf.get_array_i32("tokenizer.ggml.token_type").expect("there");
        assert_eq!(kinds[256..262], [1, 1, 3, 3, 4, 5], "text, control, its own, none");
        let merges = gguf.get_array_str("tokenizer.ggml.merges").expect("there");
        assert_eq!(merges.iter().collect::<Vec<_>>(), ["t h", "th e"]);
        assert_eq!(gguf.find_tensor("blk.0.attn_q.bias").is_some(), architecture == "qwen2");
        assert_eq!(gguf.find_tensor("blk.0.attn_q_norm.weight").is_some(), architecture == "qwen3");
    }
}

#[test]
fn in_thirty_two_bits_no_weight_changes() {
    let tiny = Tiny::new("Qwen2ForCausalLM", 2);
    let bytes = written(&model(tiny.files()).expect("sound"), Some(Quantisation::F32));
    let gguf = Gguf::parse(&bytes).expect("a sound file");
    for (theirs, ours) in [
        ("model.layers.1.self_attn.q_proj.weight", "blk.1.attn_q.weight"),
        ("model.layers.0.self_attn.k_proj.bias", "blk.0.attn_k.bias"),
        ("lm_head.weight", "output.weight"),
    ] {
        let (_, shape, values) = tiny.tensors.iter().find(|t| t.0 == theirs).expect("there");
        let tensor = gguf.tensor(ours).expect("there");
        assert_eq!(tensor.dims, shape.iter().rev().copied().collect::<Vec<_>>());
        let found = &bytes[tensor.start as usize..][..tensor.bytes as usize];
        let expected: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert!(found == expected, "{ours} changed");
    }
}

#[test]
fn one_file_and_several_are_the_same_model() {
    let tiny = Tiny::new("LlamaForCausalLM", 4);
    let whole = written(&model(tiny.files()).expect("sound"), None);
    let mut files = tiny.files();
    files.remove("model.safetensors");
    let mut places = serde_json::Map::new();
    for (nth, part) in tiny.tensors.chunks(7).enumerate() {
        let name = format!("model-{nth}.safetensors");
        places.extend(part.iter().map(|tensor| (tensor.0.clone(), json!(name))));
        files.insert(name, safetensors(part));
    }
    assert_eq!(written(&model(files.clone()).expect("without an index"), None), whole);
    let index = json!({"weight_map": places}).to_string().into_bytes();
    files.insert("model.safetensors.index.json".to_owned(), index.clone());
    // What the index does not name may be there twice, or be anything.
    files.insert("consolidated.safetensors".to_owned(), b"another form of the same".to_vec());
    assert_eq!(written(&model(files.clone()).expect("with an index"), None), whole);

    let lost = files.remove("model-1.safetensors").expect("there");
    assert!(refused(files.clone()).contains("\"model-1.safetensors\" is missing: the index"));
    files.insert("model-1.safetensors".to_owned(), safetensors(&tiny.tensors[..7]));
    assert!(
        refused(files.clone())
            .contains("is in \"model-0.safetensors\" and in \"model-1.safetensors\"")
    );
    files.insert("model-1.safetensors".to_owned(), lost);
    let text = String::from_utf8(index).expect("JSON").replace("model-0", "model-2");
    files.insert("model.safetensors.index.json".to_owned(), text.into_bytes());
    assert!(refused(files).contains("the index says it has tensor"));
}

#[test]
fn what_the_configuration_says_is_in_the_file() {
    let mut tiny = Tiny::new("MistralForCausalLM", 5);
    tiny.config["sliding_window"] = json!(128);
    tiny.config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    tiny.config["tie_word_embeddings"] = json!(true);
    let bytes = written(&model(tiny.files()).expect("sound"), None);
    let gguf = Gguf::parse(&bytes).expect("a sound file");
    assert_eq!(gguf.get_u32("llama.attention.sliding_window").expect("there"), 128);
    assert_eq!(gguf.tensor("rope_freqs.weight").expect("there").dims, [8]);
    assert!(gguf.find_tensor("output.weight").is_none(), "the embedding is the head");
    assert!(matches!(gguf.get("tokenizer.chat_template"), Some(Value::Str(_))));
    assert_eq!(gguf.get("tokenizer.ggml.add_bos_token"), Some(&Value::Bool(false)));
    // 261 to 299 are rows nobody has a token for.
    let tokens = gguf.get_array_str("tokenizer.ggml.tokens").expect("there");
    assert_eq!((tokens.len(), &tokens[299]), (300, "[PAD299]"));
}

#[test]
fn a_checkpoint_that_is_not_understood_is_refused_with_the_reason() {
    type Change = fn(&mut Tiny);
    let table: [(&str, Change); 19] = [
        ("the architecture \"GPT2LMHeadModel\" is not supported", |t| {
            t.config["architectures"] = json!(["GPT2LMHeadModel"]);
        }),
        ("`architectures` is \"missing\"", |t| {
            t.config.as_object_mut().expect("an object").remove("architectures");
        }),
        ("`num_attention_heads` is \"0\"", |t| t.config["num_attention_heads"] = json!(0)),
        ("`num_key_value_heads` is \"3\"", |t| t.config["num_key_value_heads"] = json!(3)),
        ("`hidden_size` is \"-64\"", |t| t.config["hidden_size"] = json!(-64)),
        ("`vocab_size` is \"1e+99\"", |t| t.config["vocab_size"] = json!(1e99)),
        ("quantised by \"\\\"gptq\\\"\"", |t| {
            t.config["quantization_config"] = json!({"quant_method": "gptq"});
        }),
        ("the activation \"gelu\"", |t| t.config["hidden_act"] = json!("gelu")),
        ("\"model.layers.4000000.self_attn", |t| t.config["num_hidden_layers"] = json!(4_000_001)),
        ("\"model.layers.2.self_attn", |t| t.config["num_hidden_layers"] = json!(3)),
        ("\"model.layers.1.input_layernorm.weight\" has no place", |t| {
            t.config["num_hidden_layers"] = json!(1);
        }),
        ("has the shape [300, 64], expected [301, 64]", |t| t.config["vocab_size"] = json!(301)),
        ("tensor \"model.norm.weight\" is missing", |t| {
            t.tensors.retain(|t| t.0 != "model.norm.weight")
        }),
        ("has no place in a llama model", |t| {
            t.tensors.push((
                "model.layers.0.self_attn.q_proj.bias".to_owned(),
                vec![64],
                vec![0.0; 64],
            ));
        }),
        ("the number of \"again\"", |t| {
            t.tokenizer["added_tokens"] = json!([{"id": 300, "content": "again"}]);
        }),
        ("a number for each token", |t| t.tokenizer["model"]["vocab"]["th"] = json!(257)),
        ("`model.merges` is", |t| t.tokenizer["model"]["merges"] = json!([["a"]])),
        ("the pre-tokenizer", |t| t.tokenizer["pre_tokenizer"] = json!({"type": "Whitespace"})),
        ("`eos_token_id` is \"9999\"", |t| t.config["eos_token_id"] = json!(9999)),
    ];
    for (words, change) in table {
        let mut tiny = Tiny::new("LlamaForCausalLM", 6);
        change(&mut tiny);
        let error = refused(tiny.files());
        assert!(error.contains(words), "{error} lacks {words}");
    }
    for (file, words) in [
        ("config.json", "\"config.json\" is missing"),
        ("tokenizer.json", "\"tokenizer.json\" is missing"),
        ("model.safetensors", "\"*.safetensors\" is missing"),
    ] {
        let mut files = Tiny::new("LlamaForCausalLM", 6).files();
        files.remove(file);
        assert!(refused(files).contains(words), "{file}");
    }
}

#[test]
fn weights_that_are_no_numbers_or_too_large_are_refused_and_named() {
    let write = |value: f32, quantisation| {
        let mut tiny = Tiny::new("LlamaForCausalLM", 7);
        tiny.tensors[5].2[3] = value;
        let made = model(tiny.files()).expect("the headers are sound");
        let ended = made.write(quantisation, 2, &mut Vec::new(), &mut |_, _| {
            std::ops::ControlFlow::Continue(())
        });
        ended.map_err(|error| error.to_string())
    };
    let error = write(f32::NAN, None).expect_err("no number");
    assert!(error.contains("holds NaN, which is no number"), "{error}");
    let error = write(1e5, None).expect_err("too large");
    assert!(error.contains("holds 100000, which F16 cannot: ask for `bf16`"), "{error}");
    write(1e5, Some(Quantisation::BF16)).expect("it can");
}

#[test]
fn whoever_gives_up_ends_it() {
    let made = model(Tiny::new("LlamaForCausalLM", 8).files()).expect("sound");
    let mut heard = 0;
    let mut progress = |_, _| {
        heard += 1;
        if heard == 5 {
            std::ops::ControlFlow::Break(())
        } else {
            std::ops::ControlFlow::Continue(())
        }
    };
    let error = made.write(None, 1, &mut Vec::new(), &mut progress).expect_err("given up");
    assert!(!error.is_of_the_files());
    assert_eq!(heard, 5);
}
