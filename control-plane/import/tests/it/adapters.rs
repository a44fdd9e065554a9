//! Adapters merged into checkpoints and into models that are there already, against the sum computed here.

use crate::support::{files, model, written};
use ollamamax_gguf::{GgmlType, GgufWriter, Value};
use ollamamax_import::{Adapter, ImportError, Model, Quantisation};
use ollamamax_tests::checkpoint::{Floats, Tiny, safetensors};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const RANK: usize = 4;
const SCALE: f32 = 2.0;

fn config() -> Json {
    json!({"peft_type": "LORA", "r": RANK, "lora_alpha": SCALE * RANK as f32, "bias": "none"})
}

fn numbers(count: usize, seed: f32) -> Vec<f32> {
    (0..count).map(|at| ((at as f32 + seed) * 0.37).sin() * 0.25).collect()
}

/// What is added to queries of the first layer and to what comes down in the second.
fn pairs() -> Vec<Floats> {
    let module = |name: &str| format!("base_model.model.model.layers.{name}");
    let rank = RANK as u64;
    vec![
        (module("0.self_attn.q_proj.lora_A.weight"), vec![rank, 64], numbers(RANK * 64, 1.0)),
        (module("0.self_attn.q_proj.lora_B.weight"), vec![64, rank], numbers(RANK * 64, 2.0)),
        (module("1.mlp.down_proj.lora_A.weight"), vec![rank, 128], numbers(RANK * 128, 3.0)),
        (module("1.mlp.down_proj.lora_B.weight"), vec![64, rank], numbers(RANK * 64, 4.0)),
    ]
}

fn peft(config: &Json, tensors: &[Floats]) -> Result<Adapter, ImportError> {
    let config = ("adapter_config.json".to_owned(), config.to_string().into_bytes());
    let weights = ("adapter_model.safetensors".to_owned(), safetensors(tensors));
    Adapter::read(&files([config, weights].into()))
}

/// The weights with the sum, in the order of the checkpoint.
fn summed(tiny: &Tiny) -> Tiny {
    let mut tiny = tiny.clone();
    for pair in pairs().chunks(2) {
        let name = pair[0].0.replace("base_model.model.", "").replace(".lora_A", "");
        let tensor = tiny.tensors.iter_mut().find(|tensor| tensor.0 == name).expect("there");
        let width = tensor.1[1] as usize;
        for (row, values) in tensor.2.chunks_exact_mut(width).enumerate() {
            for (k, a) in pair[0].2.chunks_exact(width).enumerate() {
                let factor = pair[1].2[row * RANK + k] * SCALE;
                values.iter_mut().zip(a).for_each(|(value, a)| *value += factor * a);
            }
        }
    }
    tiny
}

#[test]
fn an_adapter_of_peft_is_the_sum_on_a_checkpoint_and_on_a_model() {
    for class in ["LlamaForCausalLM", "Qwen2ForCausalLM"] {
        let tiny = Tiny::new(class, 21);
        let quantisation = Some(Quantisation::F32);
        let expected = written(&model(summed(&tiny).files()).expect("sound"), quantisation);
        let adapter = peft(&config(), &pairs()).expect("sound");
        let mut fresh = model(tiny.files()).expect("sound");
        adapter.merge_into(&mut fresh).expect("it fits");
        assert!(written(&fresh, quantisation) == expected, "{class}, checkpoint");
        let gguf = written(&model(tiny.files()).expect("sound"), quantisation);
        let mut there = Model::of_gguf("m", Arc::new(gguf)).expect("sound");
        adapter.merge_into(&mut there).expect("it fits");
        assert!(written(&there, quantisation) == expected, "{class}, model");
        let again = adapter.merge_into(&mut there).expect_err("twice").to_string();
        assert!(again.contains("another adapter"), "{again}");
    }
}

/// As llama.cpp's converter writes it: `B` of queries in the order of a GGUF.
fn gguf(architecture: &str, alpha: f32) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer
        .metadata("general.architecture", Value::Str(architecture.to_owned()))
        .metadata("general.type", Value::Str("adapter".to_owned()))
        .metadata("adapter.type", Value::Str("lora".to_owned()))
        .metadata("adapter.lora.alpha", Value::F32(alpha));
    let pairs = pairs();
    let mut put = |name: &str, width: usize, values: &[f32]| {
        let dims = [width as u64, (values.len() / width) as u64];
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.tensor(name, &dims, GgmlType::F32, bytes);
    };
    // Four heads of sixteen rows: row 2i was i, row 2i + 1 was i + 8.
    let order = |row: usize| row / 16 * 16 + row % 2 * 8 + row % 16 / 2;
    let permuted: Vec<f32> =
        (0..64).flat_map(|row| pairs[1].2[order(row) * RANK..][..RANK].to_vec()).collect();
    put("blk.0.attn_q.weight.lora_a", 64, &pairs[0].2);
    put("blk.0.attn_q.weight.lora_b", RANK, &permuted);
    put("blk.1.ffn_down.weight.lora_a", 128, &pairs[2].2);
    put("blk.1.ffn_down.weight.lora_b", RANK, &pairs[3].2);
    writer.to_bytes()
}

