//! What a model must have to be run, and what is said when it does not.

use ollamamax_engine::architecture::ALL;
use ollamamax_engine::cpu::{CpuBackend, CpuOptions, LoadError};
use ollamamax_engine::shape::{ModelShape, RopeFactors};
use ollamamax_engine::synth::Synth;
use ollamamax_engine::weights::Mapping;
use ollamamax_gguf::{GgmlType, Gguf, GgufWriter, Value};
use std::sync::Arc;

/// A tiny model, rebuilt with each metadata entry and tensor passed through an editor.
fn edited(
    metadata: impl Fn(&str, Value) -> Option<Value>,
    tensor: impl Fn(&str, Vec<u64>, GgmlType) -> Option<(Vec<u64>, GgmlType)>,
) -> Result<ModelShape, String> {
    let file = Synth { rope_factors: true, ..Synth::tiny(GgmlType::F32, 1) }.to_gguf();
    let gguf = Gguf::parse(&file).expect("a valid file");
    let mut writer = GgufWriter::new();
    for entry in gguf.entries() {
        if let Some(value) = metadata(&entry.key, entry.value.clone()) {
            writer.metadata(&entry.key, value);
        }
    }
    for info in gguf.tensors() {
        if let Some((dims, kind)) = tensor(&info.name, info.dims.clone(), info.kind) {
            let bytes = kind.row_bytes(dims.iter().product()).expect("whole blocks");
            writer.tensor(&info.name, &dims, kind, vec![0; bytes as usize]);
        }
    }
    let gguf = Gguf::parse(&writer.to_bytes()).expect("the header is fine");
    ModelShape::from_gguf(&gguf).map_err(|error| error.to_string())
}

fn with(key: &'static str, value: Value) -> Result<ModelShape, String> {
    edited(
        |k, old| Some(if k == key { value.clone() } else { old }),
        |_, dims, kind| Some((dims, kind)),
    )
}

fn without_tensor(name: &str) -> Result<ModelShape, String> {
    edited(|_, v| Some(v), |n, dims, kind| (n != name).then_some((dims, kind)))
}

fn refused(result: Result<ModelShape, String>, part: &str) {
    let error = result.expect_err(part);
    assert!(error.contains(part), "`{error}` should contain `{part}`");
}

#[test]
fn a_good_model_is_read() {
    let shape = edited(|_, v| Some(v), |_, dims, kind| Some((dims, kind))).expect("a good model");
    assert_eq!((shape.layers, shape.width, shape.feed_forward), (2, 64, 128));
    assert_eq!((shape.heads, shape.kv_heads, shape.head_width), (4, 2, 16));
    assert_eq!((shape.vocabulary, shape.tied), (96, true));
    assert_eq!(shape.rope_factors, RopeFactors::Fixed);
    let plain = without_tensor("rope_freqs.weight").expect("factors are optional");
    assert_eq!(plain.rope_factors, RopeFactors::None);
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let number = Value::U32;
    refused(
        with("general.architecture", Value::Str("t5".into())),
        "architecture `t5` is not supported, expected `llama`, `qwen2`",
    );
    refused(with("llama.block_count", number(0)), "`llama.block_count` is 0: it must be positive");
    refused(with("llama.block_count", number(u32::MAX)), "fewer tensors than layers");
    refused(with("llama.block_count", number(3)), "tensor `blk.2.attn_k.weight` is missing");
    refused(with("llama.block_count", number(1)), "tensor `blk.1.attn_");
    refused(with("llama.attention.head_count", number(0)), "must be positive");
    refused(with("llama.attention.head_count_kv", number(3)), "must divide");
    refused(with("llama.rope.dimension_count", number(15)), "must be even");
    refused(with("llama.rope.dimension_count", number(18)), "no wider than a head");
    refused(with("llama.attention.value_length", number(8)), "the same as key_length");
    refused(with("llama.rope.freq_base", Value::F32(f32::NAN)), "a positive number");
    refused(with("llama.embedding_length", Value::F32(1.0)), "is an f32, expected an unsigned");
    refused(
        with("llama.embedding_length", number(32)),
        "tensor `blk.0.attn_k.weight` has the dimensions [64, 32], expected [32, 32]",
    );
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    refused(without_tensor("output_norm.weight"), "tensor `output_norm.weight` is missing");
    refused(without_tensor("token_embd.weight"), "tensor `token_embd.weight` is missing");
    refused(without_tensor("blk.1.ffn_up.weight"), "tensor `blk.1.ffn_up.weight` is missing");
    let with_kind = |kind| {
        edited(
            |_, v| Some(v),
            |name, dims, old| Some((dims, if name.contains("0.ffn_up") { kind } else { old })),
        )
    };
    refused(with_kind(GgmlType::F64), "`blk.0.ffn_up.weight` has the type F64, which is not");
    let flat = edited(
        |_, v| Some(v),
        |name, dims, kind| {
            let flat = name == "token_embd.weight";
            Some((if flat { vec![dims.iter().product()] } else { dims }, kind))
        },
    );
    refused(flat, "tensor `token_embd.weight` has the dimensions [6144]");
}

