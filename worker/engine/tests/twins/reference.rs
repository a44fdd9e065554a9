//! Both paths against llama.cpp's logits for the same random models: an implementation that nobody here wrote.
//!
//! ```text
//! FAMILIES_OUT=/tmp/families cargo test -p ollamamax-engine --test twins every_family    writes the models, too
//! python worker/engine/tests/data/reference.py /tmp/families                             writes the numbers
//! ```

use super::{PATHS, load, options, score, worst};
use crate::families::{WINDOW, cases};
use ollamamax_engine::cpu::CpuOptions;
use ollamamax_gguf::GgmlType;
use serde_json::{Value, json};

const REFERENCE: &str = include_str!("../data/families.json");

fn text() -> Vec<u32> {
    super::tokens(45, 3)
}

/// Positions whose logits are kept: inside the window, past it, and the last.
const KEPT: [usize; 3] = [7, 30, 44];

#[test]
fn every_family_agrees_with_llama_cpp() {
    if let Some(folder) = std::env::var_os("FAMILIES_OUT") {
        write_families(folder.as_ref());
    }
    let reference: Value = serde_json::from_str(REFERENCE).expect("reference data");
    for case in cases(GgmlType::F32) {
        let Some(rows) = reference.get(case.name) else {
            // llama.cpp has no windows in llama models; the naive forward has.
            assert_eq!(case.name, "llama-window", "it has no reference");
            continue;
        };
        let rows: Vec<Vec<f64>> = serde_json::from_value(rows.clone()).expect("rows of logits");
        let numbers = rows.iter().flatten();
        let most = numbers.clone().fold(f64::MIN, |a, &b| a.max(b));
        let spread = most - numbers.fold(f64::MAX, |a, &b| a.min(b));
        let file = case.synth.to_gguf();
        for path in PATHS {
            let options = CpuOptions { context_tokens: case.context_tokens, ..options(path) };
            let logits = score(&mut load(&file, options), &text(), 45, &[0, 1, 2]);
            let kept = KEPT.map(|position| logits[position].clone());
            let off = worst(&kept, &rows) / spread;
            eprintln!("{} {path:?}: off by {off:.6} of the spread {spread:.2}", case.name);
            assert!(off < 1e-3, "{} {path:?}: off by {off} of the spread", case.name);
        }
    }
}

/// Writes the models that the reference is made from.
fn write_families(folder: &std::path::Path) {
    std::fs::create_dir_all(folder).expect("a folder");
    let mut contexts = serde_json::Map::new();
    for case in cases(GgmlType::F32) {
        let path = folder.join(format!("{}.gguf", case.name));
        std::fs::write(path, case.synth.to_gguf()).expect("a file");
        contexts.insert(case.name.to_owned(), case.context_tokens.into());
    }
    let task = json!({ "text": text(), "kept": KEPT, "window": WINDOW, "contexts": contexts });
    std::fs::write(folder.join("task.json"), task.to_string()).expect("a file");
}
