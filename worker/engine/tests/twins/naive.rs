//! The forward pass once more, in float64, with no cache, block, thread or kernel; families are told apart by name and not by
//! the engine's table.

use ollamamax_engine::quant::unpack;
use ollamamax_engine::synth::Synth;
use ollamamax_gguf::Gguf;

pub struct Naive {
    gguf: Gguf,
    pub file: Vec<u8>,
    synth: Synth,
    name: &'static str,
}

impl Naive {
    pub fn new(synth: &Synth) -> Self {
        let file = synth.to_gguf();
        let gguf = Gguf::parse(&file).expect("a valid file");
        Self { gguf, file, synth: synth.clone(), name: synth.architecture.name }
    }

    fn is(&self, names: &[&str]) -> bool {
        names.contains(&self.name)
    }

    fn float(&self, key: &str) -> Option<f64> {
        let key = format!("{}.{key}", self.name);
        self.gguf.optional(&key, Gguf::get_f32).expect("a float").map(f64::from)
    }

    fn number(&self, key: &str) -> Option<u32> {
        let key = format!("{}.{key}", self.name);
        self.gguf.optional(&key, Gguf::get_u32).expect("a number")
    }

    fn tensor(&self, name: &str) -> Vec<f64> {
        let info = self.gguf.tensor(name).expect("is there");
        let bytes = &self.file[info.start as usize..][..info.bytes as usize];
        unpack(info.kind, bytes).into_iter().map(f64::from).collect()
    }

    fn times(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let dot = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum();
        self.tensor(name).chunks_exact(x.len()).map(dot).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let weight = self.tensor(name);
        let normed = x.chunks_exact(weight.len()).flat_map(|x| {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            let factor = 1.0 / (mean + f64::from(1e-5f32)).sqrt();
            x.iter().zip(&weight).map(move |(x, w)| x * factor * w)
        });
        normed.collect()
    }

    /// Whether a layer's attention is limited.
    fn is_local(&self, layer: u32) -> bool {
        match self.name {
            "gemma2" => layer.is_multiple_of(2),
            "gemma3" => layer % 6 < 5,
            _ => true,
        }
    }

    /// Radians per position of a pair, and what cosine and sine are multiplied by.
    fn frequency(&self, layer: u32, pair: usize, context_tokens: u32) -> (f64, f64) {
        let width = f64::from(self.synth.rope_width);
        let factors = match (self.synth.rope_factors, self.is(&["phi3"])) {
            (false, _) => None,
            (true, false) => Some("rope_freqs.weight"),
            (true, true) if context_tokens > 256 => Some("rope_factors_long.weight"),
            (true, true) => Some("rope_factors_short.weight"),
        };
        let divisor = factors.map_or(1.0, |name| self.tensor(name)[pair]);
        let at = |base: f64| base.powf(-2.0 * pair as f64 / width) / divisor;
        if self.is(&["gemma3"]) && self.is_local(layer) {
            return (at(10_000.0), 1.0);
        }
        let base = self.float("rope.freq_base").expect("a base");
        let factor = self.float("rope.scaling.factor").unwrap_or(1.0);
        let magnitude = self.float("rope.scaling.attn_factor").unwrap_or(1.0);
        let key = format!("{}.rope.scaling.type", self.name);
        if !self.gguf.get_str(&key).is_ok_and(|kind| kind == "yarn") {
            return (at(base) / factor, magnitude);
        }
        // As the paper has it: how often the pair turns over the original context, between 1 and 32.
        let original = f64::from(self.number("rope.scaling.original_context_length").expect("it"));
        let edge = |turns: f64| {
            width * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * base.ln())
        };
        let (low, high) = (edge(32.0).floor().max(0.0), edge(1.0).ceil().min(width - 1.0));
        let ramp = ((pair as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
        let frequency = at(base) / factor * ramp + at(base) * (1.0 - ramp);
        (frequency, magnitude * (0.1 * factor.ln() + 1.0))
    }

    fn rotated(&self, layer: u32, x: &[f64], position: usize, context_tokens: u32) -> Vec<f64> {
        let half = self.synth.rope_width as usize / 2;
        let mut out = x.to_vec();
        for head in out.chunks_exact_mut(self.synth.head_width as usize) {
            for pair in 0..half {
                let (frequency, magnitude) = self.frequency(layer, pair, context_tokens);
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                let at = match self.is(&["llama"]) {
                    true => [2 * pair, 2 * pair + 1],
                    false => [pair, pair + half],
                };
                let [a, b] = at.map(|at| head[at] * magnitude);
                head[at[0]] = a * cos - b * sin;
                head[at[1]] = a * sin + b * cos;
            }
        }
        out
    }

    fn capped(&self, key: &str, value: f64) -> f64 {
        match self.float(key) {
            Some(cap) if cap > 0.0 => cap * (value / cap).tanh(),
            _ => value,
        }
    }

    fn attend(&self, query: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>]) -> Vec<f64> {
        let (width, heads) = (self.synth.head_width as usize, self.synth.heads as usize);
        let group = heads / self.synth.kv_heads as usize;
        let mut out = Vec::new();
        for head in 0..heads {
            let query = &query[head * width..][..width];
            let at = head / group * width;
            let score = |key: &Vec<f64>| -> f64 {
                let dot: f64 = key[at..at + width].iter().zip(query).map(|(k, q)| k * q).sum();
                let score = dot / (width as f64).sqrt();
                self.capped("attn_logit_softcapping", score)
            };
            let scores: Vec<f64> = keys.iter().map(|key| score(key).exp()).collect();
            let sum: f64 = scores.iter().sum();
            let mix = |i: usize| {
                let weighted = scores.iter().zip(values).map(|(s, value)| s / sum * value[at + i]);
                weighted.sum::<f64>()
            };
            out.extend((0..width).map(mix));
        }
        out
    }