#[test]
fn features_that_are_missing_are_named() {
    let with_metadata = |key: &str, value: Value| {
        let metadata = vec![(key.to_owned(), value)];
        let file = Synth { metadata, ..Synth::tiny(GgmlType::F32, 1) }.to_gguf();
        let mapping = Arc::new(Mapping::from_vec(file));
        CpuBackend::from_mapping(mapping, &CpuOptions::default()).map_err(|e| e.to_string())
    };
    let ntk = with_metadata("llama.rope.scaling.type", Value::Str("ntk".into()));
    assert!(ntk.is_err_and(|error| error.contains("`llama.rope.scaling.type` is ntk")));
    let factor = with_metadata("llama.rope.scaling.factor", Value::F32(-1.0));
    assert!(factor.is_err_and(|error| error.contains("`llama.rope.scaling.factor` is -1")));
    let cap = with_metadata("llama.attn_logit_softcapping", Value::F32(f32::NAN));
    assert!(cap.is_err_and(|error| error.contains("`llama.attn_logit_softcapping` is NaN")));
    let experts = with_metadata("llama.expert_count", Value::U32(8));
    assert!(experts.is_err_and(|error| error.contains("no mixture of experts")));
    assert!(with_metadata("llama.rope.scaling.type", Value::Str("none".into())).is_ok());
}

/// Every family asks for its own tensors: a file without one of them is refused, and so is one with another's.
#[test]
fn every_family_has_its_own_tensors() {
    for architecture in &ALL {
        let file = Synth { architecture, ..Synth::tiny(GgmlType::F32, 1) }.to_gguf();
        let gguf = Gguf::parse(&file).expect("a valid file");
        let shape = ModelShape::from_gguf(&gguf).expect(architecture.name);
        assert_eq!(shape.architecture, architecture);
        let facts = ollamamax_gguf::model_facts(&gguf).expect("facts");
        let cached = if architecture.encoder { 0 } else { shape.layers };
        let elements = u64::from(2 * cached * shape.kv_heads * shape.head_width);
        assert_eq!(facts.kv_bytes_per_token, 2 * elements, "{}", architecture.name);
        for left_out in gguf.tensors() {
            let mut writer = GgufWriter::new();
            gguf.entries().iter().for_each(|entry| {
                writer.metadata(&entry.key, entry.value.clone());
            });
            for info in gguf.tensors().iter().filter(|info| info.name != left_out.name) {
                let bytes = &file[info.start as usize..][..info.bytes as usize];
                writer.tensor(&info.name, &info.dims, info.kind, bytes.to_vec());
            }
            let gguf = Gguf::parse(&writer.to_bytes()).expect("the header is fine");
            let error = ModelShape::from_gguf(&gguf).expect_err(&left_out.name).to_string();
            assert!(error.contains(&left_out.name), "{error}");
        }
    }
    let file = Synth { architecture: &ALL[1], ..Synth::tiny(GgmlType::F32, 1) }.to_gguf();
    let gguf = Gguf::parse(&file).expect("a valid file");
    let mut writer = GgufWriter::new();
    for entry in gguf.entries() {
        let value = match entry.key.as_str() {
            "general.architecture" => Value::Str("llama".into()),
            _ => entry.value.clone(),
        };
        writer.metadata(&entry.key.replace("qwen2.", "llama."), value);
    }
    for info in gguf.tensors() {
        let bytes = &file[info.start as usize..][..info.bytes as usize];
        writer.tensor(&info.name, &info.dims, info.kind, bytes.to_vec());
    }
    let gguf = Gguf::parse(&writer.to_bytes()).expect("the header is fine");
    let error = ModelShape::from_gguf(&gguf).expect_err("biases").to_string();
    assert!(error.contains(".bias` is not part of a `llama` model"), "{error}");
}

/// Gemma 3 as Ollama converts it names the bases of its rotations in another way.
#[test]
fn ollamas_names_of_bases_are_known() {
    let architecture = ALL.iter().find(|a| a.name == "gemma3").expect("known");
    let key = |name: &str| format!("gemma3.rope.{name}");
    let mut synth = Synth { architecture, ..Synth::tiny(GgmlType::F32, 1) };
    synth.metadata.push(("gemma3.attention.sliding_window".to_owned(), Value::U32(8)));
    synth.metadata.push((key("freq_base"), Value::F32(1e6)));
    synth.metadata.push((key("freq_base_swa"), Value::F32(2e4)));
    let file = synth.to_gguf();
    let gguf = Gguf::parse(&file).expect("a valid file");
    let shape = |global: &str, local: &str| {
        let mut writer = GgufWriter::new();
        for entry in gguf.entries() {
            let name = match entry.key.as_str() {
                "gemma3.rope.freq_base" => key(global),
                "gemma3.rope.freq_base_swa" => key(local),
                other => other.to_owned(),
            };
            writer.metadata(&name, entry.value.clone());
        }
        for info in gguf.tensors() {
            writer.tensor(&info.name, &info.dims, info.kind, vec![0; info.bytes as usize]);
        }
        let renamed = Gguf::parse(&writer.to_bytes()).expect("the header is fine");
        format!("{:?}", ModelShape::from_gguf(&renamed).expect("a shape"))
    };
    let usual = shape("freq_base", "freq_base_swa");
    assert!(usual.contains("20000") && usual.contains("1000000"), "{usual}");
    assert_eq!(shape("global.freq_base", "local.freq_base"), usual);
    assert_ne!(shape("other", "other_local"), usual);
}

#[test]
fn files_that_are_no_models_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("model.gguf");
    let load = || CpuBackend::load(&path, &CpuOptions::default());
    assert!(matches!(load(), Err(LoadError::Open { .. })));
    let whole = Synth::tiny(GgmlType::Q4_0, 1).to_gguf();
    for len in [0, 3, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..len]).expect("a file");
        assert!(matches!(load(), Err(LoadError::Gguf(_))), "cut to {len}");
    }
    std::fs::write(&path, &whole).expect("a file");
    assert!(load().is_ok());
}