#[test]
fn an_adapter_of_llama_cpp_is_the_same_sum() {
    let tiny = Tiny::new("LlamaForCausalLM", 22);
    let expected = written(&model(summed(&tiny).files()).expect("sound"), None);
    let mut fresh = model(tiny.files()).expect("sound");
    let file = gguf("llama", SCALE * RANK as f32);
    let adapter = Adapter::read(&files([("a.gguf".to_owned(), file)].into())).expect("sound");
    adapter.merge_into(&mut fresh).expect("it fits");
    assert!(written(&fresh, None) == expected);
    let other =
        Adapter::read(&files([("sha".to_owned(), gguf("qwen2", 1.0))].into())).expect("sound");
    let error = other.merge_into(&mut fresh).expect_err("for another").to_string();
    assert!(error.contains("it is for qwen2 models, this one is llama"), "{error}");
}

#[test]
fn an_adapter_that_wants_something_else_is_refused() {
    let with = |change: fn(&mut Json)| {
        let mut config = config();
        change(&mut config);
        peft(&config, &pairs()).err().expect("refused").to_string()
    };
    for (words, error) in [
        ("`use_dora`", with(|c| c["use_dora"] = json!(true))),
        ("`fan_in_fan_out`", with(|c| c["fan_in_fan_out"] = json!(true))),
        ("`bias`", with(|c| c["bias"] = json!("all"))),
        ("`peft_type`", with(|c| c["peft_type"] = json!("IA3"))),
        ("`lora_alpha`", with(|c| c["lora_alpha"] = json!("many"))),
        ("`alpha_pattern`", with(|c| c["alpha_pattern"] = json!({"q_proj": 3}))),
    ] {
        assert!(error.contains(words), "{error} lacks {words}");
    }
    let tiny = Tiny::new("LlamaForCausalLM", 23);
    let merged = |change: fn(&mut Vec<Floats>)| {
        let mut tensors = pairs();
        change(&mut tensors);
        let mut fresh = model(tiny.files()).expect("sound");
        let read = peft(&config(), &tensors);
        read.and_then(|adapter| adapter.merge_into(&mut fresh)).expect_err("refused").to_string()
    };
    type Case<'a> = (&'a str, fn(&mut Vec<Floats>));
    let table: [Case<'_>; 7] = [
        ("changes nothing", |t| t.clear()),
        ("only one of its two", |t| t.truncate(3)),
        ("the model has no `blk.7.attn_q.weight`", |t| {
            t.truncate(2);
            t.iter_mut().for_each(|t| t.0 = t.0.replace("layers.0", "layers.7"));
        }),
        ("it is for `blk.0.attn_q.weight` of [64, 32], the model's is [64, 64]", |t| {
            t[0] = (t[0].0.clone(), vec![4, 32], vec![0.0; 128]);
        }),
        ("the ranks of `blk.0.attn_q.weight` are 4 and 2", |t| {
            t[1] = (t[1].0.clone(), vec![64, 2], vec![0.0; 128]);
        }),
        ("not a low-rank sum", |t| t[0].0 = "base_model.model.lm_head.weight".to_owned()),
        ("holds NaN", |t| t[2].2[0] = f32::NAN),
    ];
    for (words, change) in table {
        let error = merged(change);
        assert!(error.contains(words), "{error} lacks {words}");
    }
    let whole = written(&model(tiny.files()).expect("sound"), None);
    let error = Adapter::read(&files(BTreeMap::from([("m.gguf".to_owned(), whole)])));
    assert!(error.err().expect("a model").to_string().contains("not an adapter"));
}

#[test]
fn weights_that_lost_precision_are_no_base() {
    let made = model(Tiny::new("LlamaForCausalLM", 24).files()).expect("sound");
    let packed = written(&made, Some(Quantisation::Q8_0));
    let error = Model::of_gguf("m", Arc::new(packed)).err().expect("refused").to_string();
    assert!(
        error.starts_with("quantization is only supported for F16, BF16 and F32 models"),
        "{error}"
    );
}