    /// Queries, keys and values before rotation.
    fn projected(&self, layer: u32, normed: &[f64]) -> [Vec<f64>; 3] {
        let name = |part: &str| format!("blk.{layer}.{part}");
        if self.is(&["phi3"]) {
            let (q, kv) = (self.synth.heads, self.synth.kv_heads);
            let [q, kv] = [q, kv].map(|heads| (heads * self.synth.head_width) as usize);
            let all = self.times(&name("attn_qkv.weight"), normed);
            return [all[..q].to_vec(), all[q..q + kv].to_vec(), all[q + kv..].to_vec()];
        }
        ["q", "k", "v"].map(|part| {
            let mut out = self.times(&name(&format!("attn_{part}.weight")), normed);
            if self.is(&["qwen2"]) {
                add(&mut out, &self.tensor(&name(&format!("attn_{part}.bias"))));
            }
            if self.is(&["qwen3", "gemma3"]) && part != "v" {
                out = self.norm(&name(&format!("attn_{part}_norm.weight")), &out);
            }
            out
        })
    }

    fn gated(&self, layer: u32, normed: &[f64]) -> Vec<f64> {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let mut up = self.times(&name("ffn_up"), normed);
        let gate = match self.is(&["phi3"]) {
            true => {
                let second = up.split_off(up.len() / 2);
                std::mem::replace(&mut up, second)
            }
            false => self.times(&name("ffn_gate"), normed),
        };
        let activation = |x: f64| match self.name.starts_with("gemma") {
            true => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            false => x / (1.0 + (-x).exp()),
        };
        gate.into_iter().zip(up).map(|(gate, up)| activation(gate) * up).collect()
    }

    /// Logits after every token.
    pub fn score(&self, text: &[u32], context_tokens: u32) -> Vec<Vec<f64>> {
        let width = self.synth.width as usize;
        let embedding = self.tensor("token_embd.weight");
        let scale = if self.name.starts_with("gemma") { (width as f64).sqrt() } else { 1.0 };
        let embed = |&token: &u32| {
            let row = &embedding[token as usize * width..][..width];
            row.iter().map(|x| x * scale).collect()
        };
        let mut xs: Vec<Vec<f64>> = text.iter().map(embed).collect();
        let window = self.number("attention.sliding_window").unwrap_or(u32::MAX) as usize;
        for layer in 0..self.synth.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let post = |part: &str, x: Vec<f64>| match self.is(&["gemma2", "gemma3"]) {
                true => self.norm(&name(part), &x),
                false => x,
            };
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for (position, x) in xs.iter_mut().enumerate() {
                let normed = self.norm(&name("attn_norm"), x);
                let [query, key, value] = self.projected(layer, &normed);
                keys.push(self.rotated(layer, &key, position, context_tokens));
                values.push(value);
                let query = self.rotated(layer, &query, position, context_tokens);
                let local = self.is_local(layer);
                let first = if local { (position + 1).saturating_sub(window) } else { 0 };
                let attended = self.attend(&query, &keys[first..], &values[first..]);
                let delta = self.times(&name("attn_output"), &attended);
                add(x, &post("post_attention_norm", delta));
                let hidden = self.gated(layer, &self.norm(&name("ffn_norm"), x));
                let delta = self.times(&name("ffn_down"), &hidden);
                add(x, &post("post_ffw_norm", delta));
            }
        }
        let head = if self.synth.tied { "token_embd.weight" } else { "output.weight" };
        let capped = |logit: f64| self.capped("final_logit_softcapping", logit);
        let logits = |x: &Vec<f64>| {
            let logits = self.times(head, &self.norm("output_norm.weight", x));
            logits.into_iter().map(capped).collect()
        };
        xs.iter().map(logits).collect()
    }
}

