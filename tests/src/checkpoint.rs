//! Checkpoints for tests, as they are published: small ones that are made up, and a GGUF turned back into one.

use ollamamax_gguf::{GgmlType, Gguf, Value};
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// A tensor: its name, its dimensions slowest first, its values.
pub type Floats = (String, Vec<u64>, Vec<f32>);

/// A safetensors file of `F32` tensors.
pub fn safetensors(tensors: &[Floats]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    with_header(&serde_json::Value::Object(header).to_string(), &data)
}

/// A safetensors file of a header, whatever it says, and data.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

/// A made-up model that spells bytes: two layers, 64 wide, four heads on two, 300 tokens.
#[derive(Clone, Debug)]
pub struct Tiny {
    /// `config.json`.
    pub config: serde_json::Value,
    /// `tokenizer.json`.
    pub tokenizer: serde_json::Value,
    /// Its weights.
    pub tensors: Vec<Floats>,
}

impl Tiny {
    /// Of a class, such as `Qwen2ForCausalLM`; the same weights for the same seed.
    pub fn new(class: &str, seed: u64) -> Self {
        let biases = class.starts_with("Qwen2");
        let norms = class.starts_with("Qwen3");
        let mut random = Random(seed);
        let mut tensors = Vec::new();
        let mut put = |name: String, shape: &[u64], middle: f32, spread: f32| {
            let count = shape.iter().product::<u64>();
            let values = (0..count).map(|_| middle + spread * random.next()).collect();
            tensors.push((name, shape.to_vec(), values));
        };
        put("model.embed_tokens.weight".to_owned(), &[300, 64], 0.0, 0.5);
        for layer in 0..2 {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            for (part, shape) in [
                ("self_attn.q_proj.weight", [64, 64]),
                ("self_attn.k_proj.weight", [32, 64]),
                ("self_attn.v_proj.weight", [32, 64]),
                ("self_attn.o_proj.weight", [64, 64]),
                ("mlp.gate_proj.weight", [128, 64]),
                ("mlp.up_proj.weight", [128, 64]),
                ("mlp.down_proj.weight", [64, 128]),
            ] {
                put(name(part), &shape, 0.0, 0.3);
            }
            put(name("input_layernorm.weight"), &[64], 1.0, 0.1);
            put(name("post_attention_layernorm.weight"), &[64], 1.0, 0.1);
            if biases {
                for (part, rows) in [("q", 64), ("k", 32), ("v", 32)] {
                    put(name(&format!("self_attn.{part}_proj.bias")), &[rows], 0.0, 0.2);
                }
            }
            if norms {
                put(name("self_attn.q_norm.weight"), &[16], 1.0, 0.1);
                put(name("self_attn.k_norm.weight"), &[16], 1.0, 0.1);
            }
        }
        put("model.norm.weight".to_owned(), &[64], 1.0, 0.1);
        put("lm_head.weight".to_owned(), &[300, 64], 0.0, 0.5);
        let config = json!({"architectures": [class], "hidden_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128,
            "vocab_size": 300, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "hidden_act": "silu", "tie_word_embeddings": false, "bos_token_id": 258, "eos_token_id": 259});
        Self { config, tokenizer: byte_tokenizer(), tensors }
    }

    /// The files of the checkpoint by name.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let text = |value: &serde_json::Value| value.to_string().into_bytes();
        let template = "{% for m in messages %}{{ m['content'] }}{% endfor %}";
        BTreeMap::from([
            ("config.json".to_owned(), text(&self.config)),
            ("tokenizer.json".to_owned(), text(&self.tokenizer)),
            ("tokenizer_config.json".to_owned(), text(&json!({"chat_template": template}))),
            ("model.safetensors".to_owned(), safetensors(&self.tensors)),
        ])
    }
}

/// Every byte, two merges, two special tokens and one that is text.
fn byte_tokenizer() -> serde_json::Value {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let plain = (0..=u8::MAX).filter(printable).map(char::from);
    let moved = (256..).filter_map(char::from_u32);
    let mut tokens: Vec<String> = plain.chain(moved).take(256).map(String::from).collect();
    tokens.extend(["th".to_owned(), "the".to_owned()]);
    let vocabulary: Map<_, _> =
        tokens.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    json!({
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [["t", "h"], ["th", "e"]]},
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "added_tokens": [
            {"id": 258, "content": "<|begin|>", "special": true},
            {"id": 259, "content": "<|end|>", "special": true},
            {"id": 260, "content": "<tool>", "special": false},
        ],
    })
}

/// SplitMix64, as numbers from -1 to 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

