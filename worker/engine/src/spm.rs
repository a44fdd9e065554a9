//! SentencePiece vocabularies with scores (`tokenizer.ggml.model` is `llama`): of Llama 2, Mistral, Phi 3 and Gemma.
//!
//! ```text
//! " low er" -> spaces as U+2581 -> characters -> the neighbours whose union has the best score merge, again and again
//!                                              -> what is no token by itself is spelt in bytes, `<0xNN>`
//! ```
//!
//! The behaviour to match is llama.cpp's (`llm_tokenizer_spm`), which is SentencePiece's BPE (Kudo and Richardson, 2018).

use crate::vocabulary::{TokenKind, Vocabulary};
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

/// How these vocabularies spell a space.
pub(crate) const SPACE: &str = "\u{2581}";

/// The merger.
pub(crate) struct Spm {
    ids: HashMap<String, u32>,
    scores: Vec<f32>,
    unknown: Option<u32>,
    /// Whether a text begins with a space that it does not have.
    space_prefix: bool,
}

/// A part of the text: a character at first.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    /// 0 once it has merged into the one before.
    len: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that may merge; the order is which merges first.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pair {}

impl Spm {
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let unknown = (0u32..)
            .zip(&vocabulary.tokens)
            .find(|(id, _)| vocabulary.kind(*id) == TokenKind::Unknown);
        Self {
            ids: vocabulary.tokens.iter().cloned().zip(0u32..).collect(),
            scores: vocabulary.scores.clone(),
            unknown: unknown.map(|(id, _)| id),
            space_prefix: vocabulary.add_space_prefix.unwrap_or(true),
        }
    }

    /// Appends the tokens of a text that begins a prompt or follows a special token.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut spelt = if self.space_prefix { SPACE.to_owned() } else { String::new() };
        spelt.push_str(&text.replace(' ', SPACE));
        let mut symbols = characters(&spelt);
        let mut pairs = BinaryHeap::new();
        for right in 1..symbols.len() {
            self.consider(&spelt, &symbols, right - 1, right, &mut pairs);
        }
        while let Some(Pair { left, right, len, .. }) = pairs.pop() {
            let (a, b) = (symbols[left], symbols[right]);
            // One of them has merged with another meanwhile.
            if a.len == 0 || b.len == 0 || a.len + b.len != len {
                continue;
            }
            symbols[left] = Symbol { len, next: b.next, ..a };
            symbols[right].len = 0;
            if let Some(next) = b.next {
                symbols[next].previous = Some(left);
                self.consider(&spelt, &symbols, left, next, &mut pairs);
            }
            if let Some(previous) = a.previous {
                self.consider(&spelt, &symbols, previous, left, &mut pairs);
            }
        }
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            self.put(&spelt[symbol.start..symbol.start + symbol.len], out);
        }
    }

    fn consider(
        &self,
        text: &str,
        symbols: &[Symbol],
        left: usize,
        right: usize,
        pairs: &mut BinaryHeap<Pair>,
    ) {
        let (start, len) = (symbols[left].start, symbols[left].len + symbols[right].len);
        if let Some(&id) = self.ids.get(&text[start..start + len]) {
            let score = self.scores.get(id as usize).copied().unwrap_or_default();
            pairs.push(Pair { score, left, right, len });
        }
    }

    fn put(&self, symbol: &str, out: &mut Vec<u32>) {
        if let Some(&id) = self.ids.get(symbol) {
            return out.push(id);
        }
        let byte = |byte: u8| self.ids.get(&format!("<0x{byte:02X}>")).copied().or(self.unknown);
        out.extend(symbol.bytes().filter_map(byte));
    }
}

fn characters(text: &str) -> Vec<Symbol> {
    let count = text.chars().count();
    let symbol = |(index, (start, character)): (usize, (usize, char))| Symbol {
        start,
        len: character.len_utf8(),
        previous: index.checked_sub(1),
        next: (index + 1 < count).then_some(index + 1),
    };
    text.char_indices().enumerate().map(symbol).collect()
}