/// Encoders: nothing of the above but matrices, heads and rotation is the same.
impl Naive {
    fn layer_norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let [weight, bias] = ["weight", "bias"].map(|part| self.tensor(&format!("{name}.{part}")));
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let deviation = (variance + f64::from(1e-5f32)).sqrt();
        let normed = x.iter().zip(weight.iter().zip(&bias));
        normed.map(|(x, (weight, bias))| (x - mean) / deviation * weight + bias).collect()
    }

    /// A product, with the bias that `bert` has everywhere.
    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let mut out = self.times(&format!("{name}.weight"), x);
        if self.is(&["bert"]) {
            add(&mut out, &self.tensor(&format!("{name}.bias")));
        }
        out
    }

    fn bent(&self, layer: u32, x: &[f64]) -> Vec<f64> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let up = self.linear(&name("ffn_up"), x);
        if self.is(&["bert"]) {
            return up.into_iter().map(|x| x * share_below(x)).collect();
        }
        let gate = self.linear(&name("ffn_gate"), x);
        gate.into_iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect()
    }

    /// The vector of a text, at unit length.
    pub fn embed(&self, text: &[u32]) -> Vec<f64> {
        let width = self.synth.width as usize;
        let row = |name: &str, at: usize| self.tensor(name)[at * width..][..width].to_vec();
        let mut xs: Vec<Vec<f64>> = Vec::new();
        for (position, &token) in text.iter().enumerate() {
            let mut x = row("token_embd.weight", token as usize);
            add(&mut x, &row("token_types.weight", 0));
            if self.is(&["bert"]) {
                add(&mut x, &row("position_embd.weight", position));
            }
            xs.push(self.layer_norm("token_embd_norm", &x));
        }
        for layer in 0..self.synth.layers {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let mut projected = [Vec::new(), Vec::new(), Vec::new()];
            for (position, x) in xs.iter().enumerate() {
                let [q, k, v] = match self.is(&["bert"]) {
                    true => ["attn_q", "attn_k", "attn_v"].map(|part| self.linear(&name(part), x)),
                    false => {
                        let all = self.times(&name("attn_qkv.weight"), x);
                        let third = |part: usize| all[part * width..][..width].to_vec();
                        let turned = |x: Vec<f64>| self.rotated(layer, &x, position, 0);
                        [turned(third(0)), turned(third(1)), third(2)]
                    }
                };
                for (all, one) in projected.iter_mut().zip([q, k, v]) {
                    all.push(one);
                }
            }
            let [queries, keys, values] = projected;
            for (x, query) in xs.iter_mut().zip(queries) {
                let attended = self.attend(&query, &keys, &values);
                add(x, &self.linear(&name("attn_output"), &attended));
                *x = self.layer_norm(&name("attn_output_norm"), x);
                let bent = self.bent(layer, x);
                add(x, &self.linear(&name("ffn_down"), &bent));
                *x = self.layer_norm(&name("layer_output_norm"), x);
            }
        }
        let mut vector = xs[0].clone();
        if self.number("pooling_type") == Some(1) {
            xs[1..].iter().for_each(|x| add(&mut vector, x));
        }
        let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
        vector.iter().map(|x| x / length).collect()
    }
}

/// The share of the normal distribution below a value: its density, times a series (Marsaglia, 2004).
fn share_below(x: f64) -> f64 {
    let (mut sum, mut term, mut n) = (x, x, 1.0);
    while term.abs() > 1e-18 && n < 400.0 {
        n += 2.0;
        term *= x * x / n;
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

fn add(x: &mut [f64], delta: &[f64]) {
    x.iter_mut().zip(delta).for_each(|(x, delta)| *x += delta);
}