/// Turns a llama GGUF with SmolLM's tokenizer back into the checkpoint it was made from, with `F32` weights, in `directory`.
/// `unpack` makes floats of the bytes of a type.
pub fn of_gguf(
    gguf: &Path,
    unpack: impl Fn(GgmlType, &[u8]) -> Vec<f32>,
    directory: &Path,
) -> io::Result<()> {
    let mut file = File::open(gguf)?;
    let bytes = file.metadata()?.len();
    let parsed = Gguf::read(BufReader::new(&file), bytes).map_err(io::Error::other)?;
    let text = |value: serde_json::Value| value.to_string();
    std::fs::write(directory.join("config.json"), text(config(&parsed)))?;
    std::fs::write(directory.join("tokenizer.json"), text(tokenizer(&parsed)))?;
    std::fs::write(directory.join("tokenizer_config.json"), text(tokenizer_config(&parsed)))?;

    let (mut header, mut at) = (Map::new(), 0);
    for tensor in parsed.tensors() {
        let shape: Vec<u64> = tensor.dims.iter().rev().copied().collect();
        let end = at + 4 * tensor.elements();
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]});
        header.insert(theirs(&tensor.name), entry);
        at = end;
    }
    let mut out = BufWriter::new(File::create(directory.join("model.safetensors"))?);
    out.write_all(&with_header(&serde_json::Value::Object(header).to_string(), &[]))?;
    let heads = |key: &str| parsed.get_u64(key).map_err(io::Error::other);
    let queries = heads("llama.attention.head_count")?;
    let keys = heads("llama.attention.head_count_kv")?;
    for tensor in parsed.tensors() {
        let mut packed = vec![0; usize::try_from(tensor.bytes).map_err(io::Error::other)?];
        file.seek(SeekFrom::Start(tensor.start))?;
        file.read_exact(&mut packed)?;
        let values = unpack(tensor.kind, &packed);
        let width = tensor.dims[0] as usize;
        let rows = values.len() / width;
        let heads = match tensor.name.rsplit_once('.').map_or("", |(module, _)| module) {
            name if name.ends_with("attn_q") => queries as usize,
            name if name.ends_with("attn_k") => keys as usize,
            _ => 0,
        };
        for row in 0..rows {
            let from = rows.checked_div(heads).map_or(row, |head_rows| unpaired(row, head_rows));
            for value in &values[from * width..(from + 1) * width] {
                out.write_all(&value.to_le_bytes())?;
            }
        }
    }
    out.flush()
}

/// Where row `row` of a published head went: the first half to even rows, the second to odd ones.
fn unpaired(row: usize, head_rows: usize) -> usize {
    let (head, within) = (row / head_rows, row % head_rows);
    let half = head_rows / 2;
    head * head_rows + 2 * (within % half) + within / half
}

fn theirs(ours: &str) -> String {
    let named = match ours {
        "token_embd.weight" => "model.embed_tokens.weight".to_owned(),
        "output_norm.weight" => "model.norm.weight".to_owned(),
        "output.weight" => "lm_head.weight".to_owned(),
        other => other.replace("blk.", "model.layers."),
    };
    [
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("attn_output", "self_attn.o_proj"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ]
    .iter()
    .fold(named, |name, (ours, theirs)| name.replace(&format!(".{ours}."), &format!(".{theirs}.")))
}

fn config(gguf: &Gguf) -> serde_json::Value {
    let number = |key: &str| gguf.get_u64(&format!("llama.{key}")).unwrap_or_default();
    let float = |key: &str| -> f64 {
        let value = gguf.get_f32(&format!("llama.{key}")).unwrap_or_default();
        value.to_string().parse().unwrap_or_default()
    };
    json!({"architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
        "hidden_size": number("embedding_length"), "num_hidden_layers": number("block_count"),
        "num_attention_heads": number("attention.head_count"),
        "num_key_value_heads": number("attention.head_count_kv"),
        "intermediate_size": number("feed_forward_length"), "vocab_size": number("vocab_size"),
        "max_position_embeddings": number("context_length"),
        "rms_norm_eps": float("attention.layer_norm_rms_epsilon"), "rope_theta": float("rope.freq_base"),
        "tie_word_embeddings": gguf.find_tensor("output.weight").is_none()})
}

fn tokenizer(gguf: &Gguf) -> serde_json::Value {
    const CONTROL: i32 = 3;
    let kinds = gguf.get_array_i32("tokenizer.ggml.token_type").unwrap_or_default();
    let tokens = gguf.get_array_str("tokenizer.ggml.tokens");
    let tokens: Vec<&str> = tokens.map(|all| all.iter().collect()).unwrap_or_default();
    let each = || tokens.iter().zip(kinds).enumerate();
    let vocabulary: Map<_, _> =
        each().map(|(id, (token, _))| ((*token).to_owned(), json!(id))).collect();
    let special = each().filter(|(_, (_, kind))| **kind == CONTROL);
    let added: Vec<_> = special
        .map(|(id, (token, _))| json!({"id": id, "content": token, "special": true}))
        .collect();
    let merges = gguf.get_array_str("tokenizer.ggml.merges");
    let merges: Vec<&str> = merges.map(|all| all.iter().collect()).unwrap_or_default();
    json!({"model": {"type": "BPE", "vocab": vocabulary, "merges": merges}, "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}]},
        "added_tokens": added})
}

fn tokenizer_config(gguf: &Gguf) -> serde_json::Value {
    let spelt = |role: &str| {
        let id = gguf.get_u64(&format!("tokenizer.ggml.{role}_token_id")).ok()?;
        let tokens = gguf.get_array_str("tokenizer.ggml.tokens").ok()?;
        tokens.get(usize::try_from(id).ok()?).map(str::to_owned)
    };
    let template = match gguf.get("tokenizer.chat_template") {
        Some(Value::Str(template)) => Some(template.clone()),
        _ => None,
    };
    json!({"bos_token": spelt("bos"), "eos_token": spelt("eos"), "unk_token": spelt("unknown"),
        "pad_token": spelt("padding"), "add_bos_token": false, "chat_template": template})
}
